"""Scan all that is reached from the pointers for what must disappear, as one Beam stage: a task per dataset and shard."""

import datetime
import functools
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.batch import read_record
from pipelines.overlay import live_overlays
from pipelines.publish import read_pointer
from pipelines.recommend import SURFACES
from pipelines.road import end_of, paths, process
from pipelines.runner import Stage, input_ref, load_manifest, missing_files
from schemas.audit import BEHIND, KEPT, LIVE, TOMBSTONE_SCAN
from schemas.inputs import TOMBSTONE
from schemas.manifest import Manifest
from transforms.io.store import Store
from transforms.shards import Task
from transforms.tombstone_scan import NAMING_USERS, ScanFiles

SETS = "candidate_set"


class AuditError(ValueError):
    """There is nothing to scan, or it cannot be; the message says the next step."""


class Reached(NamedTuple):
    """A dataset that is reached from a pointer."""

    how: str
    manifest: Manifest


def reached(store: Store) -> dict[str, Reached]:
    """Return, by path of its manifest, every dataset reached from a pointer that names users or holds items to show.

    Raises:
      AuditError: nothing is live, or files of what is live are gone.
    """
    found: dict[str, Reached] = {}
    for surface in SURFACES:
        pointer = read_pointer(store, surface)
        if pointer is None:
            continue
        live = (pointer.manifest, *live_overlays(store, pointer.manifest))
        for path in (*live, *pointer.previous, *pointer.withdrawn):
            sets = load_manifest(store, path)
            how = LIVE if path in live else KEPT
            found[path] = Reached(how, sets)
            found |= {one.path: Reached(BEHIND, one) for one in _behind(store, sets)}
    if not found:
        raise AuditError(f"nothing is live under {store.root}: there is nothing to scan")
    gone = {path: missing_files(store, one.manifest) for path, one in found.items()}
    for path, one in found.items():
        if gone[path] and one.how == LIVE:
            raise AuditError(f"{gone[path][0]} is live and gone: run its date again, then scan")
    return {path: one for path, one in sorted(found.items()) if not gone[path]}


def _behind(store: Store, sets: Manifest) -> Iterator[Manifest]:
    record = read_record(store, sets.date) or {"manifests": {}}
    for name, path in record["manifests"].items():
        if name.partition("/")[0] in NAMING_USERS.keys() - {SETS}:
            yield load_manifest(store, path)


def latest_tombstones(store: Store) -> Manifest:
    """Return the tombstones of the latest date that is live.

    Raises:
      AuditError: nothing is live.
    """
    pointers = [pointer for surface in SURFACES if (pointer := read_pointer(store, surface))]
    days = sorted(pointer.logical_date for pointer in pointers)
    record = read_record(store, days[-1]) if days else None
    if record is None:
        raise AuditError(f"nothing is live under {store.root}: there is nothing to scan")
    return load_manifest(store, record["manifests"][f"{TOMBSTONE.name}/"])


def scan(day: datetime.date, there: dict[str, Reached], tombstones: Manifest) -> Stage:
    """Return the stage that looks for what took effect by the end of a day."""
    gone = {TOMBSTONE.name: paths(tombstones.files)}
    tasks = []
    for number, one in enumerate(there.values()):
        place = f"{one.how}/{one.manifest.dataset}/{one.manifest.qualifier or '-'}"
        for shard in sorted({file.shard for file in one.manifest.files}):
            tasks.append(Task(f"{number:03d}-{shard:05d}", shard, gone | {place: paths(one.manifest.files, shard)}))
    inputs = (input_ref(tombstones), *(input_ref(one.manifest, f"{one.how}/{path}") for path, one in there.items()))
    return Stage(
        name="tombstone_scan",
        contract=TOMBSTONE_SCAN,
        date=day.isoformat(),
        inputs=inputs,
        tasks=tuple(tasks),
        transform=functools.partial(process, work=ScanFiles(end_of(day))),
        num_parts=len(tasks),
        num_shards=1,
    )
