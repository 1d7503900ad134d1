"""What reaches a query's threshold, collected while it lies in the cache: compiled."""

from typing import NamedTuple, Self

import numpy as np

from transforms.compiled import AT_ONCE, compiled, lowest, reaching

_STEP_BITS = 10


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
      bounds: `(num_queries, size)` integers, the bits of floats; these below 0 are told from each other in their own order.
      least: `(num_queries,)` of the same, in the order of the floats. first: the block's first place.
    """
    masked, top = barred.masks.shape[1] > 0, least.dtype.type(np.iinfo(least.dtype).max)
    size = bounds.shape[1]
    for q in range(bounds.shape[0]):
        limit, n, at, last, mask = least[q], pool.counts[q], pool.passed[q], barred.starts[q + 1], barred.mask_of[q]
        for start in range(0, size, AT_ONCE):
            if limit > 0 and start + AT_ONCE <= size:
                found = reaching(bounds, q * size + start, limit)
            else:
                found = np.uint64(0)
                for j in range(start, min(start + AT_ONCE, size)):
                    bits = bounds[q, j] if bounds[q, j] >= 0 or limit > 0 else bounds[q, j] ^ top
                    found |= np.uint64(bits >= limit) << np.uint64(j - start)
            while found != 0:
                j = start + lowest(found)
                found &= found - np.uint64(1)
                if masked and not barred.masks[mask, first + j]:
                    continue
                while at < last and barred.places[at] < first + j:
                    at += 1
                if at == last or barred.places[at] != first + j:
                    bits = bounds[q, j]
                    pool.places[q, n], pool.bounds[q, n] = first + j, bits if bits >= 0 else bits ^ top
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
def floors(pool, k, found):
    """Write down for each query an integer that k of its bounds reach, and as few more as 1,024 steps can tell; the least
    there is where it has no more than k bounds.

    Args:
      found: `(num_queries,)` of the type of bounds.
    """
    steps = np.empty(1 << _STEP_BITS, np.int32)
    for q in range(len(found)):
        own = pool.bounds[q, : pool.counts[q]]
        if len(own) <= k:
            found[q] = np.iinfo(found.dtype).min
            continue
        low, shift, left, at = np.int64(own.min()), 0, k, len(steps)
        while np.int64(own.max()) - low >> shift >= len(steps):
            shift += 1
        steps[:] = 0
        for bound in own:
            steps[np.int64(bound) - low >> shift] += 1
        while left > 0:
            at -= 1
            left -= steps[at]
        found[q] = low + (at << shift)


@compiled
def narrow(pool, least, rows):
    """Keep what reaches `least`, `(num_queries,)` integers, and write the row of each place in its stead."""
    for q in range(len(least)):
        n = 0
        for i in range(pool.counts[q]):
            pool.places[q, n] = rows[pool.places[q, i]]
            n += pool.bounds[q, i] >= least[q]
        pool.counts[q] = n
