"""A broker in memory that delivers at least once, with a clock and failures of the test's choosing."""

import dataclasses
from collections.abc import Callable, Sequence

from transforms.io.broker import TOPICS, BrokerDown, Message, Received

ACK_S = 60.0
MOST_BYTES = 10_000_000


class Clock:
    """Seconds that pass only when told to, or slept."""

    def __init__(self, now: float = 1_769_774_400.0) -> None:
        self.now = now
        self.stopped = False

    def __call__(self) -> float:
        return self.now

    def is_set(self) -> bool:
        return self.stopped

    def wait(self, timeout: float) -> bool:
        self.now += timeout
        return self.stopped


@dataclasses.dataclass
class _Kept:
    message: Message
    message_id: str
    published_s: float
    visible_s: float = 0.0


class MemoryBroker:
    """Topics with one subscription each; what is not acknowledged within a minute comes again."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.topics: dict[str, list[_Kept]] = {topic: [] for topic in TOPICS}
        self.published: dict[str, list[Message]] = {topic: [] for topic in TOPICS}
        self.down_until = 0.0
        self.before: Callable[[str], None] = lambda call: None
        self.deal: Callable[[list[_Kept]], list[_Kept]] = lambda ready: ready
        """What of all that is ready is delivered next, and in which order."""
        self._ids = 0

    def _reached(self, call: str) -> None:
        self.before(call)
        if self.clock.now < self.down_until:
            raise BrokerDown("connection refused")

    def pull(self, topic: str, most: int, wait_s: float) -> list[Received]:
        self._reached(f"pull {topic}")
        ready = self.deal([kept for kept in self.topics[topic] if kept.visible_s <= self.clock.now])[:most]
        if not ready:
            self.clock.wait(wait_s)
        for kept in ready:
            kept.visible_s = self.clock.now + ACK_S
        return [
            Received(k.message.data, k.message.attributes, k.message_id, k.published_s, k.message_id) for k in ready
        ]

    def publish(self, topic: str, messages: Sequence[Message]) -> None:
        self._reached(f"publish {topic}")
        for message in messages:
            assert len(message.data) <= MOST_BYTES, "Pub/Sub refuses a larger message"
            self._ids += 1
            self.topics[topic].append(_Kept(message, f"m{self._ids}", self.clock.now))
            self.published[topic].append(message)

    def acknowledge(self, topic: str, ack_ids: Sequence[str]) -> None:
        self._reached(f"acknowledge {topic}")
        assert ack_ids, "Pub/Sub refuses an empty acknowledgement"
        self.topics[topic] = [kept for kept in self.topics[topic] if kept.message_id not in set(ack_ids)]

    def extend(self, topic: str, ack_ids: Sequence[str], seconds: int) -> None:
        self._reached(f"extend {topic}")
        for kept in self.topics[topic]:
            if kept.message_id in ack_ids:
                kept.visible_s = self.clock.now + seconds

    def close(self) -> None:
        for topic, kept in self.topics.items():
            self.extend(topic, [one.message_id for one in kept], 0)
