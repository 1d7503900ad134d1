"""A small world as a producer delivers it, with a value in every column, for the lineage of columns."""

import datetime
import random

import polars as pl
from toy_road import DATE, NOW, days_ago, offer_in

from schemas.contract import Contract
from transforms.ingest import given_contract
from validation.rows import polars_schema


def kind_of(n: int) -> str:
    if n > 11:
        return "chapter" if n < 15 else "audiobook"
    return "episode" if n % 4 == 3 else "track"


def raw_events() -> list[dict]:
    dice = random.Random(7)
    again = {
        "user_id": "u0",
        "session_id": "again",
        "consent_personalization": True,
        "private_session": False,
        "campaign_id": None,
    }
    repeats = [raw_event(n, 0, dice) | again | {"event_ts": days_ago(0.5 - n / 10_000)} for n in range(150, 162)]
    skips = [
        raw_event(n, n % 12, dice) | again | {"user_id": "u1", "event_type": "skip", "ms_played": 9}
        for n in range(168, 174)
    ]
    read = {
        "event_type": "play", "ms_played": 400_000, "item_duration_ms": 410_000, "market": "SE", "is_organic": True,
        "context_type": "album", "reason_start": "click", "session_id": "read",
    }  # fmt: skip
    books = [
        raw_event(180 + n, item, dice) | again | read | {"user_id": f"u{n % 4}", "market": None if n % 4 == 2 else "SE"}
        for n, item in enumerate([12, 12, 15, 16, 12, 13, 16, 15])
    ]
    plays = [raw_event(n, dice.randrange(12), dice) for n in range(150)]
    shown = {"event_type": "impression", "ms_played": None, "item_duration_ms": None, "reason_start": None}
    impressions = [raw_event(190 + n, n // 2, dice) | again | {"user_id": f"u{n % 2}"} | shown for n in range(12)]
    return plays + repeats + skips + books + impressions


def raw_event(n: int, item: int, dice: random.Random) -> dict:
    return {
        "event_id": f"e{n:03d}", "schema_version": 1, "event_type": dice.choice(["play"] * 8 + ["skip", "like"]),
        "event_ts": days_ago(dice.choice([0.2, 1.2, 2.2, 9.2]) - n / 10_000), "ingest_ts": NOW,
        "user_id": f"u{n % 7}", "session_id": dice.choice([None, f"s{n % 14}"]), "item_id": f"i{item:02d}",
        "item_type": kind_of(item), "ms_played": dice.choice([5_000, 35_000, 70_000, 95_000, 200_000]),
        "item_duration_ms": dice.choice([50_000, 100_000, 250_000]), "is_organic": dice.choice([True, True, False]),
        "context_type": dice.choice(["album", "autoplay"]), "reason_start": dice.choice(["click", "autoplay"]),
        "shuffle": dice.random() < 0.5, "offline": dice.random() < 0.3, "private_session": dice.random() < 0.1,
        "market": None if n % 7 == 2 else dice.choice(["SE", "NO", None]), "consent_personalization": dice.random() < 0.9,
        "campaign_id": dice.choice([None] * 9 + ["c1"]), "device_type": ("phone", "car")[n % 2],
        "utc_offset_min": (60, -300)[n // 2 % 2],
    }  # fmt: skip


def raw_items() -> list[dict]:
    dice = random.Random(8)
    offers = [
        None,
        [offer_in("SE")],
        [offer_in("*")],
        [offer_in("SE"), offer_in("NO", ["free", "kids"], until=NOW + datetime.timedelta(days=9))],
    ]
    return [
        {
            "item_id": f"i{n:02d}", "item_type": kind_of(n), "canonical_id": (dice.choice([None, "c1", "c2"]), "c3")[n == 1],
            "title": f"t{n}", "description": "d", "languages": [["en"], ["sv"]][n // 4 % 2],
            "artists": [{"artist_id": f"a{n % 5}", "name": None, "role": None}] if kind_of(n) == "track" else None,
            "album_id": dice.choice([None, "l1"]), "show_id": "b" if kind_of(n) == "chapter" else f"h{n % 2}" if n % 4 == 3 else None,
            "episode_no": n, "series_id": "s" if n > 14 else None,
            "publisher": "p" if n % 3 else None, "genres": [f"g{n % 2}"], "release_ts": days_ago(n - 0.5),
            "availability": offers[n % 4], "explicit": n in (5, 8), "age_rating": 18 if n == 4 else 0,
            "rec_eligible": n != 9,
            "duration_ms": 1000 + n, "updated_at": NOW, "deleted_at": days_ago(1) if n == 10 else None,
        }
        for n in range(17)
    ]  # fmt: skip


def raw_users() -> list[dict]:
    return [
        {
            "user_id": f"u{n}", "market": "SE" if n % 2 else "NO", "tier": ["free", "premium", "kids"][n % 3],
            "explicit_filter": n == 1, "age_band": [None, "13-17", "25-34"][n % 3], "languages": [["en"], ["sv"]][n % 2],
            "follows": [f"a{n % 4}", "h0"], "blocked_artists": ["a0", "a1"] if n in (1, 2) else None,
            "hidden_items": ["i02"] if n else None,
            "personalization_opt_out": n == 4, "deletion_requested_at": NOW if n == 6 else None,
        }
        for n in range(8) if n != 3  # whom the snapshot does not know
    ]  # fmt: skip


def raw_campaigns() -> list[dict]:
    whole = {"campaign_id": "c1", "kind": "paid", "start_ts": NOW, "end_ts": NOW, "budget": 1.0, "market": "SE",
             "item_ids": ["i01", "i02"], "status": "active"}  # fmt: skip
    return [
        whole,
        whole | {"campaign_id": "c2", "kind": "strategic", "budget": 2.0, "market": "NO", "item_ids": ["i03"]},
        whole | {"campaign_id": "c3", "item_ids": ["i10"], "start_ts": days_ago(5), "end_ts": days_ago(2)},
        whole | {"campaign_id": "c4", "item_ids": ["yet to come"], "status": "draft"},
    ]


def raw_tombstones() -> list[dict]:
    return [
        {"entity": entity, "id": one, "reason": "erasure", "effective_ts": NOW}
        for entity, one in (("user", "u5"), ("item", "i11"))
    ]


def raw_examples() -> list[dict]:
    contexts = [["i00", "i01"], None]
    return [{"example_id": f"u{n}#0", "key": f"u{n}", "context": contexts[n], "target": ["i02"]} for n in range(2)]


def raw_table(contract: Contract, rows: list[dict]) -> pl.DataFrame:
    """Return the rows as a producer's; a column that no row has is filled with one value of its type."""
    schema = polars_schema(given_contract(contract))
    some = {pl.String: "v", pl.Boolean: False, pl.Datetime: NOW, pl.Date: DATE, pl.List: None}
    told = {name for row in rows for name in row}
    filled = {name: some.get(kind.base_type(), 1) for name, kind in schema.items() if name not in told}
    frame = pl.DataFrame([{name: (row | filled).get(name) for name in schema} for row in rows], schema=schema)
    return frame.with_columns(
        pl.lit(value).alias(name)
        for name, value in (
            ("pacing", [1.0, 2.0]),
            ("tiers", ["free"]),
            ("surfaces", ["home"]),
            ("include_segments", ["a"]),
            ("exclude_segments", ["b"]),
        )
        if name in filled
    )
