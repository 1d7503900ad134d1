"""Compiling the loops that walk records one at a time.

What is handed from one compiled function to another for every row is numbers and rows of structured arrays: each array handed
over is counted as a reference, which costs as much as what is done with it.
"""

from collections.abc import Callable, Collection
from typing import Any

import numba
import numpy as np


def compiled(function: Callable, fastmath: Collection[str] = ()) -> Callable:
    """Compile once per machine where there is a folder to keep it in; elsewhere once per process, seconds each.

    What is kept is made anew when the file of the function changes, or a constant that it uses: functions that call each other
    live in one file.

    Args:
      fastmath: what else may be done to sums of floats than is written, by LLVM's names; nothing, unless said.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath)}
    try:
        made: Any = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written
        return numba.njit(**options)(function)
    kept = made._cache._cache_file
    kept._source_stamp = (kept._source_stamp, _frozen(function))
    return made


def _frozen(function: Callable) -> list[tuple[str, str]]:
    """Return the constants that compiling writes into the code; of imported ones numba's own stamp, the file, says nothing."""
    known, constant = function.__globals__, (bool, int, float, str, tuple, np.dtype)
    used = {name: known[name] for name in sorted(function.__code__.co_names) if name in known}
    return [(name, repr(value)) for name, value in used.items() if isinstance(value, constant)]
