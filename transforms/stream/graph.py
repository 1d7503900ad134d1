"""The stream as a Beam graph: the same windows and sets as the local driver's, with Beam's state and timers around them.

    messages -> decode -> (listener, what was heard) -> window, in state -> sets, many listeners at a time -> messages, tables
    tombstones -> decode -> erased listeners -------------^               ^
                         -> every group of listeners, kept in state ------'

Nothing is decided here. A window is a set of events, so that it does not matter in which order Beam delivers them, how
often, or in which bundles; a set is published again whenever its window changes, and readers keep the highest sequence.
Memory: a window per listener in Beam's state, and per group the tombstones since the job began, about 100 bytes each;
`BATCH` windows with their proposals at work.
"""

import collections
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import polars as pl
from apache_beam import coders
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, RuntimeTimer, TimerSpec, on_timer

from schemas.hashing import hash64_one
from transforms.decode import POSITION
from transforms.stream.beam_messages import pubsub, received
from transforms.stream.campaigns import campaigns_in
from transforms.stream.control import (
    LETTERS,
    NAMESPACE,
    TOMBSTONES,
    DecodeTombstones,
    Gone,
    StepsWithout,
    erased,
    everywhere,
    tombstones,
)
from transforms.stream.dead_letters import encode_letters, event_letter, letter, set_letter
from transforms.stream.debounce import PAUSE_S
from transforms.stream.halve import halve
from transforms.stream.messages import SKEWED, Cause, decode_messages, encode_sets, parked
from transforms.stream.poison import make_sets
from transforms.stream.session import SPAN_US, Heard, Told, Window, WindowError, merge
from transforms.stream.sessions import BARRED, DEAD, by_user, tell
from transforms.stream.sets import QUARANTINED
from transforms.stream.spool import packed
from transforms.stream.step import REASON, Step

MESSAGES_AT_ONCE, BATCH, BUFFER_S = 500, 128, 0.2
IDLE_S = 2 * SPAN_US / 1e6
"""State of a listener who has been silent so long is dropped: it would say nothing of the next day."""
TABLES = "tables"
MESSAGES, REJECTED, PARKED, ERASED, SKEW, SETS = "messages", "rejected", "parked", "erased", "clock_skew", "sets"
DEGRADED = {reason: f"degraded_{reason}" for reason in (QUARANTINED, "below_minimum_size")}
COUNTERS = (MESSAGES, REJECTED, PARKED, ERASED, SKEW, SETS, LETTERS, TOMBSTONES, *DEGRADED.values())
"""Of the job, besides what became of each event; all that alerts ask of the local driver's metrics, by names of their own."""


@beam.typehints.with_output_types(tuple[str, Any])
class DecodeEvents(beam.DoFn):
    """Decode batches of messages into `(listener, [Heard])`, and dead letters into `(listener, letter)`.

    `LETTERS`: those of nobody. Whoever keeps the state of a listener knows whether a letter of theirs may be kept.
    """

    def __init__(self, code_version: str) -> None:
        self.code_version = code_version

    def process(self, batch: Sequence[PubsubMessage]) -> Iterator:
        """Yield what was heard by listener."""
        came = [received(one) for one in batch]
        _count(MESSAGES, len(came))
        events = decode_messages(came, self.code_version)
        causes, heard = dict(events.causes), list[tuple[str, list[Heard]]]()

        def work(span: Sequence[int]) -> None:
            told = tell(events.rows[span[0] : span[-1] + 1]).with_row_index("__row")
            some = [(user, own) for user, _, own in by_user(told.filter(told[BARRED].is_null()))]
            dead = dict(told.filter(told[BARRED].is_in(DEAD)).select(POSITION, BARRED).iter_rows())
            heard.extend(some)
            causes.update({position: Cause("merge", why, None) for position, why in dead.items()})
            for outcome in told[BARRED].drop_nulls().to_list():
                _count(outcome)

        failed = halve(range(events.rows.height), work) if events.rows.height else []
        causes |= {int(events.rows[POSITION][row]): parked("merge", error) for row, error in failed}
        dead = list(causes.values())
        _count(PARKED, sum(cause.is_parked for cause in dead))
        _count(REJECTED, sum(cause.stage == "decode" and not cause.is_parked for cause in dead))
        _count(SKEW, sum(cause.error_class in SKEWED for cause in dead))
        for position, cause in sorted(causes.items()):
            one = letter(came[position], cause, self.code_version)
            yield (one["user_id"], one) if one["user_id"] else _dead(one)
        yield from heard


class KeepWindows(beam.DoFn):
    """Keep the window of each listener and yield `(listener, window)` when a set is due.

    A first change is due at once and what follows within `PAUSE_S` together after it. In a bounded run nothing is due
    before the end: it replays history, and only its last word counts. Of who was erased nothing is kept but that they were.
    """

    WINDOW = ReadModifyWriteStateSpec("window", coders.BytesCoder())
    PUBLISHED = ReadModifyWriteStateSpec("published", coders.FloatCoder())
    GONE = ReadModifyWriteStateSpec("gone", coders.BooleanCoder())
    PAUSE, IDLE = TimerSpec("pause", TimeDomain.REAL_TIME), TimerSpec("idle", TimeDomain.WATERMARK)

    def __init__(self, code_version: str, bounded: bool, clock: Callable[[], float]) -> None:
        self.code_version, self.bounded, self.clock = code_version, bounded, clock

    def process(
        self,
        element: tuple[str, Sequence[Heard] | dict[str, Any] | Gone],
        state=beam.DoFn.StateParam(WINDOW),
        published=beam.DoFn.StateParam(PUBLISHED),
        gone=beam.DoFn.StateParam(GONE),
        pause=beam.DoFn.TimerParam(PAUSE),
        idle=beam.DoFn.TimerParam(IDLE),
    ) -> Iterator:
        """Take in what a listener heard, pass on a dead letter of theirs, or forget them for good."""
        user, heard = element
        if isinstance(heard, Gone):
            state.clear()
            published.clear()
            gone.write(True)
        elif gone.read():
            _count(ERASED)
        elif isinstance(heard, dict):
            yield _dead(heard)
        else:
            yield from self._take(user, heard, state, published, pause, idle)

    def _take(self, user: str, heard: Sequence[Heard], state: Any, published: Any, pause: Any, idle: Any) -> Iterator:
        before, windows, told = state.read(), list[Window](), list[Told]()

        def work(some: Sequence[Heard]) -> None:
            window, said = merge(windows[-1] if windows else _window(before), [Heard(*one) for one in some])
            windows.append(window)
            told.extend(said)

        for one, error in halve(heard, work):
            _count(PARKED)
            row = Heard(*one)._asdict() | {"user_id": user}
            yield _dead(event_letter(row, self.code_version, parked("merge", error)))
        for said in told:
            _count(said.outcome)
            if said.loser:
                row = said.loser._asdict() | {"user_id": user, REASON: said.outcome}
                yield _dead(event_letter(row, self.code_version))
        if windows and (after := windows[-1].to_bytes()) != before:
            state.write(after)
            last_s = windows[-1].heard[-1].event_ts / 1e6
            idle.set(
                max(last_s, self.clock()) + IDLE_S
            )  # a replay of old events goes on, and so does a job that was down
            yield from self._due(user, after, published, pause)

    def _due(self, user: str, window: bytes, published: Any, pause: RuntimeTimer) -> Iterator:
        if self.bounded:
            return
        now, last = self.clock(), published.read()
        if last is None or not 0 <= now - last < PAUSE_S:
            published.write(now)
            yield user, window
        else:
            pause.set(last + PAUSE_S)

    @on_timer(PAUSE)
    def paused(
        self,
        user=beam.DoFn.KeyParam,
        state=beam.DoFn.StateParam(WINDOW),
        published=beam.DoFn.StateParam(PUBLISHED),
    ) -> Iterator:
        """Yield what changed while the last set was fresh."""
        if window := state.read():  # an erased listener has none
            published.write(self.clock())
            yield user, window

    @on_timer(IDLE)
    def silent(
        self,
        user=beam.DoFn.KeyParam,
        state=beam.DoFn.StateParam(WINDOW),
        published=beam.DoFn.StateParam(PUBLISHED),
    ) -> Iterator:
        """Forget a listener; at the end of a bounded run, after saying what there is to say."""
        if self.bounded and (window := state.read()):
            yield user, window
        state.clear()
        published.clear()


class ServeWindows(beam.DoFn):
    """Make the sets of batches of windows and yield them as messages; `TABLES`: by group and packed, for who checks them;
    `LETTERS`: of whom none could be made.

    Attributes:
      open_step: returns the step of the bundle that is live; asked for every batch, so that a batch has one bundle.
    """

    GONE = BagStateSpec("gone", coders.FastPrimitivesCoder())
    COUNT = ReadModifyWriteStateSpec("count", coders.VarIntCoder())

    def __init__(self, open_step: Callable[[], Step], code_version: str) -> None:
        self.open_step, self.code_version = open_step, code_version

    def setup(self) -> None:
        """Begin with no tombstones."""
        self._steps, self._gone = StepsWithout(), dict[int, tuple[int, pl.DataFrame]]()

    def process(
        self,
        element: tuple[int, Iterable[tuple[str, bytes]] | Gone],
        gone=beam.DoFn.StateParam(GONE),
        count=beam.DoFn.StateParam(COUNT),
    ) -> Iterator:
        """Yield the set of every listener of a batch, of the newest of its windows; remember what must disappear."""
        group, windows = element
        if isinstance(windows, Gone):
            gone.add(windows.row)
            count.write((count.read() or 0) + 1)
            return
        latest, traces = dict[str, bytes](), dict[str, str]()
        read = [(user, stored, _legible(stored)) for user, stored in windows]
        for user, stored, window in sorted(read, key=lambda one: one[2].sequence):
            latest[user], traces[user] = stored, window.heard[-1].event_id if window.heard else ""
        buried = self._without(group, gone, count.read() or 0)
        step = self._steps.of(self.open_step(), buried)
        sets, causes = make_sets(step, latest, campaigns_in(buried))
        _count(SETS, sets.num_rows)
        told = collections.Counter(itertools.chain.from_iterable(sets["degraded_reasons"].to_pylist()))
        for reason, counter in DEGRADED.items():
            _count(counter, told[reason])
        yield from (pubsub(one) for one in encode_sets(sets, traces))
        if sets.num_rows:
            yield beam.pvalue.TaggedOutput(TABLES, (group, packed(sets)))
        for user, cause in sorted(causes.items()):
            yield _dead(set_letter(user, latest[user], cause, self.code_version))

    def _without(self, group: int, gone: Any, count: int) -> pl.DataFrame:
        """Return a group's tombstones, read only where there are more than before."""
        if group not in self._gone or self._gone[group][0] != count:
            self._gone[group] = count, tombstones(gone.read() if count else ())
        return self._gone[group][1]


@dataclasses.dataclass
class SessionSetsOf(beam.PTransform):
    """Turn event messages into messages of candidate sets and, under `LETTERS`, dead letters; the sets also under `TABLES`.

    Attributes:
      bounded: whether the messages end, and only the last set of each listener is wanted.
      spread: groups of listeners that are served by themselves: at least as many as there are cores.
      clock: seconds since 1970, as the runner's timers count them; it paces sets and decides nothing in them.
    """

    open_step: Callable[[], Step]
    code_version: str
    bounded: bool = False
    spread: int = 64
    clock: Callable[[], float] = time.time

    def expand(self, messages: beam.PCollection | tuple[beam.PCollection, beam.PCollection]):
        """Return `sets`, `TABLES` and `LETTERS`.

        Args:
          messages: `PubsubMessage`s with events; or those, and others with tombstones.
        """
        events, control = messages if isinstance(messages, tuple) else (messages, None)
        rows, odd = self._gone(control) if control else ((), ())  # one collection each, or none
        decoded = (
            events
            | "Batch" >> beam.BatchElements(min_batch_size=1, max_batch_size=MESSAGES_AT_ONCE)
            | "Decode" >> beam.ParDo(DecodeEvents(self.code_version)).with_outputs(LETTERS, main="heard")
        )
        keep = beam.ParDo(KeepWindows(self.code_version, self.bounded, self.clock)).with_input_types(tuple[str, Any])
        forget = [one | "Erased" >> beam.FlatMap(erased).with_output_types(tuple[str, Any]) for one in rows]
        windows = (
            (decoded.heard, *forget)
            | "Listeners" >> beam.Flatten()
            | "Windows" >> keep.with_outputs(LETTERS, main="windows")
        )
        batches = (
            windows.windows
            | "Spread" >> beam.Map(_spread, among=self.spread).with_output_types(tuple[int, Any])
            | "Together" >> beam.GroupIntoBatches(BATCH, None if self.bounded else BUFFER_S, self.clock)
            | "Batches" >> beam.Map(_same).with_output_types(tuple[int, Any])
        )
        tell = beam.FlatMap(everywhere, among=self.spread).with_output_types(tuple[int, Any])
        serve = beam.ParDo(ServeWindows(self.open_step, self.code_version)).with_input_types(tuple[int, Any])
        sets = (
            (batches, *(one | "Everywhere" >> tell for one in rows))
            | "Groups" >> beam.Flatten()
            | "Sets" >> serve.with_outputs(LETTERS, TABLES, main="sets")
        )
        dead = (decoded[LETTERS], windows[LETTERS], sets[LETTERS], *odd)
        return {"sets": sets.sets, TABLES: sets[TABLES], LETTERS: dead | "Letters" >> beam.Flatten()}

    def _gone(self, control: beam.PCollection) -> tuple[tuple, tuple]:
        """Return rows of tombstones, and dead letters."""
        decode = beam.ParDo(DecodeTombstones(self.code_version)).with_outputs(LETTERS, main="rows")
        decoded = control | "DecodeTombstones" >> decode
        return (decoded.rows,), (decoded[LETTERS],)


def _same(element: tuple[int, Iterable]) -> tuple[int, list]:
    """Return a batch as values of one type with what is broadcast among batches."""
    return element[0], list(element[1])


def _spread(element: tuple[str, bytes], among: int) -> tuple[int, tuple[str, bytes]]:
    """Number listeners, the same on every machine."""
    return hash64_one(element[0]) % among, element


def _window(stored: bytes | None) -> Window:
    return Window.from_bytes(stored) if stored else Window()


def _legible(stored: bytes) -> Window:
    """Return a window; of one that cannot be read, which says why where a set is made of it, an empty one."""
    try:
        return Window.from_bytes(stored)
    except WindowError:
        return Window()


def _count(name: str, by: int = 1) -> None:
    Metrics.counter(NAMESPACE, name).inc(by)


def _dead(one: dict) -> beam.pvalue.TaggedOutput:
    _count(LETTERS)
    (message,) = encode_letters([one])
    return beam.pvalue.TaggedOutput(LETTERS, pubsub(message))
