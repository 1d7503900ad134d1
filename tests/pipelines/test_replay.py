"""Sets that are made twice: in bulk, and again as the stream makes them."""

import dataclasses
import functools

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from toy_manifests import results, sets

from pipelines.live import live_on, open_home
from pipelines.runner import load_manifest
from schemas.catalogue import CONTRACTS
from transforms import sources as table_sources
from transforms.io.store import open_store
from transforms.model_bundle import ModelBundle
from transforms.recommend import Recommend
from transforms.replay import DIFFER, REPLAYED, VECTORS_DIFFER, Replayed, differing, sample
from transforms.retrieve import retrieve_users
from transforms.shards import Shard, Task

SOME = 40


@pytest.fixture(scope="module")
def home(small_road, tmp_path_factory):
    store = open_store(str(small_road.root))
    return open_home(store, tmp_path_factory.mktemp("home"), live_on(store, "home"))


@pytest.fixture(scope="module")
def given(home, tmp_path_factory) -> dict[str, tuple[str, ...]]:
    """Return the inputs of a task whose shard is of 40 users, their proposals among them."""
    folder, store = tmp_path_factory.mktemp("inputs"), home.bundle.shard.store
    known = dict(home.bundle.shard.task.inputs)
    vectors = known["item_embedding"][0].replace("item_embedding", "user_embedding").rsplit("/run=", 1)[0]
    known["user_embedding"] = tuple(path for path in store.list(vectors) if path.endswith(".parquet"))
    known["calibration"] = known["calibration_home"]
    shard = Shard(Task("all", 0, known), store)
    users = shard.read("user_embedding", ["user_id"])["user_id"].sort().head(SOME)
    for name in ("user", "history", "user_embedding"):
        shard.read(name, None, pl.col("user_id").is_in(users.implode())).write_parquet(folder / f"{name}.parquet")
        known[name] = (str(folder / f"{name}.parquet"),)
    found = retrieve_users(
        Shard(Task("some", 0, known), store), home.sources, home.policy, home.bundle.instant, opens(home)
    )
    found.frame.write_parquet(folder / "proposal.parquet")
    return known | {"proposal": (str(folder / "proposal.parquet"),)}


def opens(home) -> functools.partial:
    one = home.bundle
    return functools.partial(ModelBundle, space=one.space, instant=one.instant, code_version=one.code_version)


def replayed(home, given, **changes) -> dict[str, int]:
    recommend = Recommend(
        home.policy, home.bundle.instant, dict(home.sources) | dict(home.group_sources), home.provenance
    )
    work = dataclasses.replace(Replayed(recommend, home.sources, opens(home), SOME), **changes)
    found = work(Shard(Task("some", 0, given), home.bundle.shard.store))
    assert found.frame.num_rows == SOME
    return {name: found.counters[name] for name in (REPLAYED, DIFFER, VECTORS_DIFFER)}


def test_what_is_made_again_is_the_same_and_a_tenth_of_few_is_made_again(home, given):
    assert replayed(home, given) == {REPLAYED: SOME // 10, DIFFER: 0, VECTORS_DIFFER: 0}
    assert replayed(home, given, most=1)[REPLAYED] == 1


def test_the_road_counts_what_it_made_again(small_road, home):
    made = load_manifest(home.bundle.shard.store, live_on(home.bundle.shard.store, "home").pointer.manifest)
    assert made.counters[REPLAYED] >= made.num_shards
    assert (made.counters[DIFFER], made.counters[VECTORS_DIFFER]) == (0, 0)
    assert any(check.name == "replay_parity" and check.outcome == "passed" and check.of for check in made.checks)


@pytest.mark.parametrize("turn", ["others", "noise"])
def test_a_vector_that_is_not_of_its_history_is_found(home, given, tmp_path, monkeypatch, turn):
    monkeypatch.setattr("transforms.replay.SHARE", 1.0)
    stored = pl.read_parquet(given["user_embedding"])
    vectors = stored["vector"].to_numpy()
    changed = np.roll(vectors, 1, axis=0) if turn == "others" else vectors + np.float32(1e-7)
    stored.with_columns(vector=pl.Series(changed, dtype=stored.schema["vector"])).write_parquet(
        tmp_path / "kept.parquet"
    )
    kept = {**given, "user_embedding": (str(tmp_path / "kept.parquet"),)}
    counted = replayed(home, kept)
    assert counted[VECTORS_DIFFER] == (SOME if turn == "others" else 0)


def test_a_source_that_answers_one_user_otherwise_than_many_is_found(home, given, monkeypatch):
    """Planted: what is asked of fewer than all loses the best of it."""
    monkeypatch.setattr("transforms.replay.SHARE", 0.9)

    def careless(audience, bundle):
        found = table_sources.co_listen(audience, bundle)
        return (
            found if audience.keys.height == SOME else found.filter(pl.col("raw_score") < found["raw_score"].median())
        )

    co_listen = dataclasses.replace(home.sources["home.co_listen"], propose=careless)
    counted = replayed(home, given, sources={**home.sources, "home.co_listen": co_listen})
    assert counted[REPLAYED] * 0.5 < counted[DIFFER] <= counted[REPLAYED]


def test_sets_differ_in_their_items_and_in_their_order():
    schema = CONTRACTS["candidate_set"].schema
    of_key = {"a": ["i", "j"], "b": ["i", "j"], "c": [], "d": ["i"]}
    again = {"a": ["i", "j"], "b": ["j", "i"], "c": []}

    def made(items: dict[str, list[str]]) -> pa.Table:
        rows = [{"record_key": key, "candidates": [{"item_id": one} for one in own]} for key, own in items.items()]
        return pa.Table.from_pylist(rows, pa.schema([schema.field("record_key"), schema.field("candidates")]))

    assert differing(made(of_key), made(again)) == 2
    assert differing(made({}), made({})) == 0


def test_the_sample_is_the_same_whoever_else_is_there():
    keys = pa.chunked_array([[f"user-{n}" for n in range(1_000)]])
    few = sample(keys, 10).to_pylist()
    assert len(few) == 10
    assert set(few) <= set(sample(keys, 50).to_pylist())
    assert len(sample(keys, 1_000)) == 100
    assert sample(keys.slice(0, 0), 10).to_pylist() == []


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ({"replayed": 1_000, "replayed_sets_differ": 1, "replayed_vectors_differ": 1}, "passed"),
        ({"replayed": 1_000, "replayed_sets_differ": 2, "replayed_vectors_differ": 0}, "failed"),
        ({"replayed": 1_000, "replayed_sets_differ": 0, "replayed_vectors_differ": 2}, "failed"),
        ({"replayed": 1_000, "replayed_sets_differ": 0}, "broken"),
    ],
)
def test_sets_that_are_others_when_made_again_are_not_published(counters, expected):
    made = dataclasses.replace(sets(**counters), qualifier="home")
    found = results(CONTRACTS["candidate_set"], made, sets())["replay_parity"]
    assert (found.outcome, found.severity) == (expected, "critical")
