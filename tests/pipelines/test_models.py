import dataclasses
import datetime
import itertools
import types

import pytest

from jobs.options import POLICY_FILE, read_policy
from pipelines.models import _known_encoder, encoder_settings, training_date
from pipelines.road import Road
from pipelines.train import ENCODER, training_config
from schemas.manifest import DataFile, InputRef, Manifest
from transforms.io.store import Store, open_store

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


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(str(tmp_path))


def trained(store: Store, **fields) -> Manifest:
    """Return the training of an encoder for the date, its vocabulary committed."""
    numbered = dataclasses.replace(events(DATE, 1), dataset="vocabulary")
    store.write_bytes("data/vocabulary/manifest.json", numbered.to_json().encode())
    settings = encoder_settings(road(DATE).policy.road.encoder_epochs)
    made = dataclasses.replace(
        numbered, dataset="training", qualifier=ENCODER, date=DATE.isoformat(), code_version="code",
        config=training_config(road(DATE), ENCODER, settings, refit=True) | {"share": 0.5},
        inputs=(InputRef("history", "gone", "x"), InputRef("vocabulary", "data/vocabulary/manifest.json", "x")),
    )  # fmt: skip
    return dataclasses.replace(made, **fields)


def known(store: Store, training: Manifest | None, then: Road | None = None):
    previous = {} if training is None else {"training/encoder": training}
    return _known_encoder(
        types.SimpleNamespace(store=store, previous=previous, code_version="code"), then or road(DATE)
    )


def test_the_encoder_of_the_road_before_serves_on_whatever_its_inputs_have_become(store):
    found = known(store, trained(store))
    assert found.training == trained(store)
    assert found.vocabulary.dataset == "vocabulary"


def test_another_date_code_setting_or_device_trains_anew(store):
    assert known(store, None) is None
    assert known(store, trained(store, date="2026-01-24")) is None
    assert known(store, trained(store, code_version="other")) is None
    assert known(store, trained(store, config=trained(store).config | {"seed": 1})) is None
    assert known(store, trained(store), dataclasses.replace(road(DATE), device="cuda")) is None
