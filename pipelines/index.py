"""Index: item vectors to segments that are searched approximately, measured beside an exact search."""

import dataclasses
import functools
from collections.abc import Sequence

import apache_beam as beam

from pipelines.embed import space_in
from pipelines.road import Road, shard_tasks
from pipelines.runner import Stage, input_ref
from schemas.manifest import Manifest
from schemas.models import INDEX
from schemas.policy import AUTO, IVF, RoadPolicy
from transforms.index.build import SAMPLED_PER_LIST, num_lists
from transforms.index.measure import WANTED
from transforms.index.plan import parts, prefers_index
from transforms.index.segments import MOST_IN_SEGMENT, QUERIES, BuildIndex, Design
from transforms.shards import Task, Workspace
from validation.thresholds import default_thresholds


def pays(policy: RoadPolicy, items: Manifest, users: Manifest) -> bool:
    """Tell whether the vectors of items are searched through an index."""
    if policy.index != AUTO:
        return policy.index == IVF
    dim, recall = space_in(items).dim, default_thresholds().index.recall
    return prefers_index(items.rows_out, users.rows_out, dim, recall, WANTED)


def index(road: Road, items: Manifest, users: Manifest, catalogue: Manifest) -> Stage:
    """Return the stage that builds the index, a map over item shards and an exchange by id.

    Args:
      items, users: their vectors; those of users are asked for, to see how good it is.
    """
    design = _design(items, users)
    data = {"item_embedding": items, "user_embedding": users, "item": catalogue}
    return Stage(
        name="index",
        contract=INDEX,
        date=road.day,
        inputs=tuple(input_ref(manifest) for manifest in data.values()),
        tasks=shard_tasks(road.num_shards, {name: manifest.files for name, manifest in data.items()}),
        transform=functools.partial(_index, design=design),
        num_parts=design.segments + 1,
        num_shards=design.segments,
        num_emits=2 * road.num_shards,
        config=dataclasses.asdict(design),
    )


def _design(items: Manifest, users: Manifest) -> Design:
    lists = num_lists(items.rows_out)
    return Design(
        space_in(items),
        lists,
        segments=max(1, parts(items.rows_out, MOST_IN_SEGMENT)),
        sampled=min(1.0, SAMPLED_PER_LIST * lists / max(items.rows_out, 1)),
        asked=min(1.0, QUERIES / max(items.rows_out + users.rows_out, 1)),
    )


def _index(space: Workspace, tasks: Sequence[Task], design: Design) -> beam.PTransform:
    return BuildIndex(space, design)
