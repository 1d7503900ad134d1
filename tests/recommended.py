"""Finished sets of a shard: the policies, and the road from its sources to its sets."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import polars as pl
import pyarrow as pa
from random_world import random_calibration, random_models
from toy_road import PROVENANCE, instant, policy, quota, shard

from pipelines.recommend import SURFACES, rests_on
from schemas.policy import SurfacePolicy
from transforms.groups import RetrieveGroups
from transforms.recommend import Recommend, added
from transforms.shards import Output

HOME = policy(
    quota("home.co_listen", 2, 4, 8, discovery=True), quota("home.relisten", 1, 3, 6),
    quota("home.follow_new", 0, 2, 5, discovery=True), quota("home.explore", 3, 3, 3, personal=False, discovery=True),
    quota("home.popular_company", 0, 2, 4, personal=False, discovery=True, newcomers=True),
    quota("home.popular_market", 1, 2, 30, personal=False), explore="home.explore",
    size=20, minimum_size=5, fill_to=15, artist_early=2, artist_early_slots=5, artist=4, album=2, show=1,
)  # fmt: skip
NOW_PLAYING = policy(
    quota("np.transition", 2, 4, 8), quota("np.familiar", 1, 1, 3), quota("np.artist_radio", 0, 2, 5),
    quota("np.explore", 2, 2, 2, personal=False), quota("np.popular_market", 0, 0, 30, personal=False),
    explore="np.explore", name="now_playing", size=12, minimum_size=4, fill_to=6, max_run=2, artist=6, recent_play_days=0,
)  # fmt: skip


PLAIN = dataclasses.replace(
    HOME, explore="", sources=tuple(quota for quota in HOME.sources if quota.source_id != HOME.explore)
)


def with_models(surface: SurfacePolicy, *names: str) -> SurfacePolicy:
    """Return a policy with a few slots for sources of parts and on vectors too."""
    more = tuple(quota(name, 1, 2, 5, discovery=not name.endswith("_part")) for name in names)
    return dataclasses.replace(surface, sources=(*more, *surface.sources), flow=(*names, *surface.flow))


FRESH = quota("home.fresh_market", 0, 2, 4, personal=False, discovery=True, newcomers=True)
FULL_HOME = with_models(HOME, "home.next_part", "home.two_tower", "home.sequence", "home.fresh_content")
FULL_HOME = dataclasses.replace(FULL_HOME, sources=(FRESH, *FULL_HOME.sources), flow=(FRESH.source_id, *FULL_HOME.flow))
FULL_NOW_PLAYING = with_models(NOW_PLAYING, "np.next_part", "np.session", "np.similar", "np.session_knn")
SPACE, PARTS = (
    "a space",
    ("co_listen", "history", "popularity", "transition", "artist_top", "item", "session_knn", "encoder"),
)
RESTS = rests_on({name: SimpleNamespace(dataset=name, run=f"run of {name}") for name in PARTS}, SPACE)


# The road over a random world.


class Made(NamedTuple):
    """Finished sets with what they were made from."""

    table: pa.Table
    counters: Mapping[str, int]
    offered: pl.DataFrame
    world: Mapping[str, pl.DataFrame]
    surface: SurfacePolicy


def recommend(folder: Path, world: Mapping[str, pl.DataFrame], surface: SurfacePolicy, who: str, seed: int = 0) -> Made:
    """Run retrieve, blend, assemble and audit over one shard; `who` is users, seeds or groups."""
    wanted, every = {quota.source_id for quota in surface.sources}, SURFACES[surface.name]
    own = {name: source for name, source in every.sources.items() if name in wanted}
    shared = {name: source for name, source in every.group_sources.items() if name in wanted}
    read = shard(folder / "world", world)
    groups = RetrieveGroups(shared, surface, instant(surface))(read).frame
    models = random_models(world, seed, surface)
    answered = every.retrieve(read, own, surface, instant(surface), lambda shard: models)
    assert not answered.artifacts, answered.artifacts
    proposed = answered.frame
    given = {**world, "groups": groups, "proposal": proposed, "calibration": random_calibration(surface, seed)}
    provenance = dataclasses.replace(PROVENANCE, artifacts=RESTS)
    blending = Recommend(surface, instant(surface), {**own, **shared}, provenance)
    made = getattr(blending, who)(shard(folder / "proposed", given))
    outputs = [made] if isinstance(made, Output) else list(made)
    table, counters = pa.concat_tables([one.frame for one in outputs]), added(one.counters for one in outputs)
    return Made(table, counters, pl.concat([proposed, groups]), world, surface)
