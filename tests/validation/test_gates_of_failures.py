import datetime

import pytest
from toy_manifests import DATE, EXPOSURE, exposure, failed, items, manifest, results

from schemas.catalogue import CONTRACTS
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
