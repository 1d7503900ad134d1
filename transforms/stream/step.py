"""What the streaming driver asks of the computation it drives."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import polars as pl
import pyarrow as pa

REASON = "reason"


@dataclasses.dataclass(frozen=True, slots=True)
class Merged:
    """What a batch of events came to.

    Attributes:
      states: new state of every user whose state changed.
      counts: events by outcome, one of `transforms.stream.session.OUTCOMES` each; they add up to the batch.
      dead: events for the dead letters, with all columns they came with and the string column `reason`. One that was
        applied before and lost to another of its id has no `__position`, and no more columns than were kept of it.
      dirty: users whose set changes.
      counted: `__position` of every event that counts now and did not before, or has another content than it did.
      sizes: number of events that the state of each user holds, where merging costs the more the more there are.
    """

    states: dict[str, bytes]
    counts: dict[str, int]
    dead: pl.DataFrame
    dirty: list[str]
    counted: frozenset[int] = frozenset()
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Step(Protocol):
    """From states and events to states and sets; pure: no clock, and the order of arrival changes no result."""

    @property
    def bundle(self) -> str:
        """Id of the bundle in use."""

    def merge(self, states: Mapping[str, bytes | None], events: pl.DataFrame) -> Merged:
        """Apply events to the states of their users.

        Args:
          states: state of every user in `events`; None for one without.
          events: decoded rows of the event contract, any number of users, and `__position`, which names the message of
            a row. `session_id` is null where the producer gave none.
        """

    def without(self, tombstones: pl.DataFrame) -> "Step":
        """Return the step that offers nothing of what has to disappear, besides what its bundle knows of already.

        Args:
          tombstones: rows of their contract.
        """

    def sets(self, states: Mapping[str, bytes]) -> pa.Table:
        """Return the candidate set of every user who may have one, in the contract of candidate sets, one row each."""
