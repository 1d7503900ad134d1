"""What a change breaks: a table of mutations, and Apache Avro's own checker as the oracle for types."""

import itertools
import json
from dataclasses import replace

import avro.schema
import pyarrow as pa
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_contracts import contract_of

from schemas.avro import avro_schema
from schemas.compatibility import Change, bump, compare
from schemas.contract import TIMESTAMP, column
from schemas.rules import AtMost, Between, MaxLength, NotAfter, OneOf, Required, RequiredWhen
from schemas.words import type_in_words

BACKWARD, FORWARD, BOTH, NEITHER = (True, False), (False, True), (True, True), (False, False)
ID = column("id", pa.string(), "Id.")


def change(old, new):
    """Return the only change between two versions of column `x`; None is a version without it."""
    (only,) = compare(*(contract_of(*filter(None, [ID, version])).to_json() for version in (old, new)))
    return only


def x(type_=pa.int64(), *rules, nullable=False):  # noqa: B008
    return column("x", type_, "X.", nullable=nullable, rules=rules)


def struct(*fields):
    return x(pa.struct(fields))


A = pa.field("a", pa.int64(), False)
B = pa.field("b", pa.int64(), False)
NULLABLE_B = pa.field("b", pa.int64())
MUTATIONS = [
    (None, x(nullable=True), "added, nullable", NEITHER),
    (None, x(), "added, required", BACKWARD),
    (None, x(pa.int64(), RequiredWhen("id", ("a",)), nullable=True), "added, nullable, with a rule against", BACKWARD),
    (None, x(pa.int64(), Between(0, 1), nullable=True), "added, nullable", NEITHER),
    (x(nullable=True), None, "dropped", FORWARD),
    (x(), None, "dropped", FORWARD),
    (x(nullable=True), x(), "nullable -> required", BACKWARD),
    (x(), x(nullable=True), "required -> nullable", FORWARD),
    (x(pa.int32()), x(pa.int64()), "type int32 -> int64", FORWARD),
    (x(pa.int64()), x(pa.int32()), "type int64 -> int32", BACKWARD),
    (x(pa.int64()), x(pa.float64()), "type int64 -> float64", BOTH),
    (x(pa.string()), x(pa.int64()), "type string -> int64", BOTH),
    (x(pa.list_(pa.float32(), 4)), x(pa.list_(pa.float32(), 8)), "type vector of 4 -> vector of 8", BOTH),
    (x(pa.list_(pa.int32())), x(pa.list_(pa.int64())), "type int32 -> int64", FORWARD),
    (x(pa.list_(pa.int32())), x(pa.int32()), "type list of int32 -> int32", BOTH),
    (struct(A), struct(A, NULLABLE_B), "added, nullable", NEITHER),
    (struct(A), struct(A, B), "added, required", BACKWARD),
    (struct(A, NULLABLE_B), struct(A), "dropped", FORWARD),
    (struct(A, B), struct(B, A), "columns reordered", NEITHER),
    (x(), x(pa.int64(), Required()), "rule added: not null", BACKWARD),
    (x(pa.int64(), Required()), x(), "rule dropped: not null", FORWARD),
    (x(pa.int64(), Between(0, 9)), x(pa.int64(), Between(1, 9)), "rule tightened: 0 to 9 -> 1 to 9", BACKWARD),
    (x(pa.int64(), Between(0, 9)), x(pa.int64(), Between(0, 8)), "rule tightened: 0 to 9 -> 0 to 8", BACKWARD),
    (x(pa.int64(), Between(0, 9)), x(pa.int64(), Between(0, 10)), "rule loosened: 0 to 9 -> 0 to 10", FORWARD),
    (x(pa.int64(), Between(0, 9)), x(pa.int64(), Between(1, 10)), "rule moved: 0 to 9 -> 1 to 10", BOTH),
    (x(pa.string(), OneOf(("a", "b"))), x(pa.string(), OneOf(("a",))), "rule tightened", BACKWARD),
    (x(pa.string(), OneOf(("a",))), x(pa.string(), OneOf(("a", "b"))), "rule loosened", FORWARD),
    (x(pa.string(), OneOf(("a", "b"))), x(pa.string(), OneOf(("b", "a"))), "rule respelled", NEITHER),
    (x(pa.string(), MaxLength(9)), x(pa.string(), MaxLength(8)), "rule tightened: at most 9 bytes", BACKWARD),
    (x(pa.string(), MaxLength(8)), x(pa.string(), MaxLength(9)), "rule loosened: at most 8 bytes", FORWARD),
    (
        x(pa.int64(), RequiredWhen("id", ("a",)), nullable=True),
        x(pa.int64(), RequiredWhen("id", ("a", "b")), nullable=True),
        "rule tightened: not null where id is a -> not null where id is a or b",
        BACKWARD,
    ),
    (x(TIMESTAMP, NotAfter("x", 9)), x(TIMESTAMP, NotAfter("x", 8)), "rule tightened: at most 9 s after x", BACKWARD),
    (x(TIMESTAMP, NotAfter("x", 8)), x(TIMESTAMP, NotAfter("x", 9)), "rule loosened: at most 8 s after x", FORWARD),
    (x(pa.int64(), AtMost("x", 2, 1)), x(pa.int64(), AtMost("x", 1, 1)), "rule tightened: at most 2 x x + 1", BACKWARD),
    (x(pa.int64(), AtMost("x", 2, 1)), x(pa.int64(), AtMost("x", 2, 2)), "rule loosened: at most 2 x x + 1", FORWARD),
    (
        x(pa.string(), Required(), MaxLength(9)),
        x(pa.string(), MaxLength(9), Required()),
        "rules reordered",
        NEITHER,
    ),
]


@pytest.mark.parametrize(("old", "new", "what", "breaks"), MUTATIONS)
def test_each_mutation_is_named_and_judged(old, new, what, breaks):
    only = change(old, new)
    assert only.what.startswith(what)
    assert (only.breaks_backward, only.breaks_forward) == breaks


def test_a_nested_field_is_named_by_its_path():
    deep = [pa.list_(pa.struct([pa.field("b", pa.list_(inner), False)])) for inner in (pa.int32(), pa.string())]
    assert str(change(x(deep[0]), x(deep[1]))) == "toy.x[].b[]: type int32 -> string (breaks backward and forward)"


def test_a_rule_about_another_column_is_another_rule():
    contracts = [
        contract_of(ID, column("x", TIMESTAMP, "X.", rules=(NotAfter(other),))).to_json() for other in ("a", "b")
    ]
    assert [str(c) for c in compare(*contracts)] == [
        "toy.x: rule dropped: not after a (breaks forward)",
        "toy.x: rule added: not after b (breaks backward)",
    ]


def test_key_and_shard_column_break_both():
    old = contract_of(ID, x(), key=("id",), shard_by=None)
    new = replace(old, key=("id", "x"), shard_by="id")
    assert compare(old.to_json(), new.to_json()) == [
        Change("toy", "key (id) -> (id, x)", True, True),
        Change("toy", "shard_by None -> id", True, True),
    ]


def test_column_order_is_a_compatible_change():
    assert compare(contract_of(ID, x()).to_json(), contract_of(x(), ID, key=("id",)).to_json()) == [
        Change("toy", "columns reordered", False, False)
    ]


def test_two_contracts_are_not_compared():
    with pytest.raises(ValueError, match="expected two versions of one contract, got 'toy' and 'other'; compare like"):
        compare(contract_of(ID).to_json(), contract_of(ID, name="other").to_json())


@pytest.mark.parametrize(
    ("flags", "part"), [([], "patch"), ([NEITHER], "minor"), ([NEITHER, BACKWARD], "major"), ([FORWARD], "major")]
)
def test_the_bump_follows_the_worst_change(flags, part):
    assert bump([Change("toy.x", "changed", *breaks) for breaks in flags]) == part


TYPES = [
    pa.string(), pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.date32(), TIMESTAMP,
    pa.list_(pa.float32(), 4), pa.list_(pa.float32(), 8), pa.list_(pa.float32()), pa.list_(pa.int64()),
    pa.struct([A]), pa.struct([A, B]), pa.struct([A, NULLABLE_B]), pa.struct([pa.field("a", pa.int32(), False)]),
]  # fmt: skip

# Old data a reader refuses though Avro would decode it, and why.
STRICTER = {
    "loses digits": {
        ("int32", "float32"), ("int64", "float32"), ("int64", "float64"), ("list of int64", "list of float32"),
    },
    "a number is not an instant or a day": {
        ("int32", "date"), ("date", "int32"), ("date", "int64"), ("date", "float32"), ("date", "float64"),
        ("int32", "timestamp_us_utc"), ("int64", "timestamp_us_utc"), ("date", "timestamp_us_utc"),
        ("timestamp_us_utc", "int64"), ("timestamp_us_utc", "float32"), ("timestamp_us_utc", "float64"),
    },
    "vectors of two lengths never meet": {
        ("vector of 4", "vector of 8"), ("vector of 8", "vector of 4"),
        ("vector of 4", "list of float32"), ("vector of 8", "list of float32"),
        ("list of float32", "vector of 4"), ("list of float32", "vector of 8"),
        ("list of int64", "vector of 4"), ("list of int64", "vector of 8"),
    },
}  # fmt: skip


def avro_reads(reader, writer) -> bool:
    schemas = [avro.schema.parse(json.dumps(avro_schema(contract))) for contract in (reader, writer)]
    verdict = ReaderWriterCompatibilityChecker().get_compatibility(*schemas)
    return verdict.compatibility is SchemaCompatibilityType.compatible


def test_every_pair_of_types_agrees_with_avro_but_for_the_listed_ones():
    columns = [x(type_, nullable=nullable) for type_ in TYPES for nullable in (False, True)]
    contracts = [contract_of(ID, field) for field in columns]
    stricter = set()
    for writer, reader in itertools.product(contracts, repeat=2):
        kinds = tuple(type_in_words(contract.to_json()["columns"][1]["type"]) for contract in (writer, reader))
        refused = any(c.breaks_backward for c in compare(writer.to_json(), reader.to_json()))
        assert refused or avro_reads(reader, writer), f"Avro refuses what compare lets through: {kinds}"
        if refused and avro_reads(reader, writer):
            stricter.add(kinds)
    assert stricter == set.union(*STRICTER.values())


def test_forward_is_backward_seen_from_the_other_side_but_for_dropped_columns():
    contracts = [contract_of(ID, x(type_, nullable=nullable)) for type_ in TYPES for nullable in (False, True)]
    for old, new in itertools.product(contracts, repeat=2):
        ahead, back = compare(old.to_json(), new.to_json()), compare(new.to_json(), old.to_json())
        if not any(c.what == "dropped" for c in ahead):
            assert any(c.breaks_forward for c in ahead) == any(c.breaks_backward for c in back)


TAME = st.sampled_from([pa.string(), pa.bool_(), pa.int32(), pa.int64()])  # no type Avro and compare disagree on


def fields(types):
    return st.lists(
        st.tuples(st.sampled_from("abc"), types, st.booleans()), min_size=1, max_size=3, unique_by=lambda f: f[0]
    )


NESTED = st.recursive(
    TAME,
    lambda inner: st.one_of(inner.map(pa.list_), fields(inner).map(lambda fs: pa.struct([pa.field(*f) for f in fs]))),
    max_leaves=5,
)


def contracts():
    return fields(NESTED).map(lambda fs: contract_of(ID, *(column(n, t, "F.", nullable=o) for n, t, o in fs)))


@settings(max_examples=300, deadline=None)
@given(contracts(), contracts())
def test_nested_contracts_agree_with_avro(old, new):
    ahead = compare(old.to_json(), new.to_json())
    assert avro_reads(new, old) == (not any(c.breaks_backward for c in ahead))
    if any(c.what == "dropped" for c in ahead):
        assert any(c.breaks_forward for c in ahead)
    else:
        assert avro_reads(old, new) == (not any(c.breaks_forward for c in ahead))


@settings(max_examples=200, deadline=None)
@given(contracts(), contracts())
def test_no_changes_means_equal_forms(old, new):
    assert (compare(old.to_json(), new.to_json()) == []) == (old.to_json() == new.to_json())
    assert compare(old.to_json(), old.to_json()) == []
