"""Leave one source out: what the sets of a sample of users hold when a source had proposed nothing, blended again without it.

What it held is filled up by the others, as it would be if the source were switched off; quotas, caps and draws move with it. What
is lost is less than what no other source proposed (`only:`) where the next ones are about as good, more where an item needed its
rank there as well as another's, and below 0 where the next ones are better.
Memory: `BLEND_BLOCK` users at a time with their proposals, as `transforms.recommend` has it.
"""

import dataclasses

import numpy as np
import polars as pl

from schemas.candidates import PROPOSAL
from schemas.evaluation import LEFT_OUT_RECALL, LEFT_OUT_UNITS, SETS
from schemas.hashing import hash64, hash64_one, mix64, unit_interval
from schemas.policy import SurfacePolicy
from transforms.blend import blend
from transforms.calibrate import Calibration
from transforms.evaluation import DEPTH
from transforms.evaluation_lists import PER_UNIT, without
from transforms.facts import user_facts
from transforms.filters import Instant
from transforms.reach import read_world
from transforms.recommend import BLEND_BLOCK, offered_to
from transforms.retrieve import ShardBundle, blocks
from transforms.shards import Shard, read_tables

GROUP_PROPOSAL = "group_proposal"
"""The input that holds what is proposed to markets and tiers."""
MOST_USERS = 2_000
"""A paired difference of .001 in recall is told from nothing then, and blending them some 15 times takes half a minute."""
_SEED = hash64_one("evaluation|left out")


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """Blend the sets of some users again, with all sources and without each of them in turn.

    Attributes:
      policy, instant: those that the sets were made by.
      share: of users, drawn by a hash of their ids.
    """

    policy: SurfacePolicy
    instant: Instant
    share: float

    def __call__(self, shard: Shard, units: pl.DataFrame, targets: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
        """Return figures of the units drawn that wanted something new: `LEFT_OUT_UNITS`, 1, and `LEFT_OUT_RECALL`.

        Args:
          units: `unit`, `user_id`. targets: `unit`, `canonical_id`, `discovery`. users: as in `transforms.retrieve.user_table`.
        """
        wanted = targets.filter("discovery").select("unit", "canonical_id")
        asked = units.filter(self.drawn(units["user_id"])).join(wanted, on="unit", how="semi").select("unit", "user_id")
        mine = users.join(asked, on="user_id", how="semi", maintain_order="left")
        calibration, found = Calibration.read(shard.paths("calibration")), [pl.DataFrame(schema=PER_UNIT)]
        for block in blocks(mine, BLEND_BLOCK):
            named = asked.join(block.select("user_id").with_row_index("k"), on="user_id")
            found += self._block(shard, block, wanted.join(named, on="unit"), calibration)
        return pl.concat(found)

    def drawn(self, users: pl.Series) -> pl.Series:
        """Tell which users are blended again."""
        seeded = mix64(hash64(users.to_arrow()), np.full(len(users), _SEED, np.uint64))
        return pl.Series(unit_interval(seeded) < self.share, dtype=pl.Boolean)

    def _block(
        self, shard: Shard, users: pl.DataFrame, wanted: pl.DataFrame, calibration: Calibration
    ) -> list[pl.DataFrame]:
        world, bundle = read_world(shard), ShardBundle(shard)
        shared = read_tables(shard.paths(GROUP_PROPOSAL), PROPOSAL)
        offered = offered_to(users, shard.read("proposal"), shared, world)
        facts = user_facts(users, offered, world, bundle, self.policy, self.instant)
        units = wanted.group_by("unit", maintain_order=True).len("wanted")
        one = pl.lit(1.0).alias("value")
        figures = [_figures(units.with_columns(one), SETS, LEFT_OUT_UNITS)]
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
