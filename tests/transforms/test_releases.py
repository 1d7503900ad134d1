"""What came out in the last days, of a catalogue."""

import datetime

import polars as pl
from toy_road import NOW, instant, item, policy, quota, shard, table

from transforms.releases import eligible_releases

DAY = datetime.timedelta(days=1)


def test_what_may_be_recommended_and_came_out_in_the_last_seven_days_is_counted(tmp_path):
    rows = [
        item("now", release_ts=NOW), item("today", release_ts=NOW - DAY / 2), item("week", release_ts=NOW - 6.5 * DAY),
        item("deleted later", release_ts=NOW - DAY, deleted_at=NOW + DAY), item("undated", release_ts=None),
        item("old", release_ts=NOW - 7 * DAY), item("not out", release_ts=NOW + DAY), item("gone", release_ts=NOW),
        item("deleted", release_ts=NOW, deleted_at=NOW), item("not eligible", release_ts=NOW, rec_eligible=False),
    ]  # fmt: skip
    given = shard(tmp_path, {"item": table("item", rows)})
    found = eligible_releases(given, pl.Series("id", ["gone"]), instant(policy(quota("own"))))
    counted = {int(name.rpartition(":")[2]): n for name, n in found.items()}
    assert counted == {0: 2, 1: 1, 2: 0, 3: 0, 4: 0, 5: 0, 6: 1}
