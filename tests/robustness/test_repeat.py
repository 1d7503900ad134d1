"""Equal input gives equal bytes: again, elsewhere, at another time, in another order."""

import re

import polars as pl
from road_folders import TODAY, contents


def test_the_second_run_does_nothing_and_says_so(today, copied, capsys):
    folders = copied(today)
    before = contents(folders.root, ("data", "live", "runs"))
    assert folders.run() == 0
    said = capsys.readouterr().out
    assert re.search(r"0 of (\d+) stages ran, \1 unchanged", said)
    assert said.count("already live") == 2
    assert contents(folders.root, ("data", "live", "runs")) == before


def test_another_root_on_another_machine_at_another_time_gets_the_same_bytes(small_road, road_elsewhere):
    assert contents(road_elsewhere.root) == contents(small_road.root)


def test_the_day_is_delivered_by_itself(yesterday):
    delivered = pl.read_parquet(yesterday.raw / f"events/date={TODAY}", hive_partitioning=False)
    assert delivered["event_ts"].dt.date().min() == TODAY
