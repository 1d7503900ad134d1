"""Embedding shards: who is computed, who is kept, and that it does not show."""

import dataclasses

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from toy_road import history, item, listen, table

from schemas.catalogue import CONTRACTS
from schemas.models import EMBEDDING_DIM, Space, SpaceMismatch
from transforms.devices import GPU
from transforms.embed.encoder_model import EncoderSettings, fit_encoder
from transforms.embed.inference import EmbedBatches, EmbedShards
from transforms.embed.interactions import from_lists
from transforms.embed.language import TEXT_MODEL
from transforms.embed.text import item_features
from transforms.embed.training_terms import Examples, TrainingSettings
from transforms.embed.vectors import (
    ITEMS,
    USERS,
    Batch,
    EncoderFiles,
    MoreThanPlanned,
    demand_as_planned,
    finish_batch,
    read_batch,
    unit,
)
from transforms.embed.weights import pack
from transforms.io.store import open_store
from transforms.io.tables import conform, write_parquet
from transforms.shards import Shard, Task, Workspace, staged_entries

FILES = EncoderFiles("m.safetensors", ("vocabulary.parquet",))
SPACE = Space("encoder", "one", EMBEDDING_DIM, "cosine")
NAMES = [f"i{number:02d}" for number in range(50)]


def items(changed: int | None = None) -> pl.DataFrame:
    rows = [item(name, title=f"song {number % 7} {name}", genres=["rock"]) for number, name in enumerate(NAMES)]
    if changed is not None:
        rows[changed]["title"] = "another song altogether"
    return table("item", [*rows, item("gone", deleted_at=None, rec_eligible=False)])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with the weights and the vocabulary of a model of all items but the last."""
    store = open_store(str(tmp_path_factory.mktemp("root")))
    known = NAMES[:-1]
    rows = from_lists([[n % 49, (n + 1) % 49, (n + 2) % 49] for n in range(60)], len(known))
    features = item_features(items().filter(pl.col("item_id").is_in(known)))
    settings = EncoderSettings(layers=1, scale=14.0, training=TrainingSettings(epochs=1))
    store.write_bytes(
        "m.safetensors", pack(fit_encoder(Examples(rows), features, settings, 0).to_arrays(), {TEXT_MODEL: ""})
    )
    numbered = table("vocabulary", [{"item_id": name, "number": n, "positives": 1} for n, name in enumerate(known)])
    store.put(write_parquet(conform(numbered, CONTRACTS["vocabulary"])), "vocabulary.parquet")
    return store


@pytest.mark.parametrize(("anew", "before", "stopped"), [(1_600, True, True), (1_500, True, False), (3_000, False, False),
                                                         (900, True, False)])  # fmt: skip
def test_a_run_that_would_cost_many_times_its_plan_is_stopped_before_it_is_spent(anew, before, stopped):
    """A delivery rewrote the titles of a catalogue of 3,000, or of 1,000: half of them are planned at the most."""
    rows = 1_000 if anew == 900 else 3_000
    whole = table("item", [item(f"i{n:04d}") for n in range(rows)])
    task = Task("00003", 3, {"item_embedding": ("earlier.parquet",) if before else ()})
    batch = Batch(task, whole[:anew], whole[anew:])
    if stopped:
        with pytest.raises(
            MoreThanPlanned, match=r"1,600 of 3,000 rows of item shard 00003 changed .* raise most_anew"
        ):
            demand_as_planned(batch, ITEMS, 0.5)
    else:
        assert demand_as_planned(batch, ITEMS, 0.5) is batch


def test_embedding_asks_for_the_plan_of_items(root, monkeypatch):
    monkeypatch.setattr("transforms.embed.vectors.LEAST_PLANNED", 3)
    source = put(root, "item", items(), "rewritten-item.parquet")
    kept = embedded(root, "planned", ITEMS, items()[:10])[0]
    before = put(root, "item_embedding", kept, "planned-before.parquet")
    space = Workspace(root.root, "staging/stopped", "stopped", "item_embedding", "embed", "code")
    task = Task("00000", 0, {"item": (source,), "item_embedding": (before,)})
    with pytest.raises(MoreThanPlanned, match="40 of 50 rows of item"), beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([task]) | EmbedShards(space, ITEMS, SPACE, FILES, most_anew=0.5)


def put(store, name: str, rows: pl.DataFrame, path: str) -> str:
    store.put(write_parquet(conform(rows, CONTRACTS[name])), path)
    return path


def embedded(store, run: str, what, rows: pl.DataFrame, before: str | None = None) -> tuple[pl.DataFrame, dict]:
    """Embed one shard the way the stage does; return the rows and the counters."""
    source = put(store, what.dataset, rows, f"{run}-{what.dataset}.parquet")
    task = Task("00000", 0, {what.dataset: (source,), what.embedding: (before,) if before else ()})
    space = Workspace(store.root, f"staging/{run}", run, what.embedding, "embed", "code")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([task]) | EmbedShards(space, what, SPACE, FILES)
    (entry,) = staged_entries(store, space.staging)
    return pl.read_parquet(store.local(f"staging/{run}/part-00000.parquet")), entry["counters"]


def test_a_day_later_what_changed_is_computed_and_the_bytes_are_those_of_a_whole_run(root):
    first, counted = embedded(root, "first", ITEMS, items())
    assert first["item_id"].to_list() == NAMES  # not what may not be recommended
    assert counted["computed"] == 50
    again, counted = embedded(root, "again", ITEMS, items(changed=3), "staging/first/part-00000.parquet")
    assert (counted["computed"], counted["kept"]) == (1, 49)
    whole, counted = embedded(root, "whole", ITEMS, items(changed=3))
    assert counted["computed"] == 50
    assert again.equals(whole)
    assert not again.equals(first)


def test_vectors_have_length_one_and_a_new_item_has_one(root):
    found, counted = embedded(root, "unit", ITEMS, items())
    lengths = np.linalg.norm(found["vector"].to_numpy(), axis=1)
    assert lengths == pytest.approx(np.ones(50), abs=1e-5)
    assert (counted["not_unit"], counted["not_finite"], counted["without"]) == (0, 0, 0)


def test_users_are_embedded_by_what_they_listened_to_and_without_any_known_item_not_at_all(root):
    rows = [history("ann", [listen("i00", 2), listen("i01", 1)]), history("bob", [listen("nowhere", 1)])]
    found, counted = embedded(root, "users", USERS, table("history", rows))
    assert found["user_id"].to_list() == ["ann"]
    assert counted["without"] == 1


def test_vectors_of_another_space_are_not_kept(root):
    first, _ = embedded(root, "other", ITEMS, items())
    stale = first.with_columns(pl.lit("another").alias("space_id"))
    path = put(root, "item_embedding", stale, "stale.parquet")
    _, counted = embedded(root, "anew", ITEMS, items(), path)
    assert counted["computed"] == 50


def test_vectors_of_another_dimension_are_refused(root, tmp_path):
    source = put(root, "item", items(), "dim.parquet")
    batch = read_batch(Shard(Task("t", 0, {"item": (source,)}), root), ITEMS, SPACE)
    assert isinstance(batch, Batch)
    with pytest.raises(SpaceMismatch, match=r"\(3 dimensions, cosine\).*\(64 dimensions, cosine\)"):
        finish_batch(batch, np.ones((50, 3), np.float32), ITEMS, SPACE)


def test_a_job_that_asks_for_a_gpu_and_finds_none_fails(root, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    handler = EmbedBatches(root.root, dataclasses.replace(FILES, device=GPU), ITEMS)
    with pytest.raises(RuntimeError, match="'cuda', but torch finds no CUDA device"):
        handler.load_model()


def test_what_has_no_length_keeps_none():
    assert unit(np.array([[3, 4], [0, 0]], np.float32)).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


def test_rows_at_once_do_not_matter(root, monkeypatch):
    whole, _ = embedded(root, "at-once", ITEMS, items())
    monkeypatch.setattr("transforms.embed.inference.ROWS_AT_ONCE", 7)
    few, _ = embedded(root, "few", ITEMS, items())
    assert few.equals(whole)
