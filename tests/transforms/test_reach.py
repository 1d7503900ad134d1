"""What is known before the search against what the hard filters say after it."""

import datetime
import random

import numpy as np
import polars as pl
import pytest
from toy_road import (
    END,
    NOW,
    days_ago,
    facts,
    history,
    instant,
    item,
    listen,
    offer_in,
    policy,
    quota,
    record,
    table,
    user,
)

from schemas.inputs import TIERS
from transforms.conformance import MemoryBundle
from transforms.filters import Facts, Rows, hard_filters
from transforms.reach import Reach, World, seed_rights, user_rights
from transforms.retrieve import user_audience, user_table

SURFACE = policy(quota("any", discovery=True))
MARKETS = ("SE", "NO", "*")
LANGUAGES = ([], None, ["sv"], ["en", "sv"], ["de"])


def random_items(dice: random.Random) -> list[dict]:
    """Return items of every kind of offer, age, language and fault, ids in order."""

    def offers() -> list[dict] | None:
        ends = (None, END, END - datetime.timedelta(microseconds=1))
        starts = (None, NOW, NOW + datetime.timedelta(microseconds=1))
        tiers = (None, ["free"], ["premium", "kids"], [], ["unheard of"])
        return dice.choice(
            [None]
            + [
                [offer_in(dice.choice(MARKETS), dice.choice(tiers), dice.choice(starts), dice.choice(ends)) for _ in range(dice.randrange(4))]
                for _ in range(4)
            ]
        )  # fmt: skip

    return [
        item(
            f"i{n:03d}", item_type=dice.choice(["track", "episode", "chapter"]), languages=dice.choice(LANGUAGES),
            release_ts=dice.choice([None, days_ago(5), NOW + datetime.timedelta(hours=1)]), availability=offers(),
            is_serial=dice.choice([None, None, True]), is_trailer=dice.choice([None, None, False, True]),
            explicit=dice.random() < 0.2, age_rating=dice.choice([None, 0, 13, 18]), rec_eligible=dice.random() < 0.9,
            deleted_at=dice.choice([None, None, None, days_ago(1), NOW + datetime.timedelta(hours=1)]),
            is_video=dice.choice([None, False, False, True]),
        )
        for n in range(400)
    ]  # fmt: skip


def random_records(dice: random.Random) -> list[dict]:
    return [
        record(
            f"u{n}", f"{dice.choice((*MARKETS, 'ZZ'))}|{dice.choice((*TIERS, 'trial'))}", languages=dice.choice(LANGUAGES),
            explicit_allowed=dice.random() < 0.5, max_age=dice.choice([0, 13, 18, 21]), may_video=dice.random() < 0.7,
        )
        for n in range(40)
    ]  # fmt: skip


def passed(told: Facts) -> np.ndarray:
    """Return what the hard filters let through, `(num_records, num_items) bool`."""
    shape = told.records.height, told.items.height
    k, i = (axis.ravel().astype(np.uint32) for axis in np.indices(shape))
    nothing = np.zeros(len(k))
    judged = hard_filters(
        Rows(k, i, i, nothing.astype(np.uint8), nothing.astype(np.int32)), told, SURFACE, instant(SURFACE)
    )
    return (judged.rule == 0).reshape(shape)


@pytest.mark.parametrize("seed", range(8))
def test_a_mask_is_open_to_what_the_hard_filters_let_through(seed):
    dice = random.Random(seed)
    items, records, gone = random_items(dice), random_records(dice), ["i003", "i100", "unknown"]
    needs = [
        (row["needs"], market, row["tier"])
        for row in {row["needs"]: row for row in records}.values()
        for market in (["NO", "SE"] if row["market"] == "*" else [row["market"]])
    ]
    told = facts(items, records, gone=gone, needs=needs)
    rows = table("item", items)
    world = World(["NO", "SE"], pl.Series(gone))
    reach = Reach.of([rows[:150], rows[150:]], rows["item_id"], instant(SURFACE), world)
    masks = [
        reach.mask(
            *(row[name] for name in ("market", "tier", "explicit_allowed", "max_age", "languages")),
            may_video=row["may_video"],
        )
        for row in records
    ]
    after = passed(told)
    np.testing.assert_array_equal(np.stack(masks), after)
    assert 0.02 < after.mean() < 0.6


def test_wherever_means_in_any_market_for_any_tier():
    offers = {"a": None, "b": [offer_in("SE", ["kids"])], "c": [], "d": [offer_in("NO", until=NOW)]}
    rows = table("item", [item(one, availability=offer) for one, offer in offers.items()])
    reach = Reach.of([rows], rows["item_id"], instant(SURFACE), World([], pl.Series(dtype=pl.String)))
    assert reach.mask(None, "*", True, 21, None).tolist() == [True, True, False, False]


def test_items_the_catalogue_does_not_know_are_out_of_reach_and_no_market_is_every_market():
    rows = table("item", [item("a"), item("c", availability=[offer_in("*")]), item("d", availability=[offer_in("SE")])])
    ids = pl.Series(["a", "b", "c"])
    reach = Reach.of([rows], ids, instant(SURFACE), World([], pl.Series(dtype=pl.String)))
    assert reach.mask("*", "free", True, 21, None).tolist() == [True, False, True]


def test_in_an_unknown_market_what_is_offered_in_one_market_only_is_out_of_reach():
    rows = table("item", [item("a"), item("b", availability=[offer_in("SE")])])
    reach = Reach.of([rows], rows["item_id"], instant(SURFACE), World(["NO", "SE"], pl.Series(dtype=pl.String)))
    assert reach.mask("*", "free", True, 21, None).tolist() == [True, False]


@pytest.mark.parametrize(
    ("columns", "allowed", "age"),
    [
        ({}, True, 21), ({"explicit_filter": True}, False, 21), ({"tier": "kids"}, False, 0),
        ({"age_band": "0-12"}, False, 0), ({"age_band": "13-17"}, True, 13), ({"age_band": "18-24"}, True, 18),
        ({"age_band": "25-34"}, True, 21), ({"tier": None, "explicit_filter": None}, True, 21),
    ],
)  # fmt: skip
def test_rights_are_those_of_age_tier_and_filter(columns, allowed, age):
    (found,) = user_rights(table("user", [user("u", **columns)])).to_dicts()
    assert (found["explicit_allowed"], found["max_age"]) == (allowed, age)


def test_what_is_unwanted_was_hidden_blocked_skipped_played_or_heard_out():
    heard = [
        listen("lately", days=29), listen("long_ago", days=31), listen("again", days=50), listen("again", days=2),
        listen("out", days=80, label=1.0, item_type="episode"), listen("liked", days=80, label=1.0),
    ]  # fmt: skip
    skipped = [listen("skip", days=6, label=-1.0), listen("old_skip", days=8, label=-1.0)]
    items = [item("x", artist="boo"), item("y", artist="ok"), item("z", show_id="boo", item_type="episode")]
    tables = {
        "user": table("user", [user("u", blocked_artists=["boo"], hidden_items=["h"]), user("v")]),
        "history": table("history", [history("u", sorted(heard, key=lambda one: one["event_ts"]), skipped)]),
        "tombstone": table("tombstone", []), "item": table("item", items),
    }  # fmt: skip
    bundle = MemoryBundle(tables)
    found = user_audience(user_table(bundle), bundle, SURFACE, instant(SURFACE)).unwanted
    assert found["key"].unique().to_list() == ["u"]
    assert found["item_id"].to_list() == ["again", "h", "lately", "out", "skip", "x", "z"]


def test_a_seed_is_followed_by_what_whoever_may_play_it_may_play():
    seeds = [item("a", explicit=True, age_rating=18, languages=["sv"]), item("b", age_rating=None, is_video=True)]
    found = seed_rights(table("item", seeds), pl.Series(["b"])).to_dicts()
    told = [(one["market"], one["explicit_allowed"], one["max_age"], one["languages"]) for one in found]
    assert told == [(None, True, 18, ["sv"]), (None, False, 0, None)]
    assert [(one["may_begin"], one["other_books"]) for one in found] == [(False, True), (False, False)]
    assert [one["may_video"] for one in found] == [False, True]
