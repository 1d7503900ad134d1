"""Every alert, fired by what it is for, and silent on a good day."""

import dataclasses
import datetime
import json

import pytest
from memory_broker import Clock, MemoryBroker
from toy_stream import ToyStep, event, send

from pipelines.stream import Stream
from pipelines.stream_alerts import WINDOW_S, Seen, judge
from pipelines.stream_metrics import Metrics
from transforms.io.broker import BrokerDown
from transforms.io.state_store import StateStore
from transforms.stream.session import LATE
from transforms.stream.sets import QUARANTINED

GOOD = Seen({("messages", ""): 1_000, ("outcomes", "applied"): 1_000, ("sets", "b"): 10}, frozenset("b"), 0.3, 0.1, 0.0)


class Watched:
    """A stream over a broker in memory, with a clock that is set."""

    def __init__(self, folder) -> None:
        self.clock, self.said = Clock(), []
        self.broker = MemoryBroker(self.clock)
        self.stream = Stream(
            broker=self.broker, store=StateStore(folder), step=ToyStep(), metrics=Metrics(), code_version="v",
            reload=lambda: None, clock=self.clock, stop=self.clock, say=self.said.append,
        )  # fmt: skip

    def run(self, *events, seconds: float = 11) -> dict[str, str]:
        """Send events, let time pass, and return the alerts that stand."""
        self.stream.tick()
        send(self.broker, *events)
        for _ in range(len(events) // 400 + 2):
            self.stream.tick()
        self.clock.now += seconds
        self.stream.tick()
        return dict(self.stream.metrics.alerts)


@pytest.fixture
def watched(tmp_path):
    made = Watched(tmp_path)
    yield made
    made.stream.store.close()


FAR = "2099-01-01T00:00:00+00:00"
EVENTS = [event(n, f"u{n % 40}") for n in range(200)]


def test_a_good_day_is_silent(watched):
    assert watched.run(*EVENTS) == {}
    assert watched.said == []
    assert judge(GOOD) == []


def test_repeated_messages(watched):
    assert watched.run(*EVENTS, *EVENTS[:20]) == {"duplicates": "warning"}


def test_one_id_for_two_events(watched):
    found = watched.run(*EVENTS, EVENTS[0] | {"item_id": "another"})
    assert found == {"conflicts": "warning", "dead_letters": "warning"}


def test_broken_messages(watched):
    assert watched.run(*EVENTS, b"{", b"[") == {"dead_letters": "warning"}
    assert watched.run(*[b"x"] * 40)["dead_letters"] == "critical"


def test_a_message_that_the_code_fails_on(watched):
    assert watched.run(event(1, item_id="poison"))["poison"] == "warning"


def test_a_clock_that_is_ahead(watched):
    for ahead in ({"ingest_ts": "2025-01-01T00:00:00+00:00"}, {"event_ts": FAR, "ingest_ts": FAR}):
        found = watched.run(*EVENTS, event(9, "w", **ahead), seconds=WINDOW_S + 11)
        assert {"clock_skew", "dead_letters"} <= found.keys()


def test_a_broker_that_is_down_and_comes_back(watched):
    """It is said while it is down: whoever waits for it must not be silent until it is back."""
    watched.run(*EVENTS)
    watched.broker.down_until = watched.clock.now + 90
    heard = []
    watched.stream.say = lambda line: heard.append((line, watched.clock.now < watched.broker.down_until))
    watched.run()
    levels = [line.partition(":")[0] for line, down in heard if down and "broker_down" in line]
    assert levels == ["WARNING broker_down", "CRITICAL broker_down"]
    assert ("broker_down has passed", False) in heard
    assert watched.run() == {}


def test_a_broker_that_takes_nothing_any_more_is_said_too(watched):
    """Sets go out on a thread of their own, on which the driver waits."""
    watched.run(*EVENTS)

    def down(call: str) -> None:
        if call == "publish sets" and watched.clock.now < begun + 90:
            raise BrokerDown("connection refused")

    begun, watched.broker.before = watched.clock.now, down
    watched.run(event(1, "late to come"))
    assert any(line.startswith("CRITICAL broker_down") for line in watched.said)


def test_a_bundle_that_is_refused(watched):
    watched.stream.reload = lambda: json.loads("no bundle")
    assert watched.run(*EVENTS)["bundle_refused"] == "warning"


def test_sets_that_come_late(watched):
    """Of the last five minutes: what was slow before says nothing, however few have come since."""
    send(watched.broker, *EVENTS)
    watched.clock.now += 31
    assert watched.run()["freshness"] == "critical"
    assert "freshness" not in watched.run(seconds=WINDOW_S)
    assert "freshness" not in watched.run(event(300, "another"))


def test_messages_that_waited(watched):
    send(watched.broker, *[event(n, f"u{n}") for n in range(1_000)])
    watched.clock.now += 601
    watched.stream.tick()
    watched.clock.now += 11
    watched.stream.tick()
    assert watched.stream.metrics.alerts["lag"] == "critical"
    assert "lag" not in watched.run(seconds=30)


class Punctual(ToyStep):
    """Has no room for an event that was taken in more than ten minutes after it happened."""

    def _apply(self, state, row):
        late = row["ingest_ts"] - row["event_ts"] > datetime.timedelta(minutes=10)
        return LATE if late else super()._apply(state, row)


def test_events_of_listeners_who_were_offline(watched):
    watched.stream.step = Punctual()
    late = [event(n, f"w{n}", ingest_ts="2026-01-30T12:20:00+00:00") for n in range(20)]
    watched.clock.now += 3_600
    assert watched.run(*EVENTS, *late) == {"late": "warning"}


class Lessened(ToyStep):
    """Says of every set that it is less than it could be."""

    def _set(self, user, state):
        return super()._set(user, state) | {"degraded_reasons": [self.reason]}


@pytest.mark.parametrize(("name", "reason"), [("hot_keys", QUARANTINED), ("short_sets", "below_minimum_size")])
def test_sets_that_are_less_than_they_could_be(watched, name, reason):
    watched.stream.step = Lessened()
    watched.stream.step.reason = reason
    assert watched.run(*EVENTS) == {name: "warning"}


def test_a_roll_out_that_flaps(watched):
    for number in range(3):
        watched.stream.reload = lambda number=number: ToyStep(f"b{number}")
        found = watched.run(event(number, f"u{number}"))
    assert found == {"bundles": "warning"}


def test_equal_causes_of_two_stages_add_up(watched):
    metrics = watched.stream.metrics
    metrics.count("messages", by=1_000)
    metrics.count("dead_letters", "decode", "ValueError", by=9)
    metrics.count("dead_letters", "merge", "ValueError", by=2)
    assert watched.run() == {"dead_letters": "critical"}


def test_alerts_are_said_when_they_come_and_when_they_pass(watched):
    watched.run(event(1, item_id="poison"))
    assert any(line.startswith("WARNING poison: 1 messages were parked") for line in watched.said)
    assert watched.run(seconds=WINDOW_S) == {}
    assert "poison has passed" in watched.said
    assert 'segue_stream_alert{alert="poison"' not in watched.stream.metrics.render()


@pytest.mark.parametrize(
    ("name", "change", "severities"),
    [
        ("freshness", {"fresh_s": 10.1}, ["warning"]),
        ("freshness", {"fresh_s": 30.1}, ["critical"]),
        ("lag", {"lag_s": 61.0}, ["warning"]),
        ("late", {"counts": {("messages", ""): 1_000, ("outcomes", "late_for_batch"): 51}}, ["warning"]),
        ("late", {"counts": {("messages", ""): 1_000, ("outcomes", "late_bucket"): 50}}, []),
        ("late", {"counts": {("messages", ""): 99, ("outcomes", "late_bucket"): 50}}, []),
        ("hot_keys", {"counts": {("degraded", QUARANTINED): 1}}, ["warning"]),
        ("short_sets", {"counts": {("degraded", "below_minimum_size"): 1}}, ["warning"]),
        ("checks_failed", {"counts": {("validation_minutes", "failed"): 1}}, ["critical"]),
        ("checks_failed", {"counts": {("validation_minutes", "passed"): 9}}, []),
        ("checks_missing", {"counts": {("validation_minutes", "unchecked"): 1}}, ["warning"]),
        ("checks_missing", {"counts": {("validation_minutes", "broken"): 1}}, ["warning"]),
        ("checks_behind", {"unchecked_s": 181.0}, ["warning"]),
        ("checks_behind", {"unchecked_s": 601.0}, ["critical"]),
        ("bundles", {"bundles": frozenset("ab")}, []),
        ("bundles", {"bundles": frozenset("abc")}, ["warning"]),
    ],
)
def test_thresholds(name, change, severities):
    found = [one for one in judge(dataclasses.replace(GOOD, **change)) if one.name == name]
    assert [one.severity for one in found] == severities
    assert all("{" not in one.said for one in found)
