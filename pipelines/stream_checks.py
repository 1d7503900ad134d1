"""The checks of each minute's sets, in a process beside the stream: the suite of their contract, by Great Expectations."""

import collections
import contextlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.report_page import STREAM
from pipelines.report_stream import render_stream
from pipelines.stream_validation import LEDGER, read_ledger, verdict
from schemas.candidates import CANDIDATE_SET
from schemas.manifest import CheckResult
from schemas.stream import BROKEN, PASSED
from transforms.io.store import Store
from transforms.io.temporary import PREFIX
from transforms.stream.spool import READY, CutOff, batches, tries_of, waiting, write_verdict
from validation.expectations import SqlCheck, validate
from validation.set_rules import sql_set_rules
from validation.waivers import verdict as decided

PAGE = f"reports/{STREAM}/index.html"
TRIES = 3
_SHOWN = 3


def work(folder: Path, store: Store, code_version: str, wait: Callable[[], None]) -> NoReturn:
    """Check what lies in a folder, the oldest first, and keep the page of the last day.

    Args:
      wait: called where there is nothing to do; raises when it is time to leave.
    """
    drawn: int | None = None
    while True:
        left = waiting(folder)
        if left:
            one = judge_minute(folder, left[0], code_version)
            write_verdict(folder, left[0], one, keep=one["outcome"] != PASSED)
            (folder / tries_of(left[0])).unlink(missing_ok=True)
        elif (changed := _changed(folder / LEDGER)) != drawn:
            store.write_bytes(PAGE, render_stream(read_ledger(folder)).encode())
            drawn = changed
        else:
            wait()


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else -1


def judge_minute(folder: Path, name: str, code_version: str) -> dict[str, Any]:
    """Return the verdict of a minute; one that has ended this process `TRIES` times is `broken`."""
    tries = folder / tries_of(name)
    before = int(tries.read_text() or 0) if tries.exists() else 0
    if before >= TRIES:
        return verdict(name, BROKEN, code_version, severity="critical", detail=f"the checks ended {before} times at it")
    tries.write_text(str(before + 1))
    return judge(name, lambda: batches(folder / f"{name}{READY}"), code_version)


def judge(name: str, read: Callable[[], Iterable[pa.RecordBatch]], code_version: str) -> dict[str, Any]:
    """Return the verdict of the sets of a minute, which are read twice."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as scratch:
        path = f"{scratch}/sets.parquet"
        sets, bundles, cut = whole_minute(read, path)
        try:
            results = validate(CANDIDATE_SET, [path], [SqlCheck(*one) for one in sql_set_rules()])
        except Exception as error:  # whatever it is, it says nothing about the sets, and the next minute waits
            detail = f"the checks could not run, which says nothing about the sets: {type(error).__name__}: {error}"
            return verdict(name, BROKEN, code_version, severity="critical", detail=detail, sets=sets, bundles=bundles)
    return verdict(name, decided(results), code_version, sets=sets, bundles=bundles, **_said(results, cut))


def _said(results: list[CheckResult], cut: str) -> dict[str, Any]:
    odd = [one for one in results if one.outcome != "passed"]
    critical = any(one.severity == "critical" for one in odd)
    detail = "; ".join(filter(None, [*(one.message for one in odd[:_SHOWN]), cut])) or None
    severity = "critical" if critical else "warning" if odd else None
    return {"checks": len(results), "failed": [one.name for one in odd], "severity": severity, "detail": detail}


def whole_minute(read: Callable[[], Iterable[pa.RecordBatch]], path: str) -> tuple[int, list[str], str]:
    """Write the sets of a minute as Parquet; return how many there are, their bundles, and where it was cut off.

    An exact copy of a set is left out: it may be published twice. One that differs stays, and breaks the key.
    Memory: a batch, and the ids of the sets.
    """
    ids: collections.Counter[str] = collections.Counter()
    cut = ""
    try:
        for batch in read():
            ids.update(batch["candidate_set_id"].to_pylist())
    except CutOff as error:
        cut = f"cut off after {ids.total():,} sets ({error}): killed while it was written; the next part goes on"
    met, bundles, sets = set[tuple[str, str]](), set[str](), 0
    with pq.ParquetWriter(path, CANDIDATE_SET.schema, compression="lz4") as writer, contextlib.suppress(CutOff):
        for batch in read():
            kept = _first(batch, ids, met)
            bundles.update(batch["bundle_id"].to_pylist())
            writer.write_batch(kept)
            sets += kept.num_rows
    return sets, sorted(bundles), cut


def _first(batch: pa.RecordBatch, ids: Mapping[str, int], met: set[tuple[str, str]]) -> pa.RecordBatch:
    """Return the rows of a batch that are no exact copies of one before."""
    keep = []
    for row, id_ in enumerate(batch["candidate_set_id"].to_pylist()):
        told = (id_, repr(batch.slice(row, 1).to_pylist())) if ids[id_] > 1 else (id_, "")
        keep.append(told not in met)
        met.update([told] if ids[id_] > 1 else [])
    return batch.filter(pa.array(keep, pa.bool_()))
