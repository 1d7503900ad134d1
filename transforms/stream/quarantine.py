"""Who sends much is worked on seldom: a window is read, merged and written whole, however little is new in it.

What comes for a long window soon after it was merged waits for what follows, and is merged with it. Messages wait where they
are safe, with the broker: they are not acknowledged before. Windows do not depend on how their events are batched.
Memory: the messages of `HOLD_S`, or `MOST_HELD` and a batch.
"""

import math
from collections.abc import Mapping, Sequence

from transforms.io.broker import Received
from transforms.stream import session
from transforms.stream.messages import identify

HOLD_S = 8.0
"""Between two merges of a full window, which is read, served and written in 10 ms then; its sets come within 10 s still
(domain reference, section 9)."""
LIGHT = 0.25
"""Share of a full window up to which nobody waits: 500 events, more than people leave in a day."""
AT_ONCE = 8
"""Long windows merged in one batch, 80 ms; or an eighth of those that wait, so that no lease of 60 s runs out."""
MOST_HELD = 5_000


def hold_s(events: int) -> float:
    """Return how long a window of so many events is left alone, s; with its square, as a burst fills it and then goes on."""
    share = events / session.MOST
    return HOLD_S * share**2 if share > LIGHT else 0.0


class Quarantine:
    """Whose window was merged lately and is long, and what has come for it since.

    Attributes:
      holds_s: how long each of them is left alone, s.
    """

    def __init__(self) -> None:
        self.holds_s: dict[str, float] = {}
        self._merged_s: dict[str, float] = {}
        self._held: dict[str, list[Received]] = {}

    def __len__(self) -> int:
        """Return how many messages wait."""
        return sum(map(len, self._held.values()))

    def admit(self, received: Sequence[Received], now_s: float) -> list[Received]:
        """Return what is to be worked on now, of what has come and of what has waited."""
        for user in [user for user in self.holds_s if self._is_over(user, now_s) and user not in self._held]:
            self._forget(user)
        free = []
        for one in received:
            sender = identify(one)[1] if self.holds_s else None
            if sender in self.holds_s:
                self._held.setdefault(sender, []).append(one)
            else:
                free.append(one)
        return free + [one for user in self._due(now_s) for one in self._release(user)]

    def rest(self) -> list[Received]:
        """Return everything that waits."""
        return [one for user in sorted(self._held) for one in self._release(user)]

    def note(self, sizes: Mapping[str, int], now_s: float) -> None:
        """Take in how many events the windows hold that were merged now."""
        long = {user: wait for user, events in sizes.items() if (wait := hold_s(events))}
        self.holds_s |= long
        self._merged_s |= dict.fromkeys(long, now_s)

    def _is_over(self, user: str, now_s: float) -> bool:
        return not 0 <= now_s - self._merged_s[user] < self.holds_s[user]

    def _due(self, now_s: float) -> list[str]:
        """Return whose time is over, the longest waiting first; where too much waits, those of whom most does."""
        over = sorted((self._merged_s[user], user) for user in self._held if self._is_over(user, now_s))
        due = [user for _, user in over[: max(AT_ONCE, math.ceil(len(over) / AT_ONCE))]]
        spare = len(self) - MOST_HELD
        for user in sorted(self._held, key=lambda user: (-len(self._held[user]), user)) if spare > 0 else ():
            if spare > 0 and user not in due:
                due.append(user)
                spare -= len(self._held[user])
        return due

    def _release(self, user: str) -> list[Received]:
        self._forget(user)
        return self._held.pop(user)

    def _forget(self, user: str) -> None:
        del self.holds_s[user], self._merged_s[user]
