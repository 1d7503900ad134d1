"""Kin: what items have in common, and how a source spreads its proposals over it.

The caps of a surface leave two of an album; a source whose 300 nearest are of 60 albums would fill half the slots it is
given. So a source looks further, and what exceeds a cap goes behind what does not.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
import polars as pl

from schemas.hashing import hash64
from schemas.policy import SurfacePolicy
from transforms.compiled import compiled
from transforms.tallies import first_artist

KIN_COLUMNS = ("item_id", "artists", "album_id", "show_id", "publisher")
FURTHER = 3
"""So many times the wanted are looked at; of tracks, 900 are of about 200 albums (the synthetic world)."""
CAPS = ("album", "show", "artist", "publisher")
"""The narrow first: what an album gives away must not use up its artist's room."""
_NONE, _SPREADING = np.uint64(0), np.uint64(0x9E3779B97F4A7C15)  # 2**64 / the golden ratio: Fibonacci hashing
_KEPT, _EXCEEDS, _NO_ROW = 0, 1, 2


@dataclasses.dataclass(frozen=True, slots=True)
class Kin:
    """Album, show, artist and publisher of items, as hashes; 0 for none. Memory: 32 bytes per item.

    Attributes:
      codes: `(num_items, num_caps) uint64`, by `CAPS`.
    """

    codes: np.ndarray

    @classmethod
    def read(cls, items: Iterable[pl.DataFrame], ids: pl.Series) -> "Kin":
        """Read a catalogue, part by part.

        Args:
          items: `KIN_COLUMNS`. ids: of the items, sorted; their numbers are their places.
        """
        columns = {
            "album": pl.col("album_id"),
            "show": pl.col("show_id"),
            "artist": first_artist(),
            "publisher": pl.col("publisher"),
        }
        codes = np.full((len(ids), len(CAPS)), _NONE)
        numbers = pl.DataFrame({"item_id": ids, "row": pl.int_range(len(ids), eager=True)})
        for part in items:
            known = part.join(numbers, on="item_id").select("row", **columns)
            for cap, name in enumerate(CAPS):
                some = known.drop_nulls(name)
                codes[some["row"].to_numpy(), cap] = hash64(some[name].to_arrow())
        return cls(codes)

    def spread(self, rows: np.ndarray, limit: int, policy: SurfacePolicy) -> np.ndarray:
        """Return the places, ascending, of the first `limit` rows that exceed no cap, filled up with others.

        Args:
          rows: `(num_queries, n) int32`, the best first; below 0 for none.

        Returns:
          `(num_queries, min(n, limit)) int64`.
        """
        caps = np.array([getattr(policy, name) for name in CAPS])
        return _spread(rows, self.codes, caps, min(rows.shape[1], limit))


def looked_at(limit: int, policy: SurfacePolicy) -> int:
    """Return how many items to look at for `limit` proposals: no more than these where no cap can bind."""
    return limit if limit <= min(policy.album, policy.show, policy.artist, policy.publisher) else FURTHER * limit


@compiled
def _spread(rows, codes, caps, limit):
    """See `Kin.spread`. Memory: a table of the codes of one query, 12 bytes for each and at most four times as many."""
    bits = 3
    while 1 << bits < 2 * len(caps) * rows.shape[1]:
        bits += 1
    keys, counts = np.empty(1 << bits, np.uint64), np.empty(1 << bits, np.int32)
    told, places = np.empty(rows.shape[1], np.int8), np.empty((len(rows), limit), np.int64)
    room = np.empty(3, np.int64)
    for query in range(len(rows)):
        keys[:] = _NONE
        room[:] = 0
        for place in range(rows.shape[1]):
            row = rows[query, place]
            told[place] = _NO_ROW if row < 0 else _count_in(codes[row], caps, keys, counts, bits)
            room[told[place]] += 1
        left = limit
        for kind in range(3):
            room[kind] = min(room[kind], left)
            left -= room[kind]
        size = 0
        for place in range(rows.shape[1]):
            if room[told[place]]:
                room[told[place]] -= 1
                places[query, size] = place
                size += 1
    return places


@compiled
def _count_in(own, caps, keys, counts, bits):
    """Count an item in, cap after cap, up to one that it exceeds; return whether there is one."""
    for cap in range(len(caps)):
        if own[cap] == _NONE:
            continue
        code = own[cap] + np.uint64(cap)
        at = np.int64(code * _SPREADING >> np.uint64(64 - bits))
        while keys[at] != code:
            if keys[at] == _NONE:
                keys[at], counts[at] = code, 0
                break
            at = (at + 1) & ((1 << bits) - 1)
        counts[at] += 1
        if counts[at] > caps[cap]:
            return _EXCEEDS
    return _KEPT
