"""Beam's own local Pub/Sub path beside the driver: the same function over the same emulator, each a process of its own.

`ReadFromPubSub` and `WriteToPubSub` on the `DirectRunner`, around the graph that Dataflow is given. All figures are a reader's: a
set is as late as its publication is after the event that its sequence names, and a listener is lost who had an event and got
no set within three minutes of anything.
"""

import collections
import contextlib
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas.candidates import COUNT_BITS
from transforms.io.broker import EVENTS, SETS, Message
from transforms.io.pubsub import PubSub

STILL_S = 180.0
"""The emulator keeps a killed client's pulls for a minute, and what they took along for another."""
READY = "ready"
KINDS = ("beam", "driver")
_PROCESS = """
import sys
from benchmarks.stock_stream import on_beam, on_driver
{"beam": on_beam, "driver": on_driver}[sys.argv[1]](*sys.argv[2:])
"""


def on_beam(root: str, prefix: str, folder: str) -> None:
    """Run the graph on Beam's local runner until killed."""
    import apache_beam as beam
    from apache_beam.io.gcp.pubsub import ReadFromPubSub, WriteToPubSub
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.live import Serving
    from transforms.stream.graph import SessionSetsOf

    serving = Serving(root, f"{folder}/tables")
    serving()
    options = PipelineOptions(["--runner=DirectRunner", "--streaming", "--project=segue-local"])
    broker = PubSub("segue-local", prefix)
    print(READY, flush=True)
    with beam.Pipeline(options=options) as pipeline:
        events = pipeline | ReadFromPubSub(subscription=broker.subscription(EVENTS), with_attributes=True)
        made = events | SessionSetsOf(serving, "benchmark")
        _ = made["sets"] | WriteToPubSub(broker.topic(SETS), with_attributes=True)


def on_driver(root: str, prefix: str, folder: str) -> None:
    """Run the driver, with its state on disk, until killed."""
    from benchmarks.stream import driver
    from pipelines.live import open_sessions

    stream = driver(
        PubSub("segue-local", prefix), open_sessions(root, Path(folder, "tables")), Path(folder, f"state-{prefix}")
    )
    print(READY, flush=True)
    stream.run()


@dataclasses.dataclass
class Worker:
    """A process that makes sets."""

    command: Sequence[str]

    def start(self) -> None:
        """Start it, and wait until it is at work."""
        self._process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == READY, "it did not start; see above"

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def at_work(kind: str, root: str, prefix: str, folder: str) -> Iterator[Worker]:
    worker = Worker([sys.executable, "-c", _PROCESS, kind, root, prefix, folder])
    worker.start()
    try:
        yield worker
    finally:
        worker.kill()


class Sets:
    """What a reader has of each listener."""

    def __init__(self, broker: PubSub) -> None:
        self._broker = broker
        self.late_s: list[float] = []
        self.users: collections.Counter[str] = collections.Counter()
        self.moved_s = time.monotonic()

    def take(self) -> None:
        """Take in what has come, within half a second."""
        received = self._broker.pull(SETS, 500, 0.5)
        for one in received:
            self.users[one.attributes["user_id"]] += 1
            self.late_s.append(one.published_s - (int(one.attributes["sequence"]) >> COUNT_BITS) / 1e6)
        if received:
            self._broker.acknowledge(SETS, [one.ack_id for one in received])
            self.moved_s = time.monotonic()


def trial(
    broker: PubSub, worker: Worker, events: Sequence[dict[str, Any]], stamped: Callable[..., list[Message]], rate: float,
    kills: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Send one event of each listener at a rate, kill the worker on the way, and return what a reader saw."""
    wanted, sets, sent, killed = {one["user_id"] for one in events}, Sets(broker), 0, 0
    began = time.monotonic()
    while wanted - sets.users.keys() and time.monotonic() - sets.moved_s < STILL_S:
        due = min(len(events), int((time.monotonic() - began) * rate) + 1)
        if due > sent:
            broker.publish(EVENTS, stamped(events[sent:due]))
            sent, sets.moved_s = due, time.monotonic()
        if killed < kills and len(sets.users) > len(wanted) * (killed + 1) / (kills + 2):
            worker.kill()
            worker.start()
            killed += 1
        sets.take()
    late = np.quantile(sets.late_s or [np.nan], (0.5, 0.95, 0.99)) * 1_000
    found = {f"p{q} ms": float(value) for q, value in zip((50, 95, 99), late)}
    seconds = sets.moved_s - began
    return found | {"events a second": len(sets.users) / seconds, "lost": float(len(wanted - sets.users.keys()))}


def compare(
    fresh: Callable[[str], PubSub], root: str, events: Sequence[dict[str, Any]], stamped: Callable[..., list[Message]],
    rate: float, kills: int,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Return, for Beam's path and the driver: latency at a rate, events a second that lie ready, listeners lost by kills.

    Args:
      events: one of each listener, all of whom may have a set.
    """
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            for name, prefix, speed, number in (
                (f"{kind}, {rate:g} a second", f"paced-{kind}", rate, 0),
                (f"{kind}, all at once", f"flood-{kind}", 1e9, 0),
                (f"{kind}, kill -9 x {kills}", f"kills-{kind}", rate, kills),
            ):
                broker = fresh(prefix)
                with at_work(kind, root, prefix, folder) as worker:
                    found[name] = trial(broker, worker, events, stamped, speed, number)
                print(f"  {name}: {found[name]}", file=sys.stderr, flush=True)
    return found
