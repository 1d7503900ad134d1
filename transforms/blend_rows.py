"""From proposals by key to rows by record: compiled."""

import numpy as np

from transforms.compiled import compiled
from transforms.id_index import NO_CODE


def spread(
    keys: np.ndarray, starts: np.ndarray, order: np.ndarray, item: np.ndarray, source: np.ndarray, rank: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return, record by record, what stands under its keys: record, proposal, item, source and rank (`transforms.filters.Rows`).

    Args:
      keys: `(num_records, num_keys) uint32`, `NO_CODE` for none. order: proposals by key, those of key c from `starts[c]` to
        `starts[c + 1]`. item, source, rank: of each proposal.
    """
    known = keys[keys != NO_CODE]
    size = int((starts[known + np.uint32(1)] - starts[known]).sum())
    rows = (
        np.empty(size, np.uint32), np.empty(size, np.uint32), np.empty(size, item.dtype), np.empty(size, source.dtype),
        np.empty(size, rank.dtype),
    )  # fmt: skip
    _spread(keys, starts, order, (item, source, rank), rows)
    return rows


@compiled
def _spread(keys, starts, order, proposed, rows):
    (item, source, rank), (k, p, i, s, r), row = proposed, rows, 0
    for record in range(len(keys)):
        for key in keys[record]:
            if key == NO_CODE:
                continue
            for at in range(starts[key], starts[key + 1]):
                one = order[at]
                k[row], p[row], i[row], s[row], r[row] = record, one, item[one], source[one], rank[one]
                row += 1
