import datetime
import fcntl
import os
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from small_road import SmallRoad

from jobs import batch
from jobs.options import POLICY_FILE, leave
from jobs.world import write_world
from transforms.world_setting import Setting


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets and published schemas: SEGUE_DATA, or ../shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SEGUE_DATA", beside))
    if folder.is_dir():
        return folder
    pytest.skip(f"{_NO_DATA} {folder} is not a folder; set SEGUE_DATA to the folder of data sets")


_NO_DATA = "NO DATA:"


ROADS = ("yesterday", "golden_road", "small_road")


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Begin with what takes minutes: a process that came to it last would work on alone.

    First a module on each road, so that one process makes another road while the first is made, and waits for none.
    """
    on = {road: item.path for item in reversed(items) for road in ROADS if road in item.fixturenames}
    early = [on[road] for road in ROADS if road in on]
    early += [item.path for item in items if "robustness" in item.path.parts]
    turn = {path: n for n, path in enumerate(dict.fromkeys(early))}
    items.sort(key=lambda item: turn.get(item.path, len(turn)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end, in red, which checks of the real thing did not take place."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if _NO_DATA in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} tests on real data DID NOT RUN: {skipped[0].longrepr[2]}", red=True
        )


_ENDED: list[int] = []


def pytest_sessionfinish(exitstatus: int) -> None:
    """Remember how it ended, for `pytest_unconfigure`."""
    _ENDED.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End as the jobs do: DuckDB's module would report its own tables as leaked after the summary (`leave`)."""
    if _ENDED and "duckdb" in sys.modules and "torch" in sys.modules:
        leave(_ENDED[-1])


SMALL_DATE = datetime.date(2026, 1, 31)
MadeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Return a function that has a folder filled once for all processes of a test run, and says where it is.

    Whoever comes second waits. What is in the folder is read only.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def small_policy(made_once: MadeOnce) -> Path:
    """The policy of the repository with sets small enough for a catalogue of 2,000 items, and nobody held out: personas are few."""
    tables = tomllib.loads(POLICY_FILE.read_text(encoding="utf-8"))
    text = POLICY_FILE.read_text(encoding="utf-8")
    for name, sizes in {"home": (60, 20, 40), "now_playing": (40, 10, 30)}.items():
        old = [f"{key} = {tables['surfaces'][name][key]}" for key in ("size", "minimum_size", "fill_to")]
        new = [f"{key} = {size}" for key, size in zip(("size", "minimum_size", "fill_to"), sizes, strict=True)]
        assert "\n".join(old) in text, f"the sizes of {name} are no longer on three lines in a row"
        text = text.replace("\n".join(old), "\n".join(new))
    for source, most in {"popular_company": 30, "fresh_market": 15}.items():
        quota = source + '" = {{ minimum = 0, target = 0, maximum = {},'
        assert quota.format(most) in text, f"{source} no longer has so much of a set of 300"
        text = text.replace(quota.format(most), quota.format(most // 5))
    text = text.replace("\nholdout = 0.01\n", "\nholdout = 0.0\n")
    text = text.replace(f"encoder_epochs = {tables['road']['encoder_epochs']}\n", "encoder_epochs = 1\n")
    return made_once("policy", lambda folder: _write(folder / "surfaces.toml", text)) / "surfaces.toml"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def small_road(made_once: MadeOnce, small_policy: Path) -> SmallRoad:
    """A world of 20,000 events, run once for its last day with two shards and published on both surfaces."""

    def road(folder: Path) -> SmallRoad:
        return SmallRoad(folder / "root", folder / "raw", SMALL_DATE, small_policy)

    def run(folder: Path) -> None:
        setting = Setting(users=500, items=2_000, events=20_000, markets=2, end=SMALL_DATE, days=10)
        write_world(setting, folder / "raw", "parquet")
        assert batch.main(road(folder).options()) == 0

    return road(made_once("road", run))


@pytest.fixture(scope="session")
def road_elsewhere(small_road: SmallRoad, made_once: MadeOnce) -> SmallRoad:
    """The same road made a second time, on another root by another process; read only."""
    folder = made_once("elsewhere", lambda folder: small_road.made_elsewhere(folder / "root"))
    return small_road._replace(root=folder / "root")


@pytest.fixture
def copy_road(small_road: SmallRoad, tmp_path: Path) -> SmallRoad:
    """A copy of the published root, to be changed."""
    shutil.copytree(small_road.root, tmp_path / "root")
    return small_road._replace(root=tmp_path / "root")
