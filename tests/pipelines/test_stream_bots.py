"""Fifty bots among ordinary listeners, through the driver and through the Beam graph: they slow nobody, and nothing of theirs is lost."""

import collections
import datetime
import functools
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence

import apache_beam as beam
import polars as pl
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from memory_broker import ACK_S, Clock, MemoryBroker
from toy_stream import BEGIN, WindowStep, event, final, send

from pipelines.stream import MOST_MESSAGES, MOST_SETS, Stream
from pipelines.stream_alerts import RULES
from pipelines.stream_metrics import Metrics
from transforms.io.broker import EVENTS, SETS, Received
from transforms.io.state_store import StateStore
from transforms.stream import session
from transforms.stream.graph import SessionSetsOf
from transforms.stream.messages import decode_messages, encode_sets
from transforms.stream.quarantine import HOLD_S
from transforms.stream.session import APPLIED, OUTLIVED, Window
from transforms.stream.sessions import merge_events
from transforms.stream.step import Merged

BOTS, LISTENERS, SECONDS, FULL = 50, MOST_SETS - 40, 12, 40
"""Listeners who have a set due in a second: with all the bots, more than a batch makes."""

PUBLISHED = BEGIN + datetime.timedelta(days=1)
"""Of everything the graph is given: nothing is ahead of it."""


class CountingStep(WindowStep):
    """Counts how often the window of each listener is read to be merged."""

    def merge(self, states: Mapping[str, bytes | None], events: pl.DataFrame) -> Merged:
        counted.update(list(states))
        return super().merge(states, events)


counted: collections.Counter[str] = collections.Counter()


@pytest.fixture(autouse=True)
def _short_windows(monkeypatch) -> None:
    """A bot is who plays 40 things a day."""
    monkeypatch.setattr(session, "MOST", FULL)
    counted.clear()


def flood(second: int) -> list[dict]:
    """What bots send in a second: five events each, and in the first one enough to be known for what they are."""
    each = range(FULL + 5) if second == 0 else range(5)
    return [event(100 + second, f"bot{b:02}", event_id=f"b{b}-{second}-{n}") for b in range(BOTS) for n in each]


def ordinary(second: int) -> list[dict]:
    """What listeners send in a second: each of them plays something every third."""
    users = range(second % 3 * LISTENERS, (second % 3 + 1) * LISTENERS)
    return [event(100 + second, f"u{u}") for u in users] if second else []


def drive(folder, sent: Sequence[list[dict]]) -> tuple[Stream, MemoryBroker, dict[tuple[str, str], tuple[int, int]]]:
    """Let a stream work on what is sent, second by second, and stop it.

    Returns:
      It, its broker, and in which batch of which second each set of an ordinary listener came out, by user and sequence.
    """
    clock = Clock(BEGIN.timestamp() + 101)
    broker, when, seen = MemoryBroker(clock), dict[tuple[str, str], tuple[int, int]](), 0
    stream = Stream(
        broker=broker, store=StateStore(folder), step=CountingStep(), metrics=Metrics(), code_version="v",
        reload=lambda: None, clock=clock, stop=clock, say=print,
    )  # fmt: skip
    for second, came in enumerate(sent):
        clock.now, batch = BEGIN.timestamp() + 101 + second, 0
        send(broker, *random.Random(second).sample(came, len(came)))
        while any(kept.visible_s <= clock.now for kept in broker.topics[EVENTS]):
            stream.tick()
            batch += 1
            for message in broker.published[SETS][seen:]:
                when[message.attributes["user_id"], message.attributes["sequence"]] = second, batch
            seen = len(broker.published[SETS])
    clock.stopped = True
    stream.run()
    return stream, broker, {of: at for of, at in when.items() if of[0].startswith("u")}


def in_bulk(events: Sequence[dict]) -> dict[str, bytes]:
    """Return the last set of everybody, made of all events at once."""
    sent = [Received(json.dumps(one).encode(), {}, "m", PUBLISHED.timestamp(), "a") for one in events]
    rows = decode_messages(sent, "v").rows
    states = merge_events(dict.fromkeys(rows["user_id"]), rows).states
    return {one.attributes["user_id"]: one.data for one in encode_sets(WindowStep().sets(states), {})}


def test_fifty_bots_slow_no_listener_and_all_they_send_is_accounted_for(tmp_path):
    quiet = [ordinary(second) for second in range(SECONDS)]
    loud = [some + flood(second) for second, some in enumerate(quiet)]
    *_, undisturbed = drive(tmp_path / "quiet", quiet)
    counted.clear()
    stream, broker, beside_bots = drive(tmp_path / "loud", loud)
    assert beside_bots == undisturbed, "in the same batch of the same second"
    assert len(undisturbed) == LISTENERS * (SECONDS - 1)
    everything = list(itertools.chain.from_iterable(loud))
    assert stream.metrics.total("outcomes") == stream.metrics.total("messages") == len(everything)
    told = {outcome: number for (outcome,), number in stream.metrics.by_label("outcomes").items() if number}
    assert told.keys() == {APPLIED, OUTLIVED}
    assert broker.topics[EVENTS] == []
    states = stream.store.states(f"bot{b:02}" for b in range(BOTS))
    assert {len(Window.from_bytes(state).heard) for state in states.values()} == {FULL}
    assert final(broker) == in_bulk(everything)
    first = math.ceil(len(loud[0]) / MOST_MESSAGES)
    most = max(counted[f"bot{b:02}"] for b in range(BOTS))
    assert most <= first + SECONDS / HOLD_S + 1, "windows are read for what came together, not for every event"
    assert stream.metrics.freshness()[0.95] < RULES["freshness"].warning


def test_what_was_held_back_by_a_stream_that_was_killed_is_delivered_again(tmp_path):
    clock = Clock(BEGIN.timestamp() + 200)
    broker = MemoryBroker(clock)

    def begin() -> Stream:
        return Stream(
            broker=broker, store=StateStore(tmp_path), step=WindowStep(), metrics=Metrics(), code_version="v",
            reload=lambda: None, clock=clock, stop=clock, say=print,
        )  # fmt: skip

    stream, sent = begin(), flood(0)[: FULL + 5]
    send(broker, *sent)
    stream.tick()
    later = [one for second in (1, 2, 3) for one in flood(second)[:5]]
    for one in later:
        send(broker, one)
        stream.tick()
    assert stream.metrics.gauge("held") == len(broker.topics[EVENTS]) > 0
    waiting = len(broker.topics[EVENTS])
    assert stream.metrics.total("messages") == len(sent) + len(later) - waiting
    stream.store.close()
    clock.now += ACK_S
    stream = begin()
    stream.tick()
    clock.stopped = True
    stream.run()
    assert stream.metrics.total("outcomes", APPLIED) == stream.metrics.total("messages") == waiting
    assert final(broker) == in_bulk([*sent, *later])


def ends_with(expected: dict[str, bytes], found) -> None:
    latest = {one.attributes["user_id"]: one for one in sorted(found, key=lambda one: int(one.attributes["sequence"]))}
    assert {user: one.data for user, one in latest.items()} == expected


def test_fifty_bots_leave_the_graph_with_the_sets_they_leave_the_driver_with(tmp_path):
    seconds = [ordinary(second)[:20] + flood(second) for second in range(4)]
    _, broker, _ = drive(tmp_path, seconds)
    stream = TestStream().advance_watermark_to(0)
    for came in seconds:
        some = [PubsubMessage(json.dumps(one).encode(), {}, one["event_id"], PUBLISHED) for one in came]
        stream = stream.add_elements(random.Random(len(came)).sample(some, len(some))).advance_processing_time(1)
    stream = stream.advance_processing_time(5).advance_processing_time(5).advance_watermark_to_infinity()
    options = PipelineOptions(streaming=True, runner="BundleBasedDirectRunner", allow_unsafe_triggers=True)
    with beam.Pipeline(options=options) as pipeline:
        made = pipeline | stream | SessionSetsOf(WindowStep, "1", clock=lambda: 0.0)
        assert_that(made["sets"], functools.partial(ends_with, final(broker)))
