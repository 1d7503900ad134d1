"""Self-information, distance and popularity of lists, against figures worked out by hand."""

import itertools
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_road import shard, table

from schemas.evaluation import UNIT
from schemas.models import EMBEDDING_DIM
from transforms.evaluation_variety import Known, distances, known_items, played_popularity, totals

PLAYED = {"a": 7, "b": 3, "c": 0}
"""10 positives and 3 items: (7 + 1) / 13, (3 + 1) / 13 and 1 / 13."""


def axis(*shares: float) -> list[float]:
    return [*shares, *[0.0] * (EMBEDDING_DIM - len(shares))]


VECTORS = {"a": axis(1.0), "b": axis(0.0, 1.0), "c": axis(0.6, 0.8)}


@pytest.fixture
def known(tmp_path: Path) -> Known:
    numbered = [{"item_id": one, "number": n, "positives": PLAYED[one]} for n, one in enumerate(PLAYED)]
    vectors = [{"item_id": one, "space_id": "s", "made_from": 1, "vector": own} for one, own in VECTORS.items()]
    chart = {"market": "*", "tier": "*", "item_type": "track", "item_id": "a", "weight": 7, "rank": 0}
    tables = {"vocabulary": numbered, "item_embedding": vectors, "popularity": [chart]}
    made = shard(tmp_path, {name: table(name, rows) for name, rows in tables.items()})
    return known_items(made, pl.Series(["c", "a", "b", "unheard", "a", None]))


def lists(**items: str) -> pl.DataFrame:
    """Return lists by record, one letter or `?` per item; `?` is an item nobody knows."""
    rows = [(record, "unheard" if one == "?" else one) for record, own in items.items() for one in own]
    frame = pl.DataFrame(rows, schema=["record", "item_id"], orient="row")
    told = frame.with_columns(pl.lit("known").alias("familiarity"), pl.lit(False).alias("is_fresh"))
    return told.with_columns(pl.lit(["home.a"]).alias("sources"))


def figures(known: Known, **items: str) -> dict[tuple[str, str], float]:
    return {(record, metric): value for record, _, metric, value in totals(lists(**items), known).rows()}


def test_self_information_is_the_mean_of_the_items_bits(known):
    found = figures(known, one="ab", two="c?")
    assert found["one", "self_information"] == pytest.approx((math.log2(13 / 8) + math.log2(13 / 4)) / 2, abs=1 / UNIT)
    assert found["two", "self_information"] == pytest.approx(math.log2(13), abs=1 / UNIT)
    assert found["one", "tail"] == 0.5


def test_popularity_is_in_millionths_of_all_positives(known):
    found = figures(known, one="ab", two="c?")
    assert found["one", "popularity"] == pytest.approx(1e6 * (0.7 + 0.3) / 2)
    assert found["two", "popularity"] == 0
    heard = pl.DataFrame({"user_id": ["u", "u", "u", "v"], "item_id": ["a", "a", "c", "b"]})
    assert dict(played_popularity(heard, known).rows()) == {"u": pytest.approx(350_000), "v": pytest.approx(300_000)}


def test_distance_is_the_mean_over_all_pairs(known):
    found = figures(known, one="ab", all="abc", alone="a", none="??", some="a?c")
    assert found["one", "distance"] == pytest.approx(1.0)
    assert found["all", "distance"] == pytest.approx((1.0 + 0.4 + 0.2) / 3)
    assert found["some", "distance"] == pytest.approx(0.4), "what has no vector is in no pair"
    assert found["alone", "distance"] == found["none", "distance"] == 0


def test_distances_are_those_of_all_pairs_one_by_one():
    dice = np.random.default_rng(3)
    vectors = dice.normal(size=(60, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = pl.DataFrame({"record": ["x"] * 25 + ["y"] * 35, "row": dice.permutation(60)})
    found = dict(distances(rows, vectors).rows())
    for record, own in rows.group_by("record"):
        pairs = [1 - float(vectors[a] @ vectors[b]) for a, b in itertools.combinations(own["row"], 2)]
        assert found[record[0]] == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_one_list_after_the_other_gives_what_all_at_once_give(known):
    together = figures(known, one="abc", two="ca", three="b?")
    apart = figures(known, one="abc") | figures(known, two="ca") | figures(known, three="b?")
    assert together == apart


def test_a_bundle_without_vectors_has_no_distance(tmp_path):
    made = shard(tmp_path, {"vocabulary": table("vocabulary", [{"item_id": "a", "number": 0, "positives": 1}])})
    bare = known_items(made, pl.Series(["a"]))
    assert ("one", "distance") not in figures(bare, one="a")
    assert figures(bare, one="a")["one", "self_information"] == 0
