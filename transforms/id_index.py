"""Ids as numbers: an immutable index of strings, looked up in bulk."""

import dataclasses
import itertools

import numpy as np
import polars as pl

from transforms.compiled import compiled

NO_CODE = np.uint32(0xFFFFFFFF)
_MANY = 4_096
"""Fewer ids are found faster than runs of equal ones."""
_SLOT = np.dtype([("hash", np.uint64), ("place", np.int64)])


@dataclasses.dataclass(frozen=True, slots=True)
class IdIndex:
    """The place of each id among some ids; of equal ids, that of the first.

    Memory: besides the ids, 22 to 43 bytes for each.

    Attributes:
      ids: a null is none. slots: `(2**bits,)`, hash and place of an id; place -1 where there is none.
      seed: of the hash, by which no two of the ids have the same.
    """

    ids: pl.Series
    slots: np.ndarray
    seed: int

    @classmethod
    def of(cls, ids: pl.Series) -> "IdIndex":
        """Index ids."""
        given = ids.drop_nulls() if ids.null_count() else ids
        place = np.arange(len(ids)) if given is ids else ids.is_not_null().arg_true().to_numpy().astype(np.int64)
        slots, found = np.empty(1 << max(4 * len(ids) // 3, 1).bit_length(), _SLOT), np.empty(len(given), np.uint32)
        for seed in itertools.count():
            hashes = _hashes(given, seed)
            slots["place"] = -1
            _fill(slots, hashes, place)
            _find_all(slots, hashes, found)
            if not len(given) or (ids[pl.Series(found)] == given).all():
                return cls(ids, slots, seed)
        raise AssertionError("seeds do not end")

    def find(self, ids: pl.Series) -> np.ndarray:
        """Return the place of each id, `(num_ids,) uint32`, `NO_CODE` for null and for what is not among them."""
        found = np.full(len(ids), NO_CODE)
        if not len(self.ids) or ids.null_count() == len(ids):
            return found
        _find_all(self.slots, _hashes(ids, self.seed), found)
        other = self.ids[pl.Series(np.minimum(found, np.uint32(len(self.ids) - 1)))] != ids
        found[(other.fill_null(True) if other.null_count() else other).to_numpy()] = NO_CODE
        return found

    def find_runs(self, ids: pl.Series) -> np.ndarray:
        """Return what `find` does, faster where equal ids follow each other, and are many."""
        if len(ids) < _MANY:
            return self.find(ids)
        runs = ids.rle().struct.unnest()
        return np.repeat(self.find(runs["value"]), runs["len"].to_numpy())


def alike(ids: pl.Series) -> np.ndarray:
    """Return the same code for equal ids, their place in `first_seen`, `(num_ids,) uint32`; `NO_CODE` for null."""
    return IdIndex.of(first_seen(ids)).find(ids)


def first_seen(ids: pl.Series) -> pl.Series:
    """Return the ids without nulls, each once, in order of the first of them."""
    return ids.drop_nulls().unique(maintain_order=True)


def _hashes(ids: pl.Series, seed: int) -> np.ndarray:
    """Return hashes that hold for this process only, `(num_ids,) uint64`."""
    return np.array(ids.to_frame().hash_rows(seed).to_numpy())


@compiled
def _fill(slots, hashes, places):
    mask = np.uint64(len(slots) - 1)
    for at in range(len(hashes)):
        slot = hashes[at] & mask
        while slots[slot].place >= 0 and slots[slot].hash != hashes[at]:
            slot = (slot + np.uint64(1)) & mask
        if slots[slot].place < 0:
            slots[slot].place, slots[slot].hash = places[at], hashes[at]


@compiled
def _find_all(slots, hashes, found):
    mask = np.uint64(len(slots) - 1)
    for at in range(len(hashes)):
        slot = hashes[at] & mask
        while slots[slot].place >= 0 and slots[slot].hash != hashes[at]:
            slot = (slot + np.uint64(1)) & mask
        found[at] = np.uint32(slots[slot].place)
