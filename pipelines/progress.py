"""What a person sees while the road runs, and what each stage cost."""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import psutil

_SAMPLE_S = 0.05
_CHILDREN_S = 1.0  # finding child processes reads the whole process table
_REDRAW_S = 0.5
_LINE_EVERY_S = 10.0


@dataclasses.dataclass(slots=True)
class Meter:
    """What one stage cost.

    Attributes:
      seconds: of wall time. cpu_seconds: of processors, by this process, its threads and its children.
      peak_bytes: resident memory of this process and its children.
      spent: wall seconds by part of the work, over all its tasks.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    spent: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class Console:
    """Lines for a person, on standard error; a terminal is redrawn in place, a log gets a line every ten seconds."""

    quiet: bool = False

    def say(self, line: str) -> None:
        """Print one line."""
        if not self.quiet:
            print(f"\r\033[K{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def watch(
        self, label: str, total: int, count_done: Callable[[], int], says: Callable[[], str] = str
    ) -> Iterator[Meter]:
        """Show how far a stage is while the body runs, and what its work says of itself; measure it."""
        meter, stop = Meter(), threading.Event()
        start, used = time.monotonic(), cpu_seconds()
        watcher = threading.Thread(
            target=self._follow, args=(label, lambda: _how_far(total, count_done(), says()), meter, stop), daemon=True
        )
        watcher.start()
        try:
            yield meter
        finally:
            stop.set()
            watcher.join()
            meter.seconds, meter.cpu_seconds = time.monotonic() - start, cpu_seconds() - used

    def _follow(
        self, label: str, how_far: Callable[[], tuple[str, float]], meter: Meter, stop: threading.Event
    ) -> None:
        process, start = psutil.Process(), time.monotonic()
        drawn, counted, children = start, 0.0, 0
        period = _REDRAW_S if sys.stderr.isatty() else _LINE_EVERY_S
        while True:
            now = time.monotonic()
            if now - counted >= _CHILDREN_S:
                counted, children = now, _resident(process.children(recursive=True))
            meter.peak_bytes = max(meter.peak_bytes, _resident([process]) + children)
            if stop.wait(_SAMPLE_S):
                return
            if now - drawn >= period and not self.quiet:
                drawn = now
                self._draw(label, *how_far(), now - start)

    def _draw(self, label: str, words: str, share: float, elapsed: float) -> None:
        left = f", {elapsed / share * (1 - share):.0f} s left" if share else ""
        line = f"  {label:<26} {words}, {elapsed:.0f} s{left}"
        terminal = sys.stderr.isatty()
        print(f"\r\033[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)


def _how_far(total: int, done: int, says: str) -> tuple[str, float]:
    return says or f"{done}/{total} parts", 0.0 if says else done / max(total, 1)


def _resident(processes: Sequence[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def cpu_seconds() -> float:
    """Return the processor time of this process and its children so far: user and system, of those that have ended, too."""
    process, total = psutil.Process(), 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            used = one.cpu_times()
            total += used.user + used.system + used.children_user + used.children_system
    return total
