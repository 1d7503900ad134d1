import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest
from small_road import SmallRoad

from jobs import release
from pipelines.publish import pointer_path, read_pointer
from pipelines.runner import load_manifest
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
    said = capsys.readouterr().out
    assert f"home: 2026-01-31 ({live.manifest}) is live again, in place of 2026-02-01" in said
    assert "its sets expired at 2026-02-02 12:00 UTC: readers pass over them" in said
    assert json.loads(store.read_bytes(pointer_path("home")))["manifest"] == live.manifest
    assert release.main(["status", "--root", str(copy_road.root)]) == 0
    assert "withdrawn: data/later.json" in capsys.readouterr().out


def test_a_rollback_reads_newer_tombstones_where_they_are_given(
    copy_road: SmallRoad, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Those of `--raw` may be ones that an earlier run has read: they count whatever date they were ingested as of."""
    root, store = str(copy_road.root), open_store(str(copy_road.root))
    live = read_pointer(store, "home")
    assert live is not None
    later = dataclasses.replace(live, manifest="data/later.json", logical_date="2026-02-01", previous=(live.manifest,))
    store.write_bytes(pointer_path("home"), later.to_json().encode())
    sets = pl.read_parquet(store.local(load_manifest(store, live.manifest).files[0].path))
    row = {"entity": "item", "id": sets["candidates"][0][0]["item_id"], "reason": "legal"}
    (tmp_path / "raw/tombstones").mkdir(parents=True)
    (tmp_path / "raw/tombstones/part-0.jsonl").write_text(json.dumps(row | {"effective_ts": "2026-02-01T00:00:00Z"}))
    asked = ["rollback", "--surface", "home", "--root", root]
    assert release.main([*asked, "--raw", str(tmp_path / "raw")]) == 1
    said = capsys.readouterr().err
    assert f"STOPPED  {live.manifest} holds 0 sets of erased users and " in said
    assert read_pointer(store, "home").manifest == "data/later.json"
    assert release.main(asked) == 1, "what was read once is known"
    assert release.main([*asked, "--raw", str(tmp_path / "nothing")]) == 1
    assert "raw_files: no " in capsys.readouterr().err


def test_a_rollback_to_nothing_is_status_1(copy_road: SmallRoad, capsys: pytest.CaptureFixture) -> None:
    assert release.main(["--root", str(copy_road.root), "rollback", "--surface", "home"]) == 1
    assert "STOPPED  home cannot be rolled back: no earlier set is kept" in capsys.readouterr().err
