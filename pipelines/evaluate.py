"""Evaluate: the committed sets of a date against what was played after it, as one Beam stage.

What is shuffled and committed does not grow with users, but for Now Playing's contexts, of at most `MOST_USERS` of them.
"""

import datetime
import functools
import math
from collections.abc import Mapping, Sequence

import apache_beam as beam

from pipelines import ingest, train
from pipelines.batch import dates_with, read_record
from pipelines.reblend import instant_of, policy_of
from pipelines.recommend import HOME, NOW_PLAYING, own_and_groups
from pipelines.road import Road, end_of, paths, subset_ref
from pipelines.runner import Runner, Stage, input_ref, load_manifest, missing_files
from schemas.evaluation import EVALUATION, FACTORS, FALLBACK, ORACLE, REPEAT_LAST, SETS, SLICES
from schemas.inputs import TOMBSTONE, USER
from schemas.manifest import DataFile, Manifest
from transforms.evaluation_home import Window
from transforms.evaluation_left_out import GROUP_PROPOSAL, MOST_UNITS, LeaveOneOut
from transforms.evaluation_lists import part_names
from transforms.evaluation_now_playing import share_of
from transforms.evaluation_shards import SEEDS, AddSums, EmitContexts, EmitSeedSums, EmitSums, ExchangeTwice
from transforms.io.store import Store
from transforms.shards import Emit, ExchangeShards, Task, Workspace

TASKS = 256
GAPS = {HOME: datetime.timedelta(hours=24), NOW_PLAYING: datetime.timedelta(minutes=30)}
SPANS = {HOME: datetime.timedelta(days=7), NOW_PLAYING: datetime.timedelta(days=1)}
"""Publication takes up to the first; what is played in the second after it is what a set should have held (protocol of
`docs/evaluation.md`)."""
FACTOR_SETTINGS = {"dim": 64, "unheard": 0.05, "regularization": 0.01, "sweeps": 8}
"""Those of `ALS_GRID` for catalogues of any size that settle, in as many dimensions as the road's vectors have."""
_OF_SURFACE = ("candidate_set", "proposal", "calibration")
_SHARED = ("tombstone", "item", "popularity", "vocabulary", "item_embedding")
_OF_ALL = ("user", "history", *_SHARED)


class EvaluationError(ValueError):
    """Sets cannot be judged; the message says what is missing and the next step."""


def window_of(day: str, surface: str, expires_hours: float) -> Window:
    """Return what the sets of a date are judged by."""
    as_of = end_of(datetime.date.fromisoformat(day))
    first = as_of + GAPS[surface]
    return Window(as_of, first, first + SPANS[surface], as_of + datetime.timedelta(hours=expires_hours))


def last_day(day: str, surface: str) -> str:
    """Return the last day whose events a date is judged by."""
    window = window_of(day, surface, 0)
    return (window.end - datetime.timedelta(microseconds=1)).date().isoformat()


def latest_events(store: Store) -> Manifest:
    """Return the events that the latest road has read.

    Raises:
      EvaluationError: no road has finished.
    """
    days = dates_with(store, "record.json")
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
    names = {name: f"{name}/{surface}" for name in _OF_SURFACE} | {name: f"{name}/" for name in _OF_ALL}
    names["item_embedding"] = "item_embedding/item"
    found = {name: load_manifest(store, record["manifests"][key]) for name, key in names.items()}
    sets = found["candidate_set"]
    gone = missing_files(store, sets)
    if gone:
        raise EvaluationError(
            f"the sets of {day} were retired ({gone[0]} is gone): only the last three that were live are kept. Delete"
            f" {sets.path} and run `make backfill` for that date; what is older than live stays."
        )
    there, needed = max((str(file.event_date) for file in events.files), default="none"), last_day(day, surface)
    if there < needed:
        raise EvaluationError(
            f"{day} is judged by events up to {needed}, the last ones there are of {there}: wait, or give RAW="
        )
    if events.num_shards != sets.num_shards:
        raise EvaluationError(
            f"the sets of {day} are in {sets.num_shards} shards, events in {events.num_shards}:"
            f" run that date again with SHARDS={events.num_shards}"
        )
    return found


def factors(road: Road, data: Mapping[str, Manifest]) -> Stage:
    """Return the stage that fits the ladder's matrix factorisation on the histories that the sets of a date were made from.

    Memory: of `transforms.train` and 1.2 KB for each item or user of its, whichever are more: 6 GB for the largest vocabulary.
    """
    return train.train(road, FACTORS, data["history"], data["item"], data["vocabulary"], FACTOR_SETTINGS)


def evaluate(
    day: str, surface: str, data: Mapping[str, Manifest], events: Manifest, factored: Manifest | None = None
) -> Stage:
    """Return the stage that judges the sets of a date.

    Args:
      data: what `demand_judgeable` returned. factored: what `factors` made, for Home.
    """
    policy = data["candidate_set"].config["policy"]
    window = window_of(day, surface, policy["expires_hours"])
    files = files_of(events, window)
    users, sets = _tasks(data, files, surface, events.num_shards, factored)
    share = share_of(data["history"].rows_out)
    rankings = _rankings(policy, surface, factored is not None)
    settings = {"rankings": rankings, "expires_hours": policy["expires_hours"]}
    leave_out = left_out(data)
    emit = EmitSums(window, rankings, leave_out) if surface == HOME else EmitSeedSums(rankings, leave_out)
    seeds = EmitContexts(window, share, events.num_shards, len(sets)) if surface == NOW_PLAYING else None
    add = AddSums(datetime.date.fromisoformat(day), surface)
    return Stage(
        name="evaluate",
        qualifier=surface,
        contract=EVALUATION,
        date=day,
        inputs=(
            subset_ref("event", events, files),
            *(input_ref(data[name]) for name in sorted(data)),
            *([input_ref(factored)] if factored else []),
        ),
        tasks=users,
        transform=functools.partial(_evaluate, emit=emit, add=add, seeds=seeds, sets=sets),
        num_emits=len(users) + (len(sets) if seeds else 0),
        num_parts=len(SLICES),
        num_shards=1,
        config=settings | {"shards": events.num_shards, "share": share if seeds else 1.0},
    )  # fmt: skip


def left_out(data: Mapping[str, Manifest]) -> LeaveOneOut:
    """Return how some sets are blended again, a source less: for about `MOST_UNITS` units, as many in each shard."""
    sets = data["candidate_set"]
    return LeaveOneOut(policy_of(sets), instant_of(sets), math.ceil(MOST_UNITS / sets.num_shards))


def _rankings(policy: Mapping, surface: str, factored: bool) -> tuple[str, ...]:
    """Return the names of all rankings. Alone stand sources that propose for a key; `FALLBACK` is the one of charts."""
    baselines = (FALLBACK, *([REPEAT_LAST] if surface == HOME else []), *([FACTORS] if factored else []))
    sources = [quota["source_id"] for quota in policy["sources"]]
    alone = sorted(quota["source_id"] for quota in policy["sources"] if quota["personal"])
    return (SETS, ORACLE, *baselines, *alone, *part_names(sources))


def files_of(events: Manifest, window: Window) -> list[DataFile]:
    """Return the files that hold what a date is judged by, and the 90 days before."""
    first, last = window.first_played.date().isoformat(), window.end.date().isoformat()
    return [file for file in events.files if file.event_date and first <= file.event_date <= last]


def _tasks(
    data: Mapping[str, Manifest],
    events: Sequence[DataFile],
    surface: str,
    num_shards: int,
    factored: Manifest | None,
) -> tuple[tuple[Task, ...], dict[str, Task]]:
    """Return the tasks that go through users, and by name those that go through the sets of seeds; Home has none of these.

    There are at most `TASKS` of each; the inputs of a shard are called `00007/history` and so on.
    """
    sets, groups = own_and_groups(data["candidate_set"])
    own, of_groups = own_and_groups(data["proposal"])
    made: dict[str, Sequence[DataFile]] = {"candidate_set": sets, "proposal": own}
    users: dict[str, Sequence[DataFile]] = {name: data[name].files for name in ("user", "history")} | {"event": events}
    shared = {name: paths(data[name].files) for name in _SHARED}
    if factored:
        shared[FACTORS] = paths(factored.artifacts)
    of_sets = shared | {
        "groups": groups, GROUP_PROPOSAL: of_groups, "calibration": paths(data["calibration"].files)
    }  # fmt: skip
    if surface == HOME:
        return tuple(_spread("", users | made, of_sets, num_shards)), {}
    between = _spread(SEEDS, made, of_sets, num_shards)
    return tuple(_spread("", users, shared, num_shards)), {task.name: task for task in between}


def _spread(
    prefix: str, own: Mapping[str, Sequence[DataFile]], shared: Mapping[str, tuple[str, ...]], num_shards: int
) -> list[Task]:
    count = min(TASKS, num_shards)
    return [
        Task(f"{prefix}{number:05d}", number, dict(shared) | {
            f"{shard:05d}/{name}": paths(files, shard)
            for shard in range(number, num_shards, count) for name, files in own.items()
        })
        for number in range(count)
    ]  # fmt: skip


def _evaluate(
    space: Workspace,
    tasks: Sequence[Task],
    emit: Emit,
    add: AddSums,
    seeds: EmitContexts | None,
    sets: dict[str, Task],
) -> beam.PTransform:
    slices = {name: Task(name, 0, {}) for name in SLICES}
    if seeds is None:
        return ExchangeShards(space, emit, add, slices)
    return ExchangeTwice(space, seeds, emit, add, sets, slices)
