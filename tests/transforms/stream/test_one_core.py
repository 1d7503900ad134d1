"""Threads that wait for each other share a core for a time, and no longer."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from transforms.stream import one_core as tested
from transforms.stream.one_core import any_core, one_core

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no thread on a core")
REPOSITORY = Path(__file__).parents[3]
_POOL = "from transforms.stream.one_core import pool; print(*(open(f'/proc/self/task/{one}/comm').read() for one in pool()))"


@pytest.fixture
def other(monkeypatch):
    """Return the id of a thread that stands for the pool."""
    begun, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (begun.set(), over.wait(60)))
    thread.start()
    begun.wait(60)
    monkeypatch.setattr(tested, "pool", lambda: (thread.native_id,))
    yield thread.native_id
    over.set()
    thread.join(60)


def _cores(thread=0):
    return os.sched_getaffinity(thread)


def _cores_of_a_new_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(_cores()))
    thread.start()
    thread.join(60)
    return found[0]


def test_all_that_wait_for_each_other_are_on_one_core_and_free_afterwards(other):
    before = _cores()
    with one_core():
        here = _cores()
        assert len(here) == 1
        assert here <= before
        assert here == _cores(other) == _cores_of_a_new_thread()
    assert before == _cores() == _cores(other) == _cores_of_a_new_thread()


def test_what_fails_leaves_nobody_behind(other):
    before = _cores()
    with pytest.raises(KeyError), one_core():
        raise KeyError
    assert before == _cores() == _cores(other)


def test_what_stays_longer_is_started_where_it_may_go_anywhere(other):
    before = _cores()
    with one_core():
        here = _cores()
        with any_core():
            assert _cores_of_a_new_thread() == before
        assert here == _cores() == _cores(other)


def test_to_be_refused_costs_nothing_but_time(other, monkeypatch):
    def refused(thread, cores):
        raise PermissionError

    before = _cores()
    monkeypatch.setattr(os, "sched_setaffinity", refused)
    with one_core(), any_core():
        assert before == _cores() == _cores(other)


def test_without_a_pool_of_one_thread_nothing_is_kept_anywhere(monkeypatch):
    monkeypatch.setattr(tested, "pool", lambda: ())
    before = _cores()
    with one_core():
        assert _cores() == before


@pytest.mark.parametrize(("threads", "expected"), [("1", "polars-0"), ("2", "")])
def test_the_pool_of_polars_is_found_where_it_is_one_thread(threads, expected):
    told = os.environ | {"POLARS_MAX_THREADS": threads}
    done = subprocess.run([sys.executable, "-c", _POOL], cwd=REPOSITORY, env=told, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (expected, "")
