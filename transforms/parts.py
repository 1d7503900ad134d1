"""Parts: the chapters of books and the episodes of serial shows in their order, and which of them comes next.

    season (none: 0) and number -> place; equal ones share it, and unnumbered parts come last, by release
    next: the first part that may be recommended at a place or behind it

A listener is at the furthest part heard within the window of histories, not at the last one heard: who goes back to a part
goes on from where they were. A part that was not heard out is the next one itself.
"""

import datetime

import polars as pl

from transforms.item_rules import in_order, item_flags, servable, trailer
from transforms.shards import Shard
from transforms.sources import Bundle

COMPLETED_LABEL = 1.0
PART_COLUMNS = (
    "item_id", "item_type", "show_id", "season", "episode_no", "release_ts", "rec_eligible", "deleted_at", "is_trailer",
    "is_serial", "explicit", "age_rating",
)  # fmt: skip
HEARD_COLUMNS = ("item_id", "item_type", "artists", "show_id", "is_trailer", "is_serial")
"""What is asked of what somebody heard: its artist, and whether something comes next."""


def gone_items(bundle: Shard | Bundle) -> pl.Series:
    """Return the ids of items under a tombstone."""
    return bundle.read("tombstone", ["id"], pl.col("entity") == "item")["id"]


def parts_of(shows: pl.Series, bundle: Bundle, gone: pl.Series, start: datetime.datetime) -> pl.DataFrame:
    """Return all parts of some shows and books: `PART_COLUMNS` and `servable`, sorted by item.

    Memory: the parts of these shows, about 100 bytes each.
    """
    found = bundle.lookup("item", "show_id", shows.drop_nulls().unique(), list(PART_COLUMNS))
    return found.with_columns(item_flags(gone, start)).with_columns(servable()).sort("item_id")


def line(parts: pl.DataFrame) -> pl.DataFrame:
    """Put parts in order: `item_id`, `show_id`, `place` (int64, from 0), `servable`, `at`, sorted by show and place.

    `at` is the place of the first servable part from there on, null behind the last one.

    Args:
      parts: `PART_COLUMNS` and `servable`, all parts of each show or none.
    """
    unnumbered = pl.when(pl.col("episode_no").is_null()).then("item_id")
    keyed = parts.filter(in_order(), pl.col("show_id").is_not_null()).with_columns(pl.col("season").fill_null(0))
    ordered = keyed.sort("show_id", "season", "episode_no", "release_ts", "item_id", nulls_last=True)
    place = pl.struct("season", "episode_no", unnumbered.alias("__own")).rle_id().over("show_id").cast(pl.Int64)
    placed = ordered.select("item_id", "show_id", "servable", place=place)
    here = pl.when("servable").then("place").min().over("show_id", "place")
    return placed.with_columns(at=here.fill_null(strategy="backward").over("show_id"))


def openings(ordered: pl.DataFrame) -> pl.DataFrame:
    """Return `item_id`, `show_id` of the first servable parts of each show, of `line`."""
    first = pl.col("place") == pl.col("at").first().over("show_id")
    return ordered.filter("servable", first).select("item_id", "show_id")


def following(asked: pl.DataFrame, ordered: pl.DataFrame) -> pl.DataFrame:
    """Return the columns asked with `item_id` of the first servable parts of `show_id` at `place` or behind it."""
    from_there = ordered.select("show_id", "place", "at").unique().drop_nulls("at")
    parts = ordered.filter("servable").select("item_id", "show_id", at="place")
    found = asked.join(from_there, on=["show_id", "place"]).join(parts, on=["show_id", "at"])
    return found.drop("place", "at")


def reached(listens: pl.DataFrame, ordered: pl.DataFrame, key: str = "key") -> pl.DataFrame:
    """Return where listeners go on: `key`, `show_id`, `place` behind the furthest part, or its own if not heard out.

    Args:
      listens: `key`, `item_id`, `label`.
    """
    heard = listens.select(key, "item_id", done=pl.col("label") >= COMPLETED_LABEL).join(ordered, on="item_id")
    at_furthest = heard.filter(pl.col("place") == pl.col("place").max().over(key, "show_id"))
    places = at_furthest.group_by(key, "show_id").agg((pl.col("place") + pl.col("done").cast(pl.Int64)).max())
    return places.sort(key, "show_id")


def next_of_listeners(listens: pl.DataFrame, ordered: pl.DataFrame, key: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the parts that come next, and the first parts that do not any more: `key`, `item_id`, `show_id` both."""
    if not ordered.height:
        nothing = pl.DataFrame(schema={key: listens.schema[key], "item_id": pl.String, "show_id": pl.String})
        return nothing, nothing
    where = reached(listens, ordered, key)
    nexts = following(where, ordered).select(key, "item_id", "show_id")
    first = where.join(openings(ordered), on="show_id").select(key, "item_id", "show_id")
    begun = first.join(nexts, on=[key, "item_id"], how="anti")
    return nexts.sort(key, "item_id"), begun.sort(key, "item_id")


def next_of_seeds(seeds: pl.DataFrame, ordered: pl.DataFrame) -> pl.DataFrame:
    """Return what comes next after seeds: `key`, `item_id`, `show_id`.

    After a part the one behind it; after a trailer, a show or a book its first part.

    Args:
      seeds: `key` (item id), `item_type`, `show_id`, `is_trailer`.
    """
    part = seeds.join(ordered.select("item_id", "place"), left_on="key", right_on="item_id", how="left")
    whole = pl.when(pl.col("item_type").is_in(["show", "audiobook"])).then("key").when(trailer()).then("show_id")
    behind = part.select("key", "show_id", place=pl.col("place") + 1)
    begin = part.filter(pl.col("place").is_null()).select("key", show_id=whole, place=pl.lit(0, pl.Int64))
    asked = pl.concat([behind, begin]).drop_nulls()
    return following(asked, ordered).select("key", "item_id", "show_id").sort("key", "item_id")


def unfinished_books(seeds: pl.DataFrame, ordered: pl.DataFrame) -> pl.Series:
    """Return the seeds that are books, or chapters of books, that go on behind them; `seeds` as in `next_of_seeds`."""
    return next_of_seeds(seeds.filter(pl.col("item_type").is_in(["audiobook", "chapter"])), ordered)["key"].unique()


def shows_of_seeds(seeds: pl.DataFrame) -> pl.Series:
    """Return the shows and books that seeds are, or are parts of."""
    owner = pl.when(pl.col("item_type").is_in(["show", "audiobook"])).then("key").otherwise("show_id")
    return seeds.select(owner).to_series().drop_nulls().unique()
