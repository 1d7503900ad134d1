"""What the graph cannot work on costs nobody else anything, and is not tried for ever."""

import json

import apache_beam as beam
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.testing.util import assert_that
from toy_stream import BEGIN, WindowStep, event

from transforms.decode import decode_lines
from transforms.stream import graph, messages
from transforms.stream.graph import LETTERS, DecodeEvents, KeepWindows, SessionSetsOf
from transforms.stream.messages import decode_set
from transforms.stream.session import Heard, Window, merge
from transforms.stream.sessions import tell

GONE_WRONG = b"[0]"
"""A window of a format that no code knows any more."""
NUMBERS = range(12)


class Kept:
    """State or a timer, as a runner keeps it."""

    def __init__(self, value=None) -> None:
        self.value = value

    def read(self):
        return self.value

    def write(self, value) -> None:
        self.value = value

    set = write

    def clear(self) -> None:
        self.value = None


def heard(number: int) -> Heard:
    return Heard(number, f"e{number}", 0, "play", f"i{number}", "track", 0.5, 1, None, None, None, None)


def live() -> WindowStep:
    return WindowStep()


def message(number: int, user: str, **columns) -> PubsubMessage:
    return PubsubMessage(json.dumps(event(number, user, **columns)).encode(), {}, f"{user}-{number}", BEGIN)


def letters_of(messages) -> list[tuple]:
    told = [json.loads(one.data) for one in messages]
    return sorted((one["stage"], one["error_class"], one["attempts"], one["event_id"]) for one in told)


def failing_lines(lines, contract):
    if b"poison" in lines:
        raise ArithmeticError("the bytes are poison")
    return decode_lines(lines, contract)


def failing_tell(events):
    if "untellable" in events["item_id"]:
        raise LookupError("the item is poison")
    return tell(events)


def failing_merge(window, came):
    came = list(came)
    if any(one.item_id == "poison" for one in came):
        raise OverflowError("the item is poison")
    return merge(window, came)


def test_what_decoding_or_merging_fails_on_is_a_dead_letter_and_everything_else_a_set(monkeypatch):
    monkeypatch.setattr(messages, "decode_lines", failing_lines)
    monkeypatch.setattr(graph, "tell", failing_tell)
    monkeypatch.setattr(graph, "merge", failing_merge)
    sent = [message(number, f"u{number % 3}") for number in NUMBERS]
    sent += [message(20, "u1", item_id="poison"), message(21, "u2", item_id="untellable")]
    sent += [PubsubMessage(b"poison", {}, "m", BEGIN), message(22, "u0", event_ts="0000-01-01T00:00:00Z", item_id="")]

    def as_wanted(found) -> None:
        told = [decode_set(one.data) for one in found]
        kept = {one["user_id"]: [candidate["item_id"] for candidate in one["candidates"]] for one in told}
        assert kept == {"u0": ["i2", "i6", "i3", "i0"], "u1": ["i3", "i0", "i4", "i1"], "u2": ["i4", "i1", "i5", "i2"]}

    def as_told(found) -> None:
        assert letters_of(found) == [
            ("decode", "ArithmeticError", 3, None), ("decode", "event_ts:type", 1, "u0-e22"),
            ("merge", "LookupError", 3, "u2-e21"), ("merge", "OverflowError", 3, "u1-e20"),
        ]  # fmt: skip

    with beam.Pipeline("FnApiRunner") as pipeline:
        made = pipeline | beam.Create(sent) | SessionSetsOf(live, "1", bounded=True)
        assert_that(made["sets"], as_wanted, label="sets")
        assert_that(made[LETTERS], as_told, label="letters")


def test_of_a_message_that_merging_fails_on_all_its_bytes_are_kept(monkeypatch):
    monkeypatch.setattr(graph, "tell", failing_tell)
    (made,) = DecodeEvents("1").process([message(1, "u", item_id="untellable")])
    user, letter = made
    assert (user, letter["attempts"], letter["detail"]) == ("u", 3, "the item is poison")
    assert letter["payload"]


def keep(state: Kept, **kept: Kept) -> tuple:
    return state, kept.get("published", Kept()), Kept(), kept.get("pause", Kept()), Kept()


def test_a_window_that_cannot_be_read_parks_what_came_for_it_and_stays():
    state, fresh = Kept(GONE_WRONG), Kept()
    element = ("u", [tuple(heard(1)), tuple(heard(2))])
    found = list(KeepWindows("1", False, lambda: 0.0).process(element, *keep(state)))
    assert letters_of(one.value for one in found) == [
        ("merge", "WindowError", 3, "e1"),
        ("merge", "WindowError", 3, "e2"),
    ]
    assert {one.tag for one in found} == {LETTERS}
    assert json.loads(found[0].value.data)["user_id"] == "u"
    assert state.value == GONE_WRONG
    (due,) = KeepWindows("1", False, lambda: 0.0).process(element, *keep(fresh))
    assert due == ("u", fresh.value)
    assert Window.from_bytes(fresh.value).heard == (heard(1), heard(2))


@pytest.mark.parametrize("windows", [[GONE_WRONG], [GONE_WRONG, Window.of([heard(1)]).to_bytes()]])
def test_a_window_that_cannot_be_read_gives_no_set_and_one_that_can_goes_before_it(windows):
    keeping = KeepWindows("1", True, lambda: 0.0)
    ends = [list(keeping.silent("u", Kept(window), Kept())) for window in windows]
    assert ends == [[("u", window)] for window in windows], "who makes the sets says what is wrong with it"
    waits = [list(keeping.paused("u", Kept(window), Kept())) for window in windows]
    assert waits == ends
    serve = graph.ServeWindows(live, "1")
    serve.setup()
    found = list(serve.process((0, [("u", window) for window in reversed(windows)]), Kept(), Kept()))
    tags = [one.tag if isinstance(one, beam.pvalue.TaggedOutput) else "sets" for one in found]
    assert tags == ([LETTERS] if len(windows) == 1 else ["sets", "tables"])
    if len(windows) == 1:
        assert letters_of([found[0].value]) == [("sets", "WindowError", 3, None)]
