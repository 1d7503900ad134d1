"""Explore pools: about a thousand items per market and tier, sampled from all that may be played there, new every day.

    catalogue -> stratum of every item -> how many there are -> sampling rates -> the items that a hash lets in

The catalogue is read twice, part by part. Memory: one part with its reach, and the pools of all groups, `POOL` rows each.
"""

import dataclasses
import datetime
from collections.abc import Iterator

import numpy as np
import polars as pl

from schemas.hashing import hash64, hash64_one, mix64, unit_interval
from schemas.inputs import ITEM_TYPES
from schemas.tallies import ANY
from transforms.filters import Instant
from transforms.reach import ADULT, KIDS, REACH_COLUMNS, Reach, World, read_world
from transforms.sources import Audience, Bundle, Source, age_days, no_seed, none_found

POOL = 1_000
"""Items of a pool: on Home each has a chance of about 1 in 100, far above the floor of the propensities, 1 in 10,000."""
AGES, BANDS = ("old", "recent", "new"), ("low", "middle", "high")
RECENT_DAYS = 365
KINDS = tuple(kind for kind in ITEM_TYPES if kind != "chapter")
"""What may be explored, but for parts in order: these are for whoever heard the one before."""
STRATA = tuple(f"{kind}|{age}|{band}" for kind in KINDS for age in AGES for band in BANDS)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What decides which items are in the pools of a date.

    Attributes:
      fresh_days: how long an item is `new`. bands: `item_id`, `band`, of what is charted.
    """

    groups: pl.DataFrame
    instant: Instant
    world: World
    fresh_days: int
    bands: pl.DataFrame

    def strata(self, items: pl.DataFrame) -> np.ndarray:
        """Return the place of each item's stratum in `STRATA`, `(n,) int64`: its type, age and popularity tercile.

        An item of unknown age is `old`, one that nobody plays is `low`.
        """
        known = items.join(self.bands, on="item_id", how="left", maintain_order="left")
        days = age_days("release_ts", self.instant.effective_from)
        age = pl.when(days <= self.fresh_days).then(2).when(days <= RECENT_DAYS).then(1).otherwise(0)
        kind = pl.col("item_type").replace_strict({one: n for n, one in enumerate(KINDS)}, return_dtype=pl.Int64)
        code = (kind * len(AGES) + age) * len(BANDS) + pl.col("band").fill_null(0)
        return known.select(code.cast(pl.Int64)).to_series().to_numpy()

    def luck(self, items: pl.DataFrame) -> np.ndarray:
        """Return a number in `[0, 1)` per item, the same for all recordings of one canonical item."""
        seed = np.uint64(hash64_one(f"{self.instant.seed}|pool"))
        hashes = hash64(items["canonical_id"].to_arrow())
        return unit_interval(mix64(hashes, np.full(len(hashes), seed)))

    def open_to(self, items: pl.DataFrame) -> Iterator[np.ndarray]:
        """Yield, for each group, which items may be played by whoever is in it, `(n,) bool`."""
        reach = Reach.of([items], items["item_id"], self.instant, self.world)
        for market, tier in self.groups.select("market", "tier").rows():
            child = tier == KIDS
            yield reach.mask(market, tier, not child, 0 if child else ADULT, None, may_begin=False)


def explorable(audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Propose a random sample of all that may be played in a market for a tier, for keys `*|market|tier`.

    Score: the probability with which the item is in the sample. Items are let in one by one (Poisson sampling), each
    stratum at its own rate; the most widely let in recording stands for its canonical item.
    """
    sampling = _sampling(audience, bundle)
    counts = np.zeros((sampling.groups.height, len(STRATA)), np.int64)
    for items in _parts(bundle):
        strata = sampling.strata(items)
        for group, mask in enumerate(sampling.open_to(items)):
            counts[group] += np.bincount(strata[mask], minlength=len(STRATA))
    rates = np.stack([sampling_rates(row, POOL) for row in counts]) if len(counts) else np.zeros((0, len(STRATA)))
    found = pl.concat([_nothing(), *(_let_in(items, sampling, rates) for items in _parts(bundle))])
    best = found.sort("key", "canonical_id", "raw_score", "item_id", descending=[False, False, True, False])
    return best.unique(["key", "canonical_id"], keep="first", maintain_order=True).drop("canonical_id")


def sampling_rates(counts: np.ndarray, size: int) -> np.ndarray:
    """Return the rate per stratum that gives a sample of about `size`, a stratum's share as the root of its count.

    Small strata are seen better than in proportion, and large ones better than in equal shares (power allocation with
    q = 1/2: Bankier 1988, The American Statistician 42). A stratum that its share would exhaust is taken whole.
    """
    rates = np.ones(len(counts))
    left, room = counts > 0, float(size)
    while left.any():
        step = room / np.sqrt(counts[left]).sum()
        rates[left] = step / np.sqrt(counts[left])
        whole = left & (rates >= 1)
        if not whole.any():
            break
        rates[whole] = 1.0
        left, room = left & ~whole, max(room - float(counts[whole].sum()), 0.0)
    return rates


def _sampling(audience: Audience, bundle: Bundle) -> Sampling:
    policy, now = audience.policy, audience.now
    instant = Instant.of((now - datetime.timedelta(days=1)).date(), policy)
    everywhere = (pl.col("market") == ANY) & (pl.col("tier") == ANY)
    charts = bundle.read("popularity", ["item_type", "item_id", "rank"], everywhere).sort("item_id", "item_type")
    third = pl.col("rank").cast(pl.Int64) * len(BANDS) // pl.len().over("item_type")
    bands = charts.select("item_id", (len(BANDS) - 1 - third).clip(0).alias("band")).unique("item_id", keep="first")
    groups = audience.keys.select("key", "market", "tier").unique().sort("key")
    return Sampling(groups, instant, read_world(bundle), policy.fresh_days, bands)


def _parts(bundle: Bundle) -> Iterator[pl.DataFrame]:
    parts = bundle.parts("item", [*REACH_COLUMNS, "canonical_id"])
    return (part.filter(pl.col("item_type").is_in(KINDS)) for part in parts)


def _nothing() -> pl.DataFrame:
    more = [pl.lit(None, pl.String).alias(name) for name in ("canonical_id", "stratum")]
    columns = ("key", "item_id", "canonical_id", "raw_score", "seed_item_ids", "seed_event_ts", "stratum")
    return none_found().with_columns(more).select(columns)


def _let_in(items: pl.DataFrame, sampling: Sampling, rates: np.ndarray) -> pl.DataFrame:
    lucky = sampling.luck(items) < rates.max(axis=0, initial=0.0)[sampling.strata(items)]
    items = items.filter(pl.Series(lucky))
    strata, luck = sampling.strata(items), sampling.luck(items)
    found = [np.flatnonzero(mask & (luck < rates[g][strata])) for g, mask in enumerate(sampling.open_to(items))]
    group, row = (
        np.repeat(np.arange(len(found)), [len(rows) for rows in found]),
        np.concatenate([*found, []]).astype(int),
    )
    shown = items.select("item_id", "canonical_id")[row]
    return shown.select(
        sampling.groups["key"].gather(group),
        "item_id",
        "canonical_id",
        pl.Series("raw_score", rates[group, strata[row]], pl.Float64),
        *no_seed(),
        pl.Series("stratum", STRATA, pl.String).gather(strata[row]),
    )


EXPLORE = Source(explorable, "pool_probability", "exploration", "exploring", 4 * POOL)
HOME_EXPLORE_SOURCES: dict[str, Source] = {"home.explore": EXPLORE}
NOW_PLAYING_EXPLORE_SOURCES: dict[str, Source] = {"np.explore": EXPLORE}
