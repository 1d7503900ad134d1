"""Candidate sets: blocks of records through `blend`, and the nested record a ranker receives.

The nested columns are built as Arrow lists over flat, sorted rows: no Python object per candidate.
Memory: one block of records (`BLOCK` x 300 candidates, about 1 GB at the most) and the finished table of the shard,
about 150 bytes per candidate.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.candidates import CANDIDATE, CANDIDATE_SET, CONTRACT_VERSION
from schemas.hashing import hash64, hash64_one, mix64
from schemas.policy import SurfacePolicy
from transforms.blend import Blended
from transforms.calibrate import Calibration
from transforms.explore import EXPLORATION_ID, record_seeds
from transforms.filters import Facts, Instant
from transforms.sources import Source

STATIC_LEVEL, POPULAR_LEVEL = 4, 3


@dataclasses.dataclass(frozen=True, slots=True)
class Rests:
    """What a score rests on: a dataset or model by name and run, and the space of its vectors."""

    model_id: str
    model_version: str
    space_id: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Provenance:
    """What all records of one run share.

    Attributes:
      fields: the set-level columns that are the same for every record, by name.
      artifacts: per signal type, what a score rests on.
      left_out: why the sets of the shard lack a source. calibration: of the surface.
    """

    fields: Mapping[str, object]
    artifacts: Mapping[str, Rests]
    left_out: tuple[str, ...] = ()
    calibration: Calibration = dataclasses.field(default_factory=lambda: Calibration({}))


def assemble(
    blended: Blended,
    facts: Facts,
    policy: SurfacePolicy,
    instant: Instant,
    sources: Mapping[str, Source],
    provenance: Provenance,
) -> pa.Table:
    """Return one row per record of the block that has candidates, in the candidate-set contract, sorted by record.

    Args:
      facts: its `records` also carry `user_id`, `context_key`, `market`, `tier`, `seed_item_id`, `last_event_ts`, `seen`.
    """
    candidates = _described(blended.candidates, facts, policy, instant, sources)
    sizes = candidates.group_by("k", maintain_order=True).agg(
        pl.len().cast(pl.Int32).alias("out"), pl.col("__personal").sum().cast(pl.Int32).alias("personal")
    )
    drawn = pl.Series("slots", blended.explored.slots).cast(pl.Int32)
    seeds = pl.Series("seed", record_seeds(facts.records, instant) >> np.uint64(1)).cast(pl.Int64)
    records = facts.records.with_columns(drawn, seeds).join(sizes, on="k").sort("k")
    # Two recordings of one canonical item from one source: its better proposal speaks for both.
    sourced = blended.sources.unique(["k", "position", "source_id"], keep="first", maintain_order=True)
    nested = _nested(candidates, sourced, records["out"].to_numpy(), sources, policy, provenance)
    counts = _counts(blended, records)
    level = _fallback_level(policy)
    reasons = _degraded(policy, provenance.left_out)
    flat = records.with_columns(level.alias("fallback_level"), reasons.alias("degraded_reasons"))
    return _table(flat, nested, counts, policy, instant, provenance)


def _described(
    candidates: pl.DataFrame, facts: Facts, policy: SurfacePolicy, instant: Instant, sources: Mapping[str, Source]
) -> pl.DataFrame:
    fresh_from = instant.effective_from - datetime.timedelta(days=policy.fresh_days)
    personal = [quota.source_id for quota in policy.sources if quota.personal]
    reasons = {name: source.reason_code for name, source in sources.items()}
    profiled = facts.records.filter(~pl.col("opted_out")).select("k")
    played = facts.played.join(profiled, on="k").select("k", "item_id", pl.lit(True).alias("__played"))
    heard = facts.records.select("k", pl.col("artists_known").alias("artist_id")).explode("artist_id").drop_nulls()
    heard = heard.unique().with_columns(pl.lit(True).alias("__heard"))
    joined = candidates.join(played, on=["k", "item_id"], how="left").join(heard, on=["k", "artist_id"], how="left")
    familiarity = (
        pl.when(pl.col("__played").fill_null(False))
        .then(pl.lit("known"))
        .when(pl.col("__heard").fill_null(False) | pl.col("artist_id").is_null())
        .then(pl.lit("discovery"))
        .otherwise(pl.lit("new_artist"))
    )
    return joined.with_columns(
        familiarity.alias("familiarity"),
        (pl.col("release_ts") >= fresh_from).fill_null(False).alias("is_fresh"),
        pl.col("source_id").replace_strict(reasons, return_dtype=pl.String).alias("reason_code"),
        pl.col("source_id").is_in(personal).alias("__personal"),
    ).sort("k", "position")


def _nested(
    candidates: pl.DataFrame,
    proposals: pl.DataFrame,
    sizes: np.ndarray,
    sources: Mapping[str, Source],
    policy: SurfacePolicy,
    provenance: Provenance,
) -> pa.ListArray:
    """Build `candidates: list<struct<..., sources: list<struct>>>` from rows sorted by record and position."""
    per_candidate = proposals.group_by("k", "position", maintain_order=True).len()["len"].to_numpy()
    columns = {
        "item_id": candidates["item_id"].to_arrow(),
        "item_type": candidates["item_type"].to_arrow(),
        "canonical_id": candidates["canonical_id"].to_arrow(),
        "position": candidates["position"].to_arrow(),
        "blend_score": candidates["blend_score"].to_arrow(),
        "sources": _list(per_candidate, _source_structs(proposals, policy, provenance)),
        "is_exploration": candidates["source_id"].eq_missing(policy.explore).to_arrow(),
        "propensity": candidates["propensity"].to_arrow(),
        "stratum": candidates["stratum"].to_arrow(),
        "promo": pa.nulls(candidates.height, CANDIDATE.field("promo").type),
        "familiarity": candidates["familiarity"].to_arrow(),
        "is_fresh": candidates["is_fresh"].to_arrow(),
        "available_until": candidates["available_until"].to_arrow(),
        "reason_code": candidates["reason_code"].to_arrow(),
    }
    return _list(sizes, _struct(columns, CANDIDATE))


def _source_structs(proposals: pl.DataFrame, policy: SurfacePolicy, provenance: Provenance) -> pa.StructArray:
    kind = CANDIDATE.field("sources").type.value_type
    chance = provenance.calibration.of(proposals["source_id"], proposals["source_rank"].to_numpy(), policy)
    rests = provenance.artifacts
    named: dict[str, dict[str, Any]] = {
        "model_id": {signal: one.model_id for signal, one in rests.items()},
        "model_version": {signal: one.model_version for signal, one in rests.items()},
        "embedding_space_id": {signal: one.space_id for signal, one in rests.items()},
    }
    shown = proposals.select(
        "source_id", "signal_type", "seed_item_ids", "seed_event_ts", "source_rank", "raw_score", "score_kind",
        pl.Series("calibrated_score", chance, pl.Float32),
        *[
            pl.col("signal_type").replace_strict(words, default=None, return_dtype=pl.String).alias(name)
            for name, words in named.items()
        ],
        *[pl.lit(None, pl.String).alias(name) for name in ("index_id", "index_version")],
    )  # fmt: skip
    return _struct({name: shown[name].to_arrow() for name in shown.columns}, kind)


def _struct(columns: Mapping[str, pa.Array], type_: pa.StructType) -> pa.StructArray:
    arrays = [columns[field.name].cast(field.type) for field in type_.fields]
    return pa.StructArray.from_arrays(arrays, fields=type_.fields)


def _list(lengths: np.ndarray, values: pa.Array) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _counts(blended: Blended, records: pl.DataFrame) -> pa.StructArray:
    """Count the proposals judged of each record, those removed by rule, and the candidates that came out.

    `in` = removed + sources of the candidates - those sources that are removed as `duplicate`.
    """
    kind = CANDIDATE_SET.schema.field("counts").type
    rules = blended.removed_by_rule().join(records.select("k"), on="k", how="semi", maintain_order="left")
    per_record = records.select("k").join(rules.group_by("k").agg(pl.len().alias("n")), on="k", how="left").sort("k")
    lengths = per_record["n"].fill_null(0).to_numpy()
    entry = kind.field("filtered_by_rule").type.value_type
    structs = _struct({"rule": rules["rule"].to_arrow(), "count": rules["len"].to_arrow()}, entry)
    offered = pa.array(blended.offered[records["k"].to_numpy()])
    columns = {"in": offered, "filtered_by_rule": _list(lengths, structs), "out": records["out"].to_arrow()}
    return _struct(columns, kind)


def _fallback_level(policy: SurfacePolicy) -> pl.Expr:
    """0 where personal sources reach half of their targets, 1 where they give any, 3 charts of the market, 4 of all."""
    aimed = sum(quota.target for quota in policy.sources if quota.personal)
    return (
        pl.when((pl.col("personal") > 0) & (pl.col("personal") * 2 >= aimed))
        .then(0)
        .when(pl.col("personal") > 0)
        .then(1)
        .when(pl.col("market") == "*")
        .then(STATIC_LEVEL)
        .otherwise(POPULAR_LEVEL)
        .cast(pl.Int32)
    )


def _degraded(policy: SurfacePolicy, left_out: Sequence[str]) -> pl.Expr:
    reasons = {
        "no_history": ~pl.col("seen"),
        "opted_out": pl.col("opted_out"),
        "unknown_market": pl.col("market") == "*",
        "below_minimum_size": pl.col("out") < policy.minimum_size,
        "too_few_to_explore": pl.col("slots") < policy.explore_slots,
    }
    named = [pl.when(test).then(pl.lit(name)) for name, test in reasons.items()] + [pl.lit(name) for name in left_out]
    return pl.concat_list(named).list.drop_nulls()


def _table(
    flat: pl.DataFrame,
    nested: pa.ListArray,
    counts: pa.StructArray,
    policy: SurfacePolicy,
    instant: Instant,
    provenance: Provenance,
) -> pa.Table:
    n, schema = flat.height, CANDIDATE_SET.schema
    context = _struct(
        {
            "seed_item_id": flat["seed_item_id"].to_arrow(),
            "session_id": pa.nulls(n, pa.string()),
            "last_event_ts": flat["last_event_ts"].to_arrow(),
            "local_hour": pa.nulls(n, pa.int32()),
            "device": pa.nulls(n, pa.string()),
        },
        schema.field("context").type,
    )
    arrays: dict[str, pa.Array] = {
        "candidate_set_id": _set_ids(flat, policy, str(provenance.fields["run_id"])),
        "contract_version": _repeat(CONTRACT_VERSION, n, pa.string()),
        "surface": _repeat(policy.name, n, pa.string()),
        "context": context,
        "generated_at": _repeat(instant.effective_from, n, schema.field("generated_at").type),
        "effective_from": _repeat(instant.effective_from, n, schema.field("effective_from").type),
        "expires_at": _repeat(instant.expires_at, n, schema.field("expires_at").type),
        "counts": counts,
        "candidates": nested,
        "exploration_policy": _exploration(flat, policy),
    }
    for name in ("record_key", "user_id", "context_key", "market", "tier", "fallback_level", "degraded_reasons"):
        arrays[name] = flat[name].to_arrow()
    for name, value in provenance.fields.items():
        arrays[name] = _repeat(value, n, schema.field(name).type)
    return pa.table({name: arrays[name] for name in schema.names})


def _exploration(flat: pl.DataFrame, policy: SurfacePolicy) -> pa.StructArray:
    """Say how the explored items of each record were drawn; nothing drawn has no seed."""
    drawn = pl.col("slots") > 0
    told = flat.select(
        pl.lit(EXPLORATION_ID if policy.explore else "none").alias("id"),
        "slots",
        pl.when(drawn).then("seed").otherwise(0).alias("seed"),
    )
    columns = {name: told[name].to_arrow() for name in ("id", "slots", "seed")}
    return _struct(columns, CANDIDATE_SET.schema.field("exploration_policy").type)


def _repeat(value: object, n: int, type_: pa.DataType) -> pa.Array:
    return pa.nulls(n, type_) if value is None or n == 0 else pa.repeat(pa.scalar(value, type_), n)


def _set_ids(flat: pl.DataFrame, policy: SurfacePolicy, run_id: str) -> pa.Array:
    keys = mix64(hash64(flat["record_key"].to_arrow()), hash64(flat["context_key"].to_arrow()))
    first = mix64(keys, np.full(flat.height, hash64_one(f"{policy.name}|{run_id}|1"), np.uint64))
    second = mix64(keys, np.full(flat.height, hash64_one(f"{policy.name}|{run_id}|2"), np.uint64))
    return pa.array([f"{a:016x}{b:016x}" for a, b in zip(first.tolist(), second.tolist(), strict=True)], pa.string())


def concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    """Join the tables of all blocks; blocks come in order of record and context, and so do their rows."""
    return pa.concat_tables(tables) if tables else pa.table(CANDIDATE_SET.schema.empty_table())
