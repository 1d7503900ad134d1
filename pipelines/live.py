"""What is live on Now Playing, opened to serve sessions from."""

import dataclasses
import datetime
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from pipelines.batch import read_record
from pipelines.bundle import Bundle, BundleError, demand_servable
from pipelines.embed import space_in
from pipelines.publish import Pointer, PublishError, read_pointer
from pipelines.reblend import policy_of
from pipelines.recommend import NOW_PLAYING, SURFACES, asked, own_and_groups, rests_on, whole
from pipelines.runner import load_manifest
from pipelines.version import code_version
from schemas.manifest import Manifest
from schemas.models import Space, SpaceMismatch
from transforms.calibrate import Calibration
from transforms.candidate_sets import Provenance
from transforms.filters import Instant
from transforms.index.files import IndexMismatch
from transforms.io.store import Store, StoreError, open_store
from transforms.model_bundle import ModelBundle
from transforms.shards import Shard, Task
from transforms.stream.live import LiveBundle
from transforms.stream.sessions import Sessions
from transforms.stream.sets import SessionSets

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
        raise BundleError(f"nothing is live on {NOW_PLAYING} under {store.root}: run `make demo` or `make batch` first")
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
    fields: dict[str, object] = {
        "run_id": run,
        "run_mode": "stream",
        "logical_date": datetime.date.fromisoformat(bundle.date),
        "sequence": 0,
        "source_watermark": None,
        "base_run_id": pointer.run,
        "bundle_id": bundle.bundle,
        "catalog_snapshot_id": parts["item"].digest,
        "user_snapshot_id": parts["user"].digest,
        "campaign_snapshot_id": parts["campaign"].digest,
        "policy_version": bundle.policy_version,
        "code_version": code_version(),
        "experiment_arms": [],
        "gate_report_id": f"{NOW_PLAYING}-{bundle.date}-{run}",
    }
    calibration = Calibration.read(shard.paths(f"calibration_{NOW_PLAYING}"))
    return Provenance(fields, rests_on(parts, space.id), calibration=calibration)


_OPENED: dict[tuple[str, str], tuple[Pointer, Sessions]] = {}
_ONE_AT_A_TIME = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class Following:
    """The step of whatever is live, for workers: opened once per process, and again when the pointer names another bundle.

    Attributes:
      folder: local, for the tables of bundles.
    """

    root: str
    folder: str

    def __call__(self) -> Sessions:
        """Return the step of the bundle that is live; where it cannot be opened, the one before goes on serving.

        Raises:
          BundleError: there is none before either.
        """
        store = open_store(self.root)
        with _ONE_AT_A_TIME:
            known = _OPENED.get((self.root, self.folder))
            try:
                pointer = read_pointer(store, NOW_PLAYING)
                if known and pointer == known[0]:
                    return known[1]
                opened = Sessions(open_live(store, Path(self.folder)))
            except (BundleError, PublishError, StoreError, SpaceMismatch, IndexMismatch) as error:
                if known is None:
                    raise
                _LOG.warning("%s; %s goes on serving", error, known[1].bundle)
                return known[1]
            if pointer is not None:
                _OPENED[self.root, self.folder] = (pointer, opened)
            return opened
