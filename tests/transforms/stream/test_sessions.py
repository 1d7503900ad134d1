import datetime
import random

import polars as pl
import pytest

from schemas.inputs import EVENT
from transforms.stream import session
from transforms.stream.session import Window
from transforms.stream.sessions import merge_events

NOW = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
SCHEMA = pl.from_arrow(EVENT.schema.empty_table()).schema


def event(minute: float, user: str = "u", late_s: float = 1, **fields) -> dict:
    at = NOW + datetime.timedelta(minutes=minute)
    told = {
        "event_id": f"{user}{minute:g}", "schema_version": 1, "event_type": "play", "event_ts": at,
        "ingest_ts": at + datetime.timedelta(seconds=late_s), "user_id": user, "item_id": f"i{minute:g}",
        "item_type": "track", "ms_played": 60_000, "label": 0.5, "market": "SE",
    }  # fmt: skip
    return told | fields


def frame(*events: dict) -> pl.DataFrame:
    return pl.DataFrame([{name: one.get(name) for name in SCHEMA} for one in events], schema=SCHEMA)


def outcome(**fields) -> str:
    merged = merge_events({"u": None}, frame(event(0, **fields)))
    (name,) = merged.counts
    assert bool(merged.states) == (name == session.APPLIED)
    assert merged.dirty == list(merged.states)
    return name


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, session.APPLIED),
        ({"private_session": True}, session.PRIVATE),
        ({"consent_personalization": False}, session.PRIVATE),
        ({"event_type": "impression"}, session.SILENT),
        ({"late_s": 600}, session.APPLIED),
        ({"late_s": 601}, session.LATE),
        ({"late_s": 30 * 86_400}, session.LATE),
        ({"late_s": 30 * 86_400 + 1}, session.TOO_LATE),
        ({"late_s": -300}, session.APPLIED),
        ({"late_s": -301}, session.FUTURE),
        ({"late_s": -301, "private_session": True}, session.PRIVATE),
    ],
)
def test_what_becomes_of_an_event_is_its_own_doing(fields, expected):
    assert outcome(**fields) == expected


def test_events_add_up_and_the_dead_say_why():
    first = frame(event(0), event(1), event(1), event(2, late_s=-999), event(3, late_s=40 * 86_400), event(4, user="w"))
    merged = merge_events({"u": None, "w": None}, first)
    assert merged.counts == {session.APPLIED: 3, session.DUPLICATE: 1, session.FUTURE: 1, session.TOO_LATE: 1}
    assert merged.dead.select("event_id", "reason").rows() == [("u2", session.FUTURE), ("u3", session.TOO_LATE)]
    assert merged.dead.columns == [*first.columns, "reason"]
    assert merged.dirty == ["u", "w"]


def test_an_event_received_twice_is_one_and_with_another_content_a_conflict():
    merged = merge_events({"u": None}, frame(event(0)))
    again = merge_events(merged.states, frame(event(0, late_s=9)))
    assert (again.counts, again.states, again.dead.height) == ({session.DUPLICATE: 1}, {}, 0)
    changed = event(0, ms_played=7)
    other = merge_events(merged.states, frame(changed))
    both_at_once = merge_events({"u": None}, frame(changed, event(0)))
    turned = merge_events({"u": None}, frame(event(0), changed))
    assert other.counts == {session.CONFLICT: 1}
    assert other.states == both_at_once.states == turned.states
    losers = [
        one.dead.select("event_id", "item_id", "ms_played", "reason").rows() for one in (other, both_at_once, turned)
    ]
    assert losers[0] == losers[1] == losers[2]
    assert losers[0][0][3] == session.CONFLICT


def test_any_order_and_any_batches_leave_the_same_states():
    dice = random.Random(5)
    events = [
        event(
            dice.randrange(2_000), user=dice.choice("uvw"), item_id=dice.choice("ab"), late_s=dice.choice([1, 1, 700])
        )
        for _ in range(120)
    ]
    expected = merge_events(dict.fromkeys("uvw"), frame(*events)).states
    for seed in range(5):
        order = random.Random(seed).choices(events, k=60) + random.Random(seed).sample(events, len(events))
        states: dict[str, bytes | None] = dict.fromkeys("uvw")
        for start in range(0, len(order), 17):
            states |= merge_events(states, frame(*order[start : start + 17])).states
        assert states == expected
    assert all(Window.from_bytes(state).heard for state in expected.values())


def test_no_events_change_nothing():
    merged = merge_events({}, frame())
    assert (merged.states, merged.counts, merged.dead.height, merged.dirty) == ({}, {}, 0, [])
