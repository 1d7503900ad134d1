"""Scores in full: the inner product of one query and one item, in float32, as the key that what is found is ordered by."""

import functools

import numpy as np

from transforms.compiled import compiled

LAST = np.uint64(0xFFFFFFFFFFFFFFFF)
"""The key of nothing."""


@functools.partial(compiled, fastmath={"reassoc", "contract"})
def score(queries, vectors, rows, at_once, keys):
    """Write down the keys of each query's own items, see `transforms.index.exact.to_keys`.

    Sums are taken in the order that suits the processor: in the same one for every pair, whatever else is asked. All queries are
    worked on together, `at_once` vectors after the other: where rows are ascending, a vector that many queries ask for is read
    from memory once.

    Args:
      queries: `(num_queries, dim) float32`. vectors: `(num_items, dim) float32`. rows: `(num_queries, n)` integers, below 0 for none.
      keys: `(num_queries, n) uint64`.
    """
    total, at = np.empty(1, np.float32), np.zeros(len(rows), np.int64)
    bits = total.view(np.uint32)
    for end in range(at_once, len(vectors) + at_once, at_once):
        for q in range(len(rows)):
            query, i = queries[q], at[q]
            while i < rows.shape[1] and rows[q, i] < end:
                row = rows[q, i]
                if row < 0:
                    keys[q, i] = LAST
                else:
                    item, found = vectors[row], np.float32(0)
                    for j in range(len(query)):
                        found += query[j] * item[j]
                    total[0] = found + np.float32(0)  # 0 and -0 are one score
                    told = bits[0]
                    descending = told if told >> np.uint32(31) else ~(told | np.uint32(0x80000000))
                    keys[q, i] = np.uint64(descending) << np.uint64(32) | np.uint64(row)
                i += 1
            at[q] = i


@compiled
def decode(keys, rows, scores):
    """Write down what keys stand for, see `transforms.index.exact.to_keys`: -1 and minus infinity where there is nothing.

    Args:
      keys: `(n,) uint64`. rows: `(n,) int32`. scores: `(n,) float32`.
    """
    bits = scores.view(np.uint32)
    for i in range(len(keys)):
        rows[i] = np.int32(keys[i] & np.uint64(0xFFFFFFFF))
        told = ~np.uint32(keys[i] >> np.uint64(32))
        bits[i] = told & np.uint32(0x7FFFFFFF) if told >> np.uint32(31) else ~told
        if keys[i] == LAST:
            scores[i] = -np.inf
