"""Keyed tables: committed rows found by id in microseconds, on disk and shared by all processes of a machine.

A Parquet file is written once more as an Arrow file in order of the hash of one column, and mapped: a look-up is a binary
search and a gather. Memory: 8 bytes per row and whatever pages look-ups touch; while a file is written, that file.
"""

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.contract import Contract
from schemas.hashing import mix_text, shard_of
from transforms.io.temporary import PREFIX
from transforms.shards import read_tables
from transforms.sorted_groups import numbered

_HASH = "__hash"
_FEW = 8
"""So many segments are searched faster than ids are told apart by shard."""


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one file, in order of `hashes`, `(num_rows,) uint64`."""

    hashes: np.ndarray
    rows: pa.Table

    def places(self, wanted: np.ndarray) -> np.ndarray:
        """Return the places of the rows whose hash is among sorted `wanted`, ascending."""
        first, end = (np.searchsorted(self.hashes, wanted, side=side) for side in ("left", "right"))
        lengths = end - first
        return np.repeat(first, lengths) + numbered(lengths)


@dataclasses.dataclass(frozen=True, slots=True)
class KeyedTable:
    """The rows of a dataset by one column.

    Attributes:
      routed: whether a row lies in the segment that is the shard of its id, so that no other is searched. There is a file
        per shard then, in order.
    """

    contract: Contract
    column: str
    segments: tuple[Segment, ...]
    routed: bool

    @classmethod
    def open(cls, contract: Contract, column: str, paths: Sequence[str], folder: Path) -> "KeyedTable":
        """Map the files of a dataset, written anew where `folder` does not hold them yet."""
        segments = tuple(_mapped(_arrow_file(path, contract, column, folder)) for path in paths)
        return cls(contract, column, segments, routed=contract.shard_by == column and len(paths) > _FEW)

    def lookup(self, ids: pl.Series, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows of some ids, sorted by the contract's key.

        Args:
          columns: only these.
        """
        names = list(columns) if columns else self.contract.schema.names
        wanted = pc.unique(ids.to_arrow().cast(pa.large_string())).drop_null()
        needed = list(dict.fromkeys([*names, self.column]))
        hashes = np.unique(mix_text(wanted))
        found = [self._of_segment(number, wanted, hashes, needed) for number in range(len(self.segments))]
        some = [rows for rows in found if rows is not None]
        if not some:
            return read_tables([], self.contract, names)
        rows = pa.concat_tables(some)
        key = [(name, "ascending") for name in self.contract.key if name in names]
        ordered = rows.take(pc.sort_indices(rows, key)) if key else rows
        frame = pl.from_arrow(ordered.select(names))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def _of_segment(self, number: int, wanted: pa.Array, hashes: np.ndarray, names: Sequence[str]) -> pa.Table | None:
        segment, own = self.segments[number], wanted
        if self.routed:
            own = wanted.filter(pa.array(shard_of(wanted, len(self.segments)) == number))
            hashes = np.unique(mix_text(own))
        places = segment.places(hashes)
        if not len(places):
            return None
        rows = segment.rows.select(names).take(pa.array(places))
        mine = pc.is_in(rows[self.column], own)  # another id may have the same hash
        return rows if pc.all(mine).as_py() else rows.filter(mine)


def _mapped(path: Path) -> Segment:
    with pa.memory_map(str(path)) as source:
        rows = pa.ipc.open_file(source).read_all()
    return Segment(rows[_HASH].to_numpy(), rows.drop_columns([_HASH]))


def _arrow_file(path: str, contract: Contract, column: str, folder: Path) -> Path:
    """Return the Arrow file of a Parquet file, written if it is not there; whole or not at all."""
    stamp = os.stat(path)
    told = f"{os.path.abspath(path)}|{stamp.st_size}|{stamp.st_mtime_ns}|{column}|{contract.fingerprint}"
    target = folder / f"{contract.name}-{hashlib.sha256(told.encode()).hexdigest()[:24]}.arrow"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_tables([path], contract).to_arrow(compat_level=pl.CompatLevel.oldest())
    hashes = pa.array(mix_text(rows[column]))
    order = pc.sort_indices(hashes)
    ordered = rows.append_column(_HASH, hashes).take(order).combine_chunks()
    handle, name = tempfile.mkstemp(prefix=PREFIX, dir=folder)
    with os.fdopen(handle, "wb") as file, pa.ipc.new_file(file, ordered.schema) as writer:
        writer.write_table(ordered, max_chunksize=max(ordered.num_rows, 1))
    os.replace(name, target)
    return target
