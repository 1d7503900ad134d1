import hashlib
import json
import pathlib

import polars as pl
import pytest

from jobs.world import main

ARGUMENTS = ["--preset", "laptop", "--end", "2026-01-31", "--events", "20000"]


def digests(folder: pathlib.Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_same_arguments_give_same_bytes(tmp_path, format_):
    out = tmp_path / "raw"
    assert main([*ARGUMENTS, "--out", str(out), "--format", format_]) == 0
    first = digests(tmp_path)
    assert main([*ARGUMENTS, "--out", str(out), "--format", format_]) == 0
    assert digests(tmp_path) == first
    assert {name.split("/")[1] for name in first if name.startswith("raw/")} == {
        "events", "items", "users", "campaigns", "tombstones",
    }  # fmt: skip


def test_truth_counts_the_lines(tmp_path):
    assert main([*ARGUMENTS, "--out", str(tmp_path / "raw")]) == 0
    truth = json.loads((tmp_path / "raw.truth" / "truth.json").read_text())
    lines = sum(path.read_bytes().count(b"\n") for path in (tmp_path / "raw" / "events").iterdir())
    users = (tmp_path / "raw" / "users" / "part-00000.jsonl").read_bytes().count(b"\n")
    assert lines == truth["counts"]["rows"]
    assert truth["counts"]["events"] == 20_000
    assert truth["counts"]["malformed"] == sum(truth["malformed"].values())
    assert users == 5_000 - truth["counts"]["unknown_users"]
    assert pl.read_parquet(tmp_path / "raw.truth" / "items.parquet").height == 20_000


def test_no_faults_means_none(tmp_path):
    assert main([*ARGUMENTS, "--out", str(tmp_path / "raw"), "--faults", "none"]) == 0
    counts = json.loads((tmp_path / "raw.truth" / "truth.json").read_text())["counts"]
    assert counts["rows"] == counts["events"] == 20_000
    assert counts["late"] == counts["duplicates"] == counts["malformed"] == 0


def test_somebody_elses_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "diary.txt").write_text("mine")
    assert main([*ARGUMENTS, "--out", str(tmp_path)]) == 2
    assert "holds files, but not those of a synthetic world; name an empty or a new folder" in capsys.readouterr().err
    assert (tmp_path / "diary.txt").read_text() == "mine"


def test_unknown_fault_is_refused(tmp_path, capsys):
    assert main([*ARGUMENTS, "--out", str(tmp_path / "raw"), "--faults", "mud"]) == 2
    assert "unknown dirt mud" in capsys.readouterr().err
