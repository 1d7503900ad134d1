"""Candidate sets written by hand, as far as evaluation reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

_CANDIDATE = pl.Struct(
    {
        "item_id": pl.String,
        "item_type": pl.String,
        "canonical_id": pl.String,
        "position": pl.Int32,
        "familiarity": pl.String,
        "is_fresh": pl.Boolean,
        "sources": pl.List(pl.Struct({"source_id": pl.String})),
    }
)


def write_sets(
    path: Path,
    sets: Mapping[str, Sequence[tuple[str, Sequence[str]]]],
    why: Mapping[str, Sequence[str]] | None = None,
    where: tuple[str, str] = ("SE", "free"),
) -> str:
    """Write sets by record key, each candidate an item and the sources that proposed it; return where.

    Args:
      why: by record key, their `degraded_reasons`. where: market and tier of all of them.
    """
    rows = [
        {
            "record_key": key,
            "market": where[0],
            "tier": where[1],
            "degraded_reasons": list((why or {}).get(key, ())),
            "candidates": [
                {"item_id": one, "item_type": "track", "canonical_id": one, "position": place,
                 "familiarity": "known", "is_fresh": False, "sources": [{"source_id": name} for name in names]}
                for place, (one, names) in enumerate(candidates)
            ],
        }
        for key, candidates in sets.items()
    ]  # fmt: skip
    keys = dict.fromkeys(("record_key", "market", "tier"), pl.String)
    lists = {"degraded_reasons": pl.List(pl.String), "candidates": pl.List(_CANDIDATE)}
    pl.DataFrame(rows, schema=keys | lists).write_parquet(path)
    return str(path)
