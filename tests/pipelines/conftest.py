import pytest
from small_road import SmallRoad

from jobs.options import build_runner, read_policy
from pipelines.batch import read_record
from pipelines.road import Road
from pipelines.runner import Runner, load_manifest
from schemas.manifest import Manifest
from transforms.io.store import Store, open_store


@pytest.fixture
def store(copy_road: SmallRoad) -> Store:
    """The root of a published road, to be changed."""
    return open_store(str(copy_road.root))


@pytest.fixture
def made(store: Store, small_road: SmallRoad) -> dict[str, Manifest]:
    """What the published road made, by `dataset/qualifier`."""
    record = read_record(store, str(small_road.date))
    assert record is not None
    return {name: load_manifest(store, path) for name, path in record["manifests"].items()}


@pytest.fixture
def runner(store: Store, small_road: SmallRoad) -> Runner:
    """A runner against its root, with no earlier run to compare with."""
    return build_runner(store, str(small_road.date), [], None, {})


@pytest.fixture
def road(runner: Runner, small_road: SmallRoad) -> Road:
    """The road as it ran."""
    return Road(small_road.date, 2, read_policy(small_road.policy), runner.code_version, "batch")
