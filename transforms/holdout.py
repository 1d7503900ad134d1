"""Holdout: listeners whose sets follow no taste, as the reference that what others are offered is compared with.

Without them, whatever is learnt from plays is learnt from what was recommended before (domain reference, section 6).
"""

import numpy as np
import polars as pl

from schemas.hashing import hash64, hash64_one, mix64, unit_interval
from schemas.policy import SurfacePolicy

HELD_OUT = "holdout"
"""Why the sets of a listener are charts, in their `degraded_reasons`."""


def held_out(users: pl.Series, policy: SurfacePolicy) -> pl.Series:
    """Tell which listeners are held out: the share of the policy, by a hash of the id alone; a larger share holds them too."""
    if not policy.holdout:
        return pl.Series(HELD_OUT, np.zeros(len(users), np.bool_))
    seed = np.full(len(users), hash64_one(HELD_OUT), np.uint64)
    return pl.Series(HELD_OUT, unit_interval(mix64(hash64(users.to_arrow()), seed)) < policy.holdout)
