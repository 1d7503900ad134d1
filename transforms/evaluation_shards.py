"""Evaluation, spread: a task goes through some shards, one after the other, and emits sums, which are added up by slice.

    Home           users -> sums -> by slice
    Now Playing    users -> contexts -> by seed item -> sums -> by slice

Memory: one shard at a time, and 8 KB for each of some thousands of cells; contexts are read shard by shard.
"""

import dataclasses
import datetime
import functools
from collections.abc import Iterable, Iterator, Mapping

import apache_beam as beam
import numpy as np
import polars as pl

from schemas.evaluation import EVALUATION, UNIT, UNITS
from schemas.hashing import shard_of
from transforms.evaluation import Cell, Sums, from_frame, interval, measure, to_frame, units_of
from transforms.evaluation_home import Window, judge_home
from transforms.evaluation_left_out import LeaveOneOut
from transforms.evaluation_now_playing import CONTEXT, contexts_of, judge_seeds
from transforms.shards import (
    TARGET,
    ApplyToEach,
    Emit,
    EmitParts,
    MergeParts,
    Output,
    Part,
    Shard,
    Task,
    Work,
    Workspace,
    emit_parts,
    with_parts,
)

SEEDS = "seeds-"
_SHARD = "shard"


def each_shard(shard: Shard) -> Iterator[Shard]:
    """Yield the shards of a task, whose inputs are called `00007/history` and so on, each as if it were alone."""
    inputs = shard.task.inputs
    shared = {name: files for name, files in inputs.items() if "/" not in name}
    for number in sorted({name.partition("/")[0] for name in inputs if "/" in name}):
        own = {name.partition("/")[2]: files for name, files in inputs.items() if name.startswith(f"{number}/")}
        yield dataclasses.replace(shard, task=Task(number, int(number), shared | own))


@dataclasses.dataclass(frozen=True)
class EmitSums:
    """Judge Home for the users of a task's shards, and send the sums of each slice to where they are added."""

    window: Window
    rankings: tuple[str, ...]
    leave_out: LeaveOneOut

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        return _sums(measure(judge_home(one, self.window, self.leave_out), self.rankings) for one in each_shard(shard))


@dataclasses.dataclass(frozen=True)
class EmitContexts:
    """Send what the users of a task's shards played after what to the task of the seed's shard.

    Attributes:
      share: of the users who are judged. num_tasks: seeds of a shard go to task `shard % num_tasks`.
    """

    window: Window
    share: float
    num_shards: int
    num_tasks: int

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        empty = pl.DataFrame(schema=CONTEXT)
        found = pl.concat([empty, *(contexts_of(one, self.window, self.share) for one in each_shard(shard))])
        numbers = shard_of(found["seed"].to_arrow(), self.num_shards) if found.height else np.empty(0, np.int32)
        tasks = pl.Series(TARGET, [f"{SEEDS}{number % self.num_tasks:05d}" for number in numbers], pl.String)
        return {"contexts": found.with_columns(pl.Series(_SHARD, numbers, pl.Int32), tasks)}


@dataclasses.dataclass(frozen=True)
class EmitSeedSums:
    """Judge Now Playing for the contexts of a task's seeds, and send the sums of each slice to where they are added."""

    rankings: tuple[str, ...]
    leave_out: LeaveOneOut

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        def judged() -> Iterator[Sums]:
            for one in each_shard(shard):
                mine = one.parts("contexts", CONTEXT | {_SHARD: pl.Int32}, pl.col(_SHARD) == one.number)
                yield measure(judge_seeds(one, mine.drop(_SHARD), self.leave_out), self.rankings)

        return _sums(judged())


def _sums(found: Iterable[Sums]) -> dict[str, pl.DataFrame]:
    sums = Sums()
    for one in found:
        sums.merge(one)
    return {"sums": to_frame(sums).with_columns(pl.col("slice").alias(TARGET))}


@dataclasses.dataclass(frozen=True)
class AddSums:
    """Add the sums of all tasks up, and say what they mean. Memory: the cells of one slice, 8 KB each, twice."""

    day: datetime.date
    surface: str

    def __call__(self, shard: Shard) -> Output:
        sums, rows = Sums(), 0
        for path in shard.paths("sums"):
            part = pl.read_parquet(path)
            sums.merge(from_frame(part))
            rows += part.height
        return Output(described(sums, self.day, self.surface), rows_in=rows)


def described(sums: Sums, day: datetime.date, surface: str) -> pl.DataFrame:
    """Return sums in the evaluation contract; a cell whose units nobody counted says nothing and is left out."""
    cells = {cell: own for cell, own in sums.cells.items() if units_of(cell) in sums.cells}
    frame, ordered = to_frame(Sums(cells)), sorted(cells)
    means = [_described(cell, sums) for cell in ordered]
    figures = pl.DataFrame(means, schema={"value": pl.Float64, "low": pl.Float64, "high": pl.Float64}, orient="row")
    units = pl.Series("units", [int(sums.cells[units_of(cell)][0]) // UNIT for cell in ordered], pl.Int64)
    where = pl.lit(day).alias("logical_date"), pl.lit(surface).alias("surface")
    whole = pl.concat([frame, figures, units.to_frame()], how="horizontal")
    return whole.select(*where, pl.all()).select(EVALUATION.schema.names)


def _described(cell: Cell, sums: Sums) -> tuple[float, float, float]:
    units = sums.cells[units_of(cell)]
    return interval(sums.cells[cell], np.full_like(units, UNIT) if cell.metric == UNITS else units)


@dataclasses.dataclass
class ExchangeTwice(beam.PTransform):
    """Regroup data by one key, then what is emitted from it by another: `EmitParts`, again from each target, `MergeParts`.

    Attributes:
      between: tasks of the first key, by name. targets: of the second.
    """

    workspace: Workspace
    first: Emit
    second: Emit
    merge: Work
    between: dict[str, Task]
    targets: dict[str, Task]

    def expand(self, tasks: beam.PCollection[Task]) -> beam.PCollection[str]:
        """Return the names of the targets done."""
        emit = functools.partial(emit_again, workspace=self.workspace, emit=self.second, between=self.between)
        parts = tasks | "EmitFirst" >> EmitParts(self.workspace, self.first)
        empty = parts.pipeline | "CreateBetween" >> beam.Create([(name, ("", "")) for name in sorted(self.between)])
        return (
            (parts, empty)
            | "WithBetween" >> beam.Flatten()
            | "GroupFirst" >> beam.GroupByKey()
            | "EmitSecond" >> ApplyToEach(emit, self.workspace.at_once)
            | "EachSecond" >> beam.FlatMap(list)
            | "Merge" >> MergeParts(self.workspace, self.merge, self.targets)
        )


def emit_again(
    group: tuple[str, Iterable[tuple[str, str]]], workspace: Workspace, emit: Emit, between: Mapping[str, Task]
) -> list[Part]:
    """Emit from the parts of one target."""
    return emit_parts(with_parts(group, between), workspace, emit)
