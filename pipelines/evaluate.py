"""Evaluate: the committed sets of a date against what was played after it, in one Beam stage.

Each task goes through some shards, one after the other, and emits sums; they are added up by slice. What is shuffled and
committed does not grow with users: 8 KB per cell and task, of some thousands of cells.
"""

import dataclasses
import datetime
import functools
from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import polars as pl

from pipelines import ingest
from pipelines.batch import read_record
from pipelines.recommend import GROUPS, HOME
from pipelines.road import Road, paths, subset_ref
from pipelines.runner import Runner, Stage, input_ref, load_manifest
from schemas.evaluation import EVALUATION, FALLBACK, ORACLE, REPEAT_LAST, SETS, SLICES, UNIT, UNITS
from schemas.inputs import TOMBSTONE, USER
from schemas.manifest import DataFile, Manifest
from transforms.evaluation import Cell, Sums, from_frame, interval, measure, to_frame, units_of
from transforms.evaluation_home import Window, judge_home
from transforms.evaluation_lists import part_names
from transforms.io.store import Store
from transforms.shards import TARGET, ExchangeShards, Output, Shard, Task, Workspace

TASKS = 256
GAPS = {HOME: datetime.timedelta(hours=24)}
SPANS = {HOME: datetime.timedelta(days=7)}
"""Publication takes up to the first; what is played in the second after it is what a set should have held (protocol of
`docs/evaluation.md`)."""
_OWN = ("user", "history", "candidate_set", "proposal")
_NAMES = EVALUATION.schema.names
_SHARED = ("item", "tombstone", "popularity")


class EvaluationError(ValueError):
    """Sets cannot be judged; the message says what is missing and the next step."""


def window_of(day: str, surface: str, expires_hours: float) -> Window:
    """Return what the sets of a date are judged by."""
    start = datetime.datetime.combine(datetime.date.fromisoformat(day), datetime.time(), datetime.UTC)
    as_of = start + datetime.timedelta(days=1)
    first = as_of + GAPS[surface]
    return Window(as_of, first, first + SPANS[surface], as_of + datetime.timedelta(hours=expires_hours))


def last_day(day: str, surface: str) -> str:
    """Return the last day whose events a date is judged by."""
    window = window_of(day, surface, 0)
    return (window.end - datetime.timedelta(microseconds=1)).date().isoformat()


def dates_that_ran(store: Store) -> list[str]:
    """Return the logical dates of finished roads, in order."""
    return sorted({path.split("date=")[1].split("/")[0] for path in store.list("runs") if path.endswith("record.json")})


def latest_events(store: Store) -> Manifest:
    """Return the events that the latest road has read.

    Raises:
      EvaluationError: no road has finished.
    """
    days = dates_that_ran(store)
    record = read_record(store, days[-1]) if days else None
    if record is None:
        raise EvaluationError(f"no road has finished under {store.root}: run `make batch` or `make backfill` first")
    return load_manifest(store, record["manifests"]["event/"])


def ingest_later(runner: Runner, road: Road, raw: Store) -> Manifest:
    """Return the events of a raw folder as of a later date, as the road of that date would ingest them."""
    users = runner.run(ingest.ingest_snapshot(road, raw, USER, required=False))
    tombstones = runner.run(ingest.ingest_snapshot(road, raw, TOMBSTONE, required=False))
    return runner.run(ingest.ingest_events(road, raw, users, tombstones))


def demand_judgeable(store: Store, day: str, surface: str, events: Manifest) -> dict[str, Manifest]:
    """Return what the sets of a date were made of and with, by dataset.

    Raises:
      EvaluationError: the date has no sets, they were retired, events of the days after it are not there yet, or they are
        split into other shards.
    """
    record = read_record(store, day)
    if record is None or f"candidate_set/{surface}" not in record["manifests"]:
        raise EvaluationError(f"{surface} has no finished run of {day}: run `make backfill` for it")
    names = {
        name: f"{name}/{surface}" if name in ("candidate_set", "proposal") else f"{name}/" for name in (*_OWN, *_SHARED)
    }
    found = {name: load_manifest(store, record["manifests"][key]) for name, key in names.items()}
    gone = [file.path for file in found["candidate_set"].files if not store.exists(file.path)]
    if gone:
        raise EvaluationError(
            f"the sets of {day} were retired ({gone[0]} is gone): only the last three that were live are kept. Delete"
            f" {found['candidate_set'].path} and run `make backfill` for that date; what is older than live stays."
        )
    there = max((str(file.event_date) for file in events.files), default="none")
    needed = last_day(day, surface)
    if there < needed:
        raise EvaluationError(
            f"{day} is judged by events up to {needed}, the last ones there are of {there}: wait, or give RAW="
        )
    if events.num_shards != found["candidate_set"].num_shards:
        raise EvaluationError(
            f"the sets of {day} are in {found['candidate_set'].num_shards} shards, events in {events.num_shards}:"
            f" run that date again with SHARDS={events.num_shards}"
        )
    return found


def evaluate(day: str, surface: str, data: Mapping[str, Manifest], events: Manifest) -> Stage:
    """Return the stage that judges the sets of a date.

    Args:
      data: what `demand_judgeable` returned.
    """
    policy = data["candidate_set"].config["policy"]
    window = window_of(day, surface, policy["expires_hours"])
    sources = sorted(quota["source_id"] for quota in policy["sources"])
    alone = [name for name in sources if name != policy["fallback"]]  # that one is `fallback` itself
    rankings = (SETS, ORACLE, FALLBACK, REPEAT_LAST, *alone, *part_names(sources))
    files = _files(events, window)
    tasks = _tasks(data, files, events.num_shards)
    return Stage(
        name="evaluate",
        qualifier=surface,
        contract=EVALUATION,
        date=day,
        inputs=(subset_ref("event", events, files), *(input_ref(data[name]) for name in sorted(data))),
        tasks=tasks,
        transform=functools.partial(_evaluate, day=day, surface=surface, window=window, rankings=rankings),
        num_emits=len(tasks),
        num_parts=len(SLICES),
        num_shards=1,
        config={"rankings": rankings, "expires_hours": policy["expires_hours"], "shards": events.num_shards},
    )


def _files(events: Manifest, window: Window) -> list[DataFile]:
    first, last = window.first_played.date().isoformat(), window.end.date().isoformat()
    return [file for file in events.files if file.event_date and first <= file.event_date <= last]


def _tasks(data: Mapping[str, Manifest], events: Sequence[DataFile], num_shards: int) -> tuple[Task, ...]:
    """Return at most `TASKS` tasks of one or more shards each; the inputs of a shard are called `00007/history` and so on."""
    sets = data["candidate_set"].files
    groups = tuple(file.path for file in sets if file.path.endswith(f"part-{GROUPS}.parquet"))
    proposed = [file for file in data["proposal"].files if not file.path.endswith(f"part-{GROUPS}.parquet")]
    own: dict[str, Sequence[DataFile]] = {name: data[name].files for name in ("user", "history")}
    own |= {"candidate_set": [file for file in sets if file.path not in groups], "proposal": proposed, "event": events}
    shared = {name: paths(data[name].files) for name in _SHARED} | {"groups": groups}
    count = min(TASKS, num_shards)
    return tuple(
        Task(f"{number:05d}", number, shared | {
            f"{shard:05d}/{name}": paths(files, shard)
            for shard in range(number, num_shards, count) for name, files in own.items()
        })
        for number in range(count)
    )  # fmt: skip


def each_shard(shard: Shard) -> Iterator[Shard]:
    """Yield the shards of a task, each as if it were alone."""
    inputs = shard.task.inputs
    shared = {name: files for name, files in inputs.items() if "/" not in name}
    for number in sorted({name.partition("/")[0] for name in inputs if "/" in name}):
        own = {name.partition("/")[2]: files for name, files in inputs.items() if name.startswith(f"{number}/")}
        yield dataclasses.replace(shard, task=Task(number, int(number), shared | own))


@dataclasses.dataclass(frozen=True)
class EmitSums:
    """Judge the users of a task's shards and send the sums of each slice to where they are added."""

    window: Window
    rankings: tuple[str, ...]

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        sums = Sums()
        for one in each_shard(shard):
            sums.merge(measure(judge_home(one, self.window), self.rankings))
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
    return pl.concat([frame, figures, units.to_frame()], how="horizontal").select(*where, pl.all()).select(_NAMES)


def _described(cell: Cell, sums: Sums) -> tuple[float, float, float]:
    units = sums.cells[units_of(cell)]
    return interval(sums.cells[cell], np.full_like(units, UNIT) if cell.metric == UNITS else units)


def _evaluate(
    space: Workspace, tasks: Sequence[Task], day: str, surface: str, window: Window, rankings: tuple[str, ...]
) -> beam.PTransform:
    targets = {name: Task(name, 0, {}) for name in SLICES}
    add = AddSums(datetime.date.fromisoformat(day), surface)
    return ExchangeShards(space, EmitSums(window, rankings), add, targets)
