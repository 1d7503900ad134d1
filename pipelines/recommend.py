"""Retrieve, blend and count exposure: from tallies to the candidate sets of one surface."""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import polars as pl
import pyarrow.parquet as pq

from pipelines.bundle import Bundle
from pipelines.models import Models
from pipelines.recipes import recipes
from pipelines.rests import count_rests
from pipelines.road import Ingested, Road, paths, process, shard_tasks
from pipelines.runner import Stage, input_ref
from schemas.candidates import CANDIDATE_SET, EXPOSURE, PROPOSAL, sequence_of
from schemas.manifest import DataFile, Manifest
from schemas.policy import SurfacePolicy
from transforms.arms import arms, count_offered
from transforms.calibrate import Since, since_of_seeds, since_of_users
from transforms.candidate_sets import Provenance, Rests
from transforms.devices import GPU, GPU_HINTS
from transforms.explore_pool import HOME_EXPLORE_SOURCES, NOW_PLAYING_EXPLORE_SOURCES
from transforms.filters import Instant
from transforms.group_sources import HOME_GROUP_SOURCES, NOW_PLAYING_GROUP_SOURCES
from transforms.groups import RetrieveGroups
from transforms.model_bundle import ModelBundle
from transforms.panel import LEFT_OUT
from transforms.part_sources import HOME_PART_SOURCES, NOW_PLAYING_PART_SOURCES
from transforms.recommend import Recommend
from transforms.replay import MOST, Replayed
from transforms.retrieve import retrieve_seeds, retrieve_users
from transforms.shards import ExchangeShards, Output, ProcessShards, Shard, Task, Work, Workspace
from transforms.sources import HOME_SOURCES, NOW_PLAYING_SOURCES, Source
from transforms.tallies import to_shards
from transforms.vector_sources import HOME_VECTOR_SOURCES, NOW_PLAYING_VECTOR_SOURCES, VECTOR_SIGNALS
from validation.arm_gates import ARMS
from validation.candidate_gates import TRENDS, WEEKS_AGO
from validation.score_gates import week_of_scores

GROUPS = "groups"
HOME, NOW_PLAYING = "home", "now_playing"
COVERED_AT, COVERAGE_AT = "covered_items_at:", (10, 50, 300)
"""Counters of items that are among so many first places of any set."""
_TOP = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Tables:
    """The committed tallies a surface draws on."""

    histories: Manifest
    popularity_partial: Manifest
    popularity: Manifest
    artist_top: Manifest
    co_listen: Manifest
    transition_partial: Manifest
    transition: Manifest


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """What surfaces are served from: inputs, tallies, models, calibrations by surface, and the road with its policy."""

    road: Road
    ingested: Ingested
    tables: Tables
    models: Models
    calibrations: Mapping[str, Manifest]

    @property
    def parts(self) -> dict[str, Manifest]:
        """Every dataset sources ask, by the name a task knows it by."""
        named = {
            "vocabulary": self.models.vocabulary,
            "encoder_vocabulary": self.models.encoder.vocabulary,
            "encoder": self.models.encoder.training,
            "session_knn": self.models.session_knn,
            "item_embedding": self.models.items,
            "user_embedding": self.models.users,
            **{f"calibration_{surface}": manifest for surface, manifest in self.calibrations.items()},
            "index": self.models.index,
        }
        trained = {name: manifest for name, manifest in named.items() if manifest}
        return _datasets(self.ingested, self.tables) | trained

    @property
    def shared(self) -> dict[str, Manifest]:
        """What is served to everybody: the parts besides what is the users' own, or theirs to erase."""
        own = ("user", "history", "popularity_partial", "user_embedding", "tombstone")
        return {name: manifest for name, manifest in sorted(self.parts.items()) if name not in own}

    @property
    def bundle(self) -> Bundle:
        """What it is served from, for `pipelines.bundle` to write down."""
        road, encoder = self.road, self.models.encoder
        return Bundle.of(
            self.shared,
            metrics=encoder.metrics,
            date=road.day,
            space_id=encoder.space.id,
            policy_version=road.policy.version,
            code_version=road.code_version,
        )


@dataclasses.dataclass(frozen=True)
class WorkOfShard:
    """Do the one thing for the task called `groups`, the other for every shard."""

    groups: Work
    shard: Work

    def __call__(self, shard: Shard) -> Output | Iterable[Output]:
        return (self.groups if shard.task.name == GROUPS else self.shard)(shard)


@dataclasses.dataclass(frozen=True)
class Surface:
    """What differs between surfaces: their own and their group sources, and what is read per shard.

    Attributes:
      per_shard: inputs of which a task sees its own shard. `whole`: inputs of which it sees all.
      since: what its calibration is judged by, of the tables `judged_by`.
    """

    name: str
    sources: Mapping[str, Source]
    group_sources: Mapping[str, Source]
    retrieve: Callable[..., Output]
    per_shard: tuple[str, ...]
    whole: tuple[str, ...]
    since: Callable[[Shard, datetime.datetime], Since]
    judged_by: tuple[str, ...]


SURFACES: dict[str, Surface] = {
    HOME: Surface(
        HOME, HOME_SOURCES | HOME_PART_SOURCES | HOME_VECTOR_SOURCES, HOME_GROUP_SOURCES | HOME_EXPLORE_SOURCES, retrieve_users,
        ("user", "history", "user_embedding"),
        ("co_listen", "item", "popularity", "item_embedding", "vocabulary", "encoder", "encoder_vocabulary"),
        since_of_users, ("user", "history"),
    ),
    NOW_PLAYING: Surface(
        NOW_PLAYING, NOW_PLAYING_SOURCES | NOW_PLAYING_PART_SOURCES | NOW_PLAYING_VECTOR_SOURCES,
        NOW_PLAYING_GROUP_SOURCES | NOW_PLAYING_EXPLORE_SOURCES, retrieve_seeds,
        ("popularity_partial",),
        ("co_listen", "transition", "artist_top", "item", "popularity", "item_embedding", "vocabulary", "encoder",
         "encoder_vocabulary", "session_knn"),
        since_of_seeds, ("transition_partial",),
    ),
}  # fmt: skip
_WEIGHTS, _INDEX = ("encoder", "session_knn"), frozenset({"index"})
_ASKED_OF_POLICY = ("recent_play_days", "recent_skip_days", "expires_hours", "fresh_days", "explore", "album", "show",
                    "artist", "publisher", "source_seconds")  # fmt: skip
"""What decides on proposals."""
_RESTS_ON = {
    "co_listen": "co_listen", "history": "history", "popularity": "popularity", "transition": "transition",
    "artist": "artist_top", "release": "item", "exploration": "item", "part": "item", "neighbour_session": "session_knn",
}  # fmt: skip


def _datasets(ingested: Ingested, tables: Tables) -> dict[str, Manifest]:
    return {
        "user": ingested.users,
        "item": ingested.items,
        "tombstone": ingested.tombstones,
        "history": tables.histories,
        "popularity_partial": tables.popularity_partial,
        "popularity": tables.popularity,
        "artist_top": tables.artist_top,
        "co_listen": tables.co_listen,
        "transition": tables.transition,
    }


def _inputs(surface: Surface, data: Mapping[str, Manifest]) -> dict[str, tuple[str, ...] | Sequence[DataFile]]:
    names = (*surface.whole, "tombstone", *(_INDEX & data.keys()))
    given: dict[str, tuple[str, ...] | Sequence[DataFile]] = {name: whole(name, data[name]) for name in names}
    return given | {name: data[name].files for name in surface.per_shard}


def whole(name: str, manifest: Manifest) -> tuple[str, ...]:
    """Return what a task that sees all of an input is given of it: of models the weights, of an index its records too."""
    if name in _INDEX:
        return paths((*manifest.files, *manifest.artifacts))
    return paths(manifest.artifacts if name in _WEIGHTS else manifest.files)


def retrieve(surface: Surface, served: Served, week: Sequence[Manifest] = ()) -> Stage:
    """Return the stage in which every source of a surface proposes.

    Args:
      week: of this stage, of the days before; what its scores are measured against. It does not change what is proposed.
    """
    road, data = served.road, served.parts
    inputs = _inputs(surface, data)
    whole = {name: paths(data[name].files) for name in ("popularity", "co_listen", "item", "tombstone")}
    group_task = Task(GROUPS, 0, whole)
    policy = road.policy.surfaces[surface.name]
    instant = Instant.of(road.date, policy)
    used = sorted({*inputs, *whole})
    models = recipes(surface.sources, served.models.families)
    work = WorkOfShard(
        RetrieveGroups(asked(surface.group_sources, policy), policy, instant),
        functools.partial(
            surface.retrieve,
            sources=surface.sources,
            policy=policy,
            instant=instant,
            open_bundle=_opens(served, instant),
        ),
    )
    return Stage(
        name="retrieve",
        qualifier=surface.name,
        contract=PROPOSAL,
        date=road.day,
        inputs=tuple(input_ref(data[name], name) for name in used),
        tasks=(*shard_tasks(road.num_shards, inputs), group_task),
        transform=functools.partial(_ask, work=work, on_gpu=road.device == GPU and served.models.index is None),
        num_parts=road.num_shards + 1,
        num_shards=road.num_shards,
        config={"sources": sorted([*surface.sources, *asked(surface.group_sources, policy)])}
        | {name: getattr(policy, name) for name in _ASKED_OF_POLICY}
        | {"models": models},
        figures=functools.partial(_week, ours=models, encoder=data["encoder"].digest, week=week),
    )


def _week(staged: Sequence[str], ours: Mapping[str, str], encoder: str, week: Sequence[Manifest]) -> dict[str, int]:
    return week_of_scores(ours, encoder, week)


def _opens(served: Served, instant: Instant) -> Callable[[Shard], ModelBundle]:
    """Return what opens the models that a task was given."""
    space = served.models.encoder.space
    return functools.partial(ModelBundle, space=space, instant=instant, code_version=served.road.code_version)


def _ask(space: Workspace, tasks: Sequence[Task], work: Work, on_gpu: bool) -> beam.PTransform:
    """Return the transform in which sources propose; exact search asks for the machines that embedding asked for."""
    asking = process(space, tasks, work)
    return asking.with_resource_hints(**GPU_HINTS) if on_gpu else asking


def asked(sources: Mapping[str, Source], policy: SurfacePolicy) -> dict[str, Source]:
    """Return the sources a policy has slots for: one may explore nothing."""
    return {name: source for name, source in sources.items() if any(q.source_id == name for q in policy.sources)}


def own_and_groups(manifest: Manifest) -> tuple[list[DataFile], tuple[str, ...]]:
    """Return the files of proposals or sets that belong to shards, and the paths of those for whoever is in a group."""
    of_groups = f"part-{GROUPS}.parquet"
    own = [file for file in manifest.files if not file.path.endswith(of_groups)]
    return own, tuple(file.path for file in manifest.files if file.path.endswith(of_groups))


def blend(surface: Surface, served: Served, proposals: Manifest) -> Stage:
    """Return the stage that turns proposals into candidate sets."""
    road, ingested, tables = served.road, served.ingested, served.tables
    calibration = served.calibrations[surface.name]
    data = served.parts | {"proposal": proposals, "calibration": calibration}
    policy = road.policy.surfaces[surface.name]
    own, groups = own_and_groups(proposals)
    common = {"item": paths(ingested.items.files), "popularity": paths(tables.popularity.files)}
    common |= {"tombstone": paths(ingested.tombstones.files), "groups": groups}
    common |= {"calibration": paths(calibration.files)}
    asking = _inputs(surface, data) if surface.name == HOME else {name: data[name].files for name in surface.per_shard}
    inputs: dict[str, tuple[str, ...] | Sequence[DataFile]] = {
        **asking,
        **common,
        "proposal": own,
        LEFT_OUT: proposals.artifacts,
    }
    used = sorted(inputs.keys() - {"groups", LEFT_OUT})
    return Stage(
        name="blend",
        qualifier=surface.name,
        contract=CANDIDATE_SET,
        date=road.day,
        inputs=(*(input_ref(data[name], name) for name in used), input_ref(ingested.campaigns)),
        tasks=(*shard_tasks(road.num_shards, inputs), Task(GROUPS, 0, common)),
        transform=functools.partial(_blend, served=served, surface=surface),
        num_parts=road.num_shards + 1,
        num_shards=road.num_shards,
        config={"policy": dataclasses.asdict(policy), "run_mode": road.run_mode, "bundle": served.bundle.bundle},
        figures=functools.partial(count_eligible, items=ingested.items, rests=count_rests(road.day, ingested.items, served.models)),
    )  # fmt: skip


def count_eligible(staged: Sequence[str], items: Manifest, rests: Mapping[str, int] | None = None) -> Mapping[str, int]:
    """Return the counters by which sets are judged besides those of their own; `rests` as in `pipelines.rests.count_rests`."""
    return {"eligible_items": eligible_items(items)} | dict(rests or {})


def eligible_items(items: Manifest) -> int:
    """Return how many items of a catalogue may be recommended."""
    return items.statistics["columns"]["rec_eligible"]["values"].get("true", 0)


def _blend(space: Workspace, tasks: Sequence[Task], served: Served, surface: Surface) -> beam.PTransform:
    road, policy = served.road, served.road.policy.surfaces[surface.name]
    instant = Instant.of(road.date, policy)
    run = {"run_id": space.run, "gate_report_id": f"{surface.name}-{road.day}-{space.run}"}
    artifacts = rests_on(served.parts, served.models.encoder.space.id)
    every = dict(surface.sources) | dict(surface.group_sources)
    recommend = Recommend(policy, instant, every, Provenance({**_fields(served), **run}, artifacts))
    if surface.name != HOME:
        return ProcessShards(space, WorkOfShard(recommend.groups, recommend.seeds))
    most = -(-MOST // road.num_shards)
    users = Replayed(recommend, surface.sources, _opens(served, instant), most)
    return ProcessShards(space, WorkOfShard(recommend.groups, users))


def fields_of(bundle: Bundle, snapshots: Mapping[str, Manifest], **own: object) -> dict[str, object]:
    """Return the set-level columns that are the same for all sets made from a bundle.

    Args:
      snapshots: `item`, `user` and `campaign`. own: what else is the same, by column.
    """
    named = {"catalog": "item", "user": "user", "campaign": "campaign"}
    return {
        "logical_date": datetime.date.fromisoformat(bundle.date),
        "bundle_id": bundle.bundle,
        **{f"{column}_snapshot_id": snapshots[name].digest for column, name in named.items()},
        "policy_version": bundle.policy_version,
        "experiment_arms": [],
        **own,
    }


def _fields(served: Served) -> dict[str, object]:
    road, ingested, tables = served.road, served.ingested, served.tables
    watermark = int(tables.histories.statistics["columns"]["last_event_ts"]["high"] or 0)
    snapshots = {"item": ingested.items, "user": ingested.users, "campaign": ingested.campaigns}
    return fields_of(
        served.bundle, snapshots, run_mode=road.run_mode, sequence=sequence_of(watermark, 0), source_watermark=watermark,
        base_run_id=None, code_version=road.code_version,
    )  # fmt: skip


def rests_on(parts: Mapping[str, Manifest], space: str) -> dict[str, Rests]:
    """Return what each signal of a surface rests on.

    Args:
      parts: as in `Served.parts`; without `index`, vectors are searched exactly. space: id of that of all vectors.
    """
    on_tables = {signal: Rests(parts[name].dataset, parts[name].run) for signal, name in _RESTS_ON.items()}
    built = parts.get("index")
    index = (built.dataset, built.run) if built else (None, None)
    return on_tables | {signal: Rests("encoder", parts["encoder"].run, space, *index) for signal in VECTOR_SIGNALS}


def exposure(
    road: Road, surface: Surface, sets: Manifest, items: Manifest, weeks_ago: Manifest | None = None,
    kept: Callable[[], Mapping[str, int]] = dict,
) -> Stage:  # fmt: skip
    """Return the stage that counts in how many sets each item is.

    Args:
      weeks_ago: of this stage; what a slow change is measured against. It does not change what is counted.
      kept: counts how much of the sets of the day before stayed; nor does it.
    """
    earlier = {
        f"{WEEKS_AGO}{name}": n for name, n in (weeks_ago.counters if weeks_ago else {}).items() if name in TRENDS
    }
    eligible = eligible_items(items)
    common = road.policy.surfaces[surface.name].common
    return Stage(
        name="exposure",
        qualifier=surface.name,
        contract=EXPOSURE,
        date=road.day,
        inputs=(input_ref(sets),),
        tasks=tuple(
            Task(
                file.path.rsplit("/part-", 1)[-1].removesuffix(".parquet"), file.shard, {"candidate_set": (file.path,)}
            )
            for file in sets.files
        ),
        transform=functools.partial(_exposure, common=common, num_shards=road.num_shards),
        num_parts=road.num_shards,
        num_shards=road.num_shards,
        config={"sets": sets.rows_out, "eligible_items": eligible},
        figures=functools.partial(
            _shown, kept=kept,
            concentrated=functools.partial(concentration, sets=sets.rows_out, eligible_items=eligible, earlier=earlier),
        ),
    )  # fmt: skip


def _shown(
    staged: Sequence[str],
    kept: Callable[[], Mapping[str, int]],
    concentrated: Callable[[Sequence[str]], dict[str, int]],
) -> dict[str, int]:
    return concentrated(staged) | dict(kept())


def _exposure(space: Workspace, tasks: Sequence[Task], common: Sequence[str], num_shards: int) -> beam.PTransform:
    targets = {f"{shard:05d}": Task(f"{shard:05d}", shard, {}) for shard in range(num_shards)}
    return ExchangeShards(space, CountExposure(common, num_shards), add_exposure, targets)


SETS_AT_ONCE = 1_024
_COUNTED = ("sets", "sets_chosen", *ARMS)


@dataclasses.dataclass(frozen=True)
class CountExposure:
    """Count the sets of one file per item. Memory: `SETS_AT_ONCE` sets, and the counts of as many items as they hold."""

    common: Sequence[str]
    num_shards: int

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        (path,) = shard.paths("candidate_set")
        counted = pl.concat([count_exposure(slots, self.common) for slots in _slots(path)])
        added = counted.group_by("item_id", "item_type").agg(pl.col(*_COUNTED).sum(), pl.col("best").min())
        return {"parts": to_shards(added, "item_id", self.num_shards)}


def _slots(path: str) -> Iterator[pl.DataFrame]:
    """Yield `item_id`, `item_type`, `position`, first `source_id` and `ARMS` of all candidates, those of `SETS_AT_ONCE` sets at a time.

    Of the nested columns only four are read, a tenth of the bytes.
    """
    candidate = "candidates.list.element"
    names = ("item_id", "item_type", "position", "sources.list.element.source_id")
    columns = [f"{candidate}.{name}" for name in names]
    empty = {"item_id": pl.String, "item_type": pl.String, "position": pl.Int32, "source_id": pl.String}
    yield pl.DataFrame(schema=empty | dict.fromkeys(ARMS, pl.Boolean))
    for batch in pq.ParquetFile(path).iter_batches(batch_size=SETS_AT_ONCE, columns=["degraded_reasons", *columns]):
        frame = pl.from_arrow(batch)
        assert isinstance(frame, pl.DataFrame)
        slots = frame.select("candidates", *arms()).explode("candidates").drop_nulls("candidates").unnest("candidates")
        first = pl.col("sources").list.first().struct.field("source_id")
        yield slots.select("item_id", "item_type", "position", first, *ARMS)


def count_exposure(rows: pl.DataFrame, common: Sequence[str]) -> pl.DataFrame:
    """Count per item the sets it is in, those by a source that is not the same for all, and those of each of `ARMS`.

    `best` is its best position.
    """
    return rows.group_by("item_id", "item_type").agg(
        pl.len().cast(pl.Int64).alias("sets"),
        (~pl.col("source_id").is_in(common)).sum().cast(pl.Int64).alias("sets_chosen"),
        pl.col(*ARMS).sum().cast(pl.Int64),
        pl.col("position").min().alias("best"),
    )


def add_exposure(shard: Shard) -> Output:
    """Add the counts of all files up for the items of a shard; count those that are among the first places of any set."""
    schema = {"item_id": pl.String, "item_type": pl.String, **dict.fromkeys(_COUNTED, pl.Int64), "best": pl.Int32}
    parts = shard.parts("parts", schema)
    added = parts.group_by("item_id").agg(pl.col("item_type").first(), pl.col(*_COUNTED).sum(), pl.col("best").min())
    covered = {f"{COVERED_AT}{k}": int((added["best"] < k).sum()) for k in COVERAGE_AT}
    return Output(
        added.select(EXPOSURE.schema.names).sort("item_id"),
        rows_in=parts.height,
        counters=covered | count_offered(added),
    )


def concentration(staged: Sequence[str], sets: int, eligible_items: int, earlier: Mapping[str, int]) -> dict[str, int]:
    """Return how concentrated the sets are, with `earlier` figures: a streaming pass that keeps the 100 most chosen items.

    `gini_ppm` is over the covered items, from counts per exposure value, of which there are at most `sets`.
    """
    lazy = pl.scan_parquet(list(staged), hive_partitioning=False)
    totals = lazy.select(pl.len().alias("covered_items"), pl.col("sets").sum().alias("slots"),
                         pl.col("sets_chosen").sum().alias("slots_chosen"),
                         pl.col("sets_chosen").max().alias("max_item_sets_chosen")).collect(engine="streaming")  # fmt: skip
    best = lazy.select("sets_chosen").top_k(_TOP, by="sets_chosen").sum().collect(engine="streaming").item()
    values = lazy.group_by("sets").len().collect(engine="streaming").sort("sets")
    counted = {name: int(value or 0) for name, value in totals.row(0, named=True).items()}
    return counted | {"top100_slots_chosen": int(best or 0), "gini_ppm": _gini_ppm(values), "sets": sets,
                      "eligible_items": eligible_items} | dict(earlier)  # fmt: skip


def _gini_ppm(values: pl.DataFrame) -> int:
    """Return the Gini coefficient of items' exposure, in ppm, from `sets` and `len` sorted by `sets`."""
    if not values.height:
        return 0
    x, n = values["sets"].to_numpy().astype(float), values["len"].to_numpy().astype(float)
    mass, items = (x * n).sum(), n.sum()
    after = n.cumsum()
    return round(1e6 * float((n * x * (2 * after - n - items)).sum() / (items * mass)))
