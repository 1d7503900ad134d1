"""Compiling the loops that walk records one at a time.

What is handed from one compiled function to another for every row is numbers and rows of structured arrays: each array handed
over is counted as a reference, which costs as much as what is done with it.
"""

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """Compile once per machine where there is a folder to keep it in; elsewhere once per process, seconds each.

    What is kept is made anew when the file of the function changes: functions that call each other live in one file.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder can be written
        return numba.njit(nogil=True)(function)
