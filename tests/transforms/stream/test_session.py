import itertools
import random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_heard import NOON, heard, skip

from schemas.candidates import sequence_of
from transforms.stream import session
from transforms.stream.session import Window, WindowError, at_a_loss, in_artist_context, merge, playing, shows_video
from transforms.stream.session import session as session_of

DAY = 24 * 60
EVENTS = st.builds(
    heard,
    minute=st.one_of(st.integers(0, 30), st.integers(DAY - 2, DAY + 30)),
    event_id=st.sampled_from("abcdefgh"),
    digest=st.integers(1, 2),
)


def grown(batches) -> Window:
    window = Window()
    for batch in batches:
        window, _ = merge(window, batch)
    return window


def parted(events, cuts) -> list:
    bounds = [0, *sorted(cut % (len(events) + 1) for cut in cuts), len(events)]
    return [events[start:end] for start, end in itertools.pairwise(bounds)]


@settings(max_examples=1_000, deadline=None)
@given(st.lists(EVENTS, max_size=12), st.lists(st.integers(0, 12), max_size=4), st.randoms(use_true_random=False))
def test_no_order_repetition_or_batching_of_events_changes_a_window(events, cuts, dice):
    again = events + dice.choices(events, k=dice.randrange(4)) if events else []
    dice.shuffle(again)
    assert grown(parted(again, cuts)).to_bytes() == Window.of(events).to_bytes()


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=12), st.lists(st.integers(0, 12), max_size=4))
def test_every_event_is_told_of_once_and_the_sequence_never_falls(events, cuts):
    window, last, told = Window(), 0, []
    for batch in parted(events, cuts):
        window, said = merge(window, batch)
        assert window.sequence > last or all(one.outcome in (session.DUPLICATE, session.OUTLIVED) for one in said)
        last = window.sequence
        told += said
    assert len(told) == len(events)
    assert sum(one.outcome == session.DUPLICATE for one in told) <= len(events) - len({one[:3] for one in events})


def test_who_exceeds_what_anybody_can_hear_keeps_the_newest_whatever_came_first(monkeypatch):
    monkeypatch.setattr(session, "MOST", 5)
    events = [heard(n) for n in range(9)]
    expected = tuple(events[-5:])
    for seed in range(20):
        order = random.Random(seed).sample(events, len(events))
        window = grown([one] for one in order)
        assert window.heard == expected
        assert window.overrun
    assert not Window.of(events[:4]).overrun


def test_what_lies_more_than_a_day_behind_is_forgotten_and_not_let_in_again():
    window, _ = merge(Window(), [heard(0), heard(1), heard(DAY)])
    assert [one.event_id for one in window.heard] == ["e1", f"e{DAY}"]
    after, (told,) = merge(window, [heard(0)])
    assert (after, told.outcome) == (window, session.OUTLIVED)


def test_of_two_contents_of_one_id_the_greater_counts_and_the_other_is_told_of():
    one, other = heard(1, "e", 1, item_id="a"), heard(1, "e", 2, item_id="b")
    for first, second in ((one, other), (other, one)):
        window, (told,) = merge(Window.of([first]), [second])
        assert (told.outcome, told.loser) == (session.CONFLICT, one)
        assert [event.item_id for event in window.events] == ["b"]
        assert window.sequence == sequence_of(other.event_ts, 2), "so that a set of both replaces a set of one"


def test_a_window_reads_what_it_wrote():
    window = Window.of(
        [
            heard(1, digest=2**64 - 1),
            skip(2, session_id="s", context_uri="album:1", reason_start="click", device_type="tv"),
        ]
    )
    assert Window.from_bytes(window.to_bytes()) == window


def test_a_window_of_the_format_before_is_read():
    told = heard(1, context_uri="album:1")
    assert Window.from_bytes(orjson.dumps([1, tuple(told)[:12]])) == Window.of([told])


@pytest.mark.parametrize("stored", [b"", b"{", b"[3]", b"[1,[3]]", b'[1,"x"]', b"null"])
def test_state_that_cannot_be_read_is_refused(stored):
    with pytest.raises(WindowError, match=r"expected a window of format 2.*replay the last day"):
        Window.from_bytes(stored)


def test_sequences_are_in_order_of_time_and_then_of_number():
    pairs = [(1, 2_000), (2, 1), (2, 2), (NOON, 1), (NOON + 1, 0)]
    numbers = [sequence_of(*pair) for pair in pairs]
    assert numbers == sorted(set(numbers))
    assert sequence_of(NOON * 2, 9_999) < 2**63


@pytest.mark.parametrize(
    ("events", "kept"),
    [
        pytest.param([heard(0), heard(30), heard(60)], 3, id="half an hour of silence is none"),
        pytest.param([heard(0), heard(31), heard(60)], 2, id="silence"),
        pytest.param([heard(0, session_id="a"), heard(1, session_id="b"), heard(2)], 2, id="another session id"),
        pytest.param([heard(0, session_id="a"), heard(1), heard(2, session_id="a")], 3, id="no session id"),
        pytest.param([heard(0), heard(1, event_type="search", label=0.0), heard(2)], 2, id="a search"),
        pytest.param(
            [heard(0, context_uri="p:1"), heard(1, context_uri="p:2", reason_start="click"), heard(2)], 2,
            id="a click elsewhere",
        ),
        pytest.param([heard(0, context_uri="p:1"), heard(1, context_uri="p:2")], 2, id="the context goes on by itself"),
        pytest.param([heard(n / 10) for n in range(70)], 50, id="the last fifty"),
        pytest.param([], 0, id="nothing"),
    ],
)  # fmt: skip
def test_a_session_is_what_goes_on(events, kept):
    assert session_of(tuple(events)) == tuple(events[len(events) - kept :])


def test_what_plays_is_the_last_that_was_not_turned_away():
    assert playing((heard(0), skip(1))) == heard(0)
    assert playing((skip(0), skip(1))) == skip(1)
    assert playing((heard(0), heard(1, event_type="search", label=0.0))) == heard(0)
    assert playing(()) is None


def test_three_fast_skips_in_a_row_say_that_the_set_is_off():
    assert at_a_loss((heard(0), skip(1), skip(2), skip(3)))
    assert not at_a_loss((skip(1), skip(2)))
    assert not at_a_loss((skip(1), heard(2), skip(3), skip(4)))
    assert not at_a_loss((skip(1), skip(2), skip(3, ms=11_000)))


ARTIST, ALBUM, RADIO = (
    "segue:artist:a1",
    "https://play.example/album/7",
    {"context_type": "radio", "context_uri": "segue:artist:a1"},
)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([heard(0, context_type="album")], True, id="an album"),
        pytest.param([heard(0, context_type="playlist")], False, id="a playlist"),
        pytest.param([heard(0, context_uri=ARTIST)], True, id="the address of an artist"),
        pytest.param([heard(0, context_uri=ALBUM)], True, id="the address of an album"),
        pytest.param([heard(0, context_uri="segue:playlist:artist")], False, id="a playlist of that name"),
        pytest.param([heard(0, **RADIO)], False, id="the radio of an artist"),
        pytest.param([heard(0, context_uri=ARTIST), heard(1, event_type="like")], True, id="a like in between"),
        pytest.param([heard(0, context_uri=ARTIST), heard(1, context_uri="x")], False, id="from there elsewhere"),
        pytest.param([], False, id="nothing"),
    ],
)
def test_whoever_is_with_an_artist_says_so(events, expected):
    assert in_artist_context(tuple(events)) is expected


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([heard(0, device_type="tv")], True, id="a tv"),
        pytest.param([heard(0, device_type="speaker")], False, id="a speaker"),
        pytest.param([heard(0)], False, id="nobody says"),
        pytest.param([heard(0, item_type="video")], True, id="a video plays"),
        pytest.param(
            [heard(0, device_type="phone"), heard(1, device_type="car")], False, id="from the phone to the car"
        ),
        pytest.param(
            [heard(0, device_type="car"), heard(1, device_type="phone"), heard(2)], True, id="the newest that says"
        ),
        pytest.param([heard(0, item_type="video", device_type="car")], False, id="the sound of a video in the car"),
    ],
)
def test_a_client_shows_video_where_the_newest_event_says_so(events, expected):
    assert shows_video(tuple(events)) is expected
