from pathlib import Path

import pytest
from judged_root import DAY, pretend
from memory_broker import Clock, MemoryBroker
from small_road import SmallRoad
from toy_stream import BEGIN, ToyStep

from jobs import evaluate
from jobs.options import build_runner, read_policy
from pipelines.batch import read_record
from pipelines.road import Road
from pipelines.runner import Runner, load_manifest
from pipelines.stream import Stream
from pipelines.stream_metrics import Metrics
from schemas.manifest import Manifest
from transforms.io.state_store import StateStore
from transforms.io.store import LocalStore, Store, open_store


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


@pytest.fixture(scope="session")
def judged_root(small_road: SmallRoad, made_once) -> LocalStore:
    """The published root with its sets judged as those of `DAY`; read only."""

    def judge(folder: Path) -> None:
        pretend(small_road.root, folder / "root", small_road.date)
        assert evaluate.main(["run", "--from", DAY, "--to", DAY, "--root", str(folder / "root")]) == 0

    return LocalStore(str(made_once("judged", judge) / "root"))


# A streaming driver over a broker in memory.


@pytest.fixture
def clock() -> Clock:
    return Clock(BEGIN.timestamp() + 3600)


@pytest.fixture
def broker(clock) -> MemoryBroker:
    return MemoryBroker(clock)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(broker, clock, said, tmp_path):
    """Return a function that opens a driver over the one state file; the one before is closed."""
    open_stores: list[StateStore] = []

    def build(step=None, reload=lambda: None) -> Stream:
        for store in open_stores:
            store.close()
        open_stores[:] = [StateStore(tmp_path / "stream")]
        return Stream(
            broker=broker, store=open_stores[0], step=step or ToyStep(), metrics=Metrics(), code_version="v",
            reload=reload, clock=clock, stop=clock, say=said.append,
        )  # fmt: skip

    yield build
    for store in open_stores:
        store.close()
