import gc
import os
import time

import numpy as np
import polars as pl
import pytest
from toy_road import item, table

from schemas.catalogue import CONTRACTS
from schemas.hashing import mix_text, shard_of
from schemas.inputs import ITEM
from transforms.io.store import Altered, file_digest, open_store
from transforms.io.tables import conform, write_parquet
from transforms.io.temporary import KEPT_S
from transforms.retrieve import ShardBundle
from transforms.shards import Shard, Task
from transforms.stream.keyed import KeyedTable, sweep_tables

ITEMS = [item(f"i{n:03d}", f"a{n % 7}", show_id=None if n % 3 else f"show{n % 5}") for n in range(200)]


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("keyed")))
    rows = table("item", ITEMS).sort("item_id")
    number = pl.Series(shard_of(rows["item_id"].to_arrow(), 3))
    for one in range(3):
        store.put(write_parquet(conform(rows.filter(number == one), ITEM)), f"part-{one}.parquet")
    return Shard(Task("keyed", 0, {"item": tuple(f"part-{one}.parquet" for one in range(3))}), store)


def opened(shard, column, folder):
    return KeyedTable.open(CONTRACTS["item"], column, shard.paths("item"), folder)


@pytest.fixture(params=[0, 2**27], ids=["apart", "together"], autouse=True)
def _one_file_or_more(request, monkeypatch):
    monkeypatch.setattr("transforms.stream.keyed.TOGETHER", request.param)


@pytest.mark.parametrize("column", ["item_id", "show_id"])
@pytest.mark.parametrize(
    "wanted", [["i003"], [f"i{n:03d}" for n in range(0, 200, 3)], ["show1", "show3", None], ["nobody"], [], [None]]
)
def test_a_look_up_finds_what_a_scan_finds(shard, tmp_path, column, wanted):
    ids = pl.Series(wanted, dtype=pl.String)
    for columns in (None, ["title", "item_id"], ["show_id"]):
        found = opened(shard, column, tmp_path).lookup(ids, columns)
        scanned = ShardBundle(shard).lookup("item", column, ids, columns)
        order = [name for name in (columns or scanned.columns) if scanned.schema[name] == pl.String]
        assert found.sort(order).equals(scanned.sort(order))
        if columns is None:
            assert all(one["item_id"].is_sorted() for one in found.partition_by("show_id", "item_id"))


def test_files_are_written_once_and_anew_when_what_they_are_of_changes(shard, tmp_path):
    table_ = opened(shard, "item_id", tmp_path)
    assert table_.lookup(pl.Series(["i003"])).height == 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    opened(shard, "item_id", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    path = shard.paths("item")[0]
    os.utime(path, ns=(0, os.stat(path).st_mtime_ns + 1_000_000))
    assert opened(shard, "item_id", tmp_path).lookup(pl.Series(["i003"])).height == 1
    assert len(list(tmp_path.iterdir())) == len(before) + 1


@pytest.mark.parametrize("few", [2, 8])
def test_only_the_segment_of_an_id_is_searched_where_there_are_many(shard, tmp_path, monkeypatch, few):
    monkeypatch.setattr("transforms.stream.keyed._FEW", few)
    monkeypatch.setattr("transforms.stream.keyed.TOGETHER", 0)
    found = opened(shard, "item_id", tmp_path)
    assert found.routed == (few == 2)
    assert found.lookup(pl.Series([one["item_id"] for one in ITEMS])).height == len(ITEMS)
    assert not opened(shard, "show_id", tmp_path).routed


def test_what_no_table_is_open_on_is_swept_and_what_is_mapped_stays_whole(shard, tmp_path):
    before, wanted = opened(shard, "item_id", tmp_path), pl.Series(["i003"])
    old, path = set(tmp_path.iterdir()), shard.paths("item")[0]
    expected = before.lookup(wanted)
    os.utime(path, ns=(0, os.stat(path).st_mtime_ns + 1_000_000))
    after = opened(shard, "item_id", tmp_path)
    left, young = tmp_path / "segue-tmp-killed", tmp_path / "segue-tmp-at-work"
    for one, age in ((left, KEPT_S + 60), (young, 60)):
        one.touch()
        os.utime(one, (time.time() - age,) * 2)
    assert sweep_tables(tmp_path) == 1, "one bundle is still served, the other about to be"
    assert not left.exists()
    assert old < set(tmp_path.iterdir())
    for one in tmp_path.glob("*.arrow"):  # another process swept
        one.unlink()
    assert before.lookup(wanted).equals(expected)
    del before
    gc.collect()
    assert sweep_tables(tmp_path) == 0
    del after
    gc.collect()
    again = opened(shard, "item_id", tmp_path)
    assert again.lookup(wanted).equals(expected), "who still asks for it writes it again"
    written = set(tmp_path.glob("*.arrow"))
    del again
    gc.collect()
    assert sweep_tables(tmp_path) == len(written)
    assert list(tmp_path.iterdir()) == [young]


def test_a_file_that_is_not_whole_is_written_anew(shard, tmp_path):
    expected = opened(shard, "item_id", tmp_path).lookup(pl.Series(["i003"]))
    for size in (0, 7, 1_000):
        gc.collect()
        for one in tmp_path.iterdir():
            os.truncate(one, size)
        assert opened(shard, "item_id", tmp_path).lookup(pl.Series(["i003"])).equals(expected)


def test_a_writer_that_ends_in_between_leaves_nothing_that_is_trusted(shard, tmp_path, monkeypatch):
    order, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: order.append("on disk") or sync(handle))
    monkeypatch.setattr(os, "replace", lambda *_: order.append("named") or pytest.fail("ends here"))
    with pytest.raises(pytest.fail.Exception, match="ends here"):
        opened(shard, "item_id", tmp_path)
    assert order == ["on disk", "named"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_another_digest_is_refused_before_it_is_written_anew(shard, tmp_path):
    paths = shard.paths("item")
    right = {path: file_digest(path) for path in paths}
    wrong = right | {paths[1]: "0" * 64}
    with pytest.raises(Altered, match=f"part-1.parquet has sha256 {right[paths[1]]}, committed was {'0' * 64}"):
        KeyedTable.open(CONTRACTS["item"], "item_id", paths, tmp_path, wrong)
    assert KeyedTable.open(CONTRACTS["item"], "item_id", paths, tmp_path, right).lookup(pl.Series(["i003"])).height == 1


def test_ids_of_one_hash_are_told_apart(shard, tmp_path, monkeypatch):
    monkeypatch.setattr("transforms.stream.keyed.mix_text", lambda ids: shard_of(ids, 2).astype("uint64"))
    wanted = [f"i{n:03d}" for n in range(7)]
    found = opened(shard, "item_id", tmp_path).lookup(pl.Series(wanted), ["item_id"])
    assert sorted(found["item_id"]) == wanted


def test_an_id_that_is_not_there_is_not_taken_for_one_of_its_hash(shard, tmp_path, monkeypatch):
    table_ = opened(shard, "item_id", tmp_path)
    assert all(segment.unique for segment in table_.segments)
    hashes = mix_text(pl.Series(["i003"]).to_arrow())
    monkeypatch.setattr("transforms.stream.keyed.mix_text", lambda ids: np.repeat(hashes, len(ids)))
    for wanted, found in ((["nobody"], []), (["nobody", "i003"], ["i003"])):
        assert table_.lookup(pl.Series(wanted), ["item_id"])["item_id"].to_list() == found


def test_a_dataset_of_no_files_holds_nothing(tmp_path):
    empty = KeyedTable.open(CONTRACTS["item"], "item_id", [], tmp_path)
    assert empty.lookup(pl.Series(["i003"]), ["item_id"]).rows() == []
