"""What a stream counts, and its OpenMetrics text."""

import collections
import threading
from collections.abc import Iterable, Mapping

import numpy as np

PREFIX = "segue_stream"
CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
QUANTILES = (0.5, 0.95, 0.99)
_WINDOW = 4096
COUNTERS = {
    "messages": "Events delivered.",
    "outcomes": "What became of each delivered event; the outcomes add up to the messages.",
    "dead_letters": "Dead letters published, by stage and cause.",
    "sets": "Candidate sets published, by bundle.",
    "degraded": "Candidate sets published that are less than they could be, by reason.",
    "swaps": "Bundles taken into use.",
    "refusals": "Bundles that could not be loaded.",
    "outages": "Times the broker could not be reached.",
    "expired": "States forgotten after 48 idle hours.",
    "tombstones": "Erasures, takedowns and campaigns that are over received, by what they are of: user, item or campaign.",
    "validation_minutes": "Minutes of published sets, by what their checks came to.",
    "validation_sets": "Published sets that were checked.",
    "validation_failures": "Checks of a minute that did not pass, by check and severity.",
    "validation_restarts": "Times the process that checks ended and was started again.",
}
GAUGES = {
    "owed": "Users to whom a set is owed.",
    "held": "Messages for long windows that wait to be merged together.",
    "lag_seconds": "Age of the oldest message of the last batch when it was pulled.",
    "watermark_seconds": "Latest event time so far, since 1970.",
    "batch_messages": "Messages in the last batch.",
    "batch_seconds": "Time the last batch took.",
    "broker_up": "1 while the broker can be reached.",
    "bundle_behind": "1 while what is live is not what is served, because it was refused.",
    "validation_lag_seconds": "How long the oldest minute of published sets has waited for its checks.",
}
LABELS = {
    "degraded": ("reason",),
    "outcomes": ("outcome",),
    "dead_letters": ("stage", "cause"),
    "sets": ("bundle",),
    "refusals": ("reason",),
    "tombstones": ("entity",),
    "validation_minutes": ("outcome",),
    "validation_failures": ("check", "severity"),
}


class Metrics:
    """Counters, gauges and freshness; any thread may read them.

    Memory: one number per counter and cause, and the freshness of the last 4,096 sets.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: collections.Counter[tuple[str, tuple[str, ...]]] = collections.Counter()
        self._gauges: dict[str, float] = {}
        self._fresh: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self._fresh_sum, self._fresh_count = 0.0, 0
        self.bundle = ""
        self.alerts: Mapping[str, str] = {}

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Add to a counter."""
        assert len(labels) == len(LABELS.get(name, ())), f"{name} has the labels {LABELS.get(name, ())}"
        assert name in COUNTERS, name
        with self._lock:
            self._counts[name, labels] += by

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        assert name in GAUGES, name
        with self._lock:
            self._gauges[name] = value

    def observe(self, freshness_s: Iterable[float]) -> None:
        """Note how long it took from a message to its set."""
        with self._lock:
            for seconds in freshness_s:
                self._fresh.append(seconds)
                self._fresh_sum += seconds
                self._fresh_count += 1

    def counts(self) -> list[tuple[str, tuple[str, ...], int]]:
        """Return every counter with its labels, sorted."""
        with self._lock:
            return [(name, labels, number) for (name, labels), number in sorted(self._counts.items())]

    def total(self, name: str, *labels: str) -> int:
        """Return a counter; over all labels where none are given."""
        with self._lock:
            if labels:
                return self._counts[name, labels]
            return sum(number for (found, _), number in self._counts.items() if found == name)

    def by_label(self, name: str) -> dict[tuple[str, ...], int]:
        """Return a counter by its labels."""
        with self._lock:
            return {labels: number for (found, labels), number in sorted(self._counts.items()) if found == name}

    def gauge(self, name: str) -> float:
        """Return a gauge, 0 before it was set."""
        with self._lock:
            return self._gauges.get(name, 0.0)

    @property
    def observed(self) -> int:
        """Of how many sets freshness is known."""
        with self._lock:
            return self._fresh_count

    def freshness(self, most: int = _WINDOW) -> dict[float, float]:
        """Return the quantiles in s of the last `most` sets, 4,096 at the most; nothing of none."""
        with self._lock:
            recent = np.array(self._fresh)
        recent = recent[max(len(recent) - most, 0) :]
        return dict(zip(QUANTILES, np.quantile(recent, QUANTILES).tolist())) if len(recent) else {}

    def render(self) -> str:
        """Return everything as OpenMetrics 1.0 text."""
        lines = []
        for name, said in COUNTERS.items():
            lines += [f"# TYPE {PREFIX}_{name} counter", f"# HELP {PREFIX}_{name} {said}"]
            found = self.by_label(name) or ({} if name in LABELS else {(): 0})
            lines += [f"{PREFIX}_{name}_total{_braced(LABELS.get(name, ()), v)} {n}" for v, n in found.items()]
        for name, said in GAUGES.items():
            lines += [f"# TYPE {PREFIX}_{name} gauge", f"# HELP {PREFIX}_{name} {said}"]
            lines.append(f"{PREFIX}_{name} {self.gauge(name):.9g}")
        name = f"{PREFIX}_freshness_seconds"
        lines += [f"# TYPE {name} summary", f"# HELP {name} From an event's message to the set published for it."]
        lines += [f'{name}{{quantile="{q}"}} {value:.6g}' for q, value in self.freshness().items()]
        lines += [f"{name}_sum {self._fresh_sum:.6g}", f"{name}_count {self._fresh_count}"]
        lines += [f"# TYPE {PREFIX}_alert gauge", f"# HELP {PREFIX}_alert 1 for each alert that stands, by severity."]
        lines += [f"{PREFIX}_alert{_braced(('alert', 'severity'), one)} 1" for one in sorted(self.alerts.items())]
        name = f"{PREFIX}_bundle"
        lines += [
            f"# TYPE {name} info",
            f"# HELP {name} Bundle in use.",
            f"{name}_info{_braced(('id',), (self.bundle,))} 1",
        ]
        return "\n".join([*lines, "# EOF\n"])


def _braced(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
