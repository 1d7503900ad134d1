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
def yesterday(made_once, small_policy) -> Folders:
    """A root on which the day before was published; read only."""

    def folders(folder: Path) -> Folders:
        return Folders(folder / "raw", folder / "root", small_policy)

    def run(folder: Path) -> None:
        deliver_daily(write_raw(folder / "raw"))
        assert folders(folder).run(date=YESTERDAY) == 0

    return folders(made_once("yesterday", run))


@pytest.fixture(scope="session")
def today(yesterday, made_once) -> Folders:
    """The same root after an undisturbed run of the day; read only."""

    def run(folder: Path) -> None:
        shutil.copytree(yesterday.root, folder / "root")
        assert yesterday._replace(root=folder / "root").run() == 0

    return yesterday._replace(root=made_once("today", run) / "root")


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
