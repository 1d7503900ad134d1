"""Sets that change too little or too much, sources short of their least, and events of users nobody knows."""

import dataclasses

import pytest
from toy_manifests import DATE, event_results, events, exposure, failed, manifest, month, results, sets

from schemas.catalogue import CONTRACTS
from schemas.manifest import Manifest
from validation.statistics import Statistics

SETS, EXPOSURE = CONTRACTS["candidate_set"], CONTRACTS["exposure"]


def kept(share: float, users: int = 100, **counters: int) -> Manifest:
    told = {"kept_users": users, "kept_ppm": round(1e6 * share)} | counters
    return dataclasses.replace(exposure(**told), qualifier="home")


@pytest.mark.parametrize(
    ("share", "why"),
    [(0.199, "given other sets than they had"), (0.2, None), (0.75, None), (0.95, None), (0.951, "sets hardly change")],
)
def test_sets_that_change_altogether_or_not_at_all_are_told(share, why):
    found = results(EXPOSURE, kept(share))
    assert failed(found) == ({"kept_since_yesterday": "warning"} if why else {})
    if why:
        assert why in found["kept_since_yesterday"].message


@pytest.mark.parametrize(
    ("now", "why"),
    [(kept(0.0, users=99), "99 listeners have sets of both days, 100 are needed"),
     (kept(0.0, kept_not_compared=1), "no sets of the day before to compare with"),
     (dataclasses.replace(kept(0.0), qualifier="now_playing"), "its sets are of items in a market, not of listeners")],
)  # fmt: skip
def test_where_there_is_nothing_to_compare_it_is_said(now, why):
    found = results(EXPOSURE, now)["kept_since_yesterday"]
    assert (found.outcome, found.threshold, found.message) == ("passed", "not judged", why)


def test_what_stayed_and_nobody_counted_is_broken():
    found = results(EXPOSURE, dataclasses.replace(exposure(), qualifier="home"))["kept_since_yesterday"]
    assert (found.outcome, found.severity) == ("broken", "critical")


LEAST = {"policy": {"sources": [{"source_id": "a", "minimum": 100}, {"source_id": "b", "minimum": 50},
                                {"source_id": "c", "minimum": 0}]}}  # fmt: skip
GRANTED = {
    "granted_by_source:a": 100_000,
    "granted_by_source:b": 50_000,
    "placed_by_source:a": 200_000,
    "placed_by_source:b": 99_000,
}


def granted(**counters: int) -> Manifest:
    named = {name.replace("__", ":"): n for name, n in counters.items()}
    return dataclasses.replace(sets(**GRANTED | named), config=LEAST)


@pytest.mark.parametrize(("slots", "severity"), [(200_000, None), (75_000, None), (74_999, "warning"), (0, "warning")])
def test_a_source_that_gets_three_quarters_of_its_least_or_less_is_told(slots, severity):
    found = results(SETS, granted(placed_by_source__a=slots))
    assert failed(found) == ({"least_slots:a": severity} if severity else {})
    if severity:
        assert (
            f"a proposed what is in {slots:,} slots, and its minimum grants it 100,000 of what it proposed"
            in found["least_slots:a"].message
        )


def test_a_source_is_held_to_what_it_proposed_alone():
    few = results(SETS, granted(placed_by_source__a=20, granted_by_source__a=2_999))["least_slots:a"]
    assert (few.outcome, few.message) == ("passed", "it proposed 2,999 items within its minimum for 300,000 slots")
    assert "least_slots:c" not in results(SETS, granted())


def test_where_minima_have_no_room_none_is_judged():
    found = results(SETS, granted(slots=149_000, placed_by_source__a=0))
    assert failed(found) == {}
    assert (
        found["least_slots"].message
        == "no room for every minimum: sets have 149 slots, the minima of their sources are 150"
    )


def test_minima_that_nobody_counted_are_broken():
    now = granted()
    del now.counters["granted_by_source:b"]
    found = results(SETS, now)["least_slots"]
    assert (found.outcome, found.message) == ("broken", "the stage did not count granted_by_source:b")


@pytest.mark.parametrize(
    ("unknown", "severity"), [(0, None), (49, None), (51, "warning"), (4_999, "warning"), (5_001, "critical")]
)
def test_events_of_users_who_were_not_delivered_are_told_and_then_stop(unknown, severity):
    days = month(weekend=1.0)
    rows = days[DATE].rows
    of_date = {f"events_of_unknown_users:{DATE}": unknown * rows // 10_000, "events_of_unknown_users:2026-03-30": 9_000}
    found = event_results(days, counters=of_date)
    assert failed(found) == ({"users_known": severity} if severity else {})
    if severity:
        assert "are of users that are not among the 500 delivered" in found["users_known"].message


def test_without_users_none_is_unknown_and_what_nobody_counted_is_broken():
    counters = {"users_known": 0, f"events_of_unknown_users:{DATE}": 10_000}
    found = event_results(month(weekend=1.0), counters=counters)["users_known"]
    assert (found.outcome, found.message) == ("passed", "no users are delivered")
    uncounted = events(month(weekend=1.0))
    del uncounted.counters["users_known"]
    found = results(CONTRACTS["event"], uncounted)["users_known"]
    assert (found.outcome, found.message) == ("broken", "the stage did not count users_known")


@pytest.mark.parametrize(("refused", "rejected", "severity"), [(0, {}, None), (1, {"item_ids:known": 1}, "warning"),
                                                              (0, {"spend_to_date:at_most:budget": 1}, "warning")])  # fmt: skip
def test_campaigns_that_are_paused_are_told(refused, rejected, severity):
    now = manifest("campaign", Statistics(7, {}, {}), rejected=rejected, counters={"refused": refused})
    found = results(CONTRACTS["campaign"], now)
    assert failed(found) == ({"campaigns_sane": severity} if severity else {})
    if severity:
        (rule,) = rejected
        assert f"1 of 8 campaigns are paused: nothing is served for them ({rule} 1)" in found["campaigns_sane"].message


def test_campaigns_that_were_not_held_against_the_catalogue_are_broken():
    found = results(CONTRACTS["campaign"], manifest("campaign", Statistics(7, {}, {})))["campaigns_sane"]
    assert (found.outcome, found.message) == ("broken", "the stage did not count refused")
