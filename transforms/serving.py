"""What answers whom: one's own candidate set, that of a seed for where it was not played, the chart of a market.

Memory: of charts those that are named, a few hundred candidates for each market and tier.
"""

from collections.abc import Sequence

import polars as pl
import pyarrow.parquet as pq

from schemas.candidates import PLACES_OF_CHART, PLACES_OF_SET
from schemas.evaluation import FALLBACK, SETS
from schemas.tallies import ANY

CHART = pl.format("*|{}|{}", "market", "tier")
"""Names a set that serves whom nobody knows."""


def chart_of(groups: Sequence[str], tier: pl.Expr) -> pl.Expr:
    """Return the name of the chart that serves column `market` and a tier: its own, its market's, or that of everywhere.

    Args:
      groups: files of the charts.
    """
    there = pl.concat([pl.read_parquet(path, columns=["market", "tier"]) for path in groups]).select(CHART).to_series()
    names = [pl.format("*|{}|{}", market, own) for market, own in
             ((pl.col("market"), tier), (pl.col("market"), pl.lit(ANY)), (pl.lit(ANY), pl.lit(ANY)))]  # fmt: skip
    return pl.coalesce(pl.when(name.is_in(there.implode())).then(name) for name in names).alias("chart")


def served_from(units: pl.DataFrame, own: Sequence[str], there: pl.Series, shared: str | None = None) -> pl.DataFrame:
    """Return what each unit is served: the first of its own sets that is there, else the chart, which is the ranking FALLBACK, too.

    Args:
      units: `unit`, `chart` and the names of the unit's own sets, in the columns `own`.
      there: the names of all sets.
      shared: which of `own` names a set that is served beside the chart.

    Returns:
      `unit`, `record` (the name of a set), `beside` (of the chart that has the end of its places) and `ranking`.
    """
    first = pl.coalesce(*(pl.when(pl.col(name).is_in(there.implode())).then(name) for name in own), "chart")
    nothing = pl.lit(None, pl.String).alias("beside")
    beside = pl.when(first == pl.col(shared)).then("chart").alias("beside") if shared else nothing
    mine, chart = first.alias("record"), pl.col("chart").alias("record")
    return pl.concat([units.select("unit", mine, beside, pl.lit(SETS).alias("ranking")),
                      units.select("unit", chart, nothing, pl.lit(FALLBACK).alias("ranking"))])  # fmt: skip


def read_charts(groups: Sequence[str], names: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
    """Return the charts that are named, as `beside` and `chart`, their candidates.

    Args:
      columns: what is read of them, as leaves of Parquet: `market`, `tier` and fields of `candidates`.
    """
    if names.is_empty():
        return pl.DataFrame(schema={"beside": pl.String, "chart": pl.List(pl.Null)})
    every = [pl.DataFrame(pq.ParquetFile(path).read(columns=list(columns))) for path in groups]
    charts = pl.concat(every).select(CHART.alias("beside"), pl.col("candidates").alias("chart"))
    return charts.filter(pl.col("beside").is_in(names.implode()))


def lists_of(asked: pl.DataFrame, charts: pl.DataFrame) -> pl.DataFrame:
    """Return what is served, a row per candidate: sets whole, those beside a chart with its start in place of their end.

    What both have is named once, where the set has it.

    Args:
      asked: `record`, `beside`, `candidates`. charts: `beside`, `chart`.

    Returns:
      `record` and the fields of a candidate, in order, those of a record one after the other, their `position` counted anew.
    """
    if not charts.is_empty():
        asked = asked.join(charts, on="beside", how="left", maintain_order="left")
        own, start = pl.col("candidates").list.head(PLACES_OF_SET), pl.col("chart").list.head(PLACES_OF_CHART)
        listed = pl.when(pl.col("chart").is_null()).then("candidates").otherwise(pl.concat_list(own, start))
        asked = asked.with_columns(listed.alias("candidates"))
    rows = asked.select("record", "candidates").explode("candidates").drop_nulls("candidates")
    once = rows.unnest("candidates").unique(["record", "canonical_id"], keep="first", maintain_order=True)
    return once.with_columns(position=pl.int_range(pl.len(), dtype=pl.Int32).over("record"))
