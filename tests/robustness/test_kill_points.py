"""A run that dies at one write after the other, and goes on each time, ends with the bytes of an undisturbed run."""

import contextlib
import os
import random
import shutil
from pathlib import Path

import pytest
from road_folders import YESTERDAY, contents, half_committed, live_dates, reader_finds

from transforms.io.store import LocalStore

WRITES = ("write_bytes", "append_line", "put", "move", "delete")
MOST_WRITES = 80
LEAST_DEATHS = 6


class Died(RuntimeError):
    """The process would be dead now."""


class Fuse:
    """Lets some writes to the root through, breaks in the midst of the next, and lets none through after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.last = 0, ""
        for name in WRITES:
            monkeypatch.setattr(LocalStore, name, self._burning(name, getattr(LocalStore, name)))

    def _burning(self, name: str, write):
        def call(store: LocalStore, path: str, *more):
            self.left -= 1
            if self.left == 0:
                self.last = f"{name} {path}"
                HALF_DONE.get(name, _nothing)(Path(store.root, path), *more)
            if self.left <= 0:
                raise Died(self.last)
            return write(store, path, *more)

        return call


def _nothing(*arguments) -> None:
    """A rename is done or not done."""


def _half_written(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f".{path.name}.dead.tmp").write_bytes(content[: len(content) // 2])


def _half_deleted(path: Path) -> None:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for file in files[: len(files) // 2]:
        file.unlink()


HALF_DONE = {"write_bytes": _half_written, "delete": _half_deleted}


def test_a_run_that_dies_again_and_again_ends_with_the_bytes_of_an_undisturbed_one(
    yesterday, today, copied, monkeypatch
):
    folders, fuse, draws = copied(yesterday), Fuse(monkeypatch), random.Random(7)
    deaths, status = [], 1
    while status:
        fuse.left, fuse.last = draws.randint(1, MOST_WRITES), ""
        with contextlib.suppress(Died, RuntimeError):
            status = folders.run()
        if fuse.last:
            deaths.append(fuse.last)
        assert fuse.last or not status, "a run was stopped by something else than the fuse"
        assert reader_finds(folders.root) == [], fuse.last
        assert half_committed(folders.root) == [], fuse.last
        assert len(deaths) < 500, f"no progress any more: {deaths[-5:]}"
    assert len(deaths) >= LEAST_DEATHS, deaths
    assert contents(folders.root) == contents(today.root)
    assert not list(folders.root.glob("staging/*"))


@pytest.mark.parametrize("surface", ["home", "now_playing"])
def test_a_run_that_dies_while_it_swaps_a_pointer_leaves_the_old_set_live(
    yesterday, today, copied, monkeypatch, surface
):
    folders = copied(today)
    shutil.copytree(yesterday.root / "live", folders.root / "live", dirs_exist_ok=True)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", _dying_at(folders.root / f"live/{surface}.json"))
        with pytest.raises(Died):
            folders.run()
    assert live_dates(folders.root)[surface] == str(YESTERDAY)
    assert reader_finds(folders.root) == []
    assert folders.run() == 0
    assert contents(folders.root) == contents(today.root)


def _dying_at(target: Path):
    replace = os.replace

    def call(source, destination):
        if Path(destination) == target:
            raise Died(str(target))
        replace(source, destination)

    return call
