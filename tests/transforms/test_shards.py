import threading
import time
import weakref
from collections.abc import Iterator

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from pipelines.runner import run_beam
from schemas.catalogue import CONTRACTS
from transforms.io.store import LocalStore, StoreError
from transforms.shards import (
    ApplyToEach,
    Output,
    Shard,
    Task,
    Workspace,
    process_shard,
    read_tables,
    staged_entries,
    take_spent,
)

STARTED: list[int] = []
BOTH = threading.Barrier(2, timeout=30)


def run(numbers: list[int], function, at_once: int, expected: list) -> None:
    with beam.Pipeline("FnApiRunner") as pipeline:
        applied = pipeline | beam.Create(numbers) | beam.Reshuffle() | ApplyToEach(function, at_once)
        assert_that(applied, equal_to(expected))


def add(number: int) -> int:
    return number + 10


def meet(number: int) -> int:
    BOTH.wait()
    return number + 10


def fail_at_3(number: int) -> int:
    STARTED.append(number)
    if number == 3:
        raise StoreError("the disk is full")
    time.sleep(0.02)
    return number


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_every_element_is_applied_to_once(at_once):
    run(list(range(7)), add, at_once, list(range(10, 17)))


def test_two_elements_are_worked_on_at_once():
    run([1, 2, 3, 4], meet, 2, [11, 12, 13, 14])


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_error_is_raised_as_it_is_and_what_had_not_begun_never_begins(at_once):
    STARTED.clear()
    with pytest.raises(StoreError, match="the disk is full"):
        run(list(range(100)), fail_at_3, at_once, [])
    assert 3 in STARTED
    assert len(STARTED) < 100


def interrupt(number: int) -> None:
    raise KeyboardInterrupt


def test_the_key_that_stops_a_run_is_not_an_error():
    with pytest.raises(KeyboardInterrupt):
        run_beam([Task("a", 0, {})], ApplyToEach(interrupt, 2), [])


def test_what_work_took_is_added_up_once_and_is_in_no_output(tmp_path):
    """Two tasks say what they spent, one says nothing; a task that was staged before a kill is not counted twice."""
    store = LocalStore(str(tmp_path))
    space = Workspace(store.root, "staging", "run", "vocabulary", "stage", "code")
    spent = {"one": {"a": 1.5, "b": 0.25}, "two": {"b": 0.5}, "three": {}}

    def work(shard: Shard) -> Output:
        return Output(read_tables([], CONTRACTS["vocabulary"]), spent=spent[shard.task.name])

    for name in (*spent, "one"):
        process_shard(Task(name, 0, {}), space, work)
    assert not [entry for entry in staged_entries(store, "staging") if "spent" in str(entry)]
    assert take_spent(store, "staging") == {"a": 1.5, "b": 0.75}
    assert take_spent(store, "staging") == {}
    assert not store.list("staging/spent")


def test_what_work_gives_in_parts_is_staged_part_by_part_and_forgotten(tmp_path):
    store = LocalStore(str(tmp_path))
    space = Workspace(store.root, "staging", "run", "vocabulary", "stage", "code")
    made: list[weakref.ref] = []

    def output(number: int) -> Output:
        frame = read_tables([], CONTRACTS["vocabulary"])
        made.append(weakref.ref(frame))
        return Output(frame, rows_in=number, spent={"a": 1.0})

    def work(shard: Shard) -> Iterator[Output]:
        for number in range(3):
            assert len(list((tmp_path / "staging").glob("part-*.parquet"))) == number
            assert [ref() for ref in made] == [None] * number
            yield output(number)

    process_shard(Task("00007", 7, {}), space, work)
    entries = staged_entries(store, "staging")
    assert [(entry["name"], entry["shard"], entry["rows_in"]) for entry in entries] == [
        ("00007-0000", 7, 0), ("00007-0001", 7, 1), ("00007-0002", 7, 2)
    ]  # fmt: skip
    assert take_spent(store, "staging") == {"a": 3.0}
