"""What must disappear reaches the graph's workers while it runs."""

import datetime
import json
import random

import apache_beam as beam
import polars as pl
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from toy_stream import BEGIN, WindowStep, event

from transforms.stream.control import LETTERS, StepsWithout, tombstones
from transforms.stream.graph import SessionSetsOf
from transforms.stream.messages import decode_set

STEP = WindowStep()


def live() -> WindowStep:
    return STEP


def heard(number: int, user: str) -> PubsubMessage:
    return PubsubMessage(json.dumps(event(number, user)).encode(), {}, f"{user}-{number}", BEGIN)


def gone(entity: str, id_: str, **fields) -> PubsubMessage:
    told = {"entity": entity, "id": id_, "reason": "takedown", "effective_ts": BEGIN.isoformat()} | fields
    return PubsubMessage(json.dumps(told).encode(), {}, f"{entity}-{id_}", BEGIN)


def offered(messages) -> dict[str, list[list[str]]]:
    """Return what each listener was offered, set after set."""
    found: dict[str, list[tuple[int, list[str]]]] = {}
    for one in messages:
        told = decode_set(one.data)
        items = [candidate["item_id"] for candidate in told["candidates"]]
        found.setdefault(told["user_id"], []).append((told["sequence"], items))
    return {user: [items for _, items in sorted(sets)] for user, sets in found.items()}


def as_wanted(messages) -> None:
    found = offered(messages)
    assert found["before"] == [["i1"]]
    assert found["after"] == [["i2"]], "i1 is taken down"
    assert found["erased"] == [["i1"]], "nothing of what came after the erasure"


def letters_of(messages) -> None:
    found = sorted((json.loads(one.data)["error_class"], json.loads(one.data)["user_id"]) for one in messages)
    assert found == [("LookupError", "broken"), ("entity:one_of", None)]


def test_a_takedown_and_an_erasure_take_effect_while_the_graph_runs():
    told = (
        TestStream(output_tags={"events", "control"})
        .advance_watermark_to(0, tag="events").advance_watermark_to(0, tag="control")
        .advance_processing_time(6).advance_processing_time(6).advance_processing_time(6)
        .add_elements([heard(1, "before"), heard(1, "erased"), heard(1, "broken")], tag="events")
        .advance_processing_time(1).advance_processing_time(1)
        .add_elements([gone("item", "i1"), gone("user", "erased", reason="erasure"), gone("planet", "x")], tag="control")
        .advance_processing_time(6).advance_processing_time(6)
        .add_elements([heard(1, "after"), heard(2, "after"), heard(9, "erased")], tag="events")
        .add_elements([PubsubMessage(b'{"user_id": "erased"}', {}, "m", BEGIN)], tag="events")
        .advance_processing_time(5).advance_processing_time(5)
        .advance_watermark_to_infinity(tag="events").advance_watermark_to_infinity(tag="control")
    )  # fmt: skip
    options = PipelineOptions(streaming=True, runner="BundleBasedDirectRunner", allow_unsafe_triggers=True)
    with beam.Pipeline(options=options) as pipeline:
        came = pipeline | told
        made = (came["events"], came["control"]) | SessionSetsOf(live, "1", clock=lambda: 0.0)
        assert_that(made["sets"], as_wanted, label="sets")
        assert_that(made[LETTERS], letters_of, label="letters")


def row(entity: str, id_: str, reason: str = "takedown", hour: int = 1) -> tuple:
    return entity, id_, reason, datetime.datetime(2026, 1, 31, hour, tzinfo=datetime.UTC)


def test_tombstones_are_the_same_whichever_came_first():
    rows = [row("item", "a"), row("item", "b"), row("user", "a"), row("item", "a", "legal"), row("item", "a", hour=2)]
    first = tombstones(rows)
    for seed in range(20):
        random.Random(seed).shuffle(rows)
        assert tombstones([*rows, rows[0]]).equals(first)
    assert first.select("entity", "id").rows() == [("item", "a"), ("item", "b"), ("user", "a")]
    assert tombstones([]).schema["effective_ts"] == pl.Datetime("us", "UTC")


def test_groups_that_know_of_the_same_share_a_step():
    steps, some = StepsWithout(), tombstones([row("item", "a")])
    assert steps.of(STEP, tombstones([])) is STEP
    first = steps.of(STEP, some)
    assert first.gone == {"a"}
    assert steps.of(STEP, tombstones([row("item", "a"), row("item", "a")])) is first
    for id_ in "bcd":
        steps.of(STEP, tombstones([row("item", id_)]))
    assert steps.of(STEP, some) is not first, "two are kept"
    assert steps.of(WindowStep(), some) is not steps.of(STEP, some)
