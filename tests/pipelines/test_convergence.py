"""Whatever the order, the repetition and the batches in which events come, listeners end with the same sets everywhere."""

import contextlib
import datetime
import functools
import json
import random

import apache_beam as beam
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.testing.util import assert_that
from memory_broker import Clock, MemoryBroker
from toy_stream import BEGIN, WindowStep, event, final

from pipelines.stream import REJECTED, Stream
from pipelines.stream_metrics import Metrics
from transforms.io.broker import EVENTS, Message, Received
from transforms.io.state_store import StateStore
from transforms.stream.graph import SessionSetsOf
from transforms.stream.messages import decode_messages, encode_sets
from transforms.stream.session import APPLIED, CONFLICT, DUPLICATE, LATE, OUTLIVED, PRIVATE, SILENT, TOO_LATE
from transforms.stream.sessions import merge_events

AFTER = BEGIN + datetime.timedelta(days=90)
"""When everything is published: no event is ahead of that."""
DAY_S = 86_400
TOGETHER = 25
KINDS = (
    *({"event_type": "play", "ms_played": ms} for ms in (20_000, 40_000, 200_000)),
    *({"event_type": "skip", "ms_played": ms} for ms in (2_000, 15_000)),
    {"event_type": "like"}, {"event_type": "search"}, {"event_type": "impression"}, {"private_session": True},
    {"consent_personalization": False},
)  # fmt: skip
DELAYS_S = (1, 1, 1, 1, 1, 300, 1_200, 40 * DAY_S)
STEP = WindowStep()


def live() -> WindowStep:
    return STEP


def history(dice: random.Random, name: str) -> list[bytes]:
    """Return what three listeners did on up to three days: few ids and items, so that contents of one id differ."""
    listeners, told = [f"{name}-{one}" for one in ("ann", "bob", "cyd")], []
    for _ in range(dice.randrange(2, 16)):
        user = dice.choice(listeners)
        number = dice.choice((0, 0, DAY_S, 2 * DAY_S)) + dice.randrange(60)
        received = BEGIN + datetime.timedelta(seconds=number + dice.choice(DELAYS_S))
        fields = {"event_id": f"{user}-{dice.choice('abcdef')}", "ingest_ts": received.isoformat()}
        told.append(event(number, user, **fields, **dice.choice(KINDS)))
    return [json.dumps(one).encode() for one in told] + [b"{"] * (dice.random() < 0.1)


def delivered(seed: int) -> tuple[random.Random, list[bytes]]:
    """Return the dice and 25 histories at once, in any order and some of it twice."""
    dice = random.Random(seed)
    told = [one for n in range(TOGETHER) for one in history(dice, f"h{n}")]
    again = told + dice.choices(told, k=len(told) // 4)
    dice.shuffle(again)
    return dice, again


def in_bulk(told: list[bytes]) -> dict[str, bytes]:
    """Return the set of every listener, made from all events at once."""
    came = [Received(one, {}, f"m{n}", AFTER.timestamp(), f"m{n}") for n, one in enumerate(told)]
    events = decode_messages(came, "1").rows
    states = merge_events(dict.fromkeys(events["user_id"]), events).states
    return {one.attributes["user_id"]: one.data for one in encode_sets(STEP.sets(states), {})}


@pytest.mark.parametrize("seed", range(12))
def test_the_driver_ends_with_what_all_events_at_once_come_to(tmp_path, seed):
    dice, told = delivered(seed)
    clock = Clock(AFTER.timestamp())
    broker, metrics = MemoryBroker(clock), Metrics()
    broker.deal = lambda ready: dice.sample(ready, k=min(len(ready), dice.randrange(1, 60)))
    with contextlib.closing(StateStore(tmp_path / "state")) as store:
        stream = Stream(
            broker=broker, store=store, step=STEP, metrics=metrics, code_version="1", reload=lambda: None, clock=clock,
            stop=clock, say=print,
        )  # fmt: skip
        while told or broker.topics[EVENTS]:
            some = dice.randrange(1, 50)
            broker.publish(EVENTS, [Message(one, {}) for one in told[:some]])
            told = told[some:]
            stream.tick()
            clock.now += dice.random()
        clock.stopped = True
        stream.run()
    assert final(broker) == in_bulk(delivered(seed)[1])
    outcomes = {APPLIED, DUPLICATE, CONFLICT, OUTLIVED, LATE, TOO_LATE, PRIVATE, SILENT, REJECTED}
    assert {labels[0] for labels in metrics.by_label("outcomes")} >= outcomes


def are(wanted: dict[str, bytes], found) -> None:
    assert {one.attributes["user_id"]: one.data for one in found} == wanted
    assert len(found) == len(wanted)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_bounded_run_of_the_graph_ends_with_the_same(seed):
    _, told = delivered(seed)
    came = [PubsubMessage(one, {}, f"m{n}", AFTER) for n, one in enumerate(told)]
    wanted = in_bulk(told)
    assert len(wanted) > 40
    with beam.Pipeline("FnApiRunner") as pipeline:
        made = pipeline | beam.Create(came) | SessionSetsOf(live, "1", bounded=True)
        assert_that(made["sets"], functools.partial(are, wanted))
