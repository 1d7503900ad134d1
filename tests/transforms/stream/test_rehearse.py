import json

import numpy as np
import polars as pl
import pytest
from toy_stream import event

from transforms.io.broker import Received
from transforms.stream.messages import decode_messages
from transforms.stream.rehearse import BROKEN, DISORDERED, DUPLICATES, LATE, LATE_S, SENT, Mishaps, rehearse


def decoded(messages):
    return decode_messages([Received(one.data, one.attributes, "m", 0.0, "a") for one in messages], "v")


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    payloads = [json.dumps(event(number, f"u{number % 9}")).encode() for number in range(1_000)]
    return decode_messages([Received(one, {}, "m", 0.0, "a") for one in payloads], "v").rows


def test_without_mishaps_events_are_sent_once_in_order_as_they_are(rows):
    found = rehearse(rows.sample(fraction=1.0, shuffle=True, seed=1), Mishaps(), 7, 0)
    assert found.counts == {SENT: 1_000, DUPLICATES: 0, DISORDERED: 0, LATE: 0, BROKEN: 0}
    assert decoded(found.messages).rows.drop("__position").equals(rows.drop("__position"))
    assert (np.diff(found.at_us) >= 0).all()


def test_mishaps_happen_to_the_share_asked_for_and_nothing_is_lost(rows):
    found = rehearse(rows, Mishaps(duplicates=0.1, disorder=0.2, late=0.05, malformed=0.03), 7, 0)
    counts = found.counts
    assert counts[SENT] == len(found.messages) == 1_000 + counts[DUPLICATES] + counts[BROKEN]
    assert 60 < counts[DUPLICATES] < 140
    assert 150 < counts[DISORDERED] < 250
    events = decoded(found.messages)
    assert len(events.causes) == counts[BROKEN]
    assert set(events.rows["event_id"]) == set(rows["event_id"])
    age = (events.rows["ingest_ts"] - events.rows["event_ts"]).dt.total_seconds()
    assert int((age >= LATE_S[0]).sum()) >= counts[LATE]
    assert (np.diff(found.at_us) >= 0).all()
    late_by = events.rows["ingest_ts"].dt.epoch("s") - events.rows["ingest_ts"].dt.epoch("s").cum_max()
    assert -120 < late_by.min() < -30


def test_the_same_seed_gives_the_same_messages_and_each_part_others(rows):
    mishaps = Mishaps(0.1, 0.1, 0.1, 0.1)
    one, again, other = (rehearse(rows, mishaps, 7, part) for part in (0, 0, 1))
    assert one.messages == again.messages
    assert one.messages != other.messages


def test_a_share_is_a_share():
    with pytest.raises(ValueError, match="the share of late is from 0 to 1, came 5"):
        Mishaps(late=5)
