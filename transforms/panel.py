"""The sources of a surface as one shard asks them: each answers for the whole shard, or its sets go without it.

A source that raises, or takes longer than the policy grants it, costs the sets of the shard its proposals and nothing
else; the reason stands in their `degraded_reasons` and in the file `left-out-<shard>.json`. One that hangs is not waited for
(but for code that keeps the interpreter's lock), nor is it asked again before it has answered. What would be wrong for every
source stops the run all the same: two spaces, a store that cannot be read, no memory.
"""

import contextlib
import json
import queue
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path

import numpy as np
import polars as pl

from schemas.candidates import PROPOSAL
from schemas.models import SpaceMismatch
from transforms.io.store import StoreError
from transforms.score_bins import count_scores
from transforms.shards import Output, Shard, read_tables
from transforms.sorted_groups import runs_in_order, starts
from transforms.sources import Audience, Bundle, Source, proposed, ranked
from validation.score_gates import ANSWERED

FAILED, SLOW = "failed", "slow"
ASKED, LEFT_OUT = "asked", "left_out"
FEW = 30_000
"""So many rows of all sources are ranked faster in one sort; more of them faster in one sort for each source."""
_EVERYBODYS = (SpaceMismatch, StoreError, FileNotFoundError, MemoryError)
_UNANSWERED: weakref.WeakValueDictionary[int, Future] = weakref.WeakValueDictionary()
"""What this process asked and did not wait for, by the id of the function; only the thread that asks holds on to it."""


class Panel:
    """The sources that answered so far, and why the others do not.

    Attributes:
      left_out: by source, `failed` or `slow`, and what is known of it.
    """

    def __init__(self, sources: Mapping[str, Source], seconds: float, clock: Callable[[], float] = time.monotonic):
        self.sources, self.seconds, self.clock = sources, seconds, clock
        self.spent = dict.fromkeys(sources, 0.0)
        self.left_out: dict[str, tuple[str, str]] = {}

    def ask(self, audience: Audience, bundle: Bundle) -> pl.DataFrame:
        """Return what the sources propose for one block of the shard."""
        asked = [name for name in self.sources if name not in self.left_out]
        with contextlib.closing(_Answering()) as answering:
            found = [(name, self.sources[name], self._ask(name, audience, bundle, answering)) for name in asked]
        there = [(name, source, frame) for name, source, frame in found if frame is not None]
        few = sum(frame.height for *_, frame in there) <= FEW
        tables = [ranked(some) for some in ([there] if few and there else [[one] for one in there])]
        return pl.concat([read_tables([], PROPOSAL), *tables])

    def _ask(self, name: str, audience: Audience, bundle: Bundle, answering: "_Answering") -> pl.DataFrame | None:
        source = self.sources[name]
        if id(source.propose) in _UNANSWERED:
            self.left_out[name] = (SLOW, "has yet to answer what it was asked before")
            return None
        begun, found = self.clock(), None
        answer = answering.ask(lambda: proposed(source, audience, bundle))
        wait([answer], min(self.seconds - self.spent[name], threading.TIMEOUT_MAX))
        self.spent[name] += self.clock() - begun
        if answer.done():
            try:
                found = answer.result()
            except _EVERYBODYS:
                raise
            except Exception as error:
                self.left_out[name] = (FAILED, _told(error))
                return None
        else:
            _UNANSWERED[id(source.propose)] = answer
            answering.leave()
        if found is None or self.spent[name] > self.seconds:
            self.left_out[name] = (SLOW, f"more than {self.seconds:g} s for a shard")
            return None
        return found

    def output(self, shard: Shard, blocks: Iterable[Audience], bundle: Bundle, rows: int) -> Output:
        """Ask for every block and return the proposals of the sources that answered for all of them.

        Args:
          blocks: by key, one after the other. rows: keys of the shard.
        """
        found = [_by_key(self.ask(audience, bundle)) for audience in blocks]
        if self.left_out:
            found = [each.filter(~pl.col("source_id").is_in(list(self.left_out))) for each in found]
        answered, scores = Counter[str](), Counter[str]()
        for each in found:
            answered.update(dict(each.filter(pl.col("source_rank") == 0)["source_id"].value_counts().rows()))
            scores.update(count_scores(each))
        reasons = {name: {"reason": reason, "detail": detail} for name, (reason, detail) in self.left_out.items()}
        return Output(
            pl.concat([read_tables([], PROPOSAL), *found]),
            rows_in=rows,
            counters={ASKED: rows}
            | {f"{ANSWERED}{name}": answered[name] for name in sorted(self.sources)}
            | {f"{LEFT_OUT}:{name}:{reason}": rows for name, (reason, _) in self.left_out.items()}
            | dict(sorted(scores.items())),
            artifacts={f"left-out-{shard.task.name}.json": json.dumps(reasons, indent=1, sort_keys=True).encode()}
            if reasons
            else {},
            spent=dict(self.spent),
        )


def _by_key(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows by the contract's key: those of a key and source follow each other, by item."""
    first = np.flatnonzero(starts(rows["key"].rle_id().to_numpy(), rows["source_id"].rle_id().to_numpy()))
    order = rows[["key", "source_id"]][first].select(pl.arg_sort_by("key", "source_id")).to_series().to_numpy()
    return rows if (order[1:] > order[:-1]).all() else rows[runs_in_order(order, first, rows.height)]


class _Answering:
    """A thread that answers in turn; a daemon: where it hangs, the process ends all the same, and another one goes on."""

    def __init__(self) -> None:
        self._start()

    def ask(self, question: Callable[[], pl.DataFrame]) -> Future[pl.DataFrame]:
        """Have a question answered once those before it are."""
        answer: Future[pl.DataFrame] = Future()
        self._asked.put((question, answer))
        return answer

    def leave(self) -> None:
        """Leave the thread to what it hangs at; it ends when it is through."""
        self.close()
        self._start()

    def close(self) -> None:
        """End the thread when it has answered."""
        self._asked.put(None)

    def _start(self) -> None:
        self._asked: queue.SimpleQueue[tuple[Callable[[], pl.DataFrame], Future[pl.DataFrame]] | None]
        self._asked = queue.SimpleQueue()
        threading.Thread(target=_answer, args=(self._asked,), daemon=True).start()


def _answer(asked: queue.SimpleQueue) -> None:
    while (one := asked.get()) is not None:
        question, answer = one
        try:
            answer.set_result(question())
        except BaseException as error:  # raised again where the answer is read
            answer.set_exception(error)
        del one, question, answer  # nothing is kept while it waits


def _told(error: Exception) -> str:
    """Return an error in one line, with the place it came from."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(where.filename).name}, line {where.lineno}: {error}"[:500]


def reasons_of(shard: Shard) -> tuple[str, ...]:
    """Return why the sets of a shard lack a source: `source_failed:<id>` or `source_slow:<id>`, sorted."""
    told = [json.loads(Path(path).read_bytes()) for path in shard.paths(LEFT_OUT)]
    return tuple(sorted(f"source_{one['reason']}:{name}" for reasons in told for name, one in reasons.items()))
