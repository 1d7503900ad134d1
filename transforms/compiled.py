"""Compiling the loops that walk records one at a time.

What is handed from one compiled function to another for every row is numbers and rows of structured arrays: each array handed
over is counted as a reference, which costs as much as what is done with it.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

AT_ONCE = 64
"""Integers that `reaching` compares."""


def compiled(function: Callable, fastmath: Collection[str] = ()) -> Callable:
    """Compile once per machine where there is a folder to keep it in; elsewhere once per process, seconds each.

    What is kept is made anew when the file of the function changes, this one, or a constant that it uses: functions that call each
    other live in one file.

    Args:
      fastmath: what else may be done to sums of floats than is written, by LLVM's names; nothing, unless said.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath)}
    try:
        made: Any = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written
        return numba.njit(**options)(function)
    kept = made._cache._cache_file
    kept._source_stamp = (kept._source_stamp, _frozen(function), Path(__file__).stat().st_mtime_ns)
    return made


def _frozen(function: Callable) -> list[tuple[str, str]]:
    """Return the constants that compiling writes into the code; of imported ones numba's own stamp, the file, says nothing."""
    known, constant = function.__globals__, (bool, int, float, str, tuple, np.dtype)
    used = {name: known[name] for name in sorted(function.__code__.co_names) if name in known}
    return [(name, repr(value)) for name, value in used.items() if isinstance(value, constant)]


def _reaching(context, numbers, first, least):
    """Return a uint64 with a bit for each of `AT_ONCE` integers that is `least` or more, the lowest for the first of them.

    Said in vectors, as LLVM makes one comparison and one move of bits of it; of a loop that sets bit after bit it makes none.

    Args:
      numbers: integers, contiguous, of any shape. first: place of the first of them among all; that there are `AT_ONCE` is not
        checked.
    """

    def lines(compiler, builder, signature, given):
        array = compiler.make_array(signature.args[0])(compiler, builder, given[0])
        number = compiler.get_data_type(signature.args[0].dtype)
        vector, index = ir.VectorType(number, AT_ONCE), ir.VectorType(ir.IntType(32), AT_ONCE)
        some = builder.load(
            builder.bitcast(builder.gep(array.data, [given[1]]), vector.as_pointer()), align=number.width // 8
        )
        nothing, none = ir.Constant(vector, ir.Undefined), ir.Constant(index, [0] * AT_ONCE)
        each = builder.shuffle_vector(
            builder.insert_element(nothing, given[2], ir.Constant(ir.IntType(32), 0)), nothing, none
        )
        return builder.bitcast(builder.icmp_signed(">=", some, each), ir.IntType(AT_ONCE))

    return types.uint64(numbers, types.intp, numbers.dtype), lines


reaching: Any = intrinsic(_reaching)


def _lowest(context, bits):
    """Return the place of the lowest bit of a uint64 that is not 0."""

    def lines(compiler, builder, signature, given):
        return builder.cttz(given[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), lines


lowest: Any = intrinsic(_lowest)
