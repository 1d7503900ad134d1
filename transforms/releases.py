"""How long ago items came out, counted by whole days: of what sets hold, and of what they could hold."""

import datetime

import polars as pl

from transforms.filters import Instant
from transforms.shards import Shard
from validation.freshness_gates import RELEASE_DAYS, RELEASED_ELIGIBLE

_DAY = datetime.timedelta(days=1)


def released(rows: pl.DataFrame, instant: Instant, prefix: str) -> dict[str, int]:
    """Count rows by the days from their `release_ts` to the instant: one counter for each of the last `RELEASE_DAYS`."""
    start = instant.effective_from
    ages = (start - pl.col("release_ts")).dt.total_days().alias("age")
    counted = rows.filter((pl.col("release_ts") <= start) & (pl.col("release_ts") > start - RELEASE_DAYS * _DAY))
    by_age = dict(counted.select(ages)["age"].value_counts().rows())
    return {f"{prefix}{age}": by_age.get(age, 0) for age in range(RELEASE_DAYS)}


def eligible_releases(shard: Shard, gone: pl.Series, instant: Instant) -> dict[str, int]:
    """Count the recommendable items of the task's catalogue that came out lately. Memory: those items' ids.

    Args:
      gone: ids with a tombstone.
    """
    start = instant.effective_from
    lately = pl.col("rec_eligible") & (pl.col("release_ts") > start - RELEASE_DAYS * _DAY)
    there = shard.read("item", ["item_id", "release_ts", "deleted_at"], lately)
    kept = (pl.col("deleted_at").is_null() | (pl.col("deleted_at") > start)) & ~pl.col("item_id").is_in(gone.implode())
    return released(there.filter(kept), instant, RELEASED_ELIGIBLE)
