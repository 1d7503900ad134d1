"""Temporary files, named so that what a killed run left behind can be told apart and swept away."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

PREFIX = "segue-tmp-"
CACHE = "segue-cache-"
KEPT_S = 86_400
"""A temporary file lives for seconds, a fetched copy for a stage; what is a day old, nobody waits for."""


def cache_folder() -> str:
    """Return this user's folder for copies of remote files."""
    return os.path.join(tempfile.gettempdir(), f"{CACHE}{os.getuid()}")


def sweep(tops: Iterable[Path] | None = None) -> int:
    """Delete temporary files and fetched copies of this user that are older than `KEPT_S`; return how many.

    Args:
      tops: files and folders to look at; None: all there are.

    The age is by the clock of the file system: a run whose own is ahead takes nothing from one at work beside it.
    """
    with tempfile.TemporaryFile() as just_now:
        before = os.fstat(just_now.fileno()).st_mtime - KEPT_S
    every = [Path(cache_folder()), *Path(tempfile.gettempdir()).glob(f"{PREFIX}*")]
    return sum(_sweep(top, before) for top in (every if tops is None else tops))


def _sweep(top: Path, before: float) -> int:
    """Sweep a file, or a folder from below; a link is a file, and what another user owns is left alone."""
    try:
        found = top.lstat()
        if found.st_uid != os.getuid():
            return 0
        if stat.S_ISDIR(found.st_mode):
            removed = sum(_sweep(path, before) for path in top.iterdir())
            if found.st_mtime < before:  # a run beside this one may just have made it, to write into
                with contextlib.suppress(OSError):  # something in it is kept, or another run was here first
                    top.rmdir()
            return removed
        if found.st_mtime >= before:
            return 0
        top.unlink()
    except FileNotFoundError:  # another run was here first
        return 0
    return 1
