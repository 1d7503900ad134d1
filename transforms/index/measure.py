"""How good an index is: what it finds beside an exact search, overall and in the slices of listeners and items."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from transforms.index.exact import NOTHING, Limits
from transforms.index.ivf import IvfIndex
from validation.thresholds import default_thresholds

WANTED = 100
SLICE_QUERIES = 50
"""Of the queries, so many are asked in each slice: 5,000 neighbours tell .90 from .92."""


@dataclasses.dataclass(frozen=True, slots=True)
class Slices:
    """What items are, for slices of market and type. Memory: a bit per item and market, and what types take.

    Attributes:
      types: `(num_items,) str`. markets: in order. offered: `(num_items, ceil(num_markets / 8)) uint8`, a bit per market.
    """

    types: pl.Series
    markets: Sequence[str]
    offered: np.ndarray

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield name and mask, `(num_items,) bool`, of each slice that has enough items to be judged."""
        least = default_thresholds().index.slice_items
        for kind in self.types.unique().drop_nulls().sort():
            of_kind = (self.types == kind).fill_null(False).to_numpy()
            for place, market in enumerate(self.markets):
                mask = of_kind & (self.offered[:, place // 8] >> (7 - place % 8) & 1 > 0)
                if mask.sum() >= least:
                    yield f"{market} {kind}", mask


def measure(index: IvfIndex, queries: np.ndarray, slices: Slices) -> dict[str, int]:
    """Return counts of neighbours wanted, found and missing, of all and by slice, and of items that find themselves.

    Args:
      queries: `(num_queries, dim) float32`, in random order: the first of them are asked in every slice.
    """
    counters = _compare(index, queries, None, "") | _itself(index, len(queries)) | {"slices": 0}
    asked = queries[:SLICE_QUERIES]
    for name, mask in slices:
        limits = Limits(mask[None], np.zeros(len(asked), np.int64), np.empty(0, np.int64))
        counters |= _compare(index, asked, limits, f"[{name}]")
        counters["slices"] += 1
    return counters


def _compare(index: IvfIndex, queries: np.ndarray, limits: Limits | None, of: str) -> dict[str, int]:
    """Count what reaches the score of the last one wanted: of equal items, either will do."""
    found, best = index.search(queries, WANTED, limits), index.scan(queries, WANTED, limits)
    there, got = best.rows != NOTHING, found.rows != NOTHING
    least = np.where(there, best.scores, np.inf).min(axis=1, keepdims=True)
    padded = (there.sum(axis=1) - got.sum(axis=1)).clip(0)
    return {
        f"hits{of}": int((got & (found.scores >= least)).sum()), f"wanted{of}": int(there.sum()),
        f"padded{of}": int(padded.sum()),
    }  # fmt: skip


def _itself(index: IvfIndex, limit: int) -> dict[str, int]:
    """Count the items, evenly spread over the rows, that find themselves first, or what equals them."""
    rows = np.unique(np.linspace(0, len(index) - 1, min(limit, len(index)), dtype=np.int64))
    vectors = index.take(rows)
    found = index.search(vectors, 1).rows[:, 0]
    same = (found != NOTHING) & (index.take(np.maximum(found, 0)) == vectors).all(axis=1)
    return {"itself": int(same.sum()), "asked_itself": len(rows)}
