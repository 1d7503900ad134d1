"""What is live on Now Playing, opened to serve sessions from."""

import dataclasses
import datetime
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from pipelines.batch import read_record
from pipelines.bundle import Bundle, BundleError, demand_servable
from pipelines.embed import space_in
from pipelines.publish import Pointer, pointer_path, read_pointer
from pipelines.reblend import policy_of
from pipelines.recommend import NOW_PLAYING, SURFACES, asked, fields_of, own_and_groups, rests_on, whole
from pipelines.runner import load_manifest
from pipelines.version import code_version
from schemas.manifest import Manifest
from schemas.models import Space
from transforms.calibrate import Calibration
from transforms.candidate_sets import Provenance
from transforms.filters import Instant
from transforms.io.store import Store, open_store
from transforms.model_bundle import ModelBundle
from transforms.shards import Shard, Task
from transforms.stream.live import LiveBundle
from transforms.stream.sessions import Sessions
from transforms.stream.sets import SessionSets
from transforms.stream.step import Step
from transforms.stream.trial import tried

_LOG = logging.getLogger(__name__)
_OF_USERS = ("user", "history", "tombstone", "campaign")


def open_live(store: Store, folder: Path) -> SessionSets:
    """Open the bundle that is live, whole or not at all.

    Args:
      folder: local, for the tables of bundles; kept, the next start finds them there.

    Raises:
      BundleError: nothing is live, a part is gone, or one did not pass its checks.
    """
    pointer = read_pointer(store, NOW_PLAYING)
    if pointer is None or pointer.bundle is None:
        raise BundleError(_nothing_live(store))
    bundle = demand_servable(store, pointer.bundle)
    parts = _parts(store, bundle)
    sets = load_manifest(store, pointer.manifest)
    proposals = load_manifest(store, next(ref.path for ref in sets.inputs if ref.name == "proposal"))
    policy = policy_of(sets)
    date = datetime.date.fromisoformat(bundle.date)
    inputs = {name: whole(name, manifest) for name, manifest in parts.items()} | {
        "groups": own_and_groups(proposals)[1]
    }
    space = space_in(parts["item_embedding"])
    opened = ModelBundle(Shard(Task("live", 0, inputs), store), space, Instant.of(date, policy), code_version())
    surface = SURFACES[NOW_PLAYING]
    return SessionSets(
        LiveBundle.open(opened, folder),
        policy,
        surface.sources,
        asked(surface.group_sources, policy),
        _provenance(bundle, pointer, parts, opened.shard, space),
    )


def _nothing_live(store: Store) -> str:
    return (
        f"nothing is live on {NOW_PLAYING} under {store.root}: run `make demo` or `make batch RAW=... DATE=...` first, or"
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


def _provenance(
    bundle: Bundle, pointer: Pointer, parts: Mapping[str, Manifest], shard: Shard, space: Space
) -> Provenance:
    """Return what all sets of a bundle share; what each of them knows is stamped on it (`transforms.stream.sets`)."""
    run = f"stream-{bundle.bundle}"
    fields = fields_of(
        bundle, parts, run_id=run, run_mode="stream", sequence=0, source_watermark=None, base_run_id=pointer.run,
        code_version=code_version(), gate_report_id=f"{NOW_PLAYING}-{bundle.date}-{run}",
    )  # fmt: skip
    calibration = Calibration.read(shard.paths(f"calibration_{NOW_PLAYING}"))
    return Provenance(fields, rests_on(parts, space.id), calibration=calibration)


@dataclasses.dataclass
class Following:
    """Opens and tries what the live pointer names whenever it names another; one that is refused is not tried twice."""

    store: Store
    opens: Callable[[str], Step]
    seen: bytes = b""

    def __call__(self) -> Step | None:
        """Return the step of another pointer than before, None while it stands.

        Raises:
          BundleError: nothing is live yet.
        """
        try:
            found = self.store.read_bytes(pointer_path(NOW_PLAYING))
        except FileNotFoundError:
            raise BundleError(_nothing_live(self.store)) from None
        if found == self.seen:
            return None
        self.seen = found
        return tried(self.opens(self.store.root))


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

        Raises:
          BundleError: there is none before either.
        """
        with _ONE_AT_A_TIME:
            following, serving = _SERVED.get(self, (Following(open_store(self.root), self._open), None))
            try:
                step = following() or serving
            except Exception as error:  # whatever is wrong with the new one
                if serving is None:
                    raise
                _LOG.warning("%s; %s goes on serving", error, serving.bundle)
                return serving
            assert step is not None
            _SERVED[self] = (following, step)
            return step

    def _open(self, root: str) -> Step:
        return open_sessions(root, Path(self.folder))


def open_sessions(root: str, folder: Path) -> Step:
    """Return the step of what is live; see `open_live`."""
    return Sessions(open_live(open_store(root), folder))
