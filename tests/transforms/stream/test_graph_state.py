"""The graph by itself, over a step whose answer is plain."""

import datetime
import functools
import json

import apache_beam as beam
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import TimestampedValue
from toy_stream import BEGIN, WindowStep, event

from transforms.stream.graph import COUNTERS, IDLE_S, SessionSetsOf
from transforms.stream.messages import TRACE
from transforms.stream.session import APPLIED, CONFLICT, DUPLICATE, LATE, PRIVATE, SILENT, TOO_LATE
from transforms.stream.sets import QUARANTINED

STEP = WindowStep()
PUBLISHED = BEGIN + datetime.timedelta(days=90)
"""Of everything: nothing is ahead of it."""


def live() -> WindowStep:
    return STEP


def message(number: int, user: str = "u1", **fields) -> PubsubMessage:
    return PubsubMessage(json.dumps(event(number, user, **fields)).encode(), {}, f"m-{user}-{number}", PUBLISHED)


def are_so_many(count: int, found) -> None:
    assert len(found) == count
    assert len({one.data for one in found}) == 1


@pytest.mark.parametrize(("later", "sets"), [(-3_600, 1), (3_600, 2)])
def test_who_was_silent_for_two_days_is_forgotten(later, sets):
    """What is delivered again then is new: nothing is known of the listener."""
    at = BEGIN.timestamp()
    once = TimestampedValue(message(0), at)
    told = (
        TestStream().advance_watermark_to(at - 1).add_elements([once]).advance_processing_time(5)
        .advance_watermark_to(at + IDLE_S + later).advance_processing_time(5)
        .add_elements([once]).advance_processing_time(5).advance_processing_time(5)
        .advance_watermark_to_infinity()
    )  # fmt: skip
    options = PipelineOptions(streaming=True, runner="BundleBasedDirectRunner", allow_unsafe_triggers=True)
    with beam.Pipeline(options=options) as pipeline:
        made = pipeline | told | SessionSetsOf(live, "1", clock=lambda: 0.0)
        assert_that(made["sets"], functools.partial(are_so_many, sets))


def counters(done) -> dict[str, int]:
    """Return what a run counted, over all its steps."""
    counted: dict[str, int] = {}
    for one in done.metrics().query(MetricsFilter().with_namespace("stream"))["counters"]:
        counted[one.key.metric.name] = counted.get(one.key.metric.name, 0) + one.committed
    return counted


def test_what_became_of_every_event_is_counted():
    hour = 3_600
    came = [
        message(hour), message(hour), message(hour, item_id="another"), message(hour + 1),
        message(hour + 2, private_session=True), message(hour + 3, event_type="impression"),
        message(0, ingest_ts=BEGIN.replace(hour=13).isoformat()),
        message(0, ingest_ts=BEGIN.replace(month=3).isoformat()), message(hour, "u2"),
    ]  # fmt: skip
    pipeline = beam.Pipeline("FnApiRunner")
    _ = pipeline | beam.Create(came) | SessionSetsOf(live, "1", bounded=True)
    done = pipeline.run()
    done.wait_until_finish()
    wanted = dict.fromkeys((DUPLICATE, CONFLICT, PRIVATE, SILENT, LATE, TOO_LATE), 1)
    assert counters(done) == wanted | {
        APPLIED: 3, "sets": 2, "messages": 9, "dead_letters": 2, "parked": 0, "rejected": 0, "clock_skew": 0,
        "degraded_quarantined": 0, "degraded_below_minimum_size": 0,
    }  # fmt: skip


class Degraded(WindowStep):
    """Gives everybody charts, and too few."""

    def _set(self, user: str, state: bytes) -> dict:
        return super()._set(user, state) | {"degraded_reasons": [QUARANTINED, "below_minimum_size", "of_another_kind"]}


def test_what_alerts_are_about_is_counted():
    ahead = BEGIN.replace(hour=11).isoformat()
    came = [
        message(1), message(2), message(3, "u2"), message(4, ingest_ts=ahead), message(5, event_type="teleport"),
        PubsubMessage(b"{", {}, "m", PUBLISHED),
    ]  # fmt: skip
    gone = {"entity": "item", "id": "i6", "reason": "takedown", "effective_ts": BEGIN.isoformat()}
    control = [PubsubMessage(json.dumps(one).encode(), {}, "c", PUBLISHED) for one in (gone, {"entity": "planet"})]
    pipeline = beam.Pipeline("FnApiRunner")
    both = pipeline | "Events" >> beam.Create(came), pipeline | "Control" >> beam.Create(control)
    _ = both | SessionSetsOf(Degraded, "1", bounded=True, spread=2)
    done = pipeline.run()
    done.wait_until_finish()
    counted = counters(done)
    assert counted == {
        APPLIED: 3, "sets": 2, "messages": 6, "dead_letters": 4, "parked": 0, "rejected": 3, "clock_skew": 1,
        "degraded_quarantined": 2, "degraded_below_minimum_size": 2, "tombstones": 1,
    }  # fmt: skip
    assert counted.keys() - {APPLIED} <= set(COUNTERS)


def trace(wanted: dict[str, str], found) -> None:
    assert {one.attributes["user_id"]: one.attributes.get(TRACE) for one in found} == wanted


def test_a_set_names_the_newest_event_it_knows_of_and_none_that_was_private():
    came = [
        message(5), message(9), message(7), message(2, "u2"), message(9, event_id="secret-1", private_session=True),
        message(11, event_id="secret-2", consent_personalization=False),
        message(3, "u3", event_id="secret-3", private_session=True),
    ]  # fmt: skip
    with beam.Pipeline("FnApiRunner") as pipeline:
        made = pipeline | beam.Create(came) | SessionSetsOf(live, "1", bounded=True)
        assert_that(made["sets"], functools.partial(trace, {"u1": "u1-e9", "u2": "u2-e2"}))
