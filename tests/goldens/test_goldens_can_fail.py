"""A golden that cannot fail is none: a filter or a source is broken for a few people, and the goldens say so."""

import dataclasses

import golden_sets
import golden_world
import numpy as np
import polars as pl
import pytest
from golden_world import Raw

from pipelines.publish import read_pointer
from pipelines.reblend import one_record, published_again, reblend
from pipelines.runner import load_manifest
from transforms import blend as blending
from transforms.filters import HARD_FILTERS, hard_filters
from transforms.io.store import open_store

TRIES = 20
CANARIES = {rule["name"]: rule for rule in golden_world.golden("canaries")["canary"]}
PERSONAS = {persona["name"]: persona for persona in golden_world.golden("personas")["persona"]}


@pytest.fixture(scope="module")
def published(golden_road):
    return golden_sets.published(golden_road.root, "home")


@pytest.fixture
def again(golden_road, published):
    """Return a function that blends the set of somebody again, with the code as it is at that moment."""
    store = open_store(str(golden_road.root))
    sets = load_manifest(store, read_pointer(store, "home").manifest)
    data = {ref.name: load_manifest(store, ref.path) for ref in sets.inputs}

    def blended(key: str) -> pl.DataFrame:
        (record,) = published.filter(pl.col("record_key") == key).to_dicts()
        with one_record(store, data, key, sets.num_shards) as shard:
            made = published_again(shard, reblend(shard, sets, record), record)
        return pl.DataFrame([made], schema=published.schema)

    return blended


def tempted(road, rule, of) -> list[str]:
    """Return `TRIES` people to whom a source proposed a canary of a rule, that is not for them, as one of its best."""
    found = golden_sets.committed(road.root, "proposal").rename({"key": "record_key", "source_rank": "position"})
    shown = golden_sets.wrong(found.with_columns(pl.lit("").alias("context_key")), rule, Raw(road.raw), of)
    best = shown.sort("position", "record_key", "item_id")["record_key"].unique(maintain_order=True)
    return best.head(TRIES).to_list()


def passing(rule: str):
    """Return the hard filters without one rule."""

    def broken(*arguments):
        judged = hard_filters(*arguments)
        code = HARD_FILTERS.index(rule) + 1
        return dataclasses.replace(judged, rule=np.where(judged.rule == code, 0, judged.rule).astype(np.uint8))

    return broken


@pytest.mark.parametrize("name", [name for name, rule in CANARIES.items() if "rule" in rule])
def test_canaries_sing_where_their_filter_is_broken(golden_road, published, again, monkeypatch, name):
    raw, rule = Raw(golden_road.raw), CANARIES[name]
    monkeypatch.setattr(blending, "hard_filters", passing(rule["rule"]))
    of = golden_sets.people(published, raw.read("users"))
    tries = (golden_sets.leaks(golden_sets.slots(again(key)), rule, raw, of) for key in tempted(golden_road, rule, of))
    found = next(filter(None, tries), [])
    assert found, f"no canary of {name!r} came through where {rule['rule']} is broken: they are no bait any more"
    assert all(f"({name}) is in the set of " in one for one in found)


def test_a_persona_says_what_is_missing_where_its_sources_are_broken(golden_road, again, monkeypatch):
    blend = blending.blend
    charts = pl.col("source_id").is_in(["home.popular_market", "home.explore"])
    monkeypatch.setattr("pipelines.reblend.blend", lambda proposals, *rest: blend(proposals.filter(charts), *rest))
    sets = again("persona-jazz")
    rows = golden_sets.described(golden_sets.slots(sets), Raw(golden_road.raw))
    found = golden_sets.findings(PERSONAS["jazz"], sets.to_dicts()[0], rows)
    assert "jazz: expected fallback level [0, 1], came 3" in found
    assert any(one.startswith("jazz: expected 0% to 30% of source home.popular_market, came") for one in found)


def test_the_set_of_another_persona_is_not_as_expected(golden_road, published):
    """Personas who are new in the same market may change places; hardly anybody else."""
    rows = golden_sets.described(golden_sets.slots(published), Raw(golden_road.raw))
    names = list(PERSONAS)
    told = 0
    for name, other in zip(names, names[7:] + names[:7], strict=True):
        theirs = pl.col("record_key") == golden_world.user_id(PERSONAS[other])
        record = next(iter(published.filter(theirs).to_dicts()), None)
        told += bool(golden_sets.findings(PERSONAS[name], record, rows.filter(theirs)))
    assert told >= 40


def test_a_set_that_should_not_be_there_and_one_that_is_missing_are_told():
    nothing = pl.DataFrame()
    assert golden_sets.findings(PERSONAS["jazz"], None, nothing) == ["jazz: expected a set, there is none"]
    assert golden_sets.findings(PERSONAS["erased"], {}, nothing) == ["erased: expected no set, there is one"]
