"""Explain what is published: one record in readable form, why an item is in it or not, and what it was made from."""

import datetime
from collections.abc import Mapping

import polars as pl

from pipelines.embed import space_in
from pipelines.reblend import (
    everything_found,
    instant_of,
    one_record,
    policy_of,
    published_again,
    reblend,
    sources_of,
    withheld,
)
from pipelines.recommend import SURFACES, asked
from pipelines.records import Catalogue, Question, find_record, overlaid, published
from pipelines.runner import load_manifest
from pipelines.version import code_version
from schemas.manifest import Manifest
from schemas.models import Space
from transforms.explain import Reblended, left_over, removals, would_be_removed
from transforms.facts import proposed_items
from transforms.index.files import Terms
from transforms.io.store import Store
from transforms.reach import read_world
from transforms.retrieve import ShardBundle
from transforms.shards import Shard

SCHEMA_VERSION = "1.0.0"
_SHOWN = (
    "candidate_set_id", "record_key", "context_key", "market", "tier", "fallback_level", "degraded_reasons",
    "effective_from", "expires_at", "bundle_id", "policy_version", "code_version", "run_mode",
)  # fmt: skip
_NOT_FOUND: dict[str, object] = {"position": None, "sources": [], "removals": [], "asked": []}
_OVERLAID = "an overlay, of what was heard since the batch; with DATE= the set that the batch made is explained"
_NOT_KEPT = "an overlay is made of windows of the stream, which are not kept: it cannot be blended again; DATE= explains the batch's"
_OF_SOURCE = ("source_id", "signal_type", "source_rank", "raw_score", "score_kind", "calibrated_score", "seed_event_ts")


def explain(store: Store, question: Question) -> dict:
    """Answer a question by the contract of `schemas/explanation.schema.json`.

    Raises:
      ExplainError: nothing is published, its data was retired, or the item is unknown.
    """
    sets, live = published(store, question)
    newer = overlaid(store, sets, question) if live and question.date is None else None
    record, note = (newer[1], _OVERLAID) if newer else find_record(store, sets, question)
    sets = newer[0] if newer else sets
    data = {ref.name: load_manifest(store, ref.path) for ref in sets.inputs if not ref.name.startswith("raw_")}
    lineage = ancestry(store, sets)
    catalogue = Catalogue(store, data["item"])
    answer = {
        "schema_version": SCHEMA_VERSION,
        "surface": question.surface,
        "asked_for": question.key,
        "note": note,
        "published": {"manifest": sets.path, "logical_date": sets.date, "run": sets.run, "live": live},
        "set": _set(record, catalogue),
        "item": None,
        "verification": None,
        "lineage": lineage,
    }
    if question.item_id is None:
        return answer
    catalogue.require(question.item_id, record)
    if newer:
        return answer | _about_overlaid(record, question.item_id, catalogue, lineage)
    return answer | _about_item(store, sets, data, record, question.item_id, catalogue, lineage)


def _set(record: Mapping, catalogue: Catalogue) -> dict:
    names = catalogue.named(candidate["item_id"] for candidate in record["candidates"])
    candidates = [names[one["item_id"]] | _in_short(one) for one in record["candidates"]]
    return {name: plain(record[name]) for name in _SHOWN} | {"counts": record["counts"], "candidates": candidates}


def _in_short(candidate: Mapping) -> dict:
    sources = list(dict.fromkeys(source["source_id"] for source in candidate["sources"]))
    shown = {name: candidate[name] for name in ("position", "item_type", "familiarity")}
    return shown | {"sources": sources, "reason": candidate["reason_code"]}


def _about_overlaid(record: Mapping, item_id: str, catalogue: Catalogue, lineage: list) -> dict:
    """Return `item` and `verification` as far as an overlay tells them itself."""
    own = _candidate(record, item_id, catalogue, lineage)
    item = catalogue.named([item_id])[item_id] | _NOT_FOUND | {"verdict": "in" if own else "unknown"} | own
    return {"item": plain(item), "verification": {"outcome": "unavailable", "message": _NOT_KEPT}}


def _about_item(
    store: Store,
    sets: Manifest,
    data: Mapping[str, Manifest],
    record: Mapping,
    item_id: str,
    catalogue: Catalogue,
    lineage: list,
) -> dict:
    """Blend the record again; return `item` and `verification`."""
    proposals = data["proposal"]
    inputs = {**{ref.name: load_manifest(store, ref.path) for ref in proposals.inputs}, **data}
    item = catalogue.named([item_id])[item_id] | {"verdict": "in"} | _NOT_FOUND
    item |= _candidate(record, item_id, catalogue, lineage)
    try:
        with one_record(store, inputs, record["record_key"], sets.num_shards) as shard:
            again = reblend(shard, sets, record)
            item["removals"] = removals(again, item_id)
            item["fatigued"] = bool(again.facts.tired["item_id"].is_in([item_id]).any())
            if item["position"] is None:
                item |= _absent(again, shard, item_id, sets, record, space_in(inputs["item_embedding"]))
            verification = verify(published_again(shard, again, record), record)
    except (FileNotFoundError, LookupError) as error:
        verification = {
            "outcome": "unavailable",
            "message": f"what the record was made from is gone: {error}; run its date again",
        }
        if item["position"] is None:
            item["verdict"] = "unknown"
    return {"item": plain(item), "verification": verification}


def _candidate(record: Mapping, item_id: str, catalogue: Catalogue, lineage: list) -> dict:
    """Return what the record itself says of a candidate; nothing where it is none."""
    found = next((one for one in record["candidates"] if one["item_id"] == item_id), None)
    if found is None:
        return {}
    seeds = catalogue.named(seed for source in found["sources"] for seed in source["seed_item_ids"] or [])
    manifests = {node["run"]: node["manifest"] for node in lineage}
    sources = []
    for source in found["sources"]:
        shown = {name: source[name] for name in _OF_SOURCE}
        model = (source["model_id"], source["model_version"])
        artifact = {"dataset": model[0], "run": model[1], "manifest": manifests.get(model[1])} if model[0] else None
        sources.append(shown | {"seeds": [seeds[seed] for seed in source["seed_item_ids"] or []], "artifact": artifact})
    kept = ("position", "blend_score", "reason_code", "familiarity", "is_fresh", "available_until", "canonical_id",
            "is_exploration", "propensity", "stratum")  # fmt: skip
    return {name: found[name] for name in kept} | {"sources": sources}


def _absent(again: Reblended, shard: Shard, item_id: str, sets: Manifest, record: Mapping, space: Space) -> dict:
    """Say why an item is no candidate: the rule that removed it, or what each source knows of it."""
    removed = removals(again, item_id) or left_over(again, item_id)
    if removed:
        return {"verdict": "removed", "removals": removed}
    surface = SURFACES[sets.qualifier]
    terms = Terms(space, sets.code_version)
    found = everything_found(shard, surface, record, policy_of(sets), instant_of(sets), terms)
    nothing, world = pl.Series([], dtype=pl.String), read_world(shard)
    items, _ = proposed_items(pl.Series([item_id]), nothing, world, ShardBundle(shard), instant_of(sets))
    without = withheld(again.policy, again.facts.records["newcomer"][again.k])
    names = [name for name in asked(sources_of(surface.name), again.policy) if name not in without]
    return {"verdict": "not_proposed", "asked": [_asked(name, again, found, item_id, items) for name in names]}


def _asked(name: str, again: Reblended, found: pl.DataFrame, item_id: str, items: pl.DataFrame) -> dict:
    """Return what one source found for the record, whether the item is in it, and what would remove it if it were."""
    mine, proposed = found.filter(pl.col("source_id") == name), again.offered.filter(pl.col("source_id") == name)
    row = mine.filter(pl.col("item_id") == item_id)
    source = sources_of(again.policy.name)[name]
    return {
        "source_id": name,
        "proposes": (source.propose.__doc__ or "").split("\n")[0],
        "found": mine.height,
        "proposed": proposed.height,
        "best_score": proposed["raw_score"].max(),
        "worst_score": proposed["raw_score"].min(),
        "limit": source.limit,
        "rank": row["source_rank"][0] if row.height else None,
        "raw_score": row["raw_score"][0] if row.height else None,
        "would_be_removed": would_be_removed(again, item_id, name, items),
    }


def verify(again: Mapping, record: Mapping) -> dict:
    """Compare a record with what blending it again gives: every field must be equal."""
    different = sorted(name for name in record if again[name] != record[name])
    if not different:
        return {"outcome": "reproduced", "message": "blended again from the committed files: equal in every field"}
    made, running = record["code_version"], code_version()
    why = f"it was made by code {made}, this is {running}" if made != running else "files may have been changed by hand"
    return {
        "outcome": "different",
        "message": f"blended again, {', '.join(different)} differ: {why}; run the date again",
    }


def ancestry(store: Store, manifest: Manifest) -> list[dict]:
    """Return everything a dataset was made from, itself first, each once, down to the raw files with their digests."""
    nodes, waiting, seen = [], [manifest], {manifest.path}
    while waiting:
        one = waiting.pop(0)
        inputs = [{"name": ref.name, "path": ref.path, "digest": ref.digest} for ref in one.inputs]
        nodes.append({
            "dataset": one.dataset, "qualifier": one.qualifier, "stage": one.stage, "date": one.date, "run": one.run,
            "manifest": one.path, "digest": one.digest, "rows": one.rows_out, "code_version": one.code_version,
            "inputs": inputs,
        })  # fmt: skip
        for ref in one.inputs:
            if not ref.name.startswith("raw_") and ref.path not in seen:
                seen.add(ref.path)
                waiting.append(load_manifest(store, ref.path))
    return nodes


def plain(value: object) -> object:
    """Return a value as JSON knows it: times as ISO 8601 in UTC."""
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value
