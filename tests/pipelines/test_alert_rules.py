"""The rules that are loaded elsewhere say what the stream says of itself, of metrics that there are."""

import math
import re
from pathlib import Path

import pytest
import yaml

from pipelines.live import BEHIND
from pipelines.stream_alerts import CRITICAL, RULES, WARNING
from pipelines.stream_metrics import Metrics
from schemas import stream
from transforms.stream import graph, session

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "alerts"
NOT_THERE = {"broker_down", "bundles", "checks_behind"}
"""Pub/Sub is the service's to reach; workers change bundles one by one; what waits for its checks is in the job's own lag."""
OF_THE_SERVICE = {"dataflow_googleapis_com:job_system_lag", "pubsub_googleapis_com:subscription_oldest_unacked_message_age",
                  "dataflow_googleapis_com:job_user_counter"}  # fmt: skip
COUNTERS = {
    *session.OUTCOMES, *graph.COUNTERS, BEHIND,
    *(f"minutes_{outcome}" for outcome in (stream.FAILED, stream.BROKEN)),
}  # fmt: skip


def rules(name: str) -> list[dict]:
    (group,) = yaml.safe_load((FOLDER / name).read_text())["groups"]
    return group["rules"]


def test_dataflow_has_the_alerts_of_the_local_stream_with_the_same_thresholds():
    found = {
        (one["alert"], one["labels"]["severity"]): float(one["expr"].rsplit(" > ")[1]) for one in rules("dataflow.yaml")
    }
    wanted = {(name, severity): at for name, rule in RULES.items() if name not in NOT_THERE
              for severity, at in ((WARNING, rule.warning), (CRITICAL, rule.critical)) if at < math.inf}  # fmt: skip
    del wanted["checks_failed", WARNING]  # critical from the same figure on
    assert found == wanted
    assert RULES["checks_failed"].warning == RULES["checks_failed"].critical


@pytest.mark.parametrize("one", rules("dataflow.yaml"), ids=lambda one: f"{one['alert']}-{one['labels']['severity']}")
def test_every_metric_of_a_rule_is_counted(one):
    assert set(re.findall(r"\w+_googleapis_com:\w+", one["expr"])) <= OF_THE_SERVICE
    named = {name for told in re.findall(r'metric_name=~?"([^"]+)"', one["expr"]) for name in told.split("|")}
    assert named <= COUNTERS
    assert one["expr"].count("(") == one["expr"].count(")")


def test_the_local_rules_read_what_the_stream_writes():
    metrics = Metrics()
    metrics.set("broker_up", 1)
    metrics.alerts = {"lag": "warning"}
    text = metrics.render()
    assert 'segue_stream_alert{alert="lag",severity="warning"} 1\n' in text
    names = {name for one in rules("stream.yaml") for name in re.findall(r"segue_stream_\w+", one["expr"])}
    assert names == {"segue_stream_alert", "segue_stream_broker_up"}
    assert all(re.search(rf"^{name}[ {{]", text, re.MULTILINE) for name in names)
