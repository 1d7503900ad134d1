"""Kin: what items have in common, and how a source spreads its proposals over it.

The caps of a surface leave two of an album; a source whose 300 nearest are of 60 albums would fill half the slots it is
given. So a source looks further, and what exceeds a cap goes behind what does not.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl

from schemas.hashing import hash64
from schemas.policy import SurfacePolicy
from transforms.tallies import first_artist

KIN_COLUMNS = ("item_id", "artists", "album_id", "show_id", "publisher")
FURTHER = 3
"""So many times the wanted are looked at; of tracks, 900 are of about 200 albums (the synthetic world)."""
_NONE = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Kin:
    """Album, show, artist and publisher of items, as hashes; 0 for none. Memory: 32 bytes per item.

    Attributes:
      of: by the name of the cap, `(num_items,) uint64`, the narrow first: what an album gives away must not use up its
        artist's room.
    """

    of: Mapping[str, np.ndarray]

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
        found = {name: np.zeros(len(ids), np.uint64) for name in columns}
        numbers = pl.DataFrame({"item_id": ids, "row": pl.int_range(len(ids), eager=True)})
        for part in items:
            known = part.join(numbers, on="item_id").select("row", **columns)
            for name, codes in found.items():
                some = known.drop_nulls(name)
                codes[some["row"].to_numpy()] = hash64(some[name].to_arrow())
        return cls(found)

    def spread(self, rows: np.ndarray, limit: int, policy: SurfacePolicy) -> np.ndarray:
        """Return the places, ascending, of the first `limit` rows that exceed no cap, filled up with others.

        Args:
          rows: `(num_queries, n) int32`, the best first; below 0 for none.

        Returns:
          `(num_queries, min(n, limit)) int64`.
        """
        last = (rows < 0) * 2
        if last.all():
            return np.broadcast_to(np.arange(min(rows.shape[1], limit)), (len(rows), min(rows.shape[1], limit)))
        for name, codes in self.of.items():
            code = np.where(last > 0, _NONE, codes[rows])
            last = np.maximum(last, (code != _NONE) & (_nth(code) >= getattr(policy, name)))
        return np.sort(np.argsort(last, axis=1, kind="stable")[:, :limit], axis=1)


def looked_at(limit: int, policy: SurfacePolicy) -> int:
    """Return how many items to look at for `limit` proposals: no more than these where no cap can bind."""
    return limit if limit <= min(policy.album, policy.show, policy.artist, policy.publisher) else FURTHER * limit


def _nth(codes: np.ndarray) -> np.ndarray:
    """Return how often each code stands before in its row."""
    order = np.argsort(codes, axis=1, kind="stable")
    ordered = np.take_along_axis(codes, order, axis=1)
    places = np.broadcast_to(np.arange(codes.shape[1]), codes.shape)
    begins = np.ones(codes.shape, bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    nth = np.empty(codes.shape, np.int64)
    np.put_along_axis(nth, order, places - np.maximum.accumulate(np.where(begins, places, 0), axis=1), axis=1)
    return nth
