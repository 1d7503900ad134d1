"""Keyed tables: committed rows found by id in microseconds, on disk and shared by all processes of a machine.

Parquet files are written once more as Arrow files in order of the hash of one column, then of the contract's key, and mapped: a
look-up is a binary search and a gather in each. A dataset that is small enough is one of them, a larger one has one per Parquet file.
A file that no table of this process is open on is removed when another bundle has been opened (`sweep_tables`): a process
that has it mapped keeps it so, and one that still asks for it writes it again.
Memory: 8 bytes per row and whatever pages look-ups touch; while a file is written, what it holds: a file of a large
dataset, or `TOGETHER`.
"""

import dataclasses
import hashlib
import os
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.contract import Contract
from schemas.hashing import mix_text, shard_of
from transforms.io.store import demand_digest
from transforms.io.temporary import PREFIX, sweep
from transforms.shards import read_tables
from transforms.sorted_groups import numbered

_HASH = "__hash"
_LAYOUT = 3
"""Of the Arrow files; those of another one are not opened."""
_UNIQUE = b"hash-says-which-id"
_FEW = 8
"""So many segments are searched faster than ids are told apart by shard."""
TOGETHER = 2**27
"""Bytes of Parquet files that become one Arrow file: one or two gigabytes while it is written."""


@dataclasses.dataclass(frozen=True, slots=True, weakref_slot=True)
class Segment:
    """The rows of one file, in order of `hashes`, `(num_rows,) uint64`.

    Attributes:
      unique: whether rows of equal hashes have equal ids.
    """

    hashes: np.ndarray
    rows: pa.Table
    unique: bool

    def find(self, ids: pa.Array, hashes: np.ndarray, column: str, names: Sequence[str]) -> pa.Table | None:
        """Return the rows of some ids, each once, with their hashes in order; None without any."""
        hashes = hashes if self.unique else np.unique(hashes)
        first, end = (np.searchsorted(self.hashes, hashes, side=side) for side in ("left", "right"))
        lengths = end - first
        if not lengths.any():
            return None
        if self.unique:  # then one row of each tells whether its id is the one that was meant
            there = np.flatnonzero(lengths)
            same = pc.equal(self.rows[column].take(pa.array(first[there])), ids.take(pa.array(there)))
            lengths[there[~same.to_numpy()]] = 0
        places = np.repeat(first, lengths) + numbered(lengths)
        needed = names if self.unique else list(dict.fromkeys([*names, column]))
        rows = self.rows.select(needed).take(pa.array(places))
        return rows if self.unique else rows.filter(pc.is_in(rows[column], ids)).select(names)


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
    def open(
        cls,
        contract: Contract,
        column: str,
        paths: Sequence[str],
        folder: Path,
        sha256: Mapping[str, str] | None = None,
    ) -> "KeyedTable":
        """Map the files of a dataset, written anew where `folder` does not hold them yet.

        Args:
          sha256: of `paths`, asked for of each before it is written anew; None asks nothing.

        Raises:
          Altered: a file has another one.
        """
        small = paths and sum(os.stat(path).st_size for path in paths) <= TOGETHER
        files = [paths] if small else [[path] for path in paths]
        segments = tuple(_segment(some, contract, column, folder, sha256 or {}) for some in files)
        return cls(contract, column, segments, routed=contract.shard_by == column and len(segments) > _FEW)

    def lookup(self, ids: pl.Series, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows of some ids: file by file, by hash, and by the contract's key.

        Args:
          columns: only these.
        """
        names = list(columns) if columns else self.contract.schema.names
        wanted = pc.unique(ids.to_arrow().cast(pa.large_string())).drop_null()
        hashes = mix_text(wanted)
        order = np.argsort(hashes, kind="stable")
        wanted, hashes = wanted.take(pa.array(order)), hashes[order]
        shard = shard_of(wanted, len(self.segments)) if self.routed else None
        found = []
        for number, segment in enumerate(self.segments):
            own = slice(None) if shard is None else np.flatnonzero(shard == number)
            ids_ = wanted if shard is None else wanted.take(pa.array(own))
            found.append(segment.find(ids_, hashes[own], self.column, names))
        some = [rows for rows in found if rows is not None]
        if not some:
            return read_tables([], self.contract, names)
        frame = pl.from_arrow(pa.concat_tables(some))
        assert isinstance(frame, pl.DataFrame)
        return frame


_OPEN = weakref.WeakValueDictionary[Path, Segment]()
"""By their files, what is open in this process."""


def sweep_tables(folder: Path) -> int:
    """Delete the Arrow files of a folder that are not open in this process, and what killed writers left; return how many."""
    spare = [path for path in folder.glob("*.arrow") if path.absolute() not in _OPEN]
    for path in spare:
        path.unlink(missing_ok=True)
    return len(spare) + sweep(folder.glob(f"{PREFIX}*"))


def _segment(paths: Sequence[str], contract: Contract, column: str, folder: Path, sha256: Mapping[str, str]) -> Segment:
    """Open the Arrow file of some Parquet files, written if it is not there, or not whole."""
    stamps = [(os.path.abspath(path), os.stat(path)) for path in paths]
    files = "|".join(f"{path}|{stamp.st_size}|{stamp.st_mtime_ns}" for path, stamp in stamps)
    told = f"{_LAYOUT}|{files}|{column}|{contract.fingerprint}"
    target = folder.absolute() / f"{contract.name}-{hashlib.sha256(told.encode()).hexdigest()[:24]}.arrow"
    segment = _OPEN.get(target)
    if segment is None:
        try:
            segment = _mapped(target)
        except (FileNotFoundError, pa.ArrowInvalid):
            for path in paths:
                demand_digest(path, sha256.get(path))
            segment = _written(target, _ordered(paths, contract, column), column)
        _OPEN[target] = segment
    return segment


def _mapped(path: Path) -> Segment:
    with pa.memory_map(str(path)) as source:
        rows = pa.ipc.open_file(source).read_all()
    return Segment(rows[_HASH].to_numpy(), rows.drop_columns([_HASH]), _UNIQUE in (rows.schema.metadata or {}))


def _ordered(paths: Sequence[str], contract: Contract, column: str) -> pa.Table:
    named = read_tables(list(paths), contract).filter(pl.col(column).is_not_null())
    rows = named.to_arrow(compat_level=pl.CompatLevel.oldest())
    keyed = rows.append_column(_HASH, pa.array(mix_text(rows[column])))
    order = pc.sort_indices(keyed, [(name, "ascending") for name in (_HASH, *contract.key)])
    return keyed.take(order).combine_chunks()


def _written(target: Path, ordered: pa.Table, column: str) -> Segment:
    """Write an Arrow file, whole or not at all, and open it; another process may remove it at once."""
    if _unique(ordered, column):
        ordered = ordered.replace_schema_metadata({_UNIQUE: b"yes"})
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=PREFIX, dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            with pa.ipc.new_file(file, ordered.schema) as writer:
                writer.write_table(ordered, max_chunksize=max(ordered.num_rows, 1))
            file.flush()
            os.fsync(file.fileno())
        segment = _mapped(Path(name))
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return segment


def _unique(ordered: pa.Table, column: str) -> bool:
    """Tell whether rows of equal hashes, which lie next to each other, have equal ids."""
    hashes, ids = ordered[_HASH].to_numpy(), ordered[column].combine_chunks()
    same = hashes[1:] == hashes[:-1]
    return bool(pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)[same].all())
