"""Every alert, fired by what it is for, and silent on a good day."""

import dataclasses
import json
from pathlib import Path

import pytest
from memory_broker import Clock, MemoryBroker
from toy_stream import ToyStep, event, send

from pipelines.stream import Stream
from pipelines.stream_alerts import RULES, WINDOW_S, Alerts, Seen, judge
from pipelines.stream_metrics import Metrics
from transforms.io.state_store import StateStore
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
    found = watched.run(*EVENTS, event(9, "w", ingest_ts="2025-01-01T00:00:00+00:00"))
    assert found == {"clock_skew": "warning", "dead_letters": "warning"}


def test_a_broker_that_is_down_and_comes_back():
    alerts, metrics = Alerts(), Metrics()
    metrics.set("broker_up", 1)
    assert alerts.look(metrics, 0.0) == []
    metrics.set("broker_up", 0)
    assert [(one.name, one.severity) for one in alerts.look(metrics, 11.0)] == [("broker_down", "warning")]
    assert [one.severity for one in alerts.look(metrics, 61.0)] == ["critical"]
    metrics.set("broker_up", 1)
    assert alerts.look(metrics, 62.0) == []


def test_a_bundle_that_is_refused(watched):
    watched.stream.reload = lambda: json.loads("no bundle")
    assert watched.run(*EVENTS)["bundle_refused"] == "warning"


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


def test_every_rule_is_fired_by_a_test():
    told = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in RULES if f'"{name}"' not in told] == []
