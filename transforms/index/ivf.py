"""Approximate search with a guarantee: of lists of codes, and of the vectors themselves where codes cannot give it.

A query looks into the lists nearest to it, more of them the fewer items its mask is open to, so that it meets as many
that it may find. The best codes are scored again in float32. Who then has fewer items than there are looks into more
lists, in the end exactly. Where few items may be found, looking at all of them costs less than lists do.

What is found is the same for every batch and number of threads; equal scores are ordered by row.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np

from transforms.index.build import NEVER
from transforms.index.exact import (
    LAST,
    NOTHING,
    QUERIES_AT_ONCE,
    ExactIndex,
    Found,
    Limits,
    demand_finite,
    to_keys,
)

PROBED_SHARE = 1 / 16
"""Of the lists, where everything may be found (the project's reference, decision rule); its stage measures what that finds."""
EXACT_BELOW, EXACT_SHARE = 200_000, PROBED_SHARE**0.5
"""Items that may be found, up to which all of them are looked at (the project's reference, sizing); of a share below this
one there are fewer than lists would give codes to look at."""
PROBED_AGAIN = 4
REFINED, LEAST_REFINED = 4, 400
"""Candidates that are scored again, in k, and the least of them: codes tell the very nearest apart badly."""
_ONE_QUERY_AT_A_TIME = 11
assert faiss.cvar.distance_compute_blas_threshold == NEVER


class IvfIndex:
    """Lists of codes, and the vectors they stand for, immutable.

    Memory: per process, `dim / 4 + 12` bytes per item of codes and ids, a third more while opening; the vectors, `4 * dim`
    bytes, are mapped, and the processes of a machine share them. A search holds 12 bytes per candidate of
    `QUERIES_AT_ONCE` queries, and what an exact one holds.
    """

    def __init__(self, codes: faiss.IndexIVFPQ, segments: Sequence[ExactIndex]):
        """Search lists of codes.

        Args:
          codes: numbered by rows. segments: the vectors, runs of rows in order.
        """
        self._lists = faiss.IndexIVFPQFastScan(codes)
        self._lists.implem = _ONE_QUERY_AT_A_TIME  # the others break ties by who else is asked
        self._segments = tuple(segments)
        self._starts = np.cumsum([0, *map(len, segments)])
        assert codes.ntotal == len(self)

    @classmethod
    def join(cls, codes: Sequence[faiss.IndexIVFPQ], segments: Sequence[ExactIndex]) -> "IvfIndex":
        """Return the index of segments of one training, in the order of their rows. What is joined is used up."""
        first, *others = codes
        for other in others:
            first.check_compatible_for_merge(other)
            first.merge_from(other, first.ntotal)
        return cls(first, segments)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of rows, `(n, dim) float32`."""
        found = np.empty((len(rows), self._lists.d), np.float32)
        for segment, first, last in self._runs():
            own = (rows >= first) & (rows < last)
            found[own] = segment.take(rows[own] - first)
        return found

    def search(self, queries: np.ndarray, k: int, limits: Limits | None = None) -> Found:
        """Return items of great inner product with every query: k, or all it may find where those are fewer.

        Args:
          queries: `(num_queries, dim) float32`.

        Raises:
          ValueError: a query is not finite, or k below 1.
        """
        return self._answer(queries, k, limits, max(EXACT_BELOW, int(EXACT_SHARE * len(self))))

    def scan(self, queries: np.ndarray, k: int, limits: Limits | None = None) -> Found:
        """Return the very best, by looking at all items; otherwise as `search`."""
        return self._answer(queries, k, limits, len(self))

    def _answer(self, queries: np.ndarray, k: int, limits: Limits | None, few: int) -> Found:
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        demand_finite(queries, "query")
        queries = np.ascontiguousarray(queries, np.float32)
        nobody = np.zeros(len(queries), np.int64)
        own = limits or Limits(np.ones((1, len(self)), bool), nobody, nobody[:0])
        own = own.of(slice(0, len(queries)), self._rows)
        probed = own.masks.sum(axis=1) > few
        keys = np.full((len(queries), k), LAST)
        for mask in (None, *np.flatnonzero(probed)):
            some = np.flatnonzero(~probed[own.mask_of] if mask is None else own.mask_of == mask)
            search = self._scan if mask is None else self._probe
            if len(some):
                keys[some] = search(queries[some], k, own.take(some))
        return Found.of(keys)

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        return np.arange(len(self), dtype=np.int32)

    def _runs(self) -> Iterator[tuple[ExactIndex, int, int]]:
        return zip(self._segments, self._starts[:-1].tolist(), self._starts[1:].tolist(), strict=True)

    def _scan(self, queries: np.ndarray, k: int, limits: Limits) -> np.ndarray:
        """Return the keys of the best items."""
        keys = np.full((len(queries), k), LAST)
        for segment, first, last in self._runs():
            found = segment.search(queries, k, limits.run(first, last))
            rows = np.where(found.rows == NOTHING, np.int64(NOTHING), found.rows.astype(np.int64) + first)
            keys = _best(k, keys, to_keys(found.scores, rows))
        return keys

    def _probe(self, queries: np.ndarray, k: int, limits: Limits) -> np.ndarray:
        """Return the keys of what lists give, all queries under one mask; of the best items where that is too little."""
        mask, without = limits.masks[limits.mask_of[0]], limits.count_without(len(queries))
        open_to, keys = int(mask.sum()), np.full((len(queries), k), LAST)
        bits = np.packbits(mask, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(bits))
        probed = min(int(np.ceil(PROBED_SHARE * self._lists.nlist * len(mask) / open_to)), self._lists.nlist)
        wanted = max(REFINED * k, LEAST_REFINED) + _rounded_up(without)
        left = np.arange(len(queries))
        while len(left):
            parameters = _parameters(probed, selector)
            for some in _alike(left, wanted):
                keys[some] = self._refined(queries[some], k, int(wanted[some[0]]), parameters, limits.take(some))
            short = (keys[left] != LAST).sum(axis=1) < np.minimum(k, open_to - without[left])
            left = left[short]
            if probed == self._lists.nlist:
                break
            probed = min(PROBED_AGAIN * probed, self._lists.nlist)
        if len(left):
            keys[left] = self._scan(queries[left], k, limits.take(left))
        return keys

    def _refined(self, queries: np.ndarray, k: int, wanted: int, parameters: Any, limits: Limits) -> np.ndarray:
        """Return the keys of the best of the wanted candidates of each query, scored in float32."""
        _, rows = self._lists.search(queries, min(wanted, len(self)), params=parameters)
        query = np.repeat(np.arange(len(queries)), rows.shape[1])
        rows[limits.deny(query, rows.ravel()).reshape(rows.shape)] = NOTHING
        rows.sort(axis=1)  # as scores are taken fastest
        scores = np.full(rows.shape, -np.inf, np.float32)
        for segment, first, last in self._runs():
            own = np.where((rows >= first) & (rows < last), rows - first, NOTHING)
            np.maximum(scores, segment.scores(queries, own), out=scores)
        return _best(k, np.full((len(queries), k), LAST), to_keys(scores, rows))


def _rounded_up(counts: np.ndarray) -> np.ndarray:
    """Return 0 or the next power of two: what a query asks for must not depend on who is asked with it."""
    return np.where(counts > 0, 2 ** np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64), 0)


def _alike(queries: np.ndarray, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Yield queries, ascending, that want as many candidates, `QUERIES_AT_ONCE` of them."""
    for count in np.unique(wanted[queries]):
        same = queries[wanted[queries] == count]
        yield from (same[first : first + QUERIES_AT_ONCE] for first in range(0, len(same), QUERIES_AT_ONCE))


def _parameters(probed: int, selector: faiss.IDSelectorBitmap) -> Any:
    make: Any = faiss.SearchParametersIVF
    return make(nprobe=probed, sel=selector)


def _best(k: int, *keys: np.ndarray) -> np.ndarray:
    """Return the k best of the keys of each query, in order."""
    both = np.hstack(keys)
    return np.sort(np.partition(both, k - 1, axis=1)[:, :k], axis=1)
