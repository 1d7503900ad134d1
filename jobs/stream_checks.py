"""Check each minute of a stream's sets: `python -m jobs.stream_checks --root ROOT --folder FOLDER`, started by `make stream`.

It ends when its standard input does, which is when the stream ends, however that ends.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jobs.batch import guarded
from jobs.options import leave
from pipelines.version import code_version
from transforms.io.store import open_store
from transforms.stream.spool import forget_tries

_LOOK_S, _NICE = 1.0, 10


def main(argv: Sequence[str] | None = None) -> int:
    """Check until the standard input ends; 1 when it could not go on, 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="jobs.stream_checks", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--root", required=True, help="folder or gs:// address the page is written under")
    parser.add_argument("--folder", required=True, type=Path, help="where the stream puts its minutes")
    options = parser.parse_args(argv)
    os.nice(_NICE)  # the stream goes first
    threading.Thread(target=_end_with_input, args=(options.folder,), name="input", daemon=True).start()
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> NoReturn:
    from pipelines.stream_checks import work  # takes seconds, in which the stream may end

    work(options.folder, open_store(options.root), code_version(), lambda: time.sleep(_LOOK_S))


def _end_with_input(folder: Path) -> None:
    """Leave when nobody is at the other end any more: a check that is cut off begins anew."""
    sys.stdin.buffer.read()
    forget_tries(folder)
    os._exit(0)


if __name__ == "__main__":
    leave(main())
