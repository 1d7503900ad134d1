import datetime
import itertools

import pytest

from jobs.options import POLICY_FILE, read_policy
from pipelines.models import training_date
from pipelines.road import Road
from schemas.manifest import DataFile, Manifest

DATE = datetime.date(2026, 1, 31)


def road(date: datetime.date) -> Road:
    return Road(date, 2, read_policy(POLICY_FILE), "code", "batch")


def events(first: datetime.date, days: int = 60) -> Manifest:
    dates = [(first + datetime.timedelta(days=day)).isoformat() for day in range(days)]
    files = tuple(DataFile(f"{day}.parquet", "x", 1, 1, 0, day) for day in dates)
    return Manifest("event", "1.0.0", "f", "ingest", "", "r", "d", 2, "c", {}, (), files, (), 0, 0, {}, {}, {}, ())


def test_one_encoder_serves_a_week_of_dates_whichever_runs_first():
    long_ago = events(DATE - datetime.timedelta(days=59))
    dates = [DATE - datetime.timedelta(days=day) for day in range(21)]
    trained = [training_date(road(date), long_ago) for date in dates]
    assert len(set(trained)) in (3, 4)
    assert all(0 <= (date - then).days < 7 for date, then in zip(dates, trained, strict=True))
    assert all(a == b or (a - b).days == 7 for a, b in itertools.pairwise(trained))


@pytest.mark.parametrize("days", [0, 3, 6])
def test_with_less_than_a_week_of_events_before_it_a_date_trains_for_itself(days):
    assert training_date(road(DATE), events(DATE - datetime.timedelta(days=days), days + 1)) == DATE
