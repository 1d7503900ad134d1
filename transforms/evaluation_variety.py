"""What lists are like as a whole: how little known and how unlike their items are, and how they compare with what was played.

    self-information    mean of -log2 p(item) in bits, p = (positives + 1) / (all positives + items): Zhou et al. 2010
    distance            mean of 1 - cosine over all pairs of a list: Ziegler et al. 2005, on the vectors of the bundle
    popularity          mean share of all positives, in millionths; that of sets over that of histories is the popularity
                        lift of a group: Abdollahpouri et al. 2020
    artist_entropy      -sum p log2 p in bits, p the share of an artist among a list's items that have one: Shannon 1948
    calibration         KL(p || 0.99 q + 0.01 p) in bits, p the share of a content type or genre in what a user played and q
                        in the list; an item counts once, shared equally among its genres: Steck 2018, with its 0.01

Memory: of the items in a shard's lists the ids, positives, artists, genres and vectors, `4 * dim` bytes and about 200 each; of
its users the shares of types and genres, some dozen rows each.
"""

import dataclasses

import numpy as np
import polars as pl

from schemas.evaluation import CALIBRATED, POPULARITY, SETS, UNIT
from schemas.tallies import ANY
from transforms.retrieve import ShardBundle
from transforms.shards import Shard
from transforms.tallies import primary_artist

_MILLION = 1e6
_SMOOTHING = 0.01
"""Of a list's shares, what is taken from the user's own, so that what a list lacks is no infinite distance (Steck 2018)."""
LEANING = {"user_id": pl.String, "metric": pl.String, "of": pl.String, "share": pl.Float64}


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """What lists are described by.

    Attributes:
      head: ids of the items that are played most.
      items: `item_id`, unique; `bits`, its self-information in 1/UNIT bits, and `positives`, both Int64; `row` of its vector;
        `artist_id`, its first artist or its show, `item_type` and `genres`, null where the catalogue does not say.
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
    told = bundle.lookup("item", "item_id", ids, ["item_id", "item_type", "genres", "artists", "show_id"])
    told = told.select("item_id", primary_artist().alias("artist_id"), "item_type", "genres")
    items = items.join(told, on="item_id", how="left").with_columns(pl.col("positives").fill_null(0)).sort("item_id")
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
      rows: described candidates, those of a record in a row in order of their positions.
    """
    sets = rows.group_by("record", maintain_order=True).agg(
        pl.len().cast(pl.Float64).alias("size"),
        (pl.col("familiarity") == "new_artist").mean().alias("new_artist"),
        (pl.col("familiarity") != "known").mean().alias("unknown"),
        pl.col("is_fresh").mean().alias("fresh"),
        (~pl.col("item_id").is_in(known.head.implode())).mean().alias("tail"),
        (pl.col("bits").sum() / pl.len() / UNIT).alias("self_information"),
        known.popularity().alias(POPULARITY),
    )
    sets = sets.join(artist_entropy(rows), on="record", maintain_order="left")
    if len(known.vectors):
        sets = sets.join(distances(rows, known.vectors), on="record", maintain_order="left")
    shares = sets.unpivot(index="record", variable_name="metric").with_columns(pl.lit(SETS).alias("ranking"))
    slots = rows.select("record", pl.col("sources").alias("ranking")).explode("ranking").drop_nulls()
    counted = slots.group_by("record", "ranking").agg(pl.len().cast(pl.Float64).alias("value"))
    counted = counted.with_columns(pl.lit("slots").alias("metric"))
    return pl.concat([frame.select("record", "ranking", "metric", "value") for frame in (shares, counted)])


def artist_entropy(rows: pl.DataFrame) -> pl.DataFrame:
    """Return `record`, `artist_entropy`: log2(n) - sum(c log2 c) / n of the n items that have an artist, c by artist.

    0 where all are of one artist, or none has any.

    Args:
      rows: described, of records one after the other.
    """
    by_artist = (
        rows.group_by("record", "artist_id", maintain_order=True).len("c").filter(pl.col("artist_id").is_not_null())
    )
    n, c = pl.col("c").sum().cast(pl.Float64), pl.col("c").cast(pl.Float64)
    found = by_artist.group_by("record", maintain_order=True).agg(
        (n.log(2) - (c * c.log(2)).sum() / n).alias("artist_entropy")
    )
    every = rows.select("record").unique(maintain_order=True)
    return every.join(found, on="record", how="left", maintain_order="left").with_columns(
        pl.col("artist_entropy").fill_null(0)
    )


def leanings(rows: pl.DataFrame, key: str) -> pl.DataFrame:
    """Return `key`, `metric`, `of`, `share`: how content types and genres are shared out; items that have none are left out.

    Args:
      rows: described, in an order that stays.
    """
    share = pl.col("weight") / pl.col("weight").sum().over(key)
    genres = rows.select(key, pl.col("genres").alias("of"), (1 / pl.col("genres").list.len()).alias("weight"))
    of_each = {
        "type": rows.select(key, pl.col("item_type").alias("of"), pl.lit(1.0).alias("weight")),
        "genre": genres.explode("of"),
    }
    found = [
        one.drop_nulls("of").group_by(key, "of", maintain_order=True).agg(pl.col("weight").sum()).select(
            key, pl.lit(CALIBRATED[kind][0]).alias("metric"), "of", share.alias("share"))
        for kind, one in of_each.items()
    ]  # fmt: skip
    return pl.concat(found)


def miscalibration(wanted: pl.DataFrame, given: pl.DataFrame) -> pl.DataFrame:
    """Return `unit`, `metric`, `value`: how far the lists are from what their users played, in bits, and a 1 for who is told of.

    Args:
      wanted: `unit`, `record`, `metric`, `of`, `share` of what each unit played. given: the same of lists, by `record`.
    """
    p, q = pl.col("share"), pl.col("share_given").fill_null(0)
    both = wanted.join(given, on=["record", "metric", "of"], how="left", maintain_order="left", suffix="_given")
    bits = (p * (p / ((1 - _SMOOTHING) * q + _SMOOTHING * p)).log(2)).sum().clip(0)
    found = both.group_by("unit", "metric", maintain_order=True).agg(bits.alias("value"))
    ones = found.with_columns(pl.col("metric").replace_strict(dict(CALIBRATED.values())), pl.lit(1.0).alias("value"))
    return pl.concat([found, ones])


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


def played_leanings(histories: pl.DataFrame, known: Known) -> pl.DataFrame:
    """Return what each user's likes lean to, as `LEANING`, an item once.

    Args:
      histories: `user_id`, `item_id`.
    """
    once = histories.unique().sort("user_id", "item_id")
    return leanings(known.described(once), "user_id").select(list(LEANING))
