"""What follows what in a session, and what is left of the day of a listener."""

import dataclasses
import datetime
from pathlib import Path

import polars as pl
import pytest
from toy_road import instant, item, policy, quota, shard, table
from toy_sets import write_sets

from schemas.evaluation import SETS
from transforms.evaluation import Judged
from transforms.evaluation_left_out import LeaveOneOut
from transforms.evaluation_now_playing import CONTEXT, MOST_USERS, followed, judge_seeds, share_of

POLICY = policy(quota("np.a", target=1), quota("np.chart"), size=2, fill_to=2)
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


def judged(tmp_path: Path, **plays: tuple[str, str]) -> Judged:
    """Judge plays after the seed `s`, by market and what came next: of SE it has a set of a, of `*` one of b, c is SE's chart."""
    made = shard(
        tmp_path, {"popularity": table("popularity", []), "item": table("item", [item(one) for one in "sabc"])}
    )
    where = {"own": ("s", "a", "SE", "*"), "anywhere": ("s", "b", "*", "*"), "chart": ("*", "c", "SE", "*")}
    files = {
        name: write_sets(tmp_path / f"{name}.parquet", {key: [(one, ["np.a"])]}, where=at)
        for name, (key, one, *at) in where.items()
    }
    groups = write_sets(tmp_path / "other.parquet", {"*": [("d", ["np.a"])]}, where=("NO", "*"))
    sets = {"candidate_set": (files["own"], files["anywhere"]), "groups": (files["chart"], groups)}
    told = {"tier": "free", "tenure": "0", "skips": "0", "set_age": "0-6h", "all": True, "discovery": True, "organic": True,
            "session": False, "possible": True, "type": "track", "age": "0-30 days", "device": "phone", "language": "en"}  # fmt: skip
    rows = [{"context": name, "user_id": name, "seed": "s", "market": market, "canonical_id": one, "item_ids": [one]} | told
            for name, (market, one) in plays.items()]  # fmt: skip
    task = dataclasses.replace(made.task, inputs=dict(made.task.inputs) | sets)
    leave_out = LeaveOneOut(POLICY, instant(POLICY), 0)
    return judge_seeds(dataclasses.replace(made, task=task), pl.DataFrame(rows, schema=CONTEXT), leave_out)


def test_a_play_where_a_seed_was_not_played_is_served_its_set_for_elsewhere_and_then_the_chart(tmp_path):
    plays = {
        "own": ("SE", "a"),
        "not_own": ("SE", "c"),
        "set": ("NO", "b"),
        "chart": ("NO", "d"),
        "neither": ("NO", "c"),
    }
    found = judged(tmp_path, **plays)
    hits = found.hits.filter(ranking=SETS).join(found.units, on="unit")
    assert dict(hits.select("user_id", "rank").rows()) == {"own": 0, "set": 0, "chart": 1}
    sizes = found.per_unit.filter(ranking=SETS, metric="size").join(found.units, on="unit")
    assert dict(sizes.select("user_id", "value").rows()) == {"own": 1, "not_own": 1, "set": 2, "chart": 2, "neither": 2}
