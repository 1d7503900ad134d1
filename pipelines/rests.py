"""What sets rest on, from manifests alone: how old the vectors are, and whether an index is of these vectors."""

import datetime
from collections.abc import Sequence

from pipelines.models import Models
from schemas.inputs import ITEM
from schemas.manifest import Manifest, dataset_date
from schemas.models import ITEM_EMBEDDING
from validation.freshness_gates import INDEXES, STRANGE_INDEXES, VECTORS_AGE

HOURS = 24


def count_rests(day: str, catalogue: Manifest, models: Models) -> dict[str, int]:
    """Return the counters of a date's sets by which `validation.freshness_gates` judges them.

    Args:
      catalogue: that the sets are blended with.
    """
    indexes = [models.index] if models.index else []
    own = {models.items.digest}
    strange = [one for one in indexes if {r.digest for r in one.inputs if r.name == ITEM_EMBEDDING.name} != own]
    age = age_hours(day, catalogue, (models.items, models.users, *indexes))
    return {VECTORS_AGE: age, INDEXES: len(indexes), STRANGE_INDEXES: len(strange)}


def age_hours(day: str, catalogue: Manifest, made: Sequence[Manifest]) -> int:
    """Return the hours from the date of the oldest of some datasets to another date; 0 where none is older.

    A catalogue counts where they were made from another one than `catalogue`: one that is delivered unchanged keeps the date on
    which it was first read, and is not old.
    """
    others = [ref for one in made for ref in one.inputs if ref.name == ITEM.name and ref.digest != catalogue.digest]
    dates = [*(one.date for one in made), *(dataset_date(ref.path) for ref in others)]
    days = (datetime.date.fromisoformat(day) - datetime.date.fromisoformat(min(dates))).days
    return HOURS * max(days, 0)
