"""Write the laptop world and run the whole road on it: `python -m jobs.demo --date 2026-01-31`."""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.batch import guarded, run_date, summary, write_page
from jobs.options import add_common, iso_date, leave, parse_beam
from jobs.world import write_world
from transforms.io.store import Store, open_store
from transforms.world_setting import PRESETS, Setting

SHARDS = 2
FORMAT = "jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when its date is published or was already, 1 when it stopped, 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="jobs.demo", description="A synthetic world, and the whole road on it.")
    parser.add_argument("--date", required=True, type=iso_date, help="last day of the world and date of the run")
    parser.add_argument("--preset", default="laptop", choices=sorted(PRESETS), help="size of the world (laptop)")
    parser.add_argument("--events", type=int, help="another number of events than the preset's")
    parser.add_argument("--seed", type=int, default=7, help="same seed: same world, same sets (7)")
    add_common(parser)
    parser.set_defaults(shards=SHARDS)
    options, beam_args = parse_beam(parser, argv)
    return guarded(lambda: _run(options, beam_args))


def _run(options: argparse.Namespace, beam_args: list[str]) -> int:
    size = PRESETS[options.preset] | ({"events": options.events} if options.events else {})
    setting = Setting(**size, end=options.date, seed=options.seed)
    store = open_store(options.root)
    with store.lock(f"demo {options.date}"):
        started = time.monotonic()
        raw = write_demo_world(setting, store)
        runner, result = run_date(store, raw, options.date, options, beam_args, "batch")
        print(summary(runner.records, result, time.monotonic() - started))
        if all(record.skipped for record in runner.records):
            print("\n  Nothing changed since the last run, so nothing was done again.")
        print(f"\n  page  {write_page(store, options.date.isoformat())}")
    return 0


def write_demo_world(setting: Setting, store: Store) -> Store:
    """Write the world under `raw/` of a local root, unless it is there already, and return it as a raw folder.

    Raises:
      ValueError: the root is not local, or `raw/` holds something else than a synthetic world.
    """
    if store.root.startswith("gs://"):
        raise ValueError(f"the demo writes its world to a local folder, got {store.root}; give ROOT= a folder")
    folder = Path(store.root, "raw")
    if not _written(setting, folder):
        print(f"  Writing a synthetic world of {setting.events:,} events to {folder}", file=sys.stderr, flush=True)
        try:
            write_world(setting, folder, FORMAT)
        except FileExistsError as error:
            raise ValueError(str(error)) from error
    return open_store(str(folder))


def _written(setting: Setting, folder: Path) -> bool:
    """Tell whether the folder holds the whole world of a setting."""
    truth = folder.with_name(f"{folder.name}.truth") / "truth.json"
    if not (truth.is_file() and folder.is_dir()) or folder.with_name(f"{folder.name}.partial").exists():
        return False
    wanted = dataclasses.asdict(setting) | {"end": setting.end.isoformat()}
    found = json.loads(truth.read_bytes())
    return (found["setting"], found["format"]) == (wanted, FORMAT)


if __name__ == "__main__":
    leave(main())
