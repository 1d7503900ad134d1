"""Dead letters: what could not be used, with its cause, in a form that can be sent again."""

import base64
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
"""Of a payload: a third more in Base64, so that a letter, of which everything else is short, keeps well below the 10 MB that
Pub/Sub takes as one message."""
ID_BYTES = 200
"""As long as an id of the input may be, so that every real one stays whole; one that is cut ends with an ellipsis."""
_DETAIL = 1_000


def letter(received: Received, cause: Cause, code_version: str) -> dict[str, Any]:
    """Return the dead letter of a message, a row of the contract."""
    event_id, user_id = identify(received)
    known = {"event_id": event_id, "user_id": user_id, "published_ts": _micros(received.published_s)}
    return _letter(received.message_id, received.data, cause, code_version, encoding=encoding(received), **known)


def set_letter(user_id: str, state: bytes, cause: Cause, code_version: str) -> dict[str, Any]:
    """Return the dead letter of a set that could not be made: no message is at fault, so that none can be sent again."""
    digest = hashlib.sha256(user_id.encode() + b"\0" + state).hexdigest()[:32]
    return _letter(f"set-{digest}", None, cause, code_version, user_id=user_id)


def event_letter(row: Mapping[str, Any], code_version: str, cause: Cause | None = None) -> dict[str, Any]:
    """Return the dead letter of an event whose message is gone: what was kept of it, for its cause or the `reason` it names."""
    payload = orjson.dumps({name: value for name, value in row.items() if name != REASON and value is not None})
    digest = hashlib.sha256(payload).hexdigest()[:32]
    why = cause or Cause("merge", row[REASON], None)
    known = {"event_id": row["event_id"], "user_id": row["user_id"]}
    return _letter(f"event-{digest}", payload, why, code_version, **known)


def _letter(
    message_id: str, payload: bytes | None, cause: Cause, code_version: str, **known: str | None
) -> dict[str, Any]:
    """Return a letter of bounded size.

    Args:
      known: `event_id`, `user_id`, `published_ts` and `encoding`, as far as there are any.
    """
    size = len(payload or b"")
    told = f"{size:,} bytes, too many to be kept" if size > MOST_BYTES else None
    detail = "; ".join(one for one in (told, cause.detail) if one)
    return {
        "message_id": message_id,
        "payload": None if payload is None or told else base64.b64encode(payload).decode(),
        "encoding": known.get("encoding", JSON),
        "event_id": _cut(known.get("event_id")),
        "user_id": _cut(known.get("user_id")),
        "published_ts": known.get("published_ts"),
        "stage": cause.stage,
        "error_class": cause.error_class,
        "detail": detail[:_DETAIL] or None,
        "attempts": cause.attempts,
        "code_version": code_version,
    }


def _cut(text: str | None) -> str | None:
    if text is None or (len(text) <= ID_BYTES and len(text.encode()) <= ID_BYTES):
        return text
    return text.encode()[: ID_BYTES - 3].decode(errors="ignore") + "…"


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
