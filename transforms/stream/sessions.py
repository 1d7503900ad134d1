"""The step of the session stream: events into windows, windows into sets (`transforms.stream.step.Step`)."""

import collections
import dataclasses
import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence

import polars as pl
import pyarrow as pa

from schemas.hashing import hash64
from schemas.inputs import EVENT
from transforms.decode import POSITION
from transforms.stream import session
from transforms.stream.session import Heard, Window, merge
from transforms.stream.sets import SessionSets
from transforms.stream.step import REASON, Merged

BARRED = "__barred"
SAYS_NOTHING = ("impression", "promo_dismiss")
"""What was only shown says nothing of what is wanted now."""
_NOT_SAID = ("ingest_ts", "event_date", "label", "label_version")
"""What the producer of an event does not say of it: a copy that was received later is the same event."""
COUNTED = (session.APPLIED, session.CONFLICT)
DEAD = (session.CONFLICT, session.FUTURE, session.TOO_LATE)


@dataclasses.dataclass(frozen=True)
class Sessions:
    """Serve sessions from one bundle."""

    session_sets: SessionSets

    @property
    def bundle(self) -> str:
        """Id of the bundle in use."""
        return str(self.session_sets.provenance.fields["bundle_id"])

    def merge(self, states: Mapping[str, bytes | None], events: pl.DataFrame) -> Merged:
        """Apply events to the windows of their listeners."""
        return merge_events(states, events)

    def without(self, tombstones: pl.DataFrame) -> "Sessions":
        """Return the step that offers nothing under these tombstones either."""
        bundle = self.session_sets.bundle.without(tombstones)
        return Sessions(dataclasses.replace(self.session_sets, bundle=bundle))

    def sets(self, states: Mapping[str, bytes]) -> pa.Table:
        """Return the candidate set of every listener who may have one."""
        return self.session_sets({user: Window.from_bytes(state) for user, state in states.items()})


def merge_events(states: Mapping[str, bytes | None], events: pl.DataFrame) -> Merged:
    """Apply events to the windows of their listeners; which of them come first makes no difference."""
    told = tell(events).with_row_index("__row")
    outcomes = told[BARRED].to_list()
    dead = [told.filter(pl.col(BARRED).is_in(DEAD)).with_columns(reason=pl.col(BARRED))]
    changed, sizes = dict[str, bytes](), dict[str, int]()
    for user, rows, heard in by_user(told.filter(pl.col(BARRED).is_null())):
        state = states.get(user)
        before = Window.from_bytes(state) if state else Window()
        after, said = merge(before, heard)
        for row, one in zip(rows, said, strict=True):
            outcomes[row] = one.outcome
        dead += [_as_event(one.loser, user, events) for one in said if one.loser]
        sizes[user] = len(after.heard)
        if after != before:
            changed[user] = after.to_bytes()
    counts = dict(collections.Counter(outcomes))
    lost = pl.concat(dead, how="diagonal").select(*events.columns, REASON)
    positions = events[POSITION].to_list() if POSITION in events.columns else []
    counted = frozenset(place for place, outcome in zip(positions, outcomes) if outcome in COUNTED)
    return Merged(changed, counts, lost, sorted(changed), counted, sizes)


def tell(events: pl.DataFrame) -> pl.DataFrame:
    """Return events with `BARRED` and a `digest` of what their producer says of them."""
    return events.with_columns(barred(), digest(events))


def barred() -> pl.Expr:
    """Name what keeps an event out of every window, whatever else came; null where nothing does."""
    private = pl.col("private_session").fill_null(False) | ~pl.col("consent_personalization").fill_null(True)
    age = (pl.col("ingest_ts") - pl.col("event_ts")).dt.total_microseconds()
    return (
        pl.when(private).then(pl.lit(session.PRIVATE))
        .when(age < -session.SKEW_US).then(pl.lit(session.FUTURE))
        .when(age > session.HISTORY_US).then(pl.lit(session.TOO_LATE))
        .when(age > session.LATE_US).then(pl.lit(session.LATE))
        .when(pl.col("event_type").is_in(SAYS_NOTHING)).then(pl.lit(session.SILENT))
        .alias(BARRED)
    )  # fmt: skip


def digest(events: pl.DataFrame) -> pl.Series:
    """Return a number that tells two contents of one event id apart, uint64."""
    said = [name for name in EVENT.schema.names if name not in _NOT_SAID]
    text = events.select(pl.struct(said).struct.json_encode()).to_series()
    return pl.Series("digest", hash64(text.to_arrow()))


def by_user(told: pl.DataFrame) -> Iterable[tuple[str, Sequence[int], list[Heard]]]:
    """Yield each listener's rows, `__row`, and what is kept of them."""
    known = told.with_columns(pl.col("event_ts").dt.epoch("us"), pl.col("label").cast(pl.Float64)).sort("user_id")
    rows = known.select("user_id", "__row", *Heard._fields).rows()
    for user, group in itertools.groupby(rows, operator.itemgetter(0)):
        own = list(group)
        yield user, [row[1] for row in own], [Heard(*row[2:]) for row in own]


def _as_event(one: Heard, user: str, events: pl.DataFrame) -> pl.DataFrame:
    """Return what is known of a kept event as a row of the event contract, for the dead letters."""
    known = {name: value for name, value in one._asdict().items() if name in events.columns and name != "event_ts"}
    row = pl.DataFrame([known | {"user_id": user}]).with_columns(
        event_ts=pl.lit(one.event_ts).cast(pl.Datetime("us", "UTC")), reason=pl.lit(session.CONFLICT)
    )
    return row.cast({name: events.schema[name] for name in row.columns if name in events.columns})
