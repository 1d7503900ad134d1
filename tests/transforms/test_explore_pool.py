"""Pools: how many of which stratum, how likely each item, and nothing a listener there may not be offered."""

import dataclasses
import datetime
import random

import numpy as np
import polars as pl
import pytest
from toy_road import NOW, audience, days_ago, instant, item, offer_in, policy, quota, table

from transforms import explore_pool
from transforms.conformance import MemoryBundle
from transforms.explore_pool import STRATA, explorable, sampling_rates
from transforms.groups import RetrieveGroups
from transforms.sources import Source

SURFACE = policy(quota("pool", 3, 3, 3, personal=False), quota("chart"), explore="pool", fallback="chart")


def bundle(items: list[dict], charts=(), gone=()) -> MemoryBundle:
    rows = [
        {"market": "*", "tier": "*", "item_type": "track", "item_id": one, "weight": 9 - n, "rank": n}
        for n, one in enumerate(charts)
    ]
    everywhere = [row | {"market": market} for market in ("SE", "NO") for row in rows[:1]]
    tombstones = [{"entity": "item", "id": one, "reason": "takedown", "effective_ts": NOW} for one in gone]
    tables = {"item": items, "popularity": [*rows, *everywhere], "tombstone": tombstones}
    return MemoryBundle({name: table(name, rows) for name, rows in tables.items()})


def pool(tables: MemoryBundle, market: str = "SE", tier: str = "free", days: int = 0) -> pl.DataFrame:
    asked = audience([{"key": f"*|{market}|{tier}", "market": market, "tier": tier}])
    later = dataclasses.replace(asked, now=NOW + datetime.timedelta(days=days), policy=SURFACE)
    return explorable(later, tables).sort("item_id")


def whole(tables: MemoryBundle) -> MemoryBundle:
    """Read the catalogue in one part."""
    tables.parts = lambda name, columns: iter([tables.read(name, columns)])
    return tables


def tracks(n: int, **columns) -> list[dict]:
    return [item(f"i{i:04d}", **columns) for i in range(n)]


# Rates.


def test_shares_go_with_the_root_of_the_counts():
    rates = sampling_rates(np.array([100, 10_000, 0]), 110)
    np.testing.assert_allclose(rates[:2] * [100, 10_000], [10, 100])


def test_a_stratum_smaller_than_its_share_is_taken_whole_and_the_others_share_the_rest():
    counts = np.array([1, 4, 100, 400])
    rates = sampling_rates(counts, 155)
    assert rates[:2].tolist() == [1, 1]
    np.testing.assert_allclose(rates[2:] * counts[2:], [50, 100])


@pytest.mark.parametrize("seed", range(5))
def test_rates_fill_the_pool_and_no_further(seed):
    counts = np.random.default_rng(seed).integers(0, 500, len(STRATA))
    for size in (1, 1_000, 10**9):
        rates = sampling_rates(counts, size)
        assert ((rates > 0) & (rates <= 1)).all()
        assert (rates * counts).sum() == pytest.approx(min(size, counts.sum()))


# Pools.


def test_all_are_in_the_pool_where_they_are_few():
    found = pool(bundle(tracks(7)))
    assert found["item_id"].to_list() == [f"i{n:04d}" for n in range(7)]
    assert found["raw_score"].to_list() == [1.0] * 7


def test_items_are_in_the_pool_as_often_as_it_says_and_others_on_another_day():
    episodes = [item(f"e{n:04d}", item_type="episode") for n in range(1_000)]
    tables = whole(bundle([*tracks(4_000), *episodes]))
    today, tomorrow = pool(tables), pool(tables, days=1)
    for kind, count in (("track", 4_000), ("episode", 1_000)):
        rate = {"track": 1 / 6, "episode": 1 / 3}[kind]
        found = today.filter(pl.col("stratum").str.starts_with(kind))
        assert found["raw_score"].unique().to_list() == pytest.approx([rate])
        assert abs(found.height - count * rate) < 4 * np.sqrt(count * rate * (1 - rate))
    again = today.join(tomorrow, on="item_id", how="semi").height
    assert abs(again - 4_000 / 36 - 1_000 / 9) < 60


def test_a_part_of_the_catalogue_more_or_less_changes_nothing(monkeypatch):
    monkeypatch.setattr(explore_pool, "POOL", 20)
    tables = bundle(tracks(90), charts=["i0003", "i0004", "i0005"])
    found = pool(tables)
    assert pool(whole(tables)).equals(found)
    assert 5 < found.height < 45


def test_a_stratum_is_of_type_age_and_popularity():
    ages = {"a": days_ago(30), "b": days_ago(31), "c": days_ago(365), "d": days_ago(366), "e": None}
    items = [item(one, release_ts=when) for one, when in ages.items()]
    items.append(item("f", item_type="episode", release_ts=NOW))
    found = pool(bundle(items, charts=["e", "d", "c", "b"]))
    assert dict(found.select("item_id", "stratum").rows()) == {
        "a": "track|new|low", "b": "track|recent|low", "c": "track|recent|middle", "d": "track|old|high",
        "e": "track|old|high", "f": "episode|new|low",
    }  # fmt: skip
    assert set(found["stratum"]) <= set(STRATA)


def test_one_recording_stands_for_its_canonical_item_the_likeliest_one(monkeypatch):
    monkeypatch.setattr(explore_pool, "POOL", 6)
    rare = [item("z", canonical_id="c", item_type="episode"), item("y", canonical_id="c", item_type="episode")]
    tables = whole(bundle([*tracks(200), item("a", canonical_id="c"), *rare]))
    for days in range(30):
        found = pool(tables, days=days)
        twins = found.filter(pl.col("item_id").is_in(["a", "y", "z"]))["item_id"].to_list()
        assert twins in ([], ["y"])


def test_chapters_parts_of_serial_shows_and_trailers_are_not_to_be_explored():
    of_shows = [item("c", is_serial=True), item("d", is_serial=False), item("e", is_serial=False, is_trailer=True)]
    episodes = [one | {"item_type": "episode", "show_id": "s"} for one in of_shows]
    chapter = item("b", item_type="chapter", show_id="b")
    assert pool(bundle([item("a"), chapter, *episodes]))["item_id"].to_list() == ["a", "d"]


def test_children_have_a_pool_for_children():
    items = [item("ok"), item("rude", explicit=True), item("old", age_rating=13)]
    assert pool(bundle(items), tier="kids")["item_id"].to_list() == ["ok"]
    assert pool(bundle(items), tier="free")["item_id"].to_list() == ["ok", "old", "rude"]


def test_pools_of_groups_hold_what_may_be_played_there_and_all_of_it_stays(monkeypatch):
    dice = random.Random(1)
    offers = [None, [offer_in("SE")], [offer_in("NO", ["premium"])], [offer_in("*", until=NOW)]]
    items = [
        item(f"i{n:03d}", availability=dice.choice(offers), rec_eligible=dice.random() < 0.9,
             release_ts=days_ago(dice.uniform(-1, 50)), explicit=dice.random() < 0.2)
        for n in range(200)
    ]  # fmt: skip
    tables = whole(bundle(items, gone=["i005"], charts=["i001"]))
    monkeypatch.setattr("transforms.groups.ShardBundle", lambda given: tables)
    monkeypatch.setattr("transforms.groups.KEEP", 5)
    sources = {"pool": Source(explorable, "toy", "toy", "toy", 9_999)}
    found = RetrieveGroups(sources, SURFACE, instant(SURFACE))(tables).frame
    kept = {key: set(rows["item_id"]) for (key,), rows in found.group_by("key")}
    asked = {("SE", "free"): "*|SE|free", ("NO", "premium"): "*|NO|premium", ("*", "*"): "*|*|*"}
    for (market, tier), key in asked.items():
        assert kept[key] == set(pool(tables, market, tier)["item_id"])
        assert len(kept[key]) > 20


def test_an_empty_catalogue_has_an_empty_pool():
    assert pool(bundle([])).height == 0
