"""What the small published road of the tests consists of."""

import datetime
from pathlib import Path
from typing import NamedTuple


class SmallRoad(NamedTuple):
    """A published root to read from; a test that changes it copies it first (`copy_road`)."""

    root: Path
    raw: Path
    date: datetime.date
    policy: Path
