"""What follows what in a session, and what is left of the day of a listener."""

import datetime

import polars as pl
import pytest

from transforms.evaluation_now_playing import MOST_USERS, followed, share_of

START = datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)


def played(*rows: tuple[str, str, str, float]) -> pl.DataFrame:
    """Return events in order of time: user, session, item, label; a label of 0 or less is a skip."""
    frame = pl.DataFrame(rows, schema={"user_id": pl.String, "session_id": pl.String, "item_id": pl.String, "label": pl.Float32},
                         orient="row")  # fmt: skip
    time = pl.lit(START) + pl.duration(minutes=pl.int_range(pl.len()))
    frame = frame.with_columns(time.alias("event_ts"), pl.lit(None, pl.String).alias("market"))
    return frame.sort("user_id", "session_id", "event_ts")


def pairs(events: pl.DataFrame, session: bool) -> list[tuple]:
    found = followed(events).filter(pl.col("session") == session)
    return found.select("seed", "item_id", "skips").rows()


def test_the_target_is_the_next_item_that_was_liked():
    events = played(
        ("u", "s", "a", 1.0), ("u", "s", "x", -0.5), ("u", "s", "y", 0.0), ("u", "s", "b", 0.5), ("u", "s", "c", 0.5)
    )
    assert pairs(events, session=False) == [("a", "b", "2"), ("b", "c", "0")]


def test_many_skips_are_one_part():
    events = played(("u", "s", "a", 1.0), *[("u", "s", "x", -0.5)] * 4, ("u", "s", "b", 0.5))
    assert pairs(events, session=False) == [("a", "b", "4+")]


def test_nothing_follows_from_another_session_or_user_or_from_a_repeat():
    events = played(
        ("u", "s", "a", 1.0), ("u", "t", "b", 0.5), ("v", "s", "c", 0.5), ("v", "s", "c", 0.5), ("v", "s", "d", 0.5)
    )
    assert pairs(events, session=False) == [("c", "d", "0")]


def test_a_session_wants_everything_after_its_first_item():
    events = played(
        ("u", "s", "a", 1.0), ("u", "s", "b", 0.5), ("u", "s", "a", 0.5), ("u", "s", "c", 0.5), ("v", "s", "d", 0.5)
    )
    assert pairs(events, session=True) == [("a", "b", "session"), ("a", "c", "session")]
    contexts = followed(events)
    assert contexts.filter("session")["context"].n_unique() == 1
    assert contexts.filter(~pl.col("session"))["context"].n_unique() == 3
    assert not set(contexts.filter("session")["context"]) & set(contexts.filter(~pl.col("session"))["context"])


def test_an_unknown_market_is_any():
    assert followed(played(("u", "s", "a", 1.0), ("u", "s", "b", 1.0)))["market"].to_list() == ["*", "*"]


@pytest.mark.parametrize(("users", "share"), [(0, 1.0), (MOST_USERS, 1.0), (MOST_USERS + 1, 0.5), (600_000_000, 2**-9)])
def test_the_share_of_users_is_a_power_of_a_half(users, share):
    assert share_of(users) == share
    assert users * share <= MOST_USERS
