"""Faults to plant in the raw events of a day, or in its items, users or campaigns, each a function from the true rows to the delivered ones."""

import datetime

import polars as pl

DAY = datetime.date(2026, 1, 31)
ON_DAY = pl.col("event_ts").dt.date() == DAY


def missing_rows(events: pl.DataFrame) -> pl.DataFrame:
    """Lose 30 % of the day's rows."""
    lost = events.with_row_index("n").filter(ON_DAY)["n"].sample(fraction=0.3, seed=3)
    return events.with_row_index("n").filter(~pl.col("n").is_in(lost.implode())).drop("n")


def delivered_twice(events: pl.DataFrame) -> pl.DataFrame:
    """Deliver every event of the day a second time."""
    return pl.concat([events, events.filter(ON_DAY)])


def replayed(events: pl.DataFrame) -> pl.DataFrame:
    """Deliver every event of the day a second time, under new ids."""
    return pl.concat([events, events.filter(ON_DAY).with_columns(pl.format("again-{}", "event_id").alias("event_id"))])


def no_market(events: pl.DataFrame) -> pl.DataFrame:
    """Empty the market of the day's rows."""
    return events.with_columns(pl.when(~ON_DAY).then("market").alias("market"))


def one_market_gone(events: pl.DataFrame) -> pl.DataFrame:
    """Lose all rows of the second market of the day."""
    return events.filter(~(ON_DAY & (pl.col("market") == "BR")))


def in_the_future(events: pl.DataFrame) -> pl.DataFrame:
    """Set the clocks of one user in five a day ahead."""
    ahead = ON_DAY & (pl.col("user_id").hash(5) % 5 == 0)
    late = pl.col("event_ts") + pl.duration(days=1)
    return events.with_columns(pl.when(ahead).then(late).otherwise("event_ts").alias("event_ts"))


def no_day(events: pl.DataFrame) -> pl.DataFrame:
    """Lose the whole day."""
    return events.filter(~ON_DAY)


def column_dropped(events: pl.DataFrame) -> pl.DataFrame:
    """Lose a required column."""
    return events.drop("item_id")


def column_renamed(events: pl.DataFrame) -> pl.DataFrame:
    """Rename a required column."""
    return events.rename({"user_id": "userId"})


def optional_column_dropped(events: pl.DataFrame) -> pl.DataFrame:
    """Lose an optional column that every row filled."""
    return events.drop("device_type")


def column_retyped(events: pl.DataFrame) -> pl.DataFrame:
    """Deliver milliseconds as words."""
    return events.with_columns(pl.format("{} ms", "ms_played").alias("ms_played"))


def time_retyped(events: pl.DataFrame) -> pl.DataFrame:
    """Deliver times in a local notation."""
    return events.with_columns(pl.col("event_ts").dt.strftime("%d.%m.%Y %H:%M"))


def most_items_gone(items: pl.DataFrame) -> pl.DataFrame:
    """Lose 60 % of the catalogue."""
    return items.sample(fraction=0.4, seed=3)


def most_items_deleted(items: pl.DataFrame) -> pl.DataFrame:
    """Deliver 60 % of the catalogue as not to be recommended any more."""
    return items.with_columns(rec_eligible=pl.col("rec_eligible") & (pl.col("item_id").hash(5) % 5 < 2))


def one_market_left(items: pl.DataFrame) -> pl.DataFrame:
    """Deliver what may be played everywhere as if it were for the first market alone."""
    market = pl.col("availability").list.first().struct.field("market")
    us = [{"market": "US", "tiers": None, "from_ts": None, "to_ts": None}]
    everywhere = pl.col("availability").is_null() | (market == "*").fill_null(False)
    only = pl.lit(pl.Series([us], dtype=items.schema["availability"]))
    return items.with_columns(availability=pl.when(everywhere).then(only).otherwise("availability"))


def markets_in_words(items: pl.DataFrame) -> pl.DataFrame:
    """Write market codes in small letters."""
    field = pl.element().struct
    lower = field.with_fields(market=field.field("market").str.to_lowercase())
    return items.with_columns(availability=pl.col("availability").list.eval(lower))


def another_salt(users: pl.DataFrame) -> pl.DataFrame:
    """Deliver users under other pseudonyms than those of the events."""
    return users.with_columns(user_id=pl.format("{}-salted", "user_id"))


def nothing_to_promote(campaigns: pl.DataFrame) -> pl.DataFrame:
    """Let the first campaign promote an item that the catalogue does not have."""
    first = pl.int_range(pl.len()) == 0
    return campaigns.with_columns(item_ids=pl.when(first).then(pl.lit(["no such item"])).otherwise("item_ids"))
