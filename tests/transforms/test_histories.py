import collections
import datetime

import polars as pl
import pytest
import tally_oracle as oracle
from toy_road import table

from schemas.tallies import HISTORY
from transforms import histories as module
from transforms.histories import histories, without_repeats

MAX_IMPRESSIONS = 5


def expected_histories(events: pl.DataFrame, max_positives: int, max_skips: int) -> list[dict]:
    users: dict = {}
    for event in oracle.in_order(events, personal=True):
        users.setdefault(event["user_id"], []).append(event)
    return [one_history(user, listens, max_positives, max_skips) for user, listens in sorted(users.items())]


def one_history(user: str, listens: list[dict], max_positives: int, max_skips: int) -> dict:
    liked, seen = [], {}
    for event in (e for e in listens if e["label"] > 0):
        key = (event["session_id"], event["item_id"])
        seen[key] = seen.get(key, 0) + 1
        liked += [event] if seen[key] <= 3 else []
    markets = [e["market"] for e in listens if e["market"]]
    return {
        "user_id": user, "market": markets[-1] if markets else None,
        "positives": [listen(e) for e in liked[-max_positives:]],
        "skips": [listen(e) for e in listens if e["label"] < 0][-max_skips:],
        "impressions": [shown(e) for e in listens if e["event_type"] == "impression"][-MAX_IMPRESSIONS:],
        "habits": habits_of(liked), "num_events": len(listens), "num_positives": sum(e["label"] > 0 for e in listens),
        "first_event_ts": listens[0]["event_ts"], "last_event_ts": listens[-1]["event_ts"],
    }  # fmt: skip


def listen(event: dict) -> dict:
    return {name: event[name] for name in ("item_id", "item_type", "event_ts", "label", "session_id")}


def shown(event: dict) -> dict:
    return {"item_id": event["item_id"], "event_ts": event["event_ts"]}


def habits_of(liked: list[dict]) -> list[dict]:
    counts: collections.Counter = collections.Counter()
    for event in liked:
        offset = event["utc_offset_min"]
        local = None if offset is None else event["event_ts"] + datetime.timedelta(minutes=offset)
        device = {"phone": "mobile", "car": "car"}.get(event["device_type"], "other")
        kind = "talk" if event["item_type"] == "episode" else "music"
        counts[None if local is None else local.hour // 6, device, kind] += 1
    ordered = sorted(counts.items(), key=lambda row: (row[0][0] is not None, row[0][0] or 0, row[0][1:]))
    return [{"band": band, "device": device, "kind": kind, "plays": n} for (band, device, kind), n in ordered]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_histories_equal_the_oracle(seed, monkeypatch):
    monkeypatch.setattr(module, "MAX_POSITIVES", 10)
    monkeypatch.setattr(module, "MAX_SKIPS", 4)
    monkeypatch.setattr(module, "MAX_IMPRESSIONS", MAX_IMPRESSIONS)
    events = oracle.random_events(seed)
    expected = expected_histories(events, 10, 4)
    assert max(len(one["positives"]) for one in expected) == 10, "the cut must bind to prove anything"
    assert max(len(one["skips"]) for one in expected) == 4
    assert max(len(one["impressions"]) for one in expected) == MAX_IMPRESSIONS
    found = histories(events)
    assert found.columns == HISTORY.schema.names
    assert found.to_dicts() == expected
    assert histories(oracle.shuffled(events)).equals(found)


def test_a_user_without_likes_or_skips_has_empty_lists_not_nulls():
    at = oracle.START
    silent = {"event_id": "e", "user_id": "u", "item_id": "i", "event_ts": at, "event_date": at.date(), "label": 0.0}
    (one,) = histories(table("event", [silent])).to_dicts()
    assert [one[name] for name in ("positives", "skips", "impressions", "habits")] == [[]] * 4


def test_private_users_have_no_history():
    at = oracle.START
    event = {"event_id": "e", "user_id": "u", "item_id": "i", "event_ts": at, "event_date": at.date(), "label": 1.0}
    hidden = table("event", [event | {"private_session": True}, event | {"consent_personalization": False}])
    assert histories(hidden).is_empty()
    assert histories(hidden).schema == histories(table("event", [event])).schema


def test_the_first_three_rows_of_a_group_stay_in_the_order_given():
    frame = pl.DataFrame({"g": ["a", "b", "a", "a", "b", "a", "a"], "n": range(7)})
    assert without_repeats(frame, ["g"])["n"].to_list() == [0, 1, 2, 3, 4]
