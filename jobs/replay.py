"""Publish the events of a raw folder at a chosen speed, with mishaps: `python -m jobs.replay --raw RAW --speed 20x`."""

import argparse
import collections
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from jobs.batch import RAW, guarded, open_raw
from jobs.broker import add_broker, same_broker
from jobs.options import iso_date, leave, positive
from pipelines.inputs import raw_files, raw_tasks
from schemas.inputs import EVENT
from transforms.decode import decode
from transforms.importers import SHAPES
from transforms.ingest import check_rows
from transforms.io.broker import EVENTS, Broker
from transforms.io.store import Store, open_store
from transforms.shards import Task
from transforms.stream.rehearse import Mishaps, Rehearsal, rehearse

_BLOCK = 20_000
_MOST = 1_000
_SAY_S = 5.0
_ALL = "9999-12-31"


def main(argv: Sequence[str] | None = None) -> int:
    """Publish; 0 when everything was, 1 when it could not be, 2 on bad arguments."""
    options = _parser().parse_args(argv)
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    mishaps = Mishaps(options.duplicates, options.disorder, options.late, options.malformed)
    root = open_store(options.root)
    raw = open_raw(options.raw, options.format, options.date, root)
    tasks = raw_tasks(raw, raw_files(raw, EVENT, _ALL, required=True), EVENT)
    blocks = rehearsals(raw, tasks, mishaps, options.seed, options.limit)
    with same_broker(options.root, options.project) as broker:
        pace = Pace(options.speed, options.rate, time.monotonic, time.sleep)
        counts = send(broker, blocks, pace, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    print("  " + ", ".join(f"{number:,} {name}" for name, number in counts.items()))
    return 0


def rehearsals(
    raw: Store, tasks: Sequence[Task], mishaps: Mishaps, seed: int, limit: int | None
) -> Iterator[Rehearsal]:
    """Yield the events of a raw folder in blocks of 20,000, file after file.

    Memory: one file, or 64 MiB of a larger one.
    """
    left, part = limit, itertools.count()
    for task in tasks:
        for address in task.inputs["raw"]:
            decoded = decode(raw.local(address.removeprefix(f"{raw.root}/")), EVENT, task.span)
            rows = check_rows(decoded, EVENT, "replay", "replay").rows.sort("ingest_ts", "event_id")
            for start in range(0, rows.height, _BLOCK):
                block = rows[start : start + _BLOCK][:left]
                if left is not None:
                    left -= block.height
                if block.height:
                    yield rehearse(block, mishaps, seed, next(part))


class Pace:
    """When messages are due: at a multiple of the speed they happened at, at a rate, or at once."""

    def __init__(
        self, speed: float | None, rate: float | None, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._speed, self._rate, self._clock, self._sleep = speed, rate, clock, sleep
        self._began_s, self._sent = clock(), 0
        self._first_us: int | None = None

    def due(self, at_us: Sequence[int]) -> int:
        """Wait until the first message is due, and return how many of them are."""
        if self._rate is not None:
            wait = self._sent / self._rate - self._passed()
            self._sleep(max(0.0, wait))
            count = max(1, int(self._passed() * self._rate) - self._sent)
        elif self._speed is not None:
            first = self._first_us = at_us[0] if self._first_us is None else self._first_us
            happens = [(at - first) / 1e6 / self._speed for at in at_us]
            self._sleep(max(0.0, happens[0] - self._passed()))
            now = self._passed()
            count = max(1, sum(at <= now for at in happens))
        else:
            count = len(at_us)
        count = min(count, len(at_us))
        self._sent += count
        return count

    def _passed(self) -> float:
        return self._clock() - self._began_s


def send(broker: Broker, blocks: Iterator[Rehearsal], pace: Pace, say: Callable[[str], None]) -> dict[str, int]:
    """Publish messages when they are due; return how many of what."""
    counts: collections.Counter[str] = collections.Counter()
    sent, said = 0, time.monotonic()
    for block in blocks:
        start = 0
        while start < len(block.messages):
            end = start + pace.due(block.at_us[start : start + _MOST].tolist())
            broker.publish(EVENTS, block.messages[start:end])
            sent, start = sent + end - start, end
            if time.monotonic() - said >= _SAY_S:
                said = time.monotonic()
                say(f"{sent:,} messages sent")
        counts.update(block.counts)
    return dict(counts)


def _speed(text: str) -> float:
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not speed > 0:
        raise argparse.ArgumentTypeError(f"expected a multiple as 20x, got {text!r}")
    return speed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jobs.replay", description=(__doc__ or "").split(":")[0])
    add_broker(parser)
    parser.add_argument("--raw", required=True, help="input folder, local or gs://")
    parser.add_argument("--format", default=RAW, choices=(RAW, *sorted(SHAPES)), help="shape of the input folder")
    parser.add_argument("--date", type=iso_date, default=iso_date("2026-01-31"), help="last day of an imported folder")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--speed", type=_speed, help="multiple of the speed at which it happened, 20x; all at once if none"
    )
    pace.add_argument("--rate", type=_speed, help="messages a second, evenly")
    for name, what in {
        "duplicates": "sent twice", "disorder": "sent up to a minute later", "late": "dated back by 11 minutes to 40 days",
        "malformed": "sent broken besides",
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=float, default=0.0, help=f"share of the events that is {what} (0)")
    parser.add_argument("--limit", type=positive, help="only so many events")
    parser.add_argument("--seed", type=int, default=7, help="same seed: same mishaps (7)")
    return parser


if __name__ == "__main__":
    leave(main())
