"""What the small published road of the tests consists of."""

import dataclasses
import datetime
from pathlib import Path
from typing import NamedTuple

from pipelines.embed import Encoder
from pipelines.models import Models
from pipelines.recommend import Served, Tables
from pipelines.road import Ingested, Road
from schemas.manifest import Manifest


class SmallRoad(NamedTuple):
    """A published root to read from; a test that changes it copies it first (`copy_road`)."""

    root: Path
    raw: Path
    date: datetime.date
    policy: Path


def served(road: Road, made: dict[str, Manifest], built: Manifest | None) -> Served:
    """Return what the surfaces of a road are served from, without calibrations.

    Args:
      made: by `dataset/qualifier`. built: an index.
    """
    one = {"histories": "history", "events": "event", "items": "item", "users": "user", "campaigns": "campaign"}
    one["tombstones"] = "tombstone"
    tables, ingested = (
        group(**{field.name: made[f"{one.get(field.name, field.name)}/"] for field in dataclasses.fields(group)})
        for group in (Tables, Ingested)
    )
    encoder = Encoder(made["training/encoder"], made["vocabulary/"])
    vectors = made["item_embedding/item"], made["user_embedding/history"]
    models = Models(made["vocabulary/"], encoder, made["training/session_knn"], *vectors, built)
    return Served(road, ingested, tables, models, {})
