"""Read the Parquet files of a public data set, and say plainly what is wrong with one."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BATCH_ROWS = 16_384
INTEGER, TEXT, INTEGERS = "an integer", "a string", "a list of integers"


def _is_list_of_integers(type_: pa.DataType) -> bool:
    return (pa.types.is_list(type_) or pa.types.is_large_list(type_)) and pa.types.is_integer(type_.value_type)


def _is_text(type_: pa.DataType) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_)


_KINDS: dict[str, Callable[[pa.DataType], bool]] = {
    INTEGER: pa.types.is_integer,
    TEXT: _is_text,
    INTEGERS: _is_list_of_integers,
}


class Lists(NamedTuple):
    """Some rows of a file with one list each: `ids (n,) int64`, `lengths (n,) int64`, `items (sum(lengths),) int64`."""

    ids: np.ndarray
    lengths: np.ndarray
    items: np.ndarray


def require_folder(source: Path) -> None:
    """Check that a folder is there.

    Raises:
      FileNotFoundError: it is not, or is no folder.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"expected a folder of Parquet files at {source}, found no folder; check the path")


def missing_files(shape: str, source: Path, expected: str) -> FileNotFoundError:
    """Return the error for a folder that lacks what a shape needs."""
    names = sorted(path.name + "/" * path.is_dir() for path in source.iterdir())
    there = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return FileNotFoundError(
        f"the shape {shape} expects {expected} in {source}; there is {there or 'nothing'}; "
        "pass the folder that holds the files, or another shape"
    )


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file.

    Raises:
      ValueError: it cannot be read as Parquet.
    """
    with _readable(path), pq.ParquetFile(path) as file:
        return file.schema_arrow.names


def check_columns(path: Path, wanted: Mapping[str, str]) -> None:
    """Check that a file has rows, and the wanted columns (name to kind).

    Raises:
      ValueError: not Parquet, no rows, a column missing or of another kind.
    """
    with _readable(path), pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; it has {schema.names}; rename or add them")
    for name, kind in wanted.items():
        if not _KINDS[kind](schema.field(name).type):
            raise ValueError(f"{path}: column {name} must be {kind}, but is {schema.field(name).type}; convert it")
    if rows == 0:
        raise ValueError(f"{path} has no rows; expected at least one; export it again or leave the file out")


def read_columns(path: Path, wanted: Mapping[str, str], unique: str | None = None) -> pl.DataFrame:
    """Read whole columns; integers as int64, none of them null or negative.

    Args:
      unique: a column whose values must not repeat.

    Raises:
      ValueError: see `check_columns`; or such a value, or a repeated one.
    """
    check_columns(path, wanted)
    with _readable(path):
        frame = pl.DataFrame(pq.read_table(path, columns=list(wanted)))
    for name in (name for name, kind in wanted.items() if kind == INTEGER):
        check_integers(path, name, frame[name].to_arrow())
    frame = frame.with_columns(pl.col(name).cast(pl.Int64) for name, kind in wanted.items() if kind == INTEGER)
    if unique is not None and frame[unique].is_duplicated().any():
        value = frame[unique].filter(frame[unique].is_duplicated())[0]
        raise ValueError(
            f"{path}: {unique} {value} occurs in several rows; expected one row each; merge or renumber them"
        )
    return frame


def read_lists(path: Path, key: str) -> Iterator[Lists]:
    """Yield a file's rows of `key` and `items` in batches of at most `BATCH_ROWS` rows.

    Raises:
      ValueError: an id or item that is null or negative, a list that is null or empty, or a page that cannot be read.
    """
    first_row = 0
    for batch in _batches(path, [key, "items"]):
        check_integers(path, key, batch[key], first_row)
        lengths = pc.fill_null(pc.list_value_length(batch["items"]), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        if not lengths.all():
            row = first_row + int(np.flatnonzero(lengths == 0)[0])
            raise ValueError(f"{path}: items is null or empty in row {row}; expected at least one id; drop such rows")
        rows = np.repeat(np.arange(first_row, first_row + len(lengths)), lengths)
        items = pc.list_flatten(batch["items"])
        check_integers(path, "items", items, rows=rows)
        yield Lists(_int64(batch[key]), lengths, _int64(items))
        first_row += len(batch)


def check_integers(path: Path, name: str, values: pa.Array, first_row: int = 0, rows: np.ndarray | None = None) -> None:
    """Check that no value is null or negative.

    Args:
      rows: `(n,)` row of every value; `first_row` and the following ones if None.

    Raises:
      ValueError: one is; the message names the row, counted from 0.
    """
    bad = pc.fill_null(pc.less(values, 0), True).to_numpy(zero_copy_only=False)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        row = first_row + at if rows is None else int(rows[at])
        raise ValueError(f"{path}: {name} holds {values[at].as_py()} in row {row}; expected 0 or more; correct it")


def _int64(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False).astype(np.int64)


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        batches = file.iter_batches(BATCH_ROWS, columns=columns)
        while True:
            with _readable(path):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Name the file when Arrow cannot read it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); export or download it again") from error
