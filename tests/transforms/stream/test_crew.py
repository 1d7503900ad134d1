"""Sets made by several processes are those that one makes; a process that dies costs nobody a set."""

import concurrent.futures
import itertools
import json
import os
import subprocess
import sys
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import polars as pl
import psutil
import pyarrow as pa
import pytest
from plain_step import Forgetful, PlainStep, Unable

from transforms.stream import one_core
from transforms.stream.crew import PAUSE_S, Crew, Other

HERE = Path(__file__).parent
LEAST = 8
TOMBSTONES = pl.DataFrame({"id": ["i3"]})


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr("transforms.stream.crew.LEAST", LEAST)


def states(number: int) -> dict[str, bytes]:
    """Return the states of so many users, each with two items of their own."""
    return {f"u{n:03d}": json.dumps([f"i{n % 7}", f"i{(n + 1) % 7}"]).encode() for n in range(number)}


def sets(made: pa.Table) -> pa.Table:
    """Return the sets without who made them."""
    return made.drop_columns("made_by")


def by_process(made) -> list[int]:
    """Return how many sets each process made, in order of the table."""
    told = made["made_by"].to_pylist()
    return [told.count(one) for one in dict.fromkeys(told)]


@pytest.fixture(scope="module")
def crew():
    return Crew.of(PlainStep(), PlainStep, 3)


def kill(one) -> None:
    (process,) = one._pool._processes.values()
    process.kill()
    process.join()


def until_ready(crew) -> None:
    for one in crew.others:
        one.wait()


@pytest.mark.parametrize("number", [1, LEAST, 2 * LEAST, 3 * LEAST, 100])
def test_the_sets_are_those_of_one_process_in_the_same_order(crew, number):
    some = states(number)
    made = crew.sets(some)
    assert sets(made).equals(sets(PlainStep().sets(some)))
    assert len(by_process(made)) == min(max(number // LEAST, 1), 3)
    assert max(by_process(made)) - min(by_process(made)) <= 1


def test_a_process_that_dies_costs_nobody_a_set_and_is_replaced(crew, caplog):
    some = states(60)
    kill(crew.others[0])
    made = crew.sets(some)
    assert made["user_id"].to_pylist() == sorted(some)
    assert by_process(made)[0] == 40, "its part is made here"
    assert "a process that makes sets died" in caplog.text
    until_ready(crew)
    assert by_process(crew.sets(some)) == [20, 20, 20]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no thread on a core")
def test_a_successor_may_go_to_any_core_though_it_is_started_from_one(crew, monkeypatch):
    until_ready(crew)
    monkeypatch.setattr(one_core, "pool", lambda: (threading.get_native_id(),))
    kill(crew.others[0])
    with one_core.one_core():
        crew.sets(states(60))
    until_ready(crew)
    (process,) = crew.others[0]._pool._processes.values()
    assert os.sched_getaffinity(process.pid) == os.sched_getaffinity(0)


class Full:
    """Opens a step unless a file is in the way."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self) -> PlainStep:
        if self.file.exists():
            raise OSError(28, "No space left on device")
        return PlainStep()


def test_a_successor_that_cannot_open_the_bundle_is_replaced_too(tmp_path, caplog):
    some, now, file = states(2 * LEAST), [0.0], tmp_path / "full"
    other = Other(Full(file), lambda: now[0])
    crew = Crew(PlainStep(), [other])
    other.wait()
    file.touch()
    kill(other)
    crew.sets(some)
    assert other._opened.exception(120) is not None
    assert by_process(crew.sets(some)) == [2 * LEAST], "made here"
    file.unlink()
    now[0] += PAUSE_S
    assert by_process(crew.sets(some)) == [2 * LEAST]
    other.wait()
    assert by_process(crew.sets(some)) == [LEAST, LEAST]
    assert "cannot open the bundle, they are made here until it can: OSError(28" in caplog.text


def test_it_is_tried_after_longer_and_longer_pauses_and_said_once(monkeypatch, caplog):
    now, tried = [0.0], []

    def start(one: Other) -> None:
        tried.append(now[0])
        one._opened = concurrent.futures.Future()
        if len(tried) < 6:
            one._opened.set_exception(BrokenProcessPool("killed for its memory"))
        else:
            one._opened.set_result(None)

    monkeypatch.setattr(Other, "_start", start)
    other = Other(PlainStep, lambda: now[0])
    while not other.is_ready():
        now[0] += 1.0
    pauses = [after - before for before, after in itertools.pairwise(tried)]
    assert all(PAUSE_S * 2**n <= pause <= PAUSE_S * 2**n + 2 for n, pause in enumerate(pauses))
    assert caplog.text.count("cannot open the bundle") == 1


def test_what_disappears_is_offered_by_none_not_even_by_one_that_comes_later():
    some, crew = states(40), Crew.of(PlainStep(), PlainStep, 2).without(TOMBSTONES)
    expected = sets(PlainStep(gone=frozenset({"i3"})).sets(some))
    assert sets(crew.sets(some)).equals(expected)
    kill(crew.others[0])
    assert sets(crew.sets(some)).equals(expected)
    until_ready(crew)
    made = crew.sets(some)
    assert by_process(made) == [20, 20]
    assert sets(made).equals(expected)
    assert not expected.equals(sets(PlainStep().sets(some)))


def test_a_process_that_did_not_learn_what_disappears_makes_no_set():
    crew, some = Crew.of(PlainStep(), Forgetful, 2), states(40)
    made = crew.without(TOMBSTONES).sets(some)
    assert sets(made).equals(sets(PlainStep(gone=frozenset({"i3"})).sets(some)))


def test_what_fails_there_is_raised_here(crew):
    with pytest.raises(LookupError, match="no set for this one"):
        crew.sets({f"a{user}": state for user, state in states(40).items()} | {"broken": b"{}"})


def test_a_bundle_that_another_process_cannot_serve_is_refused():
    with pytest.raises(LookupError, match="another day"):
        Crew.of(PlainStep(), Unable, 2)


def test_one_process_needs_no_other():
    own = PlainStep()
    assert Crew.of(own, Unable, 1) is own


_DRIVER = """
import time
from plain_step import PlainStep
from transforms.stream.crew import Crew
if __name__ == "__main__":
    crew = Crew.of(PlainStep(), PlainStep, 2)
    print(*crew.others[0]._pool._processes, flush=True)
    time.sleep(60)
"""


def test_no_process_outlives_a_driver_that_was_killed(tmp_path):
    (tmp_path / "driver.py").write_text(_DRIVER)
    paths = os.pathsep.join([str(HERE), str(HERE.parents[2])])
    driver = subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py")], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    )
    other = psutil.Process(int(driver.stdout.readline()))
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs([other], timeout=30)
    assert not alive


_DISMISSED = """
from plain_step import PlainStep
from jobs.options import leave
from transforms.stream.crew import Crew, dismiss
if __name__ == "__main__":
    crew = Crew.of(PlainStep(), PlainStep, 2)
    dismiss()
    leave(0)
"""


def test_a_driver_that_dismisses_them_leaves_nothing_behind(tmp_path):
    (tmp_path / "driver.py").write_text(_DISMISSED)
    paths = os.pathsep.join([str(HERE), str(HERE.parents[2])])
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "driver.py")], capture_output=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
