"""Overlay: Home sets of whoever listened since the batch, made of what the stream keeps of them, beside the batch sets.

    states of the stream -> windows that are news -> sets, checked and committed -> broker -> one pointer

A set is a function of a window and of what is live, so that whatever is done twice has the same bytes. The pointer moves last:
a run that was killed is made good by the next one.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.live import Live, live_on, open_home
from pipelines.publish import (
    Overlays,
    Pointer,
    PublishError,
    overlays_path,
    pointer_path,
    read_back,
    read_overlays,
    read_pointer,
)
from pipelines.reblend import instant_of, policy_of
from pipelines.recommend import HOME, count_eligible
from pipelines.road import process
from pipelines.runner import Runner, Stage, input_ref, load_manifest
from schemas.candidates import CANDIDATE_SET, COUNT_BITS
from schemas.hashing import hash64, mix64, shard_of
from schemas.inputs import TOMBSTONE
from schemas.manifest import InputRef, Manifest
from transforms.candidate_sets import concatenate
from transforms.io.broker import SETS, Broker
from transforms.io.state_store import read_states, read_tombstones
from transforms.io.store import Store, file_digest, open_store
from transforms.io.tables import conform, write_parquet
from transforms.io.temporary import PREFIX
from transforms.recommend import added
from transforms.shards import Output, Shard, Task
from transforms.stream.messages import encode_sets
from transforms.stream.overlay import HomeSets, goes_on
from transforms.stream.session import Window, WindowError

OVERLAY = f"{HOME}_overlay"
BLOCK, SENT_AT_ONCE = 2_000, 256
_EXPORT = f"staging/windows-{HOME}"
_WINDOWS = pa.schema([pa.field("user_id", pa.string()), pa.field("state", pa.binary())])
_ONE_AT_A_TIME = threading.Lock()


def live_overlays(store: Store, live: str) -> tuple[str, ...]:
    """Return the manifests of the overlays of Home's live sets, the oldest first.

    Args:
      live: manifest of those.
    """
    found = read_overlays(store, HOME)
    return found.manifests if found and found.base == live else ()


@dataclasses.dataclass(frozen=True, slots=True)
class Overlaid:
    """What became of a run.

    Attributes:
      asked: listeners whose windows are news. sets: None where there were none. unreadable: listeners whose windows are damaged or
        of another version, and who keep the sets they have.
    """

    live: Live
    asked: int
    sets: Manifest | None
    unreadable: "Unreadable"


@dataclasses.dataclass
class Unreadable:
    """How many windows could not be read, and why the first of them."""

    windows: int = 0
    why: str = ""


def overlay_home(runner: Runner, state: Path, tables: Path, broker: Broker) -> Overlaid:
    """Make, check, commit and publish sets of whoever listened since the batch, or since the last overlay.

    Args:
      state: of the stream. tables: local folder for the tables of bundles.

    Raises:
      BundleError, StageFailed, StoreError, BrokerError, BrokerDown, PublishError: what was live stays live.
    """
    store = runner.store
    live = live_on(store, HOME)
    live.demand_unaltered(store)
    _retire_others(store, live.pointer)
    before = [load_manifest(store, path) for path in live_overlays(store, live.pointer.manifest)]
    unreadable = Unreadable()
    files = export(store, state, live, before, unreadable)
    if not files:
        return Overlaid(live, 0, None, unreadable)
    buried = _export_tombstones(store, state)
    sets = runner.run(overlay(live, files, buried, OverlayShard(store.root, str(tables), live.pointer, live.deltas)))
    store.delete(_EXPORT)
    release(store, live.pointer, sets, broker)
    return Overlaid(live, sum(file.rows for file in files), sets, unreadable)


def overlay(live: Live, files: Sequence["Exported"], buried: "Exported", work: "OverlayShard") -> Stage:
    """Return the stage that makes sets of windows."""
    own = [input_ref(live.sets, "base"), *(input_ref(manifest, name) for name, manifest in live.parts.items())]
    raw = [InputRef("raw_window", file.path, file.digest, file.rows) for file in files]
    return Stage(
        name="overlay",
        qualifier=OVERLAY,
        contract=CANDIDATE_SET,
        date=live.bundle.date,
        inputs=(*own, *raw, InputRef("raw_tombstone", buried.path, buried.digest, buried.rows)),
        tasks=tuple(
            Task(f"{file.shard:05d}", file.shard, {"window": (file.path,), TOMBSTONE.name: (buried.path,)})
            for file in files
        ),
        transform=functools.partial(process, work=work),
        num_parts=len(files),
        num_shards=live.sets.num_shards,
        config={
            "policy": dataclasses.asdict(policy_of(live.sets)), "run_mode": "stream", "bundle": live.bundle.bundle,
            "base_run": live.pointer.run, "deltas": list(live.deltas),
        },
        figures=functools.partial(count_eligible, items=live.parts["item"]),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class OverlayShard:
    """Make the sets of one shard's windows. Memory: a bundle per process, `BLOCK` windows, the shard's finished sets.

    Attributes:
      folder: local, for the tables of bundles. pointer, deltas: what was live when the run began.
    """

    root: str
    folder: str
    pointer: Pointer
    deltas: tuple[str, ...]

    def __call__(self, shard: Shard) -> Output:
        with _ONE_AT_A_TIME:  # tasks in threads of one process would each open their own
            home = _opened(self.root, self.folder, self.pointer, self.deltas)
        home = home.without(shard.read(TOMBSTONE.name))
        made, asked = [], []
        for rows in _blocks(shard.paths("window")):
            windows = {user: Window.from_bytes(state) for user, state in rows.iter_rows()}
            made.append(home(windows))
            asked.append(_asked(rows["user_id"], [window.sequence for window in windows.values()]))
        known = np.sort(np.concatenate(asked)).astype("<u8").tobytes()
        counters = added(one.counters for one in made)
        return Output(
            concatenate([one.sets for one in made]), sum(map(len, asked)), counters=counters,
            artifacts={f"asked-{shard.task.name}.u64": known},
        )  # fmt: skip


@functools.lru_cache(maxsize=1)
def _opened(root: str, folder: str, pointer: Pointer, deltas: tuple[str, ...]) -> HomeSets:
    store = open_store(root)
    return open_home(store, Path(folder), Live.of(store, pointer, deltas))


def _blocks(paths: Sequence[str]) -> Iterator[pl.DataFrame]:
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=BLOCK):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame


def _asked(users: pl.Series, sequences: Sequence[int]) -> np.ndarray:
    """Return a hash of each listener's window, `(num_users,) uint64`."""
    return mix64(hash64(users.to_arrow()), np.array(sequences, np.uint64))


@dataclasses.dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written for one run."""

    path: str
    shard: int
    digest: str
    rows: int


def export(store: Store, state: Path, live: Live, before: Sequence[Manifest], unreadable: Unreadable) -> list[Exported]:
    """Write the windows of one moment that are news, by shard of their listeners, and say what was written.

    Memory: 8 bytes for every window that earlier overlays of the same base were asked about, and `BLOCK` windows.

    Args:
      unreadable: counts the windows that are left out.

    Raises:
      StoreError: no stream has kept its state there.
    """
    known = np.sort(np.concatenate([np.empty(0, np.uint64), *(_read_asked(store, one) for one in before)]))
    shards, written = live.sets.num_shards, dict[int, int]()
    store.delete(_EXPORT)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, contextlib.ExitStack() as held:
        writers: dict[int, pq.ParquetWriter] = {}
        for rows in _news(read_states(state, live.sequence >> COUNT_BITS), known, live, unreadable):
            of_shard = shard_of(rows["user_id"].to_arrow(), shards)
            for shard in np.unique(of_shard).tolist():
                if shard not in writers:
                    writers[shard] = held.enter_context(pq.ParquetWriter(f"{folder}/{shard}", _WINDOWS))
                mine = rows.filter(pl.Series(of_shard == shard))
                writers[shard].write_table(mine.to_arrow().cast(_WINDOWS))
                written[shard] = written.get(shard, 0) + mine.height
        held.close()
        return [_put(store, f"{folder}/{n}", f"part-{n:05d}.parquet", n, rows) for n, rows in sorted(written.items())]


def _news(
    states: Iterable[tuple[str, bytes]], known: np.ndarray, live: Live, unreadable: Unreadable
) -> Iterator[pl.DataFrame]:
    """Yield `user_id` and `state` of windows that go on and were not asked about yet, some at a time."""
    base, until = live.sequence, instant_of(live.sets).expires_at
    left = iter(states)
    while some := list(itertools.islice(left, BLOCK)):
        windows = _read(some, unreadable)
        told = {user: window.sequence for user, window in windows.items() if goes_on(window, base, until)}
        rows = pl.DataFrame(some, schema={"user_id": pl.String, "state": pl.Binary}, orient="row")
        newer = rows.filter(pl.col("user_id").is_in(list(told)))
        new = ~np.isin(_asked(newer["user_id"], [told[user] for user in newer["user_id"]]), known)
        yield newer.filter(pl.Series(new))


def _read(states: Iterable[tuple[str, bytes]], unreadable: Unreadable) -> dict[str, Window]:
    found = {}
    for user, state in states:
        try:
            found[user] = Window.from_bytes(state)
        except WindowError as error:
            unreadable.windows += 1
            unreadable.why = unreadable.why or f"of {user}: {error}"
    return found


def _read_asked(store: Store, sets: Manifest) -> np.ndarray:
    return np.concatenate([np.frombuffer(store.read_bytes(one.path), "<u8") for one in sets.artifacts])


def _export_tombstones(store: Store, state: Path) -> Exported:
    """Write what the stream was told must disappear."""
    buried = read_tombstones(state)
    return _put(store, write_parquet(conform(buried, TOMBSTONE)), "tombstones.parquet", 0, buried.height)


def _put(store: Store, local: str, name: str, shard: int, rows: int) -> Exported:
    digest = file_digest(local)
    store.put(local, f"{_EXPORT}/{name}")
    return Exported(f"{_EXPORT}/{name}", shard, digest, rows)


def release(store: Store, base: Pointer, sets: Manifest, broker: Broker) -> None:
    """Publish an overlay: read it back, send it, then name it.

    Raises:
      PublishError: its checks did not pass, it is not what was committed, or its base is not live any more.
    """
    failed = [c.name for c in sets.checks if c.severity == "critical" and c.outcome not in ("passed", "waived")]
    if failed or not sets.checks:
        raise PublishError(f"{sets.path}: critical checks did not pass: {', '.join(failed) or 'none is recorded'}")
    read_back(store, sets)
    live = read_pointer(store, base.surface)
    if live is None or live.manifest != base.manifest:
        raise PublishError(
            f"{pointer_path(base.surface)} named {base.manifest} when the overlay was begun and names"
            f" {live and live.manifest} now: nothing of it was published; run it again"
        )
    for file in sets.files:
        for batch in pq.ParquetFile(store.local(file.path)).iter_batches(batch_size=SENT_AT_ONCE):
            broker.publish(SETS, encode_sets(pa.Table.from_batches([batch]), {}))
    known = live_overlays(store, live.manifest)
    named = Overlays(base.manifest, (*(path for path in known if path != sets.path), sets.path))
    text = json.dumps(dataclasses.asdict(named), indent=1, sort_keys=True) + "\n"
    store.write_bytes(overlays_path(base.surface), text.encode())


def _retire_others(store: Store, live: Pointer) -> None:
    """Delete the overlays of batch sets that are not live any more: a listener's next one lies on those that are."""
    found = read_overlays(store, live.surface)
    if found is None or found.base == live.manifest:
        return
    for path in found.manifests:  # with its manifest: after a rollback to that base they are made anew
        store.delete(path.removesuffix("/manifest.json"))
    store.delete(overlays_path(live.surface))
