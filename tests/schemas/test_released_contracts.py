"""Released versions hold: no change without the version it asks for."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from toy_contracts import contract_of

from schemas.catalogue import CONTRACTS
from schemas.contract import column
from schemas.release import RELEASED, check_released, main, write_released

ID = column("id", pa.string(), "Id.")
OLD = contract_of(ID)
ADDED = contract_of(ID, column("extra", pa.int64(), "Extra.", nullable=True))
BROKEN = contract_of(column("id", pa.int64(), "Id."))


@pytest.fixture
def folder(tmp_path):
    write_released([OLD], tmp_path)
    return tmp_path


def at(contract, version):
    return dataclasses.replace(contract, version=version)


def test_the_contracts_of_this_repository_are_released():
    assert check_released() == []


def test_every_released_file_is_the_canonical_form_of_its_contract():
    for contract in CONTRACTS.values():
        text = (RELEASED / contract.name / f"{contract.version}.json").read_text()
        assert json.loads(text) == contract.to_json()


def test_writing_is_once_and_for_all(folder):
    path = folder / "toy" / "1.0.0.json"
    text = path.read_bytes()
    assert json.loads(text) == OLD.to_json()
    assert check_released([OLD], folder) == []
    assert write_released([OLD], folder) == []
    assert write_released([BROKEN], folder) == []
    assert path.read_bytes() == text


def test_an_unreleased_contract_is_reported(tmp_path):
    assert check_released([OLD], tmp_path) == [
        "toy 1.0.0 is not released: run `make contracts` and commit what it writes"
    ]


def test_a_change_without_a_version_names_the_field(folder):
    assert check_released([BROKEN], folder) == [
        "toy is at 1.0.0, but 1.0.0 is released and it must be at least 2.0.0: toy.id: type string -> int64 "
        "(breaks backward and forward). Set its version, then run `make contracts`"
    ]
    (problem,) = check_released([ADDED], folder)
    assert "at least 1.1.0: toy.extra: added, nullable (compatible)." in problem


@pytest.mark.parametrize(
    ("contract", "too_low", "enough"),
    [(ADDED, ["1.0.0", "1.0.1"], ["1.1.0", "2.0.0"]), (BROKEN, ["1.0.1", "1.9.0"], ["2.0.0", "3.1.0"])],
)
def test_the_version_must_rise_by_the_right_part(folder, contract, too_low, enough):
    for version in too_low:
        assert write_released([at(contract, version)], folder) == []
        assert "must be at least" in check_released([at(contract, version)], folder)[0]
    for version in enough:
        assert "is not released" in check_released([at(contract, version)], folder)[0]
    assert [path.name for path in write_released([at(contract, enough[0])], folder)] == [f"{enough[0]}.json"]
    assert check_released([at(contract, enough[0])], folder) == []


@pytest.mark.parametrize(("contract", "version"), [(OLD, "1.0.0"), (ADDED, "1.2.0"), (ADDED, "1.9.0")])
def test_a_contract_may_not_go_back_to_an_older_version(folder, contract, version):
    for later in ("1.2.0", "1.9.0", "1.10.0"):
        write_released([at(ADDED, later)], folder)
    (problem,) = check_released([at(contract, version)], folder)
    assert f"toy is at {version}, but 1.10.0 is released and it must be at least" in problem
    assert ("nothing changed since." in problem) == (contract is ADDED)


def test_a_released_contract_may_not_vanish(folder):
    assert check_released([], folder) == [
        f"toy was released and is no longer in schemas/catalogue.py: bring it back, or delete {folder / 'toy'}"
    ]


def test_a_version_is_three_numbers(tmp_path):
    with pytest.raises(ValueError, match=r"contract toy: expected a version MAJOR.MINOR.PATCH, got '1.0'; write 1.0.0"):
        check_released([at(OLD, "1.0")], tmp_path)


def test_the_command_writes_then_agrees_and_refuses_a_silent_change(tmp_path, capsys):
    folder, page = tmp_path / "released", tmp_path / "docs" / "contracts.md"
    assert main(["--check"], [OLD], folder, page) == 1
    assert "toy 1.0.0 is not released" in capsys.readouterr().err
    assert not folder.exists()
    assert main([], [OLD], folder, page) == 0
    assert capsys.readouterr().out == f"wrote {folder / 'toy' / '1.0.0.json'}\nevery contract is released\n"
    assert main(["--check"], [OLD], folder, page) == 0
    assert main([], [BROKEN], folder, page) == 1
    assert "toy.id: type string -> int64" in capsys.readouterr().err


def test_the_module_runs_as_a_command():
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "schemas.release", "--check"], cwd=root, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "every contract is released\n", "")
