"""Ingest, histories and tallies beside a bare polars script that does the same work, in one run.

    python -m benchmarks.road [--events 10000000] [--json FILE]

Writes a synthetic world as Parquet, then runs each side in a process of its own. The road's side includes all checks,
lineage and commits; the bare side (`benchmarks/bare_polars.py`) has none of them.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

END = datetime.date(2026, 1, 31)
MAX_RATIO = 1.5
MAX_PEAK_MB = 4096
EVENTS_PER_SHARD = 1_000_000
ROAD = """
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


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command and return its wall seconds and peak memory in MB.

    Raises:
      RuntimeError: it failed.
    """
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)[:200]} ended with status {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Print the figures and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        raw, day = f"{folder}/raw", END.isoformat()
        world = ["jobs.world", "--preset", "bench", "--format", "parquet", "--out", raw, "--end", day]
        subprocess.run([sys.executable, "-m", *world, "--events", str(options.events)], check=True)
        bare = ["benchmarks.bare_polars", "--raw", raw, "--out", f"{folder}/bare", "--as-of", day]
        bare_s, bare_mb = measure([sys.executable, "-m", *bare])
        shards = max(2, options.events // EVENTS_PER_SHARD)
        road_s, road_mb = measure([sys.executable, "-c", ROAD, raw, f"{folder}/root", day, str(shards)])
    size, ratio = f"{options.events:,} events", road_s / bare_s
    rows = [
        {"name": f"bare polars, {size}", "value": round(bare_s, 2), "unit": "s", "target": None, "met": None},
        {"name": f"road, {size}", "value": round(road_s, 2), "unit": "s", "target": None, "met": None},
        {"name": f"road / bare polars, {size}", "value": round(ratio, 3), "unit": "ratio", "target": f"<= {MAX_RATIO}",
         "met": ratio <= MAX_RATIO},
        {"name": f"bare polars peak memory, {size}", "value": round(bare_mb), "unit": "MB", "target": None, "met": None},
        {"name": f"road peak memory, {size}", "value": round(road_mb), "unit": "MB", "target": f"<= {MAX_PEAK_MB}",
         "met": road_mb <= MAX_PEAK_MB},
    ]  # fmt: skip
    for row in rows:
        met = {True: "met", False: "NOT met", None: ""}[row["met"]]
        print(f"{row['name']:<48}{row['value']:>12,} {row['unit']:<6} {row['target'] or ''} {met}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
