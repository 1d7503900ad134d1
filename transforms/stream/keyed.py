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

_HASH = "__hash"


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one file, in order of `hashes`, `(num_rows,) uint64`."""

    hashes: np.ndarray
    rows: pa.Table

    def places(self, wanted: np.ndarray) -> np.ndarray:
        """Return the places of the rows whose hash is among sorted `wanted`, ascending."""
        first, end = (np.searchsorted(self.hashes, wanted, side=side) for side in ("left", "right"))
        lengths = end - first
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return np.repeat(first, lengths) + offsets


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
        return cls(contract, column, segments, routed=contract.shard_by == column and len(paths) > 1)

    def lookup(self, ids: pl.Series, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows of some ids, sorted by the contract's key.

        Args:
          columns: only these.
        """
        names = list(columns) if columns else self.contract.schema.names
        wanted = ids.drop_nulls().unique().to_arrow()
        needed = list(dict.fromkeys([*names, self.column]))
        found = [self._of_segment(number, segment, wanted, needed) for number, segment in enumerate(self.segments)]
        rows = pl.concat([read_tables([], self.contract, needed), *found])
        mine = rows.filter(pl.col(self.column).is_in(ids.unique().implode()))
        return mine.sort([name for name in self.contract.key if name in names]).select(names)

    def _of_segment(self, number: int, segment: Segment, wanted: pa.Array, names: Sequence[str]) -> pl.DataFrame:
        own = wanted.filter(pa.array(shard_of(wanted, len(self.segments)) == number)) if self.routed else wanted
        places = segment.places(np.sort(mix_text(own))) if len(own) else np.empty(0, np.int64)
        rows = pl.from_arrow(segment.rows.select(names).take(pa.array(places)))
        assert isinstance(rows, pl.DataFrame)
        return rows


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
