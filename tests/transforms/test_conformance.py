"""The conformance kit finds what it is there to find, and nothing in the sources there are."""

import dataclasses
import itertools

import numpy as np
import polars as pl
import pytest
from test_parts import CATALOGUE, heard
from test_parts import bundle as of_parts
from test_sources import audiences, world
from toy_road import audience, instant, table

from pipelines.recommend import SURFACES
from transforms.conformance import MemoryBundle, MemoryModels, departures
from transforms.part_sources import HOME_PART_SOURCES, NOW_PLAYING_PART_SOURCES
from transforms.sources import Source, none_found
from transforms.vector_sources import nearest, of_seeds

WHO = audience([{"key": "ann"}, {"key": "bob"}])
EMPTY = MemoryBundle({})


def good(asking, bundle) -> pl.DataFrame:
    rows = asking.keys.select("key", pl.lit("a").alias("item_id"), pl.lit(1.0).alias("raw_score"))
    return pl.concat([none_found(), rows], how="diagonal").with_columns(pl.col("seed_item_ids").fill_null([]))


def source(propose, **changed) -> Source:
    return dataclasses.replace(Source(propose, "kind", "toy", "reason", 9), **changed)


def with_column(name: str, value: pl.Expr):
    return lambda asking, bundle: good(asking, bundle).with_columns(value.alias(name))


def counted():
    calls = itertools.count()
    return lambda asking, bundle: good(asking, bundle).with_columns(raw_score=pl.lit(float(next(calls))))


NOTHING = pl.lit(None)
DEPARTURES = {
    "no column raw_score": source(lambda asking, bundle: good(asking, bundle).drop("raw_score")),
    "item_id is of type Int32, expected String": source(with_column("item_id", pl.lit(1, pl.Int32))),
    "for a key that did not ask: 2 of 2 rows": source(with_column("key", pl.col("key") + "!")),
    "a null key, item": source(with_column("seed_item_ids", NOTHING.cast(pl.List(pl.String)))),
    "no finite number": source(with_column("raw_score", pl.lit(float("nan")))),
    "twice for a key": source(lambda asking, bundle: pl.concat([good(asking, bundle)] * 2)),
    "proposed to itself": source(with_column("item_id", pl.col("key"))),
    "more than 3 seeds": source(with_column("seed_item_ids", pl.lit(["a", "b", "c", "d"]))),
    "proposals for 0 keys": source(lambda asking, bundle: none_found()),
    "its limit is 0": source(good, limit=0),
    "its reason_code is empty": source(good, reason_code=""),
    "asked twice, it answers differently": source(counted()),
    "depends on the order of rows": source(
        lambda asking, bundle: good(asking, bundle).with_columns(raw_score=pl.int_range(pl.len()).cast(pl.Float64))
    ),
    "depends on who else is asked": source(
        lambda asking, bundle: good(asking, bundle).with_columns(raw_score=pl.lit(float(asking.keys.height)))
    ),
    "it proposes where nobody asks": source(lambda asking, bundle: good(WHO, bundle)),
    "more than 1 for each place, for 2 keys": source(
        lambda asking, bundle: pl.concat([good(asking, bundle), with_column("item_id", pl.lit("b"))(asking, bundle)]),
        limit=1, in_every_place=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DEPARTURES)
def test_each_departure_is_told(what):
    found = departures(DEPARTURES[what], WHO, EMPTY, shuffles=8)
    assert any(what in line for line in found), found


def test_a_good_source_has_none():
    assert departures(source(good), WHO, EMPTY) == []


def test_what_is_for_every_place_may_be_as_many_for_each():
    places = pl.DataFrame({"key": ["ann", "bob"], "market": ["SE", "SE"], "tier": ["free", "free"]})
    two = DEPARTURES["more than 1 for each place, for 2 keys"]
    assert departures(two, dataclasses.replace(WHO, places=places), EMPTY) == []


def models() -> MemoryModels:
    """Return `world()` with vectors of its items and listeners."""
    tables, rng = dict(world().tables), np.random.default_rng(0)
    ids = tables["item"]["item_id"]
    vectors = rng.standard_normal((len(ids) + 2, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tables["item_embedding"] = pl.DataFrame({"item_id": ids, "vector": vectors[2:]})
    tables["user_embedding"] = pl.DataFrame({"user_id": ["u1", "u2"], "vector": vectors[:2]})
    tables["vocabulary"] = table("vocabulary", [{"item_id": one, "number": 0, "positives": 3} for one in ids])
    return MemoryModels(tables | {"tombstone": table("tombstone", [])}, instant(WHO.policy))


def given(name: str):
    """Return the audience a source has proposals for, and their bundle."""
    if name in HOME_PART_SOURCES | NOW_PLAYING_PART_SOURCES:
        said = [
            {**one, "key": key} for key in ("u1", "u2") for one in heard("saga-1", "news-1", "book-1", out=key == "u1")
        ]
        people = audience([{"key": "u1", "follows": ["news"]}, {"key": "u2"}], said)
        seeds = audience([{"key": one} for one in ("book-1", "news-1", "saga-0")])
        return people if name in HOME_PART_SOURCES else seeds, of_parts(CATALOGUE)
    people, seeds, groups = audiences()
    if any(name in surface.group_sources for surface in SURFACES.values()):
        return groups, models()
    if name == "home.fresh_market":  # for whoever is new
        cold = audience([{"key": key} for key in ("u1", "u2")])
        return cold, dataclasses.replace(
            made := models(), tables={**made.tables, "user_embedding": made.tables["user_embedding"].clear()}
        )
    if name in SURFACES["home"].sources:
        return people, models()
    places = [(key, "SE", tier) for key in seeds.keys["key"] for tier in ("free", "premium")]
    return dataclasses.replace(
        seeds, places=pl.DataFrame(places, schema=["key", "market", "tier"], orient="row")
    ), models()


SHIPPED = {
    name: one for surface in SURFACES.values() for name, one in {**surface.sources, **surface.group_sources}.items()
}


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_source_conforms(name):
    assert departures(SHIPPED[name], *given(name)) == []


def test_a_source_on_vectors_that_is_not_careful_is_told():
    """It asks with the sum of all keys' vectors, so that what one gets depends on who else is asked."""

    def propose(asking, bundle):
        seeds = asking.seeds.sort("key")
        vectors = bundle.items().index.take(bundle.items().rows(seeds["seed_item_id"])).sum(axis=0, keepdims=True)
        return of_seeds(nearest(asking, seeds["key"], np.repeat(vectors, seeds.height, 0), bundle.items(), 9), asking)

    _, seeds, _ = audiences()
    found = departures(source(propose), seeds, models())
    assert found == ["what a key gets depends on who else is asked: shards and blocks would change the sets"]
