"""Clean days raise no alarm. `python tests/robustness/clean_days.py` runs the whole road on thirty of them."""

import dataclasses
import datetime

import pytest
from clean_days import WARM_UP_DAYS, world
from clean_manifests import clean_days
from road_folders import ingest, write_raw
from toy_manifests import manifest

from schemas.catalogue import CONTRACTS
from schemas.inputs import EVENT
from schemas.manifest import CheckResult, Manifest
from validation.gates import judge
from validation.statistics import ColumnStatistics, Statistics

DAYS = 30
FEW_WARNINGS = 0.02
"""Share of checks that may warn: three deviations are passed by one normal figure in 370, and figures have tails."""


def judged(events: Manifest, days: int) -> dict[str, list[CheckResult]]:
    """Judge each of the last days as if it were the run's."""
    last = datetime.date.fromisoformat(events.date)
    dates = [(last - datetime.timedelta(days=n)).isoformat() for n in range(days)]
    return {date: judge(EVENT, dataclasses.replace(events, date=date), None) for date in dates}


@pytest.fixture(scope="module", params=[(300, 800, 7), (1_500, 3_000, 9)], ids=["small", "bigger"])
def events(request, tmp_path_factory, small_policy) -> Manifest:
    """The events of thirty days and the thirty before them, ingested as of the last one."""
    folder, (users, per_day, seed) = tmp_path_factory.mktemp("clean"), request.param
    return ingest(write_raw(folder / "raw", world(DAYS, users, per_day, seed)), folder / "root", small_policy)


def test_thirty_clean_days_of_events_raise_no_alarm(events):
    results = [(date, check) for date, checks in judged(events, DAYS).items() for check in checks]
    assert len({date for date, _ in results}) == DAYS
    failed = [(date, check) for date, check in results if check.outcome != "passed"]
    told = [f"{date} {check.severity} {check.name}: {check.message}" for date, check in failed]
    assert not [line for line in told if " critical " in line]
    assert len(told) <= FEW_WARNINGS * len(results), told
    unjudged = {f"{check.name}: {check.message}" for _, check in results if check.threshold == "not judged"}
    assert not unjudged, f"after {WARM_UP_DAYS} days every check has its history"


def test_a_halved_day_among_them_raises_one(events):
    days = {name: dict(day) for name, day in events.statistics["days"].items()}
    days[events.date] |= {"rows": days[events.date]["rows"] // 2 - 1}
    halved = dataclasses.replace(events, statistics=events.statistics | {"days": days})
    assert "rows_on_date" in {c.name for c in judged(halved, 1)[events.date] if c.outcome == "failed"}


# Every other gated dataset, from manifests of a model of clean days.

Days = list[dict[str, Manifest]]


@pytest.fixture(scope="module", params=[1, 2, 3])
def days(request) -> Days:
    return clean_days(WARM_UP_DAYS + DAYS, request.param)


def against_yesterday(days: Days, name: str, n: int) -> list[CheckResult]:
    return judge(CONTRACTS[name], days[n][name], days[n - 1][name])


def test_every_dataset_that_is_gated_has_a_model(days):
    empty = {name: ColumnStatistics() for contract in CONTRACTS.values() for name in contract.schema.names}
    gated = {name for name in CONTRACTS if judge(CONTRACTS[name], manifest(name, Statistics(0, empty, {})), None)}
    assert gated - {"event"} == set(days[0])


def test_thirty_clean_days_of_every_other_dataset_raise_no_alarm(days):
    results = [
        (f"{days[n][name].date} {name}", check)
        for n in range(WARM_UP_DAYS, len(days))
        for name in days[n]
        for check in against_yesterday(days, name, n)
    ]
    told = [f"{of} {c.severity} {c.name}: {c.message}" for of, c in results if c.outcome != "passed"]
    assert not [line for line in told if " critical " in line]
    assert len(told) <= FEW_WARNINGS * len(results), told
    unjudged = {f"{check.name}: {check.message}" for _, check in results if check.threshold == "not judged"}
    assert not unjudged, "every check has its history"


BAD_DAYS = {
    "co_listen": ("rows_vs_previous", lambda one: dataclasses.replace(one, statistics=one.statistics | {"rows": 9})),
    "item": ("items_vs_previous", lambda one: dataclasses.replace(one, statistics=one.statistics | {"rows": 60_000})),
    "item_embedding": ("coverage", lambda one: dataclasses.replace(one, rows_in=one.rows_in * 2)),
    "index": ("recall", lambda one: counted(one, hits=180_000)),
    "candidate_set": ("fallback_share", lambda one: counted(one, fallback_of_listeners=30_000)),
    "exposure": ("single_item_share", lambda one: counted(one, max_item_sets_chosen=50_000)),
    "proposal": ("psi:scores:relisten", lambda one: halved_scores(one, "relisten")),
}


def halved_scores(one: Manifest, source: str) -> Manifest:
    """Return proposals whose scores are half of what they were: four bins lower."""
    own = f"scores:{source}:"
    others = {name: n for name, n in one.counters.items() if not name.startswith(own)}
    bins = {name.removeprefix(own): n for name, n in one.counters.items() if name.startswith(own)}
    return dataclasses.replace(one, counters=others | {f"{own}{int(bin_) - 4}": n for bin_, n in bins.items()})


def counted(one: Manifest, **counters: int) -> Manifest:
    return dataclasses.replace(one, counters=one.counters | counters)


@pytest.mark.parametrize("name", BAD_DAYS)
def test_a_bad_day_among_them_raises_one(days, name):
    check, spoil = BAD_DAYS[name]
    found = judge(CONTRACTS[name], spoil(days[-1][name]), days[-2][name])
    assert check in {one.name for one in found if one.outcome == "failed" and one.severity == "critical"}
