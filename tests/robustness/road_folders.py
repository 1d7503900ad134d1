"""Small worlds, runs of the road over them, and what a reader of the root finds: shared by tests and scripts."""

import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl

from jobs.options import POLICY_FILE, build_runner, read_policy
from jobs.world import write_world
from pipelines.batch import ingest_all
from pipelines.road import Road
from schemas.manifest import Manifest
from transforms.io.store import open_store
from transforms.world_setting import Setting

TODAY = datetime.date(2026, 1, 31)
YESTERDAY = datetime.date(2026, 1, 30)
SMALL = Setting(users=300, items=2_000, events=8_000, markets=2, end=TODAY, days=10)
"""The smallest world whose clean days pass every gate: with fewer users the sets for nobody weigh too much."""
SIZES = {"home": (60, 20, 40), "now_playing": (40, 10, 30)}
_SIZE_NAMES = ("size", "minimum_size", "fill_to")
REPOSITORY = Path(__file__).resolve().parents[2]


def write_raw(folder: Path, setting: Setting = SMALL) -> Path:
    """Write a world as Parquet and return its folder."""
    write_world(setting, folder, "parquet")
    return folder


def deliver_daily(raw: Path) -> Path:
    """Lay the events out as they are delivered, those of the last day by themselves; return the raw folder."""
    events = pl.concat([pl.read_parquet(file) for file in sorted(raw.glob("events/*.parquet"))])
    shutil.rmtree(raw / "events")
    new = pl.col("event_ts").dt.date() >= TODAY
    for date, rows in {YESTERDAY: events.filter(~new), TODAY: events.filter(new)}.items():
        folder = raw / f"events/date={date}"
        folder.mkdir(parents=True)
        rows.write_parquet(folder / "part-0.parquet")
    return raw


def write_policy(path: Path) -> Path:
    """Write the repository's policy with sets small enough for a catalogue of 2,000 items, and one epoch."""
    text = POLICY_FILE.read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    surfaces = tables["surfaces"]
    text = text.replace(f"encoder_epochs = {tables['road']['encoder_epochs']}\n", "encoder_epochs = 1\n")
    for name, sizes in SIZES.items():
        old = "\n".join(f"{key} = {surfaces[name][key]}" for key in _SIZE_NAMES)
        assert old in text, f"the sizes of {name} are no longer on three lines in a row"
        text = text.replace(old, "\n".join(f"{key} = {size}" for key, size in zip(_SIZE_NAMES, sizes, strict=True)))
    path.write_text(text, encoding="utf-8")
    return path


def arguments(raw: Path, root: Path, policy: Path, date: datetime.date = TODAY) -> list[str]:
    """Return the arguments of `jobs.batch`."""
    return [
        "--raw", str(raw), "--date", str(date), "--root", str(root), "--shards", "2", "--policy", str(policy),
    ]  # fmt: skip


def start(command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """Start a command in the repository, with everything it says in a file."""
    with log.open("ab") as out:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=os.environ | (environment or {}), stdout=out, stderr=subprocess.STDOUT
        )


def start_batch(options: Sequence[str], log: Path) -> subprocess.Popen:
    """Start `jobs.batch` in a process of its own."""
    return start([sys.executable, "-m", "jobs.batch", *options], log)


def ingest(raw: Path, root: Path, policy: Path, date: datetime.date = TODAY) -> Manifest:
    """Run the stages of ingest alone; return the manifest of the events."""
    store = open_store(str(root))
    runner = build_runner(store, date.isoformat(), [], None, {})
    road = Road(date, 2, read_policy(policy), runner.code_version, "batch")
    return ingest_all(runner, road, open_store(str(raw))).events


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(root: Path, folders: Iterable[str] = ("data", "live")) -> dict[str, str]:
    """Return the sha256 of every file in some folders of a root, by path; what a dead writer began is no file yet."""
    every = (path for folder in folders for path in root.joinpath(folder).rglob("*") if path.is_file())
    files = [path for path in every if path.suffix != ".tmp"]
    return {str(path.relative_to(root)): digest(path) for path in sorted(files)}


def published(root: Path) -> dict[str, str]:
    """Return the sha256 of every pointer and of every data file that its manifest names."""
    found = {}
    for pointer, manifest in _live(root):
        found[str(pointer.relative_to(root))] = digest(pointer)
        found |= {file["path"]: digest(root / file["path"]) for file in manifest["files"]}
    return found


def live_dates(root: Path) -> dict[str, str]:
    """Return the logical date that is live, by surface."""
    return {path.stem: json.loads(path.read_bytes())["logical_date"] for path in sorted(root.glob("live/*.json"))}


def _live(root: Path) -> Iterator[tuple[Path, dict]]:
    for pointer in sorted(root.glob("live/*.json")):
        yield pointer, json.loads(root.joinpath(json.loads(pointer.read_bytes())["manifest"]).read_bytes())


def reader_finds(root: Path) -> list[str]:
    """Return what is wrong with what is live at this moment: nothing, if every file named is there and whole."""
    wrong = []
    for pointer, manifest in _live(root):
        for file in manifest["files"]:
            path = root / file["path"]
            if not path.is_file():
                wrong.append(f"{pointer.name}: {file['path']} is not there")
            elif digest(path) != file["sha256"]:
                wrong.append(f"{pointer.name}: {file['path']} is not what its manifest says")
        if not manifest["files"]:
            wrong.append(f"{pointer.name}: no files")
    return wrong


def half_committed(root: Path) -> list[str]:
    """Return the files that some committed manifest names and that are not there in full size."""
    wrong = []
    for path in root.glob("data/**/manifest.json"):
        manifest = json.loads(path.read_bytes())
        for file in (*manifest["files"], *manifest["rejection_files"]):
            data = root / file["path"]
            if not data.is_file() or data.stat().st_size != file["bytes"]:
                wrong.append(f"{path.relative_to(root)}: {file['path']}")
    return wrong
