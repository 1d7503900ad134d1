import datetime

import polars as pl
import pyarrow as pa
import pytest

from schemas.catalogue import CONTRACTS
from schemas.contract import TIMESTAMP, Contract, column
from schemas.rules import AtMost, Between, MaxLength, NotAfter, OneOf, Required, RequiredWhen
from validation.rows import declared_rules, polars_schema, row_rules, split_rows

UTC = datetime.UTC


def contract_of(*fields: pa.Field) -> Contract:
    return Contract("thing", "1.0.0", "tests", "A thing.", (fields[0].name,), None, pa.schema(list(fields)))


def broken(contract: Contract, **columns) -> list[str | None]:
    """Return the first broken rule of each row."""
    frame = pl.DataFrame(columns, schema=polars_schema(contract)).with_row_index("n")
    good, bad = split_rows(frame, contract)
    rules = dict(bad.select("n", "rule").rows())
    assert sorted([*good["n"], *bad["n"]]) == list(range(frame.height))
    return [rules.get(n) for n in range(frame.height)]


def one(type_: pa.DataType, *rules, nullable=True) -> Contract:
    return contract_of(column("x", type_, "X.", nullable=nullable, rules=rules))


def test_required_refuses_null_and_the_empty_string():
    assert broken(one(pa.string(), Required()), x=["a", "", None, " "]) == [None, "x:required", "x:required", None]


def test_non_nullable_column_has_an_implicit_rule_that_lets_the_empty_string_pass():
    assert broken(one(pa.string(), nullable=False), x=["", None]) == [None, "x:required"]


def test_required_and_the_implicit_rule_are_one():
    names = [name for name, _, _ in declared_rules(one(pa.string(), Required(), MaxLength(3), nullable=False))]
    assert names == ["x:required", "x:max_length"]


def test_between_includes_its_bounds_and_passes_null():
    name = "x:between"
    assert broken(one(pa.int32(), Between(0, 5)), x=[0, 5, -1, 6, None]) == [None, None, name, name, None]


def test_between_compares_large_integers_exactly():
    contract = one(pa.int64(), Between(-9.3e18, 9.2e18))
    assert broken(contract, x=[9_200_000_000_000_000_000, 9_200_000_000_000_000_001, -(2**63)]) == [
        None,
        "x:between",
        None,
    ]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1.5, -0.1])
def test_between_refuses_what_is_not_finite(bad):
    assert broken(one(pa.float32(), Between(0, 1)), x=[1.0, bad, 0.0]) == [None, "x:between", None]


def test_one_of():
    assert broken(one(pa.string(), OneOf(("a", "b"))), x=["a", "c", None, ""]) == [None, "x:one_of", None, "x:one_of"]


def test_max_length_counts_bytes_of_strings_and_elements_of_lists():
    name = "x:max_length"
    assert broken(one(pa.string(), MaxLength(3)), x=["abc", "åå", "abcd", None]) == [None, name, name, None]
    assert broken(one(pa.list_(pa.string()), MaxLength(1)), x=[["a"], ["a", "b"], [], None]) == [None, name, None, None]


def test_required_when_looks_at_the_other_column():
    contract = contract_of(
        column("kind", pa.string(), "K.", nullable=True),
        column("x", pa.int64(), "X.", nullable=True, rules=(RequiredWhen("kind", ("play",)),)),
    )
    found = broken(contract, kind=["play", "play", "like", None], x=[1, None, None, None])
    assert found == [None, "x:required_when:kind", None, None]


def test_not_after_allows_the_tolerance_to_the_microsecond():
    contract = contract_of(
        column("seen", TIMESTAMP, "S.", nullable=True),
        column("x", TIMESTAMP, "X.", nullable=True, rules=(NotAfter("seen", 300),)),
    )
    seen = datetime.datetime(2026, 1, 1, tzinfo=UTC)
    late = seen + datetime.timedelta(seconds=300)
    just = late + datetime.timedelta(microseconds=1)
    found = broken(contract, seen=[seen, seen, None, seen], x=[late, just, just, None])
    assert found == [None, "x:not_after:seen", None, None]


def test_at_most_applies_where_the_other_number_is_positive():
    contract = contract_of(
        column("length", pa.int64(), "L.", nullable=True),
        column("x", pa.int64(), "X.", nullable=True, rules=(AtMost("length", 1.1, 30.0),)),
    )
    found = broken(contract, length=[100, 100, 0, -5, None, 100], x=[140, 141, 999, 999, 999, None])
    assert found == [None, "x:at_most:length", None, None, None, None]


def test_first_rule_in_declared_order_is_named():
    contract = contract_of(
        column("a", pa.string(), "A.", nullable=False, rules=(Required(), MaxLength(1))),
        column("b", pa.int64(), "B.", nullable=True, rules=(Between(0, 1),)),
    )
    assert broken(contract, a=["xx", "x", ""], b=[7, 7, 0]) == ["a:max_length", "b:between", "a:required"]


def test_good_rows_and_bad_rows_keep_columns_and_order():
    contract = one(pa.int64(), Between(0, 1))
    good, bad = split_rows(pl.DataFrame({"x": [5, 0, 9, 1]}), contract)
    assert good.to_dict(as_series=False) == {"x": [0, 1]}
    assert bad.to_dict(as_series=False) == {"x": [5, 9], "rule": ["x:between", "x:between"]}


def test_clean_and_empty_frames_have_a_typed_empty_remainder():
    contract = one(pa.int64(), Between(0, 1))
    for frame in (pl.DataFrame({"x": [0]}), pl.DataFrame({"x": []}, schema={"x": pl.Int64})):
        good, bad = split_rows(frame, contract)
        assert good.equals(frame)
        assert bad.schema == {"x": pl.Int64, "rule": pl.String}
        assert bad.is_empty()


def test_missing_and_retyped_columns_are_refused():
    contract = contract_of(column("a", pa.int64(), "A."), column("b", pa.string(), "B."))
    with pytest.raises(
        ValueError, match=r"rows of thing: a is String instead of Int64; b is missing instead of String; cast"
    ):
        split_rows(pl.DataFrame({"a": ["1"]}), contract)


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=list(CONTRACTS))
def test_no_expression_of_any_contract_is_ever_null(contract):
    nulls = pl.DataFrame({name: [None] for name in contract.schema.names}, schema=polars_schema(contract))
    values = nulls.select(expression.alias(name) for name, expression in row_rules(contract))
    assert values.null_count().row(0) == (0,) * values.width
    assert [name for name, value in zip(values.columns, values.row(0)) if value] == [
        name for name in values.columns if name.endswith(":required")
    ]
