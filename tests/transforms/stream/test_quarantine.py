"""What comes for long windows waits and is merged together; nothing waits for ever, and nobody else does."""

import collections
import json
import math
import random

import pytest

from transforms.io.broker import Received
from transforms.stream.quarantine import AT_ONCE, HOLD_S, LIGHT, MOST_HELD, Quarantine, hold_s
from transforms.stream.session import MOST


def came(user: str | None, number: int = 0) -> Received:
    data = b"{" if user is None else json.dumps({"user_id": user, "event_id": f"{user}-{number}"}).encode()
    return Received(data, {}, f"{user}-{number}", 0.0, f"{user}-{number}")


def test_a_window_is_left_alone_for_longer_the_longer_it_is_and_a_listeners_never():
    assert hold_s(MOST) == HOLD_S
    assert hold_s(MOST // 2) == HOLD_S / 4
    assert hold_s(int(MOST * LIGHT)) == hold_s(1) == 0.0


def test_what_comes_soon_for_a_long_window_waits_and_comes_out_together():
    quarantine = Quarantine()
    first, unreadable, other = came("bot"), came(None), came("u", 1)
    assert quarantine.admit([first, unreadable, other], 0.0) == [first, unreadable, other]
    quarantine.note({"bot": MOST, "u": 30}, 0.0)
    later = [came("bot", n) for n in range(1, 4)]
    assert quarantine.admit([later[0], other, unreadable], 1.0) == [other, unreadable]
    assert quarantine.admit(later[1:], HOLD_S - 0.1) == []
    assert len(quarantine) == 3
    assert quarantine.admit([], HOLD_S) == later
    assert len(quarantine) == 0
    assert quarantine.admit([first], HOLD_S) == [first], "nobody said that the window is still long"


def test_who_was_left_alone_for_long_enough_is_worked_on_at_once():
    quarantine = Quarantine()
    quarantine.note({"bot": MOST}, 0.0)
    assert quarantine.admit([came("bot")], HOLD_S) == [came("bot")]


@pytest.mark.parametrize("now_s", [-1_000.0, 1_000.0])
def test_a_clock_that_is_set_holds_nobody_up(now_s):
    quarantine = Quarantine()
    quarantine.note({"bot": MOST, "idle": MOST}, 0.0)
    assert quarantine.admit([came("bot")], 1.0) == []
    assert quarantine.admit([came("idle")], now_s) == [came("idle"), came("bot")]


def test_those_whose_time_is_over_take_turns_the_longest_waiting_first():
    quarantine, users = Quarantine(), [f"b{n:03}" for n in range(400)]
    for n, user in enumerate(users):
        quarantine.note({user: MOST}, n / 1000)
    assert quarantine.admit([came(user) for user in users], 1.0) == []
    turns = []
    while len(quarantine):
        turns.append([json.loads(one.data)["user_id"] for one in quarantine.admit([], HOLD_S + 1)])
    assert [user for turn in turns for user in turn] == users
    assert len(turns[0]) == len(users) / AT_ONCE
    assert len(turns[-2]) == AT_ONCE
    assert len(turns) < 4 * math.log(len(users)), "a lease does not run out"


def test_no_more_wait_than_memory_allows_and_who_sends_most_goes_first():
    quarantine = Quarantine()
    quarantine.note({"much": MOST, "more": MOST, "little": MOST}, 0.0)
    assert quarantine.admit([came("much", n) for n in range(MOST_HELD // 2)], 1.0) == []
    more = [came("more", n) for n in range(MOST_HELD // 2 + 1)]
    assert quarantine.admit([came("little")], 1.0) == []
    assert quarantine.admit(more, 1.0) == more
    assert len(quarantine) == MOST_HELD // 2 + 1


def test_everything_comes_out_once_whatever_happens():
    dice, quarantine, sent, got = random.Random(1), Quarantine(), [], []
    for step in range(300):
        batch = [came(f"u{dice.randrange(12)}", step * 10 + n) for n in range(dice.randrange(10))]
        sent += batch
        admitted = quarantine.admit(batch, step / 3)
        got += admitted
        users = {json.loads(one.data)["user_id"] for one in admitted}
        quarantine.note({user: dice.choice([10, 900, MOST]) for user in sorted(users)}, step / 3)
    got += quarantine.rest()
    assert collections.Counter(one.ack_id for one in got) == collections.Counter(one.ack_id for one in sent)
    assert quarantine.rest() == []
