"""A world of random users, items and tallies: every table the road reads, with whatever may go wrong in them."""

import datetime
import random
from collections import Counter
from collections.abc import Mapping

import numpy as np
import polars as pl
from toy_road import DATE, END, NOW, days_ago, history, instant, item, listen, offer_in, table, user

from schemas.inputs import TIERS
from schemas.policy import SurfacePolicy
from transforms.conformance import MemoryModels

SAFE = ("i00", "i01")
MARKETS = ("SE", "NO")


def random_world(seed: int) -> dict[str, pl.DataFrame]:
    """Return every table the sources and filters read, with whatever may go wrong in them.

    Two items may be played by anybody, are in every chart, and nobody minds them: no set has a reason to be empty.
    """
    dice = random.Random(seed)
    ids = [f"i{n:02d}" for n in range(40)]
    items = [item(one, "z", release_ts=days_ago(99)) for one in SAFE] + [random_item(one, dice) for one in ids[2:]]
    histories = [
        history(
            f"u{n:02d}",
            random_listens(ids[2:], dice, 1.0),
            random_listens(ids[2:], dice, -0.5),
            dice.choice([*MARKETS, None]),
        )
        for n in range(5, 18)
    ]
    tombstones = [
        {"entity": "item", "id": "i03", "reason": "takedown", "effective_ts": NOW},
        {"entity": "user", "id": "u02", "reason": "erasure", "effective_ts": NOW},
    ]
    users = [random_user(f"u{n:02d}", ids, dice) for n in range(14)]
    named = {"item": items, "user": users, "history": histories, "tombstone": tombstones, **random_tallies(ids, dice)}
    return {name: table(name, rows) for name, rows in named.items()}


def random_user(user_id: str, ids: list[str], dice: random.Random) -> dict:
    return user(
        user_id, market=dice.choice([*MARKETS, "ZZ", None]), tier=dice.choice([None, *TIERS]),
        explicit_filter=dice.choice([True, False, None]), age_band=dice.choice([None, "0-12", "13-17", "25-34"]),
        languages=dice.choice([None, ["sv"], ["de"]]), follows=dice.sample("abcdef", 2),
        blocked_artists=dice.sample("abcdef", 1), hidden_items=dice.sample(ids[2:], 2),
        personalization_opt_out=dice.choice([None, None, True]), deletion_requested_at=dice.choice([None] * 8 + [NOW]),
    )  # fmt: skip


def random_item(item_id: str, dice: random.Random) -> dict:
    offers = [
        None, [offer_in("*")], [offer_in("SE")], [offer_in("SE", ["premium", "kids"]), offer_in("NO", ["free"])],
        [offer_in("*", until=END - datetime.timedelta(hours=1))], [offer_in("*", since=days_ago(9), until=END)],
    ]  # fmt: skip
    return item(
        item_id, dice.choice("abcdef"), canonical_id=dice.choice([item_id] * 4 + ["c1"]),
        album_id=dice.choice([None, "l1", "l2"]), **random_kind(dice),
        title=dice.choice(["Song", "Song (Live)", "Song - Remastered 2011", "Song Two", item_id, None]),
        availability=dice.choice(offers), explicit=dice.random() < 0.2, age_rating=dice.choice([None, 0, 13, 18]),
        rec_eligible=dice.random() < 0.9, languages=dice.choice([None, ["sv"], ["en"]]),
        release_ts=days_ago(dice.uniform(-2, 20)), genres=["g"], is_video=item_id in ("i07", "i16", "i25", "i34"),
    )  # fmt: skip


def random_kind(dice: random.Random) -> dict:
    """Return what tells tracks, parts in order and other episodes apart."""
    kind = dice.choice(["track", "track", "track", "episode", "episode", "chapter"])
    if kind == "track":
        return {"item_type": kind}
    serial = dice.choice([True, False]) if kind == "episode" else None
    told = {"show_id": f"{kind}-{serial}-{dice.choice('st')}", "is_serial": serial, "is_trailer": dice.random() < 0.1}
    return {"item_type": kind, "season": 1, "episode_no": dice.randint(1, 30)} | told


def random_models(world: Mapping[str, pl.DataFrame], seed: int, surface: SurfacePolicy) -> MemoryModels:
    """Return the world with vectors of most items and of most users who listen; what few played is in no vocabulary."""
    rng = np.random.default_rng(seed)
    listens = world["history"].filter(pl.col("positives").list.len() > 0)["user_id"]
    ids = {
        "item": world["item"]["item_id"],
        "user": world["user"]["user_id"].filter(world["user"]["user_id"].is_in(listens.implode())),
    }
    tables = {
        "vocabulary": table(
            "vocabulary", [{"item_id": i, "number": 0, "positives": 3} for i in sorted(ids["item"])[::2]]
        )
    }
    for kind, every in ids.items():
        some = every.filter(pl.Series(rng.random(len(every)) < 0.9, dtype=pl.Boolean))
        vectors = rng.standard_normal((len(some), 8)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        tables[f"{kind}_embedding"] = pl.DataFrame({f"{kind}_id": some, "vector": vectors})
    return MemoryModels({**world, **tables}, instant(surface))


def random_calibration(surface: SurfacePolicy, seed: int) -> pl.DataFrame:
    """Return chances by source and rank; of every other world none were counted."""
    rng = np.random.default_rng(seed)
    rows = [
        {"source_id": one.source_id, "source_rank": rank, "trials": 9.0 * (seed % 2), "positives": 1.0, "probability": chance,
         "first_trials": 3.0 * (seed % 2), "first_positives": 0.2, "first_probability": chance / 5}
        for one in surface.sources
        for rank, chance in enumerate(sorted(rng.uniform(0.001, 1, 9), reverse=True))
    ]  # fmt: skip
    return table("calibration", rows)


def random_listens(ids: list[str], dice: random.Random, label: float) -> list[dict]:
    return [listen(dice.choice(ids), dice.uniform(0, 60), label) for _ in range(dice.randint(1, 12))]


def random_tallies(ids: list[str], dice: random.Random) -> dict[str, list[dict]]:
    """Return tallies of random figures; some of their items are unknown to the catalogue."""
    known = [*ids, "gone1", "gone2"]
    plays = [
        {"event_date": DATE, "item_id": one, "item_type": "track", "market": market, "tier": tier,
         "weight": dice.randint(1, 99)}
        for market in (*MARKETS, "*") for tier in ("free", "premium") for one in [*SAFE, *dice.sample(known[2:], 15)]
    ]  # fmt: skip
    pairs = [
        {"item_id": one, "other_item_id": other, "score": dice.random(), "rank": n, "other_return_rate": dice.random()}
        for one in ids for n, other in enumerate(dice.sample([i for i in known if i != one], 8))
    ]  # fmt: skip
    steps = [
        {"level": level, "context_id": context, "next_item_id": one, "probability": dice.random(), "rank": n}
        for level, contexts in (("item", ids), ("artist", "abcdef")) for context in contexts
        for n, one in enumerate(dice.sample(known, 5))
    ]  # fmt: skip
    cuts = [{"artist_id": a, "item_id": one, "rank": n} for a in "abcdef" for n, one in enumerate(dice.sample(ids, 5))]
    tallies = {"popularity_partial": plays, "popularity": charts_of(plays), "co_listen": pairs, "transition": steps}
    return {
        name: [{"weight": 1, "plays": 1} | row for row in rows]
        for name, rows in (tallies | {"artist_top": cuts}).items()
    }


def charts_of(plays: list[dict]) -> list[dict]:
    """Add plays up per market and tier, per market and in all; an unknown market has no chart of its own."""
    charts = Counter()
    for row in plays:
        places = (
            [("*", "*")] if row["market"] == "*" else [(row["market"], row["tier"]), (row["market"], "*"), ("*", "*")]
        )
        charts.update({(*place, row["item_id"]): row["weight"] for place in places})
    return [
        {"market": m, "tier": t, "item_type": "track", "item_id": i, "weight": w, "rank": 0}
        for (m, t, i), w in charts.items()
    ]
