"""What is built is what is here, under names nobody else has."""

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from apache_beam.runners.portability.stager import Stager

ROOT = Path(__file__).resolve().parents[1]
NAME = "segue-candidates"
TOP_LEVEL = ("schemas", "validation", "transforms", "pipelines", "jobs")


def on_disk(root: Path) -> set[str]:
    """Return the modules and the data files they read, relative to the repository."""
    found = (path for layer in TOP_LEVEL for path in (root / layer).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in found if "__pycache__" not in path.parts}


def test_nobody_else_installs_our_packages():
    owners = importlib.metadata.packages_distributions()
    assert {name: set(owners.get(name, [])) for name in TOP_LEVEL} == {name: {NAME} for name in TOP_LEVEL}


def test_every_folder_of_code_is_a_package():
    folders = {path.rpartition("/")[0] for path in on_disk(ROOT) if path.endswith(".py")}
    assert [folder for folder in sorted(folders) if not (ROOT / folder / "__init__.py").is_file()] == []


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of what is in the repository: building leaves files beside the sources."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in (*TOP_LEVEL, "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy / name)
    return copy


def test_wheel_holds_all_code_and_data(checkout, tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), "."], cwd=checkout, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == on_disk(checkout)
    assert any(name.endswith("LICENSE") for name in names)


def test_dataflow_workers_get_all_code_and_data(checkout, tmp_path):
    """Beam builds what `--setup_file=./setup.py` names by itself; workers install the result."""
    archive = Stager._build_setup_package(str(checkout / "setup.py"), str(tmp_path))
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames() if "/" in name}
    assert on_disk(checkout) <= names
