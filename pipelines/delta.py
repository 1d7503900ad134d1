"""Deltas: items that changed since the live bundle was made, by the batch road's rules and the bundle's encoder.

    raw items -> ingest -> embed -> one immutable delta -> one pointer, which whoever serves follows

`deltas/<id>/delta.json` names two committed datasets and the bundle they belong to, and is never changed; with another bundle
live it counts no more: that bundle's catalogue is newer.
"""

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Sequence

import polars as pl

from pipelines import embed, ingest
from pipelines.bundle import Bundle, BundleError, Part
from pipelines.embed import Encoder
from pipelines.road import Road, paths
from pipelines.runner import Runner, load_manifest
from schemas.catalogue import CONTRACTS
from schemas.inputs import ITEM
from schemas.manifest import Manifest
from transforms.embed.vectors import ITEMS
from transforms.index.files import ids_digest
from transforms.io.store import Store, demand_digest
from transforms.shards import read_tables
from validation.gates import DELTA

POINTER = "live/deltas.json"
MOST, LEAST_ROWS = 0.1, 1_000
"""Share of a catalogue above which deltas are to be compacted (domain reference, section 8), and rows that are always few."""
Frames = tuple[pl.DataFrame, pl.DataFrame]


class DeltaError(BundleError):
    """What changed since a bundle cannot be served; the bundle can."""


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A delta.

    Attributes:
      parts: `item`, and `item_embedding` where one of the items may be offered.
      ids_digest: of the ids with a vector, in their order.
    """

    delta: str
    bundle: str
    space_id: str
    code_version: str
    ids_digest: str
    parts: dict[str, Part]


def make_delta(runner: Runner, road: Road, raw: Store, bundle: Bundle) -> Segment:
    """Ingest and embed what changed, describe it as one delta of a bundle, and have it served.

    Args:
      road: with the date and the shards of the bundle.

    Raises:
      StageFailed, InputError, UnreadableFile, StoreError, BundleError, ValueError: what was served before is served still.
    """
    store = runner.store
    whenever = dataclasses.replace(road, date=datetime.date.max)  # what has arrived since counts, whenever it did
    read = ingest.ingest_snapshot(whenever, raw, ITEM, required=True)
    items = runner.run(dataclasses.replace(read, date=road.day, qualifier=DELTA))
    before = deltas_of(store, bundle.bundle)
    known = _apart(store, before, items)
    _demand_room(store, bundle, known, items)
    encoder = Encoder(
        *(load_manifest(store, bundle.parts[name].manifest) for name in ("encoder", "encoder_vocabulary"))
    )
    parts = {"item": items}
    if _to_embed(store, items):
        stage = embed.embed(road, store, ITEMS, items, encoder, None)
        parts["item_embedding"] = runner.run(dataclasses.replace(stage, qualifier=DELTA))
    segment = describe(store, bundle, encoder, parts)
    read_segment(store, segment)
    _write(store, f"deltas/{segment.delta}/delta.json", dataclasses.asdict(segment))
    deltas = [one for one in [*before, segment.delta] if one in known or one == segment.delta]
    if (named := list(dict.fromkeys(deltas))) != before:
        _write(store, POINTER, {"bundle": bundle.bundle, "deltas": named})
    return segment


def _apart(store: Store, deltas: Sequence[str], items: Manifest) -> list[str]:
    """Return the deltas made of a raw file that `items` were not read from; for the others these stand now."""
    read = _raw_files(items)
    made_of = {one: load_manifest(store, _described(store, one).parts["item"].manifest) for one in deltas}
    return [one for one, manifest in made_of.items() if not _raw_files(manifest) <= read]


def _raw_files(items: Manifest) -> set[str]:
    return {ref.digest for ref in items.inputs}


def _demand_room(store: Store, bundle: Bundle, known: Sequence[str], items: Manifest) -> None:
    """Refuse what is better served by another batch.

    Raises:
      BundleError: deltas would hold more than `MOST` of the catalogue.
    """
    held = {_described(store, one).parts["item"].manifest for one in known} | {items.path}
    rows, whole = (
        sum(load_manifest(store, path).rows_out for path in paths) for paths in (held, [bundle.parts["item"].manifest])
    )
    if rows > max(LEAST_ROWS, MOST * whole):
        raise BundleError(
            f"deltas of {rows:,} items would lie beside a catalogue of {whole:,}, at most {MOST:.0%} are searched beside it:"
            " run the batch again, which reads them into a catalogue and an index of its own"
        )


def _to_embed(store: Store, items: Manifest) -> int:
    """Count the items that may be offered."""
    rows = pl.scan_parquet([store.local(path) for path in paths(items.files)], hive_partitioning=False)
    return int(rows.filter(ITEMS.where).select(pl.len()).collect(engine="streaming").item())


def describe(store: Store, bundle: Bundle, encoder: Encoder, parts: dict[str, Manifest]) -> Segment:
    """Return the delta of committed parts; equal parts and an equal bundle, an equal name."""
    named = {name: Part(one.path, one.digest, sum(file.bytes for file in one.files)) for name, one in parts.items()}
    ids = [_read(store, one, ["item_id"]) for name, one in parts.items() if name == "item_embedding"]
    lines = [bundle.bundle, *(f"{name} {part.digest}" for name, part in sorted(named.items()))]
    return Segment(
        delta=hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
        bundle=bundle.bundle,
        space_id=encoder.space.id,
        code_version=parts["item"].code_version,
        ids_digest=ids_digest(ids[0]["item_id"].sort() if ids else pl.Series([], dtype=pl.String)),
        parts=named,
    )


def _write(store: Store, path: str, fields: dict) -> None:
    store.write_bytes(path, (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode())


def deltas_of(store: Store, bundle: str) -> list[str]:
    """Return the deltas of a bundle, the oldest first; none where those there are belong to another one.

    Raises:
      DeltaError: what names them cannot be read.
    """
    try:
        fields = json.loads(store.read_bytes(POINTER))
        return list(fields["deltas"]) if fields["bundle"] == bundle else []
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise DeltaError(
            f"{store.root}/{POINTER} names no deltas ({error}): delete it, and run make delta on what changed again"
        ) from error


def open_deltas(store: Store, deltas: Sequence[str]) -> tuple[str, list[Frames]] | None:
    """Return items and vectors of deltas, for `LiveBundle.open`, by the name of all; None of none.

    Raises:
      DeltaError: one is not what was committed; the message names it.
    """
    if not deltas:
        return None
    name = hashlib.sha256("\n".join(deltas).encode()).hexdigest()[:16] if len(deltas) > 1 else deltas[0]
    return name, [read_segment(store, _described(store, one)) for one in deltas]


def _described(store: Store, delta: str) -> Segment:
    path = f"deltas/{delta}/delta.json"
    try:
        fields = json.loads(store.read_bytes(path))
        return Segment(**{**fields, "parts": {name: Part(**part) for name, part in fields["parts"].items()}})
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise _broken(store, delta, f"{path} cannot be read ({error})") from error


def read_segment(store: Store, segment: Segment) -> Frames:
    """Read the items and vectors of a delta.

    Raises:
      DeltaError: they are not what was committed.
    """
    frames = {name: read_tables([], CONTRACTS[name]) for name in ("item", "item_embedding")}
    for name, part in segment.parts.items():
        try:
            frames[name] = _read(store, load_manifest(store, part.manifest), digest=part.digest)
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            raise _broken(store, segment.delta, f"{name}: {error}") from error
    items, vectors = (frames[name].sort("item_id") for name in ("item", "item_embedding"))
    found = ids_digest(vectors["item_id"])
    if found != segment.ids_digest:
        raise _broken(store, segment.delta, f"ids with a vector are {found}, committed were {segment.ids_digest}")
    return items, vectors


def _read(
    store: Store, manifest: Manifest, columns: list[str] | None = None, digest: str | None = None
) -> pl.DataFrame:
    if digest is not None and manifest.digest != digest:
        raise ValueError(f"{manifest.path} is {manifest.digest}, the delta was made with {digest}")
    for file in manifest.files:
        demand_digest(store.local(file.path), file.sha256)
    local = [store.local(path) for path in paths(manifest.files)]
    return read_tables(local, CONTRACTS[manifest.dataset], columns)


def _broken(store: Store, delta: str, why: str) -> DeltaError:
    return DeltaError(
        f"delta {delta}: {why}. Delete {store.root}/{POINTER} and the folder named there, and run make delta on what changed"
        " again"
    )
