"""Faults to plant in the raw events of a day, or in its items, each a function from the true rows to the delivered ones."""

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
