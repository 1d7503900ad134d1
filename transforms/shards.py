"""How a stage's work is spread: Beam moves references to files, the work reads and writes whole shards.

    ProcessShards    task -> read its files -> function -> one output file
    ExchangeShards   task -> read -> emit -> part files by target -> GroupByKey of their paths -> merge -> output file

Nothing but tasks and paths is a Beam element, so that a shuffle costs a few hundred bytes per file whatever its rows.
Memory: a worker holds the input of one task and its output; the number of shards is chosen so that this fits.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from schemas.candidates import REJECTION
from schemas.catalogue import CONTRACTS
from schemas.contract import Contract
from transforms.io.store import Store, file_digest, open_store
from transforms.io.tables import conform, demand_columns, write_parquet, write_part
from validation.rows import polars_schema, split_rows
from validation.statistics import Statistics, collect

TARGET = "__target"
_WHO = ("user_id", "key", "record_key")  # may name a user, and what is rejected names nobody
ARTIFACTS = "artifacts"
"""The folder, beside a dataset's parts, of what is no table."""
SAID = "said.txt"
"""In the staging folder: what long work last said of how far it is."""
SPENT = "spent"
"""In the staging folder: `Output.spent` by task, until the stage is committed."""
EVERYONE = "*"
"""The target of rows that every target sees."""


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One unit of work: what to read and what the output is called.

    Attributes:
      name: unique within the stage and safe in a file name; the output is `part-<name>.parquet`.
      inputs: files per input name, relative to the root; a raw file is an absolute path or a `gs://` address.
      span: the part of a raw file to read: bytes of a text file, row groups of a Parquet file.
    """

    name: str
    shard: int
    inputs: Mapping[str, tuple[str, ...]]
    event_date: str | None = None
    span: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Workspace:
    """Where a stage writes while it is not committed.

    Attributes:
      at_once: tasks that one Beam worker does at a time.
    """

    root: str
    staging: str
    run: str
    contract_name: str
    stage: str
    code_version: str
    at_once: int = 1

    @property
    def contract(self) -> Contract:
        """The contract of the output."""
        return CONTRACTS[self.contract_name]

    @property
    def store(self) -> Store:
        """The root, opened where the work is done."""
        return open_store(self.root)


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """What the work of one task sees."""

    task: Task
    store: Store

    @property
    def number(self) -> int:
        """Number of the shard."""
        return self.task.shard

    def paths(self, name: str) -> list[str]:
        """Return local paths of an input's files."""
        return [_local(self.store, path) for path in self.task.inputs.get(name, ())]

    def parts(
        self, kind: str, columns: Mapping[str, pl.DataType | type[pl.DataType]], where: pl.Expr | None = None
    ) -> pl.DataFrame:
        """Read the parts of one kind that were emitted for this target, in order of the emitting tasks.

        Args:
          columns: what there is where nothing was emitted.
          where: only rows that satisfy it, tested part by part, so that the others take no memory.
        """
        paths = self.paths(kind)
        if not paths:
            return pl.DataFrame(schema=columns)
        if where is None:
            return pl.scan_parquet(paths).collect(engine="in-memory")
        return pl.concat([pl.read_parquet(path).filter(where) for path in paths], rechunk=True)

    def read(self, name: str, columns: Sequence[str] | None = None, where: pl.Expr | None = None) -> pl.DataFrame:
        """Read an input whole, in file and row order; an input of no files is empty with the contract's columns.

        Args:
          columns: only these.
          where: only rows that satisfy it, tested while reading; it may use any column.
        """
        return read_tables(self.paths(name), CONTRACTS[name], columns, where)


def read_tables(
    paths: list[str], contract: Contract, columns: Sequence[str] | None = None, where: pl.Expr | None = None
) -> pl.DataFrame:
    """Read Parquet files of one contract into a frame, in order; no files give an empty frame."""
    if not paths:
        return _nothing(contract)[list(columns)] if columns else _nothing(contract).clone()
    lazy = pl.scan_parquet(paths, hive_partitioning=False)
    if where is not None:
        lazy = lazy.filter(where)
    return (lazy.select(columns) if columns else lazy).collect(engine="in-memory")


@functools.cache
def _nothing(contract: Contract) -> pl.DataFrame:
    return _frame(contract.schema.empty_table())


def _local(store: Store, path: str) -> str:
    if path.startswith("gs://"):
        folder, _, name = path.rpartition("/")
        return open_store(folder).local(name)
    return path if os.path.isabs(path) else store.local(path)


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """What the work of one task gives back.

    Attributes:
      frame: rows of the contract, sorted by its key, or an Arrow table where nesting asks for one.
      rows_in: rows read.
      rejected: rows of the `rejection` contract.
      counters: counts under constant names; they add up over tasks.
      event_date: day of the rows, where one task gives an output per day; the file is `part-<day>-<shard>.parquet`.
      by_day: the rows are of several days, in order of `event_date`, and become such a file for each. They are checked
        and counted together: the entry of the first day stands for all.
      artifacts: files beside the rows, by name, the weights of a model for example.
      spent: wall seconds by part of the work. They go to the record of the run and to nothing that is committed.
    """

    frame: pl.DataFrame | pa.Table
    rows_in: int = 0
    rejected: pl.DataFrame | None = None
    counters: Mapping[str, int] = dataclasses.field(default_factory=dict)
    event_date: str | None = None
    by_day: bool = False
    artifacts: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    spent: Mapping[str, float] = dataclasses.field(default_factory=dict)


_NOTHING = {
    "rows_in": 0,
    "rejected": {},
    "counters": {},
    "statistics": Statistics(0, {}, {}).to_json(),
    "rejections": None,
    "artifacts": {},
}
Work = Callable[[Shard], Output | Iterable[Output]]
Emit = Callable[[Shard], Mapping[str, pl.DataFrame]]
Part = tuple[str, tuple[str, str]]


@dataclasses.dataclass
class ApplyToEach(beam.PTransform):
    """Apply a function to every element, `at_once` of a bundle at a time."""

    function: Callable[[Any], Any]
    at_once: int

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        """Return what the function returned, in the order of the elements of each bundle."""
        if self.at_once == 1:  # a service can split a bundle whose elements are done one after the other
            return elements | "OneByOne" >> beam.Map(self.function)
        return elements | "AtOnce" >> beam.ParDo(_AtOnce(self.function, self.at_once))


class _AtOnce(beam.DoFn):
    """Start each element in a pool of threads and wait for all of them at the end of the bundle.

    The first error is raised as it is, after the tasks that run by then have ended; the others are not started.
    """

    def __init__(self, function: Callable[[Any], Any], at_once: int) -> None:
        self._function, self._at_once = function, at_once

    def setup(self) -> None:
        self._pool = ThreadPoolExecutor(self._at_once)

    def start_bundle(self) -> None:
        self._running: list[Future] = []

    def process(self, element: Any) -> None:
        self._running.append(self._pool.submit(self._function, element))

    def finish_bundle(self) -> Iterator[Any]:
        try:
            wait(self._running, return_when=FIRST_EXCEPTION)
        finally:  # an interrupt comes this way too; what has begun cannot be cancelled
            for future in self._running:
                future.cancel()
        for future in self._running:
            if not future.cancelled():
                yield GlobalWindows.windowed_value(future.result())

    def teardown(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@dataclasses.dataclass
class ProcessShards(beam.PTransform):
    """Apply `work` to every task and write its output, no shuffle."""

    workspace: Workspace
    work: Work

    def expand(self, tasks: beam.PCollection[Task]) -> beam.PCollection[str]:
        """Return the names of the tasks done."""
        process = functools.partial(process_shard, workspace=self.workspace, work=self.work)
        return (
            tasks | "SpreadTasks" >> beam.Reshuffle() | "ProcessShard" >> ApplyToEach(process, self.workspace.at_once)
        )


@dataclasses.dataclass
class EmitParts(beam.PTransform):
    """Apply `emit` to every task and write what it gives, one file per kind and target.

    Attributes:
      emit: returns frames by kind, whose column `__target` names the target task; rows of one target keep their order.
      targets: who sees the rows for `EVERYONE`.
    """

    workspace: Workspace
    emit: Emit
    targets: Sequence[str] = ()

    def expand(self, tasks: beam.PCollection[Task]) -> beam.PCollection[Part]:
        """Return `(target, (kind, path))`."""
        emit = functools.partial(emit_parts, workspace=self.workspace, emit=self.emit, targets=self.targets)
        return (
            tasks
            | "SpreadTasks" >> beam.Reshuffle()
            | "EmitParts" >> ApplyToEach(emit, self.workspace.at_once)
            | "EachPart" >> beam.FlatMap(list)
        )


@dataclasses.dataclass
class MergeParts(beam.PTransform):
    """Bring the parts of each target together and write its output.

    Attributes:
      merge: sees its target's own task, with the parts of each kind as an input of that name.
      targets: what is written, by name; one that nothing was emitted for is merged all the same, from no parts.
    """

    workspace: Workspace
    merge: Work
    targets: dict[str, Task]

    def expand(self, parts: beam.PCollection[Part]) -> beam.PCollection[str]:
        """Return the names of the targets done."""
        merge = functools.partial(merge_parts, workspace=self.workspace, merge=self.merge, targets=self.targets)
        empty = parts.pipeline | "CreateTargets" >> beam.Create([(name, ("", "")) for name in sorted(self.targets)])
        return (
            (parts, empty)
            | "WithTargets" >> beam.Flatten()
            | "GroupParts" >> beam.GroupByKey()
            | "MergeParts" >> ApplyToEach(merge, self.workspace.at_once)
        )


@dataclasses.dataclass
class ExchangeShards(beam.PTransform):
    """Regroup data by another key: `EmitParts`, then `MergeParts`."""

    workspace: Workspace
    emit: Emit
    merge: Work
    targets: dict[str, Task]

    def expand(self, tasks: beam.PCollection[Task]) -> beam.PCollection[str]:
        """Return the names of the targets done."""
        return (
            tasks
            | "Emit" >> EmitParts(self.workspace, self.emit, sorted(self.targets))
            | "Merge" >> MergeParts(self.workspace, self.merge, self.targets)
        )


def emit_parts(task: Task, workspace: Workspace, emit: Emit, targets: Sequence[str] = ()) -> list[Part]:
    """Write what `emit` gives; a task that was emitted before a kill is not emitted again."""
    store, done = workspace.store, f"{workspace.staging}/emitted/{task.name}.json"
    folder = f"{workspace.staging}/exchange/{task.name}"
    if not store.exists(done):
        written = []
        for kind, frame in emit(Shard(task, store)).items():
            parts = frame.partition_by(TARGET, as_dict=True, include_key=False, maintain_order=True)
            for (target,), part in parts.items():
                store.put(write_part(part), f"{folder}/{kind}/{target}.parquet")
                written.append([str(target), kind])
        store.write_bytes(done, json.dumps(sorted(written)).encode())
    return [
        (name, (kind, f"{folder}/{kind}/{target}.parquet"))
        for target, kind in json.loads(store.read_bytes(done))
        for name in (targets if target == EVERYONE else (target,))
    ]


def merge_parts(
    group: tuple[str, Iterable[tuple[str, str]]], workspace: Workspace, merge: Work, targets: Mapping[str, Task]
) -> str:
    """Merge the parts of one target, `(target, [(kind, path), ...])`, and write the output."""
    return process_shard(with_parts(group, targets), workspace, merge)


def with_parts(group: tuple[str, Iterable[tuple[str, str]]], targets: Mapping[str, Task]) -> Task:
    """Return the task of a target with its parts, `(target, [(kind, path), ...])`, among the inputs."""
    target, parts = group
    task, inputs = targets[target], dict[str, tuple[str, ...]]()
    for kind, path in sorted(parts):
        if path:
            inputs[kind] = (*inputs.get(kind, ()), path)
    return dataclasses.replace(task, inputs={**task.inputs, **inputs})


def process_shard(task: Task, workspace: Workspace, work: Work) -> str:
    """Do the work of one task, check its rows and stage them; what was staged before a kill is kept.

    Work may give several outputs, whose rows go on in the order of the key. They are numbered, and each is staged, and forgotten,
    before the next one is asked for.
    """
    if not shard_done(task, workspace):
        given = work(Shard(task, workspace.store))
        entries, spent = list[dict](), list[dict[str, float]]()
        for output in [given] if isinstance(given, Output) else given:
            entries += stage_output(task, workspace, output, None if isinstance(given, Output) else len(entries))
            spent += [dict(output.spent)] if output.spent else []
            del output
        if spent:
            workspace.store.write_bytes(f"{workspace.staging}/{SPENT}/{task.name}.json", json.dumps(spent).encode())
        workspace.store.write_bytes(_done(task, workspace), json.dumps(entries, sort_keys=True).encode())
    return task.name


def shard_done(task: Task, workspace: Workspace) -> bool:
    """Tell whether the output of a task is staged."""
    return workspace.store.exists(_done(task, workspace))


def _done(task: Task, workspace: Workspace) -> str:
    return f"{workspace.staging}/done/{task.name}.json"


def staged_entries(store: Store, staging: str) -> list[dict]:
    """Return the entries of all outputs staged so far, by name; one that two tasks staged has the same bytes twice."""
    done = [json.loads(store.read_bytes(path)) for path in store.list(f"{staging}/done")]
    named = {entry["name"]: entry for entries in done for entry in entries}
    return [named[name] for name in sorted(named)]


def take_spent(store: Store, staging: str) -> dict[str, float]:
    """Add up what all tasks staged so far have spent, by part of the work, and remove it from the staging folder."""
    paths = store.list(f"{staging}/{SPENT}")
    every = [pair for path in paths for one in json.loads(store.read_bytes(path)) for pair in one.items()]
    if paths:
        store.delete(f"{staging}/{SPENT}")
    return {
        name: round(sum(seconds for own, seconds in every if own == name), 3)
        for name in sorted({own for own, _ in every})
    }


def stage_output(task: Task, workspace: Workspace, output: Output, number: int | None) -> list[dict]:
    """Write the files of one output, and its rejections; return their entries: rows, digests, counts and statistics.

    Args:
      number: of the output where the task gives several.
    """
    name = task.name if number is None else f"{task.name}-{number:04d}"
    name = f"{output.event_date}-{task.shard:05d}" if output.event_date else name
    frame, table, broken = _checked(output.frame, workspace, f"part-{name}.parquet")
    rejected = pl.concat([f for f in (output.rejected, broken) if f is not None and f.height] or [_no_rejections()])
    known = {
        "rows_in": output.rows_in,
        "rejected": dict(sorted(rejected["rule"].value_counts().rows())),
        "counters": dict(output.counters),
        "statistics": collect(frame, workspace.contract).to_json(),
    }
    one = [(name, output.event_date or task.event_date, table.num_rows)]
    days = _days(frame, task.shard) if output.by_day and frame.height else one
    start, entries = 0, []
    for name, day, rows in days:
        path = f"{workspace.staging}/part-{name}.parquet"
        file = _stage_table(workspace.store, table.slice(start, rows), path, workspace.contract)
        entries.append(_NOTHING | {"name": name, "shard": task.shard, "event_date": day, "file": file})
        start += rows
    path = f"{workspace.staging}/rejected/part-{days[0][0]}.parquet"
    entries[0] |= known | {"rejections": _stage_rejections(workspace.store, rejected, path)}
    entries[0]["artifacts"] = {name: _stage_bytes(workspace, name, body) for name, body in output.artifacts.items()}
    return entries


def _days(frame: pl.DataFrame, shard: int) -> list[tuple[str, str | None, int]]:
    """Return name, day and rows of each day's file, for rows in order of `event_date`."""
    runs = frame["event_date"].rle().struct.unnest()
    return [(f"{day}-{shard:05d}", day.isoformat(), rows) for rows, day in runs.rows()]


def _stage_table(store: Store, table: pa.Table, path: str, contract: Contract) -> dict:
    local = write_parquet(table, contract)
    described = {"sha256": file_digest(local), "rows": table.num_rows, "bytes": os.path.getsize(local)}
    store.put(local, path)
    return described


def _stage_bytes(workspace: Workspace, name: str, body: bytes) -> dict:
    workspace.store.write_bytes(f"{workspace.staging}/{ARTIFACTS}/{name}", body)
    return {"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}


def _stage_rejections(store: Store, rejected: pl.DataFrame, path: str) -> dict | None:
    if not rejected.height:
        return None
    told = conform(rejected.sort("source", "position", "rule", "payload"), REJECTION)
    return _stage_table(store, told, path, REJECTION)


def _checked(
    given: pl.DataFrame | pa.Table, workspace: Workspace, source: str
) -> tuple[pl.DataFrame, pa.Table, pl.DataFrame | None]:
    """Split off the rows that break the contract: for a derived dataset each of them is a defect that must be seen.

    Returns:
      The good rows twice, and the rejections.
    """
    contract = workspace.contract
    demand_columns(given, contract)
    table = None if isinstance(given, pl.DataFrame) else conform(given, contract, nulls_allowed=True)
    frame = given.cast(polars_schema(contract)) if table is None else _frame(table)
    good, bad = split_rows(frame.select(contract.schema.names), contract)
    if not bad.height:
        return good, conform(good if table is None else table, contract), None
    shown = [name for name in contract.key if name not in _WHO]
    payload = pl.struct(shown).struct.json_encode() if shown else pl.lit(None, pl.String)
    keys = bad.select(payload.alias("payload"), "rule")
    return (
        good,
        conform(good, contract),
        keys.with_row_index("position").select(
            pl.lit(contract.name).alias("dataset"),
            pl.lit(workspace.stage).alias("stage"),
            "rule",
            pl.lit(None, pl.String).alias("detail"),
            pl.lit(source).alias("source"),
            pl.col("position").cast(pl.Int64),
            "payload",
            pl.lit(workspace.code_version).alias("code_version"),
        ),
    )


def _no_rejections() -> pl.DataFrame:
    return _frame(REJECTION.schema.empty_table())


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
