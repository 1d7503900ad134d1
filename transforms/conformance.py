"""What every source is held to, for whoever writes one: `departures(source, audience, bundle)` is empty for a good one.

    def test_my_source_conforms():
        assert departures(SOURCE, audience, MemoryBundle({"item": items, "co_listen": pairs})) == []

The audience must be one the source has proposals for, or there would be nothing to judge.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from schemas.candidates import PROPOSAL
from transforms.sources import SEEDS_SHOWN, Audience, Bundle, Source, none_found, propose

_OF_KEYS = ("keys", "listens", "skips", "rights", "unwanted")
_ID = "source"


@dataclasses.dataclass
class MemoryBundle:
    """A bundle of tables in memory, by name."""

    tables: Mapping[str, pl.DataFrame]

    def read(self, name: str, columns: Sequence[str] | None = None, where: pl.Expr | None = None) -> pl.DataFrame:
        """Return the rows of a dataset that satisfy `where`."""
        rows = self.tables[name].filter(where) if where is not None else self.tables[name]
        return rows.select(columns) if columns else rows

    def lookup(self, name: str, column: str, ids: pl.Series, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows whose `column` is one of `ids`."""
        return self.read(name, columns, pl.col(column).is_in(ids.implode()))

    def parts(self, name: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield the rows of a dataset, three at a time."""
        rows = self.read(name, columns)
        return (rows[start : start + 3] for start in range(0, rows.height, 3))


def departures(source: Source, audience: Audience, bundle: Bundle, shuffles: int = 3) -> list[str]:
    """Return what a source does that none may do, a sentence each; nothing where it conforms.

    Args:
      audience: some keys, at least two of whom the source has proposals for.
      shuffles: how often the rows of the audience are dealt anew to see whether their order matters.
    """
    raw = source.propose(audience, bundle)
    if found := [*_of_columns(raw)]:
        return found
    return [*_of_rows(raw, audience), *_of_limit(source), *_of_repeats(source, audience, bundle, shuffles)]


def _of_columns(raw: pl.DataFrame) -> Iterator[str]:
    for name, kind in none_found().schema.items():
        if name not in raw.columns:
            yield f"there is no column {name}; a source returns {', '.join(none_found().columns)}"
        elif raw.schema[name] != kind and not (name == "raw_score" and raw.schema[name].is_float()):
            yield f"{name} is of type {raw.schema[name]}, expected {kind}"


def _of_rows(raw: pl.DataFrame, audience: Audience) -> Iterator[str]:
    keys = audience.keys["key"]
    told = {
        "proposals for a key that did not ask": ~pl.col("key").is_in(keys.implode()),
        "a null key, item, score or list of seeds": pl.any_horizontal(
            pl.col("key", "item_id", "raw_score", "seed_item_ids").is_null()
        ),
        "a score that is no finite number": ~pl.col("raw_score").is_finite(),
        "an item proposed twice for a key": pl.struct("key", "item_id").is_duplicated(),
        "an item proposed to itself": pl.col("key") == pl.col("item_id"),
        f"more than {SEEDS_SHOWN} seeds": pl.col("seed_item_ids").list.len() > SEEDS_SHOWN,
    }
    for what, test in told.items():
        if count := raw.filter(test).height:
            yield f"{what}: {count:,} of {raw.height:,} rows"
    if raw["key"].n_unique() < 2:
        yield f"proposals for {raw['key'].n_unique()} keys: give an audience with two it has proposals for"


def _of_limit(source: Source) -> Iterator[str]:
    if source.limit < 1:
        yield f"its limit is {source.limit}, expected at least 1"
    for name in ("score_kind", "signal_type", "reason_code"):
        if not getattr(source, name):
            yield f"its {name} is empty: say what a proposal rests on"


def _of_repeats(source: Source, audience: Audience, bundle: Bundle, shuffles: int) -> Iterator[str]:
    def ask(asking: Audience) -> pl.DataFrame:
        return propose({_ID: source}, asking, bundle).sort(PROPOSAL.key)

    expected = ask(audience)
    if not ask(audience).equals(expected):
        yield "asked twice, it answers differently: seed what is random by a hash, and sort"
    for seed in range(shuffles):
        if not ask(
            _changed(audience, lambda rows, seed=seed: rows.sample(fraction=1.0, shuffle=True, seed=seed))
        ).equals(expected):
            yield "its answer depends on the order of rows: sort before you group or sum"
            break
    keys = audience.keys["key"].unique().sort()
    halves = [ask(_among(audience, half)) for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :])]
    if not pl.concat(halves).sort(PROPOSAL.key).equals(expected):
        yield "what a key gets depends on who else is asked: shards and blocks would change the sets"
    if propose({_ID: source}, _changed(audience, pl.DataFrame.clear), bundle).height:
        yield "it proposes where nobody asks"


def _changed(audience: Audience, change: Callable[..., pl.DataFrame]) -> Audience:
    frames: dict[str, Any] = {name: change(getattr(audience, name)) for name in _OF_KEYS}
    return dataclasses.replace(audience, **frames)


def _among(audience: Audience, keys: pl.Series) -> Audience:
    return _changed(audience, lambda rows: rows.filter(pl.col("key").is_in(keys.implode())))
