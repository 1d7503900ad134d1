"""A bundle: everything a surface is served from, by digest. Released and rolled back with the sets made from it.

`bundles/<id>/bundle.json` names manifests and copies nothing; it is written once and never changed. Which bundle is live
is said by the surfaces' pointers alone; a label besides says what people decided about one that is not.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

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
      space_id: of its vectors; empty where it has none.
      parts: by the name sources know them by.
      checks: verdict of the checks of every part. `metrics`: of its models on held-out data.
    """

    bundle: str
    date: str
    space_id: str
    policy_version: str
    code_version: str
    parts: dict[str, Part]
    checks: dict[str, str]
    metrics: dict[str, float]

    @classmethod
    def of(cls, parts: Mapping[str, Manifest], *, metrics: Mapping[str, float], **known: str) -> "Bundle":
        """Return the bundle of committed parts; its name is the digest of them and of how they are used.

        Args:
          known: `date`, `space_id`, `policy_version`, `code_version`.
        """
        lines = [known["date"], known["policy_version"], known["code_version"]]
        lines += [f"{name} {manifest.digest}" for name, manifest in sorted(parts.items())]
        return cls(
            bundle=hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
            parts={name: Part(one.path, one.digest, _bytes(one)) for name, one in sorted(parts.items())},
            checks={name: verdict(one.checks) for name, one in sorted(parts.items())},
            metrics=dict(metrics),
            **known,
        )

    @property
    def bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.bytes for part in self.parts.values())


def bundle_path(bundle: str) -> str:
    """Return where a bundle is described."""
    return f"bundles/{bundle}/bundle.json"


def write_bundle(store: Store, bundle: Bundle) -> None:
    """Describe a bundle; equal parts, equal bytes."""
    text = json.dumps(dataclasses.asdict(bundle), indent=1, sort_keys=True) + "\n"
    store.write_bytes(bundle_path(bundle.bundle), text.encode())


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
