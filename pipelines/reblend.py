"""Blend one published record again: the same functions over the same committed files, for that record only.

Memory: one record's rows of each dataset; what sources look up for it.
"""

import dataclasses
import datetime
import functools
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import polars as pl
import pyarrow as pa

from pipelines.recommend import SURFACES, Surface, asked, own_and_groups, whole
from pipelines.road import paths
from schemas.candidates import PROPOSAL
from schemas.catalogue import CONTRACTS
from schemas.hashing import shard_of
from schemas.manifest import Manifest
from schemas.policy import Quota, SurfacePolicy
from schemas.tallies import ANY
from transforms.blend import blend
from transforms.calibrate import Calibration
from transforms.candidate_sets import Provenance, Rests, assemble
from transforms.explain import Reblended
from transforms.facts import SEED_COLUMNS, group_facts, seed_facts, user_facts
from transforms.filters import Facts, Instant
from transforms.groups import group_key
from transforms.index.files import Terms
from transforms.io.store import Store
from transforms.io.temporary import PREFIX
from transforms.model_bundle import ModelBundle
from transforms.panel import LEFT_OUT, reasons_of
from transforms.reach import read_world
from transforms.retrieve import ShardBundle, seed_table, user_table, without_listens
from transforms.shards import Shard, Task, read_tables
from transforms.sources import GROUP_PREFIX, Source, propose

DEFAULT_KEY = "*"
_KEYED = {
    "user": "user_id", "history": "user_id", "user_embedding": "user_id", "popularity_partial": "item_id",
    "proposal": "key",
}  # fmt: skip
_EVERYTHING = 2**31 - 1
_OF_THE_RUN = (
    "run_id", "gate_report_id", "run_mode", "logical_date", "sequence", "source_watermark", "base_run_id", "bundle_id",
    "catalog_snapshot_id", "user_snapshot_id", "campaign_snapshot_id", "policy_version", "code_version",
    "experiment_arms",
)  # fmt: skip


def shard_number(key: str, num_shards: int) -> int:
    """Return the shard of a record's key."""
    return int(shard_of(pa.array([key]), num_shards)[0])


def policy_of(sets: Manifest) -> SurfacePolicy:
    """Return the policy candidate sets were blended by, from their manifest."""
    fields = dict(sets.config["policy"])
    quotas = tuple(Quota(**quota) for quota in fields.pop("sources"))
    return SurfacePolicy(**{**fields, "flow": tuple(fields["flow"]), "sources": quotas})


def instant_of(sets: Manifest) -> Instant:
    """Return the validity of candidate sets."""
    return Instant.of(datetime.date.fromisoformat(sets.date), policy_of(sets))


@contextmanager
def one_record(store: Store, data: Mapping[str, Manifest], key: str, num_shards: int) -> Iterator[Shard]:
    """Open the shard of a record with nothing but the record's rows in its keyed inputs, and all of the others.

    Raises:
      FileNotFoundError: a file was deleted.
    """
    number = shard_number(key, num_shards)
    _, groups = own_and_groups(data["proposal"])
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        inputs = {name: whole(name, manifest) for name, manifest in data.items() if name not in _KEYED}
        for name in _KEYED.keys() & data.keys():
            own = [path for path in paths(data[name].files, number) if path not in groups]
            inputs[name] = (_only(store, own, name, key, f"{folder}/{name}.parquet"),)
        left_out = paths(data["proposal"].artifacts, number)
        yield Shard(Task("record", number, {**inputs, "groups": groups, LEFT_OUT: left_out}), store)


def _only(store: Store, own: list[str], name: str, key: str, target: str) -> str:
    rows = read_tables([store.local(path) for path in own], CONTRACTS[name], where=pl.col(_KEYED[name]) == key)
    rows.write_parquet(target)
    return os.path.abspath(target)


def reblend(shard: Shard, sets: Manifest, record: Mapping) -> Reblended:
    """Blend a published record again from the shard `one_record` opened.

    Raises:
      LookupError: the record's user or seed is not in the shard's inputs.
    """
    policy, instant = policy_of(sets), instant_of(sets)
    offered, facts = _given(shard, policy, instant, record)
    own = facts.records.filter(
        (pl.col("record_key") == record["record_key"]) & (pl.col("context_key") == record["context_key"])
    )
    if not own.height:
        raise LookupError(f"no facts about {record['record_key']!r} {record['context_key']}")
    offered = offered.filter(~pl.col("source_id").is_in(withheld(policy, own["newcomer"][0])))
    calibration = Calibration.read(shard.paths("calibration"))
    chances = calibration.chances(offered, policy)
    blended = blend(offered, facts, policy, instant, chances)
    return Reblended(int(own["k"][0]), offered, facts, blended, policy, instant)


def withheld(policy: SurfacePolicy, newcomer: bool) -> list[str]:
    """Return the sources that a record is not offered though its market and tier are: what is for newcomers alone."""
    return [quota.source_id for quota in policy.sources if quota.newcomers and not newcomer]


def _given(shard: Shard, policy: SurfacePolicy, instant: Instant, record: Mapping) -> tuple[pl.DataFrame, Facts]:
    """Return the record's proposals and facts."""
    world, bundle = read_world(shard), ShardBundle(shard)
    tier = "*" if policy.by_seed and record["record_key"] != DEFAULT_KEY else record["tier"]
    market = record["market"] if record["market"] in world.markets else ANY
    groups = read_tables(shard.paths("groups"), PROPOSAL, where=pl.col("key") == group_key(market, tier))
    if record["record_key"] == DEFAULT_KEY:
        return groups, group_facts(groups, world, bundle, policy, instant)
    offered = pl.concat([shard.read("proposal"), groups])
    if not policy.by_seed:
        return offered, user_facts(user_table(shard), offered, world, bundle, policy, instant)
    seeds = seed_table(shard).filter(pl.col("market") == record["market"])
    items = bundle.lookup("item", "item_id", seeds["item_id"], SEED_COLUMNS)
    return offered, seed_facts(seeds, items, offered, world, bundle, instant)


def published_again(shard: Shard, reblended: Reblended, record: Mapping) -> dict:
    """Return the record as the road would publish it today."""
    left_out = () if record["record_key"] == DEFAULT_KEY else reasons_of(shard)
    calibration = Calibration.read(shard.paths("calibration"))
    provenance = Provenance({name: record[name] for name in _OF_THE_RUN}, artifacts_of(record), left_out, calibration)
    table = assemble(
        reblended.blended,
        reblended.facts,
        reblended.policy,
        reblended.instant,
        sources_of(reblended.policy.name),
        provenance,
    )
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.filter(pl.col("candidate_set_id") == record["candidate_set_id"]).to_dicts()[0]


def artifacts_of(record: Mapping) -> dict[str, Rests]:
    """Return what each signal of a record rests on, by signal type."""
    every = (source for candidate in record["candidates"] for source in candidate["sources"])
    return {
        one["signal_type"]: Rests(
            one["model_id"], one["model_version"], one["embedding_space_id"], one["index_id"], one["index_version"]
        )
        for one in every
        if one["model_id"]
    }


def sources_of(surface: str) -> dict[str, Source]:
    """Return every source of a surface."""
    return dict(SURFACES[surface].sources) | dict(SURFACES[surface].group_sources)


def everything_found(
    shard: Shard, surface: Surface, record: Mapping, policy: SurfacePolicy, instant: Instant, terms: Terms
) -> pl.DataFrame:
    """Ask the sources of a surface again for one record, for all they find; the proposal contract's columns."""
    keys = pl.DataFrame(
        {"key": [group_key(record["market"], record["tier"])], "market": [record["market"]], "tier": [record["tier"]]}
    ).with_columns(pl.lit(None, pl.List(pl.String)).alias("follows"))
    shared = propose(
        _unlimited(asked(surface.group_sources, policy)),
        without_listens(keys, policy, instant.effective_from),
        ShardBundle(shard),
    )
    if record["record_key"].startswith(GROUP_PREFIX[0]):
        return shared
    opened = functools.partial(ModelBundle, space=terms.space, instant=instant, code_version=terms.code_version)
    own = surface.retrieve(shard, _unlimited(surface.sources), policy, instant, opened).frame
    return pl.concat([own, shared])


def _unlimited(sources: Mapping[str, Source]) -> dict[str, Source]:
    return {name: dataclasses.replace(source, limit=_EVERYTHING) for name, source in sources.items()}
