"""A SQLAlchemy dialect through which Great Expectations reads DuckDB; `duckdb+gx:///<file>`.

Great Expectations reads a result after it has closed the connection, which DuckDB refuses, and the published dialect
asks DuckDB 2 for PostgreSQL catalogue tables it no longer has. This one fetches every result when it is executed and
reflects with DESCRIBE, and no more: statements that return few rows are all it is for. It goes when Great
Expectations brings its own engine for DuckDB.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
from sqlalchemy import types
from sqlalchemy.dialects import registry
from sqlalchemy.engine import default

_TYPES: dict[str, type[types.TypeEngine]] = {
    "VARCHAR": types.VARCHAR,
    "BOOLEAN": types.BOOLEAN,
    "INTEGER": types.INTEGER,
    "BIGINT": types.BIGINT,
    "FLOAT": types.FLOAT,
    "DOUBLE": types.DOUBLE,
    "DATE": types.DATE,
    "TIMESTAMP WITH TIME ZONE": types.TIMESTAMP,
}


class BufferedCursor:
    """A DB-API cursor whose rows are fetched at once."""

    arraysize = 1

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._cursor = connection.cursor()
        self._rows: Iterator[tuple] = iter(())
        self.description: Sequence[Any] | None = None
        self.rowcount = -1

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Run a statement and keep its rows."""
        self._cursor.execute(statement, list(parameters))
        self.description = self._cursor.description
        rows = self._cursor.fetchall() if self.description else []
        self.rowcount = len(rows)
        self._rows = iter(rows)

    def fetchone(self) -> tuple | None:
        """Return the next row."""
        return next(self._rows, None)

    def fetchmany(self, size: int = arraysize) -> list[tuple]:
        """Return up to `size` rows."""
        return [row for row, _ in zip(self._rows, range(size), strict=False)]

    def fetchall(self) -> list[tuple]:
        """Return the rows that are left."""
        return list(self._rows)

    def close(self) -> None:
        """Close DuckDB's cursor; fetched rows stay readable."""
        self._cursor.close()


class BufferedConnection:
    """A DB-API connection that gives buffered cursors; it only reads, so there is nothing to commit."""

    def __init__(self, path: str) -> None:
        self._connection = duckdb.connect(path)

    def cursor(self) -> BufferedCursor:
        """Return a new cursor."""
        return BufferedCursor(self._connection)

    def commit(self) -> None:
        """Do nothing."""

    def rollback(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _Driver:
    paramstyle = "qmark"
    Error = duckdb.Error

    @staticmethod
    def connect(path: str) -> BufferedConnection:
        return BufferedConnection(path)


class DuckDBDialect(default.DefaultDialect):
    """As much of DuckDB as Great Expectations asks for."""

    name = "duckdb"
    driver = "gx"
    supports_statement_cache = True
    supports_native_boolean = True
    default_paramstyle = "qmark"

    @classmethod
    def import_dbapi(cls) -> Any:
        """Return the driver."""
        return _Driver

    def create_connect_args(self, url: Any) -> tuple[list[str], dict[str, Any]]:
        """Return the path of the database."""
        return [url.database], {}

    def get_columns(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> list[Any]:
        """Return name and type of each column; a nested one has no SQLAlchemy type."""
        rows = connection.exec_driver_sql(f"DESCRIBE {table_name}").fetchall()
        return [
            {"name": r[0], "type": _TYPES.get(r[1], types.NullType)(), "nullable": True, "default": None} for r in rows
        ]

    def has_table(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> bool:
        """Say whether a table or view exists."""
        return table_name in self.get_table_names(connection)

    def get_table_names(self, connection: Any, schema: str | None = None, **kw: Any) -> list[str]:
        """Return the names of tables and views."""
        return [row[0] for row in connection.exec_driver_sql("SHOW TABLES").fetchall()]

    get_view_names = get_table_names

    def get_schema_names(self, connection: Any, **kw: Any) -> list[str]:
        """Return DuckDB's own schema."""
        return ["main"]

    def get_indexes(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> list[Any]:
        """Return no index: views have none."""
        return []

    get_foreign_keys = get_unique_constraints = get_check_constraints = get_indexes

    def get_pk_constraint(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> Any:
        """Return no primary key: views have none."""
        return {"constrained_columns": [], "name": None}


def _column(name: str, type_: str) -> dict[str, Any]:
    return {"name": name, "type": _TYPES.get(type_, types.NullType)(), "nullable": True, "default": None}


registry.register("duckdb.gx", __name__, DuckDBDialect.__name__)
