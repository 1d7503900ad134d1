from pathlib import Path
from typing import NamedTuple

import golden_world
import pytest

from jobs import batch
from jobs.world import write_world


class GoldenRoad(NamedTuple):
    """A raw folder with the goldens planted, and the root of the sets made from it for both surfaces; read only."""

    raw: Path
    root: Path


@pytest.fixture(scope="session")
def golden_road(made_once, small_policy) -> GoldenRoad:
    def run(folder: Path) -> None:
        raw, date = folder / "raw", str(golden_world.DATE)
        write_world(golden_world.SETTING, raw, "parquet")
        golden_world.plant(raw)
        options = ["--raw", str(raw), "--date", date, "--root", str(folder / "root")]
        assert batch.main([*options, "--shards", "2", "--policy", str(small_policy)]) == 0

    folder = made_once("golden", run)
    return GoldenRoad(folder / "raw", folder / "root")
