import dataclasses
import datetime

import pytest
from toy_manifests import DATE, EXPOSURE, exposure, failed, items, manifest, results, sets

from schemas.catalogue import CONTRACTS
from validation.freshness_gates import FRESHNESS_GATES
from validation.statistics import ColumnStatistics, Statistics


@pytest.mark.parametrize(("plays", "severity"), [(0, None), (100, None), (101, "warning")])
def test_a_swarm_of_machines_is_told(plays, severity):
    columns = {column: ColumnStatistics() for column in CONTRACTS["history"].schema.names}
    counters = {"machine_days": 3, "machine_plays": plays}
    found = results(
        CONTRACTS["history"], manifest("history", Statistics(1000, columns, {}), rows_in=100_000, counters=counters)
    )
    assert failed(found) == ({"machine_plays": severity} if severity else {})
    if severity:
        assert "101 positives of 3 days of users with more than 2,000 are in no tally" in found["machine_plays"].message


@pytest.mark.parametrize(
    ("name", "severity", "said"),
    [("live_hits", "critical", "are in what is live; run the latest date again"),
     ("overdue_hits", "critical", "should have been gone for 30 days; the scan says in which dataset"),
     ("kept_hits", "warning", "are in sets that a rollback would make live"), ("behind_hits", None, "")],
)  # fmt: skip
def test_what_must_be_gone_and_is_not_is_told(name, severity, said):
    found = results(
        CONTRACTS["tombstone_scan"], manifest("tombstone_scan", Statistics(1, {}, {}), counters={name: 2, "files": 9})
    )
    assert failed(found) == ({name: severity} if severity else {})
    if severity:
        assert f"2 rows or slots of erased users and of items taken down {said}" in found[name].message


def test_sets_that_narrow_by_a_little_every_day_are_told_after_weeks():
    """A feedback loop takes 1 % of the coverage a day: never enough against yesterday, a quarter against four weeks ago."""
    yesterday = exposure(covered_items=11_900, gini_ppm=555_000)
    weeks = {f"weeks_ago:{name}": EXPOSURE[name] for name in ("covered_items", "eligible_items", "gini_ppm")}
    found = results(CONTRACTS["exposure"], exposure(covered_items=11_800, gini_ppm=556_000, **weeks), yesterday)
    assert failed(found) == {"catalogue_coverage_in_weeks": "warning", "gini_in_weeks": "warning"}
    assert "11.8 % of the eligible items are in some set, 15 % were" in found["catalogue_coverage_in_weeks"].message
    assert found["gini"].outcome == "passed"
    alone = results(CONTRACTS["exposure"], exposure(), yesterday)
    assert "no earlier run to compare with" in alone["gini_in_weeks"].message


@pytest.mark.parametrize(("days", "severity"), [(0.5, None), (3.0, None), (3.5, "warning")])
def test_a_catalogue_of_another_day_is_told(days, severity):
    now = items(1000)
    end = datetime.datetime.fromisoformat(DATE).replace(tzinfo=datetime.UTC) + datetime.timedelta(days=1)
    now.statistics["columns"]["updated_at"]["high"] = (end.timestamp() - days * 86_400) * 1e6
    found = results(CONTRACTS["item"], now)
    assert failed(found) == ({"catalogue_age": severity} if severity else {})
    if severity:
        assert (
            "nothing in the catalogue changed for 3.5 days: is an old delivery read again?"
            in found["catalogue_age"].message
        )


SETS_CONTRACT = CONTRACTS["candidate_set"]


@pytest.mark.parametrize(("hours", "severity"), [(0, None), (24, None), (48, "critical")])
def test_sets_on_vectors_of_days_before_are_stopped(hours, severity):
    found = results(SETS_CONTRACT, sets(vectors_age_hours=hours))
    assert failed(found) == ({"vectors_age": severity} if severity else {})
    assert (found["vectors_age"].observed, found["vectors_age"].threshold) == (hours, "B > 26 h")
    if severity:
        assert "are 48 h older than the sets: what was released since cannot be found" in found["vectors_age"].message


def test_an_index_that_was_built_of_other_vectors_is_stopped():
    found = results(SETS_CONTRACT, sets(indexes_of_other_vectors=1))
    assert failed(found) == {"index_of_vectors": "critical"}
    assert "was not built from the item vectors that the sets rest on" in found["index_of_vectors"].message
    without = results(SETS_CONTRACT, sets(indexes=0))
    assert failed(without) == {}
    assert without["index_of_vectors"].message == "vectors are searched without an index"


@pytest.mark.parametrize("name", ["vectors_age_hours", "indexes", "indexes_of_other_vectors"])
def test_sets_whose_age_nobody_counted_are_not_published(name):
    now = sets()
    del now.counters[name]
    found = results(SETS_CONTRACT, now)
    for gate in FRESHNESS_GATES:
        assert (found[gate].outcome, found[gate].severity) == ("broken", "critical")
        assert found[gate].message == f"the stage did not count {name}"


@pytest.mark.parametrize(
    ("held", "may", "severity", "observed"),
    [({6: 1}, {2: 10}, None, 6), ({1: 1, 4: 9}, {0: 10}, None, 1), ({}, {2: 10, 5: 1}, "warning", None),
     ({}, {2: 9}, None, None)],
)  # fmt: skip
def test_sets_without_anything_released_lately_are_told(held, may, severity, observed):
    """Ten releases are enough: of fewer all may be for a market that nobody is in."""
    counters = dict.fromkeys(
        (f"{kind}_released_days_ago:{age}" for kind in ("slots", "eligible") for age in range(7)), 0
    )
    counters |= {f"slots_released_days_ago:{age}": n for age, n in held.items()}
    counters |= {f"eligible_released_days_ago:{age}": n for age, n in may.items()}
    found = results(SETS_CONTRACT, sets(**counters))
    assert failed(found) == ({"freshest_item": severity} if severity else {})
    assert found["freshest_item"].observed == observed
    if severity:
        said = "none of the 11 items to recommend that were released in the last 7 days is in any set, the latest 2 days ago"
        assert said in found["freshest_item"].message


def test_an_overlay_is_as_old_as_what_it_lies_on():
    now = dataclasses.replace(sets(vectors_age_hours=48, indexes_of_other_vectors=1), config={"run_mode": "stream"})
    assert failed(results(SETS_CONTRACT, now)) == {}
