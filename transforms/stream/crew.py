"""Sets of one step, made by several processes of a machine.

    states, by listener -> as many parts as there are processes -> sets of the first part here, of the others there -> one table

Which process makes a set changes nothing in it. Memory: each process holds the bundle by itself, but for what is mapped.
"""

import concurrent.futures
import dataclasses
import itertools
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection

import polars as pl
import pyarrow as pa

from transforms.stream.one_core import any_core
from transforms.stream.step import Merged, Step
from transforms.stream.trial import tried

LEAST = 64
"""Sets of one part: fewer cost as much as these, most of it fixed."""
PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
Opens = Callable[[], Step]
_LOG = logging.getLogger(__name__)
_POOLS = weakref.WeakSet[concurrent.futures.ProcessPoolExecutor]()


def dismiss() -> None:
    """End the other processes of all crews, once no sets are asked for."""
    for pool in list(_POOLS):
        pool.shutdown()


class Other:
    """A process that makes sets; one that dies is replaced, and not asked until its successor has opened the bundle.

    One that cannot open it is replaced too, after longer and longer pauses by `clock`, s.
    """

    def __init__(self, opens: Opens, clock: Callable[[], float] = time.monotonic) -> None:
        self._opens, self._gone = opens, list[pl.DataFrame]()  # one frame, once there are any
        self._clock, self._again_s, self._pause_s = clock, math.inf, 0.0
        self._start()

    def wait(self) -> None:
        """Wait until the bundle is open; raise what opening it raised."""
        self._opened.result()

    def is_ready(self) -> bool:
        """Tell whether it may be asked; have another try at the bundle where one has failed and its pause is over."""
        if not self._opened.done():
            return False
        if (error := self._opened.exception()) is None:
            self._again_s, self._pause_s = math.inf, 0.0
            return True
        if self._again_s == math.inf:
            if not self._pause_s:
                _LOG.warning(
                    "a process that makes sets cannot open the bundle, they are made here until it can: %r", error
                )
            self._pause_s = min(max(2 * self._pause_s, PAUSE_S), LONGEST_PAUSE_S)
            self._again_s = self._clock() + self._pause_s
        elif self._clock() >= self._again_s:
            self._again_s = math.inf
            self._start()
        return False

    def without(self, tombstones: pl.DataFrame) -> None:
        """Have sets that are asked for from now on offer nothing under these tombstones either."""
        self._gone = [pl.concat([*self._gone, tombstones])]
        try:
            self._pool.submit(_without, tombstones)
        except BrokenProcessPool:
            self._start()

    def ask(self, states: Mapping[str, bytes]) -> concurrent.futures.Future[pa.Table]:
        """Begin with the sets of some listeners."""
        try:
            return self._pool.submit(_sets, states)
        except BrokenProcessPool as error:
            broken = concurrent.futures.Future[pa.Table]()
            broken.set_exception(error)
            return broken

    def replace(self) -> None:
        """Start another process in place of one that died."""
        _LOG.warning("a process that makes sets died; another one is started, and its sets are made here until then")
        self._start()

    def _start(self) -> None:
        self._pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        _POOLS.add(self._pool)
        with any_core():
            self._opened = self._pool.submit(_open, self._opens, self._gone)


@dataclasses.dataclass(frozen=True)
class Crew:
    """A step whose sets are made here and in other processes (`transforms.stream.step.Step`)."""

    own: Step
    others: Sequence[Other]

    @classmethod
    def of(cls, own: Step, opens: Opens, processes: int) -> Step:
        """Return a step that is made by so many processes, this one counted.

        Args:
          own: opened here. opens: opens the same elsewhere; is pickled.
        """
        if processes < 2:
            return own
        crew = cls(own, [Other(opens) for _ in range(processes - 1)])
        for one in crew.others:
            one.wait()
        return crew

    @property
    def bundle(self) -> str:
        """Id of the bundle in use."""
        return self.own.bundle

    def merge(self, states: Mapping[str, bytes | None], events: pl.DataFrame) -> Merged:
        """Apply events to the states of their users."""
        return self.own.merge(states, events)

    def without(self, tombstones: pl.DataFrame) -> Step:
        """Return the step that offers nothing under these tombstones either."""
        for one in self.others if tombstones.height else ():
            one.without(tombstones)
        return dataclasses.replace(self, own=self.own.without(tombstones))

    def sets(self, states: Mapping[str, bytes]) -> pa.Table:
        """Return the candidate set of every user who may have one."""
        ready = [one for one in self.others if one.is_ready()][: max(len(states) // LEAST - 1, 0)]
        parts = _parts(states, len(ready) + 1)
        asked = [one.ask(part) for one, part in zip(ready, parts[1:], strict=True)]
        made = [self.own.sets(parts[0])]
        for one, part, answer in zip(ready, parts[1:], asked, strict=True):
            try:
                made.append(answer.result())
            except BrokenProcessPool:
                one.replace()
                made.append(self.own.sets(part))
        return pa.concat_tables(made) if len(made) > 1 else made[0]


def _parts(states: Mapping[str, bytes], number: int) -> list[dict[str, bytes]]:
    """Return states in parts of as many, in order of their users."""
    users = sorted(states)
    edges = [len(users) * n // number for n in range(number + 1)]
    return [{user: states[user] for user in users[a:b]} for a, b in itertools.pairwise(edges)]


_STEP: list[Step] = []
"""Of a process that makes sets: the one in use."""


def _open(opens: Opens, gone: Sequence[pl.DataFrame]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the driver is told, and ends this process when it is through
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    step = tried(opens())
    for tombstones in gone:
        step = step.without(tombstones)
    _STEP[:] = [step]


def _outlive_nobody() -> None:
    """End this process when the driver is gone, killed or not."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    connection.wait([driver.sentinel])
    os._exit(1)


def _without(tombstones: pl.DataFrame) -> None:
    step = _STEP.pop()  # where this fails there is none, and no set is made that knows less than it should
    _STEP.append(step.without(tombstones))


def _sets(states: Mapping[str, bytes]) -> pa.Table:
    if not _STEP:
        os._exit(1)
    return _STEP[0].sets(states)
