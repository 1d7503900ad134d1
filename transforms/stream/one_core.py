"""Threads that wait for each other, on one core.

A query of Polars is answered by a thread of its pool, for which the one that asked waits. Woken on another core, which is to
be woken first, it takes longer to begin than a small table takes to be worked on, and the data have to follow it. On the same
core it begins as the other one stops. A round of the stream is 200 such queries.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import polars as pl

_STAT, _TASKS = Path("/proc/thread-self/stat"), Path("/proc/self/task")
_CAN = hasattr(os, "sched_setaffinity") and _STAT.exists()  # Linux
_ALLOWED = frozenset(os.sched_getaffinity(0)) if _CAN else frozenset()
_CORE = 36
"""Place in `/proc/<pid>/stat`, behind the name of the command, of the core a thread was on last: field 39 of proc_pid_stat(5)."""


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread, those it starts meanwhile and the pool of Polars, where that is one thread, on the core this one is on.

    The scheduler chose the core, and may choose another one for the next time. Where the system has no such call or refuses it,
    all stay where they are.
    """
    threads = [0, *pool()]
    with _on({_core()}, threads) if len(threads) > 1 else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def any_core() -> Iterator[None]:
    """Let this thread go within `one_core`, for what it starts and what stays for longer."""
    with _on(_ALLOWED, [0]) if _CAN else contextlib.nullcontext():
        yield


@functools.cache
def pool() -> tuple[int, ...]:
    """Return the id of the one thread of the pool of Polars; none where there are more of them, which share their work."""
    if not _CAN or pl.thread_pool_size() != 1:
        return ()
    pl.select(a=1, b=2).select(pl.all() + 1)  # by then it runs under its name
    return tuple(int(task.name) for task in _TASKS.iterdir() if _name(task) == "polars-0")


@contextlib.contextmanager
def _on(cores: Set[int], threads: Sequence[int]) -> Iterator[None]:
    before = {thread: os.sched_getaffinity(thread) for thread in threads}
    try:
        for thread in threads:
            _move(thread, cores)
        yield
    finally:
        for thread, own in before.items():
            _move(thread, own)


def _move(thread: int, cores: Set[int]) -> None:
    with contextlib.suppress(OSError):  # to be refused costs time and nothing else
        os.sched_setaffinity(thread, cores)


def _name(task: Path) -> str:
    try:
        return (task / "comm").read_text().strip()
    except OSError:  # it has ended since
        return ""


def _core() -> int:
    return int(_STAT.read_text().rsplit(")", 1)[1].split()[_CORE])
