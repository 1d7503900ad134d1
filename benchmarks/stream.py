"""What the stream costs and how fast it answers, over the official Pub/Sub emulator on the same machine.

    python -m benchmarks.stream --root ROOT --raw RAW [--format sessions] [--rate 200] [--seconds 60] [--flood 10000] [--kills 3]
        [--beside 800] [--processes 1] [--json FILE]

ROOT is a published root, RAW the events to replay: in turn one of each listener, from the middle of what they did, stamped with the
time at which they are sent, as producers do; what they did before is in the state, three minutes apart. Four tables:

    latency      events sent at a rate by another process; from a message's publication to that of the set it led to, the
                 pause of two seconds between sets of one listener included; beside the process that checks each minute, as in
                 `make stream`
    throughput   events that lie ready: the driver, with its state on disk, its pauses, checks and dead letters, beside a
                 bare loop that pulls, decodes, computes the same sets and publishes them, and keeps state in a dictionary
    beside beam  the same function on Beam's stock local Pub/Sub path (`benchmarks.stock_stream`) and in the driver, one event of each of
                 `--beside` listeners: at the rate, lying ready, and with kill -9 on the way; left out with --kills 0
    function     sets of as many listeners at once, nothing else: what a set costs, and what its parts take of it; encoding and
                 search are part of the sources

One thread per library; the emulator and the sender are processes of their own.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import functools
import heapq
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as `jobs.stream` does, for the bare loop too

from benchmarks.stock_stream import compare
from jobs.batch import open_raw
from jobs.options import iso_date, leave
from jobs.replay import rehearsals
from jobs.stream import validation_of
from pipelines.inputs import raw_files, raw_tasks
from pipelines.live import open_sessions
from pipelines.stream import Stream
from pipelines.stream_metrics import Metrics
from schemas.inputs import EVENT
from transforms import recommend, vector_sources
from transforms.importers import SHAPES
from transforms.io.broker import EVENTS, SETS, Message, Received
from transforms.io.emulator import start_emulator
from transforms.io.pubsub import EMULATOR, PubSub
from transforms.io.state_store import Commit, StateStore
from transforms.io.store import open_store
from transforms.model_bundle import ModelBundle
from transforms.stream import sets as sets_module
from transforms.stream.crew import Crew
from transforms.stream.messages import decode_messages, encode_sets
from transforms.stream.rehearse import Mishaps
from transforms.stream.sessions import merge_events
from transforms.stream.step import Step

AT_ONCE = (1, 10, 50, 256)
PARTS = {
    "sources": (sets_module.Panel, "ask"), "encoding": (ModelBundle, "encode"), "search": (vector_sources, "nearest"),
    "facts": (sets_module, "user_facts"), "blend": (recommend, "blend"), "assemble": (recommend, "assemble"),
}  # fmt: skip
APART_S = 180.0
"""Between the plays of a listener that were before."""


@dataclasses.dataclass(frozen=True)  # without slots: states are made on first use and kept
class Replayed:
    """Plays and skips of listeners: what was before, in their order, and what comes, in turn one of each."""

    before: list[dict[str, Any]]
    coming: list[dict[str, Any]]

    @functools.cached_property
    def states(self) -> dict[str, bytes]:
        """What is known of the listeners before anything comes."""
        return windows([stamped([one], ago_s=APART_S * (turn + 1))[0] for turn, one in _backwards(self.before)])


def load(raw: str, shape: str, root: str, count: int) -> Replayed:
    """Return events of a raw folder: everybody's middle one, then everybody's next, and so on, with those before them.

    At 200 a second, 36,000 listeners each have one in three minutes, as they have when they listen.
    """
    folder = open_raw(raw, shape, iso_date("2026-01-31"), open_store(root))
    tasks = raw_tasks(folder, raw_files(folder, EVENT, "9999-12-31", required=True), EVENT)
    lines = (json.loads(one.data) for block in rehearsals(folder, tasks, Mishaps(), 7, None) for one in block.messages)
    own: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for one in lines:
        if one["event_type"] in ("play", "skip") and not one.get("private_session"):
            own[one["user_id"]].append(one)
    turns = ((turn, n, one) for n, some in enumerate(own.values()) for turn, one in enumerate(some[len(some) // 2 :]))
    coming = [one for _, _, one in heapq.nsmallest(count, turns, key=lambda row: row[:2])]
    users = {one["user_id"] for one in coming}
    return Replayed([one for user in sorted(users) for one in own[user][: len(own[user]) // 2]], coming)


def _backwards(events: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the events of each listener, the last first, with how many came after it."""
    turns: collections.Counter[str] = collections.Counter()
    for one in reversed(events):
        yield turns[one["user_id"]], one
        turns[one["user_id"]] += 1


def stamped(events: Sequence[dict[str, Any]], ago_s: float = 0.0) -> list[Message]:
    """Return events as messages of this moment, or of one before it."""
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=ago_s)
    told = {"event_ts": now.isoformat(timespec="microseconds"), "ingest_ts": now.isoformat(timespec="microseconds")}
    return [Message(json.dumps({**one, **told}).encode(), {}) for one in events]


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


class AllTimes(Metrics):
    """Metrics that keep the freshness of all sets."""

    def __init__(self) -> None:
        super().__init__()
        self._fresh = collections.deque()


def say(line: str) -> None:
    """Tell a person, and leave standard output to the figures."""
    print(f"  {line}", file=sys.stderr)


def driver(broker: PubSub, step: Step, folder: Path, states: Mapping[str, bytes] | None = None) -> Stream:
    """Return the local driver over a state of its own, which some listeners have from before."""
    store, now_us = StateStore(folder), int(time.time() * 1e6)
    store.commit(Commit(states or {}, dict.fromkeys(states or {}, now_us), {}, frozenset(), now_us))
    return Stream(
        broker=broker, store=store, step=step, metrics=AllTimes(), code_version="benchmark", reload=lambda: None,
        clock=time.time, stop=threading.Event(), say=say,
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


def latency(fresh: Callable[[str], PubSub], step: Step, root: str, given: Replayed, rate: float) -> dict[str, float]:
    """Return quantiles of freshness in ms while a process sends at a rate and another one checks each minute."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "messages.jsonl")
        lines.write_text("".join(json.dumps(one) + "\n" for one in given.coming))
        stream = driver(fresh("latency"), step, Path(folder, "state"), given.states)
        stream.validation = validation_of(root, Path(folder, "state"), stream.metrics, say)
        sender = subprocess.Popen([sys.executable, "-c", _SENDER, "latency", str(rate), str(lines)])
        seconds = run_until(stream, len(given.coming))
        sender.wait()
        stream.validation.close()
        times = stream.metrics.freshness(len(given.coming))
        found = {f"p{100 * share:g} ms": 1_000 * value for share, value in times.items()}
        stream.store.close()
    return found | {"events a second": len(given.coming) / seconds, "sets": float(stream.metrics.total("sets"))}


def flooded(fresh: Callable[[str], PubSub], step: Step, given: Replayed) -> dict[str, float]:
    """Return events a second of the driver and of a bare loop over messages that lie ready."""
    rates = {}
    for name, work in {"bare loop": _bare, "driver": _driven}.items():
        broker = fresh(name.replace(" ", "-"))
        broker.publish(EVENTS, stamped(given.coming))
        rates[name] = len(given.coming) / work(broker, step, len(given.coming), given.states)
    return rates | {"driver beside bare loop": rates["driver"] / rates["bare loop"]}


def _driven(broker: PubSub, step: Step, count: int, states: Mapping[str, bytes]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        stream = driver(broker, step, Path(folder), states)
        seconds = run_until(stream, count)
        stream.store.close()
    return seconds


def _bare(broker: PubSub, step: Step, count: int, before: Mapping[str, bytes]) -> float:
    states = dict(before)
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
    """Return what a set costs by how many are made at once, in us of CPU, and what shares its parts take."""
    found = {}
    for size in AT_ONCE:
        some = dict(list(states.items())[:size])
        spent: collections.Counter[str] = collections.Counter()
        with contextlib.ExitStack() as held:
            for name, (owner, attribute) in PARTS.items():
                held.enter_context(_timed(owner, attribute, name, spent))
            whole = [_cpu(lambda some=some: step.sets(some)) for _ in range(rounds)]
        shares = {f"{name} share": seconds / sum(whole) for name, seconds in spent.items()}
        found[f"{size} at once"] = {"us a set": 1e6 * statistics.median(whole) / len(some)} | shares
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


def windows(messages: Sequence[Message], before: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return the states that some messages lead to, by listener."""
    came = [Received(one.data, one.attributes, str(n), 0.0, "") for n, one in enumerate(messages)]
    rows = decode_messages(came, "benchmark").rows
    known = {user: (before or {}).get(user) for user in rows["user_id"].unique().to_list()}
    return dict(sorted(merge_events(known, rows).states.items()))


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
    defaults = {
        "rate": 200,
        "seconds": 60,
        "flood": 10_000,
        "rounds": 7,
        "kills": 3,
        "processes": 1,
        "beside": 800,
    }
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    replayed = load(given.raw, given.format, given.root, max(given.flood, given.rate * given.seconds))
    some = {name: dataclasses.replace(replayed, coming=replayed.coming[:count])
            for name, count in {"latency": given.rate * given.seconds, "flood": given.flood}.items()}  # fmt: skip
    with tempfile.TemporaryDirectory() as tables, brokers() as fresh:
        step = open_sessions(given.root, Path(tables), given.processes)
        states = windows(stamped(replayed.coming), replayed.states)
        for size in AT_ONCE:  # what is compiled or loaded once, in whatever process, is not part of an answer
            step.sets(dict(list(states.items())[:size]))
        here = step.own if isinstance(step, Crew) else step
        found: dict[str, Any] = {"function": function(here, states, given.rounds)}
        found["latency"] = latency(fresh, step, given.root, some["latency"], given.rate)
        found["throughput"] = flooded(fresh, step, some["flood"])
        if given.kills:
            once = once_each(step, replayed.coming, states, given.beside)
            found["beside beam"] = compare(fresh, given.root, once, stamped, given.rate, given.kills)
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
