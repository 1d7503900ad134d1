"""Sets blended again without a source, in a world whose sets can be read off the proposals."""

from pathlib import Path

import polars as pl
import pytest
from toy_road import history, instant, item, listen, policy, proposals, quota, shard, table, user

from schemas.evaluation import SETS
from transforms.evaluation_left_out import GROUP_PROPOSAL, LeaveOneOut
from transforms.retrieve import user_table
from transforms.shards import Shard, Task

ITEMS = ["a1", "a2", "b1", "b2", "c1", "heard"]
POLICY = policy(quota("home.a", target=1), quota("home.b", target=1), quota("home.chart"), size=2, fill_to=2)
WANTED = {"u1": ["a1", "b2"], "u2": ["b1"]}


@pytest.fixture
def world(tmp_path: Path) -> Shard:
    """Sets of two: for both users a and b propose two items each, and the chart one more. They hold a1 and b1."""
    offers = {"home.a": ["a1", "a2"], "home.b": ["b1", "b2"]}
    chart = {"market": "SE", "tier": "*", "item_type": "track", "item_id": "c1", "weight": 1, "rank": 0}
    tables = {
        "item": table("item", [item(one) for one in ITEMS]),
        "user": table("user", [user("u1"), user("u2")]),
        "history": table("history", [history(one, [listen("heard")]) for one in ("u1", "u2")]),
        "proposal": pl.concat([proposals(offers, key=one) for one in ("u1", "u2")]),
        "popularity": table("popularity", [chart]),
        "groups": proposals({}, group={"home.chart": ["c1"]}),
    }  # fmt: skip
    made = shard(tmp_path, tables)
    inputs = {GROUP_PROPOSAL if name == "groups" else name: files for name, files in made.task.inputs.items()}
    return Shard(Task("toy", 0, inputs), made.store)


def figures(world: Shard, most: int = 10, users: tuple[str, ...] = ("u1", "u2", "u3")) -> dict[tuple, float]:
    """Return figures by user, ranking and metric; u3 is unknown at the date."""
    units = pl.DataFrame({"user_id": list(users)}).with_row_index("unit")
    rows = [(unit, one) for unit, name in enumerate(users) for one in WANTED.get(name, ["a1"])]
    wanted = pl.DataFrame(rows, schema={"unit": pl.UInt32, "canonical_id": pl.String}, orient="row")
    found = LeaveOneOut(POLICY, instant(POLICY), most).users(world, units, wanted, user_table(world))
    return {(users[unit], ranking, metric): value for unit, ranking, metric, value in found.rows()}


def test_what_a_source_held_is_filled_up_by_the_others(world):
    """Without a, b2 follows b1: the first user finds one of two as before, though only a had proposed what was found."""
    found = figures(world)
    recalls = {(who, ranking): value for (who, ranking, metric), value in found.items() if metric == "left_out_recall"}
    assert recalls == {
        ("u1", SETS): 0.5, ("u1", "without:home.a"): 0.5, ("u1", "without:home.b"): 0.5, ("u1", "without:home.chart"): 0.5,
        ("u2", SETS): 1.0, ("u2", "without:home.a"): 1.0, ("u2", "without:home.b"): 0.0, ("u2", "without:home.chart"): 1.0,
    }  # fmt: skip
    assert {key: value for key, value in found.items() if key[2] == "left_out_units"} == {
        (who, SETS, "left_out_units"): 1.0 for who in ("u1", "u2")
    }


def test_units_are_drawn_by_a_hash_of_what_they_are_of(world):
    drawn = LeaveOneOut(POLICY, instant(POLICY), 1_000).drawn
    units = pl.DataFrame(
        {"unit": range(4_000), "user_id": [f"user-{n}" for n in range(4_000)], "seed": ["a", "b"] * 2_000}
    )
    found, again = drawn(units, "user_id"), drawn(units.reverse(), "user_id")
    assert found.height == 1_000
    assert 1_900 < found["unit"].mean() < 2_100
    assert found["unit"].is_sorted()
    assert again.reverse().equals(found)
    assert not drawn(units, "user_id", "seed").equals(found)
    assert figures(world, most=0) == {}
    both = figures(world)
    alone = figures(world, users=("u2",))
    assert alone == {key: value for key, value in both.items() if key[0] == "u2"}


def test_blocks_of_any_size_give_the_same_figures(world, monkeypatch):
    before = figures(world)
    monkeypatch.setattr("transforms.evaluation_left_out.BLEND_BLOCK", 1)
    assert figures(world) == before
