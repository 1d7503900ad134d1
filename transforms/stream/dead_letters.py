"""Dead letters: what could not be used, with its cause, in a form that can be sent again."""

import base64
import dataclasses
import datetime
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from schemas.stream import AVRO, DEAD_LETTER, JSON
from transforms.io.broker import Message, Received
from transforms.stream.messages import ENCODING, Cause, encoding, identify
from transforms.stream.step import REASON

MOST_BYTES = 5_000_000
"""Of a payload: with a third more in Base64 the letter stays within the 10 MB of a message."""
_DETAIL = 1_000


def letter(received: Received, cause: Cause, code_version: str) -> dict[str, Any]:
    """Return the dead letter of a message, a row of the contract."""
    event_id, user_id = identify(received)
    size = len(received.data)
    if size > MOST_BYTES:
        cause = dataclasses.replace(cause, detail=f"{size:,} bytes, too many to be kept; {cause.detail}")
    return {
        "message_id": received.message_id,
        "payload": base64.b64encode(received.data).decode() if size <= MOST_BYTES else None,
        "encoding": encoding(received),
        "event_id": event_id,
        "user_id": user_id,
        "published_ts": _micros(received.published_s),
        **_why(cause, code_version),
    }


def set_letter(user_id: str, state: bytes, cause: Cause, code_version: str) -> dict[str, Any]:
    """Return the dead letter of a set that could not be made: no message is at fault, so that none can be sent again."""
    digest = hashlib.sha256(user_id.encode() + b"\0" + state).hexdigest()[:32]
    nothing = dict.fromkeys(("payload", "event_id", "published_ts"))
    return {"message_id": f"set-{digest}", "user_id": user_id, "encoding": JSON, **nothing, **_why(cause, code_version)}


def event_letter(row: Mapping[str, Any], code_version: str) -> dict[str, Any]:
    """Return the dead letter of an event whose message is gone: what was kept of it, for the `reason` it names."""
    payload = orjson.dumps({name: value for name, value in row.items() if name != REASON and value is not None})
    digest = hashlib.sha256(payload).hexdigest()[:32]
    known = {"event_id": row["event_id"], "user_id": row["user_id"], "published_ts": None, "encoding": JSON}
    message = {"message_id": f"event-{digest}", "payload": base64.b64encode(payload).decode()}
    return {**message, **known, **_why(Cause("merge", row[REASON], None), code_version)}


def _why(cause: Cause, code_version: str) -> dict[str, Any]:
    return {
        "stage": cause.stage,
        "error_class": cause.error_class,
        "detail": None if cause.detail is None else cause.detail[:_DETAIL],
        "attempts": cause.attempts,
        "code_version": code_version,
    }


def _micros(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="microseconds")


def encode_letters(letters: Sequence[dict[str, Any]]) -> list[Message]:
    """Return one JSON message per dead letter."""
    return [Message(orjson.dumps(one), {"error_class": one["error_class"], "stage": one["stage"]}) for one in letters]


def decode_letter(received: Received) -> dict[str, Any] | None:
    """Return the dead letter in a message, None where it holds none."""
    try:
        found = orjson.loads(received.data)
    except (orjson.JSONDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.keys() == set(DEAD_LETTER.schema.names) else None


def original(found: dict[str, Any]) -> Received | None:
    """Return the message a dead letter is about, None where none is at fault."""
    if found["payload"] is None:
        return None
    attributes = {ENCODING: "BINARY"} if found["encoding"] == AVRO else {}
    return Received(base64.b64decode(found["payload"]), attributes, found["message_id"], 0.0, "")
