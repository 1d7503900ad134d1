"""Write a seeded synthetic world as a raw folder, and the truth about it beside that folder.

`python -m jobs.world --preset laptop --out RAW --end 2026-01-31` writes RAW/events, items, users, campaigns and
tombstones, and RAW.truth/ with what was planted; the road never reads the latter.
"""

import argparse
import collections
import dataclasses
import datetime
import itertools
import json
import pathlib
import shutil
import sys
import time

import polars as pl

from transforms.world import FOLDERS, World, build_world, event_batches, item_truth, snapshots, user_truth
from transforms.world_dirt import MALFORMED, encode_events, encode_lines
from transforms.world_setting import PRESETS, Dirt, Setting

FILE_EVENTS = 50_000
FORMATS = ("jsonl", "parquet")


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(argv)
    try:
        setting = _setting(options)
        write_world(setting, pathlib.Path(options.out), options.format)
    except (ValueError, FileExistsError) as error:
        print(f"world: {error}", file=sys.stderr)
        return 2
    return 0


def write_world(setting: Setting, out: pathlib.Path, format_: str) -> dict:
    """Write a raw folder and its truth; return the truth.

    The folder `<out>.partial` is there until both are whole: a write that was cut short starts over.

    Raises:
      FileExistsError: `out` holds something else than a world written by this command.
    """
    truth_folder = out.with_name(out.name + ".truth")
    if out.exists() and any(out.iterdir()) and not (truth_folder / "truth.json").exists():
        raise FileExistsError(f"{out} holds files, but not those of a synthetic world; name an empty or a new folder")
    partial = out.with_name(out.name + ".partial")
    for folder in ("raw", "truth"):
        shutil.rmtree(partial / folder, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    world = build_world(setting)
    for name, table in snapshots(world).items():
        _write_rows(partial / "raw" / FOLDERS[name], 0, pl.DataFrame(pl.from_arrow(table)), format_)
    truth = {"setting": _plain(setting), "format": format_, **_write_events(world, partial / "raw" / "events", format_)}
    _write_truth(world, truth, partial / "truth")
    for target in (out, truth_folder):  # the raw folder goes first and comes last: it never stands without its truth
        shutil.rmtree(target, ignore_errors=True)
    (partial / "truth").rename(truth_folder)
    (partial / "raw").rename(out)
    partial.rmdir()
    return truth


def _write_events(world: World, folder: pathlib.Path, format_: str) -> dict:
    """Write the events, file after file in order of arrival, and add the truth up."""
    counts: collections.Counter[str] = collections.Counter()
    malformed, by_date = counts.copy(), counts.copy()
    began, file = time.perf_counter(), 0
    for batch in event_batches(world):
        num_files = max(1, round(batch.events.height / FILE_EVENTS))
        cuts = [batch.events.height * i // num_files for i in range(num_files + 1)]
        for low, high in itertools.pairwise(cuts):
            malformed.update(_write_rows(folder, file, batch.events[low:high], format_, world.setting))
            file += 1
        counts.update(batch.counts)
        by_date.update(batch.by_date)
        counts["rows"] += batch.events.height
        _show(counts["events"], world.setting.events, time.perf_counter() - began)
    counts["malformed"] = sum(malformed.values())
    counts["rows"] += counts["malformed"]
    return {
        "counts": dict(sorted(counts.items())),
        "malformed": {kind: malformed[kind] for kind in MALFORMED},
        "events_by_date": dict(sorted(by_date.items())),
    }


def _write_rows(
    folder: pathlib.Path, file: int, rows: pl.DataFrame, format_: str, setting: Setting | None = None
) -> dict[str, int]:
    """Write one file; JSON lines of events, which come with their setting, get their malformed lines."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"part-{file:05d}.{format_}"
    if format_ == "parquet":
        rows.write_parquet(path, compression="zstd", compression_level=1)
        return {}
    lines, malformed = encode_events(rows, setting, file) if setting else (encode_lines(rows), {})
    path.write_bytes(lines)
    return malformed


def _write_truth(world: World, truth: dict, folder: pathlib.Path) -> None:
    folder.mkdir()
    item_truth(world).write_parquet(folder / "items.parquet")
    user_truth(world).write_parquet(folder / "users.parquet")
    truth["counts"]["unknown_users"] = world.setting.users - world.people.table.num_rows
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")


def _show(done: int, total: int, seconds: float) -> None:
    left = seconds / done * (total - done)
    print(f"world: {done:,} of {total:,} events, {seconds:.0f} s, about {left:.0f} s left", file=sys.stderr, flush=True)


def _plain(setting: Setting) -> dict:
    return dataclasses.asdict(setting) | {"end": setting.end.isoformat()}


def _setting(options: argparse.Namespace) -> Setting:
    size = PRESETS[options.preset] | ({"events": options.events} if options.events else {})
    kinds = tuple(kind for kind in options.faults if kind != "none")
    dirt = Dirt() if options.faults == ["all"] else Dirt.only(kinds)
    return Setting(**size, end=options.end, days=options.days, seed=options.seed, dirt=dirt)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.world", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="laptop", help="size (laptop)")
    parser.add_argument("--out", required=True, help="raw folder to write")
    parser.add_argument("--end", type=datetime.date.fromisoformat, required=True, help="last day, YYYY-MM-DD")
    parser.add_argument("--events", type=int, help="another number of events than the preset's")
    parser.add_argument("--days", type=int, default=28, help="days of events (28)")
    parser.add_argument("--seed", type=int, default=7, help="same seed and size: same bytes (7)")
    parser.add_argument("--format", choices=FORMATS, default="jsonl", help="files of the raw folder (jsonl)")
    parser.add_argument(
        "--faults", nargs="+", default=["all"], metavar="KIND",
        help="all (default), none, or some of duplicates, conflicts, late, malformed, future",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
