"""Tables between frames and files: one way to write Parquet, one way to read it back."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.contract import Contract
from transforms.io.store import FULL, StoreError, disk_full
from transforms.io.temporary import PREFIX

ROW_GROUP_ROWS = 131_072
NESTED_ROW_GROUP_ROWS = (ROW_GROUP_ROWS, 16_384, 1_024)
"""Rows per group by depth of lists of records: a reader holds a whole group, of 200 listens or 300 candidates a row."""

_DICTIONARY_BYTES = 2**20  # of a dictionary, pyarrow's own limit: `dictionary_pagesize_limit`


def conform(frame: pl.DataFrame | pa.Table, contract: Contract, *, nulls_allowed: bool = False) -> pa.Table:
    """Return the table with exactly the contract's columns, order and types, and its name and fingerprint attached.

    Args:
      nulls_allowed: accept nulls in required columns, for a table whose rows are still to be checked.

    Raises:
      ValueError: columns are missing or left over, or a value does not fit its type.
    """
    demand_columns(frame, contract)
    table = frame.to_arrow(compat_level=pl.CompatLevel.newest()) if isinstance(frame, pl.DataFrame) else frame
    schema = contract.schema.with_metadata(
        {"contract": contract.name, "contract_version": contract.version, "fingerprint": contract.fingerprint}
    )
    if nulls_allowed:
        schema = pa.schema([field.with_nullable(True) for field in schema], schema.metadata)
    try:
        return table.select(contract.schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise ValueError(f"{contract.name}: {error}") from error


def demand_columns(frame: pl.DataFrame | pa.Table, contract: Contract) -> None:
    """Refuse a table that does not have the contract's columns, in any order.

    Raises:
      ValueError: columns are missing or left over.
    """
    names = set(contract.schema.names)
    given = set(frame.columns if isinstance(frame, pl.DataFrame) else frame.column_names)
    if names != given:
        raise ValueError(
            f"{contract.name}: columns missing {sorted(names - given)}, not in the contract {sorted(given - names)}"
        )


def write_parquet(table: pa.Table, contract: Contract | None = None) -> str:
    """Write a table to a temporary file and return its path; equal tables give equal bytes.

    Args:
      contract: whose texts have bounds for each group of rows only in the columns it is sharded by or keyed by first: rows do not
        stand in order of others, so that theirs would rule out nothing. None: all have.
    """
    rows = NESTED_ROW_GROUP_ROWS[min(max(_depth(field.type) for field in table.schema), 2)]
    leaves = [leaf for field in table.schema for leaf in _leaves(field.type, field.name)]
    sorted_by = (contract.shard_by, contract.key[0]) if contract else [name for name, _ in leaves]
    with _temporary() as path:
        pq.write_table(
            table, path, compression="zstd", row_group_size=rows, store_schema=True,
            use_dictionary=[name for name, type_ in leaves if not pa.types.is_floating(type_) and not _single(table, name, rows)],
            write_statistics=[name for name, type_ in leaves if name in sorted_by or not pa.types.is_string(type_)],
        )  # fmt: skip
    return path


def _leaves(type_: pa.DataType, path: str) -> Iterator[tuple[str, pa.DataType]]:
    """Yield the leaves of a column, as Parquet names them, with their types."""
    if pa.types.is_struct(type_):
        for field in type_.fields:
            yield from _leaves(field.type, f"{path}.{field.name}")
    elif pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        yield from _leaves(type_.value_type, f"{path}.list.element")
    else:
        yield path, type_


def _single(table: pa.Table, name: str, rows: int) -> bool:
    """Tell whether most strings of a column come once and would not fit a dictionary: it would be begun and given up.

    Judged by the first of the groups of so many rows.
    """
    if name not in table.column_names or not pa.types.is_string(table.schema.field(name).type):
        return False
    first = table.column(name).slice(0, rows)
    if first.nbytes < _DICTIONARY_BYTES:
        return False
    each = first.unique()
    return each.nbytes > _DICTIONARY_BYTES and 2 * len(each) > len(first)


def _depth(type_: pa.DataType) -> int:
    """Return how many lists of records lie in one another."""
    if pa.types.is_list(type_) and pa.types.is_struct(type_.value_type):
        return 1 + max(_depth(field.type) for field in type_.value_type.fields)
    return 0


def write_part(frame: pl.DataFrame) -> str:
    """Write rows that are read back once and thrown away, to a temporary file; return its path."""
    with _temporary() as path:
        frame.write_parquet(path, compression="lz4", statistics=False)
    return path


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    """Give a temporary file to write; nothing of it stays where that fails.

    Raises:
      StoreError: there is no room in the folder of temporary files.
    """
    handle, path = tempfile.mkstemp(prefix=PREFIX, suffix=".parquet")
    os.close(handle)
    try:
        yield path
    except BaseException as error:
        Path(path).unlink(missing_ok=True)
        if _is_full(error):
            folder = f"{tempfile.gettempdir()} (TMPDIR names another folder)"
            raise StoreError(disk_full("a temporary file", folder)) from error
        raise


def _is_full(error: BaseException) -> bool:
    """Tell a full disk; polars gives no errno, only the system's words."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return isinstance(error, pl.exceptions.PolarsError) and any(f"(os error {number})" in str(error) for number in FULL)
