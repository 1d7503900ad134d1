"""A bundle: everything a surface is served from, by digest. Released and rolled back with the sets made from it.

`bundles/<id>/bundle.json` names manifests and copies nothing; it is written once and never changed. Which bundle is live
is said by the surfaces' pointers alone; a label besides says what people decided about one that is not.
"""

import dataclasses
import json

from pipelines.recommend import Served
from pipelines.runner import load_manifest
from schemas.manifest import Manifest
from transforms.io.store import Store
from validation.waivers import verdict

LABELS = ("candidate", "canary", "retired")
LIVE = "live"


class BundleError(RuntimeError):
    """A bundle cannot be served from."""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One dataset or model of a bundle."""

    manifest: str
    digest: str
    bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle consists of.

    Attributes:
      date: the logical date it was made for.
      space_id: of its vectors.
      parts: by the name sources know them by.
      checks: verdict of the checks of every part. `metrics`: of the encoder on held-out data.
    """

    bundle: str
    date: str
    space_id: str
    policy_version: str
    code_version: str
    parts: dict[str, Part]
    checks: dict[str, str]
    metrics: dict[str, float]

    @property
    def bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.bytes for part in self.parts.values())


def bundle_path(bundle: str) -> str:
    """Return where a bundle is described."""
    return f"bundles/{bundle}/bundle.json"


def write_bundle(store: Store, served: Served) -> Bundle:
    """Describe what a road serves from; equal parts, equal bytes."""
    road = served.road
    parts = {name: Part(m.path, m.digest, _bytes(m)) for name, m in served.shared.items()}
    bundle = Bundle(
        bundle=served.bundle_id,
        date=road.day,
        space_id=served.models.encoder.space.id,
        policy_version=road.policy.version,
        code_version=road.code_version,
        parts=parts,
        checks={name: verdict(manifest.checks) for name, manifest in served.shared.items()},
        metrics=served.models.encoder.metrics,
    )
    text = json.dumps(dataclasses.asdict(bundle), indent=1, sort_keys=True) + "\n"
    store.write_bytes(bundle_path(bundle.bundle), text.encode())
    return bundle


def _bytes(manifest: Manifest) -> int:
    return sum(file.bytes for file in (*manifest.files, *manifest.artifacts))


def read_bundle(store: Store, bundle: str) -> Bundle:
    """Read a bundle's description.

    Raises:
      BundleError: there is none of that name, or it cannot be read.
    """
    path = bundle_path(bundle)
    try:
        fields = json.loads(store.read_bytes(path))
        return Bundle(**{**fields, "parts": {name: Part(**part) for name, part in fields["parts"].items()}})
    except FileNotFoundError as error:
        raise BundleError(f"there is no bundle {bundle} under {store.root}; make bundles lists them") from error
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{store.root}/{path} cannot be read ({error}); run its date again") from error


def demand_servable(store: Store, bundle: str) -> Bundle:
    """Return a bundle all of whose parts are what it says, and passed their checks.

    Raises:
      BundleError: naming the part.
    """
    found = read_bundle(store, bundle)
    for name, part in found.parts.items():
        if found.checks[name] != "passed":
            raise BundleError(f"bundle {bundle}: checks of {name} {found.checks[name]}, it cannot be live")
        try:
            manifest = load_manifest(store, part.manifest)
        except FileNotFoundError as error:
            raise BundleError(f"bundle {bundle}: {part.manifest} ({name}) is gone; run its date again") from error
        if manifest.digest != part.digest or verdict(manifest.checks) != "passed":
            raise BundleError(
                f"bundle {bundle}: {name} is {manifest.digest} with checks {verdict(manifest.checks)}, the bundle was"
                f" made with {part.digest}; run its date again"
            )
    return found


def label(store: Store, bundle: str, name: str) -> None:
    """Put a label on a bundle.

    Raises:
      BundleError: no such bundle.
      ValueError: no such label.
    """
    if name not in LABELS:
        raise ValueError(f"labels are {', '.join(LABELS)}; {LIVE} is what a surface's pointer names, came {name!r}")
    read_bundle(store, bundle)
    store.write_bytes(f"bundles/{bundle}/label", name.encode())


def label_of(store: Store, bundle: str, live: set[str]) -> str:
    """Return a bundle's label; `live` are the bundles the pointers name."""
    if bundle in live:
        return LIVE
    try:
        return store.read_bytes(f"bundles/{bundle}/label").decode()
    except FileNotFoundError:
        return LABELS[0]


def list_bundles(store: Store) -> list[Bundle]:
    """Return every bundle, the latest date first."""
    names = [path.split("/")[1] for path in store.list("bundles") if path.endswith("/bundle.json")]
    return sorted((read_bundle(store, name) for name in names), key=lambda one: (one.date, one.bundle), reverse=True)
