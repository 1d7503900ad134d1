"""The driver's end of the checks of each minute's sets: it hands them to a process beside it, and takes verdicts in.

The driver never waits for the checks. What they do not reach is `unchecked`, counted and said: nothing passes over in silence.
"""

import dataclasses
import datetime
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson
import pyarrow as pa

from pipelines.stream_metrics import Metrics
from schemas.stream import BROKEN, UNCHECKED
from transforms.io.broker import Message
from transforms.io.store import LocalStore, StoreError
from transforms.stream.spool import MINUTE_S, READY, VERDICT, Spool, minute_of, readable, verdicts, waiting

_LOG = logging.getLogger(__name__)
MOST_WAITING = 20
"""Minutes that may wait: 3.5 GB of disk at 200 sets a second, 14 kB each."""
STUCK_S = 600.0
LEDGER, LOG, DAY = "verdicts.jsonl", "checks.log", 1_440
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


class Process(Protocol):
    """The process beside the driver, `subprocess.Popen` for one."""

    def poll(self) -> int | None:
        """Return how it ended, None while it is at work."""

    def kill(self) -> None:
        """End it at once."""


@dataclasses.dataclass
class Validation:
    """Hands over sets and takes in verdicts.

    Attributes:
      start: starts the process that checks what lies in `folder`; called when there is something to check.
      say: told one line at a time when something happens that a person should know.
    """

    folder: Path
    start: Callable[[], Process]
    metrics: Metrics
    code_version: str
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self._spool = Spool(self.folder)
        self._process: Process | None = None
        self._unchecked: dict[str, str] = {}
        self._spoiled = -1
        self._pause_s, self._start_at_s = _FIRST_PAUSE_S, 0.0
        self._oldest, self._since_s = "", 0.0

    def add(self, sets: pa.Table, now_s: float) -> None:
        """Hand over sets that were published now, or note why their minute goes unchecked."""
        if not sets.num_rows or int(now_s // MINUTE_S) == self._spoiled:
            return
        try:
            self._spool.add(sets, now_s)
        except OSError as error:  # sets are served all the same
            self._spoiled = int(now_s // MINUTE_S)
            self._give_up(f"could not be written to {self.folder} ({error}); see to the disk", now_s)

    def _give_up(self, why: str, now_s: float) -> None:
        name = self._spool.abandon() or f"{int(now_s // MINUTE_S):09d}-0000"
        self._unchecked[name] = why

    def look(self, now_s: float) -> dict[str, dict[str, Any]]:
        """Return the verdicts that came, by name of their minute; see that the checks go on. Call it every second."""
        try:
            self._spool.turn(now_s)
        except OSError as error:
            self._give_up(f"could not be handed over ({error}); see to the disk", now_s)
        left = waiting(self.folder)
        surplus = left[1 : 1 + max(0, len(left) - MOST_WAITING)]  # the oldest may be at work
        for name in surplus:
            (self.folder / f"{name}{READY}").unlink(missing_ok=True)
            self._unchecked[name] = f"{len(left)} minutes wait: the checks are slower than the stream, or ended"
        left = [name for name in left if name not in surplus]
        self.metrics.set("validation_lag_seconds", now_s - minute_of(left[0])[0] - MINUTE_S if left else 0.0)
        self._attend(left, now_s)
        unchecked = {name: self._verdict(name, UNCHECKED, why) for name, why in sorted(self._unchecked.items())}
        lost = f"{VERDICT} cannot be read, as after a power cut: what the checks found is not known"
        came = verdicts(self.folder).items()
        return {name: one or self._verdict(name, BROKEN, f"{name}{lost}") for name, one in came} | unchecked

    def _verdict(self, name: str, outcome: str, why: str) -> dict[str, Any]:
        return verdict(name, outcome, self.code_version, severity="critical", detail=why)

    def _attend(self, left: list[str], now_s: float) -> None:
        """Have a process at work while minutes wait; one that ended, or is stuck, is started again after a pause."""
        oldest = left[0] if left else ""
        if oldest != self._oldest:
            self._oldest, self._since_s = oldest, now_s
        process = self._process
        if process is not None and process.poll() is None:
            if oldest and now_s - self._since_s > STUCK_S:
                self.say(f"the checks have been at one minute for {STUCK_S:.0f} s and are started again")
                self._since_s = now_s
                process.kill()
            return
        if process is not None:
            self._process, self._start_at_s = None, now_s + self._pause_s
            self.metrics.count("validation_restarts")
            why = f"the checks ended with {process.poll()}, see {self.folder / LOG}"
            self.say(f"{why}; they are started again in {self._pause_s:.0f} s")
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if left and now_s >= self._start_at_s:
            self._process = self.start()

    def settle(self, taken: Mapping[str, Mapping[str, Any]]) -> None:
        """Count verdicts that were published, write them down for the page, and forget them."""
        for one in taken.values():
            self.metrics.count("validation_minutes", one["outcome"])
            self.metrics.count("validation_sets", by=one["sets"])
            for check in one["failed"]:
                self.metrics.count("validation_failures", check, one["severity"] or "warning")
            if one["failed"] or one["outcome"] in (BROKEN, UNCHECKED):
                self.say(f"sets of {one['minute']}: {one['outcome']}, {', '.join(one['failed']) or one['detail']}")
            self._pause_s = _FIRST_PAUSE_S
        if taken:
            self._write_down(taken)
        for name in taken:
            self._unchecked.pop(name, None)
            (self.folder / f"{name}{VERDICT}").unlink(missing_ok=True)

    def _write_down(self, taken: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the verdicts of a day; what cannot be written is on its topic all the same."""
        path = self.folder / LEDGER
        try:
            kept = read_ledger(self.folder)[-DAY:] + list(taken.values())
            LocalStore(str(self.folder)).write_bytes(LEDGER, b"".join(orjson.dumps(one) + b"\n" for one in kept))
        except (OSError, StoreError) as error:
            self.say(f"verdicts could not be written to {path} ({error}); see to the disk")

    def close(self) -> None:
        """Hand over what there is: it is checked when the stream is at work again."""
        self._spool.close()


def verdict(
    name: str, outcome: str, code_version: str, *, severity: str | None = None, detail: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return a verdict in its contract, as JSON has it."""
    since_s, part = minute_of(name)
    empty = {"sets": 0, "checks": 0, "failed": [], "bundles": []}
    said = {"outcome": outcome, "severity": severity, "detail": detail, "code_version": code_version}
    minute = datetime.datetime.fromtimestamp(since_s, datetime.UTC).isoformat()
    return {"minute": minute, "part": part, **empty, **said, **more}


def encode_verdicts(taken: Mapping[str, Mapping[str, Any]]) -> list[Message]:
    """Return one JSON message per verdict."""
    return [Message(orjson.dumps(one), {"minute": one["minute"], "outcome": one["outcome"]}) for one in taken.values()]


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """Return the verdicts of the last day, the oldest first; lines that cannot be read are left out, and said."""
    path = folder / LEDGER
    found = [readable(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        _LOG.warning("%s: %d lines cannot be read and are left out", path, len(found) - len(known))
    return known
