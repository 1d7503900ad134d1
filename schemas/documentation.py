"""The page that describes every contract to a person."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from schemas.catalogue import CONTRACTS
from schemas.contract import Contract
from schemas.words import rule_in_words, type_in_words

_HEAD = """\
# Contracts

Generated from `schemas/catalogue.py` by `make contracts`; edit the contracts, not this page.
`name[]` is the elements of a list. Lists hold no nulls. Timestamps are UTC, in microseconds.
A column derived *indirectly* from another is filtered, joined or sorted by it, and holds no value of it.
"""
_TABLE = "| column | type | null | unit | rules | description | derived from |\n|---|---|---|---|---|---|---|"

_GIVEN_TABLE = "| column | type | must be there | unit | rules | description |\n|---|---|---|---|---|---|"


def contracts_markdown(contracts: Iterable[Contract] = CONTRACTS.values()) -> str:
    """Return the page: one section per contract, one row per column and per field of a nested record."""
    contracts = tuple(contracts)
    links = "\n".join(f"- [{c.name}](#{c.name}): {_escape(c.description)}" for c in contracts)
    return "\n".join([_HEAD, links, *map(_section, contracts)])


def given_table(contract: Contract, filled: Collection[str] = ()) -> str:
    """Return the table of the columns that a producer delivers; those in `filled` may be missing all the same."""
    rules = list(contract.rules())
    lines = [_GIVEN_TABLE]
    for column in contract.to_json()["columns"]:
        name, type_ = column["name"], column["type"]
        if name not in contract.given_columns():
            continue
        must = "" if column["nullable"] or name in filled else "yes"
        words = "; ".join(rule_in_words(rule, type_) for owner, rule in rules if owner == name)
        lines.append(
            _cells(f"`{name}`", type_in_words(type_), must, contract.unit(name), words, contract.describe(name))
        )
        lines += [
            _cells(f"`{path}`", type_in_words(field["type"]), "" if field["nullable"] else "yes", "", "", "")
            for path, field in _nested(type_, name)
        ]
    return "\n".join(lines)


def _cells(name: str, type_: str, must: str, unit: str | None, rules: str, description: str) -> str:
    cells = [name, type_, must, _escape(unit or ""), _escape(rules), _escape(description)]
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def _section(contract: Contract) -> str:
    lines = [
        f"\n## {contract.name}\n",
        f"{_escape(contract.description)}\n",
        f"Version {contract.version}, fingerprint `{contract.fingerprint}`, owner {contract.owner}.",
        f"Key: {', '.join(f'`{name}`' for name in contract.key)}.",
        f"Sharded by `{contract.shard_by}`." if contract.shard_by else "One shard.",
        *([f"Which rows there are depends on {_sources(contract.rows_from)}."] if contract.rows_from else []),
        "",
        _TABLE,
        *_rows(contract),
    ]
    return "\n".join(lines)


def _rows(contract: Contract) -> Iterator[str]:
    rules = list(contract.rules())
    derivations = contract.own_derivations()
    for column in contract.to_json()["columns"]:
        name, type_ = column["name"], column["type"]
        words = "; ".join(rule_in_words(rule, type_) for owner, rule in rules if owner == name)
        yield _row(column, name, contract.unit(name) or "", words, contract.describe(name), _sources(derivations[name]))
        yield from _nested_rows(type_, name)


def _nested_rows(type_: Any, path: str) -> Iterator[str]:
    """Yield a row for every field of the record a column holds, directly or in a list."""
    return (_row(field, below) for below, field in _nested(type_, path))


def _nested(type_: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every field of the record a column holds, directly or in a list, with its path."""
    while isinstance(type_, dict) and "list" in type_:
        type_, path = type_["list"], f"{path}[]"
    if isinstance(type_, dict) and "struct" in type_:
        for field in type_["struct"]:
            yield f"{path}.{field['name']}", field
            yield from _nested(field["type"], f"{path}.{field['name']}")


def _row(field: dict[str, Any], path: str, unit="", rules="", description="", sources="") -> str:
    null = "yes" if field["nullable"] else "no"
    cells = [
        f"`{path}`",
        type_in_words(field["type"]),
        null,
        _escape(unit),
        _escape(rules),
        _escape(description),
        sources,
    ]
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def _sources(columns: tuple[str, ...]) -> str:
    direct = ", ".join(f"`{name}`" for name in columns if not name.startswith("?"))
    indirect = ", ".join(f"`{name[1:]}`" for name in columns if name.startswith("?"))
    return "; ".join(filter(None, [direct, f"indirectly {indirect}" if indirect else ""]))


def _escape(text: str) -> str:
    """Keep Markdown from reading meaning into `|` and `*`."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
