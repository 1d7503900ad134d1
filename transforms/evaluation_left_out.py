"""Leave one source out: what a sample of sets hold when a source had proposed nothing, blended again without it.

What it held is filled up by the others, as it would be if the source were switched off; quotas, caps and draws move with it. What
is lost is less than what no other source proposed (`only:`) where the next ones are about as good, more where an item needed its
rank there as well as another's, and below 0 where the next ones are better.
Memory: `BLEND_BLOCK` sets at a time with their proposals, as `transforms.recommend` has it.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import polars as pl

from schemas.evaluation import LEFT_OUT_RECALL, LEFT_OUT_UNITS, SETS
from schemas.hashing import hash64, hash64_one, mix64
from schemas.policy import SurfacePolicy
from transforms.blend import blend
from transforms.calibrate import Calibration
from transforms.evaluation import DEPTH
from transforms.evaluation_lists import PER_UNIT, without
from transforms.facts import Facts
from transforms.filters import Instant
from transforms.recommend import BLEND_BLOCK, Given
from transforms.retrieve import blocks
from transforms.shards import Shard

GROUP_PROPOSAL = "group_proposal"
"""The input that holds what is proposed to markets and tiers."""
MOST_UNITS = 2_000
"""A paired difference of .001 in recall is told from nothing then, and blending them some 15 times takes half a minute."""
_SEED = hash64_one("evaluation|left out")
Offer = Callable[[Given, pl.DataFrame], tuple[pl.DataFrame, Facts]]
"""Returns what is offered to a block of users or seeds, and the facts of their records."""


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """Blend the sets of some users or seeds again, with all sources and without each of them in turn.

    Attributes:
      policy, instant: those that the sets were made by.
      most: units of a shard that are looked at: those whose users and seeds have the smallest hashes.
    """

    policy: SurfacePolicy
    instant: Instant
    most: int

    def users(self, shard: Shard, units: pl.DataFrame, wanted: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
        """Return figures of the units drawn that wanted anything: `LEFT_OUT_UNITS`, 1, and `LEFT_OUT_RECALL`.

        Args:
          units: `unit`, `user_id`. wanted: `unit`, `canonical_id`. users: as in `transforms.retrieve.user_table`.
        """
        asked = self.drawn(units.join(wanted, on="unit", how="semi"), "user_id").select("unit", record_key="user_id")
        mine = users.filter(pl.col("user_id").is_in(asked["record_key"].implode()))
        return self._again(shard, mine, asked, wanted, lambda given, some: given.users(some, self.policy, self.instant))

    def seeds(self, shard: Shard, units: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
        """Return the same figures of plays after a seed: of the seed's set by itself, whatever it is served beside.

        Args:
          units: `unit`, `user_id`, `seed`, and the `market` of the set that serves. wanted: `unit`, `canonical_id`.
        """
        drawn = self.drawn(units.join(wanted, on="unit", how="semi"), "user_id", "seed")
        asked = drawn.select("unit", "market", record_key="seed")
        mine = asked.select("market", item_id="record_key").unique().sort("item_id", "market")
        return self._again(shard, mine, asked, wanted, lambda given, some: given.seeds(some, self.instant))

    def _again(
        self, shard: Shard, mine: pl.DataFrame, asked: pl.DataFrame, wanted: pl.DataFrame, offer: Offer
    ) -> pl.DataFrame:
        """Return the figures of the units of `asked`, which names their records; `mine`: the users or seeds of these."""
        found = [pl.DataFrame(schema=PER_UNIT)]
        given = Given.read(shard, GROUP_PROPOSAL, pl.col("key").is_in(asked["record_key"].unique().implode()))
        names = [name for name in asked.columns if name != "unit"]
        for block in blocks(mine, BLEND_BLOCK):
            offered, facts = offer(given, block)
            named = asked.join(facts.records.select("k", *names), on=names).select("unit", "k")
            found += self._without_each(shard, offered, facts, wanted.join(named, on="unit"))
        return pl.concat(found)

    def drawn(self, units: pl.DataFrame, *by: str) -> pl.DataFrame:
        """Return the units that are looked at, in their order."""
        parts = (np.full(len(units), _SEED, np.uint64), *(hash64(units[name].to_arrow()) for name in by))
        hashes = functools.reduce(mix64, parts)
        return units[np.sort(np.argsort(hashes, kind="stable")[: self.most])]

    def _without_each(
        self, shard: Shard, offered: pl.DataFrame, facts: Facts, wanted: pl.DataFrame
    ) -> list[pl.DataFrame]:
        """Return the figures of a block; `wanted`: `unit`, `k`, `canonical_id`."""
        calibration = Calibration.read(shard.paths("calibration"))
        units = wanted.group_by("unit", maintain_order=True).len("wanted")
        figures = [_figures(units.with_columns(pl.lit(1.0).alias("value")), SETS, LEFT_OUT_UNITS)]
        for name in ("", *sorted(quota.source_id for quota in self.policy.sources)):
            left = offered.filter(pl.col("source_id") != name)
            made = blend(left, facts, self.policy, self.instant, calibration.chances(left, self.policy)).candidates
            first = made.filter(pl.col("position") < DEPTH).select("k", "canonical_id")
            hits = wanted.join(first, on=["k", "canonical_id"], how="semi").group_by("unit").len("hits")
            recall = (pl.col("hits").fill_null(0) / pl.col("wanted")).alias("value")
            told = units.join(hits, on="unit", how="left", maintain_order="left").with_columns(recall)
            figures.append(_figures(told, without(name) if name else SETS, LEFT_OUT_RECALL))
        return figures


def _figures(told: pl.DataFrame, ranking: str, metric: str) -> pl.DataFrame:
    return told.select("unit", pl.lit(ranking).alias("ranking"), pl.lit(metric).alias("metric"), "value")
