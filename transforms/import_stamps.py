"""When imported plays happened, and the raw events they become.

All times are whole seconds since the start of the window: `WINDOW_DAYS` UTC days, of which the last is the end day.
"""

import datetime as dt

import numpy as np
import polars as pl

from schemas.hashing import hash64, unit_interval
from schemas.inputs import EVENT_SCHEMA_VERSION

WINDOW_DAYS = 28
DAY_S = 24 * 3600
WINDOW_S = WINDOW_DAYS * DAY_S
STEP_S = 200
INGEST_DELAY_S = 1
MARKET = "ZZ"
TIER = "premium"


def session_starts(rows: np.ndarray, lengths: np.ndarray, total: int) -> np.ndarray:
    """Spread sessions evenly over the window, in row order, each within one day where it fits.

    Args:
      rows: `(n,) int64`, number of each session among all `total`.
      lengths: `(n,) int64`, its plays.

    Returns:
      `(n,) int64` seconds.

    Raises:
      ValueError: a session is longer than the window.
    """
    return _within_one_day(rows * WINDOW_S // total, (lengths - 1) * STEP_S)


def chunk_times(user_ids: pl.Series, lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut every user's plays into equal chunks of at most `size` and spread these evenly over the window.

    Chunk c of m starts at (c + u) / m of the window, u in [0, 1) by the hash of the user's id: order is kept and every
    day expects the same volume. Plays are `STEP_S` apart; closer for a user whose chunks would overlap otherwise.

    Args:
      user_ids: `(n,)` strings.
      lengths: `(n,) int64`, plays of each.

    Returns:
      chunk and seconds of every play, user after user, `(sum(lengths),) int64` both.

    Raises:
      ValueError: a user has more plays than there is room for.
    """
    chunks = -(-lengths // size)
    # Half the distance of two chunks is left free, since a chunk moves by up to its own length to stay within its day.
    step = np.minimum(STEP_S, (WINDOW_S // chunks // 2 - 2 * INGEST_DELAY_S) // size)
    if (step < 1).any():
        at = int(np.flatnonzero(step < 1)[0])
        raise ValueError(
            f"user {user_ids[at]} has {lengths[at]} plays, more than {WINDOW_DAYS} days hold in order; "
            "split or sample that user"
        )
    hashes = hash64(user_ids.to_arrow())
    user, position = positions(lengths)
    plays, parts = lengths[user], chunks[user]
    # Where a cut falls between two plays, the hash rounds it: always up would give the first days more.
    rounding = (hashes % chunks.astype(np.uint64)).astype(np.int64)[user]
    chunk = ((position + 1) * parts - rounding - 1) // plays
    first = (chunk * plays + rounding) // parts
    last = ((chunk + 1) * plays + rounding) // parts - 1
    share = (chunk + unit_interval(hashes)[user]) / parts
    start = np.minimum((share * WINDOW_S).astype(np.int64), WINDOW_S - 1)
    start = _within_one_day(start, (last - first) * step[user])
    return chunk, start + (position - first) * step[user]


def positions(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return row and position within the row of every element of lists of these lengths.

    Example: `positions([2, 3])` is `[0, 0, 1, 1, 1], [0, 1, 0, 1, 2]`.
    """
    row = np.repeat(np.arange(len(lengths)), lengths)
    return row, np.arange(len(row)) - (np.cumsum(lengths) - lengths)[row]


def play_events(plays: pl.DataFrame, item_type: str, start: dt.date) -> pl.DataFrame:
    """Return one raw event per play, a full listen that the user picked.

    Args:
      plays: `user_id`, `session_id` strings; `item`, `position`, `at_s` int64.
      item_type: also the prefix of the item's id.
      start: first day of the window.
    """
    at_us = pl.col("at_s") * 1_000_000 + _epoch_us(start)
    return plays.select(
        pl.format("{}-{}", "user_id", "position").alias("event_id"),
        pl.lit(EVENT_SCHEMA_VERSION, pl.Int32).alias("schema_version"),
        pl.lit("play").alias("event_type"),
        at_us.cast(pl.Datetime("us", "UTC")).alias("event_ts"),
        (at_us + INGEST_DELAY_S * 1_000_000).cast(pl.Datetime("us", "UTC")).alias("ingest_ts"),
        "user_id",
        "session_id",
        item_id(item_type, "item"),
        pl.lit(item_type).alias("item_type"),
        pl.lit(STEP_S * 1000, pl.Int64).alias("ms_played"),
        pl.lit(STEP_S * 1000, pl.Int64).alias("item_duration_ms"),
        pl.lit("track_done").alias("reason_end"),
        pl.lit("other").alias("surface"),
        pl.lit(True).alias("is_organic"),
        pl.lit(False).alias("private_session"),
        pl.lit(MARKET).alias("market"),
        pl.lit(True).alias("consent_personalization"),
    )


def users(user_ids: pl.Series) -> pl.DataFrame:
    """Return one raw user per id."""
    return pl.select(user_ids.alias("user_id"), pl.lit(MARKET).alias("market"), pl.lit(TIER).alias("tier"))


def item_id(item_type: str, column: str) -> pl.Expr:
    """Return the expression of an item's id, `track-17` for example."""
    return pl.format(item_type + "-{}", column).alias("item_id")


def _within_one_day(start: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Move starts so that nothing, reception included, passes midnight; what is longer than a day starts with one."""
    day = start // DAY_S * DAY_S
    longest = span + INGEST_DELAY_S + 1
    start = np.minimum(np.maximum(np.minimum(start, day + DAY_S - longest), day), WINDOW_S - longest)
    if (start < 0).any():
        plays = int(span.max()) // STEP_S + 1
        raise ValueError(
            f"a session has {plays} plays; {WINDOW_DAYS} days hold {(WINDOW_S - 2) // STEP_S + 1} of them, "
            f"{STEP_S} s apart; split it"
        )
    return start


def _epoch_us(day: dt.date) -> int:
    return (day - dt.date(1970, 1, 1)).days * DAY_S * 1_000_000
