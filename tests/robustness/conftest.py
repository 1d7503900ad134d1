import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from bucket import emulated_bucket
from road_folders import TODAY, YESTERDAY, arguments, deliver_daily, write_raw

from jobs import batch


class Folders(NamedTuple):
    """A raw folder, a root, and the policy the root was made with."""

    raw: Path
    root: Path
    policy: Path

    def options(self, date=TODAY) -> list[str]:
        return arguments(self.raw, self.root, self.policy, date)

    def run(self, *more: str, date=TODAY) -> int:
        return batch.main([*self.options(date), *more])


@pytest.fixture(scope="session")
def yesterday(tmp_path_factory, small_policy) -> Folders:
    """A root on which the day before was published; read only."""
    folder = tmp_path_factory.mktemp("yesterday")
    folders = Folders(deliver_daily(write_raw(folder / "raw")), folder / "root", small_policy)
    assert folders.run(date=YESTERDAY) == 0
    return folders


@pytest.fixture(scope="session")
def today(yesterday, tmp_path_factory) -> Folders:
    """The same root after an undisturbed run of the day; read only."""
    root = tmp_path_factory.mktemp("today") / "root"
    shutil.copytree(yesterday.root, root)
    folders = yesterday._replace(root=root)
    assert folders.run() == 0
    return folders


@pytest.fixture
def copied(tmp_path):
    """Return a function that copies a root, to be changed."""

    def copy(folders: Folders) -> Folders:
        shutil.copytree(folders.root, tmp_path / "root")
        return folders._replace(root=tmp_path / "root")

    return copy


@pytest.fixture
def bucket():
    """The address of an empty bucket."""
    with emulated_bucket() as address:
        yield address
