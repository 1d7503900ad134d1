"""A campaign that promotes what the catalogue does not have, or not for its market and flight, is left out whole."""

import datetime

import pytest
from toy_road import item, offer_in, shard, table

from transforms.campaigns import offending

START, END = (datetime.datetime(2026, 1, day, tzinfo=datetime.UTC) for day in (10, 20))
DAY = datetime.timedelta(days=1)
CATALOGUE = [
    item("everywhere"),
    item("here", availability=[offer_in("SE")]),
    item("there", availability=[offer_in("JP")]),
    item("named", availability=[offer_in("*")]),
    item("nowhere", availability=[]),
    item("soon", availability=[offer_in("SE", since=END)]),
    item("later", availability=[offer_in("SE", since=END + DAY)]),
    item("over", availability=[offer_in("SE", until=START - DAY)]),
    item("hidden", rec_eligible=False),
    item("withdrawn", deleted_at=END - DAY),
    item("gone since", deleted_at=END + DAY),
]


def campaign(*items: str, **columns) -> dict:
    return {"campaign_id": "c", "kind": "paid", "item_ids": list(items), "market": "SE", "start_ts": START, "end_ts": END,
            "budget": 1.0, "status": "active"} | columns  # fmt: skip


def found(folder, *campaigns: dict) -> list[tuple]:
    given = shard(folder, {"item": table("item", CATALOGUE)})
    return offending(table("campaign", campaigns), given).select("campaign_id", "rule", "detail").rows()


@pytest.mark.parametrize("name", ["everywhere", "here", "named", "soon", "gone since"])
def test_what_can_be_played_in_the_market_during_the_flight_is_promoted(tmp_path, name):
    assert found(tmp_path, campaign(name)) == []


@pytest.mark.parametrize(
    ("name", "rule"),
    [("unheard of", "known"), ("hidden", "known"), ("withdrawn", "known"), ("there", "available"), ("nowhere", "available"),
     ("later", "available"), ("over", "available")],
)  # fmt: skip
def test_a_campaign_with_one_item_that_cannot_is_left_out(tmp_path, name, rule):
    assert found(tmp_path, campaign("here", name)) == [("c", f"item_ids:{rule}", f"item_id={name}")]


def test_a_campaign_for_all_markets_needs_any_offer(tmp_path):
    assert found(tmp_path, campaign("there", market=None)) == []
    assert found(tmp_path, campaign("nowhere", market=None)) == [("c", "item_ids:available", "item_id=nowhere")]


@pytest.mark.parametrize(
    ("status", "left_out"), [("active", True), (None, True), ("draft", False), ("paused", False), ("ended", False)]
)
def test_what_is_not_served_may_name_what_is_not_there(tmp_path, status, left_out):
    assert bool(found(tmp_path, campaign("unheard of", status=status))) == left_out


def test_each_campaign_is_told_once_in_the_order_given_and_the_others_stay(tmp_path):
    given = [campaign("there", "unheard of", "nowhere", campaign_id="b"), campaign("here", campaign_id="a"),
             campaign("unheard of", campaign_id="A"), campaign(campaign_id="none"), campaign(campaign_id="null", item_ids=None)]  # fmt: skip
    assert found(tmp_path, *given) == [
        ("b", "item_ids:available", "item_id=nowhere"), ("A", "item_ids:known", "item_id=unheard of"),
    ]  # fmt: skip
