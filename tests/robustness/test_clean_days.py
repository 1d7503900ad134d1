"""Clean days raise no alarm. `python tests/robustness/clean_days.py` runs the whole road on thirty of them."""

import dataclasses
import datetime

import pytest
from clean_days import WARM_UP_DAYS, world
from road_folders import write_raw

from jobs.options import build_runner, read_policy
from pipelines.batch import ingest_all
from pipelines.road import Road
from schemas.inputs import EVENT
from schemas.manifest import CheckResult, Manifest
from transforms.io.store import open_store
from validation.gates import judge

DAYS = 30
FEW_WARNINGS = 0.02
"""Share of checks that may warn: three deviations are passed by one normal figure in 370, and figures have tails."""


def ingest(folder, setting, policy) -> Manifest:
    """Ingest a whole world as of its last day."""
    store, raw = open_store(f"{folder}/root"), write_raw(folder / "raw", setting)
    runner = build_runner(store, setting.end.isoformat(), [], None, {})
    road = Road(setting.end, 2, read_policy(policy), runner.code_version, "batch")
    return ingest_all(runner, road, open_store(str(raw))).events


def judged(events: Manifest, days: int) -> dict[str, list[CheckResult]]:
    """Judge each of the last days as if it were the run's."""
    last = datetime.date.fromisoformat(events.date)
    dates = [(last - datetime.timedelta(days=n)).isoformat() for n in range(days)]
    return {date: judge(EVENT, dataclasses.replace(events, date=date), None) for date in dates}


@pytest.mark.parametrize(
    ("users", "per_day", "seed"), [(300, 800, 7), (300, 800, 8), (1_500, 3_000, 9)], ids=["small", "other", "bigger"]
)
def test_thirty_clean_days_of_events_raise_no_alarm(tmp_path, small_policy, users, per_day, seed):
    events = ingest(tmp_path, world(DAYS, users, per_day, seed), small_policy)
    results = [(date, check) for date, checks in judged(events, DAYS).items() for check in checks]
    assert len({date for date, _ in results}) == DAYS
    told = [
        f"{date} {check.severity} {check.name}: {check.message}" for date, check in results if check.outcome == "failed"
    ]
    assert not [line for line in told if " critical " in line]
    assert len(told) <= FEW_WARNINGS * len(results), told
    unjudged = {f"{check.name}: {check.message}" for _, check in results if check.threshold == "not judged"}
    assert not unjudged, f"after {WARM_UP_DAYS} days every check has its history"


def test_a_bad_day_among_them_raises_one(tmp_path, small_policy):
    events = ingest(tmp_path, world(2), small_policy)
    (day, *_) = judged(events, 1)
    days = {name: dict(value) for name, value in events.statistics["days"].items()}
    days[day] |= {"rows": days[day]["rows"] // 2}
    halved = dataclasses.replace(events, statistics=events.statistics | {"days": days})
    assert "rows_on_date" in {check.name for check in judged(halved, 1)[day] if check.outcome == "failed"}
