"""Proposals for whoever is in a market with a tier: the charts, down to what may be served there."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import polars as pl

from schemas.candidates import PROPOSAL
from schemas.inputs import TIERS
from schemas.policy import SurfacePolicy
from schemas.tallies import ANY
from transforms.blend import offer
from transforms.facts import group_facts
from transforms.filters import HARD_FILTERS, Instant, hard_filters
from transforms.reach import ADULT, read_world
from transforms.retrieve import ShardBundle, without_listens
from transforms.shards import Output, Shard
from transforms.sources import GROUP_PREFIX, Source, propose

KEEP, KEEP_OF_A_KIND = 400, 200
"""On the demo's catalogue 189 of 1,708 content floors of Home were missed without the second, 72 with it."""
_GROUP_RULES = ("unknown_item", "tombstone", "ineligible", "market", "tier", "unreleased", "trailer", "out_of_order")


@dataclasses.dataclass(frozen=True)
class RetrieveGroups:
    """Propose for every market and tier, and for anybody (`*|*|*`).

    What may not be played there is left out here, once for all users of the group; filtering later would starve small
    markets. The best `KEEP` stay and the best `KEEP_OF_A_KIND` of each kind of content, so that floors for talk, books and
    videos are met where music is played most; and as many that anybody may hear, children too, however explicit the charts of
    a market are. Of what may be explored, all stays. Memory: charts of all markets, and markets x tiers x (twice `KEEP`, twice
    `KEEP_OF_A_KIND` of each kind and a pool) rows.
    """

    sources: Mapping[str, Source]
    policy: SurfacePolicy
    instant: Instant

    def __call__(self, shard: Shard) -> Output:
        charts = shard.read("popularity", ["market"])["market"].unique()
        markets = sorted({ANY, *charts.to_list()})
        pairs = [(market, tier) for market in markets for tier in sorted({ANY, *TIERS})]
        keys = pl.DataFrame(
            {"key": [group_key(*p) for p in pairs], "market": [m for m, _ in pairs], "tier": [t for _, t in pairs]}
        ).with_columns(pl.lit(None, pl.List(pl.String)).alias("follows"))
        bundle = ShardBundle(shard)
        found = propose(self.sources, without_listens(keys, self.policy, self.instant.effective_from), bundle)
        return Output(self._servable(found, shard, bundle).sort(PROPOSAL.key), rows_in=keys.height)

    def _servable(self, found: pl.DataFrame, shard: Shard, bundle: ShardBundle) -> pl.DataFrame:
        facts = group_facts(found, read_world(shard), bundle, self.policy, self.instant)
        grown_up = facts.records.with_columns(
            pl.lit(True).alias("explicit_allowed"),
            pl.lit(ADULT, pl.Int32).alias("max_age"),
            pl.lit(True).alias("may_video"),
        )
        _, shared = offer(found, facts, self.policy, pools=True)
        judged = hard_filters(shared, dataclasses.replace(facts, records=grown_up), self.policy, self.instant)
        passed = ~np.isin(judged.rule, [1 + HARD_FILTERS.index(name) for name in _GROUP_RULES])
        for_all = hard_filters(shared, facts, self.policy, self.instant).rule == 0
        row = shared.p[passed].astype(np.int64)
        order = np.argsort(row, kind="stable")
        kind = facts.item_codes.arrays.items["kind"][shared.i[passed]]
        told = {"__for_all": for_all[passed][order], "__kind": kind[order]}
        kept = found[row[order]].with_columns(pl.Series(name, values) for name, values in told.items())
        place = pl.int_range(pl.len(), dtype=pl.Int32).over("key", "source_id").alias("source_rank")
        best = _first(KEEP, "key", "source_id") | _first(KEEP_OF_A_KIND, "key", "source_id", "__kind")
        best |= pl.col("source_id") == self.policy.explore
        return kept.with_columns(place).filter(best).drop(*told)


def _first(most: int, *by: str) -> pl.Expr:
    """Tell what is among the first of its group, or of what anybody may hear there."""
    for_all = pl.col("__for_all")
    return (pl.int_range(pl.len()).over(by) < most) | (for_all & (for_all.cum_sum().over(by) <= most))


def group_key(market: str, tier: str) -> str:
    """Return the proposal key for whoever is in a market with a tier."""
    return f"{GROUP_PREFIX}{market}|{tier}"
