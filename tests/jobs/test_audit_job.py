"""A takedown and an erasure after publication: what is live is searched, and whoever asks is told."""

import datetime
import json
from pathlib import Path

import polars as pl
import pytest
from small_road import SmallRoad
from toy_road import NOW, days_ago, history, listen, shard, table

from jobs import audit
from pipelines.publish import read_pointer
from pipelines.runner import load_manifest
from pipelines.tombstone_scan import AuditError, latest_tombstones, reached
from transforms.io.store import LocalStore
from transforms.shards import Shard, Task
from transforms.tombstone_scan import ScanFiles


def tombstone(entity: str, id_: str, days: float = 0.0) -> dict:
    return {"entity": entity, "id": id_, "reason": "legal", "effective_ts": days_ago(days)}


def scanned(folder: Path, place: str, name: str, rows: pl.DataFrame, *tombstones: dict) -> dict[str, int]:
    made = shard(folder, {"tombstone": table("tombstone", tombstones), name: rows})
    task = Task("t", 0, {"tombstone": ("tombstone.parquet",), place: (f"{name}.parquet",)})
    out = ScanFiles(NOW)(Shard(task, made.store))
    return {column: value for column, value in out.frame.to_dicts()[0].items() if column.endswith("hits")} | dict(
        out.counters
    )


def test_users_are_found_wherever_they_are_named(tmp_path):
    rows = table("history", [history(one, [listen("i")]) for one in ("u1", "u2", "u3")])
    known = tombstone("user", "u1"), tombstone("user", "u2", 31), tombstone("user", "u3", -1), tombstone("item", "u3")
    found = scanned(tmp_path, "behind/history/-", "history", rows, *known)
    assert found == {"user_hits": 2, "item_hits": 0, "overdue_hits": 1, "behind_hits": 2, "files": 1}


@pytest.fixture(scope="module")
def sets(small_road: SmallRoad) -> pl.DataFrame:
    store = LocalStore(str(small_road.root))
    files = load_manifest(store, read_pointer(store, "home").manifest).files
    return pl.concat([pl.read_parquet(store.local(file.path)) for file in files])


def written(folder: Path, *rows: dict) -> Path:
    """Write a raw folder of tombstones."""
    (folder / "tombstones").mkdir(parents=True)
    lines = [json.dumps(row | {"effective_ts": row["effective_ts"].isoformat()}) for row in rows]
    (folder / "tombstones" / "part-0.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_what_is_live_is_searched_for_what_must_be_gone(copy_road, sets, tmp_path, capsys):
    user = sets.filter(pl.col("record_key") != "*")["record_key"][0]
    item = sets["candidates"][0][0]["item_id"]
    slots = sets["candidates"].list.eval(pl.element().struct.field("item_id") == item).list.sum().sum()
    root, day = str(copy_road.root), (copy_road.date + datetime.timedelta(days=1)).isoformat()
    assert audit.main(["--root", root, "--date", day]) == 0
    shown = capsys.readouterr().out
    assert "live     candidate_set   home" in shown
    assert "behind   event" in shown
    raw = written(tmp_path / "raw", tombstone("user", user, 1), tombstone("item", item, 1))
    assert audit.main(["--root", root, "--date", day, "--raw", str(raw)]) == 1
    told = capsys.readouterr().err
    assert "live_hits" in told
    assert (
        "rows or slots of erased users and of items taken down are in what is live; run the latest date again" in told
    )
    (proof,) = (copy_road.root / "quarantine").rglob("manifest.json")
    evidence = pl.concat([pl.read_parquet(path) for path in proof.parent.glob("part-*.parquet")])
    home = evidence.filter(pl.col("reached") == "live", pl.col("qualifier") == "home")
    assert home["user_hits"].sum() == 1
    assert home["item_hits"].sum() == slots > 0
    named = evidence.filter(pl.col("user_hits") > 0)["dataset"].unique()
    assert {"candidate_set", "event", "history", "user_embedding"} <= set(named)


def test_where_nothing_is_live_or_it_is_gone_that_is_said(copy_road, tmp_path, capsys):
    with pytest.raises(AuditError, match=r"nothing is live under .*: there is nothing to scan"):
        reached(LocalStore(str(tmp_path / "empty")))
    with pytest.raises(AuditError, match=r"nothing is live under .*: there is nothing to scan"):
        latest_tombstones(LocalStore(str(tmp_path / "empty")))
    store = LocalStore(str(copy_road.root))
    live = load_manifest(store, read_pointer(store, "home").manifest)
    store.delete(live.files[0].path)
    with pytest.raises(AuditError, match=r"part-.* is live and gone: run its date again, then scan"):
        reached(store)
    assert audit.main(["--root", store.root]) == 1
    assert "is live and gone" in capsys.readouterr().err
