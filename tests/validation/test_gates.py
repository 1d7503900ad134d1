import dataclasses
import random

import pytest
from toy_manifests import (
    DATE,
    event_failures,
    event_results,
    exposure,
    failed,
    items,
    manifest,
    month,
    one_day,
    proposals,
    results,
    sets,
    shift,
)

from schemas.catalogue import CONTRACTS
from validation.candidate_gates import EXPOSURE_GATES, SET_GATES
from validation.declared import declared_checks
from validation.gates import judge
from validation.statistics import ColumnStatistics, Statistics


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("days", [29, 9, 5, 3, 1])
def test_ordinary_days_raise_no_alarm_of_any_kind(seed, days):
    found = event_results(month(seed, days=days, weekend=1.1))
    assert failed(found) == {}
    assert {result.outcome for result in found.values()} == {"passed"}


@pytest.mark.parametrize("seed", range(10))
def test_weekends_are_compared_with_weekends_once_four_weeks_are_known(seed):
    assert event_failures(month(seed, weekend=1.8)) == {}


def test_without_history_nothing_fails_and_the_results_say_so():
    found = event_results(month(days=4))
    assert failed(found) == {}
    assert "not enough history: 3 of the 7 earlier days are known, 4 are needed" in found["rows_on_date"].message
    assert found["rows_on_date"].threshold == "not judged"


@pytest.mark.parametrize("days", [29, 9, 6])
@pytest.mark.parametrize("seed", range(5))
def test_thirty_percent_of_a_day_missing_stops(days, seed):
    known = month(seed, days=days, weekend=1.0)
    known[DATE] = one_day(7_000)
    found = event_results(known)
    assert failed(found) == {"rows_on_date": "critical"}
    result = found["rows_on_date"]
    assert result.observed == pytest.approx(-0.3, abs=0.06)
    assert result.of == 7_000
    assert "is a file of the date missing?" in result.message


def test_a_doubled_day_stops():
    known = month()
    known[DATE] = one_day(known[DATE].rows * 2)
    found = event_results(known)
    assert failed(found) == {"rows_on_date": "critical"}
    assert "was a file delivered twice" in found["rows_on_date"].message


def test_a_fifth_missing_is_a_warning():
    known = month(weekend=1.0)
    known[DATE] = one_day(8_000)
    assert event_failures(known) == {"rows_on_date": "warning"}


def test_thirty_percent_is_no_alarm_where_every_day_is_that_noisy():
    rng = random.Random(1)
    known = {shift(DATE, -n): one_day(int(10_000 * rng.uniform(0.6, 1.4))) for n in range(29)}
    known[DATE] = one_day(7_000)
    assert event_failures(known) == {}
    known[DATE] = one_day(4_000)
    assert event_failures(known) == {"rows_on_date": "critical"}


def test_a_handful_of_events_may_halve():
    known = {shift(DATE, -n): one_day(20) for n in range(29)}
    known[DATE] = one_day(8)
    assert event_failures(known) == {}


def test_no_rows_on_the_date_names_the_last_date_that_has_some():
    known = month()
    del known[DATE]
    del known[shift(DATE, -1)]
    found = event_results(known)
    assert failed(found) == {"rows_on_date_present": "critical"}
    assert f"no event of {DATE} came in" in found["rows_on_date_present"].message
    assert f"the last date with events is {shift(DATE, -2)}" in found["rows_on_date_present"].message


def test_an_empty_folder_stops():
    found = event_results({})
    assert failed(found) == {"rows_on_date_present": "critical"}
    assert "no earlier date has any either" in found["rows_on_date_present"].message


def test_days_after_the_logical_date_are_not_looked_at():
    known = month() | {shift(DATE, 1): one_day(10**7)}
    assert event_failures(known) == {}


@pytest.mark.parametrize(
    ("rejected", "counters", "expected"),
    [
        ({"item_id:required": 9}, {}, {}),
        ({"item_id:required": 11}, {}, {"schema_valid": "critical"}),
        ({}, {"duplicates": 50}, {}),
        ({}, {"duplicates": 51}, {"duplicate_event_ids": "warning"}),
        ({}, {"duplicates": 201}, {"duplicate_event_ids": "critical"}),
        ({"event_id:conflict": 11}, {}, {"conflicting_event_ids": "warning"}),
        ({"event_id:conflict": 101}, {}, {"conflicting_event_ids": "critical"}),
        ({"ms_played:at_most:item_duration_ms": 50}, {}, {}),
        ({"ms_played:at_most:item_duration_ms": 51}, {}, {"ms_played_plausible": "critical"}),
        ({"event_ts:not_after:ingest_ts": 11}, {}, {"clock_skew": "critical"}),
    ],
)
def test_shares_of_the_rows_read(rejected, counters, expected):
    found = event_results(month(), rows_in=10_000, rejected=rejected, counters=counters)
    assert failed(found) == expected
    assert {found[name].of for name in ("schema_valid", "duplicate_event_ids", "clock_skew")} == {10_000}


def test_schema_valid_names_the_worst_rules():
    found = event_results(month(), rows_in=1000, rejected={"a:one_of": 2, "b:between": 30, "event_id:conflict": 1})
    assert "32 of 1,000 rows read were rejected (mostly b:between 30, a:one_of 2)" in found["schema_valid"].message


def test_a_silent_market_stops_and_is_named():
    known = month()
    day = known[DATE]
    known[DATE] = dataclasses.replace(
        day, values=day.values | {"market": {"US": day.rows * 7 // 10, "SE": day.rows * 3 // 10}}
    )
    found = event_results(known)
    assert failed(found)["silent_markets"] == "critical"
    assert f"no event of {DATE} from JP" in found["silent_markets"].message


def test_a_small_market_may_be_silent():
    known = {
        d: dataclasses.replace(x, values=x.values | {"market": x.values["market"] | {"LI": 60}})
        for d, x in month().items()
    }
    del known[DATE].values["market"]["LI"]
    assert event_failures(known) == {}


def test_an_all_null_market_stops():
    known = month()
    day = known[DATE]
    known[DATE] = dataclasses.replace(day, present=day.present | {"market": 0}, values=day.values | {"market": {}})
    found = event_results(known)
    assert {"market_present", "column_vanished:market", "silent_markets"} <= set(failed(found))
    assert f"market is empty on {day.rows:,} of {day.rows:,} events of {DATE}" in found["market_present"].message


@pytest.mark.parametrize(
    ("phones", "expected"), [(0.5, {}), (0.7, {"psi:device_type": "warning"}), (0.8, {"psi:device_type": "critical"})]
)
def test_a_shifted_mix(phones, expected):
    known = month()
    day = known[DATE]
    mix = {"phone": int(day.rows * phones), "tv": int(day.rows * (1 - phones))}
    known[DATE] = dataclasses.replace(day, values=day.values | {"device_type": mix})
    found = event_results(known)
    assert failed(found) == expected
    if expected:
        assert "went from 50 % to" in found["psi:device_type"].message


def test_a_mix_of_few_rows_is_allowed_its_sampling_noise():
    known = {shift(DATE, -n): one_day(60) for n in range(29)}
    day = known[DATE]
    known[DATE] = dataclasses.replace(day, values=day.values | {"device_type": {"phone": 42, "tv": 18}})
    assert event_failures(known) == {}


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.05, {}), (1.2, {"mean_ms_played": "warning"}), (0.7, {"mean_ms_played": "critical"})]
)
def test_behaviour_that_changes(factor, expected):
    known = month()
    day = known[DATE]
    known[DATE] = dataclasses.replace(day, totals={"ms_played": int(day.totals["ms_played"] * factor)})
    found = event_results(known)
    assert failed(found) == expected
    assert found["mean_ms_played"].observed == pytest.approx(factor - 1, abs=0.01)


def test_organic_share_and_skip_rate_are_judged():
    known = month()
    day = known[DATE]
    values = {
        "is_organic": {"true": day.rows // 4, "false": day.rows * 3 // 4},
        "event_type": {"play": day.rows * 3 // 4, "skip": day.rows // 4},
    }
    known[DATE] = dataclasses.replace(day, values=day.values | values)
    assert event_failures(known) == {"organic_share": "critical", "skip_rate": "critical"}


def test_a_column_that_vanished_on_the_date_is_named():
    known = month()
    day = known[DATE]
    known[DATE] = dataclasses.replace(day, present=day.present | {"platform": 0})
    found = event_results(known)
    assert failed(found) == {"column_vanished:platform": "critical"}
    assert "platform is empty on all" in found["column_vanished:platform"].message
    assert "dropped or renamed upstream" in found["column_vanished:platform"].message


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (items(1000), {}),
        (items(991), {}),
        (items(989), {"items_vs_previous": "warning"}),
        (items(1051), {"items_vs_previous": "warning"}),
        (items(949), {"items_vs_previous": "critical"}),
        (items(1000, eligible=899), {"eligible_items": "critical"}),
        (items(1000, eligible=0), {"eligible_items": "critical"}),
        (items(1000, described=899), {"description_present": "warning"}),
        (items(1000, described=0), {"description_present": "warning", "column_vanished:description": "critical"}),
        (items(0), {"items_present": "critical"}),
    ],
)
def test_items_against_the_last_run(now, expected):
    assert failed(results(CONTRACTS["item"], now, items(1000))) == expected


def test_items_without_a_last_run_pass():
    found = results(CONTRACTS["item"], items(10))
    assert failed(found) == {}
    assert found["items_vs_previous"].message == "no earlier catalogue to compare with"


def test_unknown_explicit_stops():
    now = items(100)
    now.statistics["columns"]["explicit"]["nulls"] = 1
    found = results(CONTRACTS["item"], now)
    assert failed(found) == {"explicit_known": "critical"}
    assert "explicit is unknown on 1 of 100 items" in found["explicit_known"].message


def test_a_run_of_a_later_date_is_no_history():
    later = items(1000, date=shift(DATE, 1))
    assert failed(results(CONTRACTS["item"], items(10), later)) == {}


def test_a_delivery_of_what_changed_is_not_compared_with_the_catalogue():
    before = items(100_000)
    assert failed(results(CONTRACTS["item"], items(3, eligible=0, qualifier="delta"), before)) == {}
    assert failed(results(CONTRACTS["item"], items(0, qualifier="delta"))) == {"items_present": "critical"}


@pytest.mark.parametrize("name", ["history", "co_listen", "transition", "popularity", "artist_top", "user"])
@pytest.mark.parametrize(("rows", "severity"), [(850, None), (790, "warning"), (490, "critical"), (9000, None)])
def test_rows_of_tallies_against_the_last_run(name, rows, severity):
    contract = CONTRACTS[name]
    columns = {column: ColumnStatistics() for column in contract.schema.names}
    now, before = (manifest(name, Statistics(n, columns, {})) for n in (rows, 1000))
    assert failed(results(contract, now, before)) == ({"rows_vs_previous": severity} if severity else {})
    assert failed(results(contract, now)) == {}


LEAKS = ("age", "ineligible", "unreleased", "blocked", "hidden", "completed", "recent_skip", "language", "tombstone")


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ({}, {}),
        ({"empty_sets": 1}, {"empty_sets": "critical"}),
        ({"market_violations": 1}, {"market_violations": "critical"}),
        ({"tier_violations": 1}, {"tier_violations": "critical"}),
        ({"explicit_violations": 1}, {"explicit_violations": "critical"}),
        *(({f"{leak}_violations": 1}, {f"{leak}_violations": "critical"}) for leak in LEAKS),
        ({"exploration_share_violations": 1}, {"exploration_share_violations": "critical"}),
        ({"propensity_violations": 1}, {"propensity_violations": "critical"}),
        ({"duplicate_items": 1}, {"duplicate_items": "critical"}),
        ({"sets_below_minimum": 2}, {"sets_below_minimum": "critical"}),
        ({"sets_below_minimum": 2, "eligible_items": 2_000}, {"sets_below_minimum": "warning"}),
        ({"fallback_level_3_or_more": 100}, {}),
        ({"fallback_level_3_or_more": 101}, {"fallback_share": "warning"}),
        ({"fallback_level_3_or_more": 151}, {"fallback_share": "critical"}),
        ({"fallback_of_listeners": 45}, {}),
        ({"fallback_of_listeners": 46}, {"fallback_share": "warning"}),
        ({"fallback_of_listeners": 136}, {"fallback_share": "critical"}),
        ({"content_floors_missed": 21}, {"content_floors": "warning"}),
        ({"content_floors_missed": 20}, {}),
        ({"content_floors_missed": 21, "eligible_items": 2_000}, {}),
        ({"content_floors": 0}, {}),
        ({"jaccard_ppm_sum": 200 * 160_000}, {"mean_jaccard": "warning"}),
        ({"jaccard_ppm_sum": 200 * 310_000}, {"mean_jaccard": "critical"}),
        ({"jaccard_ppm_sum": 200 * 310_000, "eligible_items": 500}, {}),
        ({"jaccard_pairs": 0}, {}),
        ({"slots_by_source_a": 149_000}, {"slots_by_source:a": "warning"}),
        ({"slots_by_source_c": 0}, {}),
        ({"sets": 0}, {"sets_present": "critical"}),
    ],
)
def test_candidate_sets(counters, expected):
    assert failed(results(CONTRACTS["candidate_set"], sets(**counters), sets(slots_by_source_c=2_000))) == expected


@pytest.mark.parametrize(
    ("rows", "counters", "expected"),
    [
        (0, {"sets": 0}, {}),
        (9, {"sets": 0}, {"sets_present": "critical"}),
        (9, {"jaccard_pairs": 199, "jaccard_ppm_sum": 199 * 310_000}, {}),
        (9, {"jaccard_pairs": 200, "jaccard_ppm_sum": 200 * 310_000}, {"mean_jaccard": "critical"}),
        (9, {"market_violations": 1}, {"market_violations": "critical"}),
    ],
)
def test_an_overlay_may_be_of_few_or_of_nobody_and_is_else_held_to_the_same(rows, counters, expected):
    now = dataclasses.replace(sets(**counters), rows_out=rows, config={"run_mode": "stream"})
    assert failed(results(CONTRACTS["candidate_set"], now)) == expected


def test_newcomers_alone_are_no_warning_though_they_are_many():
    """A world may be young: one set in eight is charts each day, because nobody knows those users yet."""
    young = {"fallback_level_3_or_more": 125, "listeners": 860}
    assert failed(results(CONTRACTS["candidate_set"], sets(**young), sets(**young))) == {}
    first = results(CONTRACTS["candidate_set"], sets(**young))["fallback_share"]
    assert (first.severity, first.outcome) == ("warning", "failed")
    assert (
        "12.5 % of the sets are market popularity or less personal (+12.5 points), and 1.163 % of those"
        in first.message
    )


def test_a_market_leak_says_what_it_means_and_what_next():
    message = results(CONTRACTS["candidate_set"], sets(market_violations=3))["market_violations"].message
    assert "market_violations: 3 in 1,000 sets: they hold items that may not be played in their market" in message
    assert "the last release stays live" in message


def test_a_source_that_vanished_is_a_warning():
    now = sets()
    del now.counters["slots_by_source:b"]
    assert failed(results(CONTRACTS["candidate_set"], now, sets())) == {"slots_by_source:b": "warning"}


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ({}, {}),
        ({"max_item_sets_chosen": 51}, {"single_item_share": "critical"}),
        ({"max_item_sets_chosen": 399, "eligible_items": 10_000, "covered_items": 1_500}, {}),
        (
            {"max_item_sets_chosen": 490, "eligible_items": 10_000, "covered_items": 1_500},
            {"single_item_share": "warning"},
        ),
        (
            {"max_item_sets_chosen": 510, "eligible_items": 10_000, "covered_items": 1_500},
            {"single_item_share": "critical"},
        ),
        ({"top100_slots_chosen": 31_000}, {"top100_share": "warning"}),
        ({"top100_slots_chosen": 26_000}, {}),
        ({"top100_slots_chosen": 26_001}, {"top100_share": "warning"}),
        ({"top100_slots_chosen": 199_000, "eligible_items": 10_000, "covered_items": 1_500}, {}),
        ({"covered_items": 11_900}, {"catalogue_coverage": "warning"}),
        ({"gini_ppm": 560_000}, {"gini": "warning"}),
        ({"slots_chosen": 0}, {}),
    ],
)
def test_exposure(counters, expected):
    assert failed(results(CONTRACTS["exposure"], exposure(**counters), exposure())) == expected


@pytest.mark.parametrize(("make", "name"), [(sets, "market_violations"), (exposure, "eligible_items")])
def test_a_figure_nobody_counted_is_broken(make, name):
    now = make()
    del now.counters[name]
    (result,) = judge(CONTRACTS[now.dataset], now, None)
    assert (result.name, result.outcome, result.severity) == ("counters_present", "broken", "critical")
    assert f"the stage did not count {name}; it must count them even where they are 0" in result.message


WARN_ONLY = {
    "content_floors",
    "top100_share",
    "catalogue_coverage",
    "catalogue_coverage_in_weeks",
    "gini",
    "gini_in_weeks",
    "freshest_item",
    "arms_in_weeks",
    "kept_since_yesterday",
    "least_slots",
}


@pytest.mark.parametrize("now", [sets(), sets(jaccard_pairs=0), exposure(), exposure(slots_chosen=0)])
def test_what_may_stop_what_is_published_is_declared_and_recorded_where_nothing_is_judged(now):
    contract = CONTRACTS[now.dataset]
    judged = set(results(contract, now))
    declared = declared_checks(contract) & {*SET_GATES, *EXPOSURE_GATES}
    assert declared <= judged
    assert judged - declared <= WARN_ONLY
    assert {"columns:declared", f"{'+'.join(contract.key)}:unique"} <= declared_checks(contract)


def test_every_failed_check_has_a_message_and_every_share_its_denominator():
    known = month()
    known[DATE] = one_day(10)
    rejected = {"x:one_of": 500, "event_id:conflict": 500, "event_ts:not_after:ingest_ts": 500}
    found = event_results(known, rows_in=1000, rejected=rejected, counters={"duplicates": 300})
    assert len(failed(found)) >= 5
    for name in failed(found):
        assert len(found[name].message) > 60
        assert found[name].of is not None
        assert found[name].layer == "statistics"


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_every_contract_can_be_judged_without_history(name):
    contract = CONTRACTS[name]
    columns = {column: ColumnStatistics() for column in contract.schema.names}
    for result in judge(contract, manifest(name, Statistics(0, columns, {})), None):
        assert result.threshold


def test_sources_that_answer_pass():
    found, compared = proposals(asked=200)
    assert (compared.name, compared.threshold) == ("keys_by_source", "not judged")
    assert (found.name, found.outcome, found.of) == ("sources_answer", "passed", 200)


def test_a_source_that_does_not_answer_is_a_warning_with_the_place_of_its_error():
    *found, _ = proposals(asked=200, **{"left_out:a.b:failed": 50, "left_out:c:slow": 1})
    assert [(one.name, one.outcome, one.severity, one.observed) for one in found] == [
        ("sources_answer:a.b", "failed", "warning", 50), ("sources_answer:c", "failed", "warning", 1),
    ]  # fmt: skip
    assert found[0].message.startswith("a.b failed for 50 of 200 keys (25 %): their sets go without it")
    assert "told.json" in found[0].message
    assert found[1].message.startswith("c was too slow for 1 of 200 keys")


@pytest.mark.parametrize(
    ("now", "then", "warned"),
    [
        (7_900, 8_000, None), (7_199, 8_000, "warning"), (8_801, 8_000, "warning"), (0, 8_000, "warning"), (9_000, 0, None),
        (61, 100, None), (59, 100, "warning"),  # newcomers come by the dozen: 4 / sqrt(100) is chance
    ],
)  # fmt: skip
def test_a_source_that_proposes_for_fewer_or_more_is_told(now, then, warned):
    before = manifest("proposal", Statistics(0, {}, {}), counters={"asked": 5_000, "answered:a": then})
    today = manifest("proposal", Statistics(0, {}, {}), counters={"asked": 5_000, "answered:a": now})
    found = results(CONTRACTS["proposal"], today, before)
    assert failed(found) == ({"keys_by_source:a": warned} if warned else {})
    out = dataclasses.replace(before, counters=before.counters | {"left_out:a:slow": 9})
    assert failed(results(CONTRACTS["proposal"], today, out)) == {}, "it answered for fewer because it was left out"


@pytest.mark.parametrize(("unknown", "severity"), [(0, None), (50, None), (51, "warning")])
def test_likes_of_items_that_the_catalogue_does_not_have_are_told(unknown, severity):
    counters = {"positives": 10_000, "positives_unknown": unknown}
    found = results(CONTRACTS["vocabulary"], manifest("vocabulary", Statistics(9, {}, {}), counters=counters))
    assert failed(found) == ({"items_known": severity} if severity else {})
    if severity:
        assert (
            "51 of 10,000 positives in histories are of items that the catalogue does not"
            in found["items_known"].message
        )


def test_what_was_not_counted_is_not_called_known():
    before_it_was_counted = manifest("vocabulary", Statistics(9, {}, {}), counters={"positives": 10_000})
    uncounted = results(CONTRACTS["vocabulary"], before_it_was_counted)["items_known"]
    assert (uncounted.outcome, uncounted.severity) == ("broken", "critical")
    nobody = manifest("vocabulary", Statistics(9, {}, {}), counters={"positives": 0, "positives_unknown": 0})
    unjudged = results(CONTRACTS["vocabulary"], nobody)["items_known"]
    assert (unjudged.outcome, unjudged.threshold) == ("passed", "not judged")
    assert "no positives" in unjudged.message
