"""A contract: the one declaration of a dataset, from which every other form of its schema is generated."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pyarrow as pa

from schemas.rules import Rule, dump_rules, load_rules

TIMESTAMP = pa.timestamp("us", tz="UTC")
_T = TypeVar("_T")


def column(
    name: str,
    type_: pa.DataType,
    description: str,
    *,
    unit: str | None = None,
    nullable: bool = False,
    rules: tuple[Rule, ...] = (),
    derived_from: tuple[str, ...] = (),
) -> pa.Field:
    """Declare one column.

    Args:
      unit: of the numbers in it, `ms` for example.
      rules: what every row must satisfy besides nullability.
      derived_from: the input columns it is computed from, as `dataset.column`; a bare `?dataset.column` has an
        indirect influence only (a filter, a join or a sort).
    """
    metadata = {"description": description}
    if unit:
        metadata["unit"] = unit
    if rules:
        metadata["rules"] = dump_rules(rules)
    if derived_from:
        metadata["derived_from"] = json.dumps(list(derived_from))
    return pa.field(name, type_, nullable=nullable, metadata=metadata)


@dataclasses.dataclass(frozen=True, slots=True)
class Contract:
    """What a dataset holds: columns with their rules, key, shard column, version and owner.

    Attributes:
      name: singular noun, the folder name of the dataset.
      version: semantic version of the schema; `schemas/released` holds the released ones.
      key: columns that identify a row.
      shard_by: the column whose stable hash decides the shard; None for a dataset of one shard.
      schema: Arrow schema; build its fields with `column`.
      rows_from: input columns that decide which rows there are and what is added up in each (filters, joins, groups);
        they have an indirect influence on every derived column.
    """

    name: str
    version: str
    owner: str
    description: str
    key: tuple[str, ...]
    shard_by: str | None
    schema: pa.Schema
    rows_from: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = set(self.schema.names)
        missing = [name for name in (*self.key, *filter(None, [self.shard_by])) if name not in names]
        if missing:
            raise ValueError(f"contract {self.name}: key or shard columns {missing} are not among its columns")
        for field in self.schema:
            _type_json(field.type, f"{self.name}.{field.name}")

    @property
    def fingerprint(self) -> str:
        """Digest of names, types, nullability, rules, key and sharding; descriptions do not count."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def rules(self) -> Iterator[tuple[str, Rule]]:
        """Yield `(column, rule)` in column order."""
        for field in self.schema:
            for rule in load_rules(_metadata(field, "rules") or "[]"):
                yield field.name, rule

    def derivations(self) -> dict[str, tuple[str, ...]]:
        """Return, for each column, the input columns it is derived from; a constant has none."""
        return {name: (*own, *self._indirect(own)) for name, own in self.own_derivations().items()}

    def own_derivations(self) -> dict[str, tuple[str, ...]]:
        """Return, for each column, the input columns it is derived from itself, without `rows_from`."""
        return {f.name: tuple(json.loads(_metadata(f, "derived_from") or "[]")) for f in self.schema}

    def _indirect(self, own: tuple[str, ...]) -> list[str]:
        return [f"?{name}" for name in self.rows_from if own and f"?{name}" not in own]

    def given_columns(self) -> list[str]:
        """Return the columns a producer delivers, in order: those derived first from a raw column of that name."""
        return list(_given_columns(self))

    def describe(self, name: str) -> str:
        """Return the description of a column."""
        return _metadata(self.schema.field(name), "description") or ""

    def unit(self, name: str) -> str | None:
        """Return the unit of a column, None where it has none."""
        return _metadata(self.schema.field(name), "unit")

    def to_json(self) -> dict[str, Any]:
        """Return the canonical form: what the fingerprint covers and `schemas/released` keeps."""
        return {
            "name": self.name,
            "key": list(self.key),
            "shard_by": self.shard_by,
            "columns": [
                {
                    "name": field.name,
                    "type": _type_json(field.type, f"{self.name}.{field.name}"),
                    "nullable": field.nullable,
                    "rules": json.loads(_metadata(field, "rules") or "[]"),
                }
                for field in self.schema
            ],
        }


def per_contract(make: Callable[[Contract], _T]) -> Callable[[Contract], _T]:
    """Compute something once per contract object.

    By identity, because equal schemas may differ in their rules: pyarrow compares no metadata.
    """
    made: dict[int, tuple[Contract, _T]] = {}

    @functools.wraps(make)
    def remembered(contract: Contract) -> _T:
        if id(contract) not in made:
            made[id(contract)] = contract, make(contract)
        return made[id(contract)][1]

    return remembered


@per_contract
def _given_columns(contract: Contract) -> tuple[str, ...]:
    raw = f"raw_{contract.name}."
    return tuple(name for name, sources in contract.derivations().items() if sources[:1] == (raw + name,))


def _metadata(field: pa.Field, key: str) -> str | None:
    value = (field.metadata or {}).get(key.encode())
    return value.decode() if value is not None else None


_SCALARS = {
    pa.string(): "string",
    pa.bool_(): "bool",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.date32(): "date",
    TIMESTAMP: "timestamp_us_utc",
}


def _type_json(type_: pa.DataType, where: str) -> Any:
    """Spell a type in the closed table all generators share; not `str(type_)`, which pyarrow may reword."""
    if type_ in _SCALARS:
        return _SCALARS[type_]
    if pa.types.is_fixed_size_list(type_) and type_.value_type == pa.float32():
        return {"vector": type_.list_size}
    if pa.types.is_list(type_):
        return {"list": _type_json(type_.value_type, where)}
    if pa.types.is_struct(type_):
        return {
            "struct": [
                {"name": f.name, "type": _type_json(f.type, f"{where}.{f.name}"), "nullable": f.nullable}
                for f in type_.fields
            ]
        }
    raise ValueError(
        f"{where}: type {type_} is outside the closed table ({', '.join(_SCALARS.values())}, list, struct, vector)"
    )
