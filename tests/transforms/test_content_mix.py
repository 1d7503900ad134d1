import numpy as np
import polars as pl
import pytest
from toy_road import (
    days_ago,
    facts,
    history,
    instant,
    item,
    listen,
    policy,
    proposals,
    quota,
    record,
    shard,
    table,
    user,
)

from transforms.blend import blend
from transforms.blend_kernel import FATIGUE
from transforms.content_mix import KINDS, LEAST_PLAYS, floors, habits, market_mix
from transforms.facts import user_facts
from transforms.filters import Facts
from transforms.reach import read_world
from transforms.retrieve import ShardBundle, user_table

MORNING, EVENING = 1, 3
HABIT = {"k": pl.UInt32, "band": pl.Int32, "device": pl.String, "kind": pl.String, "plays": pl.Int32}


def told(*rows: tuple) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=HABIT, orient="row")


def mix(**shares: float) -> pl.DataFrame:
    rows = [("SE", kind, share) for kind, share in sorted(shares.items())]
    return pl.DataFrame(rows, schema={"market": pl.String, "kind": pl.String, "share": pl.Float64}, orient="row")


def wanted(rows: pl.DataFrame, markets: tuple = ("SE",), world: pl.DataFrame | None = None, **figures) -> list[dict]:
    surface = policy(quota("any"), **({"size": 300, "fill_to": 300, "page": 50, "talk_floor": 0.0} | figures))
    found = floors(rows, pl.Series(markets), mix(music=1.0) if world is None else world, surface)
    return [{kind: int(n) for kind, n in zip(KINDS, row, strict=True) if n} for row in found]


def test_a_listeners_shares_less_the_gap_are_the_floors_of_a_set():
    assert wanted(told((0, None, "other", "music", 60), (0, None, "other", "talk", 40))) == [
        {"music": int((0.9 * 0.6 + 0.1 - 0.1) * 300), "talk": int((0.9 * 0.4 - 0.1) * 300)}
    ]


def test_the_market_speaks_with_a_tenth():
    habit = told((0, None, "other", "music", 100))
    assert wanted(habit, world=mix(music=0.0, talk=1.0), content_gap=0.0) == [{"music": 270, "talk": 30}]
    assert wanted(habit, ("NO",), mix(talk=1.0), content_gap=0.0) == [{"music": 270}], (
        "of an unknown market nothing is said"
    )


def test_a_page_in_the_car_in_the_morning_must_be_possible():
    rows = told((0, EVENING, "home", "music", 90), (0, MORNING, "car", "talk", 10))
    assert wanted(rows, content_gap=0.10)[0]["talk"] == int((0.9 - 0.1) * 50)
    few = told((0, EVENING, "home", "music", 90), (0, MORNING, "car", "talk", LEAST_PLAYS - 1))
    assert "talk" not in wanted(few)[0], "nine plays are no habit"
    unknown = told((0, None, "home", "music", 90), (0, None, "car", "talk", 10))
    assert "talk" not in wanted(unknown)[0], "a play whose local time is unknown has no quarter of the day"


def test_who_ever_listened_to_talk_has_some():
    rows = told((0, None, "other", "music", 999), (0, None, "other", "talk", 1))
    assert wanted(rows, talk_floor=0.05)[0]["talk"] == 15
    assert "talk" not in wanted(told((0, None, "other", "music", 999)), talk_floor=0.05)[0]


def test_floors_never_ask_for_more_than_there_are_slots():
    rows = [(0, None, "other", "music", 1000)]
    rows += [(0, band, "car", kind, 10) for band, kind in enumerate(("talk", "book", "video"))]
    (found,) = wanted(told(*rows), content_gap=0.0, size=100, fill_to=100)
    assert sum(found.values()) == 100
    assert found["talk"] == 45


def test_without_habits_there_are_no_floors():
    assert wanted(told(), ("SE", "SE")) == [{}, {}]
    assert wanted(told((1, None, "other", "talk", 10)), ("SE", "SE"))[0] == {}


def test_a_market_plays_what_its_charts_weigh():
    rows = [("SE", "*", "track", 3), ("SE", "*", "episode", 1), ("NO", "*", "video", 5)]
    charts = pl.DataFrame(rows, schema=["market", "tier", "item_type", "weight"], orient="row")
    assert market_mix(charts).rows() == [("NO", "video", 1.0), ("SE", "music", 0.75), ("SE", "talk", 0.25)]


def test_habits_are_told_in_local_time():
    columns = ["user_id", "item_type", "event_ts", "device_type", "utc_offset_min"]
    rows = [("u", "episode", days_ago(0), "car", 420), ("u", "track", days_ago(0), "gramophone", -1)]
    (row,) = habits(pl.DataFrame(rows, schema=columns, orient="row")).to_dicts()
    assert row["habits"] == [
        {"band": 1, "device": "car", "kind": "talk", "plays": 1},
        {"band": 3, "device": "other", "kind": "music", "plays": 1},
    ]


# In a set.

TALK = {"item_type": "episode", "is_serial": False}


def kept(offered: dict, surface, habit: pl.DataFrame, items: list[dict], chances=None) -> list[str]:
    rows = proposals(offered)
    known = facts(items, [record()], floors=floors(habit, pl.Series(["SE"]), mix(music=1.0), surface))
    found = blend(rows, known, surface, instant(surface), None if chances is None else chances(rows))
    return found.candidates["item_id"].to_list()


def names(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i:02d}" for i in range(n)]


def world_of(*lists: list[str]) -> list[dict]:
    return [item(one, **(TALK if one.startswith("e") else {})) for one in sorted(one for each in lists for one in each)]


def test_what_did_not_fit_of_a_kind_below_its_floor_takes_the_last_places_of_others():
    music, talk = names("m", 30), names("e", 30)
    surface = policy(quota("near", 0, 30, 30), quota("own", 0, 0, 30), size=20, fill_to=20, page=5, talk_floor=0.0)
    none = kept({"near": music, "own": talk}, surface, told(), world_of(music, talk))
    assert none == music[:20]
    half = told((0, None, "other", "music", 50), (0, None, "other", "talk", 50))
    assert kept({"near": music, "own": talk}, surface, half, world_of(music, talk)) == music[:13] + talk[:7]


def test_no_minimum_gives_way_to_a_floor_and_a_floor_without_offers_binds_nobody():
    music, talk = names("m", 30), names("e", 3)
    half = told((0, None, "other", "music", 50), (0, None, "other", "talk", 50))
    firm = policy(quota("near", 20, 20, 30), quota("own", 0, 0, 30), size=20, fill_to=20, page=5)
    assert kept({"near": music, "own": talk}, firm, half, world_of(music, talk)) == music[:20]
    loose = policy(quota("near", 0, 20, 30), quota("own", 0, 0, 30), size=20, fill_to=20, page=5)
    assert kept({"near": music, "own": talk}, loose, half, world_of(music, talk)) == music[:17] + talk


def test_a_floor_takes_nothing_from_another_kind_at_its_own():
    music, talk = names("m", 30), names("e", 30)
    surface = policy(quota("near", 0, 30, 30), quota("own", 0, 0, 30), size=10, fill_to=10, page=5, content_gap=0.0)
    habit = told((0, None, "other", "music", 50), (0, None, "other", "talk", 50))
    assert kept({"near": music, "own": talk}, surface, habit, world_of(music, talk)) == music[:6] + talk[:4]


# Fatigue.


def facts_of(tmp_path, positives=(), shown=(), **figures) -> Facts:
    surface = policy(quota("any"), **({"fatigue_impressions": 3, "overplayed": 4, "fatigue_days": 7} | figures))
    heard = [*positives, listen("other", 50)]
    row = history("u1", heard) | {
        "impressions": [{"item_id": one, "event_ts": days_ago(at)} for one, at in shown],
        "habits": [],
    }
    items = table("item", [item(one) for one in ("a", "b", "other")])
    given = shard(tmp_path, {"user": table("user", [user("u1")]), "history": table("history", [row]), "item": items,
                             "tombstone": table("tombstone", []), "popularity": table("popularity", [])})  # fmt: skip
    offered, bundle = proposals({"any": ["a", "b"]}), ShardBundle(given)
    return user_facts(user_table(given), offered, read_world(given), bundle, surface, instant(surface))


def tired(tmp_path, positives=(), shown=(), **figures) -> set[str]:
    return set(facts_of(tmp_path, positives, shown, **figures).tired["item_id"])


@pytest.mark.parametrize(
    ("shown", "played", "expected"),
    [
        ([("a", 6), ("a", 3), ("a", 1)], [], {"a"}),
        ([("a", 6), ("a", 3)], [], set()),
        ([("a", 8), ("a", 3), ("a", 1)], [], set()),
        ([("a", 6), ("a", 5), ("a", 4), ("a", 1)], [listen("a", 3)], set()),
        ([("a", 6), ("a", 3), ("a", 2), ("a", 1)], [listen("a", 5)], {"a"}),
    ],
)
def test_three_impressions_in_a_week_without_a_play_tire(tmp_path, shown, played, expected):
    assert tired(tmp_path, played, shown) == expected


def test_what_is_played_too_often_tires_too(tmp_path):
    assert tired(tmp_path / "4", [listen("b", day, session=str(day)) for day in (1, 2, 3, 4)]) == {"b"}
    assert tired(tmp_path / "3", [listen("b", day, session=str(day)) for day in (1, 2, 3, 9)]) == set()


def test_neither_counts_where_the_policy_says_never(tmp_path):
    seen, heard = [("a", 1)] * 9, [listen("b", 1)] * 9
    assert tired(tmp_path, heard, seen, fatigue_impressions=0, overplayed=0) == set()


def test_what_tires_has_half_its_chance():
    surface = policy(quota("near"), quota("own"))
    weary = pl.DataFrame({"k": [0], "item_id": ["a"]}, schema={"k": pl.UInt32, "item_id": pl.String})
    rows, items = proposals({"near": ["a", "b", "c"]}), [item(one) for one in "abc"]

    def order(chances: list[float], pairs: pl.DataFrame) -> list[str]:
        known = facts(items, [record()], tired=pairs.rows())
        return blend(rows, known, surface, instant(surface), np.array(chances)).candidates["item_id"].to_list()

    assert order([0.5, 0.3, 0.2], weary.clear()) == ["a", "b", "c"]
    assert order([0.5, 0.3, 0.2], weary) == ["b", "a", "c"]
    assert order([0.5, 0.24, 0.2], weary) == ["a", "b", "c"], f"0.5 x {FATIGUE} is more than 0.24"


def test_what_gives_way_to_another_kind_is_told_apart_from_what_did_not_fit():
    music, talk = names("m", 12), names("e", 12)
    surface = policy(quota("near", 0, 30, 30), quota("own", 0, 0, 30), size=10, fill_to=10, page=5)
    half = told((0, None, "other", "music", 50), (0, None, "other", "talk", 50))
    rows, items = proposals({"near": music, "own": talk}), world_of(music, talk)
    known = facts(items, [record()], floors=floors(half, pl.Series(["SE"]), mix(music=1.0), surface))
    removed = blend(rows, known, surface, instant(surface)).removed
    assert removed.filter(pl.col("rule") == "content")["item_id"].to_list() == ["m07", "m08", "m09"]
    assert removed.filter(pl.col("rule") == "size")["item_id"].to_list() == [*talk[3:], "m10", "m11"]


def test_a_surface_without_pages_has_no_floors(tmp_path):
    assert facts_of(tmp_path / "0", page=0).floors is None
    assert facts_of(tmp_path / "9", page=9).floors.tolist() == [[0, 0, 0, 0]]
