"""What may follow a seed, decided on raw rows, by none of the road's code.

A row is a candidate beside its seed: columns of the candidate, of the seed as `seed_...`, `market`, and of the seed's next part
`next_id`, null where there is none.
"""

from collections.abc import Mapping

import golden_world
import polars as pl

KINDS = ("item_type", "is_serial", "explicit", "genre")
_TOLD = [
    "item_id",
    "item_type",
    "canonical_id",
    "work",
    "show_id",
    "episode_no",
    "is_serial",
    "explicit",
    "age_rating",
    "is_trailer",
]


_VERSION = r" (?:- Remastered|- 2011 Remaster|\(Deluxe Edition\)|\(Live\))$"
_TITLE = pl.col("title").str.replace(_VERSION, "")
_ARTIST = pl.col("artists").list.first().struct.field("artist_id")


def catalogue(raw: golden_world.Raw) -> pl.DataFrame:
    """Return the items of a raw folder; what is not known to be clean is explicit."""
    items, gone = raw.read("items"), raw.read("tombstones")["id"]
    told = items.with_columns(
        pl.col("explicit").fill_null(True), pl.col("is_serial", "is_trailer").fill_null(False),
        pl.col("age_rating").fill_null(0), pl.coalesce("canonical_id", "item_id"), golden_world.GENRE.alias("genre"),
        pl.coalesce(pl.format("{}|{}|{}", "item_type", _ARTIST, _TITLE), "item_id").alias("work"),
    )  # fmt: skip
    there = pl.col("rec_eligible") & pl.col("deleted_at").is_null() & (pl.col("release_ts") <= golden_world.NOW)
    return told.with_columns((there & ~pl.col("item_id").is_in(gone.implode())).fill_null(False).alias("there"))


def offers(items: pl.DataFrame, markets: pl.Series) -> pl.DataFrame:
    """Return `item_id`, `market` of what anybody may play in each market at the instant the sets take effect."""
    everywhere = (
        items.filter(pl.col("availability").is_null()).select("item_id").join(markets.to_frame("market"), how="cross")
    )
    open_ = pl.col("from_ts").fill_null(golden_world.NOW) <= golden_world.NOW
    open_ &= pl.col("to_ts").is_null() | (pl.col("to_ts") > golden_world.NOW)
    listed = (
        items.select("item_id", "availability")
        .explode("availability")
        .drop_nulls()
        .unnest("availability")
        .filter(open_)
    )
    pairs = listed.select("item_id", pl.col("market").alias("of")).join(markets.to_frame("market"), how="cross")
    named = pairs.filter((pl.col("of") == "*") | (pl.col("of") == pl.col("market"))).select("item_id", "market")
    return pl.concat([everywhere, named]).unique()


def seeds_of(golden: Mapping, items: pl.DataFrame, sets: pl.DataFrame, events: pl.DataFrame) -> pl.Series:
    """Return the ids of a golden's seeds: the most played of its kind that have a set."""
    kind = [pl.col(name) == golden[name] for name in KINDS if name in golden]
    own = items.filter(*kind).join(
        sets.select(pl.col("record_key").alias("item_id")).unique(), on="item_id", how="semi"
    )
    return golden_world.by_popularity(own, events)["item_id"].head(golden["seeds"])


def beside(rows: pl.DataFrame, items: pl.DataFrame, there: pl.DataFrame) -> pl.DataFrame:
    """Put what is known of candidates and of their seeds beside each other.

    Args:
      rows: `record_key`, `market`, `item_id`, `position`. there: as `offers` gives it.
    """
    told = rows.join(items.select(*_TOLD, "there"), on="item_id", how="left").join(
        there.with_columns(pl.lit(True).alias("offered")), on=["item_id", "market"], how="left"
    )
    seeds = items.select(pl.col("item_id").alias("record_key"), pl.col(_TOLD).name.prefix("seed_"))
    return told.join(seeds, on="record_key").join(_next_parts(items, there), on=["record_key", "market"], how="left")


def _next_parts(items: pl.DataFrame, there: pl.DataFrame) -> pl.DataFrame:
    """Return `record_key`, `market`, `next_id`: the part right after each, where it may be played by whom the seed is for."""
    parts = items.filter("there", ~pl.col("is_trailer")).join(there, on="item_id")
    own = items.select(pl.col("item_id").alias("record_key"), "show_id", pl.col("episode_no") + 1,
                       pl.col("explicit").alias("seed_explicit"), pl.col("age_rating").alias("seed_age"))  # fmt: skip
    both = own.join(parts, on=["show_id", "episode_no"])
    for_them = (pl.col("seed_explicit") | ~pl.col("explicit")) & (pl.col("age_rating") <= pl.col("seed_age"))
    return both.filter(for_them).select("record_key", "market", pl.col("item_id").alias("next_id"))


_IN_ORDER = pl.col("is_serial") | (pl.col("item_type") == "chapter")
_SAME_SHOW = (pl.col("show_id") == pl.col("seed_show_id")).fill_null(False)
FIRST: dict[str, pl.Expr] = {
    "next part": pl.col("next_id").is_null() | (pl.col("item_id") == pl.col("next_id")),
    "same show": _SAME_SHOW,
}
NEVER: dict[str, pl.Expr] = {
    "itself": pl.col("canonical_id") == pl.col("seed_canonical_id"),
    "twice": pl.struct("record_key", "market", "canonical_id").is_duplicated(),
    "version": pl.struct("record_key", "market", "work").is_duplicated(),
    "version of itself": pl.col("work") == pl.col("seed_work"),
    "not there": ~(pl.col("there").fill_null(False) & pl.col("offered").fill_null(False)),
    "trailer": pl.col("is_trailer"),
    "video": (pl.col("item_type") == "video") & (pl.col("seed_item_type") != "video"),
    "grown-ups": pl.col("age_rating") > pl.col("seed_age_rating"),
    "explicit": pl.col("explicit"),
    "chapter": pl.col("item_type") == "chapter",
    "another part": _IN_ORDER & _SAME_SHOW & ~pl.col("item_id").eq_missing(pl.col("next_id")),
    "another book": (pl.col("item_type") == "chapter") & ~_SAME_SHOW,
}
