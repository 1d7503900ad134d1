"""Canaries: planted so that every source would propose them, and never to be seen by those named."""

import golden_sets
import golden_world
import polars as pl
import pytest
from golden_world import Raw

RULES = golden_world.golden("canaries")["canary"]
FORBIDDEN = [rule for rule in RULES if not rule.get("control")]


@pytest.fixture(scope="module")
def sets(golden_road):
    return golden_sets.published(golden_road.root, "home")


@pytest.fixture(scope="module")
def slots(sets):
    return golden_sets.slots(sets)


@pytest.fixture(scope="module")
def playing(golden_road):
    return golden_sets.published(golden_road.root, "now_playing")


@pytest.fixture(scope="module")
def following(playing):
    return golden_sets.slots(playing)


def test_there_are_two_hundred_canaries():
    assert sum(rule["count"] for rule in FORBIDDEN) == 200


@pytest.mark.parametrize("rule", FORBIDDEN, ids=lambda rule: rule["name"])
def test_no_canary_is_in_a_set_it_must_never_be_in(golden_road, sets, slots, rule):
    raw = Raw(golden_road.raw)
    assert golden_sets.leaks(slots, rule, raw, golden_sets.people(sets, raw.read("users"))) == []


@pytest.mark.parametrize("rule", [rule for rule in FORBIDDEN if "never" in rule], ids=lambda rule: rule["name"])
def test_no_canary_follows_a_seed_whose_listeners_it_must_never_reach(golden_road, playing, following, rule):
    raw = Raw(golden_road.raw)
    canaries, listeners = (
        golden_world.canary_rows(golden_world.plain_items(raw)),
        golden_sets.listeners(playing, raw.read("items")),
    )
    offered = proposed(golden_road.root, "np", canaries["item_id"]).rename({"key": "record_key"})
    tempted = offered.join(playing.select("record_key", "context_key"), on="record_key")
    assert golden_sets.wrong(tempted, rule, raw, listeners).height, "no bait for Now Playing"
    assert golden_sets.leaks(following, rule, raw, listeners) == []


def proposed(root, prefix, names):
    """Return of which canaries there are proposals, by the source that made them, of `home` or `np`."""
    own = pl.col("source_id").str.starts_with(f"{prefix}.") & pl.col("item_id").is_in(names.implode())
    return golden_sets.committed(root, "proposal").filter(own)


def test_every_canary_was_proposed_and_more_than_one_source_took_the_bait(golden_road):
    own = golden_world.canary_rows(golden_world.plain_items(Raw(golden_road.raw)))
    found = proposed(golden_road.root, "home", own["item_id"])
    assert sorted(set(own["item_id"]) - set(found["item_id"])) == []
    assert {"home.co_listen", "home.popular_market", "home.relisten"} <= set(found["source_id"])


def test_every_hard_filter_took_its_canaries_out(sets):
    removed = (
        sets.select(pl.col("counts").struct.field("filtered_by_rule"))
        .explode("filtered_by_rule")
        .unnest("filtered_by_rule")
    )
    rules = set(removed.filter(pl.col("count") > 0)["rule"])
    assert {rule["rule"] for rule in FORBIDDEN} - rules == set()


def test_what_is_planted_with_nothing_wrong_is_seen(golden_road, slots, following):
    own = golden_world.canary_rows(golden_world.plain_items(Raw(golden_road.raw))).filter("control")
    assert set(own["item_id"]) <= set(slots["item_id"])
    assert set(own["item_id"]) <= set(following["item_id"])
