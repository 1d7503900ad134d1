"""The retrieve stage beside the search in it: Beam, files, users, reach and proposals around the same kernel."""

import dataclasses
import datetime
import functools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pyarrow as pa
from polars import selectors as cs

from jobs.options import POLICY_FILE, read_policy
from pipelines.runner import run_beam
from schemas.candidates import PROPOSAL
from schemas.catalogue import CONTRACTS
from schemas.contract import Contract
from schemas.hashing import shard_of
from schemas.models import Space
from transforms.filters import Instant
from transforms.io.store import Store, open_store
from transforms.io.tables import conform, write_parquet
from transforms.kin import looked_at
from transforms.model_bundle import ModelBundle, _items
from transforms.retrieve import retrieve_users
from transforms.shards import ProcessShards, Shard, Task, Workspace
from transforms.vector_sources import HOME_VECTOR_SOURCES, TWO_TOWER_LIMIT
from validation.rows import polars_schema

DATE = datetime.date(2026, 1, 31)
SOURCE = "home.two_tower"
SHARDS = 2


def stage(num_items: int, num_users: int, dim: int, rounds: int) -> dict[str, float]:
    """Return CPU seconds of the stage with one source over vectors, of the search alone, and the share of it in the stage.

    What is opened once per worker process is opened before: the vectors, and who may be offered them.
    """
    policy = dataclasses.replace(read_policy(POLICY_FILE).surfaces["home"], holdout=0.0)  # everybody asks
    instant, space = Instant.of(DATE, policy), Space("encoder", "benchmark", dim, "cosine")
    wide = {name: _as_wide(CONTRACTS[name], dim) for name in ("item_embedding", "user_embedding")}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(CONTRACTS, wide):
        store = open_store(folder)
        tasks = _written(store, num_items, num_users, space)
        opened = functools.partial(ModelBundle, space=space, instant=instant, code_version="benchmark")
        sources = {SOURCE: HOME_VECTOR_SOURCES[SOURCE]}
        work = functools.partial(retrieve_users, sources=sources, policy=policy, instant=instant, open_bundle=opened)
        spent: dict[str, list[float]] = {"stage": [], "search": []}
        for turn in range(rounds + 1):
            workspace = Workspace(folder, f"staging/{turn}", "x", PROPOSAL.name, "retrieve", "benchmark")
            started = time.process_time()
            run_beam(tasks, ProcessShards(workspace, work), [])
            staged = time.process_time()
            proposed = sum(len(pl.read_parquet(path)) for path in Path(folder, workspace.staging).glob("*.parquet"))
            if proposed < TWO_TOWER_LIMIT * num_users:  # a source that fails is no error, and nothing else is as fast
                raise RuntimeError(f"the stage proposed {proposed} items, {TWO_TOWER_LIMIT * num_users} were there")
            searched = time.process_time()
            _search(opened, tasks, store, looked_at(TWO_TOWER_LIMIT, policy))
            if turn:  # the first one opens what is opened once
                spent["stage"].append(staged - started)
                spent["search"].append(time.process_time() - searched)
        _items.cache_clear()
    seconds: dict[str, float] = {name: statistics.median(each) for name, each in spent.items()}
    return seconds | {"share": statistics.median(b / a for a, b in zip(spent["stage"], spent["search"], strict=True))}


def _search(opened: Any, tasks: list[Task], store: Store, k: int) -> None:
    for task in tasks:
        bundle = opened(Shard(task, store))
        vectors = bundle.shard.read("user_embedding")["vector"].to_numpy()
        items = bundle.items()
        for first in range(0, len(vectors), 4_000):
            items.index.search(vectors[first : first + 4_000], k)


def _as_wide(contract: Contract, dim: int) -> Contract:
    """Return a contract of vectors with vectors of so many numbers."""
    place = contract.schema.get_field_index("vector")
    vector = contract.schema.field(place).with_type(pa.list_(pa.float32(), dim))
    return dataclasses.replace(contract, schema=contract.schema.set(place, vector))


def _written(store: Store, num_items: int, num_users: int, space: Space) -> list[Task]:
    """Write a catalogue that anybody may be offered, and users with one listen each; return a task per shard of users."""
    ids = pl.Series("item_id", [f"i{number:09d}" for number in range(num_items)])
    listen = {
        "item_id": ids[0], "item_type": "track", "event_ts": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "label": 1.0, "session_id": None,
    }  # fmt: skip
    users = pl.Series("user_id", [f"u{number:09d}" for number in range(num_users)])
    tables = {
        "item": pl.DataFrame(ids).with_columns(
            canonical_id="item_id", item_type=pl.lit("track"), explicit=False, rec_eligible=True, text_hash=pl.lit("0")
        ),
        "item_embedding": _embedded(ids, space, 1),
        "user": pl.DataFrame(users).with_columns(market=pl.lit("SE"), tier=pl.lit("free")),
        "user_embedding": _embedded(users, space, 2),
        "history": pl.DataFrame(users).with_columns(
            market=pl.lit("SE"), positives=pl.lit(pl.Series([[listen]])).first(), skips=pl.lit(pl.Series([[listen]])).first().list.head(0),
            num_events=1, num_positives=1, first_event_ts=listen["event_ts"], last_event_ts=listen["event_ts"],
        ),
    }  # fmt: skip
    inputs: list[dict[str, tuple[str, ...]]] = [{} for _ in range(SHARDS)]
    for name, rows in tables.items():
        key, schema = rows.columns[0], polars_schema(CONTRACTS[name])
        demanded = [field.name for field in CONTRACTS[name].schema if not field.nullable]
        whole = pl.concat(
            [pl.DataFrame(schema=schema), rows.cast({n: schema[n] for n in rows.columns})], how="diagonal"
        ).with_columns((cs.list() & cs.by_name(demanded)).fill_null([]))
        shard = shard_of(rows[key].to_arrow(), SHARDS) if key == "user_id" else np.zeros(len(rows), int)
        for number in np.unique(shard).tolist():
            path = f"{name}-{number}.parquet"
            store.put(write_parquet(conform(whole.filter(pl.Series(shard == number)), CONTRACTS[name])), path)
            for of_task in inputs if key == "item_id" else [inputs[number]]:
                of_task[name] = (path,)
    return [Task(f"{number:05d}", number, given) for number, given in enumerate(inputs)]


def _embedded(ids: pl.Series, space: Space, seed: int) -> pl.DataFrame:
    vectors = np.random.default_rng(seed).standard_normal((len(ids), space.dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return pl.DataFrame(ids).with_columns(
        pl.lit(space.id).alias("space_id"), pl.lit(1).alias("made_from"),
        pl.Series("vector", vectors, pl.Array(pl.Float32, space.dim)),
    )  # fmt: skip
