"""Alerts of a stream at work: what its metrics say is wrong, how bad it is, and what to do (domain reference, sections 10 and 12).

Shares and counts are of the last five minutes. Memory: one snapshot of the counters for every ten seconds of them.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping

from pipelines.stream_metrics import Metrics
from schemas import stream
from transforms.stream import session
from transforms.stream.messages import SKEWED
from transforms.stream.sets import QUARANTINED

WINDOW_S, STEP_S = 300.0, 10.0
WARNING, CRITICAL = "warning", "critical"
LEAST_MESSAGES = 100
"""A share of fewer messages says nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Alert:
    """What is wrong."""

    name: str
    severity: str
    said: str


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What the rules look at: counts of the window, by name and label, and how things stand.

    Attributes:
      fresh_s: p95 of freshness of the window's sets, of the last 4,096 where there were more; 0 without any.
      unchecked_s: how long the oldest minute has waited for its checks. behind: 1 while what is live is not what is served.
    """

    counts: Mapping[tuple[str, str], int]
    bundles: frozenset[str]
    fresh_s: float
    lag_s: float
    down_s: float
    unchecked_s: float = 0.0
    behind: float = 0.0

    def count(self, name: str, *labels: str) -> int:
        """Return how many of a counter came, of some labels or of all."""
        return sum(n for (found, label), n in self.counts.items() if found == name and (not labels or label in labels))

    def share(self, name: str, *labels: str) -> float:
        """Return a count as a share of the messages, 0 where these are few."""
        messages = self.count("messages")
        return self.count(name, *labels) / messages if messages >= LEAST_MESSAGES else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """When something is wrong.

    Attributes:
      value: what is measured. warning, critical: above these it is.
      said: what is measured, and what to do; `{value}` stands for the figure.
    """

    value: Callable[[Seen], float]
    warning: float
    critical: float
    said: str


_NEVER = float("inf")
_FRESH = "freshness", ""
_OF_LATENESS = session.LATE, session.TOO_LATE
RULES = {
    "freshness": Rule(lambda seen: seen.fresh_s, 10.0, 30.0,
                      "19 of 20 sets are published within {value:.1f} s: add workers, or see what a batch takes (batch_seconds)"),
    "lag": Rule(lambda seen: seen.lag_s, 60.0, 600.0,
                "messages wait {value:.0f} s: the stream is slower than what comes, or was down"),
    "broker_down": Rule(lambda seen: seen.down_s, 10.0, 60.0, "no broker for {value:.0f} s: nothing is lost, it is waited for"),
    "dead_letters": Rule(lambda seen: seen.share("dead_letters"), 0.001, 0.01,
                         "{value:.2%} of the messages are dead letters: see their error_class, then make replay-dlq"),
    "poison": Rule(lambda seen: seen.count("outcomes", "parked"), 0, _NEVER,
                   "{value:.0f} messages were parked, the code fails on them: see their detail"),
    "duplicates": Rule(lambda seen: seen.share("outcomes", session.DUPLICATE), 0.02, _NEVER,
                       "{value:.1%} of the messages are duplicates, which change nothing: a producer repeats itself"),
    "conflicts": Rule(lambda seen: seen.share("outcomes", session.CONFLICT), 0.0, _NEVER,
                      "{value:.2%} of the messages have the id of another event: a producer gives ids twice"),
    "late": Rule(lambda seen: seen.share("outcomes", *_OF_LATENESS), 0.05, _NEVER,
                 "{value:.1%} of the messages are too late for a session, as after offline listening: batch takes them in"),
    "clock_skew": Rule(lambda seen: seen.share("dead_letters", *SKEWED), 0.001, _NEVER,
                       "{value:.2%} of the messages are from the future: a producer's clock is wrong"),
    "hot_keys": Rule(lambda seen: seen.count("degraded", QUARANTINED), 0, _NEVER,
                     "{value:.0f} sets of listeners who hear more than anybody can: they get charts; are they bots?"),
    "bundles": Rule(lambda seen: len(seen.bundles), 2, _NEVER,
                    "sets of {value:.0f} bundles within five minutes: a roll-out is stuck half way, or flaps"),
    "bundle_refused": Rule(lambda seen: max(seen.count("refusals"), seen.behind), 0, _NEVER,
                           "what is live was refused, and what was served before goes on: see what was said of it"),
    "short_sets": Rule(lambda seen: seen.count("degraded", "below_minimum_size"), 0, _NEVER,
                  "{value:.0f} sets are smaller than the surface asks for: is the market's catalogue there?"),
    "checks_failed": Rule(lambda seen: seen.count("validation_minutes", stream.FAILED), 0, 0,
                  "sets of {value:.0f} minutes broke a check after they were published: the verdicts and the page say which"),
    "checks_missing": Rule(lambda seen: seen.count("validation_minutes", stream.BROKEN, stream.UNCHECKED), 0, _NEVER,
                  "sets of {value:.0f} minutes were published and not checked: the verdicts say why"),
    "checks_behind": Rule(lambda seen: seen.unchecked_s, 180.0, 600.0,
                  "a minute of sets has waited {value:.0f} s for its checks: the process that checks is slow, or ended"),
}  # fmt: skip


class Alerts:
    """The alerts of one stream, looked at every ten seconds."""

    def __init__(self) -> None:
        self._snapshots: collections.deque[tuple[float, Mapping[tuple[str, str], int]]] = collections.deque()
        self._up_s: float | None = None

    def look(self, metrics: Metrics, now_s: float) -> list[Alert]:
        """Return what is wrong now, sorted by name."""
        counts = collections.Counter({_FRESH: metrics.observed})
        for name, labels, n in metrics.counts():
            counts[name, labels[-1] if labels else ""] += n
        if not self._snapshots:
            self._snapshots.append((now_s, {}))
        self._snapshots.append((now_s, counts))
        while len(self._snapshots) > 2 and now_s - self._snapshots[1][0] >= WINDOW_S:
            self._snapshots.popleft()
        before = self._snapshots[0][1]
        if metrics.gauge("broker_up") or self._up_s is None:
            self._up_s = now_s
        grown = {key: n - before.get(key, 0) for key, n in counts.items() if n > before.get(key, 0)}
        return judge(
            Seen(
                grown,
                frozenset(label for name, label in grown if name == "sets"),
                metrics.freshness(grown.get(_FRESH, 0)).get(0.95, 0.0),
                metrics.gauge("lag_seconds"),
                now_s - self._up_s,
                metrics.gauge("validation_lag_seconds"),
                metrics.gauge("bundle_behind"),
            )
        )


def judge(seen: Seen) -> list[Alert]:
    """Return what is wrong, sorted by name."""
    found = []
    for name, rule in sorted(RULES.items()):
        value = rule.value(seen)
        if value > rule.warning:
            severity = CRITICAL if value > rule.critical else WARNING
            found.append(Alert(name, severity, rule.said.format(value=value)))
    return found
