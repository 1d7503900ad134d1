"""Histories: what each user did, in event time."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import polars.selectors as cs

from schemas.tallies import HISTORY
from transforms.content_mix import habits

MAX_POSITIVES = 1_000
"""What a user has liked decides what else they like: 200 would cut 3 % of the pairs of a heavy-tailed public set, 1,000
none. At 60 bytes each, 60 kB for the most eager users."""
MAX_SKIPS = 50
MAX_IMPRESSIONS = 500
"""A week of ten pages of fifty: what fatigue looks back on."""
REPEATS_PER_SESSION = 3
_SHOWN = ("item_id", "event_ts")
_LISTEN = ("item_id", "item_type", "event_ts", "label", "session_id")


def histories(events: pl.DataFrame) -> pl.DataFrame:
    """Return one history per user from the events of whole users, in the history contract, sorted by user.

    Private sessions and events without consent leave no trace; of one item's positives in one session the first three
    count.

    Args:
      events: any order.

    Memory: the events and twice their personal part.
    """
    personal = personal_events(events).sort("user_id", "event_ts", "event_id")
    positives = without_repeats(personal.filter(pl.col("label") > 0), ["user_id", "session_id", "item_id"])
    summary = personal.group_by("user_id", maintain_order=True).agg(
        pl.col("market").drop_nulls().last(),
        pl.len().cast(pl.Int64).alias("num_events"),
        (pl.col("label") > 0).sum().cast(pl.Int64).alias("num_positives"),
        pl.col("event_ts").first().alias("first_event_ts"),
        pl.col("event_ts").last().alias("last_event_ts"),
    )
    liked = _last(positives, MAX_POSITIVES, "positives")
    skipped = _last(personal.filter(pl.col("label") < 0), MAX_SKIPS, "skips")
    shown = _last(personal.filter(pl.col("event_type") == "impression"), MAX_IMPRESSIONS, "impressions", _SHOWN)
    joined = summary
    for listed in (liked, skipped, shown, habits(positives)):
        joined = joined.join(listed, on="user_id", how="left", maintain_order="left")
    return joined.with_columns(cs.list().fill_null([])).select(HISTORY.schema.names).sort("user_id")


def exploded(histories: pl.DataFrame, *columns: str, key: str = "user_id") -> pl.DataFrame:
    """Return the listens of some columns of histories in order of time: the key and what a listen consists of.

    Args:
      columns: `positives`, `skips` or both; the labels of skips are below 0.
      key: column that tells histories apart.
    """
    found = [histories.select(key, column).explode(column).drop_nulls(column).unnest(column) for column in columns]
    return pl.concat(found).sort(key, "event_ts", maintain_order=True)


def entries(records: pl.DataFrame, column: str, name: str, key: str = "key") -> pl.DataFrame:
    """Return `key` and, as `name`, each entry of a column of lists, once, in no order; few records have any."""
    lists = records.select(key, pl.col(column).alias(name))
    if lists[name].null_count() == lists.height:
        return lists.clear().explode(name)
    return lists.explode(name).drop_nulls().unique()


def personal_events(events: pl.DataFrame) -> pl.DataFrame:
    """Return the events a user's profile may learn from; consent and privacy are taken as given where unknown."""
    allowed = pl.col("consent_personalization").fill_null(True) & ~pl.col("private_session").fill_null(False)
    return events.filter(allowed)


def without_repeats(liked: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Return the first `REPEATS_PER_SESSION` rows of each group of `keys`, in the order given.

    Few rows repeat, and only those are counted within their groups.
    """
    repeated = liked.select(keys).with_row_index("__row").filter(pl.struct(keys).is_duplicated())
    surplus = repeated.filter(pl.int_range(pl.len()).over(keys) >= REPEATS_PER_SESSION)["__row"]
    kept = np.ones(liked.height, np.bool_)
    kept[surplus.to_numpy()] = False
    return liked.filter(pl.Series(kept))


def _last(events: pl.DataFrame, limit: int, name: str, fields: Sequence[str] = _LISTEN) -> pl.DataFrame:
    """Return the last `limit` events per user, oldest first."""
    recent = pl.int_range(pl.len(), 0, -1).over("user_id") <= limit
    return events.filter(recent).group_by("user_id", maintain_order=True).agg(pl.struct(*fields).alias(name))
