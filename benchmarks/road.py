"""Ingest, histories and tallies beside a bare polars script that does the same work; and the demo, cold and warm.

    python -m benchmarks.road [--events 10000000] [--json FILE]

Writes a synthetic world as Parquet, a tenth of the events first, then runs each side in a process of its own. The road's
side includes all checks, lineage and commits; the bare side (`benchmarks/bare_polars.py`) has none of them. Their tables
are compared value by value for the smaller world; where they differ there is no ratio to speak of, and the run fails.
"""

import argparse
import datetime
import glob
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from schemas.catalogue import CONTRACTS

END = datetime.date(2026, 1, 31)
MAX_RATIO = 1.5
MAX_PEAK_MB = 4096
MAX_GROWTH = 11
MAX_DEMO_S = 180
EVENTS_PER_SHARD = 1_000_000
TABLES = ("event", "item", "user", "history", "popularity", "artist_top", "co_listen", "transition")
_DIGESTS = ("text_hash",)  # each side has its own hash of the same text
_ROAD = """
import sys, datetime
from jobs.options import POLICY_FILE, build_runner, read_policy
from pipelines.batch import ingest_all, tally_all
from pipelines.road import Road
from transforms.io.store import open_store
raw, root, day, shards = sys.argv[1:]
date = datetime.date.fromisoformat(day)
runner = build_runner(open_store(root), day, [], None, {})
road = Road(date, int(shards), read_policy(POLICY_FILE), runner.code_version, "batch")
tally_all(runner, road, ingest_all(runner, road, open_store(raw)))
"""


def measure(arguments: list[str]) -> tuple[float, float]:
    """Run Python with these arguments and return its wall seconds and peak memory in MB.

    Raises:
      RuntimeError: it failed.
    """
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(arguments)[:200]} ended with status {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - start, usage.ru_maxrss / 1024


def row(name: str, value: float, unit: str, most: float | None = None) -> dict:
    """Return one figure; it is met where it is at most `most`."""
    target, met = (None, None) if most is None else (f"<= {most:g}", value <= most)
    return {"name": name, "value": round(value, 3), "unit": unit, "target": target, "met": met}


def differing(root: str, bare: str) -> list[str]:
    """Return `table.column` for every column in which the two sides' tables differ."""
    found = []
    for name in TABLES:
        key = list(CONTRACTS[name].key)
        ours = pl.read_parquet(sorted(glob.glob(f"{root}/data/{name}/*/*/part-*.parquet")), hive_partitioning=False)
        theirs = pl.read_parquet(f"{bare}/{name}.parquet")
        both = [c for c in theirs.columns if c in ours.columns and c not in _DIGESTS]
        a = ours.select(both).sort(key)
        b = theirs.select(pl.col(c).cast(a.schema[c]) for c in both).sort(key)
        found += [f"{name}.{c}" for c in both if a.height != b.height or not a[c].equals(b[c])]
    return found


def side_by_side(folder: str, events: int, *, compare: bool) -> tuple[list[dict], float]:
    """Run both sides on a world of so many events; return the rows and the road's seconds.

    Raises:
      RuntimeError: a side failed, or their tables differ.
    """
    raw, bare, root, day = f"{folder}/raw", f"{folder}/bare", f"{folder}/root", END.isoformat()
    world = ["jobs.world", "--preset", "bench", "--format", "parquet", "--out", raw, "--end", day]
    subprocess.run([sys.executable, "-m", *world, "--events", str(events)], check=True)
    bare_s, bare_mb = measure(["-m", "benchmarks.bare_polars", "--raw", raw, "--out", bare, "--as-of", day])
    shards = max(2, events // EVENTS_PER_SHARD)
    road_s, road_mb = measure(["-c", _ROAD, raw, root, day, str(shards)])
    if compare and (columns := differing(root, bare)):
        raise RuntimeError(f"the road and the bare script disagree on {', '.join(columns)}: mend the one that is wrong")
    size = f"{events:,} events"
    ratio = row(f"road / bare polars, {size}", road_s / bare_s, "ratio", None if compare else MAX_RATIO)
    rows = [
        row(f"bare polars, {size}", bare_s, "s"),
        row(f"road, {size}", road_s, "s"),
        ratio,
        row(f"bare polars peak memory, {size}", bare_mb, "MB"),
        row(f"road peak memory, {size}", road_mb, "MB", MAX_PEAK_MB),
    ]
    return rows, road_s


def main() -> None:
    """Print the figures and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        demo = ["-m", "jobs.demo", "--date", END.isoformat(), "--root", f"{folder}/demo"]
        cold, _ = measure(demo)
        warm, _ = measure(demo)
        rows = [row("demo, cold", cold, "s", MAX_DEMO_S), row("demo, warm", warm, "s")]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        small, small_s = side_by_side(folder, options.events // 10, compare=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        large, large_s = side_by_side(folder, options.events, compare=False)
    growth = row(f"road, {options.events // 10:,} to {options.events:,} events", large_s / small_s, "x", MAX_GROWTH)
    rows += [*small, *large, growth]
    for one in rows:
        met = {True: "met", False: "NOT met", None: ""}[one["met"]]
        print(f"{one['name']:<48}{one['value']:>12,} {one['unit']:<6} {one['target'] or ''} {met}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
