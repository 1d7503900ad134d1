"""Arms: who is held out and who is not, and how often each is offered every item, as sums that add up over items."""

import numpy as np
import polars as pl

from transforms.candidate_sets import NOT_PERSONAL
from transforms.holdout import HELD_OUT as REASON
from validation.arm_gates import ARMS, HELD_OUT, OFFERED, OFFERED_MILLIBITS, OTHERS


def arms() -> list[pl.Expr]:
    """Tell of sets by their `degraded_reasons` in which arm they are; without a history to learn from they are in neither."""
    why = pl.col("degraded_reasons").list
    listens = ~pl.any_horizontal(why.contains(pl.lit(reason)) for reason in NOT_PERSONAL if reason != REASON)
    held = why.contains(pl.lit(REASON))
    return [(listens & ~held).alias(OTHERS), (listens & held).alias(HELD_OUT)]


def count_offered(items: pl.DataFrame) -> dict[str, int]:
    """Return the counters of `validation.arm_gates` of some items; those of different items add up.

    Rounded by item, so that no order of items changes a bit of them.

    Args:
      items: one row per item, with the slots of each of `ARMS`.
    """
    found: dict[str, int] = {}
    for arm in ARMS:
        slots = items[arm].to_numpy().astype(np.float64)
        bits = np.rint(1000 * slots * np.log2(np.maximum(slots, 1)))
        found |= {OFFERED + arm: int(slots.sum()), OFFERED_MILLIBITS + arm: int(bits.astype(np.int64).sum())}
    return found
