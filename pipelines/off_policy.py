"""Off-policy estimates of a date: sums over what Home's users explored, as one Beam stage, and what they say.

The launcher reads a row of 36 numbers per shard and policy.
"""

import datetime
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from pipelines.evaluate import files_of, window_of
from pipelines.recommend import HOME, own_and_groups
from pipelines.road import paths, process, shard_tasks, subset_ref
from pipelines.runner import Stage, input_ref
from schemas.evaluation import OFF_POLICY
from schemas.manifest import DataFile, Manifest
from transforms.io.store import Store
from transforms.off_policy import Estimate, Sums, TooFewOutcomes, estimate
from transforms.off_policy_shards import CLIP, POLICIES, AddOutcomes

_SHARED = ("item", "vocabulary")
_WEIGHTS = 2
HEAD = f"  {'policy':<14}{'IPS':>24}{'SNIPS':>24}{'clipped':>24}{'effective':>11}{'rows':>9}{'mean weight':>13}"


def add_outcomes(day: str, data: Mapping[str, Manifest], events: Manifest) -> Stage:
    """Return the stage that adds up what came of the explored items of a date, for every policy that has a name.

    Args:
      data: what `pipelines.evaluate.demand_judgeable` returned for Home.
    """
    policy = data["candidate_set"].config["policy"]
    window = window_of(day, HOME, policy["expires_hours"])
    files = files_of(events, window)
    sets, _ = own_and_groups(data["candidate_set"])
    _, groups = own_and_groups(data["proposal"])
    inputs: dict[str, tuple[str, ...] | Sequence[DataFile]] = {name: paths(data[name].files) for name in _SHARED}
    inputs |= {"event": files, "candidate_set": sets, "groups": groups}
    work = AddOutcomes(window, datetime.date.fromisoformat(day), policy["explore"])
    return Stage(
        name="off_policy",
        contract=OFF_POLICY,
        date=day,
        inputs=(
            subset_ref("event", events, files),
            *(input_ref(data[name]) for name in ("candidate_set", "proposal", *_SHARED)),
        ),
        tasks=shard_tasks(events.num_shards, inputs),
        transform=functools.partial(process, work=work),
        num_parts=events.num_shards,
        num_shards=1,
        config={"policies": sorted(POLICIES), "clip": CLIP, "expires_hours": policy["expires_hours"]},
    )


def estimates(store: Store, added: Manifest, policies: Sequence[str]) -> list[tuple[str, bool]]:
    """Return a line for each policy, and whether there was enough to say something of it."""
    rows = pl.concat([pl.read_parquet(store.local(file.path)) for file in added.files]).sort("policy", "shard")
    return [_told(name, gather(rows.filter(pl.col("policy") == name))) for name in policies]


def gather(rows: pl.DataFrame) -> Sums:
    """Add the sums of all shards up, in order: no user is in two of them."""
    parts = [
        Sums(row["clip"], row["highest"], row["clusters"], np.array(row["total"]), np.array(row["products"]).reshape(5, 5),
             row["squares"])
        for row in rows.to_dicts()
    ]  # fmt: skip
    whole = parts[0]
    for part in parts[1:]:
        whole += part
    return whole


def _told(name: str, sums: Sums) -> tuple[str, bool]:
    try:
        found = estimate(sums)
    except TooFewOutcomes as error:
        return f"  {name:<14}{error}", False
    shown = "".join(f"{_with_interval(one):>24}" for one in (found.ips, found.snips, found.clipped))
    return (
        f"  {name:<14}{shown}{found.effective:>11,.0f}{found.rows:>9,}{sums.total[_WEIGHTS] / found.rows:>13.3f}",
        True,
    )


def _with_interval(one: Estimate) -> str:
    return f"{one.value:.4f} ({one.low:.4f}-{one.high:.4f})"
