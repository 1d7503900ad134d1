"""Check staged files with Great Expectations over DuckDB: a second opinion that shares no code with the row rules.

Only the launcher imports this module: Great Expectations takes seconds and 300 MB to import. The suite is compiled
from the contract. Rules that Great Expectations has no expectation for are boolean columns of the checked view, so
that all of them are answered by one scan and a failing one pulls no rows. Whether the key is unique is one too: its own
expectations for that sort the whole dataset, which costs as much as the stage that wrote it.

Memory: `_DATABASE_MEMORY` and what Great Expectations itself takes, whatever the size of the dataset; DuckDB spills.
"""

import contextlib
import dataclasses
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import duckdb
import great_expectations as gx
import great_expectations.expectations as gxe
import pyarrow as pa

import validation.duckdb_gx  # noqa: F401  registers the dialect
from schemas.contract import Contract
from schemas.manifest import CheckResult
from schemas.rules import Between, OneOf
from validation.declared import COLUMNS, unique_name
from validation.rows import NotNull, declared_rules, integer_bounds
from validation.sql import DUCKDB_PRELUDE, identifier, sql_rules

# It raises its own level to INFO while it is imported, and tells of every temporary folder it makes.
logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)

logging.getLogger("great_expectations").setLevel(logging.WARNING)
_READABLE = "files:readable"
_COMPILED = "checks:compiled"
_DATABASE_MEMORY = "2GB"
_REPEATED = "key_repeated"
_VECTOR = re.compile(r"\[\d+\]")


@dataclasses.dataclass(frozen=True, slots=True)
class SqlCheck:
    """A check besides the contract's rules: no row may satisfy `broken`, a DuckDB predicate over the columns."""

    name: str
    broken: str
    severity: str = "critical"


def validate(contract: Contract, paths: Sequence[str], extra: Sequence[SqlCheck] = ()) -> list[CheckResult]:
    """Run the contract's suite over Parquet files, all of them as one dataset.

    Returns:
      One result per rule, key and declaration, in declared order, of layer `expectations`. A check that raised is
      `broken`, and so is the whole suite where the files cannot be read. Where the columns are not the declared ones
      that is the only result.

    Raises:
      ValueError: no files.
    """
    if not paths:
        raise ValueError(f"no files of {contract.name} to check: expected at least one; pass the staged files")
    checks = _checks(contract, extra)
    with _database() as (connection, url):
        try:
            found = _create_columns(connection, paths)
        except duckdb.Error as error:
            return [_cannot(_READABLE, "every file opens", error, "delete the staged files and run the stage again")]
        expected = _declared_columns(connection, contract)
        columns = _columns_result(_run(url, "columns", _columns_suite(expected)), found, expected)
        if columns.outcome != "passed":
            return [columns]
        try:
            rows, surplus = _create_data(connection, contract, checks)
        except duckdb.Error as error:
            return [
                columns,
                _cannot(_COMPILED, "every predicate is SQL", error, "mend the extra check"),
            ]
        outcomes = _run(url, "data", suite(contract, extra))
        return [columns, *_results(connection, contract, checks, outcomes, rows, surplus)]


def suite(contract: Contract, extra: Sequence[SqlCheck] = ()) -> gx.ExpectationSuite:
    """Return the expectations of a contract, their names in `meta`; the view has a flag per check, `broken_<n>`."""
    rules = {name: (column, rule) for name, column, rule in declared_rules(contract)}
    expectations = []
    for number, check in enumerate(_checks(contract, extra)):
        settings = {"severity": check.severity, "meta": {"name": check.name}}
        column, rule = rules.get(check.name, ("", None))
        expectations.append(_expectation(column, rule, contract, f"broken_{number}", settings))
    return gx.ExpectationSuite(contract.name, expectations=[*expectations, _unique(contract)])


def _checks(contract: Contract, extra: Sequence[SqlCheck]) -> list[SqlCheck]:
    return [*(SqlCheck(name, broken) for name, broken in sql_rules(contract)), *extra]


def _expectation(column: str, rule: Any, contract: Contract, flag: str, settings: dict[str, Any]) -> gxe.Expectation:
    match rule:
        case NotNull() if not pa.types.is_nested(contract.schema.field(column).type):
            return gxe.ExpectColumnValuesToNotBeNull(column=column, **settings)
        case OneOf(values):
            return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values), **settings)
        case Between(low, high) if pa.types.is_integer(contract.schema.field(column).type):
            low, high = integer_bounds(low, high)
            return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, **settings)
        case Between(low, high):
            return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, **settings)
    return gxe.ExpectColumnValuesToBeInSet(column=flag, value_set=[False], **settings)


def _unique(contract: Contract) -> gxe.Expectation:
    settings: dict[str, Any] = {"severity": "critical", "meta": {"name": unique_name(contract)}}
    return gxe.ExpectColumnValuesToBeInSet(column=_REPEATED, value_set=[False], **settings)


def _columns_suite(expected: list[str]) -> gx.ExpectationSuite:
    same = gxe.ExpectColumnDistinctValuesToEqualSet(column="described", value_set=expected, meta={"name": COLUMNS})
    return gx.ExpectationSuite("columns", expectations=[same])


@contextlib.contextmanager
def _database() -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """Open a DuckDB file that holds views only, and is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="segue-tmp-checks-") as folder:
        path = os.path.join(folder, "views.duckdb")
        with duckdb.connect(path) as connection:
            connection.execute(f"SET memory_limit = '{_DATABASE_MEMORY}'")
            connection.execute(f"SET temp_directory = '{folder}/spilled'")
            connection.execute(DUCKDB_PRELUDE)
            yield connection, f"duckdb+gx:///{path}"


def _create_columns(connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> list[str]:
    """Create the view of the files and the table that describes their columns, nested types included."""
    connection.execute(f"CREATE VIEW files AS SELECT * FROM read_parquet({_paths(paths)}, hive_partitioning = false)")
    found = _described(connection, "files")
    connection.execute("CREATE TABLE columns (described VARCHAR)")
    connection.executemany("INSERT INTO columns VALUES (?)", [[text] for text in found])
    return found


def _declared_columns(connection: duckdb.DuckDBPyConnection, contract: Contract) -> list[str]:
    connection.register("declared", contract.schema.empty_table())
    return _described(connection, "declared")


def _described(connection: duckdb.DuckDBPyConnection, view: str) -> list[str]:
    """Spell position, name and type of each column; Parquet does not tell a vector from a list of any length."""
    rows = connection.execute(f"DESCRIBE {view}").fetchall()
    return [f"{number} {row[0]} {_VECTOR.sub('[]', row[1])}" for number, row in enumerate(rows)]


def _create_data(connection: duckdb.DuckDBPyConnection, contract: Contract, checks: list[SqlCheck]) -> tuple[int, int]:
    """Create the checked view: the scalar columns and a flag per check; return its rows and those of a repeated key."""
    surplus = _surplus(connection, contract)
    scalars = [identifier(r[0]) for r in connection.execute("DESCRIBE files").fetchall() if not _nested(r[1])]
    flags = [f"COALESCE({check.broken}, FALSE) AS broken_{number}" for number, check in enumerate(checks)]
    flags.append(f"{surplus > 0} AS {_REPEATED}")
    connection.execute(f"CREATE VIEW data AS SELECT {', '.join([*scalars, *flags])} FROM files")
    return _one(connection, "SELECT count(*) FROM files"), surplus


def _surplus(connection: duckdb.DuckDBPyConnection, contract: Contract) -> int:
    """Count rows whose key another row has too, all but one each; keys are grouped only where hashes of them repeat."""
    key = ", ".join(contract.key)
    if not _one(connection, f"SELECT count(*) - count(DISTINCT hash({key})) FROM files"):
        return 0
    again = f"SELECT count(*) AS n FROM files GROUP BY {key}"
    return _one(connection, f"SELECT CAST(COALESCE(sum(n - 1), 0) AS BIGINT) FROM ({again})")


def _nested(type_: str) -> bool:
    return type_.startswith("STRUCT") or type_.endswith("]")


def _paths(paths: Sequence[str]) -> str:
    return "[" + ", ".join("'" + path.replace("'", "''") + "'" for path in paths) + "]"


def _run(url: str, table: str, expectations: gx.ExpectationSuite) -> dict[str, tuple[bool, str]]:
    """Return, by check name, whether it passed and what it raised."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    source = context.data_sources.add_sql(name="staged", connection_string=url)
    try:
        batch = source.add_table_asset(table, table_name=table).add_batch_definition_whole_table("all").get_batch()
        outcome = batch.validate(expectations, result_format="BOOLEAN_ONLY")
    finally:
        source.get_engine().dispose()
    return {_name(r): (bool(r.success), _raised(r.exception_info)) for r in outcome.results}


def _name(result: Any) -> str:
    return result.expectation_config.meta["name"]


def _raised(info: dict[str, Any]) -> str:
    """Return what a check raised; Great Expectations nests it one level deeper where a metric did."""
    entries = [info] if "raised_exception" in info else list(info.values())
    return next((str(e["exception_message"]) for e in entries if e.get("raised_exception")), "")


def _columns_result(outcomes: dict[str, tuple[bool, str]], found: list[str], expected: list[str]) -> CheckResult:
    passed, raised = outcomes[COLUMNS]
    result = CheckResult(
        COLUMNS, "expectations", "critical", "passed", len(found), f"{len(expected)} declared columns", len(expected)
    )
    if raised:
        return dataclasses.replace(result, outcome="broken", observed=None, message=_broken_message(raised))
    if passed:
        return result
    missing = [text for text in expected if text not in found]
    surplus = [text for text in found if text not in expected]
    message = (
        "the files do not have the declared columns (position, name, type): "
        f"expected {missing or 'nothing more'}, found {surplus or 'none of them'}; "
        "write them through the contract's schema, or release a new version of it"
    )
    return dataclasses.replace(result, outcome="failed", message=message)


def _cannot(name: str, threshold: str, error: duckdb.Error, next_step: str) -> CheckResult:
    reason = str(error).split("\n", 1)[0]
    message = f"the checks could not run, which says nothing about the data: {reason}; {next_step}"
    return CheckResult(name, "expectations", "critical", "broken", None, threshold, None, message)


def _results(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    checks: list[SqlCheck],
    outcomes: dict[str, tuple[bool, str]],
    rows: int,
    surplus: int,
) -> list[CheckResult]:
    key = ", ".join(contract.key)
    results = []
    for number, check in enumerate(checks):
        count = f"SELECT count(*) FROM data WHERE broken_{number}"
        results.append(_result(connection, check.name, check.severity, outcomes[check.name], count, rows, check.broken))
    name = unique_name(contract)
    results.append(
        _result(
            connection, name, "critical", outcomes[name], f"SELECT {surplus}", rows, f"a second row with the same {key}"
        )
    )
    return results


def _result(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    severity: str,
    outcome: tuple[bool, str],
    count: str,
    rows: int,
    broken: str,
) -> CheckResult:
    """Turn one outcome into a result; the rows are counted only where there are any."""
    passed, raised = outcome
    result = CheckResult(name, "expectations", severity, "passed", 0, "0 rows", rows)
    if raised:
        return dataclasses.replace(result, outcome="broken", observed=None, message=_broken_message(raised))
    if passed:
        return result
    observed = _one(connection, count)
    message = (
        f"{observed:,} of {rows:,} staged rows break {name}: {broken}. The row rules let them through, so the fault is "
        "in the stage that wrote them; select them by that predicate from the quarantined files"
    )
    return dataclasses.replace(result, outcome="failed", observed=observed, message=message)


def _broken_message(raised: str) -> str:
    reason = raised.split("\n", 1)[0]
    return f"the check could not run, which says nothing about the data: {reason}; run the stage again"


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])
