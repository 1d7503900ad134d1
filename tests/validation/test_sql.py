import re

import duckdb
import pyarrow as pa
import pytest

from schemas.catalogue import CONTRACTS
from schemas.contract import Contract, column
from schemas.rules import Between, OneOf
from validation.sql import DUCKDB_PRELUDE, sql_rules

# https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical#reserved_keywords
BIGQUERY_RESERVED = [
    "all",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "assert_rows_modified",
    "at",
    "between",
    "by",
    "case",
    "cast",
    "collate",
    "contains",
    "create",
    "cross",
    "cube",
    "current",
    "default",
    "define",
    "desc",
    "distinct",
    "else",
    "end",
    "enum",
    "escape",
    "except",
    "exclude",
    "exists",
    "extract",
    "false",
    "fetch",
    "following",
    "for",
    "from",
    "full",
    "group",
    "grouping",
    "groups",
    "hash",
    "having",
    "if",
    "ignore",
    "in",
    "inner",
    "intersect",
    "interval",
    "into",
    "is",
    "join",
    "lateral",
    "left",
    "like",
    "limit",
    "lookup",
    "merge",
    "natural",
    "new",
    "no",
    "not",
    "null",
    "nulls",
    "of",
    "on",
    "or",
    "order",
    "outer",
    "over",
    "partition",
    "preceding",
    "proto",
    "qualify",
    "range",
    "recursive",
    "respect",
    "right",
    "rollup",
    "rows",
    "select",
    "set",
    "some",
    "struct",
    "tablesample",
    "then",
    "to",
    "treat",
    "true",
    "unbounded",
    "union",
    "unnest",
    "using",
    "when",
    "where",
    "window",
    "with",
    "within",
]


def predicate(type_: pa.DataType, rule, name: str = "x") -> str:
    field = column(name, type_, "X.", nullable=True, rules=(rule,))
    (only,) = sql_rules(Contract("thing", "1.0.0", "tests", "T.", (name,), None, pa.schema([field])))
    return only[1]


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=list(CONTRACTS))
def test_duckdb_takes_every_predicate_and_none_is_null(contract):
    rules = sql_rules(contract)
    with duckdb.connect() as connection:
        connection.execute(DUCKDB_PRELUDE)
        connection.register("rows", pa.table({f.name: pa.nulls(1, f.type) for f in contract.schema}))
        values = connection.execute(f"SELECT {', '.join(sql for _, sql in rules)} FROM rows").fetchall()[0]
    assert [name for (name, _), value in zip(rules, values) if value] == [
        n for n, _ in rules if n.endswith(":required")
    ]
    assert set(values) <= {True, False}


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=list(CONTRACTS))
def test_no_column_needs_quotes_in_bigquery(contract):
    assert not set(contract.schema.names) & set(BIGQUERY_RESERVED)


def test_only_functions_that_both_dialects_know_are_used():
    used = {f for c in CONTRACTS.values() for _, sql in sql_rules(c) for f in re.findall(r"([A-Z_]+)\(", sql)}
    assert used == {"COALESCE", "BYTE_LENGTH", "ARRAY_LENGTH"}


def test_integer_bounds_are_integers_and_float_bounds_doubles():
    assert predicate(pa.int64(), Between(0, 9.2e18)) == "COALESCE(x NOT BETWEEN 0 AND 9200000000000000000, FALSE)"
    assert predicate(pa.float32(), Between(-1, 3.0e38)) == "COALESCE(x NOT BETWEEN -1.0e0 AND 3e+38, FALSE)"


@pytest.mark.parametrize("value", ["it's", "a\\b", "a\nb"])
def test_values_that_the_dialects_escape_differently_are_refused(value):
    with pytest.raises(ValueError, match="expected no quote, backslash or line break; change it in the contract"):
        predicate(pa.string(), OneOf((value,)))


def test_names_that_need_quotes_are_refused():
    with pytest.raises(ValueError, match="column 'a b': expected letters, digits and underscores only"):
        predicate(pa.string(), OneOf(("v",)), name="a b")
