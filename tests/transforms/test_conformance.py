"""The conformance kit finds what it is there to find, and nothing in the sources there are."""

import dataclasses
import itertools

import polars as pl
import pytest
from test_sources import asked, world
from test_vector_sources import IDS, LISTENS, bundle
from toy_road import audience, days_ago, item

from transforms.conformance import MemoryBundle, departures
from transforms.sources import ALL_SOURCES, Source, none_found
from transforms.vector_sources import HOME_VECTOR_SOURCES, NOW_PLAYING_VECTOR_SOURCES

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
}


@pytest.mark.parametrize("what", DEPARTURES)
def test_each_departure_is_told(what):
    found = departures(DEPARTURES[what], WHO, EMPTY, shuffles=8)
    assert any(what in line for line in found), found


def test_a_good_source_has_none():
    assert departures(source(good), WHO, EMPTY) == []


@pytest.mark.parametrize("name", sorted(ALL_SOURCES))
def test_the_sources_on_tables_conform(name):
    assert departures(ALL_SOURCES[name], asked(name), world()) == []


TWO = [*LISTENS, *({**one, "key": "bob"} for one in LISTENS)]
USERS = audience([{"key": "ann"}, {"key": "bob"}], TWO)
SEEDS = audience([{"key": "east"}, {"key": "north"}])
MODELS = bundle(
    {"ann": 30, "bob": 60}, [item(name, release_ts=days_ago(3)) for name in IDS], [(name, 3) for name in IDS]
)
ON_MODELS = HOME_VECTOR_SOURCES | NOW_PLAYING_VECTOR_SOURCES


@pytest.mark.parametrize("name", sorted(ON_MODELS))
def test_the_sources_on_models_conform(name):
    assert departures(ON_MODELS[name], USERS if name in HOME_VECTOR_SOURCES else SEEDS, MODELS) == []
