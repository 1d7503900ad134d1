"""The streaming driver over a broker in memory, a real state file and a clock that only moves when told to."""

import base64
import dataclasses
import json
import os
import random
import re
import threading

import polars as pl
import pytest
from memory_broker import ACK_S, MemoryBroker
from toy_driver import letters, outcomes, settle
from toy_stream import BEGIN, ToyStep, event, final, published, send

from pipelines.stream import PARKED, REJECTED, TTL_S, Stream
from transforms.decode import POSITION, decode_lines
from transforms.io.broker import CONTROL, EVENTS, SETS, BrokerDown, Message
from transforms.stream import messages, one_core
from transforms.stream.debounce import PAUSE_S
from transforms.stream.messages import decode_set


def test_an_event_becomes_a_set_and_is_acknowledged(make, broker):
    stream = make()
    send(broker, event(1))
    assert stream.tick() == 1
    (found,) = published(broker)
    assert [one["item_id"] for one in found["candidates"]] == ["i1"]
    assert broker.topics[EVENTS] == []
    assert stream.store.sequences(["u1"]) == {"u1": found["sequence"]}
    (message,) = broker.published["sets"]
    assert message.attributes["trace_id"] == "u1-e1"
    assert message.attributes["bundle_id"] == "b1"


def test_a_set_is_traced_to_what_it_is_made_of_and_not_to_what_came_with_it(make, broker, clock):
    stream = make()
    send(broker, event(1))
    clock.now += 0.5
    send(broker, event(1), event(2, private_session=True))
    stream.tick()
    (message,) = broker.published[SETS]
    assert message.attributes["trace_id"] == "u1-e1"
    assert stream.metrics.freshness()[0.5] == pytest.approx(0.5)


def test_every_event_is_accounted_for(make, broker):
    stream = make()
    twice, other = event(1), event(1, item_id="other")
    send(broker, twice, twice, other, event(2, private_session=True), b"{", event(3, event_type="teleport"), b"")
    settle(stream, broker)
    assert outcomes(stream) == {"applied": 1, "duplicate": 1, "conflict": 1, "private": 1, REJECTED: 3}
    assert sum(outcomes(stream).values()) == stream.metrics.total("messages") == 7
    causes = sorted((one["stage"], one["error_class"]) for one in letters(broker))
    expected = [("decode", "decode:malformed")] * 2 + [("decode", "event_type:one_of"), ("merge", "conflict")]
    assert causes == expected


def test_what_is_delivered_again_changes_nothing(make, broker, clock):
    stream = make()
    send(broker, event(1), event(2))
    broker.before = lambda call: (_ for _ in ()).throw(Killed) if call == f"acknowledge {EVENTS}" else None
    with pytest.raises(Killed):
        stream.tick()
    broker.before = lambda call: None
    before = final(broker)
    clock.now += ACK_S
    stream = make()
    settle(stream, broker)
    assert outcomes(stream) == {"duplicate": 2}
    assert final(broker) == before


def test_the_next_batch_goes_on_from_states_whose_sets_are_still_on_their_way(make, broker, clock):
    stream, free = make(), threading.Event()
    broker.before = lambda call: free.wait(10) if call == "publish sets" else None
    send(broker, event(1))
    assert stream.advance() == 1
    assert stream.store.owed() == ["u1"]  # written down before it is published, and acknowledged after
    assert len(broker.topics[EVENTS]) == 1
    clock.now += PAUSE_S
    send(broker, event(2))
    threading.Timer(0.2, free.set).start()
    assert stream.tick() == 1
    assert [one["sequence"] % 1000 for one in published(broker)] == [1, 2]
    assert broker.topics[EVENTS] == []
    assert stream.store.sequences(["u1"]) == {"u1": published(broker)[-1]["sequence"]}


def test_dead_letters_go_before_the_commit_and_sets_after_it_and_then_it_is_acknowledged(make, broker):
    """What was merged has no letters when it comes again, and what was published must have been made of what is kept."""
    stream, calls = make(), list[str]()
    commit = stream.store.commit
    broker.before = calls.append
    stream.store.commit = lambda batch: calls.append("commit") or commit(batch)
    send(broker, event(1), event(1, item_id="other"))
    stream.tick()
    line = ["publish dead-letters", "commit", "publish sets", f"acknowledge {EVENTS}", "commit"]
    assert [call for call in calls if call in line] == line


def test_what_fails_while_it_is_on_its_way_ends_the_stream_with_nothing_acknowledged(make, broker, clock):
    stream = make()
    broker.before = lambda call: (_ for _ in ()).throw(Killed) if call == "publish sets" else None
    send(broker, event(1))
    with pytest.raises(Killed):
        stream.run()
    assert stream.store.owed() == ["u1"]
    assert len(broker.topics[EVENTS]) == 1


class Killed(BaseException):
    """The process is gone at this point."""


def deal(rng: random.Random) -> list[dict | bytes]:
    """Return events of four users, some twice, one broken and one poison, in any order."""
    told = [event(number, f"u{number % 4}") for number in range(24)]
    dealt = [*told, *rng.sample(told, 6), b"{", event(40, "u0", item_id="poison")]
    rng.shuffle(dealt)
    return dealt


def undisturbed() -> dict[str, bytes]:
    """Return the sets of the events of `deal`, computed in one go."""
    step = ToyStep()
    state = {user: {} for user in ("u0", "u1", "u2", "u3")}
    for number in range(24):
        at = (BEGIN.timestamp() + number) * 1e6
        state[f"u{number % 4}"][f"u{number % 4}-e{number}"] = [int(at), f"i{number % 7}"]
    table = step.sets({user: json.dumps(one).encode() for user, one in state.items()})
    return {row["user_id"]: row["sequence"] for row in table.to_pylist()}


def work(stream: Stream) -> None:
    for _ in range(200):
        stream.advance()


def die_at(stream: Stream, broker: MemoryBroker, point: int) -> None:
    """Work until the process dies at the given call of the broker, or before or after a commit; none of its threads goes on."""
    left, commit = point, stream.store.commit

    def dies(call: str) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise Killed(call)

    def committing(batch):
        dies("before commit")
        commit(batch)
        dies("after commit")

    broker.before, stream.store.commit = dies, committing
    with pytest.raises(Killed):
        work(stream)
    stream._publisher.shutdown()
    broker.before = lambda call: None


@pytest.mark.parametrize("seed", range(20))
def test_killed_between_any_two_steps_it_ends_with_the_same_sets(make, broker, clock, seed):
    """Every call of broker and store is a point to die at, before it or after it; each run dies three times."""
    rng = random.Random(seed)
    events = deal(rng)
    for start in range(0, len(events), 5):
        send(broker, *events[start : start + 5])
    for _ in range(3):
        die_at(make(), broker, rng.randrange(1, 14))
        clock.now += rng.choice([0.5, ACK_S])
    clock.now += ACK_S
    settle(make(), broker)
    assert {user: decode_set(data)["sequence"] for user, data in final(broker).items()} == undisturbed()
    assert {one["error_class"] for one in letters(broker)} == {"decode:malformed", "ArithmeticError"}
    assert broker.topics[EVENTS] == []


@pytest.mark.parametrize("seed", range(30))
def test_one_sequence_is_one_set_though_what_comes_again_is_in_another_order(make, broker, clock, seed):
    """Windows of as many other events with the same newest one would have one sequence and two sets."""
    rng = random.Random(seed)
    broker.deal = lambda ready: rng.sample(ready, min(len(ready), rng.randrange(2, 6)))
    send(broker, *deal(rng))
    for _ in range(6):
        die_at(make(), broker, rng.randrange(3, 14))
        clock.now += ACK_S
    settle(make(), broker)
    found = {(one["user_id"], one["sequence"]): set() for one in published(broker)}
    for message in broker.published[SETS]:
        one = decode_set(message.data)
        found[one["user_id"], one["sequence"]].add(message.data)
    assert max(map(len, found.values())) == 1
    assert {user: decode_set(data)["sequence"] for user, data in final(broker).items()} == undisturbed()


def test_poison_is_found_and_parked_and_nothing_else_is_lost(make, broker):
    stream = make()
    send(broker, *[event(number, f"u{number}") for number in range(30)], event(31, "u3", item_id="poison"))
    stream.tick()
    (found,) = letters(broker)
    assert (found["stage"], found["error_class"], found["attempts"]) == ("merge", "ArithmeticError", 3)
    assert found["detail"] == "the item is poison"
    assert outcomes(stream) == {"applied": 30, PARKED: 1}
    assert len(final(broker)) == 30
    assert stream.step.merges < 20


def test_a_year_that_no_calendar_has_is_a_dead_letter_and_ends_nothing(make, broker, clock):
    stream = make()
    odd = {"event_ts": "0000-01-01T00:00:00Z", "ingest_ts": "+12000-01-01T00:00:00Z"}
    send(broker, event(1), event(2, event_type="teleport", **odd), event(3, "u2", **odd))
    tombstone = {"entity": "planet", "id": "u1", "reason": "erasure", "effective_ts": "0000-01-01T00:00:00Z"}
    broker.publish(CONTROL, [Message(json.dumps(tombstone).encode(), {})])
    settle(stream, broker)
    assert sorted(one["error_class"] for one in letters(broker)) == [
        "effective_ts:type",
        "event_ts:type",
        "event_ts:type",
    ]
    assert outcomes(stream) == {"applied": 1, REJECTED: 2}
    assert broker.topics[EVENTS] == broker.topics[CONTROL] == []


def test_what_decoding_fails_on_is_parked_on_either_topic(make, broker, monkeypatch):
    def failing(lines, contract):
        if b"poison" in lines:
            raise ArithmeticError("the bytes are poison")
        return decode_lines(lines, contract)

    monkeypatch.setattr(messages, "decode_lines", failing)
    stream = make()
    send(broker, *[event(number, f"u{number}") for number in range(6)], b"poison", b"{")
    broker.publish(CONTROL, [Message(b"poison", {})])
    settle(stream, broker)
    found = sorted((one["stage"], one["error_class"], one["attempts"]) for one in letters(broker))
    assert found == [("decode", "ArithmeticError", 3)] * 2 + [("decode", "decode:malformed", 1)]
    assert outcomes(stream) == {"applied": 6, PARKED: 1, REJECTED: 1}
    assert broker.topics[EVENTS] == broker.topics[CONTROL] == []


def test_an_event_of_a_year_that_no_calendar_has_is_told_of_when_it_is_displaced(make, broker):
    """States may hold such events that were taken before they were refused."""

    class Displacing(ToyStep):
        def merge(self, states, events):
            lost = events.select("event_id", "user_id", reason=pl.lit("conflict"), event_ts=pl.lit(YEAR_0).cast(US))
            lost = lost.with_columns(pl.lit(None, pl.Int64).alias(POSITION))
            return dataclasses.replace(super().merge(states, events), dead=lost)

    US, YEAR_0 = pl.Datetime("us", "UTC"), -62_167_219_200_000_000
    stream = make(Displacing())
    send(broker, event(1))
    settle(stream, broker)
    (found,) = letters(broker)
    told = json.loads(base64.b64decode(found["payload"]))
    assert told == {"event_id": "u1-e1", "user_id": "u1", "event_ts": YEAR_0}


def test_a_set_that_cannot_be_made_is_given_up_and_the_others_are_published(make, broker):
    stream = make()
    send(broker, event(1), event(1, "broken"), event(1, "u2"))
    stream.tick()
    assert sorted(final(broker)) == ["u1", "u2"]
    (found,) = letters(broker)
    assert (found["stage"], found["error_class"], found["payload"]) == ("sets", "LookupError", None)
    assert stream.store.owed() == []


def test_a_set_that_breaks_its_contract_is_not_published(make, broker):
    class Wrong(ToyStep):
        def _set(self, user, state):
            return super()._set(user, state) | ({"fallback_level": 9} if user == "u2" else {})

    stream = make(Wrong())
    send(broker, event(1), event(1, "u2"))
    stream.tick()
    assert sorted(final(broker)) == ["u1"]
    assert [one["error_class"] for one in letters(broker)] == ["fallback_level:between"]


def test_the_first_change_is_published_at_once_and_later_ones_together(make, broker, clock):
    stream = make()
    send(broker, event(1))
    stream.tick()
    for number in range(2, 6):
        send(broker, event(number))
        stream.tick()
    assert len(published(broker)) == 1
    assert stream.store.owed() == ["u1"]
    assert broker.topics[EVENTS] == []
    clock.now += PAUSE_S
    stream.tick()
    assert [one["sequence"] % 1000 for one in published(broker)] == [1, 5]
    assert stream.store.owed() == []


def test_what_is_owed_is_published_after_a_restart(make, broker):
    stream = make()
    send(broker, event(1))
    stream.tick()
    send(broker, event(2))
    stream.tick()
    assert len(published(broker)) == 1
    make().tick()
    assert [one["sequence"] % 1000 for one in published(broker)] == [1, 2]


def test_told_to_stop_it_publishes_what_is_owed(make, broker, clock):
    stream = make()
    send(broker, event(1))
    stream.tick()
    send(broker, event(2))
    stream.tick()
    clock.stopped = True
    stream.run()
    assert published(broker)[-1]["sequence"] % 1000 == 2
    assert stream.store.owed() == []


def test_it_waits_for_a_broker_that_is_down_says_so_once_and_goes_on(make, broker, clock, said):
    stream = make()
    send(broker, event(1))
    broker.down_until = clock.now + 20
    stream.tick()
    said = [line for line in said if "broker_down" not in line]  # alerts are tested by themselves
    assert said == ["the broker cannot be reached, trying again: connection refused", "the broker is back"]
    assert len(published(broker)) == 1
    assert stream.metrics.total("outages") == 1


def test_it_leaves_while_the_broker_is_down(make, broker, clock, said):
    stream = make()
    broker.down_until = clock.now + 1e9
    clock.stopped = True
    with pytest.raises(BrokerDown):
        stream.tick()
    clock.stopped = False
    clock.wait = lambda seconds: True
    stream.run()
    assert said[-1].startswith("left while the broker was down")


def test_it_ends_its_work_where_the_broker_is_back_when_it_is_told_to_stop(make, broker, clock, said):
    stream = make()
    send(broker, event(1))
    broker.down_until = clock.now + 0.1  # less than it waits before it tries again

    def wait(seconds: float) -> bool:
        clock.now += seconds
        clock.stopped = True
        return True

    clock.wait = wait
    stream.run()
    assert said == ["the broker cannot be reached, trying again: connection refused", "the broker is back"]
    assert [one["sequence"] % 1000 for one in published(broker)] == [1]


def test_states_without_an_event_for_48_hours_are_forgotten(make, broker, clock):
    stream = make()
    send(broker, event(1))
    stream.tick()
    clock.now += TTL_S
    stream.tick()
    assert len(stream.store) == 1  # time alone forgets nobody: events may stand still with it
    send(broker, event(TTL_S + 120, "u2"))
    stream.tick()
    clock.now += 61
    stream.tick()
    assert stream.store.states(["u1"]) == {"u1": None}
    assert len(stream.store) == 1


def test_what_comes_late_beside_newer_events_adds_up(make, broker, clock):
    """A replay of some days ago: each of its events is days behind the newest of all, and there are more to come."""
    stream = make()
    send(broker, event(1, "u2"))
    for number in range(3):
        send(broker, event(number - 2 * TTL_S))
        settle(stream, broker)
        clock.now += 61
    (known,) = (json.loads(state) for state in stream.store.states(["u1"]).values())
    assert len(known) == 3


def test_freshness_runs_from_the_oldest_message_that_a_set_answers(make, broker, clock):
    stream = make()
    send(broker, event(1))
    clock.now += 0.5
    stream.tick()
    assert stream.metrics.freshness()[0.5] == pytest.approx(0.5)
    send(broker, event(2))
    stream.tick()
    clock.now += PAUSE_S
    stream.tick()
    assert stream.metrics.freshness()[0.99] == pytest.approx(PAUSE_S, abs=0.1)
    text = stream.metrics.render()
    assert re.search(r"^segue_stream_freshness_seconds_count 2$", text, re.MULTILINE)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no thread on a core")
def test_a_batch_is_merged_and_its_sets_are_made_on_one_core(make, broker, monkeypatch):
    class OnCores(ToyStep):
        def merge(self, states, events):
            cores.append(os.sched_getaffinity(0))
            return super().merge(states, events)

        def sets(self, states):
            cores.append(os.sched_getaffinity(0))
            return super().sets(states)

    cores = []
    monkeypatch.setattr(one_core, "pool", lambda: (threading.get_native_id(),))
    before, stream = os.sched_getaffinity(0), make(OnCores())
    send(broker, event(1))
    settle(stream, broker)
    assert [len(some) for some in cores] == [1, 1]
    assert os.sched_getaffinity(0) == before
