"""Groups of equal keys in arrays: order, where groups begin, and numbers within them."""

import numpy as np
import polars as pl

from transforms.compiled import compiled
from transforms.id_index import NO_CODE


def dense(ids: pl.Series) -> np.ndarray:
    """Return codes of equal strings, uint32 in order of the string; `NO_CODE` for null."""
    return (
        (ids.rank("dense").cast(pl.UInt32) - 1).fill_null(int(NO_CODE)).to_numpy()
        if len(ids)
        else np.empty(0, np.uint32)
    )


def order_by(*keys: np.ndarray) -> np.ndarray:
    """Return the stable order by the keys, the most significant first; one sort where they fit 63 bits together."""
    widths = [int(key.max()).bit_length() if len(key) else 0 for key in keys]
    if sum(widths) > 63:
        return np.lexsort(keys[::-1])
    packed = np.zeros(len(keys[0]), np.int64)
    for key, width in zip(keys, widths, strict=True):
        packed = (packed << width) | key.astype(np.int64)
    return np.argsort(packed, kind="stable")


def starts(*keys: np.ndarray) -> np.ndarray:
    """Tell which rows begin a group of equal keys; rows are sorted by them."""
    begins = np.ones(len(keys[0]), bool)
    if len(begins) > 1:
        begins[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return begins


def within(begins: np.ndarray) -> np.ndarray:
    """Number the rows of each group from 0."""
    index = np.arange(len(begins))
    return index - np.maximum.accumulate(np.where(begins, index, 0))


def ranks(begins: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the rank of each row in its group, 0 for the greatest score; of equal ones, the first row before the others.

    Args:
      begins: `(num_rows,) bool`, see `starts`. scores: `(num_rows,) float32`; one that is no number is the greatest.

    Returns:
      `(num_rows,) int32`.
    """
    first = np.flatnonzero(begins)
    width = int(np.diff(first, append=len(begins)).max(initial=0)).bit_length()
    if len(first).bit_length() + 32 + width > 64:  # a half of the groups at a time
        middle = first[len(first) // 2]
        return np.concatenate([ranks(begins[half], scores[half]) for half in (slice(middle), slice(middle, None))])
    packed = _packed(begins, (scores.astype(np.float32) + np.float32(0)).view(np.uint32), width)
    packed.sort()  # equal integers there are none, so that the fastest sort will do
    return _unpacked(begins, packed, width)


@compiled
def _packed(begins, bits, width):
    """Pack number of the group, score, the greatest first, and number in the group."""
    packed = np.empty(len(begins), np.uint64)
    group, place = np.uint64(0), np.uint64(0)
    for row in range(len(begins)):
        if begins[row]:
            group, place = group + np.uint64(1), np.uint64(0)
        score = np.uint64(bits[row])
        down = score if score >> np.uint64(31) else score ^ np.uint64((1 << 31) - 1)
        packed[row] = (group << np.uint64(32) | down) << np.uint64(width) | place
        place += np.uint64(1)
    return packed


@compiled
def _unpacked(begins, packed, width):
    """Number rows within their groups in the order of what is packed of them."""
    ranks, first = np.empty(len(packed), np.int32), 0
    for at in range(len(packed)):
        first = at if begins[at] else first
        ranks[first + np.int64(packed[at] & np.uint64((1 << width) - 1))] = at - first
    return ranks


def runs_in_order(order: np.ndarray, first: np.ndarray, num_rows: int) -> np.ndarray:
    """Return the rows, run after run in an order; rows of a run keep theirs.

    Args:
      order: `(num_runs,)`, a permutation. first: the first row of each run, ascending.
    """
    counts = np.diff(np.append(first, num_rows))[order]
    return np.repeat(first[order], counts) + numbered(counts)


def numbered(counts: np.ndarray) -> np.ndarray:
    """Number what is counted of each group from 0, groups one after the other."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


def by_code(codes: np.ndarray, num_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the stable order by code, and where each code begins in it and the last one ends; larger ones are left out."""
    starts = np.concatenate([[0], np.cumsum(counted(codes, num_codes))])
    order = np.empty(starts[-1], np.int64)
    _place(codes, starts[:-1].copy(), order)
    return order, starts


def counted(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """Count each code, `(num_codes,) int64`; larger ones are left out."""
    counts = np.zeros(num_codes, np.int64)
    _count(codes, counts)
    return counts


@compiled
def _count(codes, counts):
    for code in codes:
        if code < len(counts):
            counts[code] += 1


@compiled
def _place(codes, ends, order):
    for at in range(len(codes)):
        if codes[at] < len(ends):
            order[ends[codes[at]]] = at
            ends[codes[at]] += 1
