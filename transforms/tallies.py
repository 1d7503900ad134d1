"""Tallies: plays, co-listens and transitions, counted by day and added up with decay.

Everything is a sum of integers (see `schemas.tallies`), so that days and shards add up in any order to the same bytes.
"""

import datetime
import functools
import math

import numpy as np
import polars as pl
import polars.selectors as cs

from schemas.hashing import shard_of
from schemas.tallies import ANY, CO_LISTEN, POPULARITY, TRANSITION, TRANSITION_LEVELS, WEIGHT_UNIT
from transforms.histories import personal_events, without_repeats
from transforms.shards import EVERYONE, TARGET

MOST_PLAYS = 2_000
"""Positives of one user on one day: of music, at the least 30 s each, nearly 17 hours. Beyond it the key is put aside."""
PAIR_WINDOW = 10
FOLLOWER_STEPS = 2
TOP_POPULAR = 1000
TOP_NEIGHBOURS = 100
TOP_FOLLOWERS = 100
TOP_BACKOFF = 200
TOP_OF_ARTIST = 50
SHRINKAGE = 2.0 * WEIGHT_UNIT
OTHER_EXPONENT = 0.5
"""How much the other item's popularity counts against it: 0 not at all, 0.5 as in a cosine, 1 as in lift. On held-out
music sessions 0.25 finds the next track a little more often (`benchmarks/co_listen.py`), but puts one artist of
lastfm-2k into four of five Home sets, where 0.5 does so in one of three."""
_RECOMMENDED_SHARE = 2
_RETURN_PRIOR = 4 * WEIGHT_UNIT
_DECAY_BITS = 20


def weighted_positives(events: pl.DataFrame) -> pl.DataFrame:
    """Return positive events with an integer weight, in date, user and time order.

    A recommended play weighs half an organic one, promoted exposure nothing, and the fourth repeat in a session nothing; nor
    does anything of a user on a day on which no person can have listened to so much.

    Args:
      events: of any number of days; a session counts as another one after midnight, so that days add up.
    """
    weight = (pl.col("label") * WEIGHT_UNIT).round().cast(pl.Int64)
    liked = events.filter(_counted())
    ordered = without_machines(_ordered(liked, ["event_date", "user_id", "event_ts", "event_id"]))
    return without_repeats(ordered, ["event_date", "user_id", "session_id", "item_id"]).with_columns(
        pl.when(pl.col("is_organic").fill_null(True))
        .then(weight)
        .otherwise(weight // _RECOMMENDED_SHARE)
        .alias("weight")
    )


def _counted() -> pl.Expr:
    return (pl.col("label") > 0) & pl.col("campaign_id").is_null()


def without_machines(liked: pl.DataFrame) -> pl.DataFrame:
    """Leave out the days of users with more than `MOST_PLAYS` positives.

    Args:
      liked: in date and user order, whole days of users.
    """
    day = ["event_date", "user_id"]
    heavy = (pl.col(name) == pl.col(name).shift(-MOST_PLAYS) for name in day)
    machines = liked.filter(pl.all_horizontal(*heavy)).select(day).unique()
    return liked.join(machines, on=day, how="anti", maintain_order="left") if machines.height else liked


def machine_plays(events: pl.DataFrame) -> dict[str, int]:
    """Count what `without_machines` leaves out: days of users, and their positives."""
    days = events.filter(_counted()).group_by("event_date", "user_id").len()
    heavy = days.filter(pl.col("len") > MOST_PLAYS)["len"]
    return {"machine_days": len(heavy), "machine_plays": int(heavy.sum())}


def _ordered(frame: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Sort, unless the rows are in order already, as most are: looking costs a tenth of sorting."""
    columns, in_order = _sortable(frame, keys), pl.lit(True)
    for column in reversed(columns):
        before = column.shift()
        in_order = (before < column) | ((before == column) & in_order)
    return frame if frame.select(in_order.all()).item() else frame.sort(columns)


def _sortable(frame: pl.DataFrame, names: list[str]) -> list[pl.Expr]:
    """Return columns as what sorts fastest: the number of an enumerated value, which is in the order of the values."""
    return [pl.col(name).to_physical() if isinstance(frame.schema[name], pl.Enum) else pl.col(name) for name in names]


def popularity_by_day(events: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Count positive plays by day, item, market and tier, from the events of one user shard.

    Args:
      users: `user_id`, `tier` of the same shard; an unknown user counts as free.
    """
    joined = weighted_positives(events).join(users, on="user_id", how="left", maintain_order="left")
    counted = joined.select(
        "event_date",
        "item_id",
        "item_type",
        pl.col("market").fill_null(ANY),
        pl.col("tier").fill_null("free"),
        "weight",
        pl.lit(1, pl.Int64).alias("plays"),
    )
    return add_up(counted, ["event_date", "item_id", "item_type", "market", "tier"])


def add_up(counts: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Sum all other columns by `keys`, strings or dates without nulls, and order the sums by them.

    A key is made one number first: grouping and sorting numbers costs a fifth of doing it with strings.

    Raises:
      ValueError: the keys have more than 2^63 combinations.
    """
    if not counts.height:
        return counts
    types = {name: counts.schema[name] for name in keys}
    for name in (name for name in keys if types[name] == pl.String):
        counts = coded(counts, [name])
    codes = counts.select(_code(name) for name in keys)
    sizes = {name: codes.select(pl.col(name).max()).item() + 1 for name in keys}
    if math.prod(sizes.values()) > 2**63:
        raise ValueError(f"{sizes} give more than 2^63 keys to count by: use more shards")
    packed = functools.reduce(lambda key, name: key * sizes[name] + codes[name], keys[1:], codes[keys[0]])
    summed = counts.drop(keys).with_columns(packed.alias("__key")).group_by("__key").agg(pl.all().sum()).sort("__key")
    for name in reversed(keys):
        code, dtype = pl.col("__key") % sizes[name], counts.schema[name]
        named = code.cast(pl.Int32).cast(pl.Date) if dtype == pl.Date else code.cast(pl.UInt32).cat.to(dtype)
        summed = summed.with_columns(named.cast(types[name]).alias(name), pl.col("__key") // sizes[name])
    return summed.select(*keys, *(name for name in counts.columns if name not in keys))


def _code(name: str) -> pl.Expr:
    return pl.col(name).to_physical().cast(pl.UInt64)


def coded(frame: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """Return the frame with string columns as one enumeration of their sorted values."""
    values = pl.concat([frame[name].unique().rename("value") for name in columns]).unique().drop_nulls().sort()
    return frame.with_columns(pl.col(*columns).cast(pl.Enum(values)))


def pairs_by_day(events: pl.DataFrame) -> pl.DataFrame:
    """Count pairs of items that one user liked on one day at most `PAIR_WINDOW` items apart.

    A pair weighs the smaller of its two weights, half of it across sessions. Each pair is there once, the smaller id
    first; and each item with itself: `weight` its own total, `returns` what users came back for within the day. Items
    are enumerations.

    Memory: the events, and 150 bytes per positive.
    """
    liked = weighted_positives(personal_events(events)).with_columns(_visit())
    seen = (
        coded(liked, ["item_id"])
        .group_by("event_date", "visit", "item_id", maintain_order=True)
        .agg(pl.col("session_id").first(), pl.col("weight").max(), pl.col("weight").sum().alias("total"))
    )
    own = seen.select("event_date", "item_id", pl.col("item_id").alias("other_item_id"), "weight",
                      (pl.col("total") - pl.col("weight")).alias("returns"))  # fmt: skip
    own = own.group_by("event_date", "item_id", "other_item_id").agg(pl.col("weight", "returns").sum())
    days = [_counted_pairs(day) for day in seen.partition_by("event_date", maintain_order=True)]
    if not days:
        return own
    pairs = _unpacked(pl.concat(days), "other_item_id", seen["item_id"].dtype)
    return pl.concat([own, pairs.with_columns(pl.lit(0, pl.Int64).alias("returns")).select(own.columns)])


def _visit() -> pl.Expr:
    """Number the users of each day; rows must be in date and user order."""
    another = (pl.col("user_id") != pl.col("user_id").shift()) | (pl.col("event_date") != pl.col("event_date").shift())
    return another.fill_null(False).cum_sum().alias("visit")


def _counted_pairs(seen: pl.DataFrame) -> pl.DataFrame:
    """Count the pairs of one day; a pair is one number, the smaller item's above the larger one's."""
    numbered = seen.with_columns(pl.col("item_id").to_physical().cast(pl.UInt64).alias("code"))
    pairs = pl.concat([_pairs_at(numbered, step) for step in range(1, PAIR_WINDOW + 1)])
    day = pl.lit(seen["event_date"][0], pl.Date).alias("event_date")
    return pairs.group_by("pair").agg(pl.col("weight").sum()).with_columns(day)


def _pairs_at(seen: pl.DataFrame, step: int) -> pl.DataFrame:
    """Pair each row with the one `step` rows on, where that is the same user's."""
    there = pl.col("code").shift(-step)
    smaller = pl.min_horizontal("weight", pl.col("weight").shift(-step))
    same_session = pl.col("session_id") == pl.col("session_id").shift(-step)
    return seen.select(
        _packed(pl.min_horizontal("code", there), pl.max_horizontal("code", there)),
        pl.when(same_session).then(smaller).otherwise(smaller // 2).alias("weight"),
        (pl.col("visit") == pl.col("visit").shift(-step)).alias("__same"),
    ).filter("__same").drop("__same")  # fmt: skip


def _packed(first: pl.Expr, second: pl.Expr) -> pl.Expr:
    return (first * 2**32 + second).alias("pair")


def _unpacked(pairs: pl.DataFrame, other: str, items: pl.DataType) -> pl.DataFrame:
    """Turn numbered pairs into `item_id` and the column `other`, which are of the enumeration `items`."""
    return pairs.with_columns(
        (pl.col("pair") // 2**32).cast(pl.UInt32).cat.to(items).alias("item_id"),
        (pl.col("pair") % 2**32).cast(pl.UInt32).cat.to(items).alias(other),
    ).drop("pair")


def transitions_by_day(events: pl.DataFrame) -> pl.DataFrame:
    """Count what followed what within a session of a day: a direct follower in full, the one after it by half.

    Items are enumerations.
    """
    liked = coded(weighted_positives(personal_events(events)).with_columns(_visit()), ["item_id"])
    numbered = liked.with_columns(pl.col("item_id").to_physical().cast(pl.UInt64).alias("code"))
    pairs = pl.concat([_followers_at(numbered, step) for step in range(1, FOLLOWER_STEPS + 1)])
    summed = pairs.group_by("event_date", "pair").agg(pl.col("weight").sum())
    return _unpacked(summed, "next_item_id", liked.schema["item_id"])


def _followers_at(liked: pl.DataFrame, step: int) -> pl.DataFrame:
    def there(name: str) -> pl.Expr:
        return pl.col(name).shift(-step)

    same = (pl.col("visit") == there("visit")) & (pl.col("session_id") == there("session_id"))
    followed = liked.select(
        "event_date",
        _packed(pl.col("code"), there("code")),
        (pl.min_horizontal("weight", there("weight")) // step).alias("weight"),
        (same & (pl.col("code") != there("code"))).alias("__same"),
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
    summed = add_up(partials.select(*keys, pl.col(*sums) * factor), keys)
    return summed.with_columns(pl.col(*sums) // 2**_DECAY_BITS).filter(pl.col("weight") > 0)


def top(frame: pl.DataFrame, within: list[str], by: str, tie: str, limit: int) -> pl.DataFrame:
    """Keep the `limit` best rows per group with their `rank` from 0; ties go to the smaller id.

    Returns:
      Rows in order of `within` and `tie`.
    """
    ordered = _ordered(frame, [*within, tie])
    rank = pl.col(by).rank("ordinal", descending=True).over(_sortable(ordered, within)) - 1
    return ordered.with_columns(rank.cast(pl.Int32).alias("rank")).filter(pl.col("rank") < limit)


def emit_popular(
    partials: pl.DataFrame, as_of: datetime.date, half_life_days: float, num_shards: int
) -> dict[str, pl.DataFrame]:
    """Return one item shard's best per market, tier and type, with sums over all markets and tiers as `*`, by market."""
    keys = ["market", "tier", "item_type", "item_id"]
    total = add_days(partials, keys, as_of, half_life_days)
    levels = [total, _rolled_up(total, "tier"), _rolled_up(_rolled_up(total, "tier"), "market")]
    known = [levels[0].filter(pl.col("market") != ANY), levels[1].filter(pl.col("market") != ANY), levels[2]]
    best = top(pl.concat(known), keys[:3], "weight", "item_id", TOP_POPULAR).drop("rank")
    return {"parts": to_shards(best, "market", num_shards)}


def _rolled_up(total: pl.DataFrame, column: str) -> pl.DataFrame:
    keys = ["market", "tier", "item_type", "item_id"]
    return add_up(total.with_columns(pl.lit(ANY).alias(column)), keys)


def popularity(parts: pl.DataFrame) -> pl.DataFrame:
    """Merge the best of all item shards into the popularity contract."""
    best = top(parts, ["market", "tier", "item_type"], "weight", "item_id", TOP_POPULAR)
    return best.select(POPULARITY.schema.names)


def emit_artist_items(
    partials: pl.DataFrame, items: pl.DataFrame, as_of: datetime.date, half_life_days: float, num_shards: int
) -> dict[str, pl.DataFrame]:
    """Return one item shard's best items of each artist or show, by artist; an item nobody played counts 0."""
    total = add_days(partials, ["item_id"], as_of, half_life_days)
    owned = items.select("item_id", primary_artist().alias("artist_id")).drop_nulls()
    weighed = owned.join(total, on="item_id", how="left").with_columns(pl.col("weight").fill_null(0))
    best = top(weighed, ["artist_id"], "weight", "item_id", TOP_OF_ARTIST).drop("rank")
    return {"parts": to_shards(best, "artist_id", num_shards)}


def first_artist() -> pl.Expr:
    """Return the first artist of an item, null where it names none."""
    return pl.col("artists").list.first().struct.field("artist_id")


def primary_artist() -> pl.Expr:
    """Return the first artist of an item, else its show; null where it has neither."""
    return pl.coalesce(first_artist(), pl.col("show_id"))


def owners() -> pl.Expr:
    """Return all artists of an item and its show, a list of ids."""
    artists = pl.col("artists").fill_null([]).list.eval(pl.element().struct.field("artist_id"))
    return pl.concat_list(artists, "show_id").list.drop_nulls()


def emit_pairs(
    partials: pl.DataFrame, as_of: datetime.date, half_life_days: float, num_shards: int
) -> dict[str, pl.DataFrame]:
    """Return one item shard's decayed pairs both ways round, by their first item, and every item's own total for all.

    Columns of `parts`: `item_id`, `other_item_id`, `weight`; of `own`: `item_id`, `weight`, `return_rate`.
    """
    total = add_days(coded(partials, ["item_id", "other_item_id"]), ["item_id", "other_item_id"], as_of, half_life_days)
    alone = pl.col("item_id") == pl.col("other_item_id")
    rate = pl.col("returns") / (pl.col("weight") + pl.col("returns") + _RETURN_PRIOR)
    own = total.filter(alone).select("item_id", "weight", rate.cast(pl.Float32).alias("return_rate"))
    pairs = both_ways(total.filter(~alone).select("item_id", "other_item_id", "weight"))
    return {
        "own": own.with_columns(pl.col("item_id").cast(pl.String), pl.lit(EVERYONE).alias(TARGET)),
        "parts": to_shards(pairs, "item_id", num_shards),
    }


def both_ways(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return pairs with each of their items first."""
    swapped = pairs.rename({"item_id": "other_item_id", "other_item_id": "item_id"})
    return pl.concat([pairs, swapped.select(pairs.columns)])


def co_listens(pairs: pl.DataFrame, own: pl.DataFrame) -> pl.DataFrame:
    """Score and cut the neighbours of every seed of a shard, in the co-listen contract.

    `score = w / sqrt(n_seed) / n_other ** 0.5 * w / (w + shrinkage)`: a cosine, shrunk where there is little evidence
    (Sarwar et al. 2001; shrinkage as in Bell and Koren 2007).

    Args:
      pairs: `item_id` the seed, `other_item_id`, `weight`; each pair once.
      own: `item_id`, `weight`, `return_rate` of every item of `pairs`, any order.

    Memory: 100 bytes per pair of the shard.
    """
    own = own.sort("item_id")
    items = pl.Enum(own["item_id"])
    coded_pairs = pairs.with_columns(pl.col("item_id", "other_item_id").cast(items))
    seed, other = (coded_pairs[name].to_physical() for name in CO_LISTEN.key)
    scored = coded_pairs.with_columns(
        _score(own["weight"].gather(seed), own["weight"].gather(other)),
        own["return_rate"].gather(other).alias("other_return_rate"),
    )
    code = [pl.col(name).to_physical().cast(pl.UInt64) for name in CO_LISTEN.key]
    best = top(scored.sort(_packed(*code)), ["item_id"], "score", "other_item_id", TOP_NEIGHBOURS)
    return best.with_columns(pl.col("item_id", "other_item_id").cast(pl.String)).select(CO_LISTEN.schema.names)


def _score(seed_weight: pl.Series, other_weight: pl.Series) -> pl.Expr:
    w, unit = pl.col("weight").cast(pl.Float64), float(WEIGHT_UNIT)
    near = (w / unit) / (pl.lit(seed_weight / unit).sqrt() * pl.lit(other_weight / unit).pow(OTHER_EXPONENT))
    return (near * w / (w + SHRINKAGE)).cast(pl.Float32).alias("score")


def emit_transitions(
    partials: pl.DataFrame, items: pl.DataFrame, as_of: datetime.date, half_life_days: float, num_shards: int
) -> dict[str, pl.DataFrame]:
    """Return one item shard's decayed transitions on every back-off level, by context.

    Columns: `level`, `context_id`, `next_item_id`, `weight`.
    """
    total = add_days(partials, ["item_id", "next_item_id"], as_of, half_life_days)
    known = items.select(
        "item_id",
        pl.when(pl.col("canonical_id") != pl.col("item_id")).then("canonical_id").alias("canonical"),
        primary_artist().alias("artist"),
        pl.col("genres").list.first().alias("genre"),
    )
    joined = total.join(known, on="item_id", how="left").with_columns(pl.col("item_id").alias("item"))
    levels = [_at_level(joined, level) for level in TRANSITION_LEVELS]
    return {"parts": to_shards(pl.concat(levels), "context_id", num_shards)}


def _at_level(joined: pl.DataFrame, level: str) -> pl.DataFrame:
    found = joined.filter(pl.col(level).is_not_null())
    counted = found.select(pl.col(level).alias("context_id"), "next_item_id", "weight")
    summed = counted if level == "item" else add_up(counted, ["context_id", "next_item_id"])
    return summed.select(pl.lit(level).alias("level"), "context_id", "next_item_id", "weight")


def transitions(parts: pl.DataFrame) -> pl.DataFrame:
    """Add the transitions of a shard's contexts up and cut them, in the transition contract."""
    context = ["level", "context_id"]
    for name in (*context, "next_item_id"):
        parts = coded(parts, [name])
    summed = add_up(parts, [*context, "next_item_id"])
    whole = pl.col("weight").sum().over(_sortable(summed, context))
    likely = (pl.col("weight") / whole).cast(pl.Float32).alias("probability")
    ranked = top(summed.with_columns(likely), context, "weight", "next_item_id", TOP_BACKOFF)
    enough = (pl.col("level") != "item") | (pl.col("rank") < TOP_FOLLOWERS)
    return (
        ranked.filter(enough)
        .with_columns(pl.col(*context, "next_item_id").cast(pl.String))
        .select(TRANSITION.schema.names)
    )


def to_shards(frame: pl.DataFrame, column: str, num_shards: int, prefix: str = "") -> pl.DataFrame:
    """Add the column that names each row's target shard, after `prefix`; enumerations become strings again."""
    names = pl.Series([f"{prefix}{number:05d}" for number in range(num_shards)])
    ids = frame[column]
    if isinstance(ids.dtype, pl.Enum):
        shards = shard_of(ids.dtype.categories.to_arrow(), num_shards)[ids.to_physical().to_numpy()]
    else:
        shards = shard_of(ids.to_arrow(), num_shards) if frame.height else np.empty(0, np.int32)
    return frame.with_columns(names.gather(pl.Series(shards)).alias(TARGET), cs.enum().cast(pl.String))
