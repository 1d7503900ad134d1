"""What a change of a contract means for its readers.

Backward: a reader with the new contract takes old data. Forward: a reader with the old contract takes new data.
Types and nullability follow Avro's schema resolution, with four exceptions on the side of caution, each of which Avro
lets pass: a promotion that loses digits (int64 to float64), a change between a number and a date or timestamp, a change
of vector length, and a dropped nullable column, which an old SQL or Parquet reader still asks for by name.
Rules count too, because readers check them: a tightened one refuses old data, and an old reader refuses what a loosened
one now lets through.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any, Literal

from schemas.rules import AtMost, Between, MaxLength, NotAfter, OneOf, RequiredWhen, Rule, load_rules
from schemas.words import rule_in_words, type_in_words

_LOSSLESS = (("int32", "int64"), ("int32", "float64"), ("float32", "float64"))


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One difference between two versions of a contract.

    Attributes:
      field: its path, `candidate_set.candidates[].sources[].raw_score` for example; the contract's name for key, shard
        column and order.
      what: the difference in words.
      breaks_backward: a new reader cannot take old data.
      breaks_forward: an old reader cannot take new data.
    """

    field: str
    what: str
    breaks_backward: bool
    breaks_forward: bool

    def __str__(self) -> str:
        """Say it in one line."""
        directions = [d for d in ("backward", "forward") if getattr(self, f"breaks_{d}")]
        return f"{self.field}: {self.what} ({'breaks ' + ' and '.join(directions) if directions else 'compatible'})"


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Compare two canonical forms of one contract, `Contract.to_json()`; equal forms have no changes.

    Raises:
      ValueError: they are of two contracts.
    """
    name = new["name"]
    if old["name"] != name:
        raise ValueError(
            f"expected two versions of one contract, got {old['name']!r} and {name!r}; compare like with like"
        )
    changes = [
        Change(name, f"{word} {_columns(old[word])} -> {_columns(new[word])}", True, True)
        for word in ("key", "shard_by")
        if old[word] != new[word]
    ]
    return [*changes, *_fields(old["columns"], new["columns"], name)]


def bump(changes: list[Change]) -> Literal["major", "minor", "patch"]:
    """Return which part of the version must rise: major if anything breaks, minor if anything changed."""
    if any(change.breaks_backward or change.breaks_forward for change in changes):
        return "major"
    return "minor" if changes else "patch"


def _columns(value: list[str] | str | None) -> str:
    return f"({', '.join(value)})" if isinstance(value, list) else str(value)


def _fields(old: list[dict[str, Any]], new: list[dict[str, Any]], path: str) -> Iterator[Change]:
    before, after = ({field["name"]: field for field in fields} for fields in (old, new))
    for name, field in before.items():
        if name in after:
            yield from _field(field, after[name], f"{path}.{name}")
        else:
            yield Change(f"{path}.{name}", "dropped", False, True)
    for name, field in after.items():
        if name not in before:
            yield _added(field, f"{path}.{name}")
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield Change(path, "columns reordered", False, False)


def _added(field: dict[str, Any], path: str) -> Change:
    if not field["nullable"]:
        return Change(path, "added, required", True, False)
    refuses_null = any(rule["kind"] in ("Required", "RequiredWhen") for rule in field.get("rules", []))
    return Change(path, "added, nullable" + (", with a rule against null" if refuses_null else ""), refuses_null, False)


def _field(old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[Change]:
    yield from _types(old["type"], new["type"], path)
    if old["nullable"] != new["nullable"]:
        what = "nullable -> required" if old["nullable"] else "required -> nullable"
        yield Change(path, what, old["nullable"], new["nullable"])
    yield from _rules(old.get("rules", []), new.get("rules", []), path, new["type"])


def _types(old: Any, new: Any, path: str) -> Iterator[Change]:
    match old, new:
        case {"struct": before}, {"struct": after}:
            yield from _fields(before, after, path)
        case {"list": before}, {"list": after}:
            yield from _types(before, after, f"{path}[]")
        case _ if old != new:
            what = f"type {type_in_words(old)} -> {type_in_words(new)}"
            yield Change(path, what, (old, new) not in _LOSSLESS, (new, old) not in _LOSSLESS)


def _rules(old: list[dict], new: list[dict], path: str, type_: Any) -> Iterator[Change]:
    before, after = _by_kind(old), _by_kind(new)
    changed = False
    for kind in dict.fromkeys([*before, *after]):
        for was, now in itertools.zip_longest(before.get(kind, ()), after.get(kind, ())):
            if was != now:
                changed = True
                yield _rule_change(was, now, path, type_)
    if not changed and old != new:
        yield Change(path, "rules reordered", False, False)


def _by_kind(rules: list[dict]) -> dict[tuple[str, str | None], list[Rule]]:
    """Group rules that may replace each other: the same kind, about the same other column."""
    groups: dict[tuple[str, str | None], list[Rule]] = {}
    for rule in load_rules(json.dumps(rules)):
        groups.setdefault((type(rule).__name__, getattr(rule, "column", None)), []).append(rule)
    return groups


def _rule_change(was: Rule | None, now: Rule | None, path: str, type_: Any) -> Change:
    if was is None or now is None:
        verb, rule = ("added", now) if was is None else ("dropped", was)
        assert rule is not None
        return Change(path, f"rule {verb}: {rule_in_words(rule, type_)}", was is None, now is None)
    tighter, looser = _refuses_more(was, now), _refuses_more(now, was)
    verb = {(True, False): "tightened", (False, True): "loosened", (True, True): "moved"}.get(
        (tighter, looser), "respelled"
    )
    return Change(path, f"rule {verb}: {rule_in_words(was, type_)} -> {rule_in_words(now, type_)}", tighter, looser)


def _refuses_more(was: Rule, now: Rule) -> bool:
    """Whether `now` refuses a value that `was`, a rule of the same kind, lets through."""
    match was, now:
        case Between(), Between():
            return now.low > was.low or now.high < was.high
        case OneOf(), OneOf():
            return not set(was.values) <= set(now.values)
        case MaxLength(), MaxLength():
            return now.limit < was.limit
        case RequiredWhen(), RequiredWhen():
            return not set(now.values) <= set(was.values)
        case NotAfter(), NotAfter():
            return now.tolerance_s < was.tolerance_s
        case AtMost(), AtMost():
            return now.factor < was.factor or now.slack < was.slack
    raise AssertionError(f"{was} and {now} are not of one kind")
