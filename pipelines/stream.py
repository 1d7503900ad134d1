"""The local streaming driver: micro-batches from a broker, through a step, to a broker.

    pull -> decode -> merge -> sets that are due -> dead letters -> commit -> publish -> acknowledge

Nothing is published before the states it was made from are on disk, and nothing is acknowledged before what came of it is
published. A process killed anywhere on that line leaves messages that are delivered again and change nothing, or sets that
are published again with the same bytes: of one listener the events that were answered are never fewer than before, so that
as many with the same newest one are the same. While the sets of one batch are written out and published, those of the next
are made.

Memory: two batches of up to `MOST_SETS` sets, 100 kB each as they are sent, 50 MB.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import polars as pl
import pyarrow as pa

from pipelines.stream_alerts import STEP_S, Alerts
from pipelines.stream_metrics import Metrics
from pipelines.stream_validation import Validation, encode_verdicts
from transforms.decode import POSITION
from transforms.io.broker import CONTROL, DEAD_LETTERS, EVENTS, SETS, VERDICTS, Broker, BrokerDown, Message, Received
from transforms.io.state_store import Commit, StateStore
from transforms.stream.campaigns import campaigns_in
from transforms.stream.dead_letters import encode_letters, event_letter, letter, set_letter
from transforms.stream.debounce import Debounce, Owed
from transforms.stream.messages import Cause, decode_control, decode_messages, encode_sets, identify
from transforms.stream.one_core import one_core
from transforms.stream.poison import make_sets, merge
from transforms.stream.quarantine import Quarantine
from transforms.stream.step import REASON, Merged, Step

MOST_MESSAGES, MOST_SETS = 500, 256
"""Of one batch: more at once makes a set cheaper and everybody wait longer."""
IDLE_S, TTL_S = 1.0, 48 * 3600
_LOOK_S, _SWEEP_S = 1.0, 60.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0
REJECTED, PARKED, ERASED = "rejected", "parked", "erased"
_T = TypeVar("_T")


class Stop(Protocol):
    """Whether to leave, `threading.Event` for one."""

    def is_set(self) -> bool:
        """Tell whether to leave."""

    def wait(self, timeout: float) -> bool:
        """Sleep for `timeout` s or until it is time to leave; tell which."""


@dataclasses.dataclass
class Stream:
    """The driver.

    Attributes:
      reload: asked every second for another step; None keeps the one in use, and so does whatever it raises.
      clock: seconds since 1970; paces sets and measures freshness, and decides nothing in them.
      say: told one line at a time when something happens that a person should know.
      validation: checks each minute of published sets, beside the driver; None leaves them unchecked.
    """

    broker: Broker
    store: StateStore
    step: Step
    metrics: Metrics
    code_version: str
    reload: Callable[[], Step | None]
    clock: Callable[[], float]
    stop: Stop
    say: Callable[[str], None]
    validation: Validation | None = None

    def __post_init__(self) -> None:
        self._debounce, self._quarantine = Debounce(self.store.owed()), Quarantine()
        self._looked_s, self._swept_s, self._refused = 0.0, self.clock(), ""
        self._judged_s, self._alerts, self._warning = 0.0, Alerts(), threading.Lock()
        self._publisher = concurrent.futures.ThreadPoolExecutor(1, "publish")
        self._under_way: _UnderWay | None = None
        self._sent: dict[str, int | None] = {}  # as `Commit.sequences`, of the next commit
        buried = self.store.tombstones()
        self.step, self._over = self.step.without(buried), campaigns_in(buried)
        self.metrics.bundle = self.step.bundle
        self.metrics.set("broker_up", 1)

    def run(self) -> None:
        """Work until told to stop; then finish the batch, publish what is owed, and leave.

        Raises:
          BrokerError, StoreError: nothing is lost, what was not acknowledged is delivered again.
        """
        try:
            while not self.stop.is_set():
                self.advance()
            self._flush()
        except BrokerDown as error:
            self.say(f"left while the broker was down ({error}); what was not acknowledged will be delivered again")
        finally:
            self._publisher.shutdown()

    def tick(self) -> int:
        """Do one batch to its end; return how many messages it had."""
        came = self.advance()
        self._settle()
        return came

    def advance(self) -> int:
        """Do one batch, whose sets may still be on their way then; return how many messages it had."""
        self._look_around()
        pause = self._debounce.wait_s(self.clock())
        wait = 0.0 if self._under_way else IDLE_S if pause is None else min(IDLE_S, pause)
        received = self._reach(lambda: self.broker.pull(EVENTS, MOST_MESSAGES, wait))
        began = self.clock()
        oldest = min((one.published_s for one in received), default=began)
        self.metrics.set("lag_seconds", max(0.0, began - oldest))
        admitted = self._quarantine.admit(received, began)
        self._work(admitted)
        if admitted:
            self.metrics.set("batch_messages", len(admitted))
            self.metrics.set("batch_seconds", self.clock() - began)
        return len(received)

    def _work(self, received: Sequence[Received]) -> None:
        batch, causes = self._merge(received)
        due = self._debounce.due(self.clock(), MOST_SETS, self._quarantine.holds_s)
        letters = [letter(received[i], cause, self.code_version) for i, cause in sorted(causes.items())]
        letters += [event_letter(one, self.code_version) for one in batch.displaced]
        self._serve(batch, due, letters, [one.ack_id for one in received])
        self.metrics.set("owed", len(self._debounce))
        self.metrics.set("held", len(self._quarantine))

    def _serve(
        self, batch: "_Batch", due: Mapping[str, Owed], letters: list[dict[str, Any]], ack_ids: Sequence[str]
    ) -> None:
        """Make the sets that are due; commit the batch; then have them published and its messages acknowledged."""
        told = self._publisher.submit(self._publish, DEAD_LETTERS, encode_letters(letters))
        known = {**self.store.states(user for user in due if user not in batch.states), **batch.states}
        states = {user: state for user in due if (state := known[user]) is not None}
        with one_core():
            sets, causes = make_sets(self.step, states, self._over)
        unmade = [set_letter(user, states[user], cause, self.code_version) for user, cause in sorted(causes.items())]
        self._debounce.settle(due, self.clock())
        self.finish()
        told.result()  # before the commit: what is merged once more has no letters
        self._count_letters(letters + unmade)
        self._commit(batch)
        if due or ack_ids:
            done = self._publisher.submit(self._send, sets, due, unmade, ack_ids)
            self._under_way = _UnderWay(due, self.step.bundle, sets, done)

    def _send(
        self, sets: pa.Table, due: Mapping[str, Owed], letters: Sequence[dict[str, Any]], ack_ids: Sequence[str]
    ) -> float:
        """Publish sets and dead letters, then acknowledge; return when they were published."""
        traces = {user: owed.trace for user, owed in due.items() if owed.trace}
        self._publish(SETS, encode_sets(sets, traces))
        self._publish(DEAD_LETTERS, encode_letters(letters))
        published = self.clock()
        if ack_ids:
            self._reach(lambda: self.broker.acknowledge(EVENTS, ack_ids))
        return published

    def finish(self) -> None:
        """Wait for what is being published; it is owed no more from the next commit on."""
        sent, self._under_way = self._under_way, None
        if sent is None:
            return
        now, users = sent.done.result(), sent.sets["user_id"].to_pylist()
        if self.validation:
            self.validation.add(sent.sets, now)
        self.metrics.count("sets", sent.bundle, by=len(users))
        for reason, number in collections.Counter(_reasons(sent.sets)).items():
            self.metrics.count("degraded", reason, by=number)
        answered = [sent.due[user].since_s for user in users]
        self.metrics.observe(now - since for since in answered if since is not None)
        self._sent |= dict.fromkeys(sent.due) | dict(zip(users, sent.sets["sequence"].to_pylist()))

    def _merge(self, received: Sequence[Received]) -> tuple["_Batch", dict[int, Cause]]:
        """Apply messages to states; return what changed, and why what did not count is dead."""
        if not received:
            return _NOTHING, {}
        with one_core():
            events = decode_messages(received, self.code_version)
            rows, causes = self._without_erased(events.rows, events.causes, received)
            merged, poisoned = merge(self.step, self.store.states(rows["user_id"].unique()), rows)
        for outcome, number in merged.counts.items():
            self.metrics.count("outcomes", outcome, by=number)
        self.metrics.count("messages", by=len(received))
        parked = sum(cause.is_parked for cause in causes.values())
        self.metrics.count("outcomes", REJECTED, by=len(causes) - parked)
        self.metrics.count("outcomes", PARKED, by=parked + len(poisoned))
        here = merged.dead.drop_nulls(POSITION)
        lost = {row: Cause("merge", why, None) for row, why in here.select(POSITION, REASON).iter_rows()}
        self._owe(rows, merged, received)
        self._quarantine.note(merged.sizes, self.clock())
        touched, displaced = _touched(rows, merged), _displaced(merged.dead)
        latest = min(max(touched.values(), default=0) / 1e6, self.clock())
        self.metrics.set("watermark_seconds", max(latest, self.metrics.gauge("watermark_seconds")))
        return _Batch(merged.states, touched, merged.dirty, displaced), causes | poisoned | lost

    def _without_erased(
        self, rows: pl.DataFrame, causes: Mapping[int, Cause], received: Sequence[Received]
    ) -> tuple[pl.DataFrame, dict[int, Cause]]:
        """Drop what is of users who were erased: nothing learns from it and nothing keeps it."""
        gone = self.store.erased(rows["user_id"].unique())
        kept = rows.filter(~pl.col("user_id").is_in(sorted(gone))) if gone else rows
        users = {position: identify(received[position])[1] for position in causes}
        erased = self.store.erased({user for user in users.values() if user})
        left = {position: cause for position, cause in causes.items() if users[position] not in erased}
        self.metrics.count("outcomes", ERASED, by=rows.height - kept.height + len(causes) - len(left))
        return kept, left

    def _owe(self, rows: pl.DataFrame, merged: Merged, received: Sequence[Received]) -> None:
        for user, position, event_id in rows.select("user_id", POSITION, "event_id").iter_rows():
            if position in merged.counted:
                self._debounce.add(user, received[position].published_s, event_id)

    def _publish(self, topic: str, messages: Sequence[Message]) -> None:
        if messages:
            self._reach(lambda: self.broker.publish(topic, messages))

    def _count_letters(self, letters: Sequence[dict[str, Any]]) -> None:
        for one in letters:
            self.metrics.count("dead_letters", one["stage"], one["error_class"])

    def _commit(self, batch: "_Batch") -> None:
        """Write down what changed and what is owed, and what was published since the last time."""
        if batch.states or batch.dirty or self._sent:
            sent, self._sent = self._sent, {}
            now_us = int(self.clock() * 1e6)
            self.store.commit(Commit(batch.states, batch.touched_us, sent, frozenset(batch.dirty), now_us))

    def _settle(self) -> None:
        """Wait for what is being published, and write down that it was."""
        self.finish()
        self._commit(_NOTHING)

    def _flush(self) -> None:
        """Work on everything that is held back and publish everything that is owed, whether or not its pause is over."""
        self._work(self._quarantine.rest())
        while owed := self._debounce.owed()[:MOST_SETS]:
            self._serve(_NOTHING, dict.fromkeys(owed, Owed(None, None)), [], [])
        self._settle()
        self.metrics.set("owed", 0)

    def _look_around(self) -> None:
        """Do once a second, or a minute, what need not be done for every batch."""
        now = self.clock()
        if abs(now - self._looked_s) >= _LOOK_S:
            self._looked_s = now
            self._swap()
            self._obey()
            self._hear_verdicts(now)
        self._warn(now)
        if abs(now - self._swept_s) >= _SWEEP_S:
            self._swept_s = now
            self.metrics.count("expired", by=self.store.expire(TTL_S * 1_000_000, int(now * 1e6)))

    def _warn(self, now: float) -> None:
        """Say every ten seconds which alerts are new or worse, and which have passed; while the broker is down, too."""
        with self._warning:
            if abs(now - self._judged_s) < STEP_S:
                return
            self._judged_s = now
            found = {alert.name: alert for alert in self._alerts.look(self.metrics, now)}
            before, standing = self.metrics.alerts, {name: alert.severity for name, alert in found.items()}
            for name in sorted(standing):
                if standing[name] != before.get(name):
                    self.say(f"{standing[name].upper()} {name}: {found[name].said}")
            for name in sorted(before.keys() - standing.keys()):
                self.say(f"{name} has passed")
            self.metrics.alerts = standing

    def _swap(self) -> None:
        """Take another bundle into use, whole, between two batches; one that cannot be loaded changes nothing."""
        try:
            step = self.reload()
        except Exception as error:  # whatever is wrong with the new one, the old one serves
            if str(error) != self._refused:
                self._refused = str(error)
                self.metrics.count("refusals", type(error).__name__)
                self.say(f"a new bundle was refused, {self.step.bundle} goes on: {error}")
            return
        if step is not None:
            same = step.bundle == self.step.bundle
            self.say(
                f"bundle {step.bundle} is in use, {'with what changed' if same else f'{self.step.bundle} no more'}"
            )
            self.step, self._refused, self.metrics.bundle = step.without(self.store.tombstones()), "", step.bundle
            self.metrics.count("swaps")

    def _obey(self) -> None:
        """Take in what must disappear: on disk first, then acknowledged."""
        received = self._reach(lambda: self.broker.pull(CONTROL, MOST_MESSAGES, 0.0))
        if not received:
            return
        found = decode_control(received, self.code_version)
        self.finish()  # what was made before they came goes before them
        self.store.bury(found.rows)
        self.step, self._over = self.step.without(found.rows), self._over | campaigns_in(found.rows)
        self._debounce.forget(found.rows.filter(pl.col("entity") == "user")["id"])
        letters = [letter(received[i], cause, self.code_version) for i, cause in found.causes.items()]
        self._publish(DEAD_LETTERS, encode_letters(letters))
        self._count_letters(letters)
        for entity, number in collections.Counter(found.rows["entity"]).items():
            self.metrics.count("tombstones", entity, by=number)
        self._reach(lambda: self.broker.acknowledge(CONTROL, [one.ack_id for one in received]))

    def _hear_verdicts(self, now: float) -> None:
        if self.validation and (taken := self.validation.look(now)):
            self._publish(VERDICTS, encode_verdicts(taken))
            self.validation.settle(taken)

    def _reach(self, call: Callable[[], _T]) -> _T:
        """Call the broker; while it is down, wait longer and longer and say so once.

        Raises:
          BrokerDown: it is time to leave, and it was down when it was tried once more.
        """
        wait, down, leaving = _FIRST_WAIT_S, False, False
        while True:
            try:
                done = call()
            except BrokerDown as error:
                if not down:
                    self.say(f"the broker cannot be reached, trying again: {error}")
                    self.metrics.count("outages")
                    self.metrics.set("broker_up", 0)
                down = True
                self._warn(self.clock())
                if leaving:
                    raise
                leaving = self.stop.wait(wait)
                wait = min(2 * wait, _LONGEST_WAIT_S)
            else:
                if down:
                    self.say("the broker is back")
                    self.metrics.set("broker_up", 1)
                return done


@dataclasses.dataclass(frozen=True, slots=True)
class _Batch:
    """States that changed, the event time of their last event (us since 1970), and users whose set changes.

    Attributes:
      displaced: events that counted until another of their id came.
    """

    states: Mapping[str, bytes]
    touched_us: Mapping[str, int]
    dirty: Sequence[str]
    displaced: Sequence[dict[str, Any]] = ()


_NOTHING = _Batch({}, {}, ())


@dataclasses.dataclass(frozen=True, slots=True)
class _UnderWay:
    """Sets that are being published; `done` says when they were, s since 1970."""

    due: Mapping[str, Owed]
    bundle: str
    sets: pa.Table
    done: concurrent.futures.Future[float]


def _reasons(sets: pa.Table) -> list[str]:
    return list(itertools.chain.from_iterable(sets["degraded_reasons"].to_pylist()))


def _displaced(dead: pl.DataFrame) -> list[dict[str, Any]]:
    """Return events that have no message here, times in us since 1970: a state may hold one that no calendar has."""
    gone = dead.filter(pl.col(POSITION).is_null()).drop(POSITION)
    return gone.with_columns(pl.col(pl.Datetime).dt.epoch("us")).to_dicts()


def _touched(rows: pl.DataFrame, merged: Merged) -> dict[str, int]:
    last = rows.group_by("user_id").agg(pl.col("event_ts").max().dt.epoch("us"))
    return {user: us for user, us in last.iter_rows() if user in merged.states}


class InBackground:
    """Load another step beside the one at work, which loading must not hold up.

    Memory: two bundles while one is loaded.
    """

    def __init__(self, load: Callable[[], Step | None]) -> None:
        self._load = load
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "reload")
        self._asked: concurrent.futures.Future[Step | None] | None = None

    def __call__(self) -> Step | None:
        """Return a step that has been loaded, None while there is none; raise what loading raised."""
        asked, done = self._asked, None
        if asked is not None:
            if not asked.done():
                return None
            self._asked = None
            done = asked.result()
        if done is None:
            self._asked = self._pool.submit(self._load)
        return done
