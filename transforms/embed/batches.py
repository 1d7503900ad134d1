"""Rows of items cut into windows and packed into batches whose positions lie one after the other."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from transforms.embed.interactions import Interactions


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """Windows of rows, their positions one after the other: no position is padding.

    Attributes:
      items: `(num_positions,) int64`.
      skipped: `(num_positions,) int64`, 1 where the item was skipped.
      rows: `(num_positions,) int64`, the window of each position, ascending.
      columns: `(num_positions,) int64`, the place within the window, from 0.
      num_rows: windows.
      width: positions of the longest window.
    """

    items: np.ndarray
    skipped: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    num_rows: int
    width: int

    @property
    def lasts(self) -> np.ndarray:
        """Position of the last item of each window, none of which is empty, `(num_rows,) int64`."""
        return np.append(np.flatnonzero(np.diff(self.rows)), len(self.rows) - 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Windows and, at each of their positions, the next item.

    Attributes:
      inputs: the windows.
      targets: `(num_positions,) int64`, the item that followed.
      weights: `(num_positions,) float32`, its strength; 0 where it was skipped.
    """

    inputs: Packed
    targets: np.ndarray
    weights: np.ndarray


def pack(interactions: Interactions) -> Packed:
    """Return rows as windows of their own."""
    columns = np.arange(len(interactions.items)) - np.repeat(interactions.starts[:-1], interactions.lengths)
    flags = (interactions.weights < 0).astype(np.int64)
    width = int(interactions.lengths.max(initial=0))
    return Packed(interactions.items.astype(np.int64), flags, interactions.rows, columns, len(interactions), width)


def windows(interactions: Interactions, max_length: int) -> np.ndarray:
    """Return where windows begin and end, `(num_windows, 2) int64`; the last item of each is only a target.

    Windows of a row share no input; each ends where the next begins, so that every item but the first of its row is a
    target once. Rows of one item have none.
    """
    counts = -(-(interactions.lengths - 1) // max_length)
    counts = np.maximum(counts, 0)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    last = np.repeat(interactions.starts[1:], counts)
    # Counted from the end of the row, so that its newest items are seen with the longest past.
    ends = last - place * max_length
    begins = np.maximum(ends - max_length - 1, np.repeat(interactions.starts[:-1], counts))
    return np.stack([begins, ends], axis=1)


def batches(interactions: Interactions, spans: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield the windows at `spans` in random order, about `size` targets at a time."""
    spans = spans[rng.permutation(len(spans))]
    targets = np.cumsum(spans[:, 1] - spans[:, 0] - 1)
    cuts = np.flatnonzero(np.diff((targets - 1) // size)) + 1
    for some in np.split(spans, cuts):
        yield _batch(interactions, some)


def num_batches(spans: np.ndarray, size: int) -> int:
    """Return about how many batches there are."""
    return max(1, -(-int((spans[:, 1] - spans[:, 0] - 1).sum()) // size))


def _batch(interactions: Interactions, spans: np.ndarray) -> Batch:
    """Return one batch of the windows at `spans`."""
    lengths = spans[:, 1] - spans[:, 0] - 1
    starts = np.concatenate([[0], np.cumsum(lengths)])
    at = np.arange(starts[-1]) + np.repeat(spans[:, 0] - starts[:-1], lengths)
    inputs = Interactions(starts, interactions.items[at], interactions.weights[at], interactions.num_items)
    weights = np.maximum(interactions.weights[at + 1], 0.0)
    return Batch(pack(inputs), interactions.items[at + 1].astype(np.int64), weights)
