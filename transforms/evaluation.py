"""Evaluation: from ranked lists and what was played afterwards to sums over users, with a bootstrap that merges.

A *unit* is what a figure is a mean over: a user on Home, a play with what followed it on Now Playing. Replicate r of the
bootstrap counts each unit `poisson(user, r)` times. The draw is a hash, so that any two rankings, shards, dates and roots
are resampled alike: sums merge by adding, and differences of replicates are paired (Hanley and MacGibbon 2006).

Memory: `BLOCK` units with `REPLICATES` weights of 8 bytes (33 MB) and as many figures, twice; 8 KB for each of some thousands of
cells, which do not grow with users.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from schemas.evaluation import ORACLE, REPLICATES, SETS, TARGETS, UNIT, UNITS
from schemas.hashing import hash64, hash64_one, mix64
from transforms.evaluate import Hits

DEPTH = 300
BLOCK = 4_096
RECALL_AT, NDCG_AT, HIT_AT = (10, 50, 100, 300), (10, 100), (1, 10, 50, 100, 300)
UNIT_SLICES, TARGET_SLICES = ("market", "tier", "tenure", "skips"), ("type", "age", "device", "language")
PART_OF = ":"
"""In the name of a ranking that is a part of the sets: what one source is among the proposers of, alone, or with another."""
_DRAWS = np.cumsum([np.exp(-1.0) / np.prod(np.arange(1.0, n + 1)) for n in range(16)])
"""Chance that a Poisson draw of mean 1 is at most 0, 1, ...; beyond 15 lie 2e-14."""
_SEED = hash64_one("evaluation|bootstrap")


class Cell(NamedTuple):
    """What a sum is of, as in the contract of evaluations."""

    target: str
    ranking: str
    slice: str
    part: str
    metric: str
    k: int


@dataclasses.dataclass
class Sums:
    """Sums by cell: the plain one first, then one per replicate; `(1 + REPLICATES,) int64`."""

    cells: dict[Cell, np.ndarray] = dataclasses.field(default_factory=dict)

    def add(self, cell: Cell, sums: np.ndarray) -> None:
        """Add to a cell."""
        self.cells[cell] = self.cells[cell] + sums if cell in self.cells else sums

    def merge(self, other: "Sums") -> None:
        """Add all cells of another one."""
        for cell, sums in other.cells.items():
            self.add(cell, sums)


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """A shard's units, what they wanted and where it was found.

    Attributes:
      units: one row per unit in order of `unit` (uint32, from 0): `user_id` and those of `UNIT_SLICES` that it knows.
      targets: `unit`, `canonical_id`, unique; a bool column for each kind of target it knows; `TARGET_SLICES`.
      hits: `unit`, `canonical_id`, `ranking`, `rank` (from 0): where a ranking holds a target, unique.
      per_unit: `unit`, `ranking`, `metric`, `value`: figures of whole lists; those of units with a target of kind `all` count.
    """

    units: pl.DataFrame
    targets: pl.DataFrame
    hits: pl.DataFrame
    per_unit: pl.DataFrame


def poisson_weights(users: pl.Series) -> np.ndarray:
    """Return how often each replicate counts each user, `(num_users, 1 + REPLICATES) float64`; the first column is 1."""
    base = mix64(hash64(users.to_arrow()), np.full(len(users), _SEED, np.uint64))
    drawn = mix64(base[:, None], np.arange(REPLICATES, dtype=np.uint64)[None, :])
    bounds = np.minimum(_DRAWS * 2.0**64, 2.0**64 - 2.0**11).astype(np.uint64)
    weights = np.searchsorted(bounds, drawn.ravel(), side="right").reshape(drawn.shape)
    return np.concatenate([np.ones((len(users), 1)), weights], axis=1)


def measure(judged: Judged, rankings: Iterable[str]) -> Sums:
    """Return the sums of all cells.

    Args:
      rankings: every one there is, the sets' own among them; one without a hit counts as 0 everywhere.
    """
    sums, named = Sums(), sorted(rankings)
    for start in range(0, judged.units.height, BLOCK):
        sums.merge(_measured(_span(judged, start), named))
    return sums


def _span(judged: Judged, start: int) -> Judged:
    """Return `BLOCK` units from the one numbered `start`, numbered from 0."""
    own = pl.col("unit").is_between(start, start + BLOCK, closed="left")
    again = (pl.col("unit") - start).cast(pl.UInt32)
    whole = judged.units, judged.targets, judged.hits, judged.per_unit
    return Judged(*(frame.filter(own).with_columns(again) for frame in whole))


def _measured(judged: Judged, rankings: list[str]) -> Sums:
    columns = dict(_columns(judged, rankings))
    own = [i for i, cell in enumerate(columns) if cell.slice == "all" and cell.ranking in (SETS, ORACLE, "")]
    cells, values = list(columns), np.rint(np.stack(list(columns.values()), axis=1) * UNIT)
    weights = poisson_weights(judged.units["user_id"])
    found = dict(zip(cells, values.T @ weights, strict=True))
    for slice_ in (name for name in UNIT_SLICES if name in judged.units.columns):
        for part, rows in _parts(judged.units[slice_]):
            named = [cells[i]._replace(slice=slice_, part=part) for i in own]
            found |= dict(zip(named, values[rows][:, own].T @ weights[rows], strict=True))
    return Sums({cell: sums.astype(np.int64) for cell, sums in found.items() if sums[0] or cell.metric != UNITS})


def _columns(judged: Judged, rankings: list[str]) -> Iterator[tuple[Cell, np.ndarray]]:
    """Yield, by cell, the figure of each unit, `(num_units,) float64`; 0 for a unit without a target of the kind."""
    num_units = judged.units.height
    for target in (name for name in TARGETS if name in judged.targets.columns):
        wanted = judged.targets.filter(target)
        yield from _figures(Cell(target, "", "all", "all", "", 0), wanted, judged.hits, rankings, num_units)
        for slice_ in TARGET_SLICES:
            for part, rows in _parts(wanted[slice_]):
                cell = Cell(target, "", slice_, part, "", 0)
                yield from _figures(cell, wanted[rows], judged.hits, [SETS, ORACLE], num_units)
    counted = judged.per_unit.join(judged.targets.filter("all"), on="unit", how="semi", maintain_order="left")
    for (ranking, metric), own in counted.group_by("ranking", "metric", maintain_order=True):
        values = np.bincount(own["unit"].to_numpy(), own["value"].to_numpy(), num_units)
        yield Cell("all", str(ranking), "all", "all", str(metric), 0), values


def _parts(column: pl.Series) -> list[tuple[str, np.ndarray]]:
    """Return the rows of each value, in order of values."""
    values = column.to_numpy()
    return [(str(value), np.flatnonzero(values == value)) for value in column.unique().sort()]


def _figures(
    cell: Cell, targets: pl.DataFrame, hits: pl.DataFrame, rankings: list[str], num_units: int
) -> Iterator[tuple[Cell, np.ndarray]]:
    counts = np.bincount(targets["unit"].to_numpy(), minlength=num_units)
    asked = np.flatnonzero(counts)
    if not len(asked):
        return
    yield cell._replace(metric=UNITS), (counts > 0).astype(np.float64)
    row = np.zeros(num_units, np.int64)
    row[asked] = np.arange(len(asked))
    found = hits.filter(pl.col("ranking").is_in(rankings), pl.col("rank") < DEPTH)
    found = found.join(targets.select("unit", "canonical_id"), on=["unit", "canonical_id"])
    by_ranking = found.partition_by("ranking", as_dict=True)
    for ranking in rankings:
        own = by_ranking.get((ranking,), found.clear())
        at = np.zeros((len(asked), DEPTH), bool)
        at[row[own["unit"].to_numpy()], own["rank"].to_numpy()] = True
        for (metric, k), values in _metrics(Hits(at, counts[asked]), ranking).items():
            spread = np.zeros(num_units)
            spread[asked] = values
            yield cell._replace(ranking=ranking, metric=metric, k=k), spread


def _metrics(hits: Hits, ranking: str) -> dict[tuple[str, int], np.ndarray]:
    if PART_OF in ranking:
        return {("recall", DEPTH): hits.recall(DEPTH), ("hits", 0): hits.at.sum(axis=1).astype(np.float64)}
    found = {("recall", k): hits.recall(k) for k in RECALL_AT}
    found |= {("ndcg", k): hits.ndcg(k) for k in NDCG_AT}
    return found | {("hit", k): hits.hit_rate(k) for k in HIT_AT}


def interval(sums: np.ndarray, units: np.ndarray) -> tuple[float, float, float]:
    """Return a mean over units and its 95 % interval, from the sums of a cell and of its units.

    Percentile bootstrap (Efron 1981). Replicates that drew no unit are left out.
    """
    means = ratios(sums, units)
    low, high = np.quantile(means[1:][np.isfinite(means[1:])], [0.025, 0.975]) if len(means) > 1 else (means[0],) * 2
    return float(means[0]), float(low), float(high)


def difference(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[float, float, float]:
    """Return the difference of two means and its 95 % interval, each from the sums of a figure and of its units.

    Replicates count a user alike in both, so that it is paired where the users are the same.
    """
    means = ratios(*one) - ratios(*other)
    low, high = np.quantile(means[1:][np.isfinite(means[1:])], [0.025, 0.975])
    return float(means[0]), float(low), float(high)


def ratios(sums: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return the mean over units, plain and in each replicate; NaN where a replicate drew none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(units > 0, sums / units, np.nan)


def units_of(cell: Cell) -> Cell:
    """Return the cell that counts the units of another one."""
    return cell._replace(ranking="", metric=UNITS, k=0)


def to_frame(sums: Sums) -> pl.DataFrame:
    """Return sums as a table: the fields of a cell, `total` and `replicates`, sorted."""
    cells = sorted(sums.cells)
    columns: Mapping = {name: [cell[i] for cell in cells] for i, name in enumerate(Cell._fields)}
    values = np.stack([sums.cells[cell] for cell in cells]) if cells else np.zeros((0, 1 + REPLICATES), np.int64)
    lists = pl.Series("replicates", values[:, 1:], dtype=pl.Array(pl.Int64, REPLICATES)).cast(pl.List(pl.Int64))
    types = {name: pl.Int32 if name == "k" else pl.String for name in Cell._fields}
    return pl.DataFrame(columns, schema=types).with_columns(pl.Series("total", values[:, 0]), lists)


def from_frame(frame: pl.DataFrame) -> Sums:
    """Read what `to_frame` gave."""
    if not frame.height:
        return Sums()
    lists = frame["replicates"].explode().to_numpy().reshape(frame.height, -1)
    totals = frame["total"].to_numpy()
    rows = frame.select(Cell._fields).iter_rows()
    return Sums({Cell(*row): np.append(totals[i], lists[i]) for i, row in enumerate(rows)})
