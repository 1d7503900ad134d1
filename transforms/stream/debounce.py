"""When the changed set of a user is published: the first change at once, later ones together after a pause."""

import dataclasses
import heapq
from collections.abc import Iterable, Mapping

PAUSE_S = 2.0
"""Least time between two sets of one user, which also holds them to 30 a minute."""


@dataclasses.dataclass(frozen=True, slots=True)
class Owed:
    """A set that is owed: when its oldest unanswered message was published, s since 1970, and the last event's id."""

    since_s: float | None
    trace: str | None


class Debounce:
    """Whose set is owed, and whose is due.

    Memory: the users with a set in the last two seconds, and those to whom one is owed, who had one in them.
    """

    def __init__(self, owed: Iterable[str] = ()) -> None:
        """Begin with the users to whom a set has been owed since before: they are due at once."""
        self._owed = {user: Owed(None, None) for user in owed}
        self._published: dict[str, float] = {}

    def add(self, user: str, since_s: float, trace: str) -> None:
        """Owe a user a set for one more message."""
        earlier = self._owed.get(user)
        oldest = since_s if earlier is None or earlier.since_s is None else min(earlier.since_s, since_s)
        self._owed[user] = Owed(oldest, trace)

    def due(self, now_s: float, most: int, later_s: Mapping[str, float] | None = None) -> dict[str, Owed]:
        """Return those whose pause is over, the longest owed first, and no more than `most`.

        Args:
          later_s: by user, how much later than it came what is owed to them counts as having come.
        """
        self._published = {user: at for user, at in self._published.items() if 0 <= now_s - at < PAUSE_S}
        due = [(user, owed) for user, owed in self._owed.items() if user not in self._published]
        put_off = later_s or {}
        return dict(
            heapq.nsmallest(most, due, key=lambda one: ((one[1].since_s or 0.0) + put_off.get(one[0], 0.0), one[0]))
        )

    def owed(self) -> list[str]:
        """Return everybody to whom a set is owed, sorted."""
        return sorted(self._owed)

    def __len__(self) -> int:
        return len(self._owed)

    def wait_s(self, now_s: float) -> float | None:
        """Return how long until somebody is due, None where nothing is owed."""
        pauses = [self._published.get(user, -PAUSE_S) + PAUSE_S - now_s for user in self._owed]
        return max(0.0, min(pauses)) if pauses else None

    def settle(self, users: Iterable[str], now_s: float) -> None:
        """Note that sets were published now, and that they are owed no more."""
        for user in users:
            self._owed.pop(user, None)
            self._published[user] = now_s

    def forget(self, users: Iterable[str]) -> None:
        """Owe users nothing."""
        for user in users:
            self._owed.pop(user, None)
