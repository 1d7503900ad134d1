"""Where targets stand in ranked lists: in committed candidate sets, in the proposals of one source, in what was played last.

Memory: `SETS_AT_ONCE` sets at a time, a row for each target that was found, and a dozen figures for each set and unit.
"""

import itertools
from collections.abc import Sequence

import polars as pl
import pyarrow.parquet as pq

from schemas.evaluation import FALLBACK, SETS
from schemas.tallies import ANY
from transforms.evaluation import PART_OF
from transforms.evaluation_variety import LEANING, Known, leanings, miscalibration
from transforms.evaluation_variety import totals as totals_of

SETS_AT_ONCE = 1_024
HIT = {"unit": pl.UInt32, "canonical_id": pl.String, "ranking": pl.String, "rank": pl.Int64}
PER_UNIT = {"unit": pl.UInt32, "ranking": pl.String, "metric": pl.String, "value": pl.Float64}
_NOTHING_PLAYED = pl.DataFrame(schema={"unit": pl.UInt32} | {k: v for k, v in LEANING.items() if k != "user_id"})
_ELEMENT = "candidates.list.element"
_CANDIDATE = [f"{_ELEMENT}.{name}" for name in ("item_id", "canonical_id", "position", "familiarity", "is_fresh")]
_READ = ["record_key", "market", "tier", *_CANDIDATE, f"{_ELEMENT}.sources.list.element.source_id"]


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


def served_from(units: pl.DataFrame, own: Sequence[str], there: pl.Series) -> pl.DataFrame:
    """Return which set each unit is served, as `read_sets` asks: the first of its own that is there, else the chart, which is FALLBACK.

    Args:
      units: `unit`, `chart` and the names of the unit's own sets, in the columns `own`.
    """
    first = pl.coalesce(*(pl.when(pl.col(name).is_in(there.implode())).then(name) for name in own), "chart")
    mine = first.alias("record")
    return pl.concat(
        [
            units.select("unit", mine, pl.lit(SETS).alias("ranking")),
            units.select("unit", pl.col("chart").alias("record"), pl.lit(FALLBACK).alias("ranking")),
        ]
    )


def items_in(paths: Sequence[str]) -> pl.Series:
    """Return the ids of the items in candidate sets, each once."""
    column = f"{_ELEMENT}.item_id"
    lists = (pl.from_arrow(batch) for path in paths
             for batch in pq.ParquetFile(path).iter_batches(batch_size=SETS_AT_ONCE, columns=[column]))  # fmt: skip
    ids = [pl.Series("item_id", [], pl.String)]
    for frame in lists:
        assert isinstance(frame, pl.DataFrame)
        ids.append(frame["candidates"].explode().struct.field("item_id").drop_nulls().unique())
    return pl.concat(ids).unique()


def read_sets(
    paths: Sequence[str],
    record: pl.Expr,
    served: pl.DataFrame,
    targets: pl.DataFrame,
    known: Known,
    played: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Find targets in candidate sets.

    Args:
      record: names a set, of its `record_key`, `market` and `tier`.
      served: `unit`, `record`, `ranking`: which set each unit is served, under which name of a ranking.
      targets: `unit`, `canonical_id`. known: the items of all sets.
      played: `unit`, `metric`, `of`, `share`: what each unit's user played (`played_leanings`); None: nobody's is known.

    Returns:
      Hits, those of a source's part in the sets among them; and the figures of whole sets.
    """
    wanted, own = served.join(targets, on="unit"), served.filter(pl.col("ranking") == SETS).select("unit", "record")
    leaning = own.join(_NOTHING_PLAYED if played is None else played, on="unit", maintain_order="left")
    found, totals, gaps = [_no_candidates()], [_no_totals()], [pl.DataFrame(schema=PER_UNIT)]
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=SETS_AT_ONCE, columns=_READ):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            asked = frame.select(record.alias("record"), "candidates").join(served, on="record", how="semi")
            rows = asked.explode("candidates").drop_nulls("candidates").unnest("candidates")
            rows = rows.with_columns(pl.col("sources").list.eval(pl.element().struct.field("source_id")))
            found.append(wanted.join(rows, on=["record", "canonical_id"]).select(_no_candidates().columns))
            told = known.described(rows)
            totals.append(totals_of(told, known))
            of_these = leaning.join(asked, on="record", how="semi", maintain_order="left")
            gaps.append(_of_sets(miscalibration(of_these, leanings(told, "record"))))
    hits = pl.concat(found).with_columns(pl.col("position").cast(pl.Int64).alias("rank"))
    figures = own.join(pl.concat(totals), on="record").select(list(PER_UNIT))
    return pl.concat([hits.select(list(HIT)), _parts(hits)]), pl.concat([figures, *gaps])


def _of_sets(figures: pl.DataFrame) -> pl.DataFrame:
    return figures.with_columns(pl.lit(SETS).alias("ranking")).select(list(PER_UNIT))


def _no_candidates() -> pl.DataFrame:
    names = {"unit": pl.UInt32, "ranking": pl.String, "canonical_id": pl.String, "position": pl.Int32}
    return pl.DataFrame(schema=names | {"sources": pl.List(pl.String)})


def _no_totals() -> pl.DataFrame:
    return pl.DataFrame(schema={"record": pl.String, **{k: v for k, v in PER_UNIT.items() if k != "unit"}})


def _parts(hits: pl.DataFrame) -> pl.DataFrame:
    """Return the hits of the sets again: for every source that proposed one, alone or not, and for every two of them."""
    own = hits.filter(pl.col("ranking") == SETS)
    each = own.explode("sources").drop_nulls("sources")
    alone = own.filter(pl.col("sources").list.len() == 1).explode("sources")
    pairs = each.join(
        each.select("unit", "canonical_id", pl.col("sources").alias("other")), on=["unit", "canonical_id"]
    )
    pairs = pairs.filter(pl.col("sources") < pl.col("other"))
    named = [
        each.with_columns(within(pl.col("sources")).alias("ranking")),
        alone.with_columns(only(pl.col("sources")).alias("ranking")),
        pairs.with_columns(both(pl.col("sources"), pl.col("other")).alias("ranking")),
    ]
    return pl.concat([frame.select(list(HIT)) for frame in named])


def within(source: pl.Expr) -> pl.Expr:
    """Name the part of the sets that a source is among the proposers of."""
    return pl.format(f"within{PART_OF}{{}}", source)


def only(source: pl.Expr) -> pl.Expr:
    """Name the part of the sets that no other source proposed."""
    return pl.format(f"only{PART_OF}{{}}", source)


def without(source: str) -> str:
    """Name the sets that are blended again without a source."""
    return f"without{PART_OF}{source}"


def both(first: pl.Expr, second: pl.Expr) -> pl.Expr:
    """Name the part of the sets that two sources proposed, the first of them by name first."""
    return pl.format(f"both{PART_OF}{{}}+{{}}", first, second)


def part_names(sources: Sequence[str]) -> list[str]:
    """Return the names of all parts of the sets that some sources can have."""
    pairs = [f"both{PART_OF}{a}+{b}" for a, b in itertools.combinations(sorted(sources), 2)]
    return [f"{kind}{PART_OF}{name}" for kind in ("within", "only") for name in sorted(sources)] + pairs


def read_proposals(paths: Sequence[str], wanted: pl.DataFrame) -> pl.DataFrame:
    """Find targets in what each source proposed by itself, in the order of the source.

    Args:
      wanted: `key`, `item_id`, `unit`, `canonical_id`: a target under all its recordings.

    Returns:
      Hits; the better one of two recordings.
    """
    if not paths:
        return pl.DataFrame(schema=HIT)
    proposals = pl.scan_parquet(list(paths), hive_partitioning=False).select(
        "key", "item_id", "source_id", "source_rank"
    )
    found = proposals.join(wanted.lazy(), on=["key", "item_id"]).collect(engine="streaming")
    ranked = found.rename({"source_id": "ranking"}).group_by("unit", "canonical_id", "ranking")
    return ranked.agg(pl.col("source_rank").min().cast(pl.Int64).alias("rank")).select(list(HIT))


def ranked_hits(lists: pl.DataFrame, wanted: pl.DataFrame, ranking: str) -> pl.DataFrame:
    """Find targets in lists given as `key`, `item_id`, `rank`."""
    found = wanted.join(lists, on=["key", "item_id"]).group_by("unit", "canonical_id").agg(pl.col("rank").min())
    return found.select("unit", "canonical_id", pl.lit(ranking).alias("ranking"), pl.col("rank").cast(pl.Int64))
