import json

import pytest
from toy_stream import event

from schemas.stream import DEAD_LETTER
from transforms.decode import decode_lines
from transforms.io.broker import Message, Received
from transforms.stream import dead_letters
from transforms.stream.dead_letters import (
    MOST_BYTES,
    decode_letter,
    encode_letters,
    event_letter,
    letter,
    original,
    set_letter,
)
from transforms.stream.messages import ENCODING, Cause
from transforms.stream.repost import (
    AGAIN,
    DONE,
    ERASED,
    FOREIGN,
    NO_MESSAGE,
    STILL_BROKEN,
    TRIED,
    VERDICT,
    sort_letters,
)  # fmt: skip
from validation.rows import polars_schema, split_rows


def received(data: bytes, message_id: str = "m", **attributes: str) -> Received:
    return Received(data, attributes, message_id, 1_769_774_400.25, "ack")


def kept(found: dict) -> Received:
    """Return the message a dead letter is delivered in."""
    (message,) = encode_letters([found])
    return received(message.data, "letter")


def good(number: int = 1, cause: str = "ArithmeticError", **columns) -> dict:
    payload = json.dumps(event(number, **columns)).encode()
    return letter(received(payload, f"m{number}"), Cause("merge", cause, "why", 3), "v")


@pytest.mark.parametrize("payload", [b"", b"\xff\x00{", json.dumps(event(1)).encode()])
@pytest.mark.parametrize("attributes", [{}, {ENCODING: "BINARY"}])
def test_letters_keep_their_contract_and_give_the_message_back(payload, attributes):
    found = letter(received(payload, **attributes), Cause("decode", "decode:malformed", None), "v")
    again = original(decode_letter(kept(found)))
    assert (again.data, again.attributes) == (payload, attributes)
    rows = decode_lines([json.dumps(found).encode()], _as_given()).rows
    assert found.keys() == set(DEAD_LETTER.schema.names)
    assert rows.height == 1


def _as_given():
    """Return the contract as that of a delivered dataset, so that the common decoder reads it."""
    import dataclasses

    import pyarrow as pa

    fields = [
        field.with_metadata({**(field.metadata or {}), b"derived_from": json.dumps([f"raw_dead_letter.{field.name}"])})
        for field in DEAD_LETTER.schema
    ]
    return dataclasses.replace(DEAD_LETTER, schema=pa.schema(fields))


def test_every_letter_passes_the_rules_of_its_contract():
    letters = [good(), set_letter("u", b"state", Cause("sets", "LookupError", "no set", 3), "v")]
    rows = decode_lines([json.dumps(one).encode() for one in letters], _as_given()).rows.select(
        DEAD_LETTER.schema.names
    )
    assert dict(rows.schema) == dict(polars_schema(DEAD_LETTER))
    assert split_rows(rows, DEAD_LETTER)[1].is_empty()


def test_the_letter_of_a_set_is_the_same_for_the_same_state():
    cause = Cause("sets", "LookupError", "no set", 3)
    first, again, other = (set_letter("u", state, cause, "v")["message_id"] for state in (b"1", b"1", b"2"))
    assert first == again != other


def test_what_is_too_large_to_be_published_is_kept_without_its_bytes(monkeypatch):
    monkeypatch.setattr(dead_letters, "MOST_BYTES", 10)
    found = letter(received(b"x" * 11), Cause("decode", "decode:malformed", "no record"), "v")
    assert found["payload"] is None
    assert found["detail"] == "11 bytes, too many to be kept; no record"


@pytest.mark.parametrize(("column", "character"), [("event_id", "A"), ("user_id", "\x01"), ("event_id", "\U0001f3b5")])
@pytest.mark.parametrize("size", [MOST_BYTES, MOST_BYTES + 1, 10_000_000])
def test_the_letter_of_any_message_is_one_that_pub_sub_takes(character, column, size):
    frame = len(json.dumps({column: ""}))
    written = json.dumps(character, ensure_ascii=character == "\x01")[1:-1].encode()
    data = json.dumps({column: ""}).encode()[:-2] + written * ((size - frame) // len(written)) + b'"}'
    one = received(data + b" " * (size - len(data)), "m" * 30)
    found = letter(one, Cause("decode", "event_ts:required", "\x01" * 5_000), "v")
    (message,) = encode_letters([found])
    assert len(message.data) + sum(len(key) + len(value) for key, value in message.attributes.items()) < 9_000_000
    assert found[column].endswith("…")
    assert len(found[column].encode()) <= 200
    assert found[column].startswith(character * 30)
    assert (original(decode_letter(kept(found))) or one).data == one.data
    assert (found["payload"] is None) == (size > MOST_BYTES)
    assert found["detail"].startswith(f"{size:,} bytes, too many to be kept; \x01" if size > MOST_BYTES else "\x01\x01")


def test_an_id_that_may_be_one_stays_whole():
    assert good(user_id="é" * 100)["user_id"] == "é" * 100


def test_the_letter_of_a_lost_event_is_bound_and_says_so():
    row = {"event_id": "e", "user_id": "u", "session_id": "s" * 6_000_000, "reason": "conflict"}
    found = event_letter(row, "v")
    assert (found["payload"], found["error_class"]) == (None, "conflict")
    assert found["detail"].endswith("bytes, too many to be kept")


@pytest.mark.parametrize("data", [b"", b"[]", b'{"payload": "x"}', b"\xff"])
def test_what_is_no_letter_is_told(data):
    assert decode_letter(received(data)) is None


def test_only_what_the_code_of_today_takes_is_sent_again():
    letters = [
        kept(good(1)), kept(good(2, user_id="gone")), kept(good(3, "conflict")), kept(good(4, event_type="teleport")),
        received(b"{"), kept(set_letter("u", b"s", Cause("sets", "LookupError", None), "v")), kept(good(5)),
    ]  # fmt: skip
    found = sort_letters(letters, {"gone"}, {"m5/merge"}, "v2")
    assert found.fate == [AGAIN, ERASED, VERDICT, STILL_BROKEN, FOREIGN, NO_MESSAGE, DONE]
    (message,) = found.messages.values()
    sent = event(1)
    assert message == Message(json.dumps(sent).encode(), {"event_id": "u1-e1", "event_ts": "1769774401000"})


def test_one_version_of_the_code_sends_a_payload_once():
    first = sort_letters([kept(good(1)), kept(good(1) | {"message_id": "copy"})], set(), set(), "v2")
    assert first.fate == [AGAIN, TRIED]
    marked = {mark for marks in first.marks.values() for mark in marks}
    failed_again = kept(good(1) | {"message_id": "m9"})
    assert sort_letters([kept(good(1))], set(), marked, "v2").fate == [DONE]
    assert sort_letters([failed_again], set(), marked, "v2").fate == [TRIED]
    assert sort_letters([failed_again], set(), marked, "v3").fate == [AGAIN]
