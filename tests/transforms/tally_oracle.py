"""Slow, obvious counting in plain Python, and random small events to count."""

import collections
import datetime
import itertools
import math
import random

import polars as pl
from toy_road import table

START = datetime.datetime(2026, 1, 29, 22, tzinfo=datetime.UTC)
DAY = datetime.date(2026, 1, 31)


def random_events(seed: int, count: int = 300, users: int = 6, items: int = 12) -> pl.DataFrame:
    """Return events of a few users over three days; sessions interleave and cross midnight, items repeat."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        at = START + datetime.timedelta(minutes=rng.randrange(50 * 60))
        user = f"u{rng.randrange(users)}"
        rows.append(
            {
                "event_id": f"e{number}", "event_ts": at, "event_date": at.date(), "user_id": user,
                "session_id": f"{user}-{rng.randrange(3)}" if rng.random() < 0.8 else "shared",
                "item_id": f"i{int(items * rng.random() ** 2):02d}", "item_type": rng.choice(["track", "episode"]),
                "label": rng.choice([-0.5, 0.0, 0.25, 0.5, 0.5, 1.0, 1.0]),
                "event_type": rng.choice(["play", "play", "impression"]), "device_type": rng.choice(["phone", "car", "fridge", None]),
                "utc_offset_min": rng.choice([60, -300, None]),
                "is_organic": rng.choice([True, True, False, None]),
                "campaign_id": rng.choice([None] * 9 + ["c"]), "market": rng.choice(["SE", "NO", None]),
                "private_session": rng.choice([False, None, None, True]),
                "consent_personalization": rng.choice([True, None, None, False]),
            }
        )  # fmt: skip
    return table("event", rows).with_columns(pl.col("label").cast(pl.Float32))


def shuffled(frame: pl.DataFrame, seed: int = 1) -> pl.DataFrame:
    return frame.sample(fraction=1.0, shuffle=True, seed=seed)


def in_order(events: pl.DataFrame, *, personal: bool) -> list[dict]:
    rows = sorted(events.to_dicts(), key=lambda e: (e["user_id"], e["event_ts"], e["event_id"]))
    return [e for e in rows if not personal or (e["consent_personalization"] is not False and not e["private_session"])]


def positives(events: pl.DataFrame, *, personal: bool) -> list[dict]:
    """Return liked events with their weight: promoted ones and the fourth repeat in a session of a day are left out."""
    seen: collections.Counter = collections.Counter()
    kept = []
    for event in in_order(events, personal=personal):
        if event["label"] <= 0 or event["campaign_id"] is not None:
            continue
        again = (event["event_date"], event["user_id"], event["session_id"], event["item_id"])
        seen[again] += 1
        if seen[again] <= 3:
            weight = round(event["label"] * 1024)
            kept.append(event | {"weight": weight // 2 if event["is_organic"] is False else weight})
    return kept


def by_visit(events: list[dict]) -> list[list[dict]]:
    groups: dict = {}
    for event in events:
        groups.setdefault((event["event_date"], event["user_id"]), []).append(event)
    return list(groups.values())


def popularity(events: pl.DataFrame, tiers: dict[str, str]) -> dict[tuple, tuple[int, int]]:
    counted: dict = collections.defaultdict(lambda: (0, 0))
    for e in positives(events, personal=False):
        key = (e["event_date"], e["item_id"], e["item_type"], e["market"] or "*", tiers.get(e["user_id"]) or "free")
        weight, plays = counted[key]
        counted[key] = (weight + e["weight"], plays + 1)
    return dict(counted)


def pairs(events: pl.DataFrame) -> dict[tuple, tuple[int, int]]:
    counted: dict = collections.defaultdict(lambda: (0, 0))
    for visit in by_visit(positives(events, personal=True)):
        seen: dict = {}
        for e in visit:
            first = seen.setdefault(e["item_id"], {"session": e["session_id"], "weight": 0, "total": 0})
            first["weight"], first["total"] = max(first["weight"], e["weight"]), first["total"] + e["weight"]
        day = visit[0]["event_date"]
        for item, one in seen.items():
            add(counted, (day, item, item), one["weight"], one["total"] - one["weight"])
        for (i, a), (j, b) in itertools.combinations(enumerate(seen), 2):
            if j - i <= 10:
                smaller = min(seen[a]["weight"], seen[b]["weight"])
                weight = smaller if seen[a]["session"] == seen[b]["session"] else smaller // 2
                add(counted, (day, min(a, b), max(a, b)), weight, 0)
    return dict(counted)


def add(counted: dict, key: tuple, weight: int, returns: int) -> None:
    counted[key] = (counted[key][0] + weight, counted[key][1] + returns)


def transitions(events: pl.DataFrame) -> dict[tuple, int]:
    counted: collections.Counter = collections.Counter()
    for visit in by_visit(positives(events, personal=True)):
        for step in (1, 2):
            for one, other in zip(visit, visit[step:]):
                if one["session_id"] == other["session_id"] and one["item_id"] != other["item_id"]:
                    key = (one["event_date"], one["item_id"], other["item_id"])
                    counted[key] += min(one["weight"], other["weight"]) // step
    return dict(counted)


def factor(day: datetime.date, half_life: float) -> int:
    return round(2**20 * 0.5 ** ((DAY - day).days / half_life))


def decayed(counts: dict[tuple, int], half_life: float) -> dict[tuple, int]:
    """Add daily counts up, keyed by what follows the day in their key; nothing is left out that is above 0."""
    total: collections.Counter = collections.Counter()
    for (day, *key), weight in counts.items():
        total[tuple(key)] += weight * factor(day, half_life)
    return {key: weight // 2**20 for key, weight in total.items() if weight // 2**20 > 0}


def ranked(scores: dict[tuple, float], limit: int) -> dict[tuple, int]:
    """Rank keys `(group, item)` by falling score, ties by item."""
    groups: dict = {}
    for *group, item in scores:
        groups.setdefault(tuple(group), []).append(item)
    return {
        (*group, item): rank
        for group, items in groups.items()
        for rank, item in enumerate(sorted(items, key=lambda i: (-scores[(*group, i)], i))[:limit])
    }


def co_listens(events: pl.DataFrame, half_life: float) -> dict[tuple, tuple[int, float, float]]:
    """Return weight, score and return rate by seed and neighbour."""
    counts = pairs(events)
    weights = decayed({key: weight for key, (weight, _) in counts.items()}, half_life)
    returns = decayed({key: back for key, (_, back) in counts.items()}, half_life)
    own = {a: weight / 1024 for (a, b), weight in weights.items() if a == b}
    rate = {a: returns.get((a, a), 0) / (weights[a, a] + returns.get((a, a), 0) + 4096) for a in own}
    found = {}
    for (a, b), weight in weights.items():
        for seed, other in ((a, b), (b, a)) if a != b else ():
            w = weight / 1024
            found[seed, other] = (weight, w / math.sqrt(own[seed]) / own[other] ** 0.5 * w / (w + 2), rate[other])
    return found


def followers(events: pl.DataFrame, items: dict[str, dict], half_life: float) -> dict[tuple, int]:
    """Return decayed weights by level, context and next item."""
    total: collections.Counter = collections.Counter()
    for (item, following), weight in decayed(transitions(events), half_life).items():
        for level, context in {"item": item, **items.get(item, {})}.items():
            if context is not None:
                total[level, context, following] += weight
    return dict(total)
