"""Compile a contract's rules to polars and split a frame into rows that keep and rows that break them."""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence

import polars as pl

from schemas.contract import Contract, per_contract
from schemas.rules import (
    AtMost,
    Between,
    MaxLength,
    NotAfter,
    OneOf,
    Required,
    RequiredWhen,
    Rule,
    rule_name,
)


@dataclasses.dataclass(frozen=True, slots=True)
class NotNull:
    """The implicit rule of a non-nullable column; an empty string passes, unlike `Required`."""


def declared_rules(contract: Contract) -> list[tuple[str, str, Rule | NotNull]]:
    """Return `(rule name, column, rule)` in column order, `NotNull` first on a non-nullable column.

    Where a column declares `Required`, that stands for the implicit rule too: both would be named `<column>:required`.
    """
    declared: dict[str, list[Rule]] = {name: [] for name in contract.schema.names}
    for column, rule in contract.rules():
        declared[column].append(rule)
    named: list[tuple[str, str, Rule | NotNull]] = []
    for column, rules in declared.items():
        if not contract.schema.field(column).nullable and Required() not in rules:
            named.append((f"{column}:required", column, NotNull()))
        named += [(rule_name(column, rule), column, rule) for rule in rules]
    return named


@per_contract
def row_rules(contract: Contract) -> list[tuple[str, pl.Expr]]:
    """Return `(rule name, expression)` in declared order; true where a row breaks the rule, never null."""
    types = polars_schema(contract)
    return [
        (name, _broken(rule, pl.col(column), types[column]).fill_null(False))
        for name, column, rule in declared_rules(contract)
    ]


def split_rows(
    frame: pl.DataFrame, contract: Contract, also: Sequence[tuple[str, pl.Expr]] = ()
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split off the rows that break a rule.

    Args:
      also: more rules, after those of the contract, as `row_rules` returns them.

    Returns:
      The good rows, and the bad ones with a string column `rule`: the first rule each breaks, in declared order.
      Both keep the order of `frame`.

    Raises:
      ValueError: a column of the contract is missing or has another type.
    """
    _demand_columns(frame, contract)
    rules = [*row_rules(contract), *also]
    if not rules or frame.is_empty():
        return frame, frame.clear().with_columns(rule=pl.lit(None, pl.String))
    # Column by column: a tree of all rules costs four times as much, most of it in its optimisation.
    each = frame.select(expression.alias(str(i)) for i, (_, expression) in enumerate(rules))
    broken = functools.reduce(operator.or_, each.iter_columns())
    if not broken.any():
        return frame, frame.clear().with_columns(rule=pl.lit(None, pl.String))
    first = pl.coalesce(pl.when(expression).then(pl.lit(name)) for name, expression in rules)
    return frame.filter(~broken), frame.filter(broken).with_columns(rule=first)


@per_contract
def polars_schema(contract: Contract) -> pl.Schema:
    """Return the polars types of a contract's columns."""
    frame = pl.from_arrow(contract.schema.empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame.schema


def _demand_columns(frame: pl.DataFrame, contract: Contract) -> None:
    came = frame.schema
    wrong = [
        f"{name} is {came.get(name, 'missing')} instead of {type_}"
        for name, type_ in polars_schema(contract).items()
        if came.get(name) != type_
    ]
    if wrong:
        raise ValueError(f"rows of {contract.name}: {'; '.join(wrong)}; cast the frame to the contract's schema first")


def _broken(rule: Rule | NotNull, value: pl.Expr, type_: pl.DataType) -> pl.Expr:
    """Return where a value breaks a rule; null where the rule has nothing to say."""
    match rule:
        case NotNull():
            return value.is_null()
        case Required():
            return value.is_null() | (value.str.len_bytes() == 0) if type_ == pl.String else value.is_null()
        case Between(low, high):
            return ~_between(value, type_, low, high)
        case OneOf(values):
            return ~value.is_in(list(values))
        case MaxLength(limit):
            return (value.str.len_bytes() if type_ == pl.String else value.list.len()) > limit
        case RequiredWhen(other, values):
            return value.is_null() & pl.col(other).is_in(list(values))
        case NotAfter(other, tolerance_s):
            return value > pl.col(other) + pl.duration(seconds=tolerance_s)
        case AtMost(other, factor, slack):
            bound = pl.col(other).cast(pl.Float64)
            return (bound > 0) & ~(value.cast(pl.Float64) <= bound * factor + slack)


def _between(value: pl.Expr, type_: pl.DataType, low: float, high: float) -> pl.Expr:
    if type_.is_float():
        # float64, so that a bound means the same number here and in SQL; NaN is above every bound
        return value.cast(pl.Float64).is_between(low, high)
    smallest, largest = integer_bounds(low, high)
    return value.is_between(pl.lit(smallest, pl.Int64), pl.lit(largest, pl.Int64))


def integer_bounds(low: float, high: float) -> tuple[int, int]:
    """Return the least and the greatest int64 within `[low, high]`: integers are never compared as floats."""
    return max(math.ceil(low), -(2**63)), min(math.floor(high), 2**63 - 1)
