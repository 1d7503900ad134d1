"""Now Playing: what users played after an item, and where the set of that item and market held it.

Two steps, as sets are kept by item and plays by user: a user shard gives its contexts, an item shard finds their targets.
Memory: of a user shard the personal events of 90 days as pairs of user and item; of an item shard its contexts, of at most
`MOST_USERS` users in all, about 200 bytes each.
"""

import math

import polars as pl

from schemas.evaluation import AGED, SET_AGES, SETS
from schemas.hashing import hash64, unit_interval
from schemas.tallies import ANY
from transforms.evaluation import UNIT_SLICES, Judged
from transforms.evaluation_home import (
    EVENT_COLUMNS,
    Window,
    oracle,
    played_before,
    possible,
    recordings_of,
    steps,
    target_table,
    unit_table,
)
from transforms.evaluation_left_out import LeaveOneOut
from transforms.evaluation_lists import PER_UNIT, items_in, read_proposals, read_sets
from transforms.evaluation_variety import known_items
from transforms.histories import personal_events
from transforms.retrieve import ShardBundle, user_table
from transforms.serving import CHART, chart_of, served_from
from transforms.shards import Shard

MOST_USERS = 2_000_000
"""More are not needed for an interval of a thousandth, and a hit of the day would bring too many contexts into one shard."""
MOST_SKIPS = 3
HELD_AT = 100
"""Places of a set that count for its freshness, those of the headline: all that it has."""
CONTEXT: dict[str, pl.DataType | type[pl.DataType]] = {
    "context": pl.String, "user_id": pl.String, "seed": pl.String, "market": pl.String, "tier": pl.String,
    "tenure": pl.String, "skips": pl.String, "set_age": pl.String, "canonical_id": pl.String, "item_ids": pl.List(pl.String),
    "all": pl.Boolean, "discovery": pl.Boolean, "organic": pl.Boolean, "session": pl.Boolean, "possible": pl.Boolean,
    "type": pl.String, "age": pl.String, "device": pl.String, "language": pl.String,
}  # fmt: skip


def share_of(users: int) -> float:
    """Return which share of users is judged: all of them, or a power of a half, so that it seldom changes."""
    return 0.5 ** max(0, math.ceil(math.log2(max(users, 1) / MOST_USERS)))


def contexts_of(shard: Shard, window: Window, share: float) -> pl.DataFrame:
    """Return what a user shard's users played after what, a row per context and target (`CONTEXT`).

    A context is an item that was played and liked, and what is next in its session: its target is the next item played and
    liked, after as many skips as `skips` says. Another one is the first item of a session, whose targets are all others.
    """
    during = pl.col("event_ts").is_between(window.start, window.end, closed="left") & pl.col("event_type").is_in(
        ["play", "skip"]
    )
    events = personal_events(shard.read("event", [*EVENT_COLUMNS, "session_id", "market"], during))
    events = events.filter(pl.Series(unit_interval(hash64(events["user_id"].to_arrow())) < share, dtype=pl.Boolean))
    found = followed(events.sort("user_id", "session_id", "event_ts", "event_id"))
    users = user_table(shard)
    people = unit_table(found["user_id"], users, shard.read("history", ["user_id", "num_events"]))
    recordings = recordings_of(found["item_id"], ShardBundle(shard))
    named = found.with_columns(pl.format(f"{shard.number:05d}-{{}}", "context").alias("context"))
    units = named.unique("context", keep="first", maintain_order=True).with_row_index("unit")
    hours = (pl.col("event_ts") - pl.lit(window.as_of)).dt.total_microseconds() / 3_600e6
    units = units.with_columns(steps(hours, SET_AGES[:-1], SET_AGES[-1][1]).alias("set_age"))
    units = units.select("unit", "context", "user_id", "seed", "market", "skips", "session", "set_age")
    targets = target_table(named.with_columns(pl.col("context").alias("user_id")),
                           units.select("unit", pl.col("context").alias("user_id")), recordings, window.as_of)  # fmt: skip
    wanted = targets.join(units.select("unit", pl.col("user_id").alias("key")), on="unit").select(
        "unit", "key", "canonical_id"
    )
    wanted = wanted.join(recordings.select("item_id", "canonical_id"), on="canonical_id")
    both, known = ["unit", "canonical_id"], wanted.group_by("unit", "canonical_id")
    may = possible(wanted, recordings, people, users, shard, window.instant).with_columns(
        pl.lit(True).alias("possible")
    )
    whole = targets.join(known.agg(pl.col("item_id").sort().alias("item_ids")), on=both)
    whole = whole.join(played_before(shard, wanted, window), on=both, how="left").join(may, on=both, how="left")
    whole = whole.join(units, on="unit").join(people.select("user_id", "tier", "tenure"), on="user_id")
    next_ = ~pl.col("session")
    kinds = next_.alias("all"), (next_ & pl.col("played").is_null()).alias("discovery"), next_ & pl.col("organic")
    described = whole.with_columns(*kinds[:2], kinds[2].alias("organic"), pl.col("possible").fill_null(False))
    return described.select(list(CONTEXT)).sort("context", "canonical_id")


def followed(events: pl.DataFrame) -> pl.DataFrame:
    """Return, beside the events of targets, `context` (a number), its `seed`, `skips` in between, and whether it is a `session`.

    Args:
      events: plays and skips, in order of user, session and time.
    """
    session = ["user_id", "session_id"]
    heard = pl.col("label") > 0
    played = events.with_columns((~heard).cum_sum().over(session).alias("passed")).filter(heard)
    played = played.with_columns(pl.col("market").fill_null(ANY))
    skips = (pl.col("passed") - pl.col("passed").shift(1).over(session)).cast(pl.Int64)
    after = played.with_columns(
        pl.col("item_id").shift(1).over(session).alias("seed"),
        pl.when(skips <= MOST_SKIPS).then(skips.cast(pl.String)).otherwise(pl.lit(f"{MOST_SKIPS + 1}+")).alias("skips"),
        pl.lit(False).alias("session"),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("context"),
    )
    whole = played.with_columns(
        pl.col("item_id").first().over(session).alias("seed"),
        pl.lit("session").alias("skips"),
        pl.lit(True).alias("session"),
        (played.height + pl.struct(session).rle_id().cast(pl.Int64)).alias("context"),
    )
    return pl.concat([after, whole]).filter(pl.col("seed") != pl.col("item_id")).drop("passed")


def judge_seeds(shard: Shard, contexts: pl.DataFrame, leave_out: LeaveOneOut) -> Judged:
    """Return what the lists of an item shard's seeds were worth in their contexts."""
    own, groups = shard.paths("candidate_set"), shard.paths("groups")
    units = contexts.unique("context", keep="first").sort("context").with_row_index("unit")
    targets = contexts.join(units.select("unit", "context"), on="context").sort("unit", "canonical_id")
    of_market = pl.format("{}|{}", "record_key", "market")
    there = shard.read("candidate_set", ["record_key", "market"]).select(of_market).to_series()
    sets = pl.format("{}|{}", "seed", "market").alias("own"), pl.format("{}|{}", "seed", pl.lit(ANY)).alias("anywhere")
    seeds = units.select("unit", "user_id", "seed", "market", *sets, chart_of(groups, pl.lit(ANY)))
    record = pl.when(pl.col("record_key") == ANY).then(CHART).otherwise(of_market)
    served, aims = served_from(seeds, ["own", "anywhere"], there, "anywhere"), targets.select("unit", "canonical_id")
    hits, per_unit = read_sets(own, groups, record, served, aims, known_items(shard, items_in([*own, *groups])))
    wanted = targets.select(pl.col("seed").alias("key"), "unit", "canonical_id", pl.col("item_ids").alias("item_id"))
    best = oracle(targets.filter("possible").select("unit", "canonical_id"))
    found = pl.concat([hits, read_proposals(shard.paths("proposal"), wanted.explode("item_id")), best])
    market = pl.when(record=pl.col("anywhere")).then(pl.lit(ANY)).when(record=pl.col("own")).then("market")
    blended = (
        seeds.join(served.filter(ranking=SETS), on="unit").with_columns(market.alias("market")).drop_nulls("market")
    )
    left_out = leave_out.seeds(shard, blended, targets.filter("all").select("unit", "canonical_id"))
    figures = pl.concat([per_unit, by_age(units, hits), left_out])
    return Judged(units.select("unit", "user_id", *UNIT_SLICES), targets, found, figures)


def by_age(units: pl.DataFrame, hits: pl.DataFrame) -> pl.DataFrame:
    """Return freshness, simulated: by the age that a day's set had, whether it was asked, and whether it held what came next.

    One set stands for the whole day, so that its oldest hours say what a set that is not renewed so long is worth; the hour of
    day differs, too.

    Args:
      units: `unit`, `set_age`.

    Returns:
      Figures per unit under the names of `AGED`, 1 or absent.
    """
    held = hits.filter((pl.col("ranking") == SETS) & (pl.col("rank") < HELD_AT)).select("unit").unique().sort("unit")
    told = [
        frame.select(
            "unit",
            pl.lit(SETS).alias("ranking"),
            pl.col("set_age").replace_strict({age: pair[place] for age, pair in AGED.items()}).alias("metric"),
            pl.lit(1.0).alias("value"),
        )
        for place, frame in enumerate((held.join(units, on="unit", maintain_order="left"), units))
    ]
    return pl.concat(told).select(list(PER_UNIT))
