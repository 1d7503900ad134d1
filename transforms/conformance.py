"""What every source is held to, for whoever writes one: `departures(source, audience, bundle)` is empty for a good one.

    def test_my_source_conforms():
        assert departures(SOURCE, audience, MemoryBundle({"item": items, "co_listen": pairs})) == []

A source on vectors is given `MemoryModels`. The audience must be one the source has proposals for, or there would be nothing
to judge.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from schemas.candidates import PROPOSAL
from transforms.filters import Instant
from transforms.index.exact import ExactIndex
from transforms.kin import Kin
from transforms.market_profiles import MarketProfiles
from transforms.reach import Reach, read_world
from transforms.sources import SEEDS_SHOWN, Audience, Bundle, Source, none_found, propose
from transforms.vector_sources import Items, long_form

_OF_KEYS = ("keys", "listens", "skips", "rights", "unwanted", "places", "histories")
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


@dataclasses.dataclass
class MemoryModels(MemoryBundle):
    """Tables and vectors in memory (`transforms.vector_sources.Models`): arithmetic in place of what a model could have learnt.

    Plays in order are as many vectors added up, the last ones counting most. The one neighbour session of a listener goes
    on from the last play to the next item of the vocabulary.

    Attributes:
      tables: by name, `item`, `popularity` and `tombstone`; `item_embedding` (`item_id` and `vector`), `user_embedding`
        (`user_id` and `vector`) and `vocabulary`.
      instant: when what is found will be offered.
    """

    instant: Instant

    def items(self) -> Items:
        """Return all items with a vector."""
        return self._items

    def market_profiles(self) -> MarketProfiles:
        """Return what markets play."""
        return MarketProfiles.of(self, self.items().numbers, self.items().index.take)

    @functools.cached_property
    def _items(self) -> Items:
        rows = self.tables["item_embedding"].sort("item_id")
        reach = Reach.of([self.tables["item"]], rows["item_id"], self.instant, read_world(self))
        kin = Kin.read([self.tables["item"]], rows["item_id"])
        return Items(rows["item_id"], ExactIndex.of(rows["vector"].to_numpy()), reach, kin)

    def user_vectors(self, keys: pl.Series) -> tuple[pl.Series, np.ndarray]:
        """Return the keys that have a vector, sorted, and the vectors."""
        rows = self.lookup("user_embedding", "user_id", keys).sort("user_id")
        return rows["user_id"], rows["vector"].to_numpy()

    def encode(self, listens: pl.DataFrame, keys: pl.Series) -> np.ndarray:
        """Return the vectors of plays in order, `(num_keys, dim) float32`."""
        items = self.items()
        known = listens.filter(pl.col("item_id").is_in(items.ids.implode()))
        vectors = items.index.take(items.ids.search_sorted(known["item_id"]).to_numpy().astype(np.int64))
        age = known.select(pl.int_range(pl.len(), 0, -1).over("key")).to_series().to_numpy()
        made = np.zeros((len(keys), vectors.shape[1]), np.float32)
        np.add.at(made, keys.search_sorted(known["key"]).to_numpy(), vectors / age[:, None])
        return made

    def neighbour_sessions(self, listens: pl.DataFrame, keys: pl.Series, limit: int) -> pl.DataFrame:
        """Return `key`, `item_id`, `raw_score`."""
        item_ids = self.tables["vocabulary"].sort("item_id")["item_id"]
        known = listens.filter(pl.col("item_id").is_in(item_ids.implode())).group_by("key").last().sort("key")
        after = (item_ids.search_sorted(known["item_id"]).to_numpy() + 1) % len(item_ids)
        return long_form(known["key"], item_ids, after[:, None], known["label"].to_numpy()[:, None])


def departures(source: Source, audience: Audience, bundle: Bundle, shuffles: int = 3) -> list[str]:
    """Return what a source does that none may do, a sentence each; nothing where it conforms.

    Args:
      audience: some keys, at least two of whom the source has proposals for.
      shuffles: how often the rows of the audience are dealt anew to see whether their order matters.
    """
    raw = source.propose(audience, bundle)
    if found := [*_of_columns(raw)]:
        return found
    return [
        *_of_rows(raw, audience),
        *_of_limit(source, raw, audience),
        *_of_repeats(source, audience, bundle, shuffles),
    ]


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


def _of_limit(source: Source, raw: pl.DataFrame, audience: Audience) -> Iterator[str]:
    if source.limit < 1:
        yield f"its limit is {source.limit}, expected at least 1"
    asked = [one.select("key") for one in (audience.keys, audience.places) if one is not None]
    most = pl.concat(asked).group_by("key").len("times")
    over = raw.group_by("key").len().join(most, on="key").filter(pl.col("len") > source.limit * pl.col("times"))
    if source.in_every_place and over.height:
        yield f"more than {source.limit} for each place, for {over.height:,} keys: nobody cuts what is in every place"
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
    told = {name: getattr(audience, name) for name in _OF_KEYS}
    frames: dict[str, Any] = {name: change(frame) for name, frame in told.items() if frame is not None}
    return dataclasses.replace(audience, **frames)


def _among(audience: Audience, keys: pl.Series) -> Audience:
    return _changed(audience, lambda rows: rows.filter(pl.col("key").is_in(keys.implode())))
