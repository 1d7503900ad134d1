"""What markets play as vectors: the taste that is assumed of who has told nothing but where they are and what they speak.

Pure; batch and stream ask the same function. Memory: `8 * dim` bytes for each market and each language of its chart, 9 MB for 184
markets of 50 languages and 128 dimensions; while it is made, the chart of one market.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from schemas.tallies import ANY
from transforms.id_index import NO_CODE, IdIndex
from transforms.sources import Bundle

CHARTED = 500
"""Items of a market's chart that count. They hold most of its plays, and what follows says little of the market."""
ANY_LANGUAGE = ""
Take = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, slots=True)
class MarketProfiles:
    """Vectors of charts, weighed by plays.

    Attributes:
      sums: by market and language of the items, `(dim,) float64`; `ANY_LANGUAGE`: of all of them. `*` is everywhere.
    """

    sums: Mapping[tuple[str, str], np.ndarray]

    @classmethod
    def of(cls, bundle: Bundle, numbers: IdIndex, take: Take) -> "MarketProfiles":
        """Read the charts of a bundle; what has no vector is passed over.

        Args:
          numbers: of the items that have a vector. take: returns the vectors of some of them.
        """
        charts = bundle.read("popularity", ["market", "item_id", "weight"], pl.col("tier") == ANY)
        ordered = charts.sort("market", "weight", "item_id", descending=[False, True, False])
        best = ordered.filter(pl.int_range(pl.len()).over("market") < CHARTED)
        spoken = bundle.lookup("item", "item_id", best["item_id"].unique(), ["item_id", "languages"])
        told = best.join(spoken, on="item_id", how="left", maintain_order="left")
        row = numbers.find(told["item_id"])
        known = told.with_columns(pl.Series("row", row.astype(np.int64))).filter(row != NO_CODE)
        sums: dict[tuple[str, str], np.ndarray] = {}
        for (market,), chart in known.partition_by("market", as_dict=True).items():
            sums |= {(str(market), language): vector for language, vector in _by_language(chart, take).items()}
        return cls(sums)

    def of_listener(self, market: str, languages: Sequence[str] | None) -> np.ndarray | None:
        """Return the profile of a market, of its items in these languages where it plays any, `(dim,) float32`, of length 1.

        A market that is not known has the profile of all of them. None: nothing is played anywhere.
        """
        here = market if (market, ANY_LANGUAGE) in self.sums else ANY
        own = [self.sums[here, one] for one in sorted(set(languages or ())) if (here, one) in self.sums]
        if not own and (here, ANY_LANGUAGE) not in self.sums:
            return None
        total = np.sum(own or [self.sums[here, ANY_LANGUAGE]], axis=0)
        length = float(np.linalg.norm(total))
        return (total / length).astype(np.float32) if length else None


def _by_language(chart: pl.DataFrame, take: Take) -> dict[str, np.ndarray]:
    vectors = take(chart["row"].to_numpy()) * chart["weight"].to_numpy().astype(np.float64)[:, None]
    places = chart.select("languages", place=pl.int_range(pl.len())).explode("languages").drop_nulls()
    named = {
        str(name): own["place"].to_numpy() for (name,), own in places.partition_by("languages", as_dict=True).items()
    }
    return {ANY_LANGUAGE: vectors.sum(axis=0)} | {name: vectors[rows].sum(axis=0) for name, rows in named.items()}
