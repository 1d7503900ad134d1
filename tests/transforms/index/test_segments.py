"""An index is built by Beam from shards of items, and opened from its files."""

import dataclasses
import json
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pytest
from toy_road import item, offer_in, table

from pipelines.runner import run_beam
from schemas.catalogue import CONTRACTS
from schemas.hashing import shard_of
from schemas.models import EMBEDDING_DIM, INDEX, Space, SpaceMismatch
from transforms.index import ivf
from transforms.index.files import IndexMismatch, Terms, open_index
from transforms.index.segments import BuildIndex, Design, EncodeVectors, SampleVectors, train_once
from transforms.io.store import open_store
from transforms.io.tables import conform, write_parquet
from transforms.shards import Shard, Task, Workspace, staged_entries

SPACE = Space("encoder", "one", EMBEDDING_DIM, "cosine")
DESIGN = Design(SPACE, lists=16, segments=2, sampled=0.8, asked=0.2)
TERMS = Terms(SPACE, "code")
NUM = 1_500


def unit(seed: int, num: int) -> np.ndarray:
    """Return vectors around a hundred centres, of length 1."""
    centres = np.random.default_rng(0).standard_normal((100, EMBEDDING_DIM), dtype=np.float32)
    rng = np.random.default_rng(seed)
    found = centres[rng.integers(0, 100, num)] + 0.7 * rng.standard_normal((num, EMBEDDING_DIM), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


IDS = [f"i{number:04d}" for number in range(NUM)]
VECTORS = unit(1, NUM)
OFFERS = (None, [offer_in("SE")], [offer_in("NO"), offer_in("SE")])


def embedded(key: str, ids: list[str], vectors: np.ndarray) -> pl.DataFrame:
    rows = pl.DataFrame({key: ids, "space_id": SPACE.id, "made_from": 1})
    return rows.with_columns(pl.Series("vector", vectors, pl.Array(pl.Float32, EMBEDDING_DIM)))


TABLES = {
    "item_embedding": (embedded("item_id", IDS, VECTORS), "item_id"),
    "user_embedding": (embedded("user_id", [f"u{n}" for n in range(300)], unit(2, 300)), "user_id"),
    "item": (table("item", [item(one, availability=OFFERS[n % 3]) for n, one in enumerate(IDS)]), "item_id"),
}


def tasks_of(folder: Path, num_shards: int) -> list[Task]:
    """Write the tables in shards, their rows in no order."""
    store, tasks = open_store(str(folder)), []
    for number in range(num_shards):
        for name, (rows, key) in TABLES.items():
            own = rows.filter(pl.Series(shard_of(rows[key].to_arrow(), num_shards) == number)).reverse()
            store.put(write_parquet(conform(own, CONTRACTS[name])), f"{name}-{number}.parquet")
        tasks.append(Task(f"{number:05d}", number, {name: (f"{name}-{number}.parquet",) for name in TABLES}))
    return tasks


def build(folder: Path, tasks: list[Task], design: Design = DESIGN) -> list[dict]:
    space = Workspace(str(folder), "staging/x", "x", INDEX.name, "index", "code", 2)
    run_beam(tasks, BuildIndex(space, design), [])
    return staged_entries(space.store, space.staging)


@pytest.fixture(scope="module", autouse=True)
def _lists_are_asked():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("EXACT_BELOW", 100), ("EXACT_SHARE", 0), ("PROBED_SHARE", 0.6)):
            patch.setattr(ivf, name, value)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("index")


@pytest.fixture(scope="module")
def entries(folder) -> list[dict]:
    return build(folder, tasks_of(folder, 3))


@pytest.fixture
def records(folder, entries) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(folder / f"staging/x/part-{one['name']}.parquet") for one in entries])


@pytest.fixture
def files(folder, entries) -> list[str]:
    names = [name for one in entries for name in one["artifacts"]]
    return [str(folder / "staging/x/artifacts" / name) for name in names]


def test_whatever_the_shards_and_their_order_the_bytes_are_the_same(entries, tmp_path):
    others = build(tmp_path, tasks_of(tmp_path, 1)[::-1])
    assert [one["artifacts"] for one in others] == [one["artifacts"] for one in entries]
    assert [one["file"] for one in others] == [one["file"] for one in entries]
    assert [one["counters"] for one in others] == [one["counters"] for one in entries]


def test_segments_are_runs_of_the_sorted_ids_and_give_the_index_of_a_direct_build(folder, records, files):
    rows = records.sort("segment")["num_rows"].to_list()
    assert (len(rows), sum(rows)) == (2, NUM)
    assert min(rows) > 0.4 * NUM
    staged = (folder / "staging/x/trained.faiss").read_bytes()
    trained = faiss.deserialize_index(np.frombuffer(staged, np.uint8))
    direct = faiss.clone_index(trained)
    direct.add(VECTORS)
    packed = faiss.IndexIVFPQFastScan(direct)
    packed.implem = 11
    index = open_index(records, files, pl.Series(IDS), TERMS)
    assert faiss.serialize_index(index._lists).tobytes() == faiss.serialize_index(packed).tobytes()
    np.testing.assert_array_equal(index.take(np.arange(NUM)), VECTORS)


def test_what_is_counted_says_that_all_are_there_and_found(entries):
    (judged,) = (one for one in entries if one["name"] == "judged")
    counters = {
        name: sum(one["counters"].get(name, 0) for one in entries)
        for name in judged["counters"] | {"listed": 0, "ids": 0}
    }
    assert counters["listed"] == NUM
    assert (counters["ids"] - counters["ids_given"]) % 2**64 == 0
    assert counters["ids_given"] > 0
    assert counters["padded"] == 0
    assert counters["itself"] == counters["asked_itself"] > 300
    assert 0.85 < counters["hits"] / counters["wanted"] <= 1
    assert counters["wanted"] == counters["asked_itself"] * 100
    assert counters["slices"] == 2
    assert counters["wanted[SE track]"] == counters["wanted[NO track]"] == 50 * 100


def test_a_task_that_was_killed_is_taken_up(folder, entries):
    """What is trained and encoded is not again: the inputs are gone."""
    store = open_store(str(folder))
    before = {
        name: (folder / f"staging/x/artifacts/{name}").read_bytes() for one in entries for name in one["artifacts"]
    }
    store.delete("staging/x/done/00001.json")
    store.delete("staging/x/done/judged.json")
    tasks = [Task(f"{n:05d}", n, dict.fromkeys(TABLES, ("gone",))) for n in range(3)]
    assert build(folder, tasks) == entries
    assert {name: (folder / f"staging/x/artifacts/{name}").read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space_id": "other"}, rf"has space other, but is asked for with space {SPACE.id}: run the date again"),
        ({"metric": "inner_product"}, "has metric inner_product, but is asked for with metric cosine"),
        ({"code_version": "old"}, "has code version old, but is asked for with code version code"),
        ({"ids_digest": "abc"}, "has ids abc, but is asked for with ids [0-9a-f]{32}"),
        ({"segment": 3}, r"has segments \[3, 3\], but is asked for with segments \[0, 1\]"),
    ],
)
def test_an_index_of_something_else_is_not_opened_and_both_are_named(records, files, change, message):
    with pytest.raises(IndexMismatch, match=message):
        open_index(
            records.with_columns(**{name: pl.lit(v) for name, v in change.items()}), files, pl.Series(IDS), TERMS
        )


def test_an_index_of_fewer_or_other_items_is_not_opened(records, files):
    with pytest.raises(IndexMismatch, match="has items 1500, but is asked for with items 1501"):
        open_index(records, files, pl.Series([*IDS, "z"]), TERMS)
    with pytest.raises(IndexMismatch, match="has ids"):
        open_index(records, files, pl.Series(["a", *IDS[1:]]), TERMS)


def test_a_file_that_is_missing_broken_or_anothers_is_not_opened(records, files, tmp_path):
    codes, vectors = (next(one for one in files if one.endswith(name)) for name in ("00000.codes", "00001.vectors"))
    with pytest.raises(IndexMismatch, match=r"the file 00001.vectors of the index is missing or broken"):
        open_index(records, [one for one in files if one != vectors], pl.Series(IDS), TERMS)
    broken = tmp_path / "00000.codes"
    broken.write_bytes(Path(codes).read_bytes()[:-9])
    with pytest.raises(IndexMismatch, match=r"the file 00000.codes of the index is missing or broken"):
        open_index(records, [str(broken), *(one for one in files if one != codes)], pl.Series(IDS), TERMS)
    broken.write_bytes(Path(codes.replace("00000", "00001")).read_bytes())
    with pytest.raises(IndexMismatch, match=r"00000.codes of the index holds [\d,]+ vectors, its record says [\d,]+"):
        open_index(records, [str(broken), *(one for one in files if one != codes)], pl.Series(IDS), TERMS)


def test_vectors_of_another_space_are_not_indexed(folder, entries):
    shard = Shard(Task("x", 0, {name: (f"{name}-0.parquet",) for name in TABLES}), open_store(str(folder)))
    other = dataclasses.replace(DESIGN, space=Space("encoder", "two", EMBEDDING_DIM, "cosine"))
    for work in (SampleVectors(other), EncodeVectors("staging/x", other)):
        with pytest.raises(SpaceMismatch, match="rows of item_embedding are in the space"):
            work(shard)


def test_training_sees_the_sample_in_the_order_of_ids_and_settles_edges_and_markets(folder, entries):
    layout = json.loads((folder / "staging/x/trained.json").read_bytes())
    assert layout["markets"] == ["NO", "SE"]
    assert IDS[600] < layout["edges"][0] < IDS[900]
    space = Workspace(str(folder), "staging/empty", "x", INDEX.name, "index", "code")
    with pytest.raises(ValueError, match="there are none: embed items first"):
        train_once([], space, DESIGN)
