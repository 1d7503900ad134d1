"""Look for what was erased or taken down in all that is reached from what is live: `python -m jobs.audit --root ROOT`."""

import argparse
import datetime
import os
from collections.abc import Sequence

import polars as pl

from jobs.batch import guarded
from jobs.options import POLICY_FILE, build_runner, iso_date, leave, now, read_policy
from pipelines import ingest
from pipelines.road import Road
from pipelines.runner import Runner
from pipelines.tombstone_scan import latest_tombstones, reached, scan
from schemas.inputs import TOMBSTONE
from schemas.manifest import Manifest
from transforms.io.store import Store, open_store


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when nothing is shown or overdue, 1 when something is or the scan stopped, 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="jobs.audit", description="Is anything left of what must have disappeared?")
    parser.add_argument("--root", default=os.environ.get("ROOT", ".segue"), help="folder or gs:// address to scan")
    parser.add_argument("--raw", help="input folder with newer tombstones (default: those the live date has read)")
    parser.add_argument("--date", type=iso_date, help="tombstones up to its end count (default: today)")
    options = parser.parse_args(argv)
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    store, day = open_store(options.root), options.date or now().date()
    with store.lock(f"audit {day}"):
        there = reached(store)
        runner = build_runner(store, day.isoformat(), [], None, {"audit": day.isoformat()})
        newest = newer_tombstones(runner, options.raw, day) if options.raw else latest_tombstones(store)
        scanned = runner.run(scan(day, there, newest))
    print(_in_words(store, scanned))
    return 0


def newer_tombstones(runner: Runner, raw: str, day: datetime.date) -> Manifest:
    """Ingest the tombstones of an input folder as of a day."""
    road = Road(day, 1, read_policy(POLICY_FILE), runner.code_version, "batch")
    return runner.run(ingest.ingest_snapshot(road, open_store(raw), TOMBSTONE, required=True))


def _in_words(store: Store, scanned: Manifest) -> str:
    """Return what was scanned and found, a line per dataset; the proof file has it by shard."""
    rows = pl.concat([pl.read_parquet(store.local(file.path)) for file in scanned.files])
    told = rows.group_by("reached", "dataset", "qualifier").agg(pl.col("files", "user_hits", "item_hits").sum())
    head = f"  {'reached':<9}{'dataset':<16}{'surface':<14}{'files':>7}{'erased users':>14}{'items down':>12}"
    lines = [
        f"  {how:<9}{dataset:<16}{surface:<14}{files:>7,}{users:>14,}{items:>12,}"
        for how, dataset, surface, files, users, items in told.sort("reached", "dataset", "qualifier").rows()
    ]
    return "\n".join([head, *lines, f"  proof    {store.root}/{scanned.path}"])


if __name__ == "__main__":
    leave(main())
