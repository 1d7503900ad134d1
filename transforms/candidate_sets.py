"""Candidate sets: blocks of records through `blend`, and the nested record a ranker receives.

The nested columns are built as Arrow lists over flat, sorted rows: no Python object per candidate.
Memory: one block of records (`BLOCK` x 300 candidates, about 1 GB at the most) and the finished table of the shard,
about 150 bytes per candidate.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.candidates import CANDIDATE, CANDIDATE_SET, CONTRACT_VERSION
from schemas.hashing import hash64_one, mix64
from schemas.policy import SurfacePolicy
from transforms.blend import Blended
from transforms.calibrate import Calibration
from transforms.codes import PLAYED
from transforms.explore import EXPLORATION_ID, record_seeds
from transforms.filters import Facts, Instant, micros
from transforms.holdout import HELD_OUT
from transforms.id_index import NO_CODE, IdIndex
from transforms.sorted_groups import starts
from transforms.sources import Source

STATIC_LEVEL, POPULAR_LEVEL = 4, 3
NOT_PERSONAL = ("no_history", "opted_out", HELD_OUT)
"""Why a set cannot be personal, or must not be."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rests:
    """What a score rests on: a dataset or model by name and run, the space of its vectors, and the index they were looked up in.

    Attributes:
      index_id, index_version: null where the search was exact, or there was none.
    """

    model_id: str
    model_version: str
    space_id: str | None = None
    index_id: str | None = None
    index_version: str | None = None


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
      facts: its `records` also carry `user_id`, `context_key`, `market`, `tier`, `seed_item_id`, `last_event_ts`, `seen` and
        `holdout`.
    """
    candidates = _described(blended, facts, policy, instant, sources)
    records = _sized(blended, facts, policy, instant)
    # Two recordings of one canonical item from one source: its better proposal speaks for both.
    sourced = blended.sources.unique(["k", "position", "source_id"], keep="first", maintain_order=True)
    nested = _nested(candidates, sourced, records["out"].to_numpy(), policy, provenance)
    counts = _counts(blended, records)
    level = _fallback_level(policy)
    reasons = _degraded(policy, provenance.left_out)
    flat = records.with_columns(level.alias("fallback_level"), reasons.alias("degraded_reasons"))
    return _table(flat, nested, counts, policy, instant, provenance)


def _sized(blended: Blended, facts: Facts, policy: SurfacePolicy, instant: Instant) -> pl.DataFrame:
    """Return the records that have candidates, with how many, how many of personal sources, and what chance rests on."""
    personal = np.array([quota.personal for quota in policy.sources], bool)[blended.taken.s]
    k, n = blended.taken.k, facts.records.height
    out = np.bincount(k, minlength=n)
    figures: dict[str, np.ndarray] = {
        "slots": blended.explored.slots.astype(np.int32),
        "seed": (record_seeds(facts, instant) >> np.uint64(1)).astype(np.int64),
        "key_hash": facts.key_hashes,
        "out": out.astype(np.int32),
        "personal": np.bincount(k[personal], minlength=n).astype(np.int32),
    }
    there = np.flatnonzero(out)
    return facts.records[there].hstack([pl.Series(name, values[there]) for name, values in figures.items()])


def _described(
    blended: Blended, facts: Facts, policy: SurfacePolicy, instant: Instant, sources: Mapping[str, Source]
) -> pl.DataFrame:
    fresh_from = micros(instant.effective_from - datetime.timedelta(days=policy.fresh_days))
    s = blended.taken.s.astype(np.int64)
    names, item = [quota.source_id for quota in policy.sources], facts.item_codes.arrays.items[blended.taken.i]
    used = np.unique(s)
    reasons = [sources[name].reason_code if code in used else None for code, name in enumerate(names)]
    return blended.candidates.hstack([
        pl.Series("familiarity", _FAMILIARITY, pl.String)[_familiarity(blended, facts)],
        pl.Series("is_fresh", item["release"] >= fresh_from),
        pl.Series("reason_code", reasons, pl.String)[s],
    ])  # fmt: skip


_FAMILIARITY = ("known", "discovery", "new_artist")


def _familiarity(blended: Blended, facts: Facts) -> np.ndarray:
    """Return which of `_FAMILIARITY` each candidate is: played, of an artist who was heard (or of none), or neither."""
    k, i, told = blended.taken.k.astype(np.int64) << 32, blended.taken.i, facts.record_codes
    artist = facts.item_codes.arrays.items["artist"][i]
    counts = told.records["pairs"] - told.records["pair"]
    whose = np.repeat(np.arange(len(counts)), counts)
    played = (told.pairs["told"] & PLAYED != 0) & ~facts.records["opted_out"].to_numpy()[whose]
    known = np.isin(k | i, (whose << 32 | told.pairs["item"])[played])
    counts = facts.records["artists_known"].list.len().fill_null(0).to_numpy().astype(np.int64)
    names = facts.records["artists_known"].filter(counts > 0).explode()
    heard = np.repeat(np.arange(len(counts)), counts) << 32 | facts.item_codes.artists.find(names)
    return np.where(known, 0, np.where((artist == NO_CODE) | np.isin(k | artist, heard), 1, 2))


def _nested(
    candidates: pl.DataFrame,
    proposals: pl.DataFrame,
    sizes: np.ndarray,
    policy: SurfacePolicy,
    provenance: Provenance,
) -> pa.ListArray:
    """Build `candidates: list<struct<..., sources: list<struct>>>` from rows sorted by record and position."""
    begins = starts(proposals["k"].to_numpy(), proposals["position"].to_numpy())
    per_candidate = np.diff(np.flatnonzero(begins), append=len(begins))
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
    signal = np.minimum(IdIndex.of(pl.Series(list(rests), dtype=pl.String)).find(proposals["signal_type"]), len(rests))
    of = {"embedding_space_id": "space_id"} | {
        name: name for name in ("model_id", "model_version", "index_id", "index_version")
    }
    own = ("source_id", "signal_type", "seed_item_ids", "seed_event_ts", "source_rank", "raw_score", "score_kind")
    columns = {name: proposals[name].to_arrow() for name in own} | {
        "calibrated_score": pa.array(chance.astype(np.float32))
    }
    for name, field in of.items():
        words = [getattr(one, field) for one in rests.values()]
        columns[name] = pl.Series([*words, None], dtype=pl.String)[signal].to_arrow()
    return _struct(columns, kind)


def _struct(columns: Mapping[str, pa.Array], type_: pa.StructType) -> pa.StructArray:
    given = [columns[field.name] for field in type_.fields]
    arrays = [
        one if one.type == field.type else one.cast(field.type) for one, field in zip(given, type_.fields, strict=True)
    ]
    return pa.StructArray.from_arrays(arrays, fields=type_.fields)


def _list(lengths: np.ndarray, values: pa.Array) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _counts(blended: Blended, records: pl.DataFrame) -> pa.StructArray:
    """Count the proposals judged of each record, those removed by rule, and the candidates that came out.

    `in` = removed + sources of the candidates - those sources that are removed as `duplicate`.
    """
    kind = CANDIDATE_SET.schema.field("counts").type
    rules, k = blended.removed_by_rule(), records["k"].to_numpy()
    there = np.zeros(len(blended.offered), bool)
    there[k] = True
    rules = rules[np.flatnonzero(there[rules["k"].to_numpy()])]
    lengths = np.bincount(rules["k"].to_numpy(), minlength=len(there))[k]
    entry = kind.field("filtered_by_rule").type.value_type
    structs = _struct({"rule": rules["rule"].to_arrow(), "count": rules["len"].to_arrow()}, entry)
    offered = pa.array(blended.offered[k])
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
        **dict(zip(NOT_PERSONAL, (~pl.col("seen"), pl.col("opted_out"), pl.col(HELD_OUT)), strict=True)),
        "unknown_market": (pl.col("market") == "*") & pl.col("user_id").is_not_null(),  # a seed's is for all of them
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
    slots = flat["slots"].to_numpy()
    columns = {
        "id": _repeat(EXPLORATION_ID if policy.explore else "none", flat.height, pa.string()),
        "slots": pa.array(slots),
        "seed": pa.array(np.where(slots > 0, flat["seed"].to_numpy(), 0)),
    }
    return _struct(columns, CANDIDATE_SET.schema.field("exploration_policy").type)


def _repeat(value: object, n: int, type_: pa.DataType) -> pa.Array:
    return pa.nulls(n, type_) if value is None or n == 0 else pa.repeat(pa.scalar(value, type_), n)


def _set_ids(flat: pl.DataFrame, policy: SurfacePolicy, run_id: str) -> pa.Array:
    keys = flat["key_hash"].to_numpy()
    first = mix64(keys, np.full(flat.height, hash64_one(f"{policy.name}|{run_id}|1"), np.uint64))
    second = mix64(keys, np.full(flat.height, hash64_one(f"{policy.name}|{run_id}|2"), np.uint64))
    return pa.array([f"{a:016x}{b:016x}" for a, b in zip(first.tolist(), second.tolist(), strict=True)], pa.string())


def concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    """Join the tables of all blocks; blocks come in order of record and context, and so do their rows."""
    return pa.concat_tables(tables) if tables else pa.table(CANDIDATE_SET.schema.empty_table())
