"""Delta: items that are new or have changed since a bundle was made, beside the bundle's own, which stays as it is.

    rows     of the catalogue: the delta's stand for the bundle's
    vectors  a second segment, searched beside the index; what it replaces in the index is hidden from every search

What is found is what one index of all vectors would find, but for the order of equal scores.
Memory: the rows and vectors of the delta (searched exactly, so at most a tenth of the catalogue; then a batch is due); of
every item with a vector, a copy of its id and kin, and a byte more for each kind of listener asked about at once.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from transforms.filters import Instant
from transforms.index.exact import NOTHING, ExactIndex, Found, Limits, to_keys
from transforms.kin import KIN_COLUMNS, Kin
from transforms.reach import REACH_COLUMNS, Reach, World
from transforms.vector_sources import Index, Items

_ORDER = "__order"


@dataclasses.dataclass(frozen=True)
class Changed:
    """What changed.

    Attributes:
      name: of the deltas it is made of. items: rows of the contract, sorted by id. vectors: of those that may be offered,
        likewise.
    """

    name: str
    items: pl.DataFrame
    vectors: pl.DataFrame

    @classmethod
    def of(cls, name: str, deltas: Sequence[tuple[pl.DataFrame, pl.DataFrame]], known: pl.DataFrame) -> "Changed":
        """Return what several deltas come to: of each item the row updated last, of equal ones that of the later delta.

        Args:
          deltas: items and vectors of each, the oldest first. known: `item_id` and `updated_at` of the bundle's own.
        """
        items, vectors = (
            pl.concat([rows.with_columns(pl.lit(n).alias(_ORDER)) for n, rows in enumerate(each)])
            for each in zip(*deltas, strict=True)
        )
        before = known.select("item_id", pl.col("updated_at").alias("__before"))
        newer = items.join(before, on="item_id", how="left").filter(
            pl.col("__before").is_null() | (pl.col("updated_at") >= pl.col("__before")).fill_null(True)
        )
        last = newer.sort("item_id", "updated_at", _ORDER, nulls_last=False).unique("item_id", keep="last")
        kept = last.sort("item_id").drop("__before")
        own = vectors.join(kept, on=["item_id", _ORDER], how="semi").sort("item_id")
        return cls(name, kept.drop(_ORDER), own.drop(_ORDER))


@dataclasses.dataclass(frozen=True)
class Delta:
    """What changed, as sources and filters see it.

    Attributes:
      items: with a vector, the bundle's first.
    """

    changed: Changed
    items: Items

    @classmethod
    def of(cls, changed: Changed, base: Items, siblings: pl.DataFrame, instant: Instant, world: World) -> "Delta":
        """Put what changed beside the items of a bundle.

        Args:
          siblings: `REACH_COLUMNS` of the unchanged parts of shows and books that changed.
        """
        ids, rows = changed.vectors["item_id"], changed.items
        hidden = base.ids.is_in(rows["item_id"].implode())
        reach = Reach.of([pl.concat([siblings, rows.select(REACH_COLUMNS)])], ids, instant, world)
        kin = Kin.read([rows.select(KIN_COLUMNS)], ids)
        return cls(
            changed,
            Items(
                pl.concat([pl.select(pl.when(~hidden).then(base.ids)).to_series(), ids]),
                Beside(base.index, ExactIndex.of(changed.vectors["vector"].to_numpy())) if len(ids) else base.index,
                ReachBeside(base.reach, reach, ~hidden.to_numpy()),
                Kin(np.concatenate([base.kin.codes, kin.codes])),
            ),
        )

    @functools.cached_property
    def _ids(self) -> frozenset[str]:
        return frozenset(self.changed.items["item_id"])

    def concerns(self, ids: pl.Series) -> bool:
        """Tell whether one of the items has changed or is new."""
        return not self._ids.isdisjoint(ids.to_list())

    def over(self, rows: pl.DataFrame, columns: Sequence[str] | None, mine: pl.Expr | None) -> pl.DataFrame:
        """Return rows of the bundle's catalogue with what changed: those that changed out, the delta's in their stead.

        Args:
          rows: with `item_id`. columns: to return. mine: which rows of the delta are asked for.
        """
        names = list(columns or rows.columns)
        kept = rows.filter(~pl.col("item_id").is_in(self.changed.items["item_id"].implode()))
        own = self.changed.items if mine is None else self.changed.items.filter(mine)
        return pl.concat([kept.select(names), own.select(names)])


@dataclasses.dataclass(frozen=True)
class ReachBeside:
    """The reach of a bundle's items and of a delta's, in this order; `shown` are those of the former that have not changed."""

    base: Any
    delta: Reach
    shown: np.ndarray

    def mask(self, *kind: Any, **more: Any) -> np.ndarray:
        """Return what a listener may be offered, see `transforms.reach.Reach.mask`."""
        return np.concatenate([self.base.mask(*kind, **more) & self.shown, self.delta.mask(*kind, **more)])

    def available(self, market: str | None, tier: str) -> np.ndarray:
        """Return what is offered there, see `transforms.reach.Reach.available`."""
        return np.concatenate([self.base.available(market, tier) & self.shown, self.delta.available(market, tier)])


@dataclasses.dataclass(frozen=True)
class Beside:
    """Two indices searched as one: the rows of the first, then those of the second."""

    base: Index
    delta: ExactIndex

    def __len__(self) -> int:
        return len(self.base) + len(self.delta)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of rows, `(n, dim) float32`."""
        of_delta = rows >= len(self.base)
        found = np.empty((len(rows), self.delta.vectors.shape[1]), np.float32)
        found[~of_delta] = self.base.take(rows[~of_delta])
        found[of_delta] = self.delta.take(rows[of_delta] - len(self.base))
        return found

    def search(self, queries: np.ndarray, k: int, limits: Limits | None = None) -> Found:
        """Return the best of both for every query; of equal scores, the lower row's first."""
        split = len(self.base)
        runs: tuple[tuple[Index, int, int], ...] = (self.base, 0, split), (self.delta, split, len(self))
        keys = []
        for index, first, last in runs:
            found = index.search(queries, k, limits.run(first, last) if limits else None)
            rows = found.rows.astype(np.int64)
            keys.append(to_keys(found.scores, np.where(rows == NOTHING, NOTHING, rows + first)))
        return Found.of(np.sort(np.hstack(keys), axis=1)[:, :k])
