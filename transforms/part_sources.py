"""Sources of what comes next in shows and books: the parts nobody else would know to propose (`transforms.parts`).

Memory: the parts of the shows that a block's users heard or follow, or its seeds are of, about 100 bytes each.
"""

import polars as pl

from transforms.histories import entries
from transforms.item_rules import in_order
from transforms.parts import (
    PART_COLUMNS,
    following,
    gone_items,
    line,
    next_of_seeds,
    openings,
    parts_of,
    reached,
    shows_of_seeds,
)
from transforms.sources import (
    SEED_HALF_LIFE_DAYS,
    Audience,
    Bundle,
    Source,
    age_days,
    best_of,
    halved,
    none_found,
    of_seeds,
)

NEWEST = 20
"""So many of a show are looked at for one that was not heard: who heard them all waits for the next."""
AT_ONCE = 2
"""Episodes of one show that need no order: as many as Home holds of a show."""
FOLLOWED = 1.0
"""To follow a show says as much as to have heard one part of it out today."""


def next_for_users(audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Propose the next chapter or episode of what the user is in the middle of, and the newest unheard of other shows.

    Score: labels of the show's parts halved every 14 days, plus 1 where it is followed; halved for a second episode.
    """
    columns = ["item_id", "show_id"]
    known = bundle.lookup("item", "item_id", audience.listens["item_id"].unique(), columns).drop_nulls()
    follows = entries(audience.keys, "follows", "show_id")
    shows = pl.concat([known["show_id"], follows["show_id"]])
    parts = parts_of(shows, bundle, gone_items(bundle), audience.now)
    listens = audience.listens.select("key", "item_id", "label", "event_ts").join(known, on="item_id")
    liking = _liking(listens, follows, parts, audience)
    ordered = line(parts)
    begun = reached(listens, ordered)
    fresh = liking.join(begun, on=["key", "show_id"], how="anti").join(openings(ordered), on="show_id")
    nexts = [following(begun, ordered).join(liking, on=["key", "show_id"]), fresh]
    found = pl.concat([one.select("key", "item_id", "score", "seed", "event_ts") for one in nexts])
    others = _newest(liking, parts, listens).select(found.columns)
    return pl.concat([found, others]).select(
        "key", "item_id", raw_score="score",
        seed_item_ids=pl.when(pl.col("seed").is_null()).then(pl.lit([], pl.List(pl.String))).otherwise(pl.concat_list("seed")),
        seed_event_ts="event_ts",
    ).sort("key", "item_id")  # fmt: skip


def _liking(listens: pl.DataFrame, follows: pl.DataFrame, parts: pl.DataFrame, audience: Audience) -> pl.DataFrame:
    """Return `key`, `show_id`, `score`, `seed`, `event_ts` of what each user heard or follows; the part heard last is the seed."""
    strength = pl.col("label") * halved(age_days("event_ts", audience.now), SEED_HALF_LIFE_DAYS)
    heard = listens.sort("key", "show_id", "event_ts", "item_id", "label").group_by("key", "show_id", maintain_order=True).agg(
        strength.sum().alias("heard"), pl.col("item_id").last().alias("seed"), pl.col("event_ts").last()
    )  # fmt: skip
    there = follows.filter(pl.col("show_id").is_in(parts["show_id"].unique().implode()))
    both = heard.join(there.with_columns(bonus=pl.lit(FOLLOWED)), on=["key", "show_id"], how="full", coalesce=True)
    score = pl.col("heard").fill_null(0.0) + pl.col("bonus").fill_null(0.0)
    return both.select("key", "show_id", "seed", "event_ts", score=score.cast(pl.Float64))


def _newest(liking: pl.DataFrame, parts: pl.DataFrame, listens: pl.DataFrame) -> pl.DataFrame:
    """Return the newest episodes, not heard, of shows that need no order."""
    unheard = liking.join(_latest(parts), on="show_id").join(listens, on=["key", "item_id"], how="anti")
    turn = pl.int_range(pl.len()).over("key", "show_id")
    ranked = unheard.sort("key", "show_id", "recency").with_columns(turn=turn).filter(pl.col("turn") < AT_ONCE)
    return ranked.with_columns(score=pl.col("score") * pl.lit(0.5).pow(pl.col("turn")))


def _latest(parts: pl.DataFrame) -> pl.DataFrame:
    """Return `item_id`, `show_id`, `recency` (from 0) of the newest episodes of shows that need no order."""
    free = parts.filter("servable", ~in_order(), pl.col("item_type") == "episode")
    newest = free.sort("show_id", "release_ts", "item_id", descending=[False, True, False], nulls_last=True)
    recency = pl.int_range(pl.len()).over("show_id")
    return newest.select("item_id", "show_id", recency=recency).filter(pl.col("recency") < NEWEST)


def next_for_seeds(audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Propose the chapter or episode that comes after the seed, or the newest others of a show that needs no order.

    Score: 1 for what comes after the seed in order; `1 / (2 + n)` for the n-th newest episode.
    """
    seeds = bundle.lookup("item", "item_id", audience.seeds["seed_item_id"], list(PART_COLUMNS)).with_columns(
        key="item_id"
    )
    shows = shows_of_seeds(seeds)
    if not len(shows):
        return none_found()
    parts = parts_of(shows, bundle, gone_items(bundle), audience.now)
    nexts = next_of_seeds(seeds, line(parts)).select("key", "item_id", raw_score=pl.lit(1.0))
    owner = pl.when(pl.col("item_type") == "show").then("key").otherwise("show_id")
    others = (
        seeds.select("key", show_id=owner).join(_latest(parts), on="show_id").filter(pl.col("key") != pl.col("item_id"))
    )
    newest = others.select("key", "item_id", raw_score=1.0 / (2.0 + pl.col("recency")))
    found = pl.concat([nexts, newest]).rename({"key": "seed_item_id"})
    mine = audience.leads.join(found, on="seed_item_id").select("key", "item_id", "raw_score")
    return of_seeds(best_of(mine), audience).sort("key", "item_id")


HOME_PART_SOURCES: dict[str, Source] = {
    "home.next_part": Source(next_for_users, "affinity", "part", "next_part", 60),
}
NOW_PLAYING_PART_SOURCES: dict[str, Source] = {
    "np.next_part": Source(next_for_seeds, "reciprocal_rank", "part", "next_part", 30),
}
