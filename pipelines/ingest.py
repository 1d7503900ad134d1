"""Ingest: raw files to events by day and user shard, and to snapshots of items, users, campaigns and tombstones."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import apache_beam as beam

from pipelines.inputs import raw_files, raw_refs, raw_tasks
from pipelines.road import Road, paths
from pipelines.runner import Stage, input_ref
from schemas.contract import Contract
from schemas.inputs import CAMPAIGN, EVENT, ITEM
from schemas.manifest import Manifest
from transforms.campaigns import offending
from transforms.ingest import EmitRows, IngestEvents, MergeRows, Refuse
from transforms.io.store import Store
from transforms.label import LABEL_VERSION
from transforms.shards import ExchangeShards, Task, Workspace
from validation.catalogue_gates import USERS_IN


def ingest_events(road: Road, raw: Store, users: Manifest, tombstones: Manifest) -> Stage:
    """Return the stage that turns all raw events into shards; later stages pick the days they need."""
    files = raw_files(raw, EVENT, road.day, required=True)
    tasks = raw_tasks(raw, files, EVENT)
    targets = {
        f"{shard:05d}": Task(
            f"{shard:05d}", shard, {"user": paths(users.files, shard), "tombstone": paths(tombstones.files)}
        )
        for shard in range(road.num_shards)
    }
    return Stage(
        name="ingest_event",
        contract=EVENT,
        date=road.day,
        inputs=(*raw_refs(files, EVENT), input_ref(users), input_ref(tombstones)),
        tasks=tasks,
        transform=functools.partial(_ingest_events, targets=targets),
        num_emits=len(tasks) + road.num_shards,
        num_parts=road.num_shards,
        num_shards=road.num_shards,
        config={"label_version": LABEL_VERSION},
        dated=False,
    )


def _ingest_events(space: Workspace, tasks: Sequence[Task], targets: dict[str, Task]) -> beam.PTransform:
    return IngestEvents(space, targets)


def ingest_items(road: Road, raw: Store, users: Manifest) -> Stage:
    """Return the stage that reads the catalogue, and is told in which markets users are, by which it is judged."""
    stage = ingest_snapshot(road, raw, ITEM, required=True)
    return dataclasses.replace(stage, figures=functools.partial(_users_in, users=users))


def _users_in(staged: Sequence[str], users: Manifest) -> dict[str, int]:
    counted = (users.statistics["columns"].get("market") or {}).get("values") or {}
    return {f"{USERS_IN}{market}": n for market, n in sorted(counted.items())}


def ingest_campaigns(road: Road, raw: Store, items: Manifest) -> Stage:
    """Return the stage that reads campaigns, and leaves out those that promote what the catalogue does not have for them."""
    stage = ingest_snapshot(road, raw, CAMPAIGN, required=False)
    transform = functools.partial(
        _ingest_snapshot, contract=CAMPAIGN, num_shards=1, refuse=offending, given={ITEM.name: paths(items.files)}
    )
    return dataclasses.replace(stage, inputs=(*stage.inputs, input_ref(items)), transform=transform)


def ingest_snapshot(road: Road, raw: Store, contract: Contract, *, required: bool) -> Stage:
    """Return the stage that reads one snapshot; a contract without a shard column gives one shard."""
    files = raw_files(raw, contract, road.day, required=required)
    tasks = raw_tasks(raw, files, contract)
    num_shards = road.num_shards if contract.shard_by else 1
    return Stage(
        name=f"ingest_{contract.name}",
        contract=contract,
        date=road.day,
        inputs=raw_refs(files, contract),
        tasks=tasks,
        transform=functools.partial(_ingest_snapshot, contract=contract, num_shards=num_shards),
        num_emits=len(tasks),
        num_parts=num_shards,
        num_shards=num_shards,
        dated=False,
    )


def _ingest_snapshot(
    space: Workspace, tasks: Sequence[Task], contract: Contract, num_shards: int, refuse: Refuse | None = None,
    given: Mapping[str, tuple[str, ...]] | None = None,
) -> beam.PTransform:  # fmt: skip
    targets = {f"{shard:05d}": Task(f"{shard:05d}", shard, dict(given or {})) for shard in range(num_shards)}
    emit, merge = EmitRows(contract, num_shards, space.code_version), MergeRows(contract, space.code_version, refuse)
    return ExchangeShards(space, emit, merge, targets)
