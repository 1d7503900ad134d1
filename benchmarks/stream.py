"""What the stream costs and how fast it answers, over the official Pub/Sub emulator on the same machine.

    python -m benchmarks.stream --root ROOT --raw RAW [--format sessions] [--rate 200] [--seconds 60] [--flood 10000] [--kills 3]
        [--json FILE]

ROOT is a published root, RAW the events to replay: in turn one of each listener, stamped with the time at which they are
sent, as producers do. Four tables:

    latency      events sent at a rate by another process; from a message's publication to that of the set it led to, the
                 pause of two seconds between sets of one listener included
    throughput   events that lie ready: the driver, with its state on disk, its pauses, checks and dead letters, beside a
                 bare loop that pulls, decodes, computes the same sets and publishes them, and keeps state in a dictionary
    beside beam  the same function on Beam's stock local Pub/Sub path (`benchmarks.stock_stream`) and in the driver, one event of each
                 listener: at the rate, lying ready, and with kill -9 on the way; left out with --kills 0
    function     sets of as many listeners at once, nothing else: what a set costs, and what its parts take of it

One thread per library; the emulator and the sender are processes of their own.
"""

import argparse
import collections
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.stock_stream import compare
from jobs.batch import open_raw
from jobs.options import iso_date, leave
from jobs.replay import rehearsals
from pipelines.inputs import raw_files, raw_tasks
from pipelines.live import open_sessions
from pipelines.stream import Stream
from pipelines.stream_metrics import Metrics
from schemas.inputs import EVENT
from transforms import recommend
from transforms.importers import SHAPES
from transforms.io.broker import EVENTS, SETS, Message, Received
from transforms.io.emulator import start_emulator
from transforms.io.pubsub import EMULATOR, PubSub
from transforms.io.state_store import StateStore
from transforms.io.store import open_store
from transforms.stream import sets as sets_module
from transforms.stream.messages import decode_messages, encode_sets
from transforms.stream.rehearse import Mishaps
from transforms.stream.sessions import merge_events
from transforms.stream.step import Step

AT_ONCE = (1, 10, 50, 256)
PARTS = {
    "sources": (sets_module.Panel, "ask"), "facts": (sets_module, "user_facts"), "blend": (recommend, "blend"),
    "assemble": (recommend, "assemble"),
}  # fmt: skip


def load(raw: str, shape: str, root: str, count: int) -> list[dict[str, Any]]:
    """Return the first plays and skips of a raw folder's listeners, everybody's first, then everybody's second, and so on.

    At 200 a second, 36,000 listeners each have one in three minutes, as they have when they listen.
    """
    folder = open_raw(raw, shape, iso_date("2026-01-31"), open_store(root))
    tasks = raw_tasks(folder, raw_files(folder, EVENT, "9999-12-31", required=True), EVENT)
    lines = (json.loads(one.data) for block in rehearsals(folder, tasks, Mishaps(), 7, None) for one in block.messages)
    turns: dict[str, int] = collections.Counter()
    found = []
    for one in lines:
        if one["event_type"] in ("play", "skip") and not one.get("private_session"):
            found.append((turns[one["user_id"]], len(found), one))
            turns[one["user_id"]] += 1
    return [one for _, _, one in sorted(found, key=lambda row: row[:2])[:count]]


def stamped(events: Sequence[dict[str, Any]]) -> list[Message]:
    """Return events as messages of this moment."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    return [Message(json.dumps({**one, "event_ts": now, "ingest_ts": now}).encode(), {}) for one in events]


@contextlib.contextmanager
def brokers() -> Iterator[Callable[[str], PubSub]]:
    """Yield what opens a broker of fresh topics on an emulator of its own."""
    with contextlib.ExitStack() as held:
        running = start_emulator()
        held.callback(running.stop)
        os.environ[EMULATOR] = running.address

        def fresh(prefix: str) -> PubSub:
            broker = PubSub("segue-local", prefix)
            held.callback(broker.close)
            broker.create()
            return broker

        yield fresh


def driver(broker: PubSub, step: Step, folder: Path) -> Stream:
    """Return the local driver over an empty state."""
    return Stream(
        broker=broker, store=StateStore(folder), step=step, metrics=Metrics(), code_version="benchmark",
        reload=lambda: None, clock=time.time, stop=threading.Event(), say=lambda line: print(f"  {line}", file=sys.stderr),
    )  # fmt: skip


def run_until(stream: Stream, messages: int) -> float:
    """Work until so many messages came and nothing is owed; return the seconds since the first came."""
    began = None
    while stream.metrics.total("messages") < messages or stream.metrics.gauge("owed"):
        came = stream.advance()
        began = time.monotonic() if began is None and came else began
    stream.finish()
    return time.monotonic() - (began or time.monotonic())


_SENDER = """
import json, sys, time
from benchmarks.stream import stamped
from transforms.io.broker import EVENTS
from transforms.io.pubsub import PubSub
broker, rate = PubSub("segue-local", sys.argv[1]), float(sys.argv[2])
events = [json.loads(line) for line in open(sys.argv[3])]
began, sent = time.monotonic(), 0
while sent < len(events):
    due = min(len(events), int((time.monotonic() - began) * rate) + 1)
    if due > sent:
        broker.publish(EVENTS, stamped(events[sent:due]))
    sent = max(sent, due)
    time.sleep(0.02)
"""


def latency(
    fresh: Callable[[str], PubSub], step: Step, messages: Sequence[dict[str, Any]], rate: float
) -> dict[str, float]:
    """Return quantiles of freshness in ms while a process sends at a rate."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "messages.jsonl")
        lines.write_text("".join(json.dumps(one) + "\n" for one in messages))
        stream = driver(fresh("latency"), step, Path(folder, "state"))
        sender = subprocess.Popen([sys.executable, "-c", _SENDER, "latency", str(rate), str(lines)])
        seconds = run_until(stream, len(messages))
        sender.wait()
        found = {f"p{100 * share:g} ms": 1_000 * value for share, value in stream.metrics.freshness().items()}
        stream.store.close()
    return found | {"events a second": len(messages) / seconds, "sets": float(stream.metrics.total("sets"))}


def flooded(fresh: Callable[[str], PubSub], step: Step, messages: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return events a second of the driver and of a bare loop over messages that lie ready."""
    rates = {}
    for name, work in {"bare loop": _bare, "driver": _driven}.items():
        broker = fresh(name.replace(" ", "-"))
        broker.publish(EVENTS, stamped(messages))
        rates[name] = len(messages) / work(broker, step, len(messages))
    return rates | {"driver beside bare loop": rates["driver"] / rates["bare loop"]}


def _driven(broker: PubSub, step: Step, count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        stream = driver(broker, step, Path(folder))
        seconds = run_until(stream, count)
        stream.store.close()
    return seconds


def _bare(broker: PubSub, step: Step, count: int) -> float:
    states: dict[str, bytes] = {}
    began, done = time.monotonic(), 0
    while done < count:
        received = broker.pull(EVENTS, 500, 1.0)
        if received:
            rows = decode_messages(received, "benchmark").rows
            merged = merge_events({user: states.get(user) for user in rows["user_id"].unique()}, rows)
            states |= merged.states
            broker.publish(SETS, encode_sets(step.sets({user: states[user] for user in merged.dirty}), {}))
            broker.acknowledge(EVENTS, [one.ack_id for one in received])
            done += len(received)
    return time.monotonic() - began


def function(step: Step, states: dict[str, bytes], rounds: int) -> dict[str, dict[str, float]]:
    """Return what a set costs by how many are made at once, in ms of CPU, and what shares its parts take."""
    found = {}
    for size in AT_ONCE:
        some = dict(list(states.items())[:size])
        spent: collections.Counter[str] = collections.Counter()
        with contextlib.ExitStack() as held:
            for name, (owner, attribute) in PARTS.items():
                held.enter_context(_timed(owner, attribute, name, spent))
            whole = [_cpu(lambda some=some: step.sets(some)) for _ in range(rounds)]
        shares = {f"{name} share": seconds / sum(whole) for name, seconds in spent.items()}
        found[f"{size} at once"] = {"ms a set": 1_000 * statistics.median(whole) / len(some)} | shares
    return found


@contextlib.contextmanager
def _timed(owner: Any, attribute: str, name: str, spent: collections.Counter[str]) -> Iterator[None]:
    whole = getattr(owner, attribute)

    def timed(*args, **kwargs):
        began = time.process_time()
        try:
            return whole(*args, **kwargs)
        finally:
            spent[name] += time.process_time() - began

    setattr(owner, attribute, timed)
    try:
        yield
    finally:
        setattr(owner, attribute, whole)


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def windows(events: Sequence[dict[str, Any]]) -> dict[str, bytes]:
    """Return the states that some events lead to."""
    came = [Received(one.data, one.attributes, str(n), 0.0, "") for n, one in enumerate(stamped(events))]
    rows = decode_messages(came, "benchmark").rows
    return dict(sorted(merge_events(dict.fromkeys(rows["user_id"].unique().to_list()), rows).states.items()))


def once_each(
    step: Step, events: Sequence[dict[str, Any]], states: dict[str, bytes], count: int
) -> list[dict[str, Any]]:
    """Return the first event of each of some listeners who may have a set."""
    first = {one["user_id"]: one for one in reversed(events)}
    users = sorted(first.keys() & states.keys())[:count]
    blocks = (users[start : start + AT_ONCE[-1]] for start in range(0, len(users), AT_ONCE[-1]))
    served = [user for block in blocks for user in step.sets({u: states[u] for u in block})["user_id"].to_pylist()]
    return [first[user] for user in served]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--raw", required=True)
    parser.add_argument("--format", default="raw", choices=("raw", *sorted(SHAPES)))
    for name, default in {"rate": 200, "seconds": 60, "flood": 10_000, "rounds": 7, "kills": 3, "processes": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    messages = load(given.raw, given.format, given.root, max(given.flood, given.rate * given.seconds))
    with tempfile.TemporaryDirectory() as tables, brokers() as fresh:
        step = open_sessions(given.root, Path(tables), given.processes)
        states = windows(messages)
        step.sets(dict(list(states.items())[:50]))  # what is compiled or loaded once is not part of an answer
        found: dict[str, Any] = {"function": function(step, states, given.rounds)}
        found["latency"] = latency(fresh, step, messages[: given.rate * given.seconds], given.rate)
        found["throughput"] = flooded(fresh, step, messages[: given.flood])
        if given.kills:
            some = once_each(step, messages, states, 20 * given.rate)
            found["beside beam"] = compare(fresh, given.root, some, stamped, given.rate, given.kills)
    for name, table in found.items():
        print(f"\n  {name}")
        for row, value in table.items():
            told = value if isinstance(value, dict) else {"": value}
            print(f"    {row:<26}" + "  ".join(f"{label} {one:.3g}".strip() for label, one in told.items()))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
    leave(0)
