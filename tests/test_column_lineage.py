"""Declared lineage against observed: change an input column, see which output columns move.

A change of a column that no output column declares must move nothing, and every direct influence that is declared must
be seen at least once. An output row that comes or goes moves its key.
"""

import dataclasses
import datetime
import functools
import itertools
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import polars as pl
import pytest
from toy_deliveries import raw_campaigns, raw_events, raw_examples, raw_items, raw_table, raw_tombstones, raw_users
from toy_models import ToyModel
from toy_road import DATE, instant, policy, quota

from pipelines.recommend import count_exposure
from schemas.candidates import CANDIDATE_SET, EXPOSURE, PROPOSAL
from schemas.catalogue import CONTRACTS
from schemas.contract import Contract
from schemas.inputs import CAMPAIGN, EVENT, ITEM, TOMBSTONE, USER
from schemas.models import EMBEDDING_DIM, EXAMPLE, ITEM_EMBEDDING, USER_EMBEDDING, VOCABULARY, Space
from schemas.policy import SurfacePolicy
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
from transforms import explore_pool, groups, recommend, retrieve, tallies, train
from transforms.audit import flatten
from transforms.campaigns import offending
from transforms.candidate_sets import Provenance
from transforms.conformance import MemoryBundle, MemoryModels
from transforms.decode import POSITION
from transforms.embed.inference import Embedder
from transforms.embed.vectors import ITEMS, USERS, Rows, finish_batch, read_batch
from transforms.explore_pool import HOME_EXPLORE_SOURCES
from transforms.group_sources import HOME_GROUP_SOURCES, NOW_PLAYING_GROUP_SOURCES
from transforms.histories import histories
from transforms.ingest import SOURCE, MergeEvents, MergeRows, given_contract
from transforms.part_sources import HOME_PART_SOURCES, NOW_PLAYING_PART_SOURCES
from transforms.shards import TARGET, Output, Task
from transforms.sources import HOME_SOURCES, NOW_PLAYING_SOURCES, Source
from transforms.vector_sources import HOME_VECTOR_SOURCES, NOW_PLAYING_VECTOR_SOURCES
from validation.arm_gates import ARMS
from validation.rows import polars_schema

Tables = Mapping[str, pl.DataFrame]
RENAMED_TOGETHER = {f"co_listen_partial.{name}": ("item_id", "other_item_id") for name in ("item_id", "other_item_id")}
"""Columns of one dataset that name each other's rows."""
DECAY = (DATE, 7.0, 1)
HOME = policy(
    quota("home.co_listen", 1, 2, 4, discovery=True), quota("home.relisten", 1, 1, 3),
    quota("home.follow_new", 1, 1, 3, discovery=True), quota("home.next_part", 2, 2, 3), quota("home.explore", 1, 1, 1, personal=False, discovery=True),
    quota("home.popular_company", 0, 1, 2, personal=False, newcomers=True),
    quota("home.popular_market", 1, 1, 9, personal=False), explore="home.explore", size=9, minimum_size=2, fill_to=8, artist_early=1, artist_early_slots=3, artist=3, album=1, show=1, publisher=2,
    recent_play_days=1, page=6, content_gap=0.0, fatigue_impressions=2, overplayed=3,
)  # fmt: skip
NOW_PLAYING = policy(
    quota("np.next_part", 1, 1, 2), quota("np.transition", 1, 2, 4), quota("np.familiar", 1, 1, 3), quota("np.artist_radio", 0, 2, 3),
    quota("np.popular_market", 0, 0, 9, personal=False),
    name="now_playing", size=6, minimum_size=2, fill_to=5, max_run=1, artist=3, album=2, recent_play_days=0,
)  # fmt: skip


OF_USERS, OF_SEEDS = HOME_SOURCES | HOME_PART_SOURCES, NOW_PLAYING_SOURCES | NOW_PLAYING_PART_SOURCES


# The road in memory.


class Noted(Mapping):
    """Tables that note which of them are read."""

    def __init__(self, tables: Tables) -> None:
        self.tables, self.read = tables, dict[str, pl.DataFrame]()

    def __getitem__(self, name):
        return self.read.setdefault(name, self.tables[name])

    def __iter__(self):
        return iter(self.tables)

    def __len__(self):
        return len(self.tables)


@dataclasses.dataclass
class Once:
    """Part of a step, which is not run again where all that it read the first time is the same."""

    run: Callable[[Tables], pl.DataFrame]
    known: tuple[Tables, pl.DataFrame] | None = None

    def __call__(self, tables: Tables) -> pl.DataFrame:
        if self.known and all(tables[name] is table for name, table in self.known[0].items()):
            return self.known[1]
        noted = Noted(tables)
        made = self.run(noted)
        self.known = self.known or (noted.read, made)
        return made


@dataclasses.dataclass
class Given:
    """What a task sees, in memory."""

    tables: Tables
    kinds: Tables = dataclasses.field(default_factory=dict)
    task: Task = dataclasses.field(default_factory=lambda: Task("toy", 0, {}))

    def parts(self, kind, columns):
        return self.kinds.get(kind, pl.DataFrame(schema=columns))

    def read(self, name, columns=None, where=None):
        return MemoryBundle(self.tables).read(name, columns, where)

    def paths(self, name):
        return [self.tables[name]] if name in self.tables else []


def ingest_events(tables: Tables) -> pl.DataFrame:
    given = Given(tables, {"events": located(tables["raw_event"]), "totals": pl.DataFrame({"lines": [1]})})
    made = MergeEvents("1")(given)
    return pl.concat([output.frame for output in (made if isinstance(made, list) else [made])])


def ingest_rows(contract: Contract, tables: Tables) -> pl.DataFrame:
    given = Given(tables, {"rows": located(tables[f"raw_{contract.name}"]), "totals": pl.DataFrame({"lines": [1]})})
    return MergeRows(contract, "1", offending if contract is CAMPAIGN else None)(given).frame


def located(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.lit("f").alias(SOURCE), pl.int_range(pl.len(), dtype=pl.Int64).alias(POSITION))


def count(by_day: Callable, sums: list[str], tables: Tables) -> pl.DataFrame:
    users = [tables["user"].select("user_id", "tier")] if "user" in tables else []
    counted = by_day(tables["event"], *users)
    counted = counted.with_columns(pl.selectors.enum().cast(pl.String))
    return counted.group_by([name for name in counted.columns if name not in sums]).agg(pl.col(sums).sum())


def tally(partial: str, emit: Callable, merge: Callable, tables: Tables) -> pl.DataFrame:
    """Emit from one item shard and merge in one target; in between, names are strings as in the files."""
    items = [tables["item"]] if "item" in tables else []
    kinds = emit(tables[partial], *items, *DECAY)
    plain = pl.selectors.enum().cast(pl.String)
    return merge(**{kind: parts.drop(TARGET).with_columns(plain) for kind, parts in kinds.items()})


def merge_pairs(parts: pl.DataFrame, own: pl.DataFrame) -> pl.DataFrame:
    return tallies.co_listens(parts, own)


def top_of_artists(parts: pl.DataFrame) -> pl.DataFrame:
    return tallies.top(parts, ["artist_id"], "weight", "item_id", tallies.TOP_OF_ARTIST)


def embedding(what: Rows, tables: Tables) -> pl.DataFrame:
    space = Space("toy", "1", EMBEDDING_DIM, "cosine")
    given = Given({**tables, what.embedding: pl.DataFrame(schema=polars_schema(CONTRACTS[what.embedding]))})
    batch = read_batch(given, what, space)
    embedder = Embedder(ToyModel(), tables["vocabulary"].sort("item_id")["item_id"])
    return finish_batch(batch, embedder.vectors(what, batch.rows), what, space).frame


def of_groups(sources: Mapping[str, Source], surface: SurfacePolicy, tables: Tables) -> pl.DataFrame:
    return groups.RetrieveGroups(sources, surface, instant(surface))(Given(tables)).frame


def of_users(tables: Tables) -> pl.DataFrame:
    return retrieve.retrieve_users(Given(tables), OF_USERS | HOME_VECTOR_SOURCES, HOME, instant(HOME), opened).frame


def of_seeds(tables: Tables) -> pl.DataFrame:
    sources = OF_SEEDS | NOW_PLAYING_VECTOR_SOURCES
    return retrieve.retrieve_seeds(Given(tables), sources, NOW_PLAYING, instant(NOW_PLAYING), opened).frame


PROPOSED = (
    Once(functools.partial(of_groups, HOME_GROUP_SOURCES | HOME_EXPLORE_SOURCES, HOME)),
    Once(functools.partial(of_groups, NOW_PLAYING_GROUP_SOURCES, NOW_PLAYING)),
    Once(of_users),
    Once(of_seeds),
)


def proposals(tables: Tables) -> pl.DataFrame:
    return pl.concat(part(tables) for part in PROPOSED)


def opened(given: Given) -> MemoryModels:
    return MemoryModels(given.tables, instant(HOME))


FIELDS = {
    "run_id": "run", "run_mode": "batch", "logical_date": DATE, "base_run_id": None, "bundle_id": "b",
    "catalog_snapshot_id": "c", "user_snapshot_id": "u", "campaign_snapshot_id": "p", "policy_version": "v",
    "code_version": "1", "experiment_arms": [], "gate_report_id": "g",
}  # fmt: skip


def blended(surface: SurfacePolicy, sources: Mapping[str, Source], who: str, tables: Tables) -> pl.DataFrame:
    watermark = tables["history"]["last_event_ts"].max()  # as `pipelines.recommend` takes it from the statistics
    fields = FIELDS | {"sequence": round(watermark.timestamp() * 1e6), "source_watermark": watermark}
    mine, of_group = (
        tables["proposal"].filter(pl.col("source_id").is_in(list(sources))),
        pl.col("key").str.starts_with("*|"),
    )
    given = Given(ChainMap({"proposal": mine.filter(~of_group), "groups": mine.filter(of_group)}, tables))
    blend = recommend.Recommend(surface, instant(surface), sources, Provenance(fields, {}))
    made = getattr(blend, who)(given)
    (made,) = [made] if isinstance(made, Output) else made
    return pl.from_arrow(made.frame)


BLENDED = tuple(
    Once(functools.partial(blended, surface, sources, who))
    for surface, sources, who in (
        (HOME, OF_USERS | HOME_GROUP_SOURCES | HOME_EXPLORE_SOURCES, "users"),
        (HOME, OF_USERS | HOME_GROUP_SOURCES | HOME_EXPLORE_SOURCES, "groups"),
        (NOW_PLAYING, OF_SEEDS | NOW_PLAYING_GROUP_SOURCES, "seeds"),
    )
)


def candidate_sets(tables: Tables) -> pl.DataFrame:
    return pl.concat(part(tables) for part in BLENDED)


def exposure(tables: Tables) -> pl.DataFrame:
    slots = flatten(tables["candidate_set"].to_arrow()).with_columns(pl.lit(True).alias(arm) for arm in ARMS)
    return count_exposure(slots, HOME.common)


class Step(NamedTuple):
    """One stage: what it makes of which tables; rows are compared by `key`."""

    contract: Contract
    inputs: tuple[str, ...]
    run: Callable[[Tables], pl.DataFrame]
    key: tuple[str, ...] = ()


STEPS = {
    step.contract.name: step
    for step in (
        Step(ITEM, ("raw_item",), functools.partial(ingest_rows, ITEM), ("duration_ms",)),
        Step(USER, ("raw_user",), functools.partial(ingest_rows, USER)),
        Step(CAMPAIGN, ("raw_campaign", "item"), functools.partial(ingest_rows, CAMPAIGN)),
        Step(TOMBSTONE, ("raw_tombstone",), functools.partial(ingest_rows, TOMBSTONE)),
        Step(EXAMPLE, ("raw_example",), functools.partial(ingest_rows, EXAMPLE)),
        Step(EVENT, ("raw_event", "user", "tombstone"), ingest_events),
        Step(HISTORY, ("event",), lambda tables: histories(tables["event"])),
        Step(POPULARITY_PARTIAL, ("event", "user"),
             functools.partial(count, tallies.popularity_by_day, ["weight", "plays"])),
        Step(CO_LISTEN_PARTIAL, ("event",), functools.partial(count, tallies.pairs_by_day, ["weight", "returns"])),
        Step(TRANSITION_PARTIAL, ("event",), functools.partial(count, tallies.transitions_by_day, ["weight"])),
        Step(POPULARITY, ("popularity_partial",),
             functools.partial(tally, "popularity_partial", tallies.emit_popular, tallies.popularity)),
        Step(ARTIST_TOP, ("popularity_partial", "item"),
             functools.partial(tally, "popularity_partial", tallies.emit_artist_items, top_of_artists)),
        Step(CO_LISTEN, ("co_listen_partial",),
             functools.partial(tally, "co_listen_partial", tallies.emit_pairs, merge_pairs)),
        Step(TRANSITION, ("transition_partial", "item"),
             functools.partial(tally, "transition_partial", tallies.emit_transitions, tallies.transitions)),
        Step(VOCABULARY, ("history", "item"), lambda tables: train.number_items(Given(tables)).frame),
        Step(ITEM_EMBEDDING, ("item", "vocabulary"), functools.partial(embedding, ITEMS)),
        Step(USER_EMBEDDING, ("history", "vocabulary"), functools.partial(embedding, USERS)),
        Step(PROPOSAL, ("history", "user", "item", "tombstone", "co_listen", "transition", "artist_top", "popularity",
                        "popularity_partial", "vocabulary", "item_embedding", "user_embedding"), proposals),
        Step(CANDIDATE_SET, ("proposal", "history", "user", "item", "tombstone", "popularity", "popularity_partial"),
             candidate_sets, ("record_key", "context_key")),
        Step(EXPOSURE, ("candidate_set",), exposure),
    )
}  # fmt: skip
RAW = {"raw_event": (EVENT, raw_events), "raw_item": (ITEM, raw_items), "raw_user": (USER, raw_users),
           "raw_campaign": (CAMPAIGN, raw_campaigns), "raw_tombstone": (TOMBSTONE, raw_tombstones),
           "raw_example": (EXAMPLE, raw_examples)}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _in_memory():
    """Let transforms look tables up in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore_pool, "POOL", 6)  # of twelve items, so that rates are below 1
        for module in (retrieve, groups, recommend):
            patch.setattr(module, "ShardBundle", lambda given: MemoryBundle(given.tables))
        patch.setattr(recommend, "read_tables", lambda paths, contract: paths[0])
        patch.setattr(train, "read_tables", lambda paths, contract, columns: paths[0].select(columns))
        yield


@pytest.fixture(scope="module")
def world(_in_memory) -> Tables:
    """Return every dataset of the road, raw ones included."""
    made = {name: raw_table(contract, rows()) for name, (contract, rows) in RAW.items()}
    for name, step in STEPS.items():
        made[name] = step.run({one: made[one] for one in step.inputs})
    return made


@pytest.mark.parametrize("name", STEPS)
def test_the_world_has_rows_of_everything(world, name):
    assert world[name].height > 1


# What moves.


def changed(column: pl.Series, nullable: bool, key: bool) -> Iterator[pl.Series]:
    """Yield other values for a whole column: moved by a row, all like one row, and what its type suggests.

    A key only gets other names: moved to another row it would be another row's whole identity.
    """
    name, kind, n = column.name, column.dtype, len(column)
    every_other = pl.Series([row % 2 == 0 for row in range(n)])
    if not key:
        yield column.gather([(row + 1) % n for row in range(n)])
        yield column.gather([0] * n)
        if nullable:
            yield pl.Series(name, [None] * n, kind)
    if kind == pl.String:
        yield column + "x"
        yield (column + "x").zip_with(every_other, column)
    elif kind == pl.Boolean:
        yield ~column
    elif kind.is_numeric():
        yield (column * 2 + 1).cast(kind)
        yield (column * 20).cast(kind).zip_with(every_other, column)
        yield -column
    elif isinstance(kind, pl.Datetime) or kind == pl.Date:
        for days in (-20, -1, 40):
            yield column + datetime.timedelta(days=days)
            yield (column + datetime.timedelta(days=days)).zip_with(every_other, column)
    elif isinstance(kind, pl.List):
        yield column.list.reverse()
        yield column.list.head(1)
        yield column.list.head(0)


def contract_of(dataset: str) -> Contract:
    return given_contract(RAW[dataset][0]) if dataset in RAW else CONTRACTS[dataset]


def moved(step: Step, before: pl.DataFrame, after: pl.DataFrame) -> set[str]:
    """Return the output columns that differ: a value of a row that stayed, or a key whose values are others."""
    key = list(step.key or step.contract.key)
    columns = step.contract.schema.names
    old, new = ({tuple(row[name] for name in key): row for row in frame.to_dicts()} for frame in (before, after))
    differ = {name for one in old.keys() & new.keys() for name in columns if old[one][name] != new[one][name]}
    names = {name for place, name in enumerate(key) if {one[place] for one in old} != {one[place] for one in new}}
    return differ | (names or set(key) if old.keys() != new.keys() else set())


def declared(step: Step) -> dict[str, set[str]]:
    """Return, by input column, the output columns that declare it, directly or not."""
    found: dict[str, set[str]] = {}
    for name, sources in step.contract.derivations().items():
        for source in sources:
            found.setdefault(source.removeprefix("?"), set()).add(name)
    return found


def influence(step: Step, world: Tables, column: str) -> set[str]:
    """Return the output columns that any change of one input column moves."""
    dataset = column.partition(".")[0]
    seen: set[str] = set()
    for rows in changed_rows(step, world[dataset], column):
        tables = {name: world[name] for name in step.inputs} | {dataset: rows}
        seen |= moved(step, world[step.contract.name], step.run(tables))
    return seen


def changed_rows(step: Step, rows: pl.DataFrame, column: str) -> Iterator[pl.DataFrame]:
    dataset, _, name = column.partition(".")
    if column in RENAMED_TOGETHER:
        yield rows.with_columns(pl.col(RENAMED_TOGETHER[column]) + "x")
        return
    contract = contract_of(dataset)
    key = name in (*contract.key, *step.key)
    for other in changed(rows[name], contract.schema.field(name).nullable, key):
        yield rows.with_columns(other.alias(name))


# What may move.

IDENTITY = {
    ("candidate_set", "proposal.key", "candidate_set_id"), ("candidate_set", "proposal.key", "market"),
    ("candidate_set", "proposal.key", "tier"), ("candidate_set", "user.user_id", "candidate_set_id"),
    ("candidate_set", "user.user_id", "user_id"), ("candidate_set", "history.user_id", "candidate_set_id"),
    ("candidate_set", "history.user_id", "user_id"),
    ("candidate_set", "popularity_partial.item_id", "candidate_set_id"),
    ("candidate_set", "popularity_partial.item_id", "context"),
    ("candidate_set", "popularity_partial.market", "market"),
    ("proposal", "popularity_partial.item_id", "seed_item_ids"),
}  # fmt: skip
"""What is a function of the record's key: another value is another record, and no row is left to compare."""
FIXED = {("exposure", "candidate_set.candidates", "item_type")}
"""An item is of one type in every set: choosing other candidates cannot change it."""
SLOW = ("proposal", "candidate_set")  # they run a surface for each change: a minute of each


def declarations() -> Iterator:
    for name, step in STEPS.items():
        for column in sorted(declared(step)):
            yield pytest.param(name, column, id=f"{name}-{column}", marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.mark.parametrize(("name", "column"), declarations())
def test_a_declared_column_moves_what_it_declares_and_nothing_else(world, name, column):
    step = STEPS[name]
    seen = influence(step, world, column)
    assert seen <= declared(step)[column]
    direct = {output for output, sources in step.contract.own_derivations().items() if column in sources}
    known = {output for output in direct if (name, column, output) in IDENTITY | FIXED}
    assert direct - known <= seen
    assert not known & seen, "no longer an exception"
    assert seen or column not in step.contract.rows_from


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in STEPS])
def test_columns_nobody_declares_move_nothing(world, name):
    step = STEPS[name]
    for dataset in step.inputs:
        columns = [one for one in world[dataset].columns if f"{dataset}.{one}" not in declared(step)]
        rounds = itertools.zip_longest(*(changed_rows(step, world[dataset], f"{dataset}.{one}") for one in columns))
        for changes in rounds:
            others = [rows[one] for one, rows in zip(columns, changes, strict=True) if rows is not None]
            tables = {one: world[one] for one in step.inputs} | {dataset: world[dataset].with_columns(others)}
            assert moved(step, world[name], step.run(tables)) == set(), f"one of {dataset}: {columns}"


@pytest.mark.parametrize("name", STEPS)
def test_only_inputs_of_the_stage_are_declared(name):
    step = STEPS[name]
    there = {f"{dataset}.{column}" for dataset in step.inputs for column in contract_of(dataset).schema.names}
    assert set(declared(step)) <= there


def test_every_derived_dataset_is_a_step():
    assert set(STEPS) == {name for name, contract in CONTRACTS.items() if any(contract.derivations().values())}


def test_an_undeclared_influence_is_seen(world):
    step = STEPS["popularity"]
    assert influence(step, world, "popularity_partial.weight") >= {"weight", "rank", "item_id"}
    assert influence(step, world, "popularity_partial.plays") == set()
