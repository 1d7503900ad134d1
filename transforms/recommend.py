"""From a shard's proposals to its candidate sets: facts, blend, assembly and audit, block by block.

Memory: one block of `BLEND_BLOCK` records with about 600 proposals each (1 GB at the most), and finished sets: those of the users
of a shard, some 100 kB each; of seed items `SETS_AT_ONCE`, 36 kB each, which are written before the next ones are made.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Self

import polars as pl
import pyarrow as pa

from schemas.candidates import PROPOSAL
from schemas.policy import SurfacePolicy
from schemas.tallies import ANY
from transforms.audit import audit, fairness
from transforms.blend import Blended, blend
from transforms.calibrate import Calibration
from transforms.candidate_sets import Provenance, assemble, concatenate
from transforms.facts import SEED_COLUMNS, group_facts, group_of, seed_facts, user_facts
from transforms.filters import Facts, Instant
from transforms.io.store import open_store
from transforms.panel import reasons_of
from transforms.reach import World, read_world
from transforms.releases import eligible_releases
from transforms.retrieve import ShardBundle, blocks, seed_table, user_table
from transforms.shards import Output, Shard, Task, read_tables
from transforms.sources import Source
from validation.quota_gates import GRANTED, PLACED

BLEND_BLOCK = 2_000
SETS_AT_ONCE = 5 * BLEND_BLOCK


def warm_up(policy: SurfacePolicy, instant: Instant) -> None:
    """Compile what blends, or read it from where it is kept, before a record waits for it: seconds, or tenths of one."""
    bundle = ShardBundle(Shard(Task("warm_up", 0, {}), open_store(".")))
    nothing = read_tables([], PROPOSAL)
    facts = group_facts(nothing, World([], nothing["item_id"]), bundle, policy, instant)
    blend(nothing, facts, policy, instant)


def made(
    proposals: pl.DataFrame,
    facts: Facts,
    policy: SurfacePolicy,
    instant: Instant,
    sources: Mapping[str, Source],
    provenance: Provenance,
) -> tuple[Blended, pa.Table]:
    """Blend a block; return it and its candidate sets."""
    blended = blend(proposals, facts, policy, instant, provenance.calibration.chances(proposals, policy))
    return blended, assemble(blended, facts, policy, instant, sources, provenance)


def finished(
    proposals: pl.DataFrame,
    facts: Facts,
    policy: SurfacePolicy,
    instant: Instant,
    sources: Mapping[str, Source],
    provenance: Provenance,
) -> tuple[pa.Table, dict[str, int]]:
    """Return the candidate sets of a block, and what the audit of them counted."""
    blended, table = made(proposals, facts, policy, instant, sources, provenance)
    removed = blended.removed_by_rule().group_by("rule").agg(pl.col("len").sum()).rows()
    counters = audit(table, facts, policy, instant) | {f"removed:{rule}": n for rule, n in removed}
    return table, counters | fairness(blended.explored.cells) | count_granted(
        proposals, facts.records, blended.sources, policy
    )


def count_granted(
    proposals: pl.DataFrame, records: pl.DataFrame, sources: pl.DataFrame, policy: SurfacePolicy
) -> dict[str, int]:
    """Return by source with a minimum the slots it grants, as far as that much is proposed for a record, and those it is in.

    What is proposed for a market and not for the record itself is granted nothing: it fills what others leave.

    Args:
      sources: `k`, `position` and `source_id` of all that proposed a candidate, whoever got the slot.
    """
    least = {quota.source_id: quota.minimum for quota in policy.sources if quota.minimum}
    mine = pl.col("source_id").is_in(list(least))
    counted = proposals.filter(mine).group_by("key", "source_id").len()
    own = records.select(key="record_key").join(counted, on="key")
    most = pl.col("source_id").replace_strict(least, return_dtype=pl.Int64)
    granted = own.group_by("source_id").agg(pl.min_horizontal(pl.col("len").cast(pl.Int64), most).sum()).rows()
    placed = sources.filter(mine).select("k", "position", "source_id").unique()["source_id"].value_counts().rows()
    told = {GRANTED: dict(granted), PLACED: dict(placed)}
    return {f"{name}{source}": found.get(source, 0) for name, found in told.items() for source in sorted(least)}


def added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add counters up."""
    total: dict[str, int] = {}
    for one in counts:
        for name, n in one.items():
            total[name] = total.get(name, 0) + n
    return total


def offered_to(users: pl.DataFrame, proposals: pl.DataFrame, groups: pl.DataFrame, world: World) -> pl.DataFrame:
    """Return what is proposed to a block of users: their own proposals, then those for their markets and tiers."""
    own = proposals.filter(pl.col("key").is_in(users["user_id"].implode()))
    keys = users.select(group_of(pl.col("tier"), world).alias("key")).unique()
    return pl.concat([own, groups.join(keys, on="key", how="semi", maintain_order="left")])


@dataclasses.dataclass(frozen=True)
class Given:
    """What the sets of a shard are made of.

    Attributes:
      proposals: for users or seeds themselves. groups: for markets and tiers.
    """

    world: World
    bundle: ShardBundle
    proposals: pl.DataFrame
    groups: pl.DataFrame

    @classmethod
    def read(cls, shard: Shard, groups: str = "groups", where: pl.Expr | None = None) -> Self:
        """Read them.

        Args:
          groups: the input that they are. where: which proposals.
        """
        shared = read_tables(shard.paths(groups), PROPOSAL)
        return cls(read_world(shard), ShardBundle(shard), shard.read("proposal", where=where), shared)

    def users(self, users: pl.DataFrame, policy: SurfacePolicy, instant: Instant) -> tuple[pl.DataFrame, Facts]:
        """Return what is offered to a block of users, and the facts of their records."""
        offered = offered_to(users, self.proposals, self.groups, self.world)
        return offered, user_facts(users, offered, self.world, self.bundle, policy, instant)

    def seeds(self, seeds: pl.DataFrame, instant: Instant) -> tuple[pl.DataFrame, Facts]:
        """Return what is offered after a block of seeds, `item_id` and `market`, and the facts of their records."""
        items = self.bundle.lookup("item", "item_id", seeds["item_id"], SEED_COLUMNS)
        own = self.proposals.filter(pl.col("key").is_in(seeds["item_id"].implode()))
        keys = seeds.select(group_of(pl.lit(ANY), self.world).alias("key")).unique()
        offered = pl.concat([own, self.groups.join(keys, on="key", how="semi", maintain_order="left")])
        return offered, seed_facts(seeds, items, offered, self.world, self.bundle, instant)


@dataclasses.dataclass(frozen=True)
class Recommend:
    """Blend one shard of a surface.

    Attributes:
      sources: every source of the surface by id.
    """

    policy: SurfacePolicy
    instant: Instant
    sources: Mapping[str, Source]
    provenance: Provenance

    def users(self, shard: Shard) -> Output:
        """Return the sets of the shard's users."""
        given, users = Given.read(shard), user_table(shard)
        wanted = (given.users(block, self.policy, self.instant) for block in blocks(users, BLEND_BLOCK))
        return self._finished(shard, wanted, given.proposals.height)

    def seeds(self, shard: Shard) -> Iterator[Output]:
        """Yield the sets of the shard's seed items, one per market of `seed_table`, `SETS_AT_ONCE` together."""
        given, seeds = Given.read(shard), seed_table(shard)
        for first in range(0, max(seeds.height, 1), SETS_AT_ONCE):
            some = blocks(seeds.slice(first, SETS_AT_ONCE), BLEND_BLOCK)
            wanted = (given.seeds(block, self.instant) for block in some)
            yield self._finished(shard, wanted, 0 if first else given.proposals.height)

    def groups(self, shard: Shard) -> Output:
        """Return the sets for users (or seed items) nobody has seen, one per market and tier."""
        given = Given.read(shard)
        groups = given.groups
        facts = group_facts(groups, given.world, given.bundle, self.policy, self.instant)
        made = self._finished(shard, [(groups, facts)], groups.height)
        # Sets for nobody in particular are charts by design: they say nothing of how personal those of users are.
        own = {"fallback_level_3_or_more": 0} | eligible_releases(shard, facts.gone, self.instant)
        return dataclasses.replace(made, counters={**made.counters, **own})

    def provenance_of(self, shard: Shard) -> Provenance:
        """Return what the sets of a shard share."""
        calibration = Calibration.read(shard.paths("calibration"))
        return dataclasses.replace(self.provenance, left_out=reasons_of(shard), calibration=calibration)

    def _finished(self, shard: Shard, wanted: Iterable[tuple[pl.DataFrame, Facts]], rows_in: int) -> Output:
        provenance = self.provenance_of(shard)
        blocks_ = [finished(*one, self.policy, self.instant, self.sources, provenance) for one in wanted]
        counters = added(found for _, found in blocks_)
        return Output(concatenate([table for table, _ in blocks_]), rows_in=rows_in, counters=counters)
