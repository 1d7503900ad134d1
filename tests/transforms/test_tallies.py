import datetime
from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pytest
from schemas.inputs import EVENT
from schemas.tallies import WEIGHT_UNIT
from transforms import tallies
from transforms.histories import histories

DAY = datetime.date(2026, 1, 10)


def events(count: int, seed: int, days: int = 1) -> pl.DataFrame:
    """Return random labelled events of a few users over the last `days` days."""
    rng = np.random.default_rng(seed)
    day = rng.integers(0, days, count)
    second = rng.permutation(86_400)[:count]
    start = datetime.datetime(2026, 1, 10, tzinfo=datetime.UTC)
    rows = [
        {
            "event_id": f"e{seed}-{n}",
            "event_ts": start - datetime.timedelta(days=int(day[n])) + datetime.timedelta(seconds=int(second[n])),
            "event_date": DAY - datetime.timedelta(days=int(day[n])),
            "user_id": f"u{rng.integers(3)}",
            "session_id": f"s{rng.integers(2)}",
            "item_id": f"i{rng.integers(6)}",
            "item_type": "track",
            "label": float(rng.choice([1.0, 0.5, 0.0, -0.5])),
            "is_organic": bool(rng.integers(2)),
            "campaign_id": None if rng.integers(5) else "c",
            "market": str(rng.choice(["SE", "US"])),
            "private_session": not rng.integers(6),
            "consent_personalization": bool(rng.integers(6)),
        }
        for n in range(count)
    ]
    empty = pl.DataFrame(pl.from_arrow(EVENT.schema.empty_table()))
    types = {name: empty.schema[name] for name in rows[0]}
    return pl.DataFrame(rows, schema=types)


def liked(frame: pl.DataFrame) -> dict[tuple, list[tuple]]:
    """Return, per user and day, `(session, item, weight)` in time order, with the cap on repeats, the slow way."""
    repeats: Counter = Counter()
    found = defaultdict(list)
    for row in frame.sort("user_id", "event_ts", "event_id").iter_rows(named=True):
        if row["label"] <= 0 or row["campaign_id"] or row["private_session"] or not row["consent_personalization"]:
            continue
        repeats[row["user_id"], row["session_id"], row["item_id"]] += 1
        if repeats[row["user_id"], row["session_id"], row["item_id"]] > 3:
            continue
        weight = round(row["label"] * WEIGHT_UNIT)
        found[row["user_id"], row["event_date"]].append((row["session_id"], row["item_id"], weight if row["is_organic"] else weight // 2))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_pairs_equal_the_slow_way(seed):
    frame, expected = events(120, seed), Counter()
    for plays in liked(frame).values():
        first: dict[str, list] = {}
        for session, item, weight in plays:
            entry = first.setdefault(item, [session, 0, 0])
            entry[1], entry[2] = max(entry[1], weight), entry[2] + weight
        order = list(first)
        for a, one in enumerate(order):
            expected[one, one] += first[one][1]
            for other in order[a + 1 : a + 1 + tallies.PAIR_WINDOW]:
                weight = min(first[one][1], first[other][1])
                weight = weight if first[one][0] == first[other][0] else weight // 2
                expected[min(one, other), max(one, other)] += weight
    counted = tallies.pairs_by_day(frame).with_columns(pl.col("item_id", "other_item_id").cast(pl.String))
    found = {(a, b): w for a, b, w in counted.select("item_id", "other_item_id", "weight").rows()}
    assert {pair: weight for pair, weight in found.items() if weight} == {p: w for p, w in expected.items() if w}


@pytest.mark.parametrize("seed", range(5))
def test_transitions_equal_the_slow_way(seed):
    frame, expected = events(120, seed), Counter()
    for plays in liked(frame).values():
        for step in (1, 2):
            for one, other in zip(plays, plays[step:], strict=False):
                if one[0] == other[0] and one[1] != other[1]:
                    expected[one[1], other[1]] += min(one[2], other[2]) // step
    counted = tallies.transitions_by_day(frame).with_columns(pl.col("item_id", "next_item_id").cast(pl.String))
    rows = counted.select("item_id", "next_item_id", "weight").rows()
    assert {(a, b): w for a, b, w in rows} == dict(expected)


def test_counts_do_not_depend_on_the_order_of_events():
    frame = events(200, 1)
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=3)
    for count in (tallies.pairs_by_day, tallies.transitions_by_day):
        one, other = (count(f).with_columns(pl.col(pl.Enum).cast(pl.String)) for f in (frame, shuffled))
        assert one.sort(one.columns).equals(other.sort(one.columns))
    assert histories(frame).equals(histories(shuffled))


def test_a_day_counts_half_after_its_half_life():
    partials = pl.DataFrame({"event_date": [DAY, DAY - datetime.timedelta(days=7)], "item_id": ["a", "b"], "weight": [1024, 1024]})
    found = dict(tallies.add_days(partials, ["item_id"], DAY, 7.0).rows())
    assert found == {"a": 1024, "b": 512}


def test_partials_of_days_add_up_in_any_order():
    rng = np.random.default_rng(0)
    dates = [DAY - datetime.timedelta(days=int(d)) for d in rng.integers(0, 30, 200)]
    partials = pl.DataFrame({"event_date": dates, "item_id": [f"i{n}" for n in rng.integers(0, 9, 200)], "weight": rng.integers(1, 5000, 200)})
    whole = tallies.add_days(partials, ["item_id"], DAY, 7.0).sort("item_id")
    again = tallies.add_days(partials.sample(fraction=1.0, shuffle=True, seed=1), ["item_id"], DAY, 7.0).sort("item_id")
    assert whole.equals(again)


def test_histories_keep_the_last_positives_oldest_first():
    frame = events(300, 2, days=4)
    found = {row["user_id"]: row for row in histories(frame).iter_rows(named=True)}
    allowed = frame.filter(~pl.col("private_session") & pl.col("consent_personalization"))
    for user, row in found.items():
        own = allowed.filter(pl.col("user_id") == user).sort("event_ts", "event_id")
        assert row["num_events"] == own.height
        assert [p["event_ts"] for p in row["positives"]] == sorted(p["event_ts"] for p in row["positives"])
        assert all(p["label"] > 0 for p in row["positives"])
        assert [s["item_id"] for s in row["skips"]] == own.filter(pl.col("label") < 0)["item_id"].tail(50).to_list()
        counts = Counter((p["session_id"], p["item_id"]) for p in row["positives"])
        assert max(counts.values()) <= 3
