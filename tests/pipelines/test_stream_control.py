"""What the streaming driver is told while it runs: takedowns, erasures, and other bundles."""

import pytest
from toy_driver import erase, letters, outcomes, settle
from toy_stream import ToyStep, event, published, send

from pipelines.stream import ERASED, InBackground
from transforms.io.broker import CONTROL, Message


def test_a_takedown_acts_on_every_set_from_the_next_second_on(make, broker, clock):
    """In the middle of a backlog of several batches, whose sets would all hold the item."""
    stream = make()
    send(broker, *[event(1, f"u{number}") for number in range(2_000)])
    stream.tick()
    erase(broker, "i1", "item", "takedown")
    taken_down_s, late_s = clock.now, list[float]()

    def publishes(call: str) -> None:
        late_s.append(clock.now - taken_down_s)

    broker.before = lambda call: publishes(call) if call == "publish sets" else None
    send(broker, *[event(2, f"u{number}") for number in range(2_000)])
    before = len(published(broker))
    for _ in range(40):
        clock.now += 0.25
        stream.tick()
    found = published(broker)[before:]
    assert len(found) > 2_000
    held = [any(one["item_id"] == "i1" for one in made["candidates"]) for made in found]
    assert True in held, "some were made before"
    first_without = held.index(False)
    assert not any(held[first_without:])
    assert late_s[first_without // 256] <= 1.25


def test_an_erased_user_leaves_no_state_no_set_and_no_dead_letter(make, broker, clock):
    stream = make()
    send(broker, event(1), event(1, "u2"))
    stream.tick()
    send(broker, event(2))
    stream.tick()
    erase(broker, "u1")
    clock.now += 5
    send(broker, event(3), event(4, event_type="teleport"), event(5, "u2"))
    settle(stream, broker)
    assert stream.store.states(["u1"]) == {"u1": None}
    assert [one["sequence"] % 1000 for one in published(broker) if one["user_id"] == "u1"] == [1]
    assert letters(broker) == []
    assert outcomes(stream)[ERASED] == 2
    assert sum(outcomes(stream).values()) == stream.metrics.total("messages")
    assert broker.topics[CONTROL] == []


def test_a_control_message_that_is_no_tombstone_is_a_dead_letter(make, broker, clock):
    stream = make()
    broker.publish(CONTROL, [Message(b'{"entity": "planet"}', {})])
    stream.tick()
    assert [one["error_class"] for one in letters(broker)] == ["entity:one_of"]
    assert broker.topics[CONTROL] == []


def test_who_is_erased_while_their_set_is_on_its_way_leaves_no_state(make, broker, clock):
    stream = make()
    send(broker, event(1))
    stream.advance()
    erase(broker, "u1")
    clock.now += 5
    settle(stream, broker)
    assert stream.store.states(["u1"]) == {"u1": None}


def test_a_new_bundle_is_taken_whole_and_named_in_the_sets(make, broker, clock, said):
    offered = iter([None, ToyStep("b2"), ToyStep("b2")])
    stream = make(reload=lambda: next(offered, None))
    for number in range(3):
        send(broker, event(number, f"u{number}"))
        stream.tick()
        clock.now += 1
    assert [one["bundle_id"] for one in published(broker)] == ["b1", "b2", "b2"]
    assert said == ["bundle b2 is in use, b1 no more", "bundle b2 is in use, with what changed"]


def test_a_bundle_that_cannot_be_loaded_is_refused_once_and_the_old_one_goes_on(make, broker, clock, said):
    def broken():
        raise ValueError("digest x, expected y")

    stream = make(reload=broken)
    for number in range(3):
        send(broker, event(number))
        stream.tick()
        clock.now += 2
    assert {one["bundle_id"] for one in published(broker)} == {"b1"}
    refused = [line for line in said if not line.startswith("WARNING")]
    assert refused == ["a new bundle was refused, b1 goes on: digest x, expected y"]
    assert stream.metrics.by_label("refusals") == {("ValueError",): 1}


def test_loading_in_the_background_hands_over_once_and_raises_what_it_met():
    answers = iter([ToyStep("b2"), ValueError("broken")])

    def load():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    loader = InBackground(load)
    assert loader() is None
    loader._asked.result()
    assert loader().bundle == "b2"
    assert loader() is None
    with pytest.raises(ValueError, match="broken"):
        loader._asked.result()
    with pytest.raises(ValueError, match="broken"):
        loader()
