"""Campaigns that are over: what was promoted for one is in no set from then on, whoever made the set."""

from collections.abc import Collection
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.candidates import CANDIDATE_SET

RULE = "campaign"


def campaigns_in(tombstones: pl.DataFrame) -> frozenset[str]:
    """Return the campaigns among rows of tombstones."""
    return frozenset(tombstones["id"].filter(tombstones["entity"] == "campaign"))


def without_campaigns(sets: pa.Table, over: Collection[str]) -> pa.Table:
    """Return sets, by user, without the candidates that name one of the campaigns; what is left is numbered anew.

    Args:
      sets: of the contract of candidate sets.
    """
    if not over or not sets.num_rows:
        return sets
    candidates = sets["candidates"].combine_chunks()
    named = pc.is_in(
        pc.struct_field(candidates.flatten(), ["promo", "campaign_id"]), pa.array(sorted(over), pa.string())
    )
    touched = pc.is_in(
        pa.array(range(sets.num_rows)), pc.list_parent_indices(candidates).filter(named).cast(pa.int64())
    )
    if not pc.any(touched).as_py():
        return sets
    left = [_without(one, over) for one in sets.filter(touched).to_pylist()]
    whole = [sets.filter(pc.invert(touched)), pa.Table.from_pylist(left, CANDIDATE_SET.schema)]
    return pa.concat_tables(whole).sort_by("user_id")


def _without(one: dict[str, Any], over: Collection[str]) -> dict[str, Any]:
    """Return a set that says how many proposals it was left without."""
    kept, proposals = list[dict[str, Any]](), 0
    for candidate in one["candidates"]:
        if (candidate["promo"] or {}).get("campaign_id") in over:
            proposals += len(candidate["sources"])
        else:
            kept.append(candidate | {"position": len(kept)})
    told = one["counts"]
    rules = [*told["filtered_by_rule"], {"rule": RULE, "count": proposals}]
    return one | {"candidates": kept, "counts": told | {"filtered_by_rule": rules, "out": len(kept)}}
