"""Give up nothing of a batch but what work fails on."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from polars.exceptions import PanicException

ATTEMPTS = 3
_T = TypeVar("_T")


def halve(items: Sequence[_T], work: Callable[[Sequence[_T]], None]) -> list[tuple[_T, BaseException]]:
    """Do the work on all items at once, or, where it raises, on halves until what it raises on stands alone.

    Args:
      work: keeps what it came to by itself; where it raises it must have kept nothing. An item alone is tried
        `ATTEMPTS` times.

    Returns:
      The items that failed, in order, each with its last exception.
    """
    for left in reversed(range(ATTEMPTS if len(items) == 1 else 1)):
        try:
            work(items)
            return []
        except (Exception, PanicException) as error:  # whatever a foreign message brings about must not stop the others
            if len(items) == 1 and not left:
                return [(items[0], error)]
    middle = len(items) // 2
    return halve(items[:middle], work) + halve(items[middle:], work)
