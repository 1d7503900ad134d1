"""Exact search in bulk: for many queries at once, the items of the greatest inner product.

Two steps. A matrix product bounds all scores from above, blocks of items against a batch of queries, and what reaches a
query's threshold is scored again by itself. The threshold is the score of a sampled item, of such a rank that rather
more than k items reach it; where the sample misled, the k-th best score that was found cannot, and the query is asked
again with it. No list of the best is kept on the way: selection costs next to nothing, the product is all there is to
pay for. On processors that multiply bfloat16 the product is one of bfloat16, with what rounding can take away added to
the bound.

A final score is the dot product of one query and one item in float32, so that no batch, order, precision of the product
or number of threads changes a bit of it; equal scores are ordered by row.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import torch

from transforms.index.aligned import aligned
from transforms.index.factors import Factors, Product, blocks, fastest, norms
from transforms.index.inner_product import LAST, decode, score
from transforms.index.survivors import Barred, Pool, floors, narrow

NOTHING = -1
"""Fills up where there are fewer items than asked for."""
QUERIES_AT_ONCE, PADDED_AT_ONCE = 1_024, 2**19
ROOM, LEAST_ROOM = 4, 1_024
"""Survivors of a query that are held, in k, and besides, 8 bytes each; with a block of bounds and what is scored, 50 MB in all for k = 500."""
SAMPLED_SHARE, LEAST_SAMPLE, MOST_SAMPLE, SAMPLED_AT_ONCE = 1 / 16, 1_024, 16_384, 64
GATHERING = 40
"""What gathering an item costs, in scores of one query and one item; `python -m benchmarks.retrieval` shows it."""
_ALIGNED_BYTES = 2**28
_SCORED_AT_ONCE = 2**12  # vectors: 2 MB at dim 128, in the cache while all queries look at them


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a search found, the best first.

    Attributes:
      rows: `(num_queries, k) int32`, of the index; `NOTHING` where there were fewer items.
      scores: `(num_queries, k) float32`; minus infinity where there is nothing.
    """

    rows: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray) -> "Found":
        """Return what keys stand for, see `to_keys`."""
        found = cls(np.empty(keys.shape, np.int32), np.empty(keys.shape, np.float32))
        decode(keys.ravel(), found.rows.reshape(-1), found.scores.reshape(-1))
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What each query may find of a part.

    Attributes:
      masks: `(num_masks, num_items) bool`, items that may be found by their places in the part. mask_of: `(num_queries,)
        int64`, which one is a query's.
      without: `query << 32 | row` in int64, ascending, each once: rows of the index that one query may not find though its
        mask is open to them.
      num_open: `(num_masks,) int64`, how many items each mask is open to; None: not counted yet.
    """

    masks: np.ndarray
    mask_of: np.ndarray
    without: np.ndarray
    num_open: np.ndarray | None = None

    @property
    def counted(self) -> "Limits":
        """These, with `num_open`."""
        return self if self.num_open is not None else dataclasses.replace(self, num_open=self.masks.sum(axis=1))

    @property
    def open_to(self) -> np.ndarray:
        """How many items each query's mask is open to."""
        return np.asarray(self.counted.num_open)[self.mask_of]

    def count_without(self, num_queries: int) -> np.ndarray:
        """Return how many items each query goes without."""
        return np.bincount(self.without >> 32, minlength=num_queries)

    def of(self, some: slice, rows: np.ndarray) -> "Limits":
        """Return those of a run of queries; of what they go without, what they would find in a part of these rows."""
        mask_of = self.mask_of[some]
        low, high = np.searchsorted(self.without, [n << 32 for n in (some.start, some.start + len(mask_of))])
        without = self.without[low:high] - (some.start << 32)
        query, row = without >> 32, (without & 0xFFFFFFFF).astype(rows.dtype)  # or all rows would be cast
        place = np.minimum(np.searchsorted(rows, row), max(len(rows) - 1, 0))
        found = (rows[place] == row) & self.masks[mask_of[query], place]
        return Limits(self.masks, mask_of, without[found], self.num_open)

    def take(self, queries: np.ndarray) -> "Limits":
        """Return those of some queries, ascending."""
        query = self.without >> 32
        if not len(queries):
            return Limits(self.masks, self.mask_of[queries], self.without[:0], self.num_open)
        place = np.minimum(np.searchsorted(queries, query), len(queries) - 1)
        kept = queries[place] == query
        without = place[kept] << 32 | self.without[kept] & 0xFFFFFFFF
        return Limits(self.masks, self.mask_of[queries], without, self.num_open)

    def packed(self, size: int) -> "Limits":
        """Return those of a part that holds just what the mask is open to."""
        return Limits(np.ones((1, size), bool), np.zeros_like(self.mask_of), self.without)

    def deny(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Tell which pairs of query and row of the index a query goes without."""
        if not len(self.without):
            return np.zeros(len(query), bool)
        pair = query.astype(np.int64) << 32 | row
        return np.asarray(self.without[np.minimum(np.searchsorted(self.without, pair), len(self.without) - 1)] == pair)

    def run(self, first: int, last: int) -> "Limits":
        """Return those of a run of rows, by their places in it."""
        row = self.without & 0xFFFFFFFF
        without = self.without[(row >= first) & (row < last)] - first
        return Limits(self.masks[:, first:last], self.mask_of, without)


class ExactIndex:
    """The vectors of a space, immutable.

    Memory: `4 * dim` bytes per item, which `open` maps for all processes of a machine; of up to `_ALIGNED_BYTES` each holds
    a copy. In bfloat16, `2 * dim` more.
    """

    def __init__(self, flat: faiss.IndexFlatIP, precision: str | None = None, seed: int = 0):
        """Search a flat FAISS index.

        Args:
          flat: rows in the order of ids.
          precision: of the first step, and where it is taken, see `transforms.index.factors`; None: the fastest. What is found is the
            same.

        Raises:
          ValueError: a vector is not finite.
        """
        self._flat: Any = flat
        self._seed = seed
        demand_finite(self.vectors, "item")
        self._precision = precision or fastest()

    @classmethod
    def of(cls, vectors: np.ndarray, precision: str | None = None, seed: int = 0) -> "ExactIndex":
        """Return an index of vectors in memory, `(num_items, dim) float32`."""
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(np.ascontiguousarray(vectors, np.float32))
        return cls(flat, precision, seed)

    @classmethod
    def open(cls, path: str | os.PathLike, precision: str | None = None, seed: int = 0) -> "ExactIndex":
        """Return the index in a file, mapped."""
        flat: Any = faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP_IFC)
        return cls(flat, precision, seed)

    @functools.cached_property
    def vectors(self) -> np.ndarray:
        """The vectors, `(num_items, dim) float32`, read only."""
        found = self._matrix.view()
        found.flags.writeable = False
        return found

    @functools.cached_property
    def _matrix(self) -> np.ndarray:
        """The vectors as torch wants them, which only takes what it may write to."""
        size = self._flat.ntotal * self._flat.d
        matrix = faiss.rev_swig_ptr(self._flat.get_xb(), size) if size else np.empty(0, np.float32)
        return aligned(matrix.reshape(self._flat.ntotal, self._flat.d), _ALIGNED_BYTES)

    @functools.cached_property
    def _factors(self) -> Factors:
        return Factors.of(self._matrix, self._precision)

    def __len__(self) -> int:
        return int(self._flat.ntotal)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of rows, `(n, dim) float32`."""
        return np.asarray(self.vectors[rows])

    def search(self, queries: np.ndarray, k: int, limits: Limits | None = None) -> Found:
        """Return the best of all items, see `Part.search`.

        Items a mask is open to are searched by themselves where that costs less than to look at the others.
        """
        if limits is None:
            return self._whole.search(queries, k)
        limits = limits.counted
        open_to = np.asarray(limits.num_open)
        asked = np.bincount(limits.mask_of, minlength=len(limits.masks))
        gathered = asked * (len(self) - open_to) > GATHERING * open_to
        rows, scores = np.full((len(queries), k), NOTHING, np.int32), np.full((len(queries), k), -np.inf, np.float32)
        for one in (*np.flatnonzero(gathered), None):
            some = np.flatnonzero(~gathered[limits.mask_of] if one is None else limits.mask_of == one)
            part = self._whole if one is None else self.part(np.flatnonzero(limits.masks[one]))
            own = limits.take(some)
            found = part.search(queries[some], k, own if one is None else own.packed(len(part)))
            rows[some], scores[some] = found.rows, found.scores
        return Found(rows, scores)

    @functools.cached_property
    def _whole(self) -> "Part":
        return Part(self, np.arange(len(self), dtype=np.int32), self._factors, self._seed)

    def part(self, rows: np.ndarray) -> "Part":
        """Return some items to search among: a search costs what they cost, not what the index holds.

        Args:
          rows: ascending, each once.
        """
        rows = rows.astype(np.int32)
        return Part(self, rows, self._factors.take(rows), self._seed)

    def scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the scores of each query's own items, `(num_queries, n) float32`.

        Args:
          queries: `(num_queries, dim) float32`. rows: `(num_queries, n)` integers, `NOTHING` allowed: minus infinity.
        """
        return to_scores(self.keys(queries, rows))

    def keys(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the keys of each query's own items, `(num_queries, n) uint64`, see `to_keys`; otherwise as `scores`."""
        found = np.full(rows.shape, LAST)
        score(queries, self._matrix, rows, _SCORED_AT_ONCE, found)
        return found


class Part:
    """Items of an index to search among. Memory: four bytes each, a block of their factors, and the sample's vectors."""

    def __init__(self, index: ExactIndex, rows: np.ndarray, factors: Factors, seed: int):
        self._index, self._rows, self._factors = index, rows, factors
        size = int(np.clip(SAMPLED_SHARE * len(rows), LEAST_SAMPLE, MOST_SAMPLE))
        self._sampled = np.sort(np.random.default_rng(seed).permutation(len(rows))[:size])
        self._sample = torch.from_numpy(index.vectors[rows[self._sampled]])

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, queries: np.ndarray, k: int, limits: Limits | None = None) -> Found:
        """Return the items of the greatest inner product with every query: k, or all it may find where those are fewer.

        Args:
          queries: `(num_queries, dim) float32`; 1,024 at once are the fastest.

        Raises:
          ValueError: a query is not finite, or k below 1.
        """
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        demand_finite(queries, "query")
        keys = np.full((len(queries), k), LAST)
        for first in range(0, len(queries) if len(self) else 0, QUERIES_AT_ONCE):
            some = slice(first, first + QUERIES_AT_ONCE)
            own = limits.of(some, self._rows) if limits else None
            keys[some] = self._search(np.ascontiguousarray(queries[some]), k, own)
        return Found.of(keys)

    def _search(self, queries: np.ndarray, k: int, limits: Limits | None) -> np.ndarray:
        """Return the keys of the best items, `(num_queries, k) uint64`, see `to_keys`."""
        every = np.arange(len(queries))
        open_to = limits.open_to if limits else np.full(len(queries), len(self))
        without = limits.count_without(len(queries)) if limits else np.zeros(len(queries), np.int64)
        threshold = self._threshold(queries, k + without, open_to, limits)
        keys = self._reaching(queries, threshold, k, limits)
        last = np.minimum(k, open_to - without) - 1
        found = np.where(last < 0, np.float32("inf"), to_scores(keys[every, np.maximum(last, 0)]))
        again = np.flatnonzero(found < threshold)
        if len(again):
            keys[again] = self._reaching(queries[again], found[again], k, limits and limits.take(again))
        return keys

    def _threshold(
        self, queries: np.ndarray, wanted: np.ndarray, open_to: np.ndarray, limits: Limits | None
    ) -> np.ndarray:
        """Return for each query a score that rather more than the wanted items reach, `(num_queries,) float32`.

        Its rank in the sample is four standard deviations above what is expected of the last one wanted. Of `SAMPLED_AT_ONCE`
        queries after the other, so that the scores of the sample, 4 MB, stay in the cache.
        """
        closed = np.zeros((1, len(self._sample)), bool) if limits is None else ~limits.masks[:, self._sampled]
        mask_of = np.zeros(len(queries), np.int64) if limits is None else limits.mask_of
        sampled = (~closed).sum(axis=1)[mask_of]
        expected = wanted * sampled / np.maximum(open_to, 1)
        rank = np.ceil(expected + 4 * np.sqrt(expected) + 4).astype(int)
        found = np.empty(len(queries), np.float32)
        for some in (slice(first, first + SAMPLED_AT_ONCE) for first in range(0, len(queries), SAMPLED_AT_ONCE)):
            scores = torch.mm(torch.from_numpy(np.array(queries[some])), self._sample.T)
            if (sampled[some] < len(self._sample)).any():
                scores.masked_fill_(torch.from_numpy(closed[mask_of[some]]), -torch.inf)
            numbers, deepest = scores.numpy(), min(int(rank[some].max()), len(self._sample))
            numbers.partition(-deepest, axis=1)
            best = np.sort(numbers[:, -deepest:], axis=1)
            found[some] = best[np.arange(len(best)), np.maximum(deepest - rank[some], 0)]
        return np.where(rank > sampled, np.float32("-inf"), found)

    def _reaching(self, queries: np.ndarray, threshold: np.ndarray, k: int, limits: Limits | None) -> np.ndarray:
        """Return the keys of the best k among all items whose bound reaches the threshold."""
        product, barred = self._factors.product(queries), self._barred(limits, len(queries))
        pool = Pool.of(len(queries), product.width + ROOM * k + LEAST_ROOM, product.bits, barred)
        keys, least = np.full((len(queries), k), LAST), product.least(threshold)
        for first in range(0, len(self), product.width):
            product.collect(first, least, barred, pool)
            if pool.counts.max() + product.width > pool.places.shape[1]:
                keys = self._best(queries, keys, pool, product)
                least = np.maximum(least, product.least(to_scores(keys[:, -1])))
                pool.counts[:] = 0
        return self._best(queries, keys, pool, product)

    def _barred(self, limits: Limits | None, num_queries: int) -> Barred:
        if limits is None:
            nothing = np.zeros(num_queries + 1, np.int64)
            return Barred(np.empty((1, 0), bool), nothing[1:], nothing[:0], nothing)
        places = np.searchsorted(self._rows, (limits.without & 0xFFFFFFFF).astype(np.int32))
        starts = np.append(0, np.cumsum(limits.count_without(num_queries)))
        masks = limits.masks if (limits.open_to < len(self)).any() else np.empty((1, 0), bool)
        return Barred(masks, limits.mask_of, places, starts)

    def _best(self, queries: np.ndarray, keys: np.ndarray, pool: Pool, product: Product) -> np.ndarray:
        """Score what is in the pool in full and return the best keys, of these and of those there were."""
        k, keys = keys.shape[1], keys.copy()
        last: np.ndarray = np.empty(len(keys), product.bits)
        floors(pool, k, last)
        no_more = last == np.iinfo(product.bits).min
        narrow(pool, np.where(no_more, last, product.rival(last)), self._rows)
        most = pool.counts.max()
        there = np.arange(most) < pool.counts[:, None]
        scored = self._index.keys(queries, np.where(there, pool.places[:, :most], NOTHING))
        for some in _alike(pool.counts):
            found = scored[some, : pool.counts[some[-1]]]
            keys[some] = best_of(k, *([keys[some]] if (keys[some, 0] != LAST).any() else []), found)
        return keys


def demand_finite(vectors: np.ndarray, what: str) -> None:
    """Refuse vectors that are not numbers, or whose length is none.

    Raises:
      ValueError: names the first row.
    """
    bad = [rows.start + np.flatnonzero(~np.isfinite(norms(vectors[rows]))) for rows in blocks(vectors)]
    found = np.concatenate([*bad, np.empty(0, np.int64)])
    if len(found):
        raise ValueError(f"{what} vector {int(found[0]):,} is not finite; {len(found):,} of {len(vectors):,} are not")


def _alike(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Yield queries together that have about as many survivors, so that little is filled up; of those that have any."""
    order = np.argsort(counts, kind="stable")[np.count_nonzero(counts == 0) :]
    while len(order):
        size = min(64, len(order))
        while size > 1 and size * counts[order[size - 1]] > PADDED_AT_ONCE:
            size //= 2
        yield order[:size]
        order = order[size:]


def to_keys(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return uint64 whose order is that of scores, the greatest first, and then of rows."""
    bits = (scores + np.float32(0)).view(np.uint32)
    ascending = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
    keys = (~ascending).astype(np.uint64) << np.uint64(32) | (rows & 0xFFFFFFFF).astype(np.uint64)
    return np.where(rows == NOTHING, LAST, keys)


def best_of(k: int, *keys: np.ndarray) -> np.ndarray:
    """Return the k best of the keys of each query, in order, `(num_queries, k) uint64`; `LAST` where there are fewer."""
    every = keys[0] if len(keys) == 1 else np.hstack(keys)
    if every.shape[1] < k:
        every = np.hstack([every, np.full((len(every), k - every.shape[1]), LAST)])
    if every.shape[1] > 2 * k:  # sorting what is just above k costs less than finding out which it is
        every = np.partition(every, k - 1, axis=1)[:, :k]
    return np.sort(every, axis=1)[:, :k]


def to_scores(keys: np.ndarray) -> np.ndarray:
    """Return the scores in keys; minus infinity where there is nothing."""
    return Found.of(keys).scores
