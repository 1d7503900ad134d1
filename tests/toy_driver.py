"""What is asked of a streaming driver over a broker in memory."""

import json

from memory_broker import MemoryBroker
from toy_stream import BEGIN

from pipelines.stream import Stream
from transforms.io.broker import CONTROL, DEAD_LETTERS, EVENTS, Message


def settle(stream: Stream, broker: MemoryBroker) -> None:
    """Work until nothing is left to deliver or owed."""
    for _ in range(500):
        stream.tick()
        if not broker.topics[EVENTS] and not stream.store.owed():
            return
    raise AssertionError("the stream does not come to rest")


def outcomes(stream: Stream) -> dict[str, int]:
    return {labels[0]: number for labels, number in stream.metrics.by_label("outcomes").items() if number}


def letters(broker: MemoryBroker) -> list[dict]:
    return [json.loads(message.data) for message in broker.published[DEAD_LETTERS]]


def erase(broker: MemoryBroker, id_: str, entity: str = "user", reason: str = "erasure") -> None:
    row = {"entity": entity, "id": id_, "reason": reason, "effective_ts": BEGIN.isoformat()}
    broker.publish(CONTROL, [Message(json.dumps(row).encode(), {})])
