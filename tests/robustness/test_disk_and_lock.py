"""A full disk, a dead holder, and two runs at once."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from road_folders import arguments, contents, digest, half_committed, live_dates, reader_finds, start

from transforms.io.store import LocalStore

FULL = "the disk is full"
KB = 1_024


@contextlib.contextmanager
def files_no_larger_than(limit: int):
    """Let no file grow beyond a size: what a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handled)


@pytest.mark.parametrize("limit", [4 * KB, 64 * KB])
def test_at_a_quota_the_run_stops_in_words_and_goes_on_when_there_is_room(yesterday, copied, capsys, limit):
    folders = copied(yesterday)
    live = contents(folders.root, ("live",))
    with files_no_larger_than(limit):
        status = folders.run("--surface", "home")
    said = capsys.readouterr().err.partition("STOPPED  ")[2]
    assert status == 1
    assert FULL in said
    assert "Free some space and run the same command again" in said
    assert contents(folders.root, ("live",)) == live
    assert reader_finds(folders.root) == half_committed(folders.root) == []


ON_A_SMALL_DISK = """
set -u
mount -t tmpfs -o size=200m none "$DISK" && cp -a "$BASE" "$DISK/made" || exit 77
mount -o remount,size=$(( $(du -sk "$DISK" | cut -f1) + 700 ))k "$DISK" || exit 77
"$PYTHON" -m jobs.batch "$@" && exit 70
mkdir "$OUT/full" && cp -a "$DISK/made/live" "$OUT/full/live"
mount -o remount,size=200m "$DISK" || exit 77
"$PYTHON" -m jobs.batch "$@" || exit 71
cp -a "$DISK/made" "$OUT/root"
"""


def test_on_a_full_disk_the_run_stops_in_words_and_then_goes_on_to_the_same_bytes(yesterday, today, tmp_path):
    disk, out, log = tmp_path / "disk", tmp_path / "out", tmp_path / "log"
    disk.mkdir()
    out.mkdir()
    place = {"DISK": str(disk), "BASE": str(yesterday.root), "OUT": str(out), "PYTHON": sys.executable}
    options = arguments(yesterday.raw, disk / "made", yesterday.policy)
    if not shutil.which("unshare"):
        pytest.skip("NO SMALL DISK: unshare is not installed; the test at a quota ran instead")
    command = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
    status = start([*command, "bash", "-c", ON_A_SMALL_DISK, "-", *options], log, place).wait()
    said = log.read_text()
    if status == 77 or "unshare failed" in said:
        pytest.skip(f"NO SMALL DISK: a tmpfs cannot be mounted here; the test at a quota ran instead: {said[-300:]}")
    assert status == 0, said[-3000:]
    assert FULL in said
    assert "Traceback" not in said
    assert contents(out / "full", ("live",)) == contents(yesterday.root, ("live",))
    assert contents(out / "root") == contents(today.root)


def test_a_second_run_on_one_root_is_told_who_holds_it(today, copied, capsys):
    folders = copied(today)
    with LocalStore(str(folders.root)).lock("batch 2026-01-30"):
        before = contents(folders.root, (".",))
        assert folders.run() == 1
        said = capsys.readouterr().err
        assert f"is in use by batch 2026-01-30 (process {os.getpid()})" in said
        assert "wait for it, or use another ROOT=" in said
        assert contents(folders.root, (".",)) == before
    assert folders.run() == 0


HOLD = """
import sys, time
from transforms.io.store import LocalStore
with LocalStore(sys.argv[1]).lock("batch 2026-01-31"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_root_whose_holder_was_killed_is_free(today, copied, capsys):
    folders = copied(today)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folders.root)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert folders.run() == 1
        assert f"(process {holder.pid})" in capsys.readouterr().err
        holder.kill()
    assert Path(folders.root, "lock.json").exists()
    assert folders.run() == 0


def test_live_dates_of_the_fixtures(yesterday, today):
    assert set(live_dates(yesterday.root).values()) == {"2026-01-30"}
    assert set(live_dates(today.root).values()) == {"2026-01-31"}
    assert digest(yesterday.root / "live/home.json") != digest(today.root / "live/home.json")
