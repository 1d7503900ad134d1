"""Where targets stand in ranked lists: in committed candidate sets, in the proposals of one source, in what was played last.

Memory: `SETS_AT_ONCE` sets at a time, a row for each target that was found, and a dozen figures for each set and unit.
"""

import itertools
from collections.abc import Iterator, Sequence

import polars as pl
import pyarrow.parquet as pq

from schemas.evaluation import SETS
from transforms.evaluation import PART_OF
from transforms.evaluation_variety import LEANING, Known, leanings, miscalibration
from transforms.evaluation_variety import totals as totals_of
from transforms.serving import lists_of, read_charts

SETS_AT_ONCE = 1_024
HIT = {"unit": pl.UInt32, "canonical_id": pl.String, "ranking": pl.String, "rank": pl.Int64}
PER_UNIT = {"unit": pl.UInt32, "ranking": pl.String, "metric": pl.String, "value": pl.Float64}
_NOTHING_PLAYED = pl.DataFrame(schema={"unit": pl.UInt32} | {k: v for k, v in LEANING.items() if k != "user_id"})
_ELEMENT = "candidates.list.element"
_CANDIDATE = [f"{_ELEMENT}.{name}" for name in ("item_id", "canonical_id", "position", "familiarity", "is_fresh")]
_READ = ["record_key", "market", "tier", *_CANDIDATE, f"{_ELEMENT}.sources.list.element.source_id"]


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
    groups: Sequence[str],
    record: pl.Expr,
    served: pl.DataFrame,
    targets: pl.DataFrame,
    known: Known,
    played: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Find targets in candidate sets.

    Args:
      paths, groups: files of own sets, and of charts.
      record: names a set, of its `record_key`, `market` and `tier`.
      served: which set each unit is served, beside which chart, under which name of a ranking (`serving.served_from`).
      targets: `unit`, `canonical_id`. known: the items of all sets.
      played: `unit`, `metric`, `of`, `share`: what each unit's user played (`played_leanings`); None: nobody's is known.

    Returns:
      Hits, those of a source's part in the sets among them; and the figures of whole sets.
    """
    listed = pl.concat_str("record", "beside", separator=" + ", ignore_nulls=True)
    served = served.with_columns(listed.alias("record"), set="record")
    lists = served.select("set", "beside", "record").unique(maintain_order=True)
    charts = read_charts(groups, lists["beside"].drop_nulls(), _READ)
    wanted, own = served.join(targets, on="unit"), served.filter(pl.col("ranking") == SETS).select("unit", "record")
    leaning = own.join(_NOTHING_PLAYED if played is None else played, on="unit", maintain_order="left")
    found, totals, gaps = [_no_candidates()], [_no_totals()], [pl.DataFrame(schema=PER_UNIT)]
    for path in [*paths, *groups]:
        for asked in _asked(path, record, lists):
            rows = lists_of(asked, charts)
            rows = rows.with_columns(pl.col("sources").list.eval(pl.element().struct.field("source_id")))
            found.append(wanted.join(rows, on=["record", "canonical_id"]).select(_no_candidates().columns))
            told = known.described(rows)
            totals.append(totals_of(told, known))
            of_these = leaning.join(asked, on="record", how="semi", maintain_order="left")
            gaps.append(_of_sets(miscalibration(of_these, leanings(told, "record"))))
    hits = pl.concat(found).with_columns(pl.col("position").cast(pl.Int64).alias("rank"))
    figures = own.join(pl.concat(totals), on="record").select(list(PER_UNIT))
    return pl.concat([hits.select(list(HIT)), _parts(hits)]), pl.concat([figures, *gaps])


def _asked(path: str, record: pl.Expr, lists: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the sets of a file that are asked for, as often as there are charts they are served beside, so many at a time."""
    for batch in pq.ParquetFile(path).iter_batches(batch_size=SETS_AT_ONCE, columns=_READ):
        sets = pl.DataFrame(batch).select(record.alias("set"), "candidates")
        yield from sets.join(lists, on="set", maintain_order="left_right").iter_slices(SETS_AT_ONCE)


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
