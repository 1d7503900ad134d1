"""What the rules ask of an item itself, as expressions over catalogue columns."""

import datetime

import polars as pl

from transforms.sources import TALK


def item_flags(gone: pl.Series, since: datetime.datetime) -> list[pl.Expr]:
    """Return what the rules ask of an item itself: `gone`, `ineligible`, `explicit`, `age_rating`, `unreleased`, `talk`,
    `trailer`, `in_order`.
    """
    start = pl.lit(since)
    deleted = (pl.col("deleted_at") <= start).fill_null(False)
    return [
        pl.col("item_id").is_in(gone.implode()).fill_null(False).alias("gone"),
        (~pl.col("rec_eligible") | deleted).fill_null(True).alias("ineligible"),
        pl.col("explicit").fill_null(True),
        pl.col("age_rating").fill_null(0),
        (pl.col("release_ts") > start).fill_null(False).alias("unreleased"),
        pl.col("item_type").is_in(TALK).fill_null(False).alias("talk"),
        trailer(),
        in_order(),
    ]


def servable() -> pl.Expr:
    """Tell from the flags of items which may be recommended to anybody at all."""
    return ~pl.any_horizontal("gone", "ineligible", "unreleased", "trailer").alias("servable")


def trailer() -> pl.Expr:
    """Tell whether an item is a trailer."""
    return pl.col("is_trailer").fill_null(False).alias("trailer")


def video() -> pl.Expr:
    """Tell whether an item needs a client that shows video."""
    return (pl.col("is_video").fill_null(False) | (pl.col("item_type") == "video").fill_null(False)).alias("video")


def in_order() -> pl.Expr:
    """Tell whether an item is a part that is to be heard after those before it: a chapter, or an episode of a serial show."""
    serial = (pl.col("item_type") == "episode") & pl.col("is_serial").fill_null(False) & ~trailer()
    return ((pl.col("item_type") == "chapter") | serial).fill_null(False).alias("in_order")


def series_of(items: pl.DataFrame) -> pl.Series:
    """Return the series of audiobooks, the same for every edition of one, null for all else; `series`."""
    books = items.filter(pl.col("item_type") == "audiobook").group_by("canonical_id")
    named = books.agg(pl.col("series_id").max().alias("series"))
    return items.select("canonical_id").join(named, on="canonical_id", how="left", maintain_order="left")["series"]


def covers(start: datetime.datetime, end: datetime.datetime) -> pl.Expr:
    """Tell whether an offer, `from_ts` to `to_ts`, covers the whole validity of a set."""
    since, until = pl.lit(start), pl.lit(end)
    return (pl.col("from_ts").fill_null(since) <= since) & (pl.col("to_ts").fill_null(until) >= until)
