"""Compile a contract's rules to SQL that DuckDB and BigQuery both take.

DuckDB has no BYTE_LENGTH: run `DUCKDB_PRELUDE` on its connection before the predicates.
"""

import pyarrow as pa

from schemas.contract import Contract
from schemas.rules import AtMost, Between, MaxLength, NotAfter, OneOf, Required, RequiredWhen, Rule
from validation.rows import NotNull, declared_rules, integer_bounds

DUCKDB_PRELUDE = "CREATE OR REPLACE MACRO byte_length(text) AS strlen(text)"


def sql_rules(contract: Contract) -> list[tuple[str, str]]:
    """Return `(rule name, predicate)` in declared order; a predicate is true where a row breaks the rule, never null.

    Raises:
      ValueError: a column or a value that the two dialects would not read alike.
    """
    return [
        (name, f"COALESCE({_broken(rule, identifier(column), contract.schema.field(column).type)}, FALSE)")
        for name, column, rule in declared_rules(contract)
    ]


def identifier(name: str) -> str:
    """Return a column name as SQL; unquoted, because the dialects quote differently.

    Raises:
      ValueError: a name that needs quotes.
    """
    if not (name.isascii() and name.isidentifier()):
        raise ValueError(f"column {name!r}: expected letters, digits and underscores only; rename it in the contract")
    return name


def text_literal(value: str) -> str:
    """Return a string as SQL.

    Raises:
      ValueError: a quote or a backslash, which the dialects escape differently.
    """
    if "'" in value or "\\" in value or "\n" in value:
        raise ValueError(f"value {value!r}: expected no quote, backslash or line break; change it in the contract")
    return f"'{value}'"


def _broken(rule: Rule | NotNull, value: str, type_: pa.DataType) -> str:
    match rule:
        case NotNull():
            return f"{value} IS NULL"
        case Required():
            return f"{value} IS NULL OR {value} = ''" if pa.types.is_string(type_) else f"{value} IS NULL"
        case Between(low, high):
            return f"{value} NOT BETWEEN {' AND '.join(_bounds(low, high, type_))}"
        case OneOf(values):
            return f"{value} NOT IN ({_texts(values)})"
        case MaxLength(limit):
            return f"{'BYTE_LENGTH' if pa.types.is_string(type_) else 'ARRAY_LENGTH'}({value}) > {limit}"
        case RequiredWhen(other, values):
            return f"{value} IS NULL AND {identifier(other)} IN ({_texts(values)})"
        case NotAfter(other, tolerance_s):
            return f"{value} > {identifier(other)} + INTERVAL {tolerance_s} SECOND"
        case AtMost(other, factor, slack):
            bound = identifier(other)
            return f"{bound} > 0 AND NOT ({value} <= {bound} * {_double(factor)} + {_double(slack)})"


def _bounds(low: float, high: float, type_: pa.DataType) -> tuple[str, ...]:
    if pa.types.is_floating(type_):
        return _double(low), _double(high)
    return tuple(str(bound) for bound in integer_bounds(low, high))


def _double(number: float) -> str:
    """Spell a float64; without an exponent DuckDB would read a decimal."""
    text = repr(float(number))
    return text if "e" in text else f"{text}e0"


def _texts(values: tuple[str, ...]) -> str:
    return ", ".join(text_literal(value) for value in values)
