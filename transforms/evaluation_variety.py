"""What lists are like as a whole: how little known their items are, how far apart, and how they compare with what was played.

    self-information    mean of -log2 p(item) in bits, p = (positives + 1) / (all positives + items): Zhou et al. 2010
    distance            mean of 1 - cosine over all pairs of a list: Ziegler et al. 2005, on the vectors of the bundle
    popularity          mean share of all positives, in millionths; that of sets over that of histories is the popularity
                        lift of a group: Abdollahpouri et al. 2020

Memory: of the items in a shard's lists the ids, positives and vectors, `4 * dim` bytes and an id each.
"""

import dataclasses

import numpy as np
import polars as pl

from schemas.evaluation import POPULARITY, SETS, UNIT
from schemas.tallies import ANY
from transforms.retrieve import ShardBundle
from transforms.shards import Shard

_MILLION = 1e6


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """What lists are described by.

    Attributes:
      head: ids of the items that are played most.
      items: `item_id`, unique; `bits`, its self-information in 1/UNIT bits, and `positives`, both Int64; `row` of its vector.
      positives, num_items: of all items that models know.
      vectors: `(num_vectors, dim) float32`.
    """

    head: pl.Series
    items: pl.DataFrame
    positives: int
    num_items: int
    vectors: np.ndarray

    def described(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add the columns of `items` to lists; what models do not know was never played.

        Args:
          rows: `item_id`; their order stays.
        """
        joined = rows.join(self.items, on="item_id", how="left", maintain_order="left")
        never = _bits(np.zeros(1), self.positives, self.num_items)[0]
        return joined.with_columns(pl.col("bits").fill_null(int(never)), pl.col("positives").fill_null(0))

    def popularity(self) -> pl.Expr:
        """Return the mean popularity of described rows, in millionths."""
        return pl.col("positives").sum() * (_MILLION / max(self.positives, 1)) / pl.len()


def known_items(shard: Shard, item_ids: pl.Series) -> Known:
    """Read what the items of some lists are described by."""
    bundle, ids = ShardBundle(shard), item_ids.drop_nulls().unique().sort()
    everything = shard.read("vocabulary", ["positives"])["positives"]
    positives, num_items = int(everything.sum()), len(everything)
    played = bundle.lookup("vocabulary", "item_id", ids, ["item_id", "positives"])
    embedded = bundle.lookup("item_embedding", "item_id", ids, ["item_id", "vector"])
    rows = embedded.select("item_id").with_row_index("row")
    items = ids.alias("item_id").to_frame().join(played, on="item_id", how="left").join(rows, on="item_id", how="left")
    items = items.with_columns(pl.col("positives").fill_null(0))
    bits = pl.Series("bits", _bits(items["positives"].to_numpy(), positives, num_items), pl.Int64)
    vectors = embedded["vector"].to_numpy() if embedded.height else np.empty((0, 1), np.float32)
    return Known(_most_played(shard), items.with_columns(bits), positives, num_items, vectors)


def _bits(positives: np.ndarray, total: int, num_items: int) -> np.ndarray:
    """Return the self-information of items in 1/UNIT bits, so that sums of them do not depend on their order."""
    shares = (positives + 1) / (total + max(num_items, 1))
    return np.rint(-np.log2(shares) * UNIT).astype(np.int64)


def _most_played(shard: Shard) -> pl.Series:
    """Return the ids in the charts of everywhere and everybody, some thousand of each type."""
    everywhere = (pl.col("market") == ANY) & (pl.col("tier") == ANY)
    return shard.read("popularity", ["item_id"], everywhere)["item_id"].unique().sort()


def totals(rows: pl.DataFrame, known: Known) -> pl.DataFrame:
    """Return figures of whole sets as `record`, `ranking`, `metric`, `value`: what they hold and how far apart it is.

    Args:
      rows: candidates, those of a record in a row in order of their positions.
    """
    told = known.described(rows)
    sets = told.group_by("record", maintain_order=True).agg(
        pl.len().cast(pl.Float64).alias("size"),
        (pl.col("familiarity") == "new_artist").mean().alias("new_artist"),
        (pl.col("familiarity") != "known").mean().alias("unknown"),
        pl.col("is_fresh").mean().alias("fresh"),
        (~pl.col("item_id").is_in(known.head.implode())).mean().alias("tail"),
        (pl.col("bits").sum() / pl.len() / UNIT).alias("self_information"),
        known.popularity().alias(POPULARITY),
    )
    if len(known.vectors):
        sets = sets.join(distances(told, known.vectors), on="record", maintain_order="left")
    shares = sets.unpivot(index="record", variable_name="metric").with_columns(pl.lit(SETS).alias("ranking"))
    slots = rows.select("record", pl.col("sources").alias("ranking")).explode("ranking").drop_nulls()
    counted = slots.group_by("record", "ranking").agg(pl.len().cast(pl.Float64).alias("value"))
    counted = counted.with_columns(pl.lit("slots").alias("metric"))
    return pl.concat([frame.select("record", "ranking", "metric", "value") for frame in (shares, counted)])


def distances(rows: pl.DataFrame, vectors: np.ndarray) -> pl.DataFrame:
    """Return `record`, `distance`: the mean distance of two of its items; 0 where fewer than two have a vector.

    Of n vectors of length 1, `(|sum of them|^2 - n) / (n (n - 1))` is the mean cosine of all pairs: no pair is looked at.

    Args:
      rows: `record` and `row`, those of a record one after the other.
    """
    there = rows.filter(pl.col("row").is_not_null())
    sizes = there.group_by("record", maintain_order=True).len()
    counts = sizes["len"].to_numpy().astype(np.int64)
    own = vectors[there["row"].to_numpy()]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    if len(own):
        sums = np.add.reduceat(own, starts, axis=0, dtype=np.float64)
        squares = np.add.reduceat(np.einsum("nd,nd->n", own, own, dtype=np.float64), starts)
        pairs = np.einsum("nd,nd->n", sums, sums) - squares
        means = np.where(counts > 1, 1 - pairs / np.maximum(counts * (counts - 1), 1), 0.0)
    else:
        means = np.empty(0)
    found = sizes.select("record").with_columns(pl.Series("distance", np.clip(means, 0, 2), pl.Float64))
    every = rows.select("record").unique(maintain_order=True)
    return every.join(found, on="record", how="left", maintain_order="left").with_columns(
        pl.col("distance").fill_null(0)
    )


def played_popularity(histories: pl.DataFrame, known: Known) -> pl.DataFrame:
    """Return `user_id`, `value`: the popularity of what each user liked, an item once; whoever liked nothing is left out.

    Args:
      histories: `user_id`, `item_id`.
    """
    told = known.described(histories.unique())
    return told.group_by("user_id").agg(known.popularity().alias("value")).sort("user_id")
