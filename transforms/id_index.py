"""Ids as numbers: an immutable index of strings, looked up in bulk."""

import dataclasses

import numpy as np
import polars as pl

from transforms.compiled import compiled

NO_CODE = np.uint32(0xFFFFFFFF)


@dataclasses.dataclass(frozen=True, slots=True)
class IdIndex:
    """The place of each id among some ids; of equal ids, that of the first.

    Memory: 8 to 16 bytes per id, its bytes, and 8 for where they begin.

    Attributes:
      slots: `(2**bits,) int64`, place of an id by hash, -1 where there is none. data, starts: bytes of the ids.
    """

    slots: np.ndarray
    data: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, ids: pl.Series) -> "IdIndex":
        """Index ids; a null is not among them."""
        data, starts = _bytes(ids)
        slots = np.full(1 << max(2 * len(ids), 2).bit_length(), -1, np.int64)
        _fill(slots, data, starts, _there(ids))
        return cls(slots, data, starts)

    def find(self, ids: pl.Series) -> np.ndarray:
        """Return the place of each id, `(num_ids,) uint32`, `NO_CODE` for null and for what is not among them."""
        found = np.empty(len(ids), np.uint32)
        _find_all(self.slots, self.data, self.starts, *_bytes(ids), found)
        if ids.null_count():
            found[ids.is_null().to_numpy()] = NO_CODE
        return found


def alike(ids: pl.Series) -> np.ndarray:
    """Return the same code for equal ids, the place of the first of them, `(num_ids,) uint32`; `NO_CODE` for null."""
    return IdIndex.of(ids).find(ids)


def _there(ids: pl.Series) -> np.ndarray:
    return np.array(ids.is_not_null().to_numpy(), bool)


def _bytes(ids: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of ids, one after the other, and where each begins and the last one ends."""
    array = ids.to_arrow()
    if not len(array):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, data = array.buffers()
    starts = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8), starts


@compiled
def _hash(data, start, stop):
    """Fowler, Noll and Vo, 1a, 64 bits, with its high bits mixed into the low ones."""
    found = np.uint64(0xCBF29CE484222325)
    for at in range(start, stop):
        found = (found ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
    return found ^ (found >> np.uint64(32))


@compiled
def _same(data, start, size, other, other_start):
    for at in range(size - 1, -1, -1):  # ids of one kind differ at their ends
        if data[start + at] != other[other_start + at]:
            return False
    return True


@compiled
def _find(slots, data, starts, other, start, stop):
    """Return the slot that an id is in, or would be."""
    mask = np.uint64(len(slots) - 1)
    slot = _hash(other, start, stop) & mask
    while slots[slot] >= 0:
        place = slots[slot]
        size = starts[place + 1] - starts[place]
        if size == stop - start and _same(data, starts[place], size, other, start):
            break
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def _fill(slots, data, starts, there):
    for place in range(len(starts) - 1):
        if there[place]:
            slot = _find(slots, data, starts, data, starts[place], starts[place + 1])
            if slots[slot] < 0:
                slots[slot] = place


@compiled
def _find_all(slots, data, starts, other, bounds, found):
    """Look ids up; one that equals the one before it, as keys do in runs, is not looked up again."""
    for at in range(len(bounds) - 1):
        start, stop = bounds[at], bounds[at + 1]
        if at and stop - start == start - bounds[at - 1] and _same(other, start, stop - start, other, bounds[at - 1]):
            found[at] = found[at - 1]
            continue
        place = slots[_find(slots, data, starts, other, start, stop)]
        found[at] = np.uint32(place) if place >= 0 else np.uint32(0xFFFFFFFF)
