"""What blending costs per user, beside reciprocal-rank fusion of the same proposals in polars.

    python -m benchmarks.blend [--users 2000] [--sources 10] [--items 100000] [--rounds 5] [--json FILE]

Each user has 130 proposals of each source, spread over the catalogue as plays are, and is offered charts of 400 items and
a pool of 1,000 to explore; sets hold 300. Fusion gets the same rows: it drops what the user may not have by market and
tombstone, adds `1 / (60 + rank)` up and keeps the best 300. No quotas, caps, reasons, provenance or exploration. The blend is
told how likely each proposal is, as it is in a run.
Medians of the CPU seconds of the rounds, one thread per library; items and records are coded anew each time. The rows "of 1
record" and "of 50" are what a stream asks for at once: Now Playing's policy, 400 proposals of its sources for each, a held
catalogue of 60,000 items (`transforms.facts.HeldCatalogue`); milliseconds for all of them together.
"""

import argparse
import dataclasses
import datetime
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.embed_speed import histories, table
from jobs.options import POLICY_FILE, leave, read_policy
from schemas.policy import Quota, SurfacePolicy
from transforms.audit import audit
from transforms.blend import blend
from transforms.candidate_sets import Provenance, assemble
from transforms.conformance import MemoryBundle
from transforms.facts import HeldCatalogue, user_facts
from transforms.filters import Facts, Instant
from transforms.groups import group_key
from transforms.reach import World
from transforms.sources import Source

MARKETS, TIERS = ("BR", "DE", "SE", "US"), ("free", "premium")
OWN, CHARTS, POOL = 130, 400, 1_000
FEW, HELD = 400, 60_000
DATE = datetime.date(2026, 1, 31)
_RUN = {
    "run_id": "r", "run_mode": "batch", "logical_date": DATE, "sequence": 1, "source_watermark": None,
    "base_run_id": None, "bundle_id": "b", "catalog_snapshot_id": "c", "user_snapshot_id": "u",
    "campaign_snapshot_id": "p", "policy_version": "v", "code_version": "1", "experiment_arms": [], "gate_report_id": "g",
}  # fmt: skip


def recipe(num_sources: int) -> SurfacePolicy:
    """Return Home's policy with so many sources of equal quotas besides charts and exploration."""
    home = dataclasses.replace(read_policy(POLICY_FILE).surfaces["home"], holdout=0.0)  # charts would be cheaper
    kept = [quota for quota in home.sources if quota.source_id in (home.fallback, home.explore)]
    each = home.size // num_sources
    own = [Quota(f"s{n}", each // 2, each, 2 * each, personal=True, discovery=True) for n in range(num_sources)]
    flow = (*(quota.source_id for quota in own), home.fallback)
    return dataclasses.replace(home, sources=(*own, *kept), flow=flow)


def catalogue(num_items: int, rng: np.random.Generator) -> pl.DataFrame:
    """Return tracks of albums of about ten and artists of about thirty, a tenth of them not available everywhere."""
    numbers = np.arange(num_items)
    one_market = [
        None if n % 10 else [{"market": MARKETS[n // 10 % 4], "tiers": None, "from_ts": None, "to_ts": None}]
        for n in numbers
    ]
    return table(
        "item",
        item_id=[f"i{n:08d}" for n in numbers],
        canonical_id=[f"i{n - n % 20 // 19:08d}" for n in numbers],
        item_type=["track"] * num_items,
        artists=[[{"artist_id": f"a{n}", "name": "", "role": "main"}] for n in rng.integers(0, num_items // 30 + 1, num_items)],
        album_id=[f"l{n // 10}" for n in numbers],
        availability=one_market,
        explicit=rng.random(num_items) < 0.1,
        rec_eligible=[True] * num_items,
        text_hash=["0"] * num_items,
    )  # fmt: skip


def proposals(users: pl.Series, policy: SurfacePolicy, num_items: int, rng: np.random.Generator) -> pl.DataFrame:
    """Return what every source proposes for every user, and charts and pools for every group."""
    own = [quota.source_id for quota in policy.sources if quota.personal]
    groups = pl.Series([group_key(market, tier) for market in MARKETS for tier in TIERS])
    drawn = [_drawn(users, name, OWN, num_items, rng) for name in own]
    drawn += [
        _drawn(groups, policy.fallback, CHARTS, num_items, rng),
        _drawn(groups, policy.explore, POOL, num_items, rng),
    ]
    return pl.concat(drawn).sort("key", "source_id", "item_id")


def _drawn(keys: pl.Series, source: str, count: int, num_items: int, rng: np.random.Generator) -> pl.DataFrame:
    """Return `count` items of each key, the more the lower their number: the square of a uniform draw."""
    drawn = (rng.random((len(keys), 2 * count)) ** 2 * num_items).astype(np.int64)
    kept = [np.unique(row)[:count] for row in drawn]
    rank = np.concatenate([rng.permutation(len(row)).astype(np.int32) for row in kept])
    frame = pl.DataFrame({"item": np.concatenate(kept), "source_rank": rank}).with_columns(
        pl.Series("key", np.repeat(keys.to_numpy(), [len(row) for row in kept]))
    )
    none = pl.lit(None, pl.Datetime("us", "UTC")).alias("seed_event_ts")
    return frame.select(
        "key", pl.lit(source).alias("source_id"), pl.format("i{}", pl.col("item").cast(pl.String).str.zfill(8)).alias("item_id"),
        "source_rank", (1.0 / (1 + pl.col("source_rank"))).cast(pl.Float32).alias("raw_score"), pl.lit("k").alias("score_kind"),
        pl.lit("toy").alias("signal_type"), pl.lit([], pl.List(pl.String)).alias("seed_item_ids"), none,
        pl.lit("track|old|low").alias("stratum"),
    )  # fmt: skip


def fused(offered: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame, gone: pl.Series, size: int) -> pl.DataFrame:
    """Return the best of each user by reciprocal-rank fusion, among what is available in their market."""
    group = pl.format("*|{}|{}", "market", "tier")
    own = offered.join(users.select(pl.col("user_id").alias("key"), "market"), on="key")
    shared = (
        users.select("user_id", "market", group.alias("key"))
        .join(offered, on="key")
        .with_columns(pl.col("user_id").alias("key"))
    )
    both = pl.concat(
        [
            own.select("key", "market", "item_id", "source_rank"),
            shared.select("key", "market", "item_id", "source_rank"),
        ]
    )
    where = items.select("item_id", pl.col("availability").list.first().struct.field("market").alias("only"))
    open_ = both.join(where, on="item_id").filter(pl.col("only").is_null() | (pl.col("only") == pl.col("market")))
    open_ = open_.filter(~pl.col("item_id").is_in(gone.implode()))
    scored = open_.group_by("key", "item_id").agg((1.0 / (60 + pl.col("source_rank"))).sum().alias("score"))
    return scored.sort("key", "score", descending=[False, True]).group_by("key", maintain_order=True).head(size)


def measure(users: int, sources: int, items: int, rounds: int) -> dict[str, float]:
    """Return milliseconds per user by step."""
    rng = np.random.default_rng(7)
    policy, known = recipe(sources), catalogue(items, rng)
    people = _people(users, items, rng)
    offered = proposals(people["user_id"], policy, items, rng)
    world, instant = World(sorted(MARKETS), known["item_id"].sample(items // 1_000, seed=1)), Instant.of(DATE, policy)
    bundle = MemoryBundle({"item": known})
    named = {
        quota.source_id: Source(lambda audience, bundle: offered, "k", "toy", "reason", OWN) for quota in policy.sources
    }
    told = user_facts(people, offered, world, bundle, policy, instant)  # type: ignore[arg-type]
    chances = 0.3 / (10 + offered["source_rank"].to_numpy())
    blended = blend(offered, told, policy, instant, chances)
    sets = assemble(blended, told, policy, instant, named, Provenance(_RUN, {}))
    steps: Mapping[str, tuple[int, Callable[[], object]]] = {
        "facts": (users, lambda: user_facts(people, offered, world, bundle, policy, instant)),  # type: ignore[arg-type]
        "blend": (users, lambda: blend(offered, dataclasses.replace(told), policy, instant, chances)),
        "records": (users, lambda: assemble(blended, told, policy, instant, named, Provenance(_RUN, {}))),
        "audit": (users, lambda: audit(sets, told, policy, instant)),
        "fusion in polars": (users, lambda: fused(offered, people, known, world.gone, policy.size)),
    }
    found = {name: [1e3 * _seconds(step) / of for _ in range(rounds)] for name, (of, step) in steps.items()}
    return {name: statistics.median(times) for name, times in found.items()} | {
        "candidates": sets["candidates"].combine_chunks().flatten().__len__() / users
    }


def measure_few(records: int, rounds: int) -> dict[str, float]:
    """Return milliseconds for a few records at once, by step."""
    rng = np.random.default_rng(7)
    policy, known = read_policy(POLICY_FILE).surfaces["now_playing"], catalogue(HELD, rng)
    people = _people(records, HELD, rng)
    own = [quota.source_id for quota in policy.sources if quota.personal]
    groups = people.select(pl.format("*|{}|{}", "market", "tier").unique(maintain_order=True)).to_series()
    drawn = [_drawn(people["user_id"], name, FEW // len(own), HELD, rng) for name in own]
    drawn += [_drawn(groups, policy.fallback, CHARTS, HELD, rng), _drawn(groups, policy.explore, POOL, HELD, rng)]
    offered = pl.concat(drawn).sort("key", "source_id", "item_id")
    world, instant = World(sorted(MARKETS), known["item_id"].sample(HELD // 1_000, seed=1)), Instant.of(DATE, policy)
    bundle: Any = MemoryBundle({"item": known})
    held = HeldCatalogue.of(bundle, world, instant)
    named = {quota.source_id: Source(lambda *_: offered, "k", "toy", "reason", OWN) for quota in policy.sources}

    def told() -> Facts:
        return user_facts(people, offered, world, bundle, policy, instant, held)

    def made(facts: Facts) -> object:
        blended = blend(offered, facts, policy, instant)
        return assemble(blended, facts, policy, instant, named, Provenance(_RUN, {}))

    given = told()
    steps = {
        f"proposals to sets of {records}": lambda: made(dataclasses.replace(given)),
        f"with facts of {records}": lambda: made(told()),
    }
    return {name: statistics.median(_repeated(step, 10 * rounds)) for name, step in steps.items()}


def _repeated(step: Callable[[], object], rounds: int) -> list[float]:
    """Return milliseconds of the rounds behind a first one, which compiles and fills what is held."""
    step()
    return [1e3 * _seconds(step) for _ in range(rounds)]


def _shown(users: int, items: int, rng: np.random.Generator) -> pl.Series:
    """Return the fifty items that each was shown two days ago."""
    at = datetime.datetime.combine(DATE, datetime.time(), datetime.UTC) - datetime.timedelta(days=1)
    told = pl.DataFrame({"user": np.repeat(np.arange(users), 50), "item": rng.integers(0, items, users * 50)}).select(
        "user",
        pl.struct(pl.format("i{}", pl.col("item").cast(pl.String).str.zfill(8)).alias("item_id"), event_ts=at),
    )
    return told.group_by("user", maintain_order=True).agg(pl.col("item_id").alias("impressions"))["impressions"]


def _habits(users: int) -> pl.Series:
    """Return plays of two kinds in four quarters of the day."""
    rows = [(quarter, "mobile", kind, n) for quarter in range(4) for kind, n in (("music", 40), ("talk", 10))]
    told = pl.DataFrame(rows, schema=["band", "device", "kind", "plays"], orient="row")
    return told.select(pl.struct(pl.all()).implode().alias("habits")).to_series().gather([0] * users)


def _people(users: int, items: int, rng: np.random.Generator) -> pl.DataFrame:
    heard = histories(users, items, rng)
    return heard.select(
        "user_id", "positives", "skips", _shown(users, items, rng), _habits(users),
        pl.Series("market", rng.choice(MARKETS, users)), pl.Series("tier", rng.choice(TIERS, users)),
        pl.Series("explicit_filter", rng.random(users) < 0.1), pl.lit(None, pl.String).alias("age_band"),
        pl.lit(None, pl.List(pl.String)).alias("languages"), pl.lit(None, pl.List(pl.String)).alias("blocked_artists"),
        pl.lit(None, pl.List(pl.String)).alias("hidden_items"), pl.lit(False).alias("personalization_opt_out"),
        pl.lit(True).alias("seen"),
    )  # fmt: skip


def _seconds(step: Callable[[], object]) -> float:
    begun = time.process_time()
    step()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in {"users": 2_000, "sources": 10, "items": 100_000, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.users, given.sources, given.items, given.rounds)
    print(
        f"\n  {given.users:,} users, {given.sources} sources, {found.pop('candidates'):.0f} candidates each, one core\n"
    )
    for name, cost in found.items():
        print(f"  {name:<28}{cost:>9.3f} ms per user")
    few = {name: cost for records in (1, 50) for name, cost in measure_few(records, given.rounds).items()}
    for name, cost in few.items():
        print(f"  {name:<28}{cost:>9.3f} ms")
    print(f"\n  blend beside fusion: {found['blend'] / found['fusion in polars']:.2f}")
    if given.json:
        given.json.write_text(json.dumps(found | few, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
    leave(0)
