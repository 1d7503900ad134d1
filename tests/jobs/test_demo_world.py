import datetime
import json
from types import SimpleNamespace

import pytest

from jobs.demo import main, write_demo_world
from transforms.io.store import LocalStore
from transforms.world_setting import Setting

SETTING = Setting(users=200, items=2_000, events=3_000, markets=2, end=datetime.date(2026, 1, 31))


def test_the_same_world_is_written_once(tmp_path, capsys):
    store = LocalStore(str(tmp_path))
    assert write_demo_world(SETTING, store).list("events")
    assert "Writing a synthetic world of 3,000 events" in capsys.readouterr().err
    before = (tmp_path / "raw").stat().st_mtime_ns
    write_demo_world(SETTING, store)
    assert capsys.readouterr().err == ""
    assert (tmp_path / "raw").stat().st_mtime_ns == before


def test_another_world_replaces_it(tmp_path):
    store = LocalStore(str(tmp_path))
    write_demo_world(SETTING, store)
    write_demo_world(Setting(users=200, items=2_000, events=3_000, markets=2, end=SETTING.end, seed=8), store)
    assert json.loads((tmp_path / "raw.truth" / "truth.json").read_text())["setting"]["seed"] == 8


@pytest.mark.parametrize("lost", ["raw/events", "raw", "raw.truth"])
def test_a_world_cut_short_is_written_again(tmp_path, lost):
    """A kill leaves `raw.partial`, and any of the folders half there or gone."""
    store = LocalStore(str(tmp_path))
    events = [(name, store.digest(f"raw/{name}")) for name in write_demo_world(SETTING, store).list("events")]
    (tmp_path / "raw.partial" / "raw").mkdir(parents=True)
    if lost == "raw.truth":
        store.delete("raw")
    store.delete(lost)
    raw = write_demo_world(SETTING, store)
    assert [(name, raw.digest(name)) for name in raw.list("events")] == events
    assert not (tmp_path / "raw.partial").exists()


def test_somebody_elses_raw_folder_stops_the_demo(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "mine.txt").write_text("mine")
    assert main(["--root", str(tmp_path), "--date", "2026-01-31"]) == 1
    assert "holds files, but not those of a synthetic world" in capsys.readouterr().err
    assert (tmp_path / "raw" / "mine.txt").read_text() == "mine"


def test_remote_root_is_refused():
    remote = SimpleNamespace(root="gs://bucket/segue")
    with pytest.raises(ValueError, match="writes its world to a local folder, got gs://bucket/segue; give ROOT= a"):
        write_demo_world(SETTING, remote)


def test_bad_date_names_the_form(capsys):
    with pytest.raises(SystemExit):
        main(["--date", "31.1.2026"])
    assert "expected a date as YYYY-MM-DD, got '31.1.2026'" in capsys.readouterr().err
