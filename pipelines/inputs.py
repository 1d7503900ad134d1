"""Raw input folders: what is in them, whether it can be read, and how the reading is split.

    RAW/events/  RAW/items/  RAW/users/  RAW/campaigns/  RAW/tombstones/     *.jsonl *.csv *.parquet, any depth

A folder `date=YYYY-MM-DD` holds what had arrived by that date; a run as of an earlier date leaves it out.
"""

import dataclasses
import difflib
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.contract import Contract
from schemas.manifest import InputRef
from transforms.decode import UnreadableFile
from transforms.ingest import FILLED
from transforms.io.store import Store
from transforms.shards import Task

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
SPAN_BYTES = 64 * 2**20
SPAN_ROWS = 500_000
_DATE = re.compile(r"(?:^|/)date=(\d{4}-\d{2}-\d{2})(?:/|$)")


class InputError(ValueError):
    """The input cannot be run on; the message names the check and the next step."""


@dataclasses.dataclass(frozen=True, slots=True)
class RawFile:
    """One raw file: name relative to the raw root, address to read it from, digest."""

    name: str
    address: str
    sha256: str


def raw_files(raw: Store, contract: Contract, as_of: str, *, required: bool) -> list[RawFile]:
    """List a dataset's raw files as of a date, by name, and digest each. Raises what `raw_names` does."""
    names = raw_names(raw, contract, as_of, required=required)
    return [RawFile(name, f"{raw.root}/{name}", raw.digest(name)) for name in names]


def raw_names(raw: Store, contract: Contract, as_of: str, *, required: bool) -> list[str]:
    """List the paths of a dataset's raw files as of a date, sorted; nothing is read.

    Raises:
      InputError: there are none and `required`, or a file of another kind lies among them.
    """
    folder = f"{contract.name}s"
    names = [name for name in raw.list(folder) if not name.rsplit("/", 1)[-1].startswith((".", "_"))]
    wrong = [name for name in names if not name.endswith(SUFFIXES)]
    if wrong:
        raise InputError(
            f"raw_files: {raw.root}/{wrong[0]} is none of {', '.join(SUFFIXES)}; unpack it, or move it out of {folder}/"
        )
    chosen = [name for name in names if _arrived(name) <= as_of]
    if not chosen and required:
        later = f" ({len(names)} files arrived after {as_of})" if names else ""
        raise InputError(
            f"raw_files: no {', '.join(SUFFIXES)} files under {raw.root}/{folder}/{later}. Point RAW= at a folder with events/ and"
            " items/ (users/, campaigns/ and tombstones/ are optional), or name an importer with FORMAT=."
        )
    return chosen


def _arrived(name: str) -> str:
    found = _DATE.search(name)
    return found.group(1) if found else ""


def raw_refs(files: Sequence[RawFile], contract: Contract) -> tuple[InputRef, ...]:
    """Return what names raw files as inputs of a stage."""
    return tuple(InputRef(f"raw_{contract.name}", file.address, file.sha256) for file in files)


def raw_tasks(raw: Store, files: Sequence[RawFile], contract: Contract) -> tuple[Task, ...]:
    """Make tasks of about 64 MiB of text or half a million Parquet rows: large files split, small ones together.

    Raises:
      UnreadableFile: a Parquet file is cut off.
      InputError: a Parquet file lacks a column that every row must have.
    """
    tasks: list[Task] = []
    whole: list[RawFile] = []
    held = 0.0
    for file in files:
        share, spans = _spans(raw, file, contract)
        if whole and (spans or held + share > 1):
            tasks.append(_task(len(tasks), whole))
            whole, held = [], 0.0
        if not spans:
            whole, held = [*whole, file], held + share
        tasks += [_task(len(tasks) + i, [file], span) for i, span in enumerate(spans)]
    return (*tasks, _task(len(tasks), whole)) if whole else tuple(tasks)


def _task(number: int, files: Sequence[RawFile], span: tuple[int, int] | None = None) -> Task:
    text = span is not None and span[0] and not files[0].name.endswith(".parquet")
    names = (f"{files[0].name}@{span[0]}",) if text and span else tuple(file.name for file in files)
    return Task(f"raw-{number:06d}", number, {"raw": tuple(file.address for file in files), "name": names}, span=span)


def _spans(raw: Store, file: RawFile, contract: Contract) -> tuple[float, list[tuple[int, int]]]:
    """Return how many tasks a file fills and, where it is to be split, the parts."""
    local = raw.local(file.name)
    if file.name.endswith(".parquet"):
        return _row_group_spans(local, file.name, contract)
    with open(local, "rb") as opened:
        size = opened.seek(0, 2)
    if file.name.endswith(".csv") or size <= SPAN_BYTES:
        return size / SPAN_BYTES, []
    return size / SPAN_BYTES, [(start, min(start + SPAN_BYTES, size)) for start in range(0, size, SPAN_BYTES)]


def _row_group_spans(local: str, name: str, contract: Contract) -> tuple[float, list[tuple[int, int]]]:
    try:
        metadata = pq.read_metadata(local)
    except (pa.ArrowInvalid, OSError) as error:
        raise UnreadableFile(
            f"raw_files: {name} is not readable Parquet ({error}). It may have been cut off while it was copied: copy it again,"
            " or move it out of the input folder."
        ) from error
    check_columns(metadata.schema.to_arrow_schema().names, name, contract)
    spans, start, rows = [], 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= SPAN_ROWS or group == metadata.num_row_groups - 1:
            spans.append((start, group + 1))
            start, rows = group + 1, 0
    return metadata.num_rows / SPAN_ROWS, spans if len(spans) > 1 else []


def check_columns(found: Sequence[str], name: str, contract: Contract) -> None:
    """Refuse a columnar file that lacks a required column.

    Raises:
      InputError: naming the column, and the found one that looks most like it.
    """
    for column in contract.given_columns():
        field = contract.schema.field(column)
        if column in found or field.nullable or column in FILLED:
            continue
        close = difflib.get_close_matches(
            column, [c for c in found if c not in contract.given_columns()], n=1, cutoff=0.4
        )
        hint = f" Was it renamed to {close[0]!r}?" if close else ""
        raise InputError(
            f"raw_columns: {name} has no column {column!r}, which every {contract.name} must have.{hint} Found: {', '.join(found)}."
        )
