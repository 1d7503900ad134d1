from pathlib import Path
from typing import NamedTuple

import golden_world
import pytest

from jobs import batch
from jobs.world import write_world


class GoldenRoad(NamedTuple):
    """A raw folder with the goldens planted, and the root of the Home sets made from it; read only."""

    raw: Path
    root: Path


@pytest.fixture(scope="session")
def golden_road(tmp_path_factory, small_policy) -> GoldenRoad:
    folder = tmp_path_factory.mktemp("golden")
    road = GoldenRoad(folder / "raw", folder / "root")
    write_world(golden_world.SETTING, road.raw, "parquet")
    golden_world.plant(road.raw)
    options = ["--raw", str(road.raw), "--date", str(golden_world.DATE), "--root", str(road.root), "--surface", "home"]
    assert batch.main([*options, "--shards", "2", "--policy", str(small_policy)]) == 0
    return road
