"""Off-policy rows of Home: what each user explored, what came of it, and how another policy would have drawn.

What is estimated is the worth of a *candidate*: the share of explored items that their users like in the days after, over users
who like anything then. What the ranker did with them is left out (`docs/exploration.md`).

A policy draws one item of a record's pool with a probability in proportion to a weight. The pool of a record is that of its
group (`transforms.explore_pool`) without what the set holds anyway and what is kept from this listener. The former is left out
of the mean of the weights here; the latter, which only blending knows, is taken to weigh as much as the rest. Where that is
wrong the mean weight of all rows is not 1, which is why it is told.

Memory: the shard's positives of the window, `SETS_AT_ONCE` sets, and the pools of all groups, a thousand rows each.
"""

import dataclasses
import datetime
from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from schemas.candidates import PROPOSAL
from schemas.evaluation import OFF_POLICY
from schemas.tallies import ANY
from transforms.evaluation_home import EVENT_COLUMNS, Window, recordings_of
from transforms.evaluation_lists import SETS_AT_ONCE
from transforms.groups import group_key
from transforms.histories import personal_events
from transforms.off_policy import Sums
from transforms.retrieve import ShardBundle
from transforms.shards import Output, Shard, read_tables

POLICIES: dict[str, pl.Expr] = {
    "uniform": pl.lit(1.0),
    "popularity": (pl.col("positives") + 1).cast(pl.Float64),
    "unpopularity": 1.0 / (pl.col("positives") + 1),
    "catalogue": 1.0 / pl.col("raw_score"),
}
"""Weight of an item of a pool: each alike, as was drawn; by its positives in all histories, or by one over them; as if each
item of the catalogue were alike, and not each of the sample."""
CLIP, HIGHEST = 20.0, 1.0
_ELEMENT = "candidates.list.element"
_READ = ["record_key", "market", "tier", "exploration_policy.slots",
         *(f"{_ELEMENT}.{name}" for name in ("item_id", "canonical_id", "is_exploration", "propensity"))]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AddOutcomes:
    """Add up what came of the explored items of a shard, once for each policy."""

    window: Window
    day: datetime.date
    explore: str

    def __call__(self, shard: Shard) -> Output:
        liked, pools = _liked(shard, self.window), _pools(shard, self.explore)
        sums = {name: nothing() for name in POLICIES}
        for sets in _sets(shard, liked["user_id"].unique()):
            for name, weight in POLICIES.items():
                sums[name] += sums_of(outcomes(sets, pools.with_columns(weight.alias("weight")), liked))
        rows = [self._row(name, shard.number, one) for name, one in sorted(sums.items())]
        return Output(pl.DataFrame(rows).select(OFF_POLICY.schema.names), rows_in=liked.height)

    def _row(self, name: str, number: int, one: Sums) -> dict:
        told = {"clusters": one.clusters, "total": one.total, "products": one.products.ravel(), "squares": one.squares}
        return {"logical_date": self.day, "policy": name, "shard": number, "clip": CLIP, "highest": HIGHEST} | told


def nothing() -> Sums:
    """Return the sums of no row."""
    none = np.zeros(0)
    return Sums.of(none, none, none, none, CLIP, HIGHEST)


def _liked(shard: Shard, window: Window) -> pl.DataFrame:
    """Return `user_id`, `canonical_id` of what each user liked in the window, under any of its recordings."""
    during = pl.col("event_ts").is_between(window.start, window.end, closed="left") & (pl.col("label") > 0)
    events = personal_events(shard.read("event", EVENT_COLUMNS, during))
    recordings = recordings_of(events["item_id"], ShardBundle(shard)).select("item_id", "canonical_id")
    return (
        events.join(recordings, on="item_id").select("user_id", "canonical_id").unique().sort("user_id", "canonical_id")
    )


def _pools(shard: Shard, explore: str) -> pl.DataFrame:
    """Return the pools of all groups: `group`, `item_id`, `canonical_id`, `raw_score`, `positives`."""
    rows = read_tables(shard.paths("groups"), PROPOSAL, ["key", "item_id", "raw_score"], pl.col("source_id") == explore)
    bundle, ids = ShardBundle(shard), rows["item_id"].unique()
    known = bundle.lookup("item", "item_id", ids, ["item_id", "canonical_id"])
    played = bundle.lookup("vocabulary", "item_id", ids, ["item_id", "positives"])
    told = rows.rename({"key": "group"}).join(known, on="item_id", maintain_order="left")
    return told.join(played, on="item_id", how="left", maintain_order="left").with_columns(
        pl.col("positives").fill_null(0)
    )


def _sets(shard: Shard, users: pl.Series) -> Iterator[pl.DataFrame]:
    """Yield the candidates of the users' own sets, some sets at a time: `record_key`, `market`, `tier`, `slots` and `_READ`."""
    for path in shard.paths("candidate_set"):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=SETS_AT_ONCE, columns=_READ):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            own = frame.filter(pl.col("record_key").is_in(users.implode()))
            yield own.unnest("exploration_policy").explode("candidates").drop_nulls("candidates").unnest("candidates")


def outcomes(sets: pl.DataFrame, pools: pl.DataFrame, liked: pl.DataFrame) -> pl.DataFrame:
    """Return a row per explored item: `record_key`, `reward` (0 or 1), `logged` and `target`, both probabilities of one slot.

    Args:
      sets: candidates, see `_sets`. pools: with `weight`.
    """
    of_group = pools.group_by("group", maintain_order=True).agg(
        pl.col("weight").sum().alias("mass"), pl.len().cast(pl.Int64).alias("size")
    )
    there = of_group["group"].implode()
    named = [pl.format(group_key("{}", "{}"), market, "tier") for market in ("market", pl.lit(ANY))]
    grouped = sets.with_columns(pl.coalesce(pl.when(name.is_in(there)).then(name) for name in named).alias("group"))
    held = grouped.filter(~pl.col("is_exploration")).join(
        pools, on=["group", "canonical_id"], maintain_order="left_right"
    )
    kept_out = held.group_by("record_key", maintain_order=True).agg(
        pl.col("weight").sum().alias("held"), pl.len().cast(pl.Int64).alias("out")
    )
    drawn = grouped.filter("is_exploration").join(pools.select("group", "item_id", "weight"), on=["group", "item_id"],
                                                  maintain_order="left")  # fmt: skip
    told = drawn.join(of_group, on="group", maintain_order="left").join(
        kept_out, on="record_key", how="left", maintain_order="left"
    )
    mean = (pl.col("mass") - pl.col("held").fill_null(0)) / (pl.col("size") - pl.col("out").fill_null(0))
    logged = pl.col("propensity") / pl.col("slots")
    rewarded = liked.select(pl.col("user_id").alias("record_key"), "canonical_id", pl.lit(1.0).alias("reward"))
    found = told.join(rewarded, on=["record_key", "canonical_id"], how="left", maintain_order="left")
    # a pool so small that the estimate of its mass exceeds it gives no probability above 1
    target = pl.min_horizontal(logged * pl.col("weight") / mean, 1.0)
    return found.select("record_key", pl.col("reward").fill_null(0), logged.alias("logged"), target.alias("target"))


def sums_of(rows: pl.DataFrame) -> Sums:
    """Add outcomes up."""
    who, reward, logged, target = (rows[name].to_numpy() for name in ("record_key", "reward", "logged", "target"))
    return Sums.of(who, reward, logged, target, CLIP, HIGHEST)
