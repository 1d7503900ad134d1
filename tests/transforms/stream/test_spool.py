import os
from pathlib import Path

import pytest
from toy_stream import sets

from transforms.stream import spool
from transforms.stream.spool import (
    KEPT,
    OPEN,
    READY,
    CutOff,
    Spool,
    batches,
    minute_of,
    verdicts,
    waiting,
    write_verdict,
)

NOW = 1_769_774_400.0


def users(folder, name: str) -> list[str]:
    return [user for batch in batches(folder / f"{name}{READY}") for user in batch["user_id"].to_pylist()]


def test_a_minute_is_handed_over_when_it_is_over(tmp_path):
    spooled = Spool(tmp_path)
    spooled.add(sets("a"), NOW)
    spooled.add(sets("b", "c"), NOW + 59)
    assert waiting(tmp_path) == []
    spooled.turn(NOW + 59.9)
    spooled.turn(NOW + 60)
    (name,) = waiting(tmp_path)
    assert users(tmp_path, name) == ["a", "b", "c"]
    assert minute_of(name) == (int(NOW), 0)


def test_minutes_follow_each_other_and_a_second_start_has_a_part_of_its_own(tmp_path):
    first = Spool(tmp_path)
    first.add(sets("a"), NOW)
    second = Spool(tmp_path)
    second.add(sets("b"), NOW + 1)
    second.add(sets("c"), NOW + 61)
    second.close()
    found = waiting(tmp_path)
    assert [users(tmp_path, name) for name in found] == [["a"], ["b"], ["c"]]
    assert [minute_of(name) for name in found] == [(int(NOW), 0), (int(NOW), 1), (int(NOW) + 60, 0)]


def test_what_a_killed_process_wrote_is_there_up_to_the_batch_it_died_in(tmp_path):
    Spool(tmp_path).add(sets("a"), NOW)
    killed = Spool(tmp_path / "other")
    killed.add(sets("a"), NOW)
    killed.add(sets("b"), NOW)
    (left,) = (tmp_path / "other").glob(f"*{OPEN}")
    whole = left.read_bytes()
    left.write_bytes(whole[:-100])
    Spool(tmp_path / "other")
    (name,) = waiting(tmp_path / "other")
    found = batches(tmp_path / "other" / f"{name}{READY}")
    assert next(found)["user_id"].to_pylist() == ["a"]
    with pytest.raises(CutOff):
        next(found)


def test_what_is_no_minute_is_cut_off_at_its_beginning(tmp_path):
    (tmp_path / "damaged").write_bytes(b"what is this")
    with pytest.raises(CutOff):
        next(batches(tmp_path / "damaged"))


def test_a_minute_that_cannot_be_written_is_given_up(tmp_path):
    spooled = Spool(tmp_path)
    assert spooled.abandon() is None
    spooled.add(sets("a"), NOW)
    assert minute_of(spooled.abandon()) == (int(NOW), 0)
    assert list(tmp_path.iterdir()) == []
    spooled.add(sets("b"), NOW)
    spooled.close()
    assert users(tmp_path, waiting(tmp_path)[0]) == ["b"]


def test_a_verdict_is_on_disk_before_its_sets_are_forgotten(tmp_path, monkeypatch):
    spooled, done, sync, replace, unlink = Spool(tmp_path), [], os.fsync, os.replace, Path.unlink
    spooled.add(sets("a"), NOW)
    spooled.close()
    (name,) = waiting(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("on disk") or sync(handle))
    monkeypatch.setattr(os, "replace", lambda one, other: done.append("named") or replace(one, other))
    monkeypatch.setattr(Path, "unlink", lambda path, **more: done.append("forgotten") or unlink(path, **more))
    write_verdict(tmp_path, name, {"of": name}, keep=False)
    assert done[:3] == ["on disk", "named", "forgotten"]


def test_a_verdict_takes_the_place_of_the_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "MOST_KEPT", 2)
    spooled = Spool(tmp_path)
    for minute in range(4):
        spooled.add(sets("a"), NOW + 60 * minute)
    spooled.close()
    names = waiting(tmp_path)
    for name in names:
        write_verdict(tmp_path, name, {"of": name}, keep=name != names[1])
    assert waiting(tmp_path) == []
    assert verdicts(tmp_path) == {name: {"of": name} for name in names}
    assert sorted(path.stem for path in (tmp_path / KEPT).iterdir()) == names[2:]
    assert list(tmp_path.glob("*.arrow")) == []
    later = Spool(tmp_path)
    later.add(sets("a"), NOW + 15 * 86_400)
    later.close()
    write_verdict(tmp_path, waiting(tmp_path)[0], {}, keep=False)
    assert not list((tmp_path / KEPT).iterdir()), "erasure reaches what is kept"
