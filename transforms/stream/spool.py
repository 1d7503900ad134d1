"""Published sets on their way to another process that checks them: one Arrow file a minute, whole or not at all.

    <minute>-<part>.open      being written: what is in it was published before it was committed
    <minute>-<part>.arrow     a minute that is over, for whoever checks it
    <minute>-<part>.json      its verdict, for whoever published the sets
    <minute>-<part>.tries     how often its checks began
    kept/                     minutes that did not pass

What a killed process left open is a minute too: its last batch may be cut off, and was not committed then, so that it is
published and written again. Names sort by time. Memory: one batch of sets.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson
import pyarrow as pa

from schemas.candidates import CANDIDATE_SET
from transforms.io.store import LocalStore

MINUTE_S = 60
OPEN, READY, VERDICT = ".open", ".arrow", ".json"
KEPT, MOST_KEPT, KEPT_MINUTES = "kept", 10, 14 * 1_440
"""Minutes that did not pass, and for how long: erasure has reached them by then."""
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


class Spool:
    """The end at which sets come in; one process at a time."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, or begin one; what was left open is handed over."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self._minute = "", -1
        self._file: pa.OSFile | None = None
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None
        for left in folder.glob(f"*{OPEN}"):
            os.replace(left, left.with_suffix(READY))

    def add(self, sets: pa.Table, now_s: float) -> None:
        """Write sets that were published now; on disk, as far as a killed process goes, when it returns."""
        self.turn(now_s)
        if self._writer is None:
            self._begin(int(now_s // MINUTE_S))
        assert self._writer is not None
        self._writer.write_table(sets.cast(CANDIDATE_SET.schema))

    def _begin(self, minute: int) -> None:
        taken = {int(path.stem.split("-")[1]) for path in self.folder.glob(f"{minute:09d}-*")}
        self._minute, self.name = minute, f"{minute:09d}-{max(taken, default=-1) + 1:04d}"
        # Unbuffered: what has been written outlives the process.
        self._file = pa.OSFile(str(self.folder / f"{self.name}{OPEN}"), "wb")
        self._writer = pa.ipc.new_stream(self._file, CANDIDATE_SET.schema, options=_OPTIONS)

    def turn(self, now_s: float) -> None:
        """Hand the minute over if it is over."""
        if self._writer is not None and now_s // MINUTE_S != self._minute:
            self.close()

    def close(self) -> None:
        """Hand the minute over as it is. Raises `OSError`; the minute is at work still."""
        if self._writer is None or self._file is None:
            return
        with self._file:
            self._writer.close()
        os.replace(self.folder / f"{self.name}{OPEN}", self.folder / f"{self.name}{READY}")
        self._file = self._writer = None

    def abandon(self) -> str | None:
        """Give up the minute at work, because it could not be written; return its name, None where there is none."""
        if self._file is None:
            return None
        self._file.close()
        self._file = self._writer = None
        (self.folder / f"{self.name}{OPEN}").unlink(missing_ok=True)
        return self.name


def waiting(folder: Path) -> list[str]:
    """Return the names of the minutes that wait for their checks, the oldest first."""
    return sorted(path.stem for path in folder.glob(f"*{READY}") if not path.with_suffix(VERDICT).exists())


def minute_of(name: str) -> tuple[int, int]:
    """Return when a minute began, s since 1970, and its part."""
    minute, part = name.split("-")
    return int(minute) * MINUTE_S, int(part)


class CutOff(RuntimeError):
    """A minute ends within a batch: its writer was killed, or the file is damaged."""


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a minute.

    Raises:
      CutOff: after the last one that is whole.
    """
    with pa.memory_map(str(path)) as source:
        try:
            yield from pa.ipc.open_stream(source)
        except (pa.ArrowInvalid, OSError) as error:
            raise CutOff(str(error)) from error


def packed(sets: pa.Table) -> bytes:
    """Return sets as they lie in a minute."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, CANDIDATE_SET.schema, options=_OPTIONS) as writer:
        writer.write_table(sets.cast(CANDIDATE_SET.schema))
    return sink.getvalue().to_pybytes()


def unpacked(packs: Iterable[bytes]) -> Iterator[pa.RecordBatch]:
    """Yield the batches that were packed."""
    for pack in packs:
        yield from pa.ipc.open_stream(pack)


def tries_of(name: str) -> str:
    """Return the file that counts how often the checks of a minute began."""
    return f"{name}.tries"


def forget_tries(folder: Path) -> None:
    """Blame no minute for the end of the process that checks, which was not its doing."""
    for path in folder.glob(tries_of("*")):
        path.unlink(missing_ok=True)


def write_verdict(folder: Path, name: str, verdict: dict, *, keep: bool) -> None:
    """Write what a minute's checks came to, then forget its sets, or keep them to be looked at."""
    LocalStore(str(folder)).write_bytes(f"{name}{VERDICT}", orjson.dumps(verdict))
    spooled, kept = folder / f"{name}{READY}", folder / KEPT
    if keep and spooled.exists():
        kept.mkdir(exist_ok=True)
        os.replace(spooled, kept / spooled.name)
    spooled.unlink(missing_ok=True)
    minutes = sorted(kept.glob(f"*{READY}"))
    for old in minutes:
        if old in minutes[:-MOST_KEPT] or minute_of(old.stem)[0] < minute_of(name)[0] - KEPT_MINUTES * MINUTE_S:
            old.unlink()


def verdicts(folder: Path) -> dict[str, dict | None]:
    """Return the verdicts nobody took yet, by name of their minute, the oldest first; None for one that cannot be read."""
    return {path.stem: readable(path.read_bytes()) for path in sorted(folder.glob(f"*{VERDICT}"))}


def readable(line: bytes) -> dict | None:
    """Return a verdict as JSON has it, None of what is empty, cut off or something else."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
