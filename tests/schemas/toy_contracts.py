"""Small contracts and seeded rows for the tests of this folder."""

import datetime
import random

import numpy as np
import pyarrow as pa

from schemas.contract import TIMESTAMP, Contract, column
from schemas.rules import Between, OneOf

PART = pa.struct([pa.field("in", pa.int32(), False), pa.field("note", pa.string())])


def contract_of(*columns: pa.Field, name="toy", version="1.0.0", key=None, shard_by=None) -> Contract:
    return Contract(
        name=name,
        version=version,
        owner="tests",
        description="A toy.",
        key=(columns[0].name,) if key is None else key,
        shard_by=shard_by,
        schema=pa.schema(columns),
    )


def every_type(description="Text.", unit="ms") -> Contract:
    """Return a contract with every type of the closed table, required and nullable, flat and nested."""
    return contract_of(
        column("id", pa.string(), description, rules=(OneOf(("a", "b")),)),
        column("flag", pa.bool_(), "Flag.", nullable=True),
        column("small", pa.int32(), "Small.", rules=(Between(0, 10),)),
        column("big", pa.int64(), "Big.", unit=unit, nullable=True),
        column("half", pa.float32(), "Half."),
        column("full", pa.float64(), "Full.", nullable=True),
        column("day", pa.date32(), "Day."),
        column("at", TIMESTAMP, "Instant.", nullable=True),
        column("names", pa.list_(pa.string()), "Names.", nullable=True),
        column("vector", pa.list_(pa.float32(), 4), "Vector."),
        column("parts", pa.list_(PART), "Parts."),
        column("part", PART, "Part.", nullable=True),
        key=("id", "day"),
        shard_by="id",
    )


def rows_of(contract: Contract, count: int, seed: int) -> list[dict]:
    """Return rows of random values of the contract's types; about one nullable value in four is null."""
    rng = random.Random(seed)
    return [{field.name: _value(field, rng) for field in contract.schema} for _ in range(count)]


def _value(field: pa.Field, rng: random.Random):
    return None if field.nullable and rng.random() < 0.25 else _of_type(field.type, rng)


def _of_type(type_: pa.DataType, rng: random.Random):
    if pa.types.is_struct(type_):
        return {field.name: _value(field, rng) for field in type_.fields}
    if pa.types.is_fixed_size_list(type_):
        return [_of_type(type_.value_type, rng) for _ in range(type_.list_size)]
    if pa.types.is_list(type_):
        return [_of_type(type_.value_type, rng) for _ in range(rng.randrange(4))]
    return _SCALARS[type_](rng)


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_SCALARS = {
    pa.string(): lambda rng: "".join(rng.choices("ab|*é音\x00\n", k=rng.randrange(9))),
    pa.bool_(): lambda rng: rng.random() < 0.5,
    pa.int32(): lambda rng: rng.randrange(-(2**31), 2**31),
    pa.int64(): lambda rng: rng.randrange(-(2**63), 2**63),
    pa.float32(): lambda rng: float(np.float32(rng.gauss(0, 1e6))),
    pa.float64(): lambda rng: rng.gauss(0, 1e200),
    pa.date32(): lambda rng: datetime.date.fromordinal(rng.randrange(1, 3_652_060)),
    TIMESTAMP: lambda rng: _EPOCH + datetime.timedelta(microseconds=rng.randrange(-(10**15), 10**16)),
}
