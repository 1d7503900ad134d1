"""Sets of a date beside those of the day before: how much of each listener's stayed."""

import datetime

import numpy as np

from pipelines.recommend import own_and_groups
from pipelines.runner import missing_files
from schemas.manifest import Manifest
from transforms.io.store import Store
from transforms.overlap import kept_shares
from validation.overlap_gates import KEPT_PPM, KEPT_USERS, NOT_COMPARED


def count_kept(store: Store, sets: Manifest, before: Manifest | None) -> dict[str, int]:
    """Return the counters by which `validation.overlap_gates` judges sets by user; why there are none, where there are none.

    Args:
      before: the sets of the last good run; nothing is compared with those of another day than the one before, or of other shards.
    """
    day = (datetime.date.fromisoformat(sets.date) - datetime.timedelta(days=1)).isoformat()
    if before is None or before.date != day or before.num_shards != sets.num_shards or missing_files(store, before):
        return {KEPT_USERS: 0, NOT_COMPARED: 1}
    theirs = {file.shard: file.path for file in own_and_groups(before)[0]}
    ours = {file.shard: file.path for file in own_and_groups(sets)[0]}
    pairs = ((store.local(ours[shard]), store.local(theirs[shard])) for shard in sorted(ours.keys() & theirs.keys()))
    shares = kept_shares(pairs)
    return {KEPT_USERS: len(shares), KEPT_PPM: round(1e6 * float(np.median(shares))) if len(shares) else 0}
