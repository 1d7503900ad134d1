import os
import signal
import sqlite3
import subprocess
import sys
import time

import polars as pl
import pytest

from transforms.io.state_store import FILE, FORMAT, Commit, StateStore, read_states, read_tombstones
from transforms.io.store import StoreError


@pytest.fixture
def store(tmp_path):
    opened = StateStore(tmp_path)
    yield opened
    opened.close()


def changed(states: dict[str, bytes], sequences=None, owed=(), touched=5, written=0) -> Commit:
    return Commit(states, dict.fromkeys(states, touched), sequences or {}, frozenset(owed), written)


def tombstone(entity: str, id_: str) -> pl.DataFrame:
    stamp = pl.lit(0).cast(pl.Datetime("us", "UTC")).alias("effective_ts")
    return pl.select(pl.lit(entity).alias("entity"), pl.lit(id_).alias("id"), pl.lit("erasure").alias("reason"), stamp)


def test_what_is_committed_is_there_when_opened_again(store, tmp_path):
    store.commit(changed({"a": b"1", "b": b"2"}, owed=["a", "b"]))
    store.commit(changed({}, {"a": 7}))
    store.close()
    again = StateStore(tmp_path)
    assert again.states(["a", "b", "c"]) == {"a": b"1", "b": b"2", "c": None}
    assert again.sequences(["a", "b", "c"]) == {"a": 7}
    assert again.owed() == ["b"]
    again.close()


def test_states_are_read_as_of_one_moment_beside_the_process_that_writes(store, tmp_path):
    store.commit(changed({"b": b"1", "a": b"2"}))
    store.commit(changed({"c": b"3"}, touched=9))
    reading = read_states(tmp_path, 5)
    first = next(reading)
    store.commit(changed({"d": b"4"}, touched=10))
    assert [first, *reading] == [("a", b"2"), ("b", b"1"), ("c", b"3")]
    assert list(read_states(tmp_path, 6)) == [("c", b"3"), ("d", b"4")]
    store.close()
    assert list(read_states(tmp_path, 10)) == [("d", b"4")], "when it has been closed too"


def test_states_that_are_not_there_or_no_state_are_said(tmp_path):
    with pytest.raises(StoreError, match=r"no stream has kept its state in .* start one with `make stream`"):
        list(read_states(tmp_path, 0))
    (tmp_path / FILE).write_bytes(b"no database, and no state of a stream")
    with pytest.raises(StoreError, match=r"could not be read \(.*\): is it the state of a stream, and of this version"):
        list(read_states(tmp_path, 0))


def test_owed_ends_with_a_sequence_or_when_it_was_given_up(store):
    store.commit(changed({"a": b"1", "b": b"1"}, owed=["a", "b"]))
    store.commit(changed({"a": b"2"}))
    assert store.owed() == ["a", "b"]
    store.commit(changed({}, {"a": 3, "b": None}))
    assert store.owed() == []
    store.commit(changed({}, {"a": None}))
    assert store.sequences(["a", "b"]) == {"a": 3}
    store.commit(changed({"a": b"3"}, {"a": 4}, ["a"]))
    assert store.owed() == ["a"], "a set was published, and another is owed since"


def test_memory_is_bounded_and_holds_what_was_used_last(tmp_path):
    store = StateStore(tmp_path, cache_bytes=10_000)
    states = {f"u{number}": bytes(1_000) for number in range(50)}
    store.commit(changed(states))
    assert len(store._cache) < 10
    assert store._cached <= 10_000
    assert store.states(states) == states
    store.states(["u3"])
    assert "u3" in store._cache
    store.close()


def test_a_commit_that_fails_changes_nothing(store):
    store.commit(changed({"a": b"1"}))
    with pytest.raises(sqlite3.Error, match="not supported"):
        store.commit(Commit({"b": b"2"}, {"b": 1}, {"a": object()}, frozenset(), 0))  # type: ignore[dict-item]
    assert store.states(["a", "b"]) == {"a": b"1", "b": None}
    assert store.sequences(["a"]) == {}


def test_a_file_that_cannot_be_read_is_said(store):
    store._db.execute("DROP TABLE user")
    with pytest.raises(StoreError, match=r"could not be read or written \(no such table"):
        store.states(["a"])


def test_idle_states_are_forgotten_but_not_where_a_set_is_owed(store):
    store.commit(changed({"old": b"1", "owed": b"1"}, owed=["owed"], touched=10, written=100))
    store.commit(changed({"new": b"1"}, touched=20, written=110))
    assert store.expire(10, 200) == 0, "as long ago as the bound is not longer"
    assert store.expire(9, 109) == 0, "written not long enough ago"
    assert store.expire(9, 110) == 1
    assert store.states(["old", "owed", "new"]) == {"old": None, "owed": b"1", "new": b"1"}
    assert len(store) == 2


def test_a_late_event_does_not_make_a_state_older(store):
    store.commit(changed({"a": b"1"}, touched=10))
    store.commit(changed({"a": b"2"}, touched=5))
    store.commit(changed({"b": b"2"}, touched=12))
    assert store.expire(3, 100) == 0
    assert store.expire(1, 100) == 1


def test_the_file_of_an_earlier_version_is_taken_over(tmp_path):
    store = StateStore(tmp_path)
    store.commit(changed({"a": b"1", "b": b"1"}, touched=10))
    store._db.executescript("ALTER TABLE user DROP COLUMN written_us; PRAGMA user_version=1")
    store.close()
    store = StateStore(tmp_path)
    assert store.states(["a", "b"]) == {"a": b"1", "b": b"1"}
    store.commit(changed({"b": b"2"}, touched=20, written=100))
    assert store.expire(5, 100) == 1
    store.close()
    StateStore(tmp_path).close()


def test_tombstones_are_kept_for_good_and_users_among_them_forgotten(store, tmp_path):
    store.commit(changed({"a": b"1", "b": b"1"}))
    store.bury(tombstone("user", "a"))
    store.bury(tombstone("item", "b"))
    store.bury(tombstone("user", "a"))
    assert store.states(["a", "b"]) == {"a": None, "b": b"1"}
    assert store.erased(["a", "b"]) == {"a"}
    assert store.tombstones().select("entity", "id").rows() == [("item", "b"), ("user", "a")]
    assert read_tombstones(tmp_path).equals(store.tombstones())
    assert read_tombstones(tmp_path / "nowhere").is_empty()


def test_a_second_process_is_refused_and_told_who_holds_it(store, tmp_path):
    with pytest.raises(StoreError, match=rf"is in use by stream \(process {os.getpid()}\)"):
        StateStore(tmp_path)


def test_a_file_of_another_format_is_refused(store, tmp_path):
    store.close()
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match=f"is of format 99, this code writes format {FORMAT}"):
        StateStore(tmp_path)


def test_a_damaged_file_is_told_from_a_full_disk(tmp_path):
    (tmp_path / "state.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="is damaged"):
        StateStore(tmp_path)


def test_a_full_disk_is_said(store):
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreError, match="the disk is full"):
        store.commit(changed({"a": bytes(1_000_000)}))
    assert store.states(["a"]) == {"a": None}


_WRITER = """
import sys
from pathlib import Path
from transforms.io.state_store import Commit, StateStore
store, n = StateStore(Path(sys.argv[1])), 0
while True:
    n += 1
    users = [f"u{i}" for i in range(20)]
    store.commit(Commit({u: str(n).encode() for u in users}, dict.fromkeys(users, n), {}, frozenset(users), n))
    print(n, flush=True)
"""


def test_a_killed_process_leaves_whole_batches_and_none_that_it_reported_is_missing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    reported = 5 + len(process.stdout.read().splitlines())
    process.wait()
    store = StateStore(tmp_path)
    (found,) = set(store.states([f"u{i}" for i in range(20)]).values())
    assert reported <= int(found) <= reported + 1
    assert len(store.owed()) == 20
    store.close()
