"""What the small published road of the tests consists of, and how another machine makes it."""

import dataclasses
import datetime
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from pipelines.embed import Encoder
from pipelines.models import Models
from pipelines.recommend import Served, Tables
from pipelines.road import Ingested, Road
from schemas.manifest import Manifest

REPOSITORY = Path(__file__).resolve().parents[1]
OTHER_MACHINE = {
    "TZ": "Asia/Kathmandu",
    "LANG": "tr_TR.UTF-8",
    "LC_ALL": "C",
    "PYTHONHASHSEED": "12345",
    "POLARS_MAX_THREADS": "1",
}
AT_ANOTHER_TIME = (
    "import sys, datetime, jobs.options;"
    "jobs.options.now = lambda: datetime.datetime(2031, 5, 6, 7, 8, 9, tzinfo=datetime.UTC);"
    "from jobs import batch; sys.exit(batch.main(sys.argv[1:]))"
)


class SmallRoad(NamedTuple):
    """A published root to read from; a test that changes it copies it first (`copy_road`)."""

    root: Path
    raw: Path
    date: datetime.date
    policy: Path

    def options(self) -> list[str]:
        """Return the arguments of `jobs.batch`."""
        given = {"raw": self.raw, "date": self.date, "root": self.root, "shards": 2, "policy": self.policy}
        return [part for name, value in given.items() for part in (f"--{name}", str(value))]

    def made_elsewhere(self, root: Path) -> "SmallRoad":
        """Make the road on another root, by a process that is told of another machine, and of another time."""
        command = [*_clock("2031-05-06 07:08:09"), sys.executable, "-c", AT_ANOTHER_TIME]
        road = self._replace(root=root)
        done = subprocess.run(
            [*command, *road.options()],
            cwd=REPOSITORY, env=os.environ | OTHER_MACHINE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
        return road


def _clock(time: str) -> list[str]:
    """Return the command that sets the whole process's clock, where there is one; `now` is replaced in any case."""
    return ["faketime", time] if shutil.which("faketime") else []


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
