"""Build an index from item shards: immutable segments, each a run of the sorted ids.

    SampleVectors    item shard -> some of its vectors, by the hash of their ids
    train_once       the sample -> lists and codes of all segments, and where one ends and the next begins
    EncodeVectors    item shard -> the list, code and vector of each item, to the segment of its id
    BuildSegment     what all shards sent, sorted by id -> two files and their record
    JudgeIndex       all segments, opened as they will be -> how good they are, and whether all items are there

Nothing rests on how many shards there are or which comes first: the same vectors give the same bytes.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import faiss
import numpy as np
import polars as pl

from schemas.hashing import hash64, mix64, unit_interval
from schemas.models import INDEX, Space
from schemas.tallies import ANY
from transforms.index.build import assemble, encode, factory, flat, listed, train
from transforms.index.files import Terms, codes_name, ids_digest, open_index, vectors_name
from transforms.index.measure import Slices, measure
from transforms.io.store import open_store
from transforms.model_bundle import demand_space
from transforms.shards import (
    ARTIFACTS,
    TARGET,
    EmitParts,
    MergeParts,
    Output,
    Part,
    Shard,
    Task,
    Workspace,
    process_shard,
)
from validation.rows import polars_schema

MOST_IN_SEGMENT = 2_000_000
QUERIES = 2_000
"""That an index is judged on (the project's reference, quality gates)."""
SEED = 20_260_101
JUDGED = "judged"
_TRAINED, _LAYOUT = "trained.faiss", "trained.json"
_OF_QUERIES = np.array([1], np.uint64)  # so that others are asked for than training saw
_INPUTS = (("item_embedding", "item_id"), ("user_embedding", "user_id"))


@dataclasses.dataclass(frozen=True, slots=True)
class Design:
    """What an index is to be.

    Attributes:
      lists: of codes. sampled: share of the items that training sees. asked: share of items and users whose vectors the
        index is judged on.
    """

    space: Space
    lists: int
    segments: int
    sampled: float
    asked: float


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """What training settles besides the index: the first id of every segment but the first, and the markets there are."""

    edges: list[str]
    markets: list[str]


@dataclasses.dataclass
class BuildIndex(beam.PTransform):
    """Build an index of the vectors of all item shards."""

    workspace: Workspace
    design: Design

    def expand(self, tasks: beam.PCollection[Task]) -> beam.PCollection[str]:
        """Return the names of the segments done."""
        space, design = self.workspace, self.design
        trained = (
            tasks
            | "NameSamples" >> beam.Map(_named, "sample")
            | "SampleVectors" >> EmitParts(space, SampleVectors(design))
            | "GatherSample" >> beam.combiners.ToList()
            | "TrainOnce" >> beam.Map(train_once, workspace=space, design=design)
        )
        encoded = (
            tasks
            | "AwaitTraining" >> beam.Map(_named, "encode", beam.pvalue.AsSingleton(trained))
            | "EncodeVectors" >> EmitParts(space, EncodeVectors(space.staging, design))
        )
        targets = {_segment(n): Task(_segment(n), n, {}) for n in range(design.segments)}
        return (
            encoded
            | "OfSegments" >> beam.Filter(lambda part: part[0] != JUDGED)
            | "BuildSegments" >> MergeParts(space, BuildSegment(space, design), targets)
            | "AwaitSegments" >> beam.combiners.ToList()
            | "JudgeIndex" >> beam.Map(judge_once, beam.pvalue.AsList(encoded), space, design)
        )


def _segment(number: int) -> str:
    return f"{number:05d}"


def _named(task: Task, step: str, _trained: str = "") -> Task:
    return dataclasses.replace(task, name=f"{step}-{task.name}")


@dataclasses.dataclass(frozen=True)
class SampleVectors:
    """Sample the vectors of an item shard, with the markets the sampled items are offered in. Memory: the shard."""

    design: Design

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        rows = _embedded(shard, self.design)
        hashes = hash64(rows["item_id"].to_arrow())
        sample = rows.filter(pl.Series(unit_interval(hashes) < self.design.sampled))
        offers = _offers(shard, sample["item_id"]).group_by("item_id").agg(pl.col("market").sort())
        found = sample.select("item_id", "vector").join(offers, on="item_id", how="left", maintain_order="left")
        return {"sample": found.with_columns(pl.lit("all").alias(TARGET))}


def _embedded(shard: Shard, design: Design) -> pl.DataFrame:
    rows = shard.read("item_embedding", ["item_id", "space_id", "vector"]).sort("item_id")
    demand_space(rows, design.space, "item_embedding")
    return rows


def _offers(shard: Shard, ids: pl.Series) -> pl.DataFrame:
    """Return `item_id` and `market` of what is offered somewhere by name, at some time, to somebody."""
    known = shard.read("item", ["item_id", "availability"], pl.col("item_id").is_in(ids.implode()))
    offers = known.explode("availability").drop_nulls("availability").unnest("availability")
    return offers.select("item_id", "market").filter(pl.col("market") != ANY).unique().sort("item_id", "market")


def train_once(parts: Iterable[tuple[str, tuple[str, str]]], workspace: Workspace, design: Design) -> str:
    """Train on the sampled vectors in the order of their ids, and write what came of it.

    Memory: the sample, `SAMPLED_PER_LIST` vectors per list: at 100 M items of 64 dimensions 0.7 GB.
    """
    store = workspace.store
    if not store.exists(f"{workspace.staging}/{_LAYOUT}"):
        paths = [store.local(path) for _, (_, path) in sorted(parts)]
        sample = pl.concat([pl.read_parquet(path) for path in paths]).sort("item_id") if paths else pl.DataFrame()
        vectors = sample["vector"].to_numpy() if paths else np.empty((0, design.space.dim), np.float32)
        index = train(vectors, design.lists, SEED)
        edges = [sample["item_id"][len(vectors) * n // design.segments] for n in range(1, design.segments)]
        layout = Layout(edges, sample["market"].explode().drop_nulls().unique().sort().to_list())
        store.write_bytes(f"{workspace.staging}/{_TRAINED}", faiss.serialize_index(index).tobytes())
        store.write_bytes(f"{workspace.staging}/{_LAYOUT}", json.dumps(dataclasses.asdict(layout)).encode())
    return workspace.staging


@functools.lru_cache(maxsize=1)
def _training(root: str, staging: str) -> tuple[Any, Layout]:
    store = open_store(root)
    index = faiss.deserialize_index(np.frombuffer(store.read_bytes(f"{staging}/{_TRAINED}"), np.uint8))
    return index, Layout(**json.loads(store.read_bytes(f"{staging}/{_LAYOUT}")))


@dataclasses.dataclass(frozen=True)
class EncodeVectors:
    """Send the items of a shard to their segments, coded, and some vectors to where the index is judged on them.

    Memory: the shard and its codes.
    """

    staging: str
    design: Design

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        trained, layout = _training(shard.store.root, self.staging)
        rows = _embedded(shard, self.design)
        lists, codes = encode(trained, rows["vector"].to_numpy().reshape(-1, self.design.space.dim))
        kinds = shard.read("item", ["item_id", "item_type"])
        segment = pl.Series(layout.edges, dtype=pl.String).search_sorted(rows["item_id"], side="right")
        coded = rows.join(kinds, on="item_id", how="left", maintain_order="left").select(
            "item_id", "vector", "item_type",
            pl.Series("list", lists), pl.Series("code", codes, pl.Array(pl.UInt8, trained.code_size)),
            pl.Series("offered", self._offered(shard, rows["item_id"], layout.markets)),
            segment.cast(pl.String).str.zfill(len(_segment(0))).alias(TARGET),
        )  # fmt: skip
        asked = pl.concat([self._asked(shard, *one) for one in _INPUTS])
        total = pl.DataFrame(
            {"ids": [_ids_sum(rows["item_id"])], TARGET: [JUDGED]}, schema_overrides={"ids": pl.UInt64}
        )
        return {"rows": coded, "asked": asked, "total": total}

    def _asked(self, shard: Shard, name: str, key: str) -> pl.DataFrame:
        rows = shard.read(name, [key, "vector"])
        hashes = mix64(hash64(rows[key].to_arrow()), _OF_QUERIES)
        chosen = unit_interval(hashes) < self.design.asked
        named = rows.select("vector", pl.Series("hash", hashes), pl.lit(JUDGED).alias(TARGET))
        return named.filter(pl.Series(chosen)).sort("hash")

    def _offered(self, shard: Shard, ids: pl.Series, markets: Sequence[str]) -> pl.Series:
        """Return in which markets items are offered, a bit each; an item of no offer by name is offered everywhere."""
        offers, offered = _offers(shard, ids), np.zeros((len(ids), len(markets)), bool)
        offers = offers.filter(pl.col("market").is_in(markets))
        places = pl.Series(markets, dtype=pl.String).search_sorted(offers["market"])
        offered[ids.search_sorted(offers["item_id"]).to_numpy(), places.to_numpy()] = True
        offered[~offered.any(axis=1)] = True
        return pl.Series([row.tobytes() for row in np.packbits(offered, axis=1)], dtype=pl.Binary)


def _ids_sum(ids: pl.Series) -> int:
    """Return a digest that adds up, modulo 2**64."""
    return int(hash64(ids.to_arrow()).sum(dtype=np.uint64))


@dataclasses.dataclass(frozen=True)
class BuildSegment:
    """Build one segment.

    Memory: `MOST_IN_SEGMENT` items with their vectors four times over; at 64 dimensions 2 GB.
    """

    workspace: Workspace
    design: Design

    def __call__(self, shard: Shard) -> Output:
        trained, _ = _training(shard.store.root, self.workspace.staging)
        rows = pl.scan_parquet(shard.paths("rows")).collect(engine="in-memory").sort("item_id")
        codes = assemble(trained, rows["list"].to_numpy(), rows["code"].to_numpy())
        vectors = flat(rows["vector"].to_numpy())
        files = {
            codes_name(shard.number): faiss.serialize_index(codes).tobytes(),
            vectors_name(shard.number): faiss.serialize_index(vectors).tobytes(),
        }
        record = self._record(shard.number, rows["item_id"], sum(map(len, files.values())))
        return Output(record, rows.height, counters=_counted(rows["item_id"], listed(codes)), artifacts=files)

    def _record(self, segment: int, ids: pl.Series, size: int) -> pl.DataFrame:
        space, design = self.design.space, self.design
        record = {
            "segment": segment, "num_rows": len(ids), "space_id": space.id, "metric": space.metric,
            "factory": factory(space.dim, design.lists), "ids_digest": ids_digest(ids), "bytes": size,
            "code_version": self.workspace.code_version,
        }  # fmt: skip
        return pl.DataFrame([record]).select(INDEX.schema.names)


def _counted(ids: pl.Series, rows: np.ndarray) -> dict[str, int]:
    """Count what the lists hold: rows, those they hold more than once, and the sum of the hashes of their ids."""
    held = ids.gather(rows)
    return {"listed": len(held), "repeated": len(held) - held.n_unique(), "ids": _ids_sum(held)}


def judge_once(segments: Sequence[str], encoded: Sequence[Part], workspace: Workspace, design: Design) -> str:
    """Judge the index of all segments; a further part that has no rows, and the counts."""
    inputs: dict[str, tuple[str, ...]] = {}
    for _, (kind, path) in sorted(encoded):
        inputs[kind] = (*inputs.get(kind, ()), path)
    inputs[INDEX.name] = tuple(f"{workspace.staging}/part-{name}.parquet" for name in sorted(segments))
    names = [name(n) for n in range(len(segments)) for name in (codes_name, vectors_name)]
    inputs[ARTIFACTS] = tuple(f"{workspace.staging}/{ARTIFACTS}/{name}" for name in names)
    return process_shard(Task(JUDGED, 0, inputs), workspace, JudgeIndex(workspace, design))


@dataclasses.dataclass(frozen=True)
class JudgeIndex:
    """Open an index as its users will and measure it. Memory: the index with ids, types and markets of all items."""

    workspace: Workspace
    design: Design

    def __call__(self, shard: Shard) -> Output:
        _, layout = _training(shard.store.root, self.workspace.staging)
        items = (
            pl.scan_parquet(shard.paths("rows")).select("item_id", "item_type", "offered").collect(engine="in-memory")
        )
        items = items.sort("item_id")
        terms = Terms(self.design.space, self.workspace.code_version)
        index = open_index(shard.read(INDEX.name), shard.paths(ARTIFACTS), items["item_id"], terms)
        offered = np.frombuffer(b"".join(items["offered"]), np.uint8).reshape(items.height, -1)
        asked = shard.parts("asked", {"vector": pl.Array(pl.Float32, self.design.space.dim), "hash": pl.UInt64})
        queries = asked.sort("hash")["vector"].to_numpy()
        counters = measure(index, queries, Slices(items["item_type"], layout.markets, offered))
        given = sum(shard.parts("total", {"ids": pl.UInt64})["ids"]) % 2**64
        return Output(pl.DataFrame(schema=polars_schema(INDEX)), counters=counters | {"ids_given": given})
