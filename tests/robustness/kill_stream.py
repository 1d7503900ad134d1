"""Kill the stream at random moments while events flow, and compare what a consumer is left with with one run in bulk.

    python tests/robustness/kill_stream.py --kills 30 --events 50000 --rate 150

Over the real emulator, with the toy step of the tests; ends with 1 where a set differs, is missing, or one sequence has two.
"""

import argparse
import collections
import concurrent.futures
import functools
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from toy_stream import ToyStep, event  # noqa: E402

from jobs.broker import same_broker  # noqa: E402
from jobs.options import leave  # noqa: E402
from pipelines.publish import pointer_path  # noqa: E402
from transforms.decode import POSITION  # noqa: E402
from transforms.io.broker import DEAD_LETTERS, EVENTS, SETS, VERDICTS, Message, Received  # noqa: E402
from transforms.io.pubsub import EMULATOR, PubSub  # noqa: E402
from transforms.stream.messages import decode_messages, encode_sets  # noqa: E402

_JOB = f"""
import argparse, sys
sys.path[:0] = [{str(HERE.parents[1])!r}, {str(HERE.parent)!r}]
from jobs import stream
from jobs.options import leave
from toy_stream import ToyStep
options = argparse.Namespace(root=sys.argv[1], project=None, state=None, port=0)
leave(stream.run(options, lambda root: ToyStep()))
"""
_QUIET_S = 20.0
_STILL_S = 180.0
"""What a killed process held comes again after a minute, and its unanswered pulls take some along for one minute more."""


class Job:
    """The stream as a process of its own, killed and started again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._log, self._starts = (root / "job.log").open("a"), 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", _JOB, str(self._root)]
        alone = {
            name: value for name, value in os.environ.items() if name != EMULATOR
        }  # it finds the emulator by itself
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=alone)
        self._starts += 1
        while (self._root / "job.log").read_text().count("metrics at") < self._starts:
            assert self._process.poll() is None, (self._root / "job.log").read_text()[-2_000:]
            time.sleep(0.1)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def end(self) -> int:
        self._process.terminate()
        return self._process.wait(60)


def messages(count: int, users: int, rng: random.Random) -> list[dict | None]:
    """Return events in order of sending: 5 % twice, 5 % up to a minute out of order, 1 % None, which is sent broken."""
    told = [(number + (rng.random() < 0.05) * rng.randrange(6_000), event(number, f"u{rng.randrange(users)}"))
            for number in range(count)]  # fmt: skip
    told += [(at + rng.randrange(3_000), one) for at, one in rng.sample(told, count // 20)]
    dealt: list[dict | None] = [one for _, one in sorted(told, key=lambda entry: entry[0])]
    for _ in range(count // 100):
        dealt.insert(rng.randrange(len(dealt)), None)
    return dealt


def in_bulk(dealt: list[dict | None]) -> dict[str, bytes]:
    """Return the sets of one merge of everything."""
    data = [Received(json.dumps(one).encode(), {}, "m", 0.0, "a") for one in dealt if one is not None]
    rows = decode_messages(data, "v").rows
    assert rows[POSITION].len() == len(data)
    merged = ToyStep().merge(dict.fromkeys(rows["user_id"].unique()), rows)
    return {one.attributes["user_id"]: one.data for one in encode_sets(ToyStep().sets(merged.states), {})}


def publish(broker: PubSub, dealt: list[dict | None], rate: float) -> None:
    began, sent = time.monotonic(), 0
    while sent < len(dealt):
        due = min(len(dealt), int((time.monotonic() - began) * rate) + 1)
        batch = [Message(b"{" if one is None else json.dumps(one).encode(), {}) for one in dealt[sent:due]]
        broker.publish(EVENTS, batch)
        sent = due
        time.sleep(0.02)


class Reader:
    """What a reader of sets, dead letters and verdicts is left with."""

    def __init__(self, broker: PubSub) -> None:
        self._broker = broker
        self.sets: dict[str, dict[int, bytes]] = {}
        self.last: dict[str, tuple[int, bytes]] = {}
        self.letters: set[tuple[str, str]] = set()
        self.verdicts: dict[tuple[str, int], dict] = {}
        self.wrong: list[str] = []
        self.moved_s = time.monotonic()

    def follow(self, done: threading.Event) -> None:
        """Take in what comes until told that this is all."""
        keeps = {SETS: self._keep_set, DEAD_LETTERS: self._keep_letter, VERDICTS: self._keep_verdict}
        while not done.is_set():
            for topic, keep in keeps.items():
                received = self._broker.pull(topic, 500, 0.5)
                if received:
                    for one in received:
                        keep(one)
                    self._broker.acknowledge(topic, [one.ack_id for one in received])
                    self.moved_s = time.monotonic()

    def _keep_set(self, one: Received) -> None:
        user, sequence = one.attributes["user_id"], int(one.attributes["sequence"])
        digest = hashlib.sha256(one.data).digest()
        if self.sets.setdefault(user, {}).setdefault(sequence, digest) != digest:
            self.wrong.append(f"{user} has two sets of sequence {sequence}")
        self.last[user] = max(self.last.get(user, (-1, b"")), (sequence, one.data))

    def _keep_letter(self, one: Received) -> None:
        found = json.loads(one.data)
        self.letters.add((found["message_id"], found["error_class"]))

    def _keep_verdict(self, one: Received) -> None:
        found = json.loads(one.data)
        self.verdicts[found["minute"], found["part"]] = found

    def unlike(self, expected: dict[str, bytes], broken: int) -> list[str]:
        """Say what is not as one run in bulk would have it."""
        last = {user: data for user, (_, data) in self.last.copy().items()}
        users = sorted(user for user in expected.keys() | last.keys() if last.get(user) != expected.get(user))
        causes = collections.Counter(cause for _, cause in self.letters.copy())
        odd = [f"{user}: its last set is not that of one run in bulk" for user in users]
        if causes != ({"decode:malformed": broken} if broken else {}):
            odd.append(f"dead letters {dict(causes)} of {broken} broken messages")
        return odd


def main() -> int:
    options = _options()
    rng = random.Random(options.seed)
    dealt = messages(options.events, options.users, rng)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / pointer_path("now_playing")).parent.mkdir(parents=True)
        (root / pointer_path("now_playing")).write_text("1")
        job, wrong = Job(root), list[str]()
        try:
            with same_broker(folder, None) as broker:
                wrong += _run(broker, job, dealt, options, rng)
        finally:
            wrong += [f"the stream ended with {code}"] if (code := job.end()) else []
    print(
        "\n".join([*wrong[-20:], f"  {len(wrong)} things are wrong"] if wrong else [])
        or f"  {len(dealt):,} messages, {options.kills} kills: every set is as in bulk"
    )
    return 1 if wrong else 0


def _run(broker: PubSub, job: Job, dealt, options: argparse.Namespace, rng: random.Random) -> list[str]:
    reader, done = Reader(broker), threading.Event()
    unlike = functools.partial(reader.unlike, in_bulk(dealt), sum(one is None for one in dealt))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        publishing = pool.submit(publish, broker, dealt, options.rate)
        reading = pool.submit(reader.follow, done)
        try:
            at_work = 0
            for number in range(options.kills):
                time.sleep(rng.random() * options.every)
                at_work += bool(unlike())
                job.kill()
                job.start()
                print(f"  killed {number + 1} times, sets of {len(reader.sets):,} users", file=sys.stderr, flush=True)
            publishing.result()
            settle(reader, lambda: not unlike(), reading)
        finally:
            done.set()
        reading.result()
    copies = sum(len(sets) for sets in reader.sets.values())
    told = f"{len(reader.sets):,} users, {copies:,} sets of different sequence, {at_work} kills with work to do"
    print(f"  {told}", file=sys.stderr, flush=True)
    return reader.wrong + unlike()


def settle(reader: Reader, right: Callable[[], bool], reading: concurrent.futures.Future[None]) -> None:
    """Wait until everything is as it should be, and stays so, or until nothing comes any more."""
    while not right() and time.monotonic() - reader.moved_s < _STILL_S and not reading.done():
        time.sleep(1.0)
    if right():
        time.sleep(_QUIET_S)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--rate", type=float, default=500.0, help="messages a second")
    parser.add_argument("--every", type=float, default=4.0, help="a kill within so many seconds of work")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.pop(EMULATOR, None)
    leave(main())
