"""Have a step do everything once before it serves anybody."""

import orjson

from transforms.io.broker import Received
from transforms.stream.messages import decode_messages
from transforms.stream.step import Step

_EVENTS = (
    {"event_type": "play", "ms_played": 200_000, "item_id": "trial-1"},
    {"event_type": "skip", "ms_played": 1_000, "item_id": "trial-2"},
)
_SAME = {
    "schema_version": 1, "event_ts": "2026-01-01T00:00:00Z", "ingest_ts": "2026-01-01T00:00:01Z", "user_id": "trial",
    "item_type": "track", "item_duration_ms": 200_000, "market": "SE",
}  # fmt: skip


def tried(step: Step) -> Step:
    """Return a step that has merged events of nobody and made their set, neither of which is kept.

    What is compiled or mapped at first use, which takes up to a minute, holds up no listener then; and a step that cannot
    make a set raises here, whatever it raises, before it is in use.
    """
    payloads = [orjson.dumps({**_SAME, **one, "event_id": one["item_id"]}) for one in _EVENTS]
    received = [Received(payload, {}, "trial", 0.0, "") for payload in payloads]
    rows = decode_messages(received, "trial").rows
    assert rows.height == len(received)
    step.sets(step.merge({"trial": None}, rows).states)
    return step
