"""What reaches a query's threshold, collected while it lies in the cache: compiled."""

from typing import NamedTuple, Self

import numpy as np

from transforms.compiled import compiled

_AT_ONCE = 64


class Barred(NamedTuple):
    """What queries may not find of a part: `masks` `(num_masks, num_items) bool`, none where all is open, and `mask_of` as in
    `transforms.index.exact.Limits`; `places` of what else is out, query by query from `starts[q]` to `starts[q + 1]`, ascending.
    """

    masks: np.ndarray
    mask_of: np.ndarray
    places: np.ndarray
    starts: np.ndarray


class Pool(NamedTuple):
    """What is collected: of each query the first `counts`, by place, ascending.

    Attributes:
      places: `(num_queries, room) int32`. bounds: the same of integers. counts: `(num_queries,) int64`. passed: how far each
        query has come in `Barred.places`.
    """

    places: np.ndarray
    bounds: np.ndarray
    counts: np.ndarray
    passed: np.ndarray

    @classmethod
    def of(cls, num_queries: int, room: int, bits: type, barred: Barred) -> Self:
        """Return an empty pool."""
        shape = num_queries, room
        return cls(
            np.empty(shape, np.int32), np.empty(shape, bits), np.zeros(num_queries, np.int64), barred.starts[:-1].copy()
        )


@compiled
def collect(bounds, least, first, barred, pool):
    """Add the items of a block whose bounds are `least` or more, and that are not barred; there must be room for all.

    Args:
      bounds: `(num_queries, size)` integers. least: `(num_queries,)` of the same. first: the block's first place.
    """
    size, masked = bounds.shape[1], barred.masks.shape[1] > 0
    for q in range(bounds.shape[0]):
        limit, n, at, last, mask = least[q], pool.counts[q], pool.passed[q], barred.starts[q + 1], barred.mask_of[q]
        for start in range(0, size, _AT_ONCE):
            end = min(start + _AT_ONCE, size)
            if end - start == _AT_ONCE and not _any_reach(bounds[q, start : start + _AT_ONCE], limit):
                continue
            for j in range(start, end):
                place = first + j
                if bounds[q, j] < limit or (masked and not barred.masks[mask, place]):
                    continue
                while at < last and barred.places[at] < place:
                    at += 1
                if at == last or barred.places[at] != place:
                    pool.places[q, n], pool.bounds[q, n] = place, bounds[q, j]
                    n += 1
        pool.counts[q], pool.passed[q] = n, at


@compiled
def add(queries, places, bounds, first, barred, pool):
    """Add what reached its threshold in a block, in order of query and place, and is not barred; otherwise as `collect`."""
    masked = barred.masks.shape[1] > 0
    for row in range(len(queries)):
        q, place = queries[row], first + places[row]
        if masked and not barred.masks[barred.mask_of[q], place]:
            continue
        at, last = pool.passed[q], barred.starts[q + 1]
        while at < last and barred.places[at] < place:
            at += 1
        pool.passed[q] = at
        if at == last or barred.places[at] != place:
            n = pool.counts[q]
            pool.places[q, n], pool.bounds[q, n] = place, bounds[row]
            pool.counts[q] = n + 1


@compiled
def _any_reach(some, limit):
    """Tell whether any of `_AT_ONCE` integers is `limit` or more: without a branch, so that many are compared at once."""
    found = np.int16(0)
    for j in range(_AT_ONCE):
        found |= np.int16(some[j] >= limit)
    return found != 0
