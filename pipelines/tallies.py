"""Histories and tallies: daily partials that add up, and what a road as of a date makes of them."""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Mapping, Sequence

import apache_beam as beam
import polars as pl

from pipelines.road import Ingested, Road, files_digest, paths, shard_tasks, subset_ref, window
from pipelines.runner import Stage, input_ref
from schemas.contract import Contract
from schemas.manifest import Manifest
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
from transforms.shards import TARGET, Emit, ExchangeShards, Output, ProcessShards, Shard, Task, Work, Workspace

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
        transform=functools.partial(_process, work=histories_of),
        num_parts=road.num_shards,
        num_shards=road.num_shards,
    )


def _process(space: Workspace, tasks: Sequence[Task], work: Work) -> beam.PTransform:
    return ProcessShards(space, work)


def histories_of(shard: Shard) -> Output:
    """Read a user shard's events and return its histories."""
    events = shard.read("event", _EVENT_COLUMNS)
    return Output(histories(events), rows_in=events.height)


@dataclasses.dataclass(frozen=True)
class CountDay:
    """Count one day of one user shard with `count`, and send the counts to the item shards of that day."""

    count: Callable[[Shard], pl.DataFrame]
    num_shards: int

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        sent = tallies.to_shards(self.count(shard), "item_id", self.num_shards)
        return {"parts": sent.with_columns(pl.format("{}-{}", "event_date", TARGET).alias(TARGET))}


@dataclasses.dataclass(frozen=True)
class AddCounts:
    """Add the counts of all user shards up: integers, so that order does not matter."""

    contract_key: tuple[str, ...]
    sums: tuple[str, ...]
    columns: tuple[str, ...]
    schema: Mapping[str, pl.DataType]

    def __call__(self, shard: Shard) -> Output:
        parts = shard.parts("parts", self.schema)
        keys = [name for name in self.columns if name not in self.sums]
        added = parts.group_by(keys).agg(pl.col(*self.sums).sum())
        return Output(added.select(self.columns).sort(self.contract_key), rows_in=parts.height)


def count_popularity(shard: Shard) -> pl.DataFrame:
    """Count plays by market and tier."""
    return tallies.popularity_of_day(shard.read("event", _EVENT_COLUMNS), shard.read("user", ["user_id", "tier"]))


def count_pairs(shard: Shard) -> pl.DataFrame:
    """Count co-listens."""
    return tallies.pairs_of_day(shard.read("event", _EVENT_COLUMNS))


def count_transitions(shard: Shard) -> pl.DataFrame:
    """Count transitions."""
    return tallies.transitions_of_day(shard.read("event", _EVENT_COLUMNS))


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
    return Stage(
        name=contract.name,
        contract=contract,
        date=road.day,
        inputs=(subset_ref("event", ingested.events, files), *([input_ref(ingested.users)] if by_user else [])),
        tasks=tasks,
        transform=functools.partial(_count_days, contract=contract, count=count, num_shards=road.num_shards),
        num_parts=len(days) * road.num_shards,
        num_shards=road.num_shards,
        units={day: files_digest([f for f in files if f.event_date == day]) + salt for day in days},
    )


def _count_days(
    space: Workspace,
    tasks: Sequence[Task],
    contract: Contract,
    count: Callable[[Shard], pl.DataFrame],
    num_shards: int,
) -> beam.PTransform:
    days = sorted({task.event_date for task in tasks if task.event_date})
    names = [(day, shard, f"{day}-{shard:05d}") for day in days for shard in range(num_shards)]
    targets = {name: Task(name, shard, {}, event_date=day) for day, shard, name in names}
    sums = tuple(name for name in ("weight", "plays", "returns") if name in contract.schema.names)
    empty = pl.from_arrow(contract.schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    add = AddCounts(contract.key, sums, tuple(contract.schema.names), dict(empty.schema))
    return ExchangeShards(space, CountDay(count, num_shards), add, targets)


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
    emit_function: Callable[..., pl.DataFrame]

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        partials = shard.read(self.partial)
        items = [shard.read("item", ["item_id", "canonical_id", "artists", "show_id", "genres"])] if self.with_items else []
        return {"parts": self.emit_function(partials, *items, self.as_of, self.half_life_days, self.num_shards)}


def merge_popularity(shard: Shard) -> Output:
    """Merge charts of the markets of a shard."""
    parts = shard.parts("parts", dict.fromkeys(["market", "tier", "item_type", "item_id"], pl.String) | {"weight": pl.Int64})
    return Output(tallies.popularity(parts), rows_in=parts.height)


def merge_artist_items(shard: Shard) -> Output:
    """Merge the items of the artists of a shard."""
    parts = shard.parts("parts", {"artist_id": pl.String, "item_id": pl.String, "weight": pl.Int64})
    best = tallies.top(parts, ["artist_id"], "weight", "item_id", tallies.TOP_OF_ARTIST)
    return Output(best.select(ARTIST_TOP.schema.names).sort(ARTIST_TOP.key), rows_in=parts.height)


def merge_pairs(shard: Shard) -> Output:
    """Score the neighbours of the seeds of a shard."""
    schema = {"item_id": pl.String, "other_item_id": pl.String, "weight": pl.Int64, "other_weight": pl.Int64,
              "other_return_rate": pl.Float32}  # fmt: skip
    parts = shard.parts("parts", schema)
    return Output(tallies.co_listens(parts), rows_in=parts.height)


def merge_transitions(shard: Shard) -> Output:
    """Merge the followers of the contexts of a shard; a context's total is the sum of its emitting shards' parts."""
    schema = dict.fromkeys(["level", "context_id", "next_item_id"], pl.String) | {
        "weight": pl.Int64, "context_weight": pl.Int64, "part": pl.Int32,
    }  # fmt: skip
    read = [
        pl.scan_parquet(path).with_columns(pl.lit(part, pl.Int32).alias("part")).collect(engine="in-memory")
        for part, path in enumerate(shard.paths("parts"))
    ]
    parts = pl.concat(read) if read else pl.DataFrame(schema=schema)
    return Output(tallies.transitions(parts), rows_in=parts.height)


def _tally(road: Road, contract: Contract, tally: Tally, merge: Work, partial: Manifest, items: Manifest | None) -> Stage:
    inputs = {partial.dataset: partial.files} | ({"item": items.files} if items else {})
    refs = (input_ref(partial), *([input_ref(items)] if items else []))
    return Stage(
        name=contract.name,
        contract=contract,
        date=road.day,
        inputs=refs,
        tasks=shard_tasks(road.num_shards, inputs),
        transform=functools.partial(_exchange, emit=tally, merge=merge, num_shards=road.num_shards),
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
