"""A whole bundle opened to answer at once: what batch sources read from files, they look up here.

Memory: per process, what `transforms.model_bundle` holds, tombstones, the calibration, the markets with charts and, of a
catalogue of up to `HELD_ITEMS`, some 600 bytes an item; every other table lies on disk and is mapped
(`transforms.stream.keyed`).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from schemas.catalogue import CONTRACTS
from schemas.inputs import TOMBSTONE
from transforms.explore import pool_of
from transforms.facts import HeldCatalogue
from transforms.filters import ITEM_COLUMNS, Pool
from transforms.model_bundle import ModelBundle, demand_space
from transforms.parts import gone_items
from transforms.reach import REACH_COLUMNS, World, read_world
from transforms.retrieve import OF_HISTORIES, heard_by, made_good
from transforms.shards import read_tables
from transforms.stream.delta import Changed, Delta
from transforms.stream.keyed import KeyedTable
from transforms.vector_sources import Items

KEYED = (
    ("item", "item_id"), ("item", "show_id"), ("co_listen", "item_id"), ("transition", "context_id"),
    ("artist_top", "artist_id"), ("artist_top", "item_id"), ("user", "user_id"), ("history", "user_id"),
    ("groups", "key"),
)  # fmt: skip
"""What sessions are asked about: tables and the column each is looked up by."""
LOOKED_UP = frozenset(name for name, _ in KEYED) - {"item"}
"""Tables that are read in no other way, once they are written anew."""
_CONTRACTS = {**CONTRACTS, "groups": CONTRACTS["proposal"]}
_HELD = ("tombstone",)
Deltas = tuple[str, Sequence[tuple[pl.DataFrame, pl.DataFrame]]]
FEW_GROUPS, HELD_GROUPS = 4, 64
"""Few listeners are of few groups; so many combinations of them are held at the most, 80 MB; the oldest goes first."""
HELD_ITEMS = 5_000_000
"""Three gigabytes of codes. What is proposed of a larger catalogue is coded for every block, which takes longer."""


@dataclasses.dataclass(frozen=True)
class LiveBundle(ModelBundle):
    """The tables and models of one bundle.

    Attributes:
      tables: by name and column, of `KEYED`. held: small tables, whole. catalogue: codes of all items, None of too many.
      delta: what changed in the catalogue since.
    """

    tables: Mapping[tuple[str, str], KeyedTable]
    held: Mapping[str, pl.DataFrame]
    world: World
    catalogue: HeldCatalogue | None = None
    delta: Delta | None = None

    @classmethod
    def open(
        cls, opened: ModelBundle, folder: Path, deltas: Deltas | None = None, sha256: Mapping[str, str] | None = None
    ) -> "LiveBundle":
        """Map the tables of a bundle; files lie in `folder`, which processes and bundles may share.

        Args:
          deltas: items and vectors that changed since, by the name of all; see `transforms.stream.delta`.
          sha256: by path of the tables' files, asked for of those that are written anew.

        Raises:
          ValueError: vectors and index are not of one space, or the index is of other code.
          Altered: a file has another digest.
        """
        opened.items()
        shard = opened.shard
        tables = {}
        for name, column in KEYED:
            local, given = shard.paths(name), shard.task.inputs.get(name, ())
            known = {here: sha256[path] for here, path in zip(local, given, strict=True)} if sha256 else None
            tables[name, column] = KeyedTable.open(_CONTRACTS[name], column, local, folder, known)
        held = {name: shard.read(name) for name in _HELD}
        told = {field.name: getattr(opened, field.name) for field in dataclasses.fields(opened)}
        bundle = cls(**told, tables=tables, held=held, world=read_world(shard))
        return (bundle._changed(*deltas) if deltas else bundle).coded()

    def _changed(self, name: str, deltas: Sequence[tuple[pl.DataFrame, pl.DataFrame]]) -> "LiveBundle":
        for _, vectors in deltas:
            demand_space(vectors, self.space, f"delta {name}")
        ids = pl.concat([items["item_id"] for items, _ in deltas])
        changed = Changed.of(name, deltas, self.lookup("item", "item_id", ids, ["item_id", "updated_at"]))
        siblings = self.lookup("item", "show_id", changed.items["show_id"], REACH_COLUMNS)
        others = siblings.join(changed.items, on="item_id", how="anti", maintain_order="left")
        delta = Delta.of(changed, super().items(), others, self.instant, self.world)
        return dataclasses.replace(self, delta=delta)

    def coded(self) -> "LiveBundle":
        """Return the bundle with its catalogue coded by what is known now, if that is not too large."""
        if sum(len(segment.hashes) for segment in self.tables["item", "item_id"].segments) > HELD_ITEMS:
            return self
        return dataclasses.replace(self, catalogue=HeldCatalogue.of(self, self.world, self.instant))

    def without(self, tombstones: pl.DataFrame) -> "LiveBundle":
        """Return the bundle with more tombstones: the hard filters know them from now on; with none that are new, itself."""
        known, key = self.held["tombstone"], list(TOMBSTONE.key)
        new = tombstones.select(known.columns).join(known, on=key, how="anti", maintain_order="left")
        if not new.height:
            return self
        every = pl.concat([known, new.unique(key, keep="first", maintain_order=True)])
        more = dataclasses.replace(self, held={**self.held, "tombstone": every})
        if not (new["entity"] == "item").any():
            return more
        world = dataclasses.replace(self.world, gone=gone_items(more))
        catalogue = self.catalogue.without(more, world, self.instant) if self.catalogue else None
        return dataclasses.replace(more, world=world, catalogue=catalogue)

    def read(self, name: str, columns: Sequence[str] | None = None, where: pl.Expr | None = None) -> pl.DataFrame:
        """Return the rows that satisfy `where`, in file order; what is not held is read from its files."""
        if name == "item" and self.delta:
            return self.delta.over(super().read(name, _with_id(columns), where), columns, where)
        if name not in self.held:
            return super().read(name, columns, where)
        found = self.held[name] if where is None else self.held[name].filter(where)
        return found.select(columns) if columns else found

    def lookup(self, name: str, column: str, ids: pl.Series, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows whose `column` is one of `ids`, in no order that means anything."""
        if self.catalogue and (name, column) == ("item", "item_id") and columns and set(columns) <= set(ITEM_COLUMNS):
            return self.catalogue.lookup(ids.unique(), columns)
        table = self.tables.get((name, column))
        if table is None:
            return super().lookup(name, column, ids, columns)
        if not len(ids):
            return read_tables([], _CONTRACTS[name], columns)
        if name != "item" or not self.delta or (column == "item_id" and not self.delta.concerns(ids)):
            return table.lookup(ids, columns)
        found = self.delta.over(
            table.lookup(ids, _with_id(columns)), _with_id(columns), pl.col(column).is_in(ids.implode())
        )
        return found.sort("item_id").select(columns or found.columns)

    def shared(self, groups: pl.Series, explored: str) -> tuple[pl.DataFrame, Pool | None]:
        """Return what is proposed to groups, and their pools of a source, if the catalogue is coded.

        Those of few groups are held: a thousand proposals each, 300 kB.
        """
        if len(groups) > FEW_GROUPS:
            return self.lookup("groups", "key", groups), None
        key = (explored, *groups.sort())
        found = self._shared.get(key)
        if found is None:
            rows = self.lookup("groups", "key", groups)
            found = rows, pool_of(rows, self.catalogue.codes, explored) if self.catalogue else None
            if len(self._shared) == HELD_GROUPS:
                del self._shared[next(iter(self._shared))]
            self._shared[key] = found
        return found

    @functools.cached_property
    def _shared(self) -> dict[tuple[str, ...], tuple[pl.DataFrame, Pool | None]]:
        return {}

    def items(self) -> Items:
        """Return all items with a vector."""
        return self.delta.items if self.delta else super().items()

    def listeners(self, seen: pl.DataFrame) -> pl.DataFrame:
        """Return listeners as `transforms.retrieve.user_table` does, those nobody knows too.

        Args:
          seen: sorted by `user_id`, each once, with the `market` of the last event, null where it has none; it goes before any
            other.
        """
        users = self.lookup("user", "user_id", seen["user_id"])
        histories = self.lookup("history", "user_id", seen["user_id"], OF_HISTORIES)
        known = seen.rename({"market": "market_here"}).join(users, on="user_id", how="left", maintain_order="left")
        every = known.join(heard_by(histories), on="user_id", how="left", maintain_order="left")
        return made_good(every, self.held["tombstone"], ["market_here", "history_market", "market"])


def _with_id(columns: Sequence[str] | None) -> list[str] | None:
    return list(dict.fromkeys(["item_id", *columns])) if columns else None
