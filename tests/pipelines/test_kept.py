"""Which sets of the day before are put beside a date's, and which days scores are measured against."""

import dataclasses
import datetime
from pathlib import Path

import polars as pl
import pytest
from test_weeks_ago import TODAY, ran
from toy_manifests import manifest

from pipelines.batch import week_before
from pipelines.overlap import count_kept
from schemas.manifest import DataFile, Manifest
from transforms.io.store import LocalStore
from validation.statistics import Statistics

DAY, BEFORE, SHARDS = "2026-03-31", "2026-03-30", 2
ELEMENT = pl.Struct({"item_id": pl.String, "position": pl.Int32})


def sets(root: Path, date: str, held: dict[str, str], num_shards: int = SHARDS) -> Manifest:
    """Write sets of a few listeners, one item for each letter, every shard the same, and those of a group."""
    candidates = [[{"item_id": one, "position": n} for n, one in enumerate(items)] for items in held.values()]
    frame = pl.DataFrame({"record_key": list(held), "candidates": pl.Series(candidates, dtype=pl.List(ELEMENT))})
    folder = f"data/candidate_set/date={date}/run=r"
    root.joinpath(folder).mkdir(parents=True)
    files = []
    for name, shard in (("00000", 0), ("00001", 1), ("groups", 0)):
        path = f"{folder}/part-{name}.parquet"
        keys = (
            frame if name == "groups" else frame.with_columns(record_key=pl.format("{}-{}", "record_key", pl.lit(name)))
        )
        keys.write_parquet(root / path, use_pyarrow=True)
        files.append(DataFile(path, "0", keys.height, 1, shard))
    return manifest("candidate_set", Statistics(1, {}, {}), date=date, num_shards=num_shards, files=tuple(files))


@pytest.fixture
def store(tmp_path):
    return LocalStore(str(tmp_path))


def test_the_median_listener_of_all_shards_is_told_and_groups_are_nobody(store, tmp_path):
    before = sets(tmp_path, BEFORE, {"a": "xyzw", "b": "xy", "c": "x"})
    now = sets(tmp_path, DAY, {"a": "xyzv", "b": "xy", "c": "v", "new": "x"})
    assert count_kept(store, now, before) == {"kept_users": 6, "kept_ppm": 750_000}


def test_only_sets_of_the_day_before_that_are_still_there_and_of_the_same_shards_are_compared(store, tmp_path):
    before, now = (sets(tmp_path, date, {"a": "x"}) for date in (BEFORE, DAY))
    nothing = {"kept_users": 0, "kept_not_compared": 1}
    assert count_kept(store, now, before) == {"kept_users": 2, "kept_ppm": 1_000_000}
    assert count_kept(store, now, None) == nothing
    assert count_kept(store, now, dataclasses.replace(before, date="2026-03-29")) == nothing
    assert count_kept(store, now, dataclasses.replace(before, num_shards=3)) == nothing
    store.delete(before.files[0].path)
    assert count_kept(store, now, before) == nothing


def test_scores_are_measured_against_the_good_roads_of_the_seven_days_before(tmp_path):
    store = LocalStore(str(tmp_path))
    for days in (0, 1, 4, 7, 8):
        ran(store, days, "proposal/home")
    ran(store, 2, "proposal/now_playing")
    found = [one.date for one in week_before(store, TODAY, "proposal/home")]
    assert found == [(TODAY - datetime.timedelta(days=days)).isoformat() for days in (7, 4, 1)]
