"""The Beam graph of the stream over a published root: the same windows and sets as everywhere else."""

import contextlib
import datetime
import functools
import json
import random
import types

import apache_beam as beam
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from memory_broker import Clock, MemoryBroker

from pipelines.live import BEHIND, Serving, open_live
from pipelines.stream import Stream
from pipelines.stream_metrics import Metrics
from pipelines.stream_verdicts import VerdictsOf
from transforms.index.files import IndexMismatch
from transforms.io.broker import EVENTS, SETS, Message
from transforms.io.state_store import StateStore
from transforms.io.store import open_store
from transforms.model_bundle import ModelBundle
from transforms.stream.beam_messages import received
from transforms.stream.graph import LETTERS, TABLES, SessionSetsOf
from transforms.stream.messages import decode_messages, encode_sets
from transforms.stream.sessions import merge_events
from transforms.stream.spool import MINUTE_S

NOON = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
PUBLISHED = NOON + datetime.timedelta(days=90)
"""Of everything: nothing is ahead of it."""


def message(minute: int, user: str, **fields) -> PubsubMessage:
    at = NOON + datetime.timedelta(minutes=minute)
    told = {
        "event_id": f"{user}-{minute}", "schema_version": 1, "event_type": "play", "event_ts": at.isoformat(),
        "ingest_ts": (at + datetime.timedelta(seconds=1)).isoformat(), "user_id": user, "item_type": "track",
        "item_id": f"tr{2 * (minute % 9):07d}", "ms_played": 60_000, "item_duration_ms": 200_000, "market": "SE",
    } | fields  # fmt: skip
    return PubsubMessage(json.dumps(told).encode(), {}, f"m-{user}-{minute}", PUBLISHED)


MESSAGES = [message(minute, user) for user in ("ann", "bob", "cyd") for minute in range(0, 40, 8)]
BROKEN = [PubsubMessage(b"{", {}, "m-broken", NOON), message(3, "ann", ingest_ts="2026-04-01T00:00:00+00:00")]


@pytest.fixture(scope="module")
def serving(small_road, tmp_path_factory) -> Serving:
    return Serving(str(small_road.root), str(tmp_path_factory.mktemp("live")))


@pytest.fixture(scope="module")
def expected(serving) -> dict[str, bytes]:
    """The last set of every listener, made without Beam from all events at once."""
    events = decode_messages([received(one) for one in MESSAGES], "1").rows
    states = merge_events(dict.fromkeys(("ann", "bob", "cyd")), events).states
    sets = serving().sets(states)
    return {one.attributes["user_id"]: one.data for one in encode_sets(sets, {})}


def last_sets(messages) -> dict[str, bytes]:
    """Return what a reader is left with: the set of the highest sequence."""
    kept: dict[str, tuple[int, bytes]] = {}
    for one in messages:
        entry = (int(one.attributes["sequence"]), one.data)
        before = kept.get(one.attributes["user_id"], (0, b""))
        assert entry[0] != before[0] or entry == before, "one sequence, two sets"
        kept[one.attributes["user_id"]] = max(before, entry)
    return {user: data for user, (_, data) in kept.items()}


def holds(expected, most: int, found) -> None:
    assert last_sets(found) == expected
    assert len(expected) <= len(found) <= most, f"{len(found)} sets"


def died_of(causes, found) -> None:
    assert sorted(json.loads(one.data)["error_class"] for one in found) == sorted(causes)


def pass_checks(least: int, found) -> None:
    verdicts = [json.loads(one.data) for one in found]
    assert {one["outcome"] for one in verdicts} == {"passed"}, [one["detail"] for one in verdicts]
    assert sum(one["sets"] for one in verdicts) >= least


@pytest.mark.parametrize("seed", [1, 2])
def test_a_bulk_replay_says_the_last_word_and_nothing_else(serving, expected, seed):
    dice = random.Random(seed)
    told = [*MESSAGES, *dice.choices(MESSAGES, k=6), *BROKEN]
    dice.shuffle(told)
    with beam.Pipeline("FnApiRunner") as pipeline:
        made = pipeline | beam.Create(told) | SessionSetsOf(serving, "1", bounded=True)
        assert_that(made["sets"], functools.partial(holds, expected, len(expected)), label="sets")
        assert_that(made[LETTERS], functools.partial(died_of, ["decode:malformed", "late_bucket"]), label="letters")


def test_a_stream_answers_at_once_and_then_once_per_pause(serving, expected, monkeypatch):
    told = random.Random(3).sample([*MESSAGES, *MESSAGES[::3]], k=len(MESSAGES) + 5)
    stream = TestStream().advance_watermark_to(0)
    for some in _batched(told, 4):
        stream = stream.add_elements(some).advance_processing_time(0.3)
    for seconds in (5, 5, 2 * MINUTE_S):
        stream = stream.advance_processing_time(seconds)
    stream = stream.advance_watermark_to_infinity()
    options = PipelineOptions(streaming=True, runner="BundleBasedDirectRunner", allow_unsafe_triggers=True)
    with beam.Pipeline(options=options) as pipeline:
        made = pipeline | stream | SessionSetsOf(serving, "1", clock=stopped)
        assert_that(made["sets"], functools.partial(holds, expected, 2 * len(expected)), label="sets")
        verdicts = made[TABLES] | VerdictsOf("1", clock=stopped)
        assert_that(verdicts, functools.partial(pass_checks, len(expected)), label="verdicts")


def stopped() -> float:
    """The clock of a runner whose time is what the test makes it: it begins at 0."""
    return 0.0


def _batched(values, size):
    return [values[start : start + size] for start in range(0, len(values), size)]


@pytest.mark.parametrize("seed", [4, 5])
def test_the_local_driver_ends_with_the_same_bytes(serving, expected, tmp_path, seed):
    dice, clock = random.Random(seed), Clock(PUBLISHED.timestamp())
    broker = MemoryBroker(clock)
    told = [*MESSAGES, *dice.choices(MESSAGES, k=6), *BROKEN]
    dice.shuffle(told)
    with contextlib.closing(StateStore(tmp_path / "state")) as store:
        stream = Stream(
            broker=broker, store=store, step=serving(), metrics=Metrics(), code_version="1", reload=lambda: None,
            clock=clock, stop=clock, say=print,
        )  # fmt: skip
        for some in _batched(told, dice.randrange(2, 9)):
            broker.publish(EVENTS, [Message(one.data, {}) for one in some])
            stream.tick()
            clock.now += dice.random()
        clock.stopped = True
        stream.run()
    assert last_sets(broker.published[SETS]) == expected


def refused(bundle) -> None:
    raise IndexMismatch("the index has code version 1, but is asked for with code version 2")


def test_a_bundle_that_cannot_be_opened_leaves_the_one_before_serving(copy_road, tmp_path, monkeypatch):
    serving = Serving(str(copy_road.root), str(tmp_path / "live"))
    first, counted = serving(), list[str]()
    counting = lambda _, name: types.SimpleNamespace(inc=lambda: counted.append(name))  # noqa: E731
    monkeypatch.setattr("pipelines.live.Metrics.counter", counting)
    assert serving() is first, "opened once"
    assert counted == []
    pointer = copy_road.root / "live" / "now_playing.json"
    whole = pointer.read_text()
    pointer.write_text(whole.replace(first.bundle, "0" * 16))
    assert serving() is first
    pointer.write_text("{")
    assert serving() is first
    told = json.loads(whole)
    with monkeypatch.context() as other_code:
        other_code.setattr(ModelBundle, "items", refused)
        pointer.write_text(json.dumps(told | {"run": "of other code"}))
        assert serving() is first
        before = list(counted)
        assert serving() is first
        assert counted == [*before, BEHIND], "for as long as it is so"
    pointer.write_text(json.dumps(told | {"run": "another"}))
    assert serving() is not first
    assert open_live(open_store(str(copy_road.root)), tmp_path / "live").provenance.fields["base_run_id"] == "another"
