"""A catalogue may not shrink in one market, name markets that are none, or leave a whole kind of item undescribed."""

import pytest
from toy_manifests import failed, items, results

from schemas.catalogue import CONTRACTS

ITEM = CONTRACTS["item"]
USERS = {"users_in:SE": 994, "users_in:JP": 5, "users_in:IS": 1}


def catalogue(**counters: int):
    """Return 100,000 items: half may be played everywhere, the rest in Sweden, and a tenth of it in Japan and Iceland."""
    told = {"eligible_in:*": 50_000, "eligible_in:SE": 50_000, "eligible_in:JP": 5_000, "eligible_in:IS": 5_000}
    named = {name.replace("__", ":"): n for name, n in counters.items()}
    return items(100_000, counters=told | USERS | named)


@pytest.mark.parametrize(
    ("now", "fallen"),
    [
        ({}, None),
        ({"eligible_in__JP": 0}, None),
        ({"eligible_in__SE": 40_100}, None),
        ({"eligible_in__SE": 39_900}, "SE 100,000 to 89,900 (-10.1%)"),
        ({"eligible_in__*": 44_400}, "JP 55,000 to 49,400 (-10.2%)"),
        ({"eligible_in__IS": 0, "eligible_in__*": 50_000}, None),
    ],
)
def test_what_may_be_recommended_in_a_market_that_has_users_may_not_fall_by_a_tenth(now, fallen):
    """Of Japan and Iceland 5,000 of 55,000 items are gone: 9 %. In Iceland there is one user in a thousand."""
    found = results(ITEM, catalogue(**now), catalogue())
    assert failed(found) == ({"eligible_items_in_markets": "critical"} if fallen else {})
    if fallen:
        assert fallen in found["eligible_items_in_markets"].message


def test_a_market_without_users_may_lose_all_it_has():
    before = {"eligible_in__*": 0, "eligible_in__IS": 5_000}
    found = results(ITEM, catalogue(**before | {"eligible_in__IS": 1}), catalogue(**before))
    assert failed(found) == {}
    more = {"users_in__IS": 6}
    found = results(ITEM, catalogue(**before | more | {"eligible_in__IS": 1}), catalogue(**before))
    assert failed(found) == {"eligible_items_in_markets": "critical"}


@pytest.mark.parametrize(("before", "now", "stops"), [(40, 16, False), (40, 14, True)])
def test_a_dozen_items_come_and_go_in_a_small_market(before, now, stops):
    """Four deviations of 40 are 63 %."""
    only = {"eligible_in__*": 0, "eligible_in__JP": 0, "eligible_in__IS": 0}
    found = results(ITEM, catalogue(**only, eligible_in__SE=now), catalogue(**only, eligible_in__SE=before))
    assert failed(found) == ({"eligible_items_in_markets": "critical"} if stops else {})


def test_without_users_or_an_earlier_catalogue_that_was_counted_nothing_is_judged():
    nobody = dict.fromkeys(("users_in__SE", "users_in__JP", "users_in__IS"), 0)
    lost = {"eligible_in__*": 1}
    alone = results(ITEM, catalogue(**lost, **nobody), catalogue())["eligible_items_in_markets"]
    assert (alone.outcome, alone.message) == ("passed", "it is not known in which markets users are")
    old = catalogue()
    for name in [name for name in old.counters if name.startswith("eligible_in:")]:
        del old.counters[name]
    first = results(ITEM, catalogue(**lost), old)["eligible_items_in_markets"]
    assert (first.outcome, first.message) == ("passed", "no earlier catalogue to compare with")


@pytest.mark.parametrize(
    ("counter", "check"),
    [("eligible_in:*", "eligible_items_in_markets"), ("items_of_strange_markets", "market_codes"),
     ("items_of:track", "description_present")],
)  # fmt: skip
def test_what_nobody_counted_is_broken(counter, check):
    now = catalogue()
    del now.counters[counter]
    found = results(ITEM, now, catalogue())[check]
    assert (found.outcome, found.severity) == ("broken", "critical")


@pytest.mark.parametrize(("strange", "severity"), [(0, None), (1, "critical")])
def test_a_market_that_is_no_code_stops(strange, severity):
    found = results(ITEM, catalogue(items_of_strange_markets=strange))
    assert failed(found) == ({"market_codes": severity} if severity else {})
    if severity:
        assert (
            "1 of 100,000 items have an offer whose market is neither two capital letters"
            in found["market_codes"].message
        )


@pytest.mark.parametrize(
    ("shows", "described", "severity"),
    [(100, 90, None), (100, 89, "warning"), (99, 0, None), (2_000, 1_799, "warning")],
)
def test_a_kind_of_item_without_descriptions_is_told_though_most_items_have_one(shows, described, severity):
    found = results(ITEM, catalogue(items_of__show=shows, described__show=described))
    assert failed(found) == ({"description_present": severity} if severity else {})
    if severity:
        assert f" of {shows:,} shows: their text vectors will be poor" in found["description_present"].message
