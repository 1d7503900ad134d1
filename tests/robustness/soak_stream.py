"""Let the stream work for ten minutes on a bad day, and account for everything afterwards.

    python tests/robustness/soak_stream.py --root ROOT --raw RAW [--minutes 10] [--rate 50] [--processes 1]

ROOT is a published root, of which a copy is used; RAW the events to replay: 5 % of them twice, 5 % up to a minute out of order,
1 % broken besides. The real command over the emulator, and two bundle swaps on the way. It ends with 1 unless every message
is accounted for, every last set is, to the byte, the one that a run in bulk makes from the bundle it names, the sets of every
minute were checked and passed, and memory is flat in the second half.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from kill_stream import Reader, settle

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from jobs.batch import open_raw  # noqa: E402
from jobs.broker import same_broker  # noqa: E402
from jobs.options import iso_date, leave  # noqa: E402
from jobs.replay import Pace, rehearsals, send  # noqa: E402
from pipelines.bundle import read_bundle, write_bundle  # noqa: E402
from pipelines.inputs import raw_files, raw_tasks  # noqa: E402
from pipelines.live import open_sessions  # noqa: E402
from pipelines.publish import pointer_path, read_pointer  # noqa: E402
from schemas.inputs import EVENT  # noqa: E402
from transforms.io.broker import Received  # noqa: E402
from transforms.io.pubsub import EMULATOR  # noqa: E402
from transforms.io.store import open_store  # noqa: E402
from transforms.stream.messages import decode_messages, decode_set, encode_sets  # noqa: E402
from transforms.stream.rehearse import BROKEN, Mishaps, Rehearsal  # noqa: E402
from transforms.stream.session import APPLIED, DUPLICATE, OUTLIVED  # noqa: E402
from transforms.stream.sessions import merge_events  # noqa: E402

MISHAPS = Mishaps(duplicates=0.05, disorder=0.05, malformed=0.01)
SWAPS_AT = (0.2, 0.45)
SURFACE = "now_playing"
FLAT = 0.05
"""Memory may grow by so much of itself in the second half: libraries keep what they have freed."""
_SAMPLE_S, _START_S = 2.0, 300.0
_BY_ORDER = (APPLIED, DUPLICATE, OUTLIVED)


class Job:
    """The stream as a process of its own."""

    def __init__(self, root: Path, processes: int) -> None:
        self._log = root / "job.log"
        command = [
            sys.executable,
            "-m",
            "jobs.stream",
            "--root",
            str(root),
            "--port",
            "0",
            "--processes",
            str(processes),
        ]
        alone = {name: value for name, value in os.environ.items() if name != EMULATOR}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=alone, cwd=HERE.parents[1])
        deadline = time.monotonic() + _START_S
        while not (found := re.search(r"metrics at (\S+);", self._log.read_text())):
            assert self._process.poll() is None, self._log.read_text()[-2_000:]
            assert time.monotonic() < deadline, "it did not start within five minutes"
            time.sleep(0.2)
        self._address = found[1]

    def metrics(self) -> dict[str, float]:
        """Return every sample by name and labels."""
        with urllib.request.urlopen(self._address, timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def megabytes(self) -> float:
        """Return the resident memory of the driver."""
        return psutil.Process(self._process.pid).memory_info().rss / 2**20

    def end(self) -> int:
        """Tell it to finish; return how it ended."""
        self._process.terminate()
        return self._process.wait(120)


def second_bundle(root: Path) -> list[bytes]:
    """Describe another bundle of the same parts; return the pointers to it and back."""
    store = open_store(str(root))
    pointer = read_pointer(store, SURFACE)
    assert pointer is not None
    assert pointer.bundle is not None
    other = dataclasses.replace(read_bundle(store, pointer.bundle), bundle="soak" + pointer.bundle[4:])
    write_bundle(store, other)
    named = dataclasses.replace(pointer, bundle=other.bundle)
    return [named.to_json().encode(), store.read_bytes(pointer_path(SURFACE))]


def deal(root: Path, raw: str, count: int, seed: int) -> list[Rehearsal]:
    folder = open_raw(raw, "raw", iso_date("2026-01-31"), open_store(str(root)))
    tasks = raw_tasks(folder, raw_files(folder, EVENT, "9999-12-31", required=True), EVENT)
    return list(rehearsals(folder, tasks, MISHAPS, seed, count))


def counted(metrics: dict[str, float]) -> dict[str, int]:
    """Return the events by outcome."""
    found = ((re.fullmatch(r'segue_stream_outcomes_total\{outcome="(.*)"\}', name), n) for name, n in metrics.items())
    return {match[1]: int(number) for match, number in found if match}


@dataclasses.dataclass
class Soak:
    """What was seen while the stream was at work."""

    reader: Reader
    sent: int
    memory: list[tuple[float, float]]
    metrics: dict[str, float]
    seconds: float


def at_work(root: Path, dealt: list[Rehearsal], rate: float, processes: int) -> Soak:
    """Send everything, swap bundles on the way, and wait until all is accounted for."""
    sent = sum(len(block.messages) for block in dealt)
    pointers, done = second_bundle(root), threading.Event()
    job = Job(root, processes)
    with contextlib.ExitStack() as held:
        held.callback(job.end)
        broker = held.enter_context(same_broker(str(root), None))
        reader = Reader(broker)
        pool = held.enter_context(concurrent.futures.ThreadPoolExecutor(2))
        held.callback(done.set)
        reading = pool.submit(reader.follow, done)
        pace, began = Pace(None, rate, time.monotonic, time.sleep), time.monotonic()
        sending = pool.submit(send, broker, iter(dealt), pace, lambda line: None)
        memory = list(sampled(job, sending, root, dict(zip(SWAPS_AT, pointers)), sent / rate))
        sending.result()
        settle(reader, lambda: accounted(job.metrics(), sent, reader), reading)
        done.set()
        reading.result()
        return Soak(reader, sent, memory, job.metrics(), time.monotonic() - began)


def accounted(metrics: dict[str, float], sent: int, reader: Reader) -> bool:
    checked = sum(one["sets"] for one in reader.verdicts.copy().values())
    made = sum(len(sets) for sets in reader.sets.copy().values())
    quiet = metrics["segue_stream_owed"] == 0 and metrics["segue_stream_messages_total"] >= sent
    return quiet and checked == made


def sampled(
    job: Job, sending: concurrent.futures.Future, root: Path, swaps: dict[float, bytes], seconds: float
) -> Iterator[tuple[float, float]]:
    """Yield seconds and memory until everything is sent, swapping the live pointer on the way."""
    began = time.monotonic()
    for number in itertools.count():
        passed = time.monotonic() - began
        for at in [at for at in swaps if passed > at * seconds]:
            open_store(str(root)).write_bytes(pointer_path(SURFACE), swaps.pop(at))
            print(f"  {passed:.0f} s: the pointer names another bundle", file=sys.stderr, flush=True)
        yield passed, job.megabytes()
        if number % 15 == 0:
            print(f"  {passed:.0f} s: {job.megabytes():,.0f} MB {counted(job.metrics())}", file=sys.stderr, flush=True)
        if sending.done():
            return
        time.sleep(_SAMPLE_S)


def slope(memory: list[tuple[float, float]]) -> float:
    """Return the growth of memory in MB a minute, by least squares."""
    seconds, megabytes = zip(*memory)
    return float(np.polyfit(np.array(seconds) / 60, megabytes, 1)[0])


def judged(root: Path, dealt: list[Rehearsal], soak: Soak) -> list[str]:
    """Return what is wrong."""
    outcomes, (bulk, states) = counted(soak.metrics), in_bulk(dealt)
    broken, again = (
        sum(block.counts[BROKEN] for block in dealt),
        int(soak.metrics["segue_stream_messages_total"]) - soak.sent,
    )
    middle = soak.memory[-1][0] / 2
    first, second = ([one for one in soak.memory if (one[0] < middle) == early] for early in (True, False))
    growth = slope(second) * (second[-1][0] - second[0][0]) / 60
    verdicts = list(soak.reader.verdicts.values())
    wrong = list(soak.reader.wrong)
    wrong += [f"outcomes {outcomes} do not add up to the messages"] * (
        sum(outcomes.values()) != soak.metrics["segue_stream_messages_total"]
    )
    wrong += [f"outcomes {outcomes}, in bulk {bulk}, {again} delivered again"] * (
        together(outcomes, again) != together(bulk, 0)
    )
    wrong += [f"{len(soak.reader.letters)} dead letters of {broken} broken messages"] * (
        len(soak.reader.letters) != broken
    )
    wrong += [f"memory grew by {growth:.0f} MB in the second half"] * (growth > FLAT * second[0][1])
    wrong += [f"verdict {one}" for one in verdicts if one["outcome"] != "passed"]
    wrong += unlike(root, states, soak.reader)
    swaps = soak.metrics["segue_stream_swaps_total"]
    wrong += [f"{swaps:.0f} swaps of {len(SWAPS_AT)}"] * (swaps != len(SWAPS_AT))
    print(f"  {soak.sent:,} messages in {soak.seconds:.0f} s, {again} delivered again: {outcomes}")
    print(f"  memory {first[0][1]:,.0f} MB at first, {slope(first):+.1f} MB a minute in the first half, {slope(second):+.1f} in the"
          f" second, {second[-1][1]:,.0f} MB at last, {max(m for _, m in soak.memory):,.0f} at most")  # fmt: skip
    made = sum(len(sets) for sets in soak.reader.sets.values())
    checked = sum(one["sets"] for one in verdicts)
    print(
        f"  {made:,} sets of {len(soak.reader.sets):,} users; {checked:,} checked in {len(verdicts)} minutes; {swaps:.0f} swaps"
    )
    return wrong


def together(outcomes: dict[str, int], again: int) -> dict[str, int]:
    """Return outcomes as no order of the messages changes them: what is too old for a window may have been applied before."""
    taken = sum(outcomes.get(name, 0) for name in _BY_ORDER) - again
    return {name: number for name, number in outcomes.items() if name not in _BY_ORDER and number} | {APPLIED: taken}


def in_bulk(dealt: list[Rehearsal]) -> tuple[dict[str, int], dict[str, bytes]]:
    """Return outcomes and states of one merge of everything."""
    messages = [one for block in dealt for one in block.messages]
    found = decode_messages([Received(one.data, one.attributes, "m", 0.0, "a") for one in messages], "v")
    merged = merge_events(dict.fromkeys(found.rows["user_id"].unique()), found.rows)
    return merged.counts | {"rejected": len(found.causes)}, merged.states


def unlike(root: Path, states: dict[str, bytes], reader: Reader) -> list[str]:
    """Return the users whose last set is not the one that its bundle makes in bulk."""
    by_bundle: dict[str, dict[str, bytes]] = {}
    for user, (_, data) in sorted(reader.last.items()):
        by_bundle.setdefault(decode_set(data)["bundle_id"], {})[user] = data
    wrong, store = [], open_store(str(root))
    pointer = read_pointer(store, SURFACE)
    assert pointer is not None
    for bundle, last in by_bundle.items():
        store.write_bytes(pointer_path(SURFACE), dataclasses.replace(pointer, bundle=bundle).to_json().encode())
        step, users = open_sessions(str(root), root / "stream" / "tables"), sorted(last)
        for start in range(0, len(users), 256):
            sets = step.sets({user: states[user] for user in users[start : start + 256]})
            expected = {one.attributes["user_id"]: one.data for one in encode_sets(sets, {})}
            wrong += [
                f"{user}: not its set in bulk"
                for user in users[start : start + 256]
                if last[user] != expected.get(user)
            ]
        wrong += [f"{user}: no set" for user in missing(step, states, reader)]
    return wrong


def missing(step, states: dict[str, bytes], reader: Reader) -> list[str]:
    """Return the users without a set who may have one."""
    without = {user: state for user, state in sorted(states.items()) if user not in reader.last}
    return step.sets(without)["user_id"].to_pylist() if without else []


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--raw", required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=50.0, help="messages a second")
    parser.add_argument("--processes", type=int, default=1, help="that make sets")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="segue-soak-") as folder:
        root = Path(folder, "root")
        unneeded = shutil.ignore_patterns("raw*", "stream", "staging", "quarantine")
        shutil.copytree(options.root, root, ignore=unneeded)
        dealt = deal(root, options.raw, int(options.minutes * 60 * options.rate / 1.06), options.seed)
        wrong = judged(root, dealt, at_work(root, dealt, options.rate, options.processes))
    print("\n".join([*wrong[:20], f"  {len(wrong)} things are wrong"]) if wrong else "  everything is accounted for")
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ.pop(EMULATOR, None)
    leave(main())
