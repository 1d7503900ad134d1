"""Histories and tallies: daily partials that add up, and what a road as of a date makes of them."""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Mapping, Sequence

import apache_beam as beam
import polars as pl

from pipelines.road import Ingested, Road, files_digest, paths, process, shard_tasks, subset_ref, window
from pipelines.runner import Stage, input_ref
from schemas.contract import Contract
from schemas.manifest import DataFile, Manifest
from schemas.tallies import (
    ARTIST_TOP,
    CO_LISTEN,
    CO_LISTEN_PARTIAL,
    HISTORY,
    POPULARITY,
    POPULARITY_PARTIAL,
    TRANSITION,
    TRANSITION_PARTIAL,
)
from transforms import tallies
from transforms.histories import histories
from transforms.shards import Emit, ExchangeShards, Output, Shard, Task, Work, Workspace
from validation.rows import polars_schema

_EVENT_COLUMNS = ["event_date", "event_id", "event_ts", "user_id", "session_id", "item_id", "item_type", "label", "is_organic",
                  "campaign_id", "market", "private_session", "consent_personalization"]  # fmt: skip


def build_histories(road: Road, ingested: Ingested) -> Stage:
    """Return the stage that gathers each user's last positives and skips. A map over user shards, no shuffle."""
    files = window(ingested.events, road)
    return Stage(
        name="histories",
        contract=HISTORY,
        date=road.day,
        inputs=(subset_ref("event", ingested.events, files),),
        tasks=shard_tasks(road.num_shards, {"event": files}),
        transform=functools.partial(process, work=histories_of),
        num_parts=road.num_shards,
        num_shards=road.num_shards,
    )


def histories_of(shard: Shard) -> Output:
    """Read a user shard's events and return its histories."""
    events = shard.read("event", [*_EVENT_COLUMNS, "event_type", "device_type", "utc_offset_min"])
    made = histories(events)
    kept = int(made["positives"].list.len().sum())
    return Output(made, rows_in=events.height, counters={"positives": kept} | tallies.machine_plays(events))


DAYS_ROWS = 600_000
"""Events that one task counts at once: about 1.2 GB at work, for co-listens."""


@dataclasses.dataclass(frozen=True)
class CountDays:
    """Count some days of one user shard with `count`, and send the counts to the item shards of those days."""

    count: Callable[[Shard], pl.DataFrame]
    num_shards: int

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        days = shard.task.name.rpartition("-")[0]
        return {"parts": tallies.to_shards(self.count(shard), "item_id", self.num_shards, f"{days}-")}


@dataclasses.dataclass(frozen=True)
class AddCounts:
    """Add the counts of all user shards up: integers, so that order does not matter. One output per day."""

    contract_key: tuple[str, ...]
    sums: tuple[str, ...]
    schema: Mapping[str, pl.DataType]

    def __call__(self, shard: Shard) -> list[Output]:
        parts = shard.parts("parts", self.schema)
        keys = [*self.contract_key, *(name for name in self.schema if name not in (*self.contract_key, *self.sums))]
        added = tallies.add_up(parts.select(list(self.schema)), keys)
        days = added.partition_by("event_date", maintain_order=True) or [added]
        dates = [day["event_date"][0].isoformat() if day.height else shard.task.event_date for day in days]
        rows_in = [parts.height] + [0] * (len(days) - 1)
        return [Output(day, rows, event_date=date) for day, rows, date in zip(days, rows_in, dates, strict=True)]


def count_popularity(shard: Shard) -> pl.DataFrame:
    """Count plays by market and tier."""
    return tallies.popularity_by_day(shard.read("event", _EVENT_COLUMNS), shard.read("user", ["user_id", "tier"]))


def count_pairs(shard: Shard) -> pl.DataFrame:
    """Count co-listens."""
    return tallies.pairs_by_day(shard.read("event", _EVENT_COLUMNS))


def count_transitions(shard: Shard) -> pl.DataFrame:
    """Count transitions."""
    return tallies.transitions_by_day(shard.read("event", _EVENT_COLUMNS))


def daily_partial(
    road: Road, ingested: Ingested, contract: Contract, count: Callable[[Shard], pl.DataFrame], *, by_user: bool = False
) -> Stage:
    """Return the stage that counts each day of the window; a day that was counted before is taken over.

    Args:
      by_user: the counts depend on the user snapshot too.
    """
    files = window(ingested.events, road)
    users = ingested.users.files if by_user else ()
    days = sorted({file.event_date for file in files if file.event_date})
    salt = ingested.users.digest if by_user else ""
    tasks = tuple(
        Task(
            f"{file.event_date}-{file.shard:05d}",
            file.shard,
            {"event": (file.path,), "user": paths(users, file.shard)},
            event_date=file.event_date,
        )
        for file in files
    )
    chunks = _chunks(files)
    return Stage(
        name=contract.name,
        contract=contract,
        date=road.day,
        inputs=(subset_ref("event", ingested.events, files), *([input_ref(ingested.users)] if by_user else [])),
        tasks=tasks,
        transform=functools.partial(_count_days, contract=contract, count=count, num_shards=road.num_shards),
        num_emits=len(chunks) * road.num_shards,
        num_parts=len(chunks) * road.num_shards,
        num_shards=road.num_shards,
        units={day: files_digest([f for f in files if f.event_date == day]) + salt for day in days},
        join=functools.partial(_join_days, chunks=chunks),
    )


def _chunks(files: Sequence[DataFile]) -> list[list[str]]:
    """Part the days so that the largest shard of each part holds at most `DAYS_ROWS` events, or a single day."""
    rows: dict[str, dict[int, int]] = {}
    for file in files:
        of_day = rows.setdefault(str(file.event_date), {})
        of_day[file.shard] = of_day.get(file.shard, 0) + file.rows
    chunks: list[list[str]] = []
    held = 0
    for day in sorted(rows):
        most = max(rows[day].values())
        if not chunks or held + most > DAYS_ROWS:
            chunks.append([])
            held = 0
        chunks[-1].append(day)
        held += most
    return chunks


def _join_days(tasks: list[Task], chunks: list[list[str]]) -> list[Task]:
    """Bring the days of a chunk and shard together into one task, named after the first and the last of them."""
    joined = []
    for chunk in chunks:
        by_shard: dict[int, list[Task]] = {}
        for task in tasks:
            if task.event_date in chunk:
                by_shard.setdefault(task.shard, []).append(task)
        days = sorted({str(task.event_date) for same in by_shard.values() for task in same})
        for shard, same in sorted(by_shard.items()):
            same.sort(key=lambda task: task.event_date or "")
            inputs = {
                "event": tuple(path for task in same for path in task.inputs["event"]),
                "user": same[0].inputs["user"],
            }
            joined.append(Task(f"{days[0]}_{days[-1]}-{shard:05d}", shard, inputs, event_date=days[0]))
    return joined


def _count_days(
    space: Workspace,
    tasks: Sequence[Task],
    contract: Contract,
    count: Callable[[Shard], pl.DataFrame],
    num_shards: int,
) -> beam.PTransform:
    chunks = sorted({(task.name.rpartition("-")[0], task.event_date) for task in tasks})
    names = [(day, shard, f"{days}-{shard:05d}") for days, day in chunks for shard in range(num_shards)]
    targets = {name: Task(name, shard, {}, event_date=day) for day, shard, name in names}
    sums = tuple(name for name in ("weight", "plays", "returns") if name in contract.schema.names)
    add = AddCounts(contract.key, sums, dict(polars_schema(contract)))
    return ExchangeShards(space, CountDays(count, num_shards), add, targets)


def popularity_partial(road: Road, ingested: Ingested) -> Stage:
    """Return the stage that counts plays by day, item, market and tier."""
    return daily_partial(road, ingested, POPULARITY_PARTIAL, count_popularity, by_user=True)


def co_listen_partial(road: Road, ingested: Ingested) -> Stage:
    """Return the stage that counts pairs by day."""
    return daily_partial(road, ingested, CO_LISTEN_PARTIAL, count_pairs)


def transition_partial(road: Road, ingested: Ingested) -> Stage:
    """Return the stage that counts followers by day."""
    return daily_partial(road, ingested, TRANSITION_PARTIAL, count_transitions)


@dataclasses.dataclass(frozen=True)
class Tally:
    """How one tally is made of its partials: `emit` per item shard, `merge` per target shard.

    Attributes:
      half_life_days: age at which a day counts half.
      with_items: `emit` needs the shard's items.
    """

    partial: str
    half_life_days: float
    with_items: bool
    as_of: datetime.date
    num_shards: int
    emit_function: Callable[..., dict[str, pl.DataFrame]]

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        partials = shard.read(self.partial)
        items = (
            [shard.read("item", ["item_id", "canonical_id", "artists", "show_id", "genres"])] if self.with_items else []
        )
        return self.emit_function(partials, *items, self.as_of, self.half_life_days, self.num_shards)


def merge_popularity(shard: Shard) -> Output:
    """Merge charts of the markets of a shard."""
    parts = shard.parts(
        "parts", dict.fromkeys(["market", "tier", "item_type", "item_id"], pl.String) | {"weight": pl.Int64}
    )
    return Output(tallies.popularity(parts), rows_in=parts.height)


def merge_artist_items(shard: Shard) -> Output:
    """Merge the items of the artists of a shard."""
    parts = shard.parts("parts", {"artist_id": pl.String, "item_id": pl.String, "weight": pl.Int64})
    best = tallies.top(parts, ["artist_id"], "weight", "item_id", tallies.TOP_OF_ARTIST)
    return Output(best.select(ARTIST_TOP.schema.names), rows_in=parts.height)


def merge_pairs(shard: Shard) -> Output:
    """Score the neighbours of the seeds of a shard; of everyone's totals only those of its items are kept."""
    weighed = {"item_id": pl.String, "weight": pl.Int64}
    pairs = shard.parts("parts", weighed | {"other_item_id": pl.String})
    paired = pl.concat([pairs[name].unique().rename("item_id") for name in CO_LISTEN.key]).unique()
    own = shard.parts("own", weighed | {"return_rate": pl.Float32}, pl.col("item_id").is_in(paired.implode()))
    return Output(tallies.co_listens(pairs, own), rows_in=pairs.height)


def merge_transitions(shard: Shard) -> Output:
    """Merge the followers of the contexts of a shard."""
    schema = dict.fromkeys(["level", "context_id", "next_item_id"], pl.String) | {"weight": pl.Int64}
    parts = shard.parts("parts", schema)
    return Output(tallies.transitions(parts), rows_in=parts.height)


def _tally(
    road: Road, contract: Contract, tally: Tally, merge: Work, partial: Manifest, items: Manifest | None
) -> Stage:
    inputs = {partial.dataset: partial.files} | ({"item": items.files} if items else {})
    refs = (input_ref(partial), *([input_ref(items)] if items else []))
    return Stage(
        name=contract.name,
        contract=contract,
        date=road.day,
        inputs=refs,
        tasks=shard_tasks(road.num_shards, inputs),
        transform=functools.partial(_exchange, emit=tally, merge=merge, num_shards=road.num_shards),
        num_emits=road.num_shards,
        num_parts=road.num_shards,
        num_shards=road.num_shards,
        config={"half_life_days": tally.half_life_days},
    )


def _exchange(space: Workspace, tasks: Sequence[Task], emit: Emit, merge: Work, num_shards: int) -> beam.PTransform:
    targets = {f"{shard:05d}": Task(f"{shard:05d}", shard, {}) for shard in range(num_shards)}
    return ExchangeShards(space, emit, merge, targets)


def popularity(road: Road, partial: Manifest) -> Stage:
    """Return the stage that ranks items per market, tier and type."""
    days = road.policy.road.popularity_half_life_days
    tally = Tally(partial.dataset, days, False, road.date, road.num_shards, tallies.emit_popular)
    return _tally(road, POPULARITY, tally, merge_popularity, partial, None)


def artist_top(road: Road, partial: Manifest, items: Manifest) -> Stage:
    """Return the stage that ranks the items of each artist."""
    days = road.policy.road.popularity_half_life_days
    tally = Tally(partial.dataset, days, True, road.date, road.num_shards, tallies.emit_artist_items)
    return _tally(road, ARTIST_TOP, tally, merge_artist_items, partial, items)


def co_listen(road: Road, partial: Manifest) -> Stage:
    """Return the stage that scores the neighbours of each item."""
    days = road.policy.road.co_listen_half_life_days
    tally = Tally(partial.dataset, days, False, road.date, road.num_shards, tallies.emit_pairs)
    return _tally(road, CO_LISTEN, tally, merge_pairs, partial, None)


def transition(road: Road, partial: Manifest, items: Manifest) -> Stage:
    """Return the stage that ranks what follows each item, canonical recording, artist and genre."""
    days = road.policy.road.transition_half_life_days
    tally = Tally(partial.dataset, days, True, road.date, road.num_shards, tallies.emit_transitions)
    return _tally(road, TRANSITION, tally, merge_transitions, partial, items)
