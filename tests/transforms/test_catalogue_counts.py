"""What a catalogue counts for its checks: where items may be recommended, which kinds are described, which markets are none."""

import datetime

from toy_road import item, offer_in, table

from transforms.catalogue_counts import count_catalogue

THEN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def counted(*rows: dict) -> dict[str, int]:
    return count_catalogue(table("item", rows))


def test_items_are_counted_once_in_each_market_they_may_be_recommended_in():
    found = counted(
        item("everywhere", availability=None),
        item("named", availability=[offer_in("*"), offer_in("SE")]),
        item("twice", availability=[offer_in("SE", ["free"]), offer_in("SE", ["premium"]), offer_in("JP")]),
        item("over", availability=[offer_in("SE", until=THEN)]),
        item("nowhere", availability=[]),
        item("hidden", availability=[offer_in("SE")], rec_eligible=False),
        item("gone", availability=[offer_in("SE")], deleted_at=THEN),
    )
    assert {name: n for name, n in found.items() if name.startswith("eligible_in:")} == {
        "eligible_in:*": 2, "eligible_in:JP": 1, "eligible_in:SE": 2,
    }  # fmt: skip


def test_what_is_no_market_is_counted_by_item_and_nowhere_else():
    found = counted(
        item("small", availability=[offer_in("se"), offer_in("Se")]),
        item("long", availability=[offer_in("SWE"), offer_in("SE")]),
        item("hidden", availability=[offer_in("")], rec_eligible=False),
    )
    assert found["items_of_strange_markets"] == 3
    assert {name for name in found if name.startswith("eligible_in:")} == {"eligible_in:*", "eligible_in:SE"}


def test_descriptions_are_counted_by_kind():
    found = counted(
        item("a", description="x"), item("b", description=None), item("c", item_type="show", description=None)
    )
    assert {name: n for name, n in found.items() if "s_of:" in name or "described" in name} == {
        "items_of:show": 1, "items_of:track": 2, "described:show": 0, "described:track": 1,
    }  # fmt: skip


def test_no_items_are_counted_too():
    assert counted() == {"items_of_strange_markets": 0, "eligible_in:*": 0}
