"""Row rules: what one value, or two values of one row, must satisfy.

A rule is data. `validation.rows` compiles it to polars, `validation.sql` to DuckDB and BigQuery SQL and
`validation.expectations` to Great Expectations; a test holds the three to one answer.
A null passes every rule but `Required` and `RequiredWhen`: nullability is the field's own business.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Required:
    """The value is not null, and a string is not empty."""


@dataclasses.dataclass(frozen=True, slots=True)
class Between:
    """`low <= value <= high`; a float that is not finite fails."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class OneOf:
    """The value is one of `values`."""

    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class MaxLength:
    """A string holds at most `limit` bytes of UTF-8, a list at most `limit` elements."""

    limit: int


@dataclasses.dataclass(frozen=True, slots=True)
class RequiredWhen:
    """The value is not null on rows where the string column `column` is one of `values`."""

    column: str
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class NotAfter:
    """The timestamp is at most `tolerance_s` seconds later than the timestamp column `column`."""

    column: str
    tolerance_s: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class AtMost:
    """`value <= factor * column + slack`, on rows where the number column `column` is positive."""

    column: str
    factor: float
    slack: float


Rule = Required | Between | OneOf | MaxLength | RequiredWhen | NotAfter | AtMost
_KINDS: dict[str, Callable[..., Rule]] = {
    kind.__name__: kind for kind in (Required, Between, OneOf, MaxLength, RequiredWhen, NotAfter, AtMost)
}


def rule_name(column: str, rule: Rule) -> str:
    """Return the constant name a failing row is counted under, `event_ts:not_after:ingest_ts` for example."""
    other = f":{rule.column}" if isinstance(rule, (RequiredWhen, NotAfter, AtMost)) else ""
    snake = "".join("_" + c.lower() if c.isupper() else c for c in type(rule).__name__).lstrip("_")
    return f"{column}:{snake}{other}"


def dump_rules(rules: tuple[Rule, ...]) -> str:
    """Serialise rules for Arrow field metadata, canonically."""
    return json.dumps([{"kind": type(rule).__name__, **dataclasses.asdict(rule)} for rule in rules], sort_keys=True)


def load_rules(text: str) -> tuple[Rule, ...]:
    """Read what `dump_rules` wrote.

    Raises:
      ValueError: an unknown kind of rule.
    """
    return tuple(_load(entry) for entry in json.loads(text))


def _load(entry: dict[str, Any]) -> Rule:
    kind = entry.pop("kind")
    if kind not in _KINDS:
        raise ValueError(f"unknown kind of rule {kind!r}; this version of the code knows {', '.join(sorted(_KINDS))}")
    return _KINDS[kind](**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})
