"""What is known of a listener's last day, as a set of events: the state of the stream.

    window = the newest `MOST` of the distinct events within `SPAN` of the newest one

A window is a function of the set of events that came, never of their order, of how often they came, or in which batches:
the window of a union is the window of the union of windows. What is made of it converges for the same reason. Lateness is
a property of the event too, by its own two clocks.

Memory: at most `MOST` events of about 200 bytes for a listener, half a megabyte; a day of plays is 10 kB.
"""

import dataclasses
import functools
import operator
import re
from collections.abc import Iterable
from typing import NamedTuple

import orjson

from schemas.candidates import sequence_of
from schemas.inputs import CONTEXTS

SPAN_US = 24 * 3_600_000_000
"""As long as a skip keeps an item out, and event ids are remembered (domain reference, section 9)."""
MOST = 2_000
"""Who plays more in a day is no listener (domain reference, section 9)."""
LATE_US, HISTORY_US, SKEW_US = 600_000_000, 30 * 24 * 3_600_000_000, 300_000_000
APPLIED, DUPLICATE, CONFLICT, OUTLIVED = "applied", "duplicate", "conflict", "outlived"
LATE, TOO_LATE, FUTURE, PRIVATE, SILENT = "late_for_batch", "late_bucket", "future", "private", "says_nothing"
OUTCOMES = (APPLIED, DUPLICATE, CONFLICT, OUTLIVED, LATE, TOO_LATE, FUTURE, PRIVATE, SILENT)
FORMAT = 2
_READ = (1, FORMAT)
"""Windows of format 1 do not say of what kind a context is, nor on what device something was heard."""


class Heard(NamedTuple):
    """What is kept of one event. Fields as in the event contract; ordered by the first three.

    Attributes:
      event_ts: us since the epoch. digest: of everything the producer says of the event but `ingest_ts`.
    """

    event_ts: int
    event_id: str
    digest: int
    event_type: str
    item_id: str
    item_type: str
    label: float
    ms_played: int | None
    session_id: str | None
    context_uri: str | None
    reason_start: str | None
    market: str | None
    context_type: str | None = None
    device_type: str | None = None

    @property
    def identity(self) -> tuple[int, str, int]:
        """What tells two events apart, and orders them."""
        return self[:3]


_identity = operator.itemgetter(0, 1, 2)


class WindowError(ValueError):
    """Stored state that this code cannot read."""


@dataclasses.dataclass(frozen=True)
class Window:
    """The last day of one listener.

    Attributes:
      heard: in order; of one event id that came with different contents, all, so that they count whichever came first.
    """

    heard: tuple[Heard, ...] = ()

    @classmethod
    def of(cls, heard: Iterable[Heard]) -> "Window":
        """Return the window of a set of events."""
        ordered = sorted({one.identity: one for one in heard}.values(), key=_identity)[-MOST:]
        oldest = ordered[-1].event_ts - SPAN_US if ordered else 0
        return cls(tuple(one for one in ordered if one.event_ts > oldest))

    @property
    def overrun(self) -> bool:
        """Tell whether so much came within a day that nobody can have listened to it."""
        return len(self.heard) == MOST

    @property
    def sequence(self) -> int:
        """Return what grows with every event: the time of the newest, then how many there are; see `sequence_of`."""
        return sequence_of(self.heard[-1].event_ts, len(self.heard)) if self.heard else 0

    @functools.cached_property
    def events(self) -> tuple[Heard, ...]:
        """One event per id, in order: where contents differ, the greater."""
        return tuple(sorted({one.event_id: one for one in self.heard}.values(), key=_identity))

    def to_bytes(self) -> bytes:
        """Serialise; equal windows, equal bytes."""
        return orjson.dumps([FORMAT, *map(tuple, self.heard)])

    @classmethod
    def from_bytes(cls, stored: bytes) -> "Window":
        """Return the window that `to_bytes` wrote.

        Raises:
          WindowError: it is not one, or of another format.
        """
        try:
            written, *heard = orjson.loads(stored)
            if written not in _READ:
                raise ValueError(f"format {written!r}")
            return cls(tuple(Heard(*one) for one in heard))
        except (ValueError, TypeError) as error:
            raise WindowError(
                f"expected a window of format {FORMAT}, came {stored[:40]!r} ({error}). State of another version is not"
                " read: let the old job drain, or delete its state and replay the last day"
            ) from error


class Told(NamedTuple):
    """What became of one event, and of which one if another came under its id before."""

    outcome: str
    loser: Heard | None = None


def merge(window: Window, came: Iterable[Heard]) -> tuple[Window, list[Told]]:
    """Return the window with the events, and what became of each."""
    arrived = list(came)
    merged = Window.of((*arrived, *window.heard))
    stays, known = set(map(_identity, merged.heard)), set(map(_identity, window.heard))
    latest = {one.event_id: one for one in window.heard}
    return merged, [_tell(one, stays, known, latest) for one in arrived]


def _tell(one: Heard, stays: set[tuple], known: set[tuple], latest: dict[str, Heard]) -> Told:
    """Say what became of an event, and remember it."""
    if one.identity in known:
        return Told(DUPLICATE)
    if one.identity not in stays:
        return Told(OUTLIVED)
    known.add(one.identity)
    other = latest.get(one.event_id)
    latest[one.event_id] = max(one, other, key=_identity) if other else one
    return Told(CONFLICT, min(one, other, key=_identity)) if other else Told(APPLIED)


SESSION_GAP_US, SESSION_EVENTS = 1_800_000_000, 50
FAST_SKIP_MS, WIDEN_AFTER = 10_000, 3
ARTIST_CONTEXTS = ("artist", "album")
SCREENS = ("phone", "tablet", "desktop", "tv")
_SEARCHED = ("search", "search_click")


def session(events: tuple[Heard, ...]) -> tuple[Heard, ...]:
    """Return the events of the session that goes on: the last 50 at the most since it began.

    It begins after half an hour of silence, with another session id, and where the listener turns to something else: a
    search, or a click in another context than before (domain reference, section 5).
    """
    start, later = len(events), None
    for at in range(len(events) - 1, max(len(events) - SESSION_EVENTS, 0) - 1, -1):
        if later is not None and _parted(events[at], later):
            break
        start, later = at, events[at]
    return events[start:]


def _parted(one: Heard, later: Heard) -> bool:
    """Tell whether a session ends between two events."""
    if later.event_ts - one.event_ts > SESSION_GAP_US or later.event_type in _SEARCHED:
        return True
    if one.session_id and later.session_id and one.session_id != later.session_id:
        return True
    return bool(later.reason_start == "click" and later.context_uri and one.context_uri != later.context_uri)


def turned_away(one: Heard) -> bool:
    """Tell whether an event keeps its item out for a day: a skip, however much was heard before it, or a dislike."""
    return one.event_type == "skip" or one.label < 0


def in_artist_context(events: tuple[Heard, ...]) -> bool:
    """Tell whether the newest event that says what it was played from says an artist or an album; a radio is neither."""
    told = (_kind_of_context(one) for one in reversed(events))
    return next((kind for kind in told if kind), None) in ARTIST_CONTEXTS


def _kind_of_context(one: Heard) -> str | None:
    """Return the kind of context an event names; of an address alone, the last of its words that is a kind of context."""
    if one.context_type or not one.context_uri:
        return one.context_type
    words = [word for word in re.split(r"[:/]", one.context_uri)[:-1] if word in CONTEXTS]
    return words[-1] if words else "other"


def shows_video(events: tuple[Heard, ...]) -> bool:
    """Tell whether the newest event that says what client it is of says one with a screen; a video that plays says so too."""
    for one in reversed(events):
        if one.device_type or one.item_type == "video":
            return one.device_type in SCREENS if one.device_type else True
    return False


def playing(events: tuple[Heard, ...]) -> Heard | None:
    """Return what the session is at: its last event that was no dislike, else its last one."""
    liked = (one for one in reversed(events) if one.label >= 0 and one.event_type not in _SEARCHED)
    return next(liked, events[-1] if events else None)


def at_a_loss(events: tuple[Heard, ...]) -> bool:
    """Tell whether the last three events are skips within ten seconds: what is offered is not what is wanted."""
    last = events[-WIDEN_AFTER:]
    return len(last) == WIDEN_AFTER and all(
        one.event_type == "skip" and one.ms_played is not None and one.ms_played < FAST_SKIP_MS for one in last
    )
