"""Hold the contracts to the versions that were released: `python -m schemas.release` writes, `--check` judges.

`schemas/released/<name>/<version>.json` keeps the canonical form of every released version. A file is written once and
never changed: what it describes lies in somebody's storage.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from schemas.catalogue import CONTRACTS
from schemas.compatibility import bump, compare
from schemas.contract import Contract
from schemas.documentation import contracts_markdown

RELEASED = Path(__file__).parent / "released"
PAGE = Path(__file__).parents[1] / "docs" / "contracts.md"
Version = tuple[int, int, int]


def check_released(contracts: Iterable[Contract] = CONTRACTS.values(), folder: Path = RELEASED) -> list[str]:
    """Return what is wrong between contracts and released versions, one line each; nothing if the list is empty.

    A contract must equal the released file of its version, and that version must be the latest. Since the latest
    release, a breaking change asks for a new major version and any other change for a new minor one.
    """
    contracts = tuple(contracts)
    problems = [_refusal(contract, folder) or _missing(contract, folder) for contract in contracts]
    gone = sorted({path.parent.name for path in folder.glob("*/*.json")} - {contract.name for contract in contracts})
    return [p for p in problems if p] + [
        f"{name} was released and is no longer in schemas/catalogue.py: bring it back, or delete {folder / name}"
        for name in gone
    ]


def write_released(contracts: Iterable[Contract] = CONTRACTS.values(), folder: Path = RELEASED) -> list[Path]:
    """Write the missing files of the contracts whose version is right, and return their paths."""
    missing = [c for c in contracts if not _refusal(c, folder) and not _path(c, folder).exists()]
    for contract in missing:
        _path(contract, folder).parent.mkdir(parents=True, exist_ok=True)
        _path(contract, folder).write_text(json.dumps(contract.to_json(), indent=1) + "\n", encoding="utf-8")
    return [_path(contract, folder) for contract in missing]


def check_page(contracts: Iterable[Contract] = CONTRACTS.values(), page: Path = PAGE) -> list[str]:
    """Return a line if the page of the contracts is not the one they generate."""
    if page.exists() and page.read_text(encoding="utf-8") == contracts_markdown(contracts):
        return []
    return [f"{page.parent.name}/{page.name} is not what the contracts generate: run `make contracts` and commit it"]


def main(
    argv: Sequence[str] | None = None,
    contracts: Iterable[Contract] = CONTRACTS.values(),
    folder: Path = RELEASED,
    page: Path = PAGE,
) -> int:
    """Write what is missing, or with `--check` nothing, and return 1 if a problem is left."""
    parser = argparse.ArgumentParser(prog="python -m schemas.release", description="Release the contracts.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if anything is not current")
    contracts = tuple(contracts)
    if not parser.parse_args(argv).check:
        for path in write_released(contracts, folder):
            print(f"wrote {path}")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(contracts_markdown(contracts), encoding="utf-8")
    problems = check_released(contracts, folder) + check_page(contracts, page)
    print("\n".join(problems) or "every contract is released", file=sys.stderr if problems else sys.stdout)
    return 1 if problems else 0


def _refusal(contract: Contract, folder: Path) -> str | None:
    """Say why the contract may not carry its version, if it may not."""
    current = _parse(contract.version, f"contract {contract.name}")
    released = [_parse(path.stem, str(path)) for path in folder.glob(f"{contract.name}/*.json")]
    if not released:
        return None
    latest = max(released)
    old = json.loads((folder / contract.name / f"{_text(latest)}.json").read_text(encoding="utf-8"))
    changes = compare(old, contract.to_json())
    least = _raised(latest, bump(changes)) if changes else latest
    if current >= least:
        return None
    reason = "; ".join(map(str, changes)) or "nothing changed since"
    return (
        f"{contract.name} is at {contract.version}, but {_text(latest)} is released and it must be at least "
        f"{_text(least)}: {reason}. Set its version, then run `make contracts`"
    )


def _missing(contract: Contract, folder: Path) -> str | None:
    if _path(contract, folder).exists():
        return None
    return f"{contract.name} {contract.version} is not released: run `make contracts` and commit what it writes"


def _path(contract: Contract, folder: Path) -> Path:
    return folder / contract.name / f"{contract.version}.json"


def _parse(text: str, where: str) -> Version:
    if not re.fullmatch(r"\d+\.\d+\.\d+", text):
        raise ValueError(f"{where}: expected a version MAJOR.MINOR.PATCH, got {text!r}; write 1.0.0 for the first one")
    major, minor, patch = map(int, text.split("."))
    return major, minor, patch


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def _raised(version: Version, part: str) -> Version:
    major, minor, _ = version
    return (major + 1, 0, 0) if part == "major" else (major, minor + 1, 0)


if __name__ == "__main__":
    sys.exit(main())
