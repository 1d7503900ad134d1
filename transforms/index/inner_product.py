"""Scores in full: the inner product of one query and one item, in float32, as the key that what is found is ordered by."""

import functools

import numpy as np

from transforms.compiled import compiled

LAST = np.uint64(0xFFFFFFFFFFFFFFFF)
"""The key of nothing."""


@functools.partial(compiled, fastmath={"reassoc", "contract"})
def score(queries, vectors, rows, keys):
    """Write down the keys of each query's own items, see `transforms.index.exact.to_keys`.

    Sums are taken in the order that suits the processor: in the same one for every pair, whatever else is asked.

    Args:
      queries: `(num_queries, dim) float32`. vectors: `(num_items, dim) float32`. rows: `(num_queries, n)` integers, below 0 for none.
      keys: `(num_queries, n) uint64`.
    """
    total = np.empty(1, np.float32)
    bits = total.view(np.uint32)
    for q in range(rows.shape[0]):
        query = queries[q]
        for i in range(rows.shape[1]):
            row = rows[q, i]
            if row < 0:
                keys[q, i] = LAST
                continue
            item, found = vectors[row], np.float32(0)
            for j in range(len(query)):
                found += query[j] * item[j]
            total[0] = found + np.float32(0)  # 0 and -0 are one score
            told = bits[0]
            descending = told if told >> np.uint32(31) else ~(told | np.uint32(0x80000000))
            keys[q, i] = np.uint64(descending) << np.uint64(32) | np.uint64(row)
