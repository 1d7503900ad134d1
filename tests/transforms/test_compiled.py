"""What is compiled once and kept is made anew when anything changes that was frozen into it."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
KERNEL = """
from constants import BITS, STEP
from transforms.compiled import compiled

@compiled
def add(number):
    return number + STEP + BITS[0]

print(add(1), sum(add.stats.cache_hits.values()))
"""


def said(folder: Path, step: int, bit: int) -> str:
    folder.joinpath("constants.py").write_text(f"STEP, BITS = {step}, ({bit},)\n")
    environment = {
        "PYTHONPATH": f"{folder}:{REPOSITORY}",
        "NUMBA_CACHE_DIR": f"{folder}/kept",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", "import kernel"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_an_imported_constant_that_changes_is_compiled_in_anew(tmp_path):
    (tmp_path / "kernel.py").write_text(KERNEL)
    assert said(tmp_path, 1, 10) == "12 0\n"
    assert said(tmp_path, 1, 10) == "12 1\n", "it is kept"
    assert said(tmp_path, 2, 10) == "13 0\n"
    assert said(tmp_path, 2, 20) == "23 0\n"
