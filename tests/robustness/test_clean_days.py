"""Clean days raise no alarm. `python tests/robustness/clean_days.py` runs the whole road on thirty of them."""

import dataclasses
import datetime

import pytest
from clean_days import WARM_UP_DAYS, world
from road_folders import ingest, write_raw

from schemas.inputs import EVENT
from schemas.manifest import CheckResult, Manifest
from validation.gates import judge

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
