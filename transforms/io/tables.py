"""Tables between frames and files: one way to write Parquet, one way to read it back."""

import os
import tempfile

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.contract import Contract

ROW_GROUP_ROWS = 131_072


def conform(frame: pl.DataFrame | pa.Table, contract: Contract, *, nulls_allowed: bool = False) -> pa.Table:
    """Return the table with exactly the contract's columns, order and types, and its name and fingerprint attached.

    Args:
      nulls_allowed: accept nulls in required columns, for a table whose rows are still to be checked.

    Raises:
      ValueError: columns are missing or left over, or a value does not fit its type.
    """
    table = frame.to_arrow() if isinstance(frame, pl.DataFrame) else frame
    names, given = set(contract.schema.names), set(table.column_names)
    if names != given:
        raise ValueError(
            f"{contract.name}: columns missing {sorted(names - given)}, not in the contract {sorted(given - names)}"
        )
    schema = contract.schema.with_metadata(
        {"contract": contract.name, "contract_version": contract.version, "fingerprint": contract.fingerprint}
    )
    if nulls_allowed:
        schema = pa.schema([field.with_nullable(True) for field in schema], schema.metadata)
    try:
        return table.select(contract.schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise ValueError(f"{contract.name}: {error}") from error


def write_parquet(table: pa.Table, compression: str = "zstd") -> str:
    """Write a table to a temporary file and return its path; equal tables give equal bytes."""
    handle, path = tempfile.mkstemp(suffix=".parquet")
    os.close(handle)
    pq.write_table(table, path, compression=compression, row_group_size=ROW_GROUP_ROWS, store_schema=True)
    return path
