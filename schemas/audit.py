"""What a scan for tombstones writes: what was looked at, and what was found in it."""

import pyarrow as pa

from schemas.contract import Contract, column
from schemas.rules import Between, MaxLength, OneOf, Required

LIVE, KEPT, BEHIND = "live", "kept", "behind"

_COUNT = (Between(0, 1e15),)
TOMBSTONE_SCAN = Contract(
    name="tombstone_scan",
    version="1.0.0",
    owner="segue-trust",
    description="Proof of what was searched for what must disappear, and how often it was found. It names nobody. A row "
    "describes files: it has no lineage by column.",
    key=("task",),
    shard_by=None,
    schema=pa.schema(
        [
            column("logical_date", pa.date32(), "Tombstones that took effect by its end count."),
            column("reached", pa.string(), "live: what is shown; kept: what a rollback would show; behind: what it was made from.",
                   rules=(OneOf((LIVE, KEPT, BEHIND)),)),
            column("dataset", pa.string(), "What was searched.", rules=(Required(), MaxLength(100))),
            column("qualifier", pa.string(), "Its surface; - where it has none.", rules=(Required(), MaxLength(100))),
            column("task", pa.string(), "Which part of it.", rules=(Required(),)),
            column("files", pa.int64(), "Files that were read.", rules=_COUNT),
            column("user_hits", pa.int64(), "Rows of users who are erased.", rules=_COUNT),
            column("item_hits", pa.int64(), "Slots and seeds of items that were taken down.", rules=_COUNT),
            column("overdue_hits", pa.int64(), "Those of both that should have been gone for 30 days.", rules=_COUNT),
        ]
    ),
)  # fmt: skip
