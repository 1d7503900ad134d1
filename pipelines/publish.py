"""Publish: read back what was committed, look for what must have disappeared, swap one pointer. Roll back: the same, back.

Memory: the ids of the tombstones, and a slice of one file.
"""

import dataclasses
import json
from collections.abc import Collection, Iterable, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.bundle import demand_servable
from pipelines.road import paths
from pipelines.runner import load_manifest
from schemas.catalogue import CONTRACTS
from schemas.inputs import TOMBSTONE
from schemas.manifest import DataFile, Manifest, dataset_date
from transforms.io.store import Store, file_digest
from transforms.shards import read_tables
from transforms.tombstone_scan import hits_in
from validation.declared import declared_checks

KEEP = 3
CANARY_ROWS = 1_000


class PublishError(RuntimeError):
    """A candidate set was not published; what was live stays live."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pointer:
    """What is live on a surface.

    Attributes:
      manifest: of the candidate sets, relative to the root. `bundle`: what they were made from.
      previous: manifests that were live before, the latest first; at most `KEEP - 1`.
      withdrawn: manifests that were rolled back, the latest first; at most `KEEP`. None is released again by a run.
    """

    surface: str
    manifest: str
    logical_date: str
    run: str
    previous: tuple[str, ...]
    withdrawn: tuple[str, ...] = ()
    bundle: str | None = None

    def to_json(self) -> str:
        """Serialise."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"


def pointer_path(surface: str) -> str:
    """Return where a surface's pointer lies."""
    return f"live/{surface}.json"


def read_pointer(store: Store, surface: str) -> Pointer | None:
    """Return what is live, None before the first release.

    Raises:
      PublishError: the pointer cannot be read.
    """
    try:
        fields = json.loads(store.read_bytes(pointer_path(surface)))
        lists = {"previous": tuple(fields["previous"]), "withdrawn": tuple(fields.get("withdrawn", ()))}
        return Pointer(**{**fields, **lists})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise PublishError(
            f"{store.root}/{pointer_path(surface)} is not a pointer ({error}). Put back an earlier copy, or delete it"
            " and publish again."
        ) from error


@dataclasses.dataclass(frozen=True, slots=True)
class Overlays:
    """The overlays of batch sets, the oldest first; who reads sets from files takes of each listener the highest sequence.

    Attributes:
      base: manifest of the batch sets. manifests: of the overlays.
    """

    base: str
    manifests: tuple[str, ...]


def overlays_path(surface: str) -> str:
    """Return where the overlays of a surface are named."""
    return f"live/{surface}-overlays.json"


def read_overlays(store: Store, surface: str) -> Overlays | None:
    """Return the overlays made last, None where there never were any; they count while their base is live.

    Raises:
      PublishError: what names them cannot be read.
    """
    path = overlays_path(surface)
    try:
        fields = json.loads(store.read_bytes(path))
        return Overlays(fields["base"], tuple(fields["manifests"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise PublishError(
            f"{store.root}/{path} names no overlays ({error}): delete it, and make overlay makes them again"
        ) from error


def publish(store: Store, surface: str, sets: Manifest, exposure: Manifest) -> str:
    """Release candidate sets on a surface; return what was done: `released`, `already live`, `archived` or `withdrawn`.

    A set older than the live one is kept but not released, and so is one that was rolled back.

    Raises:
      PublishError: a check of it did not pass, one was not made, what is read back is not what was committed, or it holds
        what is under a tombstone.
    """
    for manifest in (sets, exposure):
        demand_checked(manifest)
    live = read_pointer(store, surface)
    if live is not None and live.manifest == sets.path:
        return "already live"
    if live is not None and live.logical_date > sets.date:
        return f"archived: {live.logical_date} is live, which is newer"
    withdrawn = live.withdrawn if live else ()
    if sets.path in withdrawn:
        return f"withdrawn: it was rolled back; make rollback SURFACE={surface} UNDO=1 makes it live again"
    read_back(store, sets)
    known = (ref.path for ref in sets.inputs if ref.name == TOMBSTONE.name)
    demand_none_gone(store, (sets,), {*known, *_tombstones_since(store, sets.date)})
    previous = (live.manifest, *live.previous) if live else ()
    _swap(store, surface, sets, tuple(path for path in previous if path != sets.path), withdrawn)
    return "released"


def demand_checked(manifest: Manifest) -> None:
    """Refuse what was not checked, or did not pass.

    Raises:
      PublishError: naming each check that its contract and thresholds declare and that is not recorded, or those that failed.
    """
    demand_passed(manifest)
    missing = sorted(declared_checks(CONTRACTS[manifest.dataset]) - {check.name for check in manifest.checks})
    if missing:
        raise PublishError(
            f"{manifest.path}: {'none of ' + ', '.join(missing) if manifest.checks else 'no check at all'} is recorded, and"
            " what was not checked is not released. Delete it and run its date again."
        )


def demand_passed(manifest: Manifest) -> None:
    """Refuse what did not pass a check that is recorded.

    Raises:
      PublishError: naming the checks.
    """
    failed = [c.name for c in manifest.checks if c.severity == "critical" and c.outcome not in ("passed", "waived")]
    if failed:
        raise PublishError(f"{manifest.path}: critical checks did not pass: {', '.join(failed)}")


def demand_none_gone(store: Store, showing: Sequence[Manifest], tombstones: Iterable[str]) -> None:
    """Refuse sets of erased users, and with items taken down; every tombstone counts, as it does for every stage of a run.

    Args:
      tombstones: manifests of what was ingested.

    Raises:
      PublishError: saying how many there are.
    """
    known = sorted(tombstones)
    files = [file for path in known for file in load_manifest(store, path).files]
    local = [store.local(path) for path in paths(files)]
    gone = read_tables(local, TOMBSTONE, ["entity", "id"]).unique(maintain_order=True)
    for sets in showing if gone.height else ():
        hits = {"user": 0, "item": 0}
        for file in sets.files:
            for found in hits_in(store.local(file.path), sets.dataset, gone):
                for entity, n in found.group_by("entity", maintain_order=True).agg(pl.col("hits").sum()).rows():
                    hits[entity] += n
        if any(hits.values()):
            raise PublishError(
                f"{sets.path} holds {hits['user']:,} sets of erased users and {hits['item']:,} slots or seeds of items taken"
                f" down, by {', '.join(known)}: what was live stays live. Run the latest date again with these tombstones in"
                " RAW; where they hold no longer, delete their folder first"
            )


def _tombstones_since(store: Store, day: str | None) -> set[str]:
    """Return the manifests of the tombstones ingested as of a day or later; of the latest day that any are of, without one."""
    every = {path for path in store.list(f"data/{TOMBSTONE.name}") if path.endswith("/manifest.json")}
    dated = {path: dataset_date(path) for path in every}
    since = max(dated.values(), default="") if day is None else day
    return {path for path, date in dated.items() if date >= since}


def _swap(store: Store, surface: str, sets: Manifest, previous: tuple[str, ...], withdrawn: tuple[str, ...]) -> Pointer:
    """Make sets and the bundle they came from live in one move, then retire what is no longer kept."""
    kept, out = previous[: KEEP - 1], withdrawn[:KEEP]
    bundle = sets.config.get("bundle")
    if bundle:
        demand_servable(store, bundle)
    pointer = Pointer(surface, sets.path, sets.date, sets.run, kept, out, bundle)
    store.write_bytes(pointer_path(surface), pointer.to_json().encode())
    for path in {*previous, *withdrawn} - {sets.path, *kept, *out}:
        retire(store, path)
    return pointer


def rollback(store: Store, surface: str, tombstones: Collection[str] = ()) -> Pointer:
    """Make the set before the live one live again, unless it holds what is under one of the newest tombstones.

    What it holds was available until it expires, by the audit of its run, and readers pass over what expired: neither is looked
    at again. Rights that end before must come as a tombstone. Its checks must have passed, those that its own release asked for.

    Args:
      tombstones: manifests of others that count besides those of the latest day that any were ingested as of.

    Raises:
      PublishError: nothing is live, nothing was before it, or that must not be shown.
    """
    live = read_pointer(store, surface)
    if live is None or not live.previous:
        what = "nothing was ever published" if live is None else "no earlier set is kept"
        raise PublishError(f"{surface} cannot be rolled back: {what} under {store.root}")
    target = _standing(store, surface, live.previous[0], tombstones)
    withdrawn = (live.manifest, *(path for path in live.withdrawn if path != live.manifest))
    return _swap(store, surface, target, live.previous[1:], withdrawn)


def undo_rollback(store: Store, surface: str, tombstones: Collection[str] = ()) -> Pointer:
    """Make the set that was rolled back last live again; `tombstones` as in `rollback`.

    Raises:
      PublishError: none was, or it must not be shown.
    """
    live = read_pointer(store, surface)
    if live is None or not live.withdrawn:
        raise PublishError(f"{surface} has no rollback to undo under {store.root}")
    target = _standing(store, surface, live.withdrawn[0], tombstones)
    return _swap(store, surface, target, (live.manifest, *live.previous), live.withdrawn[1:])


def _standing(store: Store, surface: str, path: str, tombstones: Collection[str]) -> Manifest:
    """Return an earlier set that may be shown, with the overlays that lie on it."""
    target, overlays = load_manifest(store, path), read_overlays(store, surface)
    demand_passed(target)
    read_back(store, target)
    lying = overlays.manifests if overlays and overlays.base == path else ()
    showing = (target, *(load_manifest(store, one) for one in lying))
    demand_none_gone(store, showing, {*tombstones, *_tombstones_since(store, None)})
    return target


def read_back(store: Store, manifest: Manifest) -> None:
    """Read a committed dataset as a consumer would: every digest, every row count, and the first records of each file.

    Raises:
      PublishError: naming the file.
    """
    budget = CANARY_ROWS
    for file in manifest.files:
        budget -= _read_file(store, file, manifest, budget)


def _read_file(store: Store, file: DataFile, manifest: Manifest, budget: int) -> int:
    try:
        local = store.local(file.path)
        digest, opened = file_digest(local), pq.ParquetFile(local)
    except (OSError, pa.ArrowInvalid) as error:
        raise PublishError(
            f"read_back: {file.path} cannot be read ({error}). If the set was retired, or the file was deleted, delete"
            f" {manifest.path} and run its date again: it is then made anew."
        ) from error
    if digest != file.sha256 or opened.metadata.num_rows != file.rows:
        raise PublishError(
            f"read_back: {file.path} is not what was committed: {file.rows} rows, sha256 {file.sha256} in the manifest;"
            f" {opened.metadata.num_rows} rows, {digest} on disk. Delete {manifest.path} and run its date again."
        )
    fingerprint = (opened.schema_arrow.metadata or {}).get(b"fingerprint", b"").decode()
    if fingerprint != manifest.fingerprint:
        raise PublishError(
            f"read_back: {file.path} has contract fingerprint {fingerprint!r}, expected {manifest.fingerprint!r}"
        )
    if budget <= 0:
        return 0
    batch = next(opened.iter_batches(batch_size=budget), None)
    if batch is None:
        return 0
    for record in batch.select(["surface", "candidates", "expires_at", "effective_from"]).to_pylist():
        if not record["candidates"] or record["expires_at"] <= record["effective_from"]:
            raise PublishError(f"read_back: {file.path} holds a record that is empty or never valid")
    return batch.num_rows


def retire(store: Store, manifest_path: str) -> None:
    """Delete the data of a set that is no longer kept; its manifest stays, to be read about and never released."""
    manifest = load_manifest(store, manifest_path)
    for file in (*manifest.files, *manifest.rejection_files):
        store.delete(file.path)
