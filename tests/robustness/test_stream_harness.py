"""What the kills and the soak of the stream would find, were something wrong."""

import json
import threading

import fuzz_stream
import pytest
import soak_stream
from kill_stream import Reader, in_bulk
from memory_broker import Clock, MemoryBroker
from toy_stream import event

from pipelines import stream
from transforms.io.broker import DEAD_LETTERS, SETS, VERDICTS, Message
from transforms.stream.dead_letters import encode_letters
from transforms.stream.session import APPLIED, DUPLICATE, OUTLIVED
from transforms.stream.sessions import merge_events


def read(*messages: tuple[str, bytes, dict]) -> Reader:
    """Return a reader of some messages, which ends when they do."""
    clock, done = Clock(), threading.Event()
    broker = MemoryBroker(clock)
    for topic, data, attributes in messages:
        broker.publish(topic, [Message(data, attributes)])
    broker.before = lambda call: done.set() if not any(broker.topics.values()) else None
    reader = Reader(broker)
    reader.follow(done)
    return reader


def a_set(user: str, sequence: int, data: bytes = b"set") -> tuple[str, bytes, dict]:
    return SETS, data, {"user_id": user, "sequence": str(sequence)}


def a_letter(number: int, cause: str = "decode:malformed") -> tuple[str, bytes, dict]:
    return DEAD_LETTERS, json.dumps({"message_id": f"m{number}", "error_class": cause}).encode(), {}


def test_the_last_set_counts_and_a_copy_is_no_fault():
    reader = read(a_set("u", 2, b"new"), a_set("u", 1, b"old"), a_set("u", 2, b"new"), a_letter(1), a_letter(1))
    assert reader.unlike({"u": b"new"}, 1) == []
    assert reader.wrong == []


@pytest.mark.parametrize(
    ("expected", "broken", "said"),
    [
        ({"u": b"other"}, 1, "u: its last set is not that of one run in bulk"),
        ({"u": b"set", "v": b"set"}, 1, "v: its last set is not that of one run in bulk"),
        ({}, 1, "u: its last set is not that of one run in bulk"),
        ({"u": b"set"}, 2, "dead letters {'decode:malformed': 1} of 2 broken messages"),
        ({"u": b"set"}, 0, "dead letters {'decode:malformed': 1} of 0 broken messages"),
    ],
)
def test_what_is_lost_or_too_much_is_found(expected, broken, said):
    assert read(a_set("u", 1), a_letter(1)).unlike(expected, broken) == [said]


def test_two_sets_of_one_sequence_are_found():
    assert read(a_set("u", 1, b"a"), a_set("u", 1, b"b")).wrong == ["u has two sets of sequence 1"]


def test_verdicts_are_kept_by_minute_and_part():
    told = [{"minute": "m", "part": part, "sets": part} for part in (0, 1, 1)]
    assert len(read(*((VERDICTS, json.dumps(one).encode(), {}) for one in told)).verdicts) == 2


def test_a_run_in_bulk_passes_over_what_is_broken():
    assert in_bulk([event(1), None, event(2), event(1)]).keys() == {"u1"}


def test_outcomes_are_compared_whatever_the_order_was():
    stream = {APPLIED: 5, DUPLICATE: 4, OUTLIVED: 1, "rejected": 2, "parked": 0}
    bulk = {APPLIED: 6, OUTLIVED: 2, "rejected": 2}
    assert soak_stream.together(stream, 2) == soak_stream.together(bulk, 0)
    assert soak_stream.together(stream, 1) != soak_stream.together(bulk, 0)


def test_fuzzed_messages_are_all_accounted_for(tmp_path):
    found = fuzz_stream.run(5_000, 7, tmp_path)
    assert found.wrong == []
    assert found.fates.total() == 5_000
    assert {"event_ts:type", "ingest_ts:type", "effective_ts:type", "session_id:max_length", "late_bucket"} <= set(
        found.causes
    )
    assert (
        min(found.fates[fate] for fate in (fuzz_stream.GOOD, fuzz_stream.ANY, "decode:malformed", stream.ERASED)) > 10
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda letters: letters[1:], "dead letters []"),
        (lambda letters: letters[:1] + letters, "dead letters ["),
        (lambda letters: [one | {"error_class": "other"} for one in letters], "dead letters ['other'] instead of"),
        (lambda letters: [one | {"payload": "eA=="} for one in letters], "not as it came"),
        (lambda letters: [one | {"error_class": ""} for one in letters], "no dead letter of a message"),
    ],
)
def test_a_dead_letter_too_few_too_many_or_of_another_cause_is_found(changed, said, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "encode_letters", lambda letters: encode_letters(changed(letters)))
    assert any(line.startswith(said) for line in fuzz_stream.run(100, 7, tmp_path).wrong)


def test_a_message_that_is_lost_or_kept_is_found(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(MemoryBroker, "acknowledge", lambda broker, topic, ids: None)
        assert any(
            line.endswith("messages were not acknowledged") for line in fuzz_stream.run(100, 7, tmp_path / "a").wrong
        )
    monkeypatch.setattr(fuzz_stream.WindowStep, "merge", lambda step, states, rows: merge_events(states, rows[1:]))
    assert any(line.startswith("the window of u") for line in fuzz_stream.run(100, 7, tmp_path / "b").wrong)


def test_memory_that_grows_has_a_slope():
    assert soak_stream.slope([(0.0, 100.0), (60.0, 112.0), (120.0, 124.0)]) == pytest.approx(12.0)
