"""What is live on a surface, opened to serve from."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from apache_beam.metrics import Metrics

from pipelines.batch import read_record
from pipelines.bundle import Bundle, BundleError, demand_servable
from pipelines.delta import POINTER, DeltaError, deltas_of, open_deltas
from pipelines.embed import space_in
from pipelines.publish import Pointer, pointer_path, read_pointer
from pipelines.reblend import instant_of, policy_of
from pipelines.recommend import HOME, NOW_PLAYING, SURFACES, asked, fields_of, own_and_groups, rests_on, whole
from pipelines.runner import load_manifest
from pipelines.version import code_version
from schemas.candidates import sequence_of
from schemas.manifest import Manifest
from transforms.calibrate import Calibration
from transforms.candidate_sets import Provenance
from transforms.io.store import Altered, Store, StoreError, demand_digest, open_store
from transforms.model_bundle import ModelBundle
from transforms.shards import Shard, Task
from transforms.stream.crew import Crew
from transforms.stream.keyed import sweep_tables
from transforms.stream.live import LOOKED_UP, LiveBundle
from transforms.stream.overlay import HomeSets
from transforms.stream.sessions import Sessions
from transforms.stream.sets import SessionSets
from transforms.stream.step import Step
from transforms.stream.trial import tried

_LOG = logging.getLogger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
"""Between two tries to open a bundle, which takes seconds to minutes."""
BEHIND = "bundle_behind"
_PASSING = (OSError, StoreError, MemoryError, BrokenProcessPool)
_OF_USERS = ("user", "history", "tombstone", "campaign")


@dataclasses.dataclass(frozen=True, slots=True)
class Live:
    """What is live on a surface, and what it was made from; nothing of it is opened.

    Attributes:
      sets: the batch sets. groups: paths of what is proposed to whoever is in a market.
      parts: of the bundle, and what of its date is the users' own. deltas: what changed in its catalogue since.
      sha256: of all files of these, by path.
    """

    pointer: Pointer
    bundle: Bundle
    sets: Manifest
    groups: tuple[str, ...]
    parts: Mapping[str, Manifest]
    deltas: tuple[str, ...]
    sha256: Mapping[str, str]

    @classmethod
    def of(cls, store: Store, pointer: Pointer, deltas: Sequence[str] | None = None) -> "Live":
        """Read what a pointer names.

        Args:
          deltas: to serve with; None: those there are.

        Raises:
          BundleError: a part is gone, or one did not pass its checks.
        """
        if pointer.bundle is None:
            raise BundleError(_nothing_live(store, pointer.surface))
        bundle = demand_servable(store, pointer.bundle)
        sets = load_manifest(store, pointer.manifest)
        proposals = load_manifest(store, next(ref.path for ref in sets.inputs if ref.name == "proposal"))
        named = deltas_of(store, bundle.bundle) if deltas is None else deltas
        parts = _parts(store, bundle)
        files = itertools.chain.from_iterable((*one.files, *one.artifacts) for one in (proposals, *parts.values()))
        sha256 = {file.path: file.sha256 for file in files}
        return cls(pointer, bundle, sets, own_and_groups(proposals)[1], parts, tuple(named), sha256)

    @property
    def sequence(self) -> int:
        """Sequence of the batch sets."""
        return sequence_of(int(self.parts["history"].statistics["columns"]["last_event_ts"]["high"] or 0), 0)

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """Paths of what is opened, by name."""
        return {name: whole(name, manifest) for name, manifest in self.parts.items()} | {"groups": self.groups}

    def demand_unaltered(self, store: Store) -> None:
        """Read what lies in no table of its own, vectors, models and items, and refuse what is not what was committed.

        Tables are checked when they are written (`transforms.stream.keyed`).

        Raises:
          BundleError: names the file.
        """
        read = (path for name, given in self.inputs.items() if name not in LOOKED_UP for path in given)
        with self._said():
            for path in read:
                demand_digest(store.local(path), self.sha256[path])

    def opened(self, store: Store, folder: Path) -> LiveBundle:
        """Open the bundle, whole or not at all; its tables lie in `folder`."""
        space, instant = space_in(self.parts["item_embedding"]), instant_of(self.sets)
        opened = ModelBundle(Shard(Task("live", 0, self.inputs), store), space, instant, code_version())
        with self._said():
            return LiveBundle.open(opened, folder, open_deltas(store, self.deltas), self.sha256)

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except Altered as error:
            raise BundleError(f"bundle {self.bundle.bundle}: {error}; run its date again") from error

    def provenance(self, run: str, calibration: Calibration) -> Provenance:
        """Return what all sets of a bundle share; what each of them knows is stamped on it (`transforms.stream.sets`)."""
        surface, date = self.pointer.surface, self.bundle.date
        fields = fields_of(
            self.bundle, self.parts, run_id=run, run_mode="stream", sequence=0, source_watermark=None,
            base_run_id=self.pointer.run, code_version=code_version(), gate_report_id=f"{surface}-{date}-{run}",
        )  # fmt: skip
        if self.deltas:
            fields |= {"catalog_snapshot_id": f"{fields['catalog_snapshot_id']}+{self.deltas[-1]}"}
        rests = rests_on(self.parts, space_in(self.parts["item_embedding"]).id)
        return Provenance(fields, rests, calibration=calibration)


def live_on(store: Store, surface: str, deltas: Sequence[str] | None = None) -> Live:
    """Read what is live on a surface; `deltas` as in `Live.of`.

    Raises:
      BundleError: nothing is, a part is gone, or one did not pass its checks.
    """
    pointer = read_pointer(store, surface)
    if pointer is None:
        raise BundleError(_nothing_live(store, surface))
    return Live.of(store, pointer, deltas)


def open_live(store: Store, folder: Path, live: Live | None = None) -> SessionSets:
    """Open the bundle that is live on Now Playing, whole or not at all.

    Args:
      folder: local, for the tables of bundles; kept, the next start finds them there. live: read before; None: what is now.

    Raises:
      BundleError: nothing is live, a part is gone, or one did not pass its checks.
    """
    live = live or live_on(store, NOW_PLAYING)
    bundle, policy, surface = live.opened(store, folder), policy_of(live.sets), SURFACES[NOW_PLAYING]
    provenance = live.provenance(f"stream-{live.bundle.bundle}", calibration_of(bundle, NOW_PLAYING))
    return SessionSets(bundle, policy, surface.sources, asked(surface.group_sources, policy), provenance)


def open_home(store: Store, folder: Path, live: Live) -> HomeSets:
    """Open a bundle that is live on Home; see `open_live`."""
    bundle, policy, surface = live.opened(store, folder), policy_of(live.sets), SURFACES[HOME]
    run = f"overlay-{live.pointer.run}"
    provenance = live.provenance(run, calibration_of(bundle, HOME))
    return HomeSets(bundle, policy, surface.sources, asked(surface.group_sources, policy), provenance, live.sequence)


def calibration_of(bundle: LiveBundle, surface: str) -> Calibration:
    """Read the calibration of a surface."""
    return Calibration.read(bundle.shard.paths(f"calibration_{surface}"))


def _nothing_live(store: Store, surface: str) -> str:
    return (
        f"nothing is live on {surface} under {store.root}: run `make demo` or `make batch RAW=... DATE=...` first, or"
        " name another ROOT="
    )


def _parts(store: Store, bundle: Bundle) -> dict[str, Manifest]:
    """Return the parts of a bundle, and what of its date is the users' own.

    Raises:
      BundleError: the road of its date left no record.
    """
    record = read_record(store, bundle.date)
    if record is None:
        raise BundleError(f"the road of {bundle.date} left no record under {store.root}: run its date again")
    own = {name: load_manifest(store, record["manifests"][f"{name}/"]) for name in _OF_USERS}
    return own | {name: load_manifest(store, part.manifest) for name, part in bundle.parts.items()}


def may_pass(error: BaseException) -> bool:
    """Tell whether it may be better later: no room, no memory, a store that does not answer. What is missing stays missing."""
    if isinstance(error, _PASSING):
        return not isinstance(error, FileNotFoundError)
    return error.__cause__ is not None and may_pass(error.__cause__)


@dataclasses.dataclass
class Following:
    """Opens and tries what is live whenever the pointer or the deltas beside it are others.

    What is wrong is not tried twice; what failed for a reason that may pass is, after longer and longer pauses.

    Attributes:
      opens: takes the root, and `deltas=()` where broken ones are to be left out, as a start does that has nothing else to serve.
      clock: s. refused: why deltas were left out, "" where they were not.
      seen: what was live last. serving: what is served, all of it; `served`: whether anything is.
      again_s: when `seen` is tried again, after `pause_s`.
    """

    store: Store
    opens: Callable[..., Step]
    clock: Callable[[], float] = time.monotonic
    refused: str = ""
    seen: bytes = b""
    serving: bytes = b""
    served: bool = False
    again_s: float = math.inf
    pause_s: float = 0.0

    @property
    def behind(self) -> bool:
        """Whether what is live is not what is served."""
        return self.seen != self.serving

    def __call__(self) -> Step | None:
        """Return the step of another pointer than before, None while it stands or is not to be tried.

        Raises:
          BundleError: nothing is live yet.
        """
        try:
            found = self.store.read_bytes(pointer_path(NOW_PLAYING)) + self._deltas()
        except FileNotFoundError:
            raise BundleError(_nothing_live(self.store, NOW_PLAYING)) from None
        if found == self.serving or (found == self.seen and self.clock() < self.again_s):
            self.seen = found
            return None
        if found != self.seen:
            self.pause_s = 0.0
        self.seen, self.again_s, self.refused = found, math.inf, ""
        try:
            step = tried(self._opened())
        except Exception as error:
            self._put_off(error)
            raise
        self.serving, self.served = b"" if self.refused else found, True
        return step

    def _opened(self) -> Step:
        try:
            return self.opens(self.store.root)
        except DeltaError as error:
            if self.served:
                raise
            self.refused = str(error)
            self._put_off(error)
            return self.opens(self.store.root, deltas=())

    def _put_off(self, error: Exception) -> None:
        """Have another try after a pause, where that may help."""
        if may_pass(error):
            self.pause_s = min(max(2 * self.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self.again_s = self.clock() + self.pause_s

    def _deltas(self) -> bytes:
        return self.store.read_bytes(POINTER) if self.store.exists(POINTER) else b""


_SERVED: dict["Serving", tuple[Following, Step]] = {}
_ONE_AT_A_TIME = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class Serving:
    """The step of whatever is live, for workers: one per process.

    Attributes:
      folder: local, for the tables of bundles.
    """

    root: str
    folder: str

    def __call__(self) -> Step:
        """Return the step of the bundle that is live; where that cannot be opened, the one before goes on serving.

        The counter `bundle_behind` grows with every call meanwhile.

        Raises:
          BundleError: there is none before either.
        """
        with _ONE_AT_A_TIME:
            following, serving = _SERVED.get(self, (Following(open_store(self.root), self._open), None))
            try:
                step = following() or serving
                if following.behind:
                    Metrics.counter("stream", BEHIND).inc()
                if serving is None and following.refused:
                    _LOG.warning("serving without what changed since %s: %s", step and step.bundle, following.refused)
            except Exception as error:  # whatever is wrong with the new one
                if serving is None:
                    raise
                Metrics.counter("stream", BEHIND).inc()
                _LOG.warning("%s; %s goes on serving", error, serving.bundle)
                return serving
            assert step is not None
            _SERVED[self] = (following, step)
            return step

    def _open(self, root: str, deltas: Sequence[str] | None = None) -> Step:
        return open_sessions(root, Path(self.folder), deltas=deltas)


def open_sessions(root: str, folder: Path, processes: int = 1, deltas: Sequence[str] | None = None) -> Step:
    """Return the step of what is live, whose sets are made by so many processes of this machine; see `open_live`, `Live.of`.

    Tables in `folder` that are open on no bundle of this process are deleted then.
    """
    store = open_store(root)
    live = live_on(store, NOW_PLAYING, deltas)
    live.demand_unaltered(store)
    opens = functools.partial(_opened, root, folder, live)
    crew = Crew.of(opens(), opens, processes)
    sweep_tables(folder)
    return crew


def _opened(root: str, folder: Path, live: Live) -> Step:
    return Sessions(open_live(open_store(root), folder, live))
