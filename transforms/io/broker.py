"""Messages: what the stream asks of a broker, whichever it is.

No ordering keys: states and sets do not depend on the order of events, and a key would hold back every later message
of a user behind one that failed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

EVENTS, SETS, DEAD_LETTERS, CONTROL, VERDICTS = "events", "sets", "dead-letters", "control", "verdicts"
TOPICS = (EVENTS, SETS, DEAD_LETTERS, CONTROL, VERDICTS)


class BrokerError(RuntimeError):
    """The broker refuses, and will refuse again; the message says what to do."""


class BrokerDown(RuntimeError):
    """The broker cannot be reached at the moment; trying again later may help."""


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """What is published."""

    data: bytes
    attributes: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """What is delivered, at least once.

    Attributes:
      published_s: when the broker took it, seconds since 1970.
    """

    data: bytes
    attributes: Mapping[str, str]
    message_id: str
    published_s: float
    ack_id: str


class Broker(Protocol):
    """Topics of one prefix and one subscription to each. Every call raises `BrokerDown` or `BrokerError`."""

    def pull(self, topic: str, most: int, wait_s: float) -> list[Received]:
        """Return about `most` messages at most, as soon as there are any, or none after `wait_s`."""

    def publish(self, topic: str, messages: Sequence[Message]) -> None:
        """Publish, and return when the broker has taken all; some may have been taken where it raises."""

    def acknowledge(self, topic: str, ack_ids: Sequence[str]) -> None:
        """Have messages not delivered again."""

    def extend(self, topic: str, ack_ids: Sequence[str], seconds: int) -> None:
        """Put off the next delivery of messages; 0 delivers them again at once."""

    def close(self) -> None:
        """Let go of what is underway; what was not acknowledged will be delivered again."""
