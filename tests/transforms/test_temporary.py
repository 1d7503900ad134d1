import os
import time

import pytest

from transforms.io.temporary import KEPT_S, cache_folder, sweep

NOW = time.time()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def left(path, age_s: float):
    """Write a file, and let it and the folders it is in be of an age."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    for one in (path, *path.parents[:3]):
        os.utime(one, (NOW - age_s, NOW - age_s))
    return path


def test_what_is_a_day_old_goes_and_nothing_else(temporary, tmp_path):
    cached = tmp_path / cache_folder() / "bucket" / "7"
    old = [
        left(path, KEPT_S + 9)
        for path in (temporary / "segue-tmp-a.parquet", cached / "a", temporary / "segue-tmp-b/c")
    ]
    kept = [left(temporary / "segue-tmp-d.parquet", KEPT_S - 3_600), left(cached / "b", 0)]
    others = [left(temporary / name, 9 * KEPT_S) for name in ("segue-root/live/home.json", "tmpx.parquet")]
    assert sweep() == 3
    assert not any(path.exists() for path in (*old, temporary / "segue-tmp-b"))
    assert all(path.exists() for path in (*kept, *others))
    for path in kept:
        left(path, KEPT_S + 9)
    assert sweep() == 2
    assert not (tmp_path / cache_folder()).exists()


def test_what_another_user_left_stays(temporary, monkeypatch):
    path = left(temporary / "segue-tmp-a.parquet", KEPT_S + 9)
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    assert sweep() == 0


def test_a_link_is_not_followed(temporary, tmp_path):
    precious = left(tmp_path / "home" / "letter", 9 * KEPT_S)
    link = temporary / "segue-tmp-trap"
    link.symlink_to(precious.parent)
    os.utime(link, (NOW - 9 * KEPT_S,) * 2, follow_symlinks=False)
    assert sweep() == 1
    assert not link.is_symlink()
    assert precious.exists()


def test_a_clock_that_is_ahead_takes_nothing_from_others(temporary, monkeypatch):
    path = left(temporary / "segue-tmp-a.parquet", 0)
    monkeypatch.setattr(time, "time", lambda: NOW + 9 * KEPT_S)
    assert sweep() == 0
    assert path.exists()


def test_a_folder_that_was_just_made_stays_though_it_is_empty(temporary):
    (temporary / "segue-tmp-checks").mkdir()
    assert sweep() == 0
    assert (temporary / "segue-tmp-checks").is_dir()


def test_nothing_to_sweep_is_nothing_done(temporary):
    assert sweep() == 0
