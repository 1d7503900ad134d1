"""Messages to rows of the event contract, by the same decoding and rules as files; sets to messages."""

import dataclasses
import datetime
import io
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
import numpy as np
import orjson
import polars as pl
import pyarrow as pa

from schemas.avro import avro_schema
from schemas.contract import Contract
from schemas.inputs import EVENT, TOMBSTONE
from schemas.stream import AVRO, JSON
from transforms.decode import DETAIL, POSITION, RULE, decode_lines
from transforms.ingest import check_rows, given_contract
from transforms.io.broker import Message, Received
from transforms.label import LABEL_VERSION, label_strength
from transforms.stream.halve import ATTEMPTS, halve
from transforms.stream.session import SKEW_US

ENCODING = "googclient_schemaencoding"
"""The attribute in which Pub/Sub says how a message is encoded: `JSON`, which it is without the attribute, or `BINARY`."""
EVENT_AVRO = avro_schema(given_contract(EVENT))
TRACE = "trace_id"
COMPRESSED = {"content-encoding": "zstd"}
"""Attributes of messages whose payload is compressed, as those of sets are: to a fourteenth, in a quarter of the time it takes to write them."""
_ZSTD = pa.Codec("zstd", compression_level=1)
_MALFORMED = "decode:malformed"
AHEAD = "ingest_ts:not_after:published"
SKEWED = ("event_ts:not_after:ingest_ts", AHEAD)
"""Rules that an event from the future breaks."""
_ANY_TIME = np.iinfo(np.int64).max
_LABEL = label_strength().alias("label")


@dataclasses.dataclass(frozen=True, slots=True)
class Cause:
    """Why a message changed nothing."""

    stage: str
    error_class: str
    detail: str | None
    attempts: int = 1

    @property
    def is_parked(self) -> bool:
        """Tell whether the code failed on the message, and no rule refused it."""
        return self.attempts > 1


def parked(stage: str, error: BaseException) -> Cause:
    """Return why a message is given up that the code has failed on again and again."""
    return Cause(stage, type(error).__name__, str(error), ATTEMPTS)


@dataclasses.dataclass(frozen=True, slots=True)
class Events:
    """A batch of messages, each either a row or a cause.

    Attributes:
      rows: the columns of the contract and `__position`: index of the message in the batch. `session_id` is null where
        the producer gave none.
      causes: by index of the message.
    """

    rows: pl.DataFrame
    causes: dict[int, Cause]


def encoding(received: Received) -> str:
    """Return how the payload is written; without the attribute it is JSON."""
    return AVRO if received.attributes.get(ENCODING, "").upper() == "BINARY" else JSON


def decode_messages(received: Sequence[Received], code_version: str) -> Events:
    """Decode a batch of event messages; one that is no event has a cause, whatever its bytes are.

    Nor is one that says it was taken in after it was published, by more than clocks differ: all that its listener does until
    that time would lie behind it. Where nothing says when a message was published, its word is taken.
    """
    decoded = _decode_apart(received, EVENT, code_version)
    latest = [int(one.published_s * 1e6) + SKEW_US if one.published_s else _ANY_TIME for one in received]
    ahead = decoded.rows["ingest_ts"].dt.epoch("us").to_numpy() > np.array(latest, np.int64)[decoded.rows[POSITION]]
    early = dict.fromkeys(decoded.rows[POSITION].filter(pl.Series(ahead)), Cause("decode", AHEAD, None))
    rows = decoded.rows.filter(pl.Series(~ahead)).with_columns(
        pl.col("event_ts").dt.date().alias("event_date"),
        _LABEL,
        pl.lit(LABEL_VERSION, pl.Int32).alias("label_version"),
    )
    return Events(rows.select(*EVENT.schema.names, POSITION), decoded.causes | early)


def decode_control(received: Sequence[Received], code_version: str) -> Events:
    """Decode a batch of tombstones."""
    return _decode_apart(received, TOMBSTONE, code_version)


def _decode_apart(received: Sequence[Received], contract: Contract, code_version: str) -> Events:
    """Decode a batch; what decoding fails on stands alone in the end, and is parked."""
    causes, frames = dict[int, Cause](), list[pl.DataFrame]()

    def work(span: Sequence[int]) -> None:
        found = _decode(received[span[0] : span[-1] + 1], contract, code_version)
        frames.append(found.rows.with_columns(pl.col(POSITION) + span[0]) if span[0] else found.rows)
        causes.update({span[0] + position: cause for position, cause in found.causes.items()})

    failed = halve(range(len(received)), work) if received else []
    causes |= {position: parked("decode", error) for position, error in failed}
    rows = pl.concat(frames) if frames else _decode([], contract, code_version).rows
    return Events(rows, dict(sorted(causes.items())))


def _decode(received: Sequence[Received], contract: Contract, code_version: str) -> Events:
    lines = [_line(one) for one in received]
    checked = check_rows(decode_lines(lines, contract), contract, "messages", code_version)
    rejected = checked.rejected.select("position", RULE, DETAIL).iter_rows()
    causes = {position: Cause("decode", rule, detail) for position, rule, detail in rejected}
    kept = set(checked.rows[POSITION])
    for position, one in enumerate(received):  # decoding passes blank lines over
        if position not in kept and position not in causes:
            causes[position] = Cause("decode", _MALFORMED, f"{len(one.data)} bytes that are not one record")
    return Events(checked.rows, causes)


def identify(received: Received) -> tuple[str | None, str | None]:
    """Return event id and user id of a message as far as they can be read, whether or not it is an event."""
    try:
        found = orjson.loads(_line(received))
    except (orjson.JSONDecodeError, RecursionError):
        return None, None
    if not isinstance(found, dict):
        return None, None
    return _text(found.get("event_id")), _text(found.get("user_id"))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # it reads deeper than it writes
        return None


def _line(received: Received) -> bytes:
    """Return the payload as one line of JSON; nothing where it is none."""
    if encoding(received) == AVRO:
        return _avro_line(received.data)
    data = received.data
    if b"\n" not in data and b"\r" not in data:
        return data
    try:  # a line break between tokens is white space, within a string it is an error
        orjson.loads(data)
    except (orjson.JSONDecodeError, RecursionError):
        return b""
    return data.replace(b"\n", b" ").replace(b"\r", b" ")


def _avro_line(data: bytes) -> bytes:
    buffer = io.BytesIO(data)
    try:
        found = fastavro.schemaless_reader(buffer, _READ_SCHEMA, None)
        return orjson.dumps(found) if buffer.tell() == len(data) else b""
    except Exception:  # foreign bytes raise nearly anything; what is no record is told apart by its empty line
        return b""


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    """Drop logical types: a time out of range is a bad value, which the rules name, and no broken record."""
    type_ = field["type"]
    nested = [_bare(one) for one in type_] if isinstance(type_, list) else _bare(type_)
    return {**field, "type": nested}


def _bare(type_: Any) -> Any:
    return type_["type"] if isinstance(type_, dict) and "logicalType" in type_ else type_


_READ_SCHEMA = fastavro.parse_schema({**EVENT_AVRO, "fields": [_plain(field) for field in EVENT_AVRO["fields"]]})


def encode_events(rows: pl.DataFrame) -> list[Message]:
    """Return one JSON message per raw event."""
    stamps = rows.select("event_id", "event_ts").iter_rows()
    return [Message(line, event_attributes(*stamp)) for line, stamp in zip(_lines(rows), stamps, strict=True)]


def event_attributes(event_id: str, event_ts: datetime.datetime) -> dict[str, str]:
    """Return the id and the time (ms since 1970) of an event as Dataflow reads them, which deduplicates by one of them."""
    return {"event_id": event_id, "event_ts": str(round(event_ts.timestamp() * 1000))}


def encode_sets(sets: pa.Table, traces: dict[str, str]) -> list[Message]:
    """Return one message per candidate set, JSON compressed by zstd, named by user, sequence and bundle.

    Args:
      traces: last event that led to a user's set, by user.
    """
    frame = pl.from_arrow(sets)
    assert isinstance(frame, pl.DataFrame)
    named = ("candidate_set_id", "record_key", "user_id", "sequence", "bundle_id", "surface")
    attributes = frame.select(pl.col(name).cast(pl.String) for name in named).iter_rows(named=True)
    told = {user: {TRACE: trace} for user, trace in traces.items()}
    return [
        Message(_ZSTD.compress(line, asbytes=True), {**found, **COMPRESSED, **told.get(found["user_id"], {})})
        for line, found in zip(_lines(frame), attributes, strict=True)
    ]


def decode_set(data: bytes) -> dict[str, Any]:
    """Return the candidate set in the payload of a message that `encode_sets` wrote."""
    return orjson.loads(pa.CompressedInputStream(pa.BufferReader(data), "zstd").read())


def supersedes(found: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
    """Tell whether a reader who keeps one set of a record takes another in its place, in whichever order they come.

    Args:
      found, kept: `sequence` and `expires_at`, of one record of one surface.
    """
    return (found["sequence"], found["expires_at"]) > (kept["sequence"], kept["expires_at"])


def _lines(frame: pl.DataFrame) -> list[bytes]:
    buffer = io.BytesIO()
    frame.write_ndjson(buffer)
    buffer.seek(0)
    return [line[:-1] for line in buffer.readlines()]  # `splitlines` looks for other line ends too: five times as long
