"""Which run a slow change is measured against, and what of it is put beside today's counts."""

import dataclasses
import datetime
import json
from pathlib import Path

import polars as pl

from pipelines.batch import record_path, weeks_ago
from pipelines.recommend import concentration
from schemas.manifest import Manifest
from transforms.io.store import LocalStore

TODAY = datetime.date(2026, 3, 31)
MADE = Manifest(
    dataset="exposure", contract_version="1.0.0", fingerprint="f", stage="exposure", qualifier="home", run="r", date="",
    num_shards=1, code_version="c", config={}, inputs=(), files=(), rejection_files=(), rows_in=0, rows_out=0, rejected={},
    counters={}, statistics={}, checks=(),
)  # fmt: skip


def ran(store: LocalStore, days: int, name: str = "exposure/home") -> None:
    """Leave a good run of so many days ago."""
    made = dataclasses.replace(MADE, date=(TODAY - datetime.timedelta(days=days)).isoformat())
    store.write_bytes(made.path, made.to_json().encode())
    store.write_bytes(record_path(made.date), json.dumps({"manifests": {name: made.path}}).encode())


def test_it_is_the_latest_of_four_to_six_weeks_before(tmp_path: Path):
    store = LocalStore(str(tmp_path))
    for days in (1, 27, 43):
        ran(store, days)
    assert weeks_ago(store, TODAY, "exposure/home") is None
    for days in (42, 29):
        ran(store, days)
    ran(store, 28, "exposure/now_playing")
    found = weeks_ago(store, TODAY, "exposure/home")
    assert found is not None
    assert found.date == "2026-03-02"


def test_what_was_counted_then_stands_beside_what_is_counted_now(tmp_path: Path):
    path = tmp_path / "part.parquet"
    pl.DataFrame({"sets": [2, 1], "sets_chosen": [2, 0]}).write_parquet(path)
    found = concentration([str(path)], 3, 10, {"weeks_ago:covered_items": 7})
    assert (found["covered_items"], found["eligible_items"], found["weeks_ago:covered_items"]) == (2, 10, 7)
