"""Which code made this: a digest of the sources that decide what is written."""

import functools
import hashlib
from pathlib import Path

VERSION = "0.1.0"
_FOLDERS = ("schemas", "validation", "transforms", "pipelines")
_SHOWS_ONLY = ("report", "charts", "explain", "reblend", "progress", "backfill", "page", "world", "import")


@functools.cache
def code_version() -> str:
    """Return `<version>+<digest>`; a changed source gives another digest, a changed comment too.

    What only shows results, or makes raw folders, does not count: a new report page leaves what was computed valid.
    """
    root, digest = Path(__file__).resolve().parent.parent, hashlib.sha256()
    for folder in _FOLDERS:
        for path in sorted(root.joinpath(folder).rglob("*.py")):
            if path.name.startswith(_SHOWS_ONLY):
                continue
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return f"{VERSION}+{digest.hexdigest()[:8]}"
