import io
import itertools
import json
import random
import sys
from pathlib import Path

import fastavro
import polars as pl
import pyarrow as pa
import pytest
from toy_stream import BEGIN, ToyStep, event

from schemas.candidates import CANDIDATE_SET
from schemas.inputs import EVENT
from transforms.decode import POSITION, decode_lines
from transforms.ingest import given_contract, label_events
from transforms.io.broker import Received
from transforms.stream import messages
from transforms.stream.messages import (
    ENCODING,
    EVENT_AVRO,
    Cause,
    decode_control,
    decode_messages,
    decode_set,
    encode_events,
    encode_sets,
    identify,
    supersedes,
)
from validation.rows import polars_schema

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fuzzed_lines import DEEP, fuzzed_line


def received(*payloads: dict | bytes, **attributes: str) -> list[Received]:
    data = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in payloads]
    return [Received(one, attributes, f"m{i}", 0.0, f"a{i}") for i, one in enumerate(data)]


def avro(**columns) -> bytes:
    micros = int(BEGIN.timestamp() * 1e6)
    row = {field["name"]: None for field in EVENT_AVRO["fields"]} | event(1) | {"event_ts": micros, "ingest_ts": micros}
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(EVENT_AVRO), row | columns)
    return buffer.getvalue()


def test_rows_are_those_the_batch_road_makes_of_the_same_lines():
    told = [event(number, session_id="s", is_organic=number % 2 == 0) for number in range(5)]
    rows = decode_messages(received(*told), "v").rows
    assert dict(rows.drop(POSITION).schema) == dict(polars_schema(EVENT))
    assert rows[POSITION].to_list() == [0, 1, 2, 3, 4]
    assert rows.drop(POSITION).equals(label_events(rows.select(given_contract(EVENT).schema.names)))


def test_avro_and_json_give_the_same_row():
    stamp = BEGIN.isoformat()
    plain = decode_messages(received(event(1, event_ts=stamp, ingest_ts=stamp)), "v").rows
    binary = decode_messages(received(avro(), **{ENCODING: "BINARY"}), "v").rows
    assert binary.equals(plain)


@pytest.mark.parametrize(
    ("payload", "rule"),
    [
        (b"", "decode:malformed"),
        (b" \n\t", "decode:malformed"),
        (b"{", "decode:malformed"),
        (b'{"event_id": "a\nb"}', "decode:malformed"),
        (b"[]", "decode:malformed"),
        (event(1, event_type="teleport"), "event_type:one_of"),
        (event(1, schema_version=99), "schema_version:between"),
        (event(1, ms_played="long"), "ms_played:type"),
        (event(1, ingest_ts=None), "ingest_ts:required"),
        (event(900, ingest_ts=BEGIN.isoformat()), "event_ts:not_after:ingest_ts"),
        (event(1, user_id=""), "user_id:required"),
        (event(1, session_id="s" * 201), "session_id:max_length"),
        (event(1, event_ts="0000-01-01T00:00:00Z", event_type="teleport"), "event_ts:type"),
        (event(1, ingest_ts="+12000-01-01T00:00:00Z", event_type="teleport"), "ingest_ts:type"),
    ],
)
def test_what_is_no_event_has_its_cause(payload, rule):
    found = decode_messages(received(event(1), payload, event(2)), "v")
    assert found.rows[POSITION].to_list() == [0, 2]
    assert [(i, cause.stage, cause.error_class) for i, cause in found.causes.items()] == [(1, "decode", rule)]


def test_a_message_may_be_written_over_several_lines():
    spread = json.dumps(event(1), indent=2).encode()
    assert decode_messages(received(spread, spread.replace(b"\n", b"\r\n")), "v").rows.height == 2


@pytest.mark.parametrize("broken", [avro() + b"x", avro()[:-1], b"\xff" * 40, b"", b"{}"])
def test_bytes_that_are_no_avro_record_are_malformed(broken):
    found = decode_messages(received(avro(), **{ENCODING: "BINARY"}) + received(broken, **{ENCODING: "BINARY"}), "v")
    assert found.causes == {1: Cause("decode", "decode:malformed", found.causes[1].detail)}


def test_a_time_no_calendar_has_is_a_bad_value():
    broken = [avro(event_ts=micros, event_type="teleport") for micros in (2**62, -(2**62), -(2**55), 2**52)]
    found = decode_messages(received(*broken, **{ENCODING: "BINARY"}), "v")
    assert {cause.error_class for cause in found.causes.values()} == {"event_ts:type"}
    assert len(found.causes) == len(broken)


def test_what_decoding_fails_on_is_parked_and_nothing_else(monkeypatch):
    """Whatever it raises, a panic of polars among it."""
    raised = {
        b"poison": ArithmeticError("the bytes are poison"),
        b"panic": pl.exceptions.PanicException("out of range"),
    }

    def failing(lines, contract):
        for line in lines:
            if line in raised:
                raise raised[line]
        return decode_lines(lines, contract)

    monkeypatch.setattr(messages, "decode_lines", failing)
    batch = received(*(event(number) for number in range(5)), b"poison", b"{", b"panic", event(9))
    found = decode_messages(batch, "v")
    assert found.rows[POSITION].to_list() == [0, 1, 2, 3, 4, 8]
    assert found.causes == {
        5: Cause("decode", "ArithmeticError", "the bytes are poison", 3),
        6: Cause("decode", "decode:malformed", "1 bytes that are not one record"),
        7: Cause("decode", "PanicException", "out of range", 3),
    }
    only = decode_messages(received(b"poison"), "v")
    assert (only.rows.schema, only.rows.height, list(only.causes)) == (found.rows.schema, 0, [0])
    assert decode_control(received(b"poison"), "v").causes[0].attempts == 3


@pytest.mark.parametrize("attributes", [{}, {ENCODING: "BINARY"}, {ENCODING: "JSON"}, {ENCODING: "\x00"}])
def test_fuzzed_messages_are_all_accounted_for(attributes):
    rng = random.Random(7)
    lines = [fuzzed_line(rng, number) for number in range(1_500)]
    lines += [rng.randbytes(rng.randrange(200)) for _ in range(500)]
    for start in range(0, len(lines), 500):
        batch = received(*lines[start : start + 500], **attributes)
        found = decode_messages(batch, "v")
        assert sorted([*found.rows[POSITION], *found.causes]) == list(range(len(batch)))
        assert all(cause.error_class for cause in found.causes.values())
        for one in batch:
            assert len(identify(one)) == 2


def test_ids_are_read_from_whatever_can_be_read():
    assert identify(received(event(1, event_type="teleport"))[0]) == ("u1-e1", "u1")
    assert identify(received({"user_id": 7})[0]) == (None, "7")
    assert identify(received(b"[1]")[0]) == (None, None)
    assert identify(received(b"{")[0]) == (None, None)
    assert identify(received({"event_id": DEEP, "user_id": "u"})[0]) == (None, "u")
    assert identify(received(avro(), **{ENCODING: "BINARY"})[0]) == ("u1-e1", "u1")


def test_tombstones():
    row = {"entity": "user", "id": "u1", "reason": "erasure", "effective_ts": "2026-01-01T00:00:00Z"}
    found = decode_control(received(row, row | {"reason": "mood"}), "v")
    assert found.rows["id"].to_list() == ["u1"]
    assert found.causes[1].error_class == "reason:one_of"
    odd = row | {"effective_ts": "0000-01-01T00:00:00Z"}
    found = decode_control(received(odd, odd | {"reason": "mood"}), "v")
    assert [cause.error_class for cause in found.causes.values()] == ["effective_ts:type"] * 2


def test_events_written_as_messages_are_read_as_the_same_rows():
    rows = decode_messages(received(event(1), event(2, rank=3, offline=True)), "v").rows
    sent = encode_events(rows.select(EVENT.given_columns()))
    again = decode_messages([Received(one.data, one.attributes, "m", 0.0, "a") for one in sent], "v").rows
    assert again.equals(rows)
    assert sent[0].attributes == {"event_id": "u1-e1", "event_ts": str(int(BEGIN.timestamp() + 1) * 1000)}


def test_a_set_is_written_whole_and_named_by_its_attributes():
    table = ToyStep().sets({"u1": b'{"e": [1769774400000000, "i1"]}'})
    (message,) = encode_sets(table, {"u1": "e"})
    frame = pl.DataFrame([decode_set(message.data)])
    assert frame.columns == CANDIDATE_SET.schema.names
    assert frame["source_watermark"].item() == "2026-01-30T12:00:00+00:00"
    assert message.attributes == {
        "candidate_set_id": "u1-1769774400000000001-1264153453", "record_key": "u1", "user_id": "u1",
        "sequence": "1769774400000000001", "bundle_id": "b1", "surface": "now_playing", "trace_id": "e",
        "content-encoding": "zstd",
    }  # fmt: skip
    assert encode_sets(pa.Table.from_pylist([], CANDIDATE_SET.schema), {}) == []


def test_a_reader_ends_with_one_set_whichever_comes_first():
    sets = [
        {"sequence": n, "expires_at": end, "n": i}
        for i, (n, end) in enumerate([(1, "b"), (2, "a"), (2, "b"), (1, "z")])
    ]
    for order in itertools.permutations(sets):
        kept = order[0]
        for one in (*order[1:], *order):
            kept = one if supersedes(one, kept) else kept
        assert kept["n"] == 2
