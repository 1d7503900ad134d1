"""Turn a folder of a public data set into a raw folder: events, items and users as a producer would deliver them.

Such sets carry an order but no timestamps, so times are made up, the same ones every time. END is the last day; the
window is the 28 UTC days up to and with END.

- `sessions`: each session is an anonymous user, `train-17` for session 17 of train_sessions.parquet. Session i of n, in
  row order, train first and test last, starts at i / n of the window; a session that would pass midnight is moved
  back, so that no day cuts it.
- `sequences`: a user's plays are cut into m equal chunks of at most 10. Chunk c starts at (c + u) / m of the window, u
  in [0, 1) by the stable hash of the user's id, which also decides the time of day; moved back from midnight likewise.
- `pairs`: the same in chunks of at most 20, pairs in file order. With play counts, a pair becomes
  1 + floor(log10(plays)) listens, in passes: pass p holds what has at least p listens, the most played first. The
  tags of an artist become its genres, the 10 strongest first. Friends are not read.

Every play is a full listen the user picked: plays are 200 s long and apart, in the order given, received 1 s later,
market `ZZ`, tier premium. Items are of type track (books and videos too: the sets do not say), or artist where
the column is `artist`; none is explicit and all may be recommended. What else a set does not know is left out.
"""

import dataclasses
import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.contract import Contract
from schemas.inputs import EVENT, ITEM, USER
from transforms.import_files import require_folder
from transforms.import_shapes import Reading, pairs, sequences, sessions
from transforms.import_stamps import WINDOW_DAYS

IMPORTER_VERSION = 1
RECORD = "import.json"
SHAPES: dict[str, Callable[[Path], Reading]] = {"sessions": sessions, "sequences": sequences, "pairs": pairs}
_CONTRACTS: dict[str, Contract] = {"events": EVENT, "items": ITEM, "users": USER}


@dataclasses.dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import wrote: numbers of rows, and the rule by which times were made up."""

    events: int
    items: int
    users: int
    sessions: int
    rule: str


def import_folder(shape: str, source: Path, out: Path, end: dt.date, progress: Callable[[str], None]) -> ImportSummary:
    """Write `out/{events,items,users}/part-*.parquet` and `out/import.json` from a folder of a known shape.

    The same inputs give the same bytes; importing them again does nothing. `out` is replaced in one move, and only
    where it is empty or holds an earlier import.

    Args:
      shape: one of `SHAPES`.
      end: UTC day of the last events.
      progress: told one line at a time.

    Raises:
      FileNotFoundError: the source lacks a file the shape needs.
      FileExistsError: `out` holds something else.
      ValueError: an unknown shape, or a file that is not what the shape expects.
    """
    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}; expected one of {', '.join(SHAPES)}")
    require_folder(source)
    reading = SHAPES[shape](source)
    inputs = _inputs(shape, reading, end)
    earlier = _earlier_record(out)
    if earlier is not None and earlier["inputs"] == inputs and _complete(out, earlier):
        progress(f"{out} already holds this import of {source}: nothing to do")
        return ImportSummary(**earlier["summary"])
    staged = out.with_name(f".{out.name}.importing")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        summary, files = _write(reading, end, staged, progress)
        record = {"inputs": inputs, "summary": dataclasses.asdict(summary), "files": files}
        (staged / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        _swap(staged, out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    progress(f"imported {summary.events:,} events, {summary.items:,} items, {summary.users:,} users into {out}")
    return summary


def _inputs(shape: str, reading: Reading, end: dt.date) -> dict[str, Any]:
    """Return everything the output depends on."""
    return {
        "importer_version": IMPORTER_VERSION,
        "shape": shape,
        "end": end.isoformat(),
        "rule": reading.rule,
        "sources": [{"name": path.name, "sha256": _sha256(path)} for path in reading.files],
    }


def _earlier_record(out: Path) -> dict[str, Any] | None:
    """Return what an earlier import wrote; None where nothing lies.

    Raises:
      FileExistsError: `out` is there and is no import.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        record = json.loads((out / RECORD).read_text())
        return {key: record[key] for key in ("inputs", "summary", "files")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileExistsError(
            f"{out} is there but holds no {RECORD} of an earlier import, so it is left alone; "
            "choose another folder or remove it"
        ) from error


def _complete(out: Path, record: dict[str, Any]) -> bool:
    paths = [(out / file["path"], file["bytes"]) for file in record["files"]]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _write(
    reading: Reading, end: dt.date, folder: Path, progress: Callable[[str], None]
) -> tuple[ImportSummary, list[dict[str, Any]]]:
    """Write every part; hold one at a time."""
    rows, parts, num_sessions = dict.fromkeys(_CONTRACTS, 0), dict.fromkeys(_CONTRACTS, 0), 0
    files: list[dict[str, Any]] = []
    for dataset in _CONTRACTS:
        (folder / dataset).mkdir(parents=True)
    for dataset, frame in reading.parts(end - dt.timedelta(days=WINDOW_DAYS - 1)):
        path = folder / dataset / f"part-{parts[dataset]:05d}.parquet"
        pq.write_table(_table(frame, _CONTRACTS[dataset]), path, compression="zstd")
        files.append({"path": f"{dataset}/{path.name}", "rows": len(frame), "bytes": path.stat().st_size})
        rows[dataset] += len(frame)
        parts[dataset] += 1
        if dataset == "events":
            num_sessions += frame["session_id"].n_unique()
            progress(f"{rows['events']:,} events written")
    return ImportSummary(**rows, sessions=num_sessions, rule=reading.rule), files


def _table(frame: pl.DataFrame, contract: Contract) -> pa.Table:
    """Return a frame in the types and the column order of its contract; columns that are not there stay out."""
    names = [name for name in contract.given_columns() if name in frame.columns]
    assert len(names) == frame.width, f"{frame.columns} are not all given columns of {contract.name}"
    schema = pa.schema([pa.field(name, contract.schema.field(name).type) for name in names])
    return frame.select(names).to_arrow().cast(schema)


def _swap(staged: Path, out: Path) -> None:
    """Put a finished folder in the place of an earlier one; killed in between, the next import starts over."""
    old = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    staged.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
