"""Tallies: plays, co-listens and transitions, counted by day and added up with decay.

Everything is a sum of integers (see `schemas.tallies`), so that days and shards add up in any order to the same bytes.
"""

import datetime

import numpy as np
import polars as pl

from schemas.hashing import shard_of
from schemas.tallies import ANY, CO_LISTEN, POPULARITY, TRANSITION, WEIGHT_UNIT
from transforms.histories import REPEATS_PER_SESSION, personal_events, repeat_in_session
from transforms.shards import TARGET

PAIR_WINDOW = 10
FOLLOWER_STEPS = 2
TOP_POPULAR = 1000
TOP_NEIGHBOURS = 100
TOP_FOLLOWERS = 100
TOP_BACKOFF = 200
TOP_OF_ARTIST = 50
SHRINKAGE = 2.0 * WEIGHT_UNIT
OTHER_EXPONENT = 0.5
_RECOMMENDED_SHARE = 2
_RETURN_PRIOR = 4 * WEIGHT_UNIT
_DECAY_BITS = 20


def weighted_positives(events: pl.DataFrame) -> pl.DataFrame:
    """Return positive events with an integer weight, in user and time order.

    A recommended play weighs half an organic one, promoted exposure nothing, and the fourth repeat in a session nothing.
    """
    weight = (pl.col("label") * WEIGHT_UNIT).round().cast(pl.Int64)
    liked = events.filter((pl.col("label") > 0) & pl.col("campaign_id").is_null()).sort("user_id", "event_ts", "event_id")
    capped = liked.with_columns(repeat_in_session()).filter(pl.col("__repeat") < REPEATS_PER_SESSION)
    return capped.with_columns(
        pl.when(pl.col("is_organic").fill_null(True)).then(weight).otherwise(weight // _RECOMMENDED_SHARE).alias("weight")
    )


def popularity_of_day(events: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Count positive plays by item, market and tier, from one day's events of one user shard.

    Args:
      users: `user_id`, `tier` of the same shard; an unknown user counts as free.
    """
    joined = weighted_positives(events).join(users, on="user_id", how="left")
    return (
        joined.group_by(
            "event_date", "item_id", "item_type", pl.col("market").fill_null(ANY), pl.col("tier").fill_null("free")
        )
        .agg(pl.col("weight").sum(), pl.len().cast(pl.Int64).alias("plays"))
    )


def pairs_of_day(events: pl.DataFrame) -> pl.DataFrame:
    """Count pairs of items that one user liked on one day at most `PAIR_WINDOW` items apart.

    A pair weighs the smaller of its two weights, half of it across sessions. Both directions are returned, and each
    item with itself: `weight` its own total, `returns` what users came back for within the day.
    """
    liked = weighted_positives(personal_events(events))
    seen = liked.group_by("event_date", "user_id", "item_id", maintain_order=True).agg(
        pl.col("session_id").first(), pl.col("weight").max(), pl.col("weight").sum().alias("total")
    )
    own = seen.group_by("event_date", "item_id").agg(
        pl.col("weight").sum(), (pl.col("total") - pl.col("weight")).sum().alias("returns")
    ).with_columns(pl.col("item_id").alias("other_item_id"))
    pairs = [_pairs_at(seen, step) for step in range(1, PAIR_WINDOW + 1)]
    forward = pl.concat(pairs).group_by("event_date", "item_id", "other_item_id").agg(pl.col("weight").sum())
    backward = forward.rename({"item_id": "other_item_id", "other_item_id": "item_id"}).select(forward.columns)
    both = pl.concat([forward, backward]).with_columns(pl.lit(0, pl.Int64).alias("returns"))
    return pl.concat([both, own.select(both.columns)])


def _pairs_at(seen: pl.DataFrame, step: int) -> pl.DataFrame:
    """Pair each row with the one `step` rows on, where that is the same user's."""
    smaller = pl.min_horizontal("weight", pl.col("weight").shift(-step))
    same_session = pl.col("session_id") == pl.col("session_id").shift(-step)
    paired = seen.select(
        "event_date",
        "item_id",
        pl.col("item_id").shift(-step).alias("other_item_id"),
        pl.when(same_session).then(smaller).otherwise(smaller // 2).alias("weight"),
        (pl.col("user_id") == pl.col("user_id").shift(-step)).alias("__same"),
    )
    return paired.filter(pl.col("__same")).drop("__same")


def transitions_of_day(events: pl.DataFrame) -> pl.DataFrame:
    """Count what followed what within a session: a direct follower in full, the one after it by half."""
    liked = weighted_positives(personal_events(events))
    steps = [_followers_at(liked, step) for step in range(1, FOLLOWER_STEPS + 1)]
    return pl.concat(steps).group_by("event_date", "item_id", "next_item_id").agg(pl.col("weight").sum())


def _followers_at(liked: pl.DataFrame, step: int) -> pl.DataFrame:
    def there(name: str) -> pl.Expr:
        return pl.col(name).shift(-step)

    same = (pl.col("user_id") == there("user_id")) & (pl.col("session_id") == there("session_id"))
    followed = liked.select(
        "event_date",
        "item_id",
        there("item_id").alias("next_item_id"),
        (pl.min_horizontal("weight", there("weight")) // step).alias("weight"),
        (same & (pl.col("item_id") != there("item_id"))).alias("__same"),
    )
    return followed.filter(pl.col("__same")).drop("__same")


def add_days(partials: pl.DataFrame, keys: list[str], as_of: datetime.date, half_life_days: float) -> pl.DataFrame:
    """Add daily partials up as of a date: every integer column, each day times `0.5 ** (age / half_life)`.

    The factor is fixed-point (20 bits), so that the sum is exact. What decays to nothing is left out.
    """
    sums = [name for name in ("weight", "returns") if name in partials.columns]
    ages = {day: (as_of - day).days for day in partials["event_date"].unique()}
    factors = {day: round(2**_DECAY_BITS * 0.5 ** (age / half_life_days)) for day, age in ages.items()}
    factor = pl.col("event_date").replace_strict(factors, return_dtype=pl.Int64) if factors else pl.lit(0, pl.Int64)
    decayed = partials.group_by(keys).agg((pl.col(*sums) * factor).sum() // 2**_DECAY_BITS)
    return decayed.filter(pl.col("weight") > 0)


def top(frame: pl.DataFrame, within: list[str], by: str, tie: str, limit: int) -> pl.DataFrame:
    """Keep the `limit` best rows per group with their `rank` from 0; ties go to the smaller id."""
    ranked = frame.sort([*within, by, tie], descending=[*[False] * len(within), True, False])
    rank = pl.int_range(pl.len(), dtype=pl.Int32).over(within).alias("rank")
    return ranked.with_columns(rank).filter(pl.col("rank") < limit)


def emit_popular(partials: pl.DataFrame, as_of: datetime.date, half_life_days: float, num_shards: int) -> pl.DataFrame:
    """Return one item shard's best per market, tier and type, with sums over all markets and tiers as `*`, by market."""
    keys = ["market", "tier", "item_type", "item_id"]
    total = add_days(partials, keys, as_of, half_life_days)
    levels = [total, _rolled_up(total, "tier"), _rolled_up(_rolled_up(total, "tier"), "market")]
    known = [levels[0].filter(pl.col("market") != ANY), levels[1].filter(pl.col("market") != ANY), levels[2]]
    best = top(pl.concat(known), keys[:3], "weight", "item_id", TOP_POPULAR).drop("rank")
    return to_shards(best, "market", num_shards)


def _rolled_up(total: pl.DataFrame, column: str) -> pl.DataFrame:
    keys = ["market", "tier", "item_type", "item_id"]
    return total.with_columns(pl.lit(ANY).alias(column)).group_by(keys).agg(pl.col("weight").sum())


def popularity(parts: pl.DataFrame) -> pl.DataFrame:
    """Merge the best of all item shards into the popularity contract."""
    return top(parts, ["market", "tier", "item_type"], "weight", "item_id", TOP_POPULAR).select(
        POPULARITY.schema.names
    ).sort(POPULARITY.key)


def emit_artist_items(
    partials: pl.DataFrame, items: pl.DataFrame, as_of: datetime.date, half_life_days: float, num_shards: int
) -> pl.DataFrame:
    """Return one item shard's best items of each artist or show, by artist; an item nobody played counts 0."""
    total = add_days(partials, ["item_id"], as_of, half_life_days)
    owned = items.select("item_id", primary_artist().alias("artist_id")).drop_nulls()
    weighed = owned.join(total, on="item_id", how="left").with_columns(pl.col("weight").fill_null(0))
    return to_shards(top(weighed, ["artist_id"], "weight", "item_id", TOP_OF_ARTIST).drop("rank"), "artist_id", num_shards)


def primary_artist() -> pl.Expr:
    """Return the first artist of an item, else its show; null where it has neither."""
    return pl.coalesce(pl.col("artists").list.first().struct.field("artist_id"), pl.col("show_id"))


def emit_pairs(partials: pl.DataFrame, as_of: datetime.date, half_life_days: float, num_shards: int) -> pl.DataFrame:
    """Return one item shard's decayed pairs, sent to the other item's shard with what is known of the first.

    Columns: `item_id` the seed (the other side), `other_item_id`, `weight`, `other_weight`, `other_return_rate`.
    """
    total = add_days(partials, ["item_id", "other_item_id"], as_of, half_life_days)
    own = total.filter(pl.col("item_id") == pl.col("other_item_id"))
    own = own.select(
        "item_id",
        pl.col("weight").alias("other_weight"),
        (pl.col("returns") / (pl.col("weight") + pl.col("returns") + _RETURN_PRIOR)).cast(pl.Float32).alias("other_return_rate"),
    )
    sent = total.join(own, on="item_id").select(
        pl.col("other_item_id").alias("item_id"),
        pl.col("item_id").alias("other_item_id"),
        "weight",
        "other_weight",
        "other_return_rate",
    )
    return to_shards(sent, "item_id", num_shards)


def co_listens(parts: pl.DataFrame) -> pl.DataFrame:
    """Score and cut the neighbours of every seed of a shard, in the co-listen contract.

    `score = w / sqrt(n_seed) / n_other ** 0.5 * w / (w + shrinkage)`: a cosine, shrunk where there is little evidence
    (Sarwar et al. 2001; shrinkage as in Bell and Koren 2007).
    """
    same = pl.col("item_id") == pl.col("other_item_id")
    own = parts.filter(same).select("item_id", pl.col("other_weight").alias("seed_weight"))
    pairs = parts.filter(~same).join(own, on="item_id")
    w, unit = pl.col("weight").cast(pl.Float64), float(WEIGHT_UNIT)
    cosine = (w / unit) / ((pl.col("seed_weight") / unit).sqrt() * (pl.col("other_weight") / unit).pow(OTHER_EXPONENT))
    scored = pairs.with_columns((cosine * w / (w + SHRINKAGE)).cast(pl.Float32).alias("score"))
    return top(scored, ["item_id"], "score", "other_item_id", TOP_NEIGHBOURS).select(CO_LISTEN.schema.names).sort(
        CO_LISTEN.key
    )


def emit_transitions(
    partials: pl.DataFrame, items: pl.DataFrame, as_of: datetime.date, half_life_days: float, num_shards: int
) -> pl.DataFrame:
    """Return one item shard's decayed transitions on every back-off level, by context.

    Columns: `level`, `context_id`, `next_item_id`, `weight`, `context_weight` (this shard's part of the context's total).
    """
    total = add_days(partials, ["item_id", "next_item_id"], as_of, half_life_days)
    known = items.select(
        "item_id",
        pl.when(pl.col("canonical_id") != pl.col("item_id")).then("canonical_id").alias("canonical"),
        primary_artist().alias("artist"),
        pl.col("genres").list.first().alias("genre"),
    )
    joined = total.join(known, on="item_id", how="left").with_columns(pl.col("item_id").alias("item"))
    levels = [_at_level(joined, level) for level in ("item", "canonical", "artist", "genre")]
    return to_shards(pl.concat(levels), "context_id", num_shards)


def _at_level(joined: pl.DataFrame, level: str) -> pl.DataFrame:
    counted = joined.filter(pl.col(level).is_not_null()).group_by(pl.col(level).alias("context_id"), "next_item_id").agg(
        pl.col("weight").sum()
    )
    whole = counted.with_columns(pl.col("weight").sum().over("context_id").alias("context_weight"))
    kept = whole if level == "item" else top(whole, ["context_id"], "weight", "next_item_id", TOP_POPULAR).drop("rank")
    return kept.select(pl.lit(level).alias("level"), "context_id", "next_item_id", "weight", "context_weight")


def transitions(parts: pl.DataFrame) -> pl.DataFrame:
    """Merge transitions by context into the transition contract; parts come one row group per emitting shard.

    Args:
      parts: with `part`, the number of the emitting shard, so that each shard's part of a context's total counts once.
    """
    keys = ["level", "context_id"]
    totals = parts.unique([*keys, "part"]).group_by(keys).agg(pl.col("context_weight").sum())
    summed = parts.group_by(*keys, "next_item_id").agg(pl.col("weight").sum()).join(totals, on=keys)
    likely = (pl.col("weight") / pl.col("context_weight")).cast(pl.Float32).alias("probability")
    ranked = top(summed.with_columns(likely), keys, "weight", "next_item_id", TOP_BACKOFF)
    enough = (pl.col("level") != "item") | (pl.col("rank") < TOP_FOLLOWERS)
    return ranked.filter(enough).select(TRANSITION.schema.names).sort(TRANSITION.key)


def to_shards(frame: pl.DataFrame, column: str, num_shards: int) -> pl.DataFrame:
    """Add the column that names each row's target shard."""
    shards = shard_of(frame[column].to_arrow(), num_shards) if frame.height else np.empty(0, np.int32)
    return frame.with_columns(pl.Series(TARGET, shards, pl.Int32).cast(pl.String).str.zfill(5))
