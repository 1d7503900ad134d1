"""Charts, and what stands in for taste where nobody has told of one."""

import dataclasses

import pytest
from test_sources import chart, groups, near, scores
from toy_road import item, table

from transforms.conformance import MemoryBundle
from transforms.group_sources import CHART, CHART_OF_A_KIND, POPULAR, popular, popular_company
from transforms.sources import CO_LISTEN_LIMIT, HOME_SEEDS

# *.popular_market


def test_a_chart_goes_on_with_the_wider_ones():
    charts = chart(
        ("SE", "free", "own", 5), ("SE", "*", "own", 9), ("SE", "*", "market", 900), ("*", "*", "own", 50),
        ("*", "*", "market", 900), ("*", "*", "world", 99_000), ("NO", "free", "far", 1_000_000),
        ("SE", "kids", "kids", 9),
    )  # fmt: skip
    found = popular(groups("SE|free", "SE|*", "*|*", "FI|free"), charts)
    assert scores(found, "*|SE|free") == pytest.approx(
        {"own": 5 + 0.009 + 0.00005, "market": 0.9 + 0.0009, "world": 0.099}
    )
    assert list(scores(found, "*|SE|*")) == ["market", "own", "world"]
    assert list(scores(found, "*|*|*")) == list(scores(found, "*|FI|free")) == ["world", "market", "own"]


def test_a_chart_is_cut_to_its_best():
    rows = [("SE", "free", f"i{n:05d}", n + 1) for n in range(CHART + 1)]
    found = scores(popular(groups("SE|free"), chart(*rows)), "*|SE|free")
    assert len(found) == CHART
    assert "i00000" not in found


def test_however_few_the_plays_of_talk_and_books_a_chart_holds_them():
    loud = [(kind, f"{kind}{n:04d}", 9_000 - n) for kind in ("track", "video") for n in range(CHART)]
    quiet = [("episode", f"e{n:04d}", 900 - n) for n in range(CHART_OF_A_KIND + 9)] + [
        ("chapter", "c", 1),
        ("audiobook", "b", 2),
    ]
    rows = [
        {"market": "SE", "tier": "free", "item_type": kind, "item_id": one, "weight": weight, "rank": 0}
        for kind, one, weight in loud + quiet
    ]
    found = list(
        scores(popular(groups("SE|free"), MemoryBundle({"popularity": table("popularity", rows)})), "*|SE|free")
    )
    assert sum(one.startswith(("track", "video")) for one in found) == CHART
    assert found[CHART:] == [*(f"e{n:04d}" for n in range(CHART_OF_A_KIND)), "b", "c"]
    assert len(found) <= POPULAR.limit


# home.popular_company


def company(charted, pairs, artists, size: int, *keys: str):
    """Return what goes with charts of `(item, weight)` in Sweden, given co-listens and the artist of each item."""
    items = table("item", [item(one, artist) for one, artist in artists.items()])
    tables = chart(*(("SE", "free", one, weight) for one, weight in charted)).tables
    asking = groups(*keys)
    asking = dataclasses.replace(asking, policy=dataclasses.replace(asking.policy, size=size, fill_to=size))
    return popular_company(asking, MemoryBundle({**tables, "item": items, "co_listen": near(*pairs)}))


def test_company_is_of_the_best_item_of_each_top_artist_as_much_as_the_artist_is_played():
    charted = [("a1", 30), ("a2", 20), ("b1", 50), ("tail", 1)]
    pairs = [("a1", "x", 0.5), ("b1", "x", 0.2), ("b1", "y", 0.4), ("a2", "z", 0.9), ("tail", "w", 0.9)]
    found = company(charted, pairs, {"a1": "a", "a2": "a", "b1": "b", "tail": "t"}, 3, "SE|free", "NO|free")
    assert scores(found, "*|SE|free") == pytest.approx({"x": 0.5 * 0.5 + 0.5 * 0.2, "y": 0.5 * 0.4})
    assert scores(found, "*|NO|free") == {}
    assert found["seed_item_ids"].to_list() == [[], []]


def test_company_leaves_out_the_chart_that_a_set_would_hold():
    charted = [("a", 9), ("b", 8), ("c", 7)]
    pairs = [("a", "b", 0.9), ("a", "c", 0.8), ("b", "a", 0.9), ("b", "new", 0.1)]
    found = company(charted, pairs, {one: one for one in "abc"}, 2, "SE|free")
    assert list(scores(found, "*|SE|free")) == ["c", "new"], "the third of a chart is not in a set of two"


def test_company_is_of_so_many_artists_and_no_more():
    names = [f"s{n:02d}" for n in range(HOME_SEEDS + 2)]
    charted, pairs = [(one, 99 - n) for n, one in enumerate(names)], [(one, f"x{one}", 1.0) for one in names]
    found = company(charted, pairs, {one: one for one in names}, 90, "SE|free")
    assert sorted(scores(found, "*|SE|free")) == [f"x{one}" for one in names[:HOME_SEEDS]]


def test_however_much_of_it_is_charted_there_is_as_much_company():
    charted = [("seed", 900), *((f"c{n:02d}", 99 - n) for n in range(50))]
    pairs = [("seed", one, 0.9) for one, _ in charted[1:]] + [("seed", f"x{n:03d}", 0.1) for n in range(200)]
    found = company(charted, pairs, {one: one for one, _ in charted}, 51, "SE|free")
    assert sum(one.startswith("x") for one in scores(found, "*|SE|free")) >= CO_LISTEN_LIMIT


def test_an_item_of_nobody_stands_for_itself():
    found = company([("a", 3), ("b", 1)], [("a", "x", 1.0), ("b", "x", 0.4)], {"b": None}, 9, "SE|free")
    assert scores(found, "*|SE|free") == pytest.approx({"x": 0.75 + 0.25 * 0.4})


def test_nobody_has_company_where_nothing_is_played():
    assert company([], [], {}, 9, "SE|free").height == 0
