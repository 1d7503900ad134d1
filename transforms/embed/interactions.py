"""What models learn from and are asked about: lists of items in the order they were listened to, over numbered items.

The same noun serves both: a model is fitted on the histories of many users, and scores contexts, which are histories of
users or the plays of a session so far.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import scipy.sparse as sp

from transforms.id_index import NO_CODE, IdIndex


@dataclasses.dataclass(frozen=True, slots=True)
class Interactions:
    """Ordered lists of items, in compressed rows. Memory: 8 bytes per interaction and 8 per row.

    Attributes:
      starts: `(num_rows + 1,) int64`; row r holds the interactions from `starts[r]` up to `starts[r + 1]`.
      items: `(num_interactions,) int32`, numbers of items below `num_items`, oldest first within a row.
      weights: `(num_interactions,) float32`, label strengths; below 0 where the item was skipped.
      num_items: items there are, seen or not.

    Raises:
      ValueError: the parts do not fit together.
    """

    starts: np.ndarray
    items: np.ndarray
    weights: np.ndarray
    num_items: int

    def __post_init__(self) -> None:
        if self.items.shape != self.weights.shape or self.starts[-1] != len(self.items):
            raise ValueError(
                f"rows end at {self.starts[-1]}, but there are {len(self.items)} items and {len(self.weights)} weights"
            )
        if len(self.items) and not 0 <= self.items.min() <= self.items.max() < self.num_items:
            raise ValueError(f"items are numbered {self.items.min()} to {self.items.max()} of {self.num_items}")

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Interactions of each row, `(num_rows,) int64`."""
        return np.diff(self.starts)

    @property
    def rows(self) -> np.ndarray:
        """Row of each interaction, `(num_interactions,) int64`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def row(self, number: int) -> np.ndarray:
        """Return the items of one row."""
        return self.items[self.starts[number] : self.starts[number + 1]]

    def take(self, rows: np.ndarray) -> "Interactions":
        """Return some rows, in the order given."""
        lengths = self.lengths[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], lengths)
        return Interactions(starts, self.items[at], self.weights[at], self.num_items)

    def last(self, limit: int) -> "Interactions":
        """Return the last `limit` interactions of every row."""
        lengths = np.minimum(self.lengths, limit)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(starts[-1]) + np.repeat(self.starts[1:] - lengths - starts[:-1], lengths)
        return Interactions(starts, self.items[at], self.weights[at], self.num_items)

    def where(self, kept: np.ndarray) -> "Interactions":
        """Return the interactions of which `kept (num_interactions,) bool` is true."""
        starts = np.concatenate([[0], np.cumsum(kept)])[self.starts]
        return Interactions(starts, self.items[kept], self.weights[kept], self.num_items)

    def blocks(self, size: int) -> Iterator[tuple[slice, "Interactions"]]:
        """Yield the rows in blocks of `size`, with where they lie."""
        for first in range(0, len(self), size):
            span = slice(first, min(first + size, len(self)))
            low, high = self.starts[first], self.starts[span.stop]
            starts = self.starts[first : span.stop + 1] - low
            yield span, Interactions(starts, self.items[low:high], self.weights[low:high], self.num_items)

    def matrix(self) -> sp.csr_matrix:
        """Return who interacted with what, `(num_rows, num_items) float32` of ones: repeats and strengths do not count."""
        shape = (len(self), self.num_items)
        counted = sp.csr_matrix((np.ones(len(self.items), np.float32), self.items, self.starts), shape=shape, copy=True)
        counted.sum_duplicates()
        counted.data[:] = 1.0
        return counted


def from_lists(lists: Sequence[Sequence[int] | np.ndarray], num_items: int) -> Interactions:
    """Return interactions of strength 1 from lists of item numbers."""
    starts = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
    items = np.concatenate([np.asarray(one, np.int32) for one in lists]) if len(lists) else np.empty(0, np.int32)
    return Interactions(starts, items, np.ones(len(items), np.float32), num_items)


def join_rows(parts: Sequence[Interactions]) -> Interactions:
    """Return the rows of all parts, one part after the other."""
    starts = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))])
    items, weights = (np.concatenate([getattr(part, name) for part in parts]) for name in ("items", "weights"))
    return Interactions(starts, items, weights, max(part.num_items for part in parts))


def from_listens(listens: pl.DataFrame, keys: pl.Series, numbers: IdIndex) -> Interactions:
    """Return one row per key from its listens; items that have no number, and other keys, are left out.

    Args:
      listens: `key`, `item_id`, `label`, sorted by key and time.
      keys: sorted and unique; a key without listens has an empty row.
      numbers: of unique items; an item's number is its place.
    """
    item, row = numbers.find(listens["item_id"]), IdIndex.of(keys).find_runs(listens["key"])
    known = (item != NO_CODE) & (row != NO_CODE)
    item, row, label = item[known], row[known], listens["label"].to_numpy()[known]
    assert (row[1:] >= row[:-1]).all(), "listens must be sorted by key"
    starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(keys)))]).astype(np.int64)
    return Interactions(starts, item.astype(np.int32), label.astype(np.float32), len(numbers.ids))
