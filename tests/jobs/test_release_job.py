import dataclasses
import json
from pathlib import Path

import pytest
from small_road import SmallRoad

from jobs import release
from pipelines.publish import pointer_path, read_pointer
from transforms.io.store import open_store


def test_status_says_what_is_live(small_road: SmallRoad, capsys: pytest.CaptureFixture) -> None:
    assert release.main(["status", "--root", str(small_road.root)]) == 0
    out = capsys.readouterr().out
    live = read_pointer(open_store(str(small_road.root)), "home")
    assert live is not None
    assert live.manifest in out
    assert "2026-01-31, " in out
    assert out.count("nothing to roll back to") == 2


def test_status_of_an_empty_root(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert release.main(["--root", str(tmp_path), "status"]) == 0
    assert capsys.readouterr().out.count("nothing is published under") == 2


def test_rollback_says_what_is_live_again(copy_road: SmallRoad, capsys: pytest.CaptureFixture) -> None:
    store = open_store(str(copy_road.root))
    live = read_pointer(store, "home")
    assert live is not None
    # the set before it is the same one, under the name of a later run
    later = dataclasses.replace(live, manifest="data/later.json", logical_date="2026-02-01", previous=(live.manifest,))
    store.write_bytes(pointer_path("home"), later.to_json().encode())
    assert release.main(["rollback", "--surface", "home", "--root", str(copy_road.root)]) == 0
    assert f"home: 2026-01-31 ({live.manifest}) is live again, in place of 2026-02-01" in capsys.readouterr().out
    assert json.loads(store.read_bytes(pointer_path("home")))["manifest"] == live.manifest
    assert release.main(["status", "--root", str(copy_road.root)]) == 0
    assert "withdrawn: data/later.json" in capsys.readouterr().out


def test_a_rollback_to_nothing_is_status_1(copy_road: SmallRoad, capsys: pytest.CaptureFixture) -> None:
    assert release.main(["--root", str(copy_road.root), "rollback", "--surface", "home"]) == 1
    assert "STOPPED  home cannot be rolled back: no earlier set is kept" in capsys.readouterr().err
