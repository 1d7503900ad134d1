"""Self-information, distance, popularity, artists and leanings of lists, against figures worked out by hand."""

import itertools
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_road import item, shard, table
from toy_sets import write_sets

from schemas.evaluation import SETS, UNIT
from schemas.models import EMBEDDING_DIM
from transforms.evaluation_lists import read_sets
from transforms.evaluation_variety import (
    Known,
    distances,
    known_items,
    leanings,
    miscalibration,
    played_leanings,
    played_popularity,
    totals,
)

PLAYED = {"a": 7, "b": 3, "c": 0}
"""10 positives and 3 items: (7 + 1) / 13, (3 + 1) / 13 and 1 / 13."""


def axis(*shares: float) -> list[float]:
    return [*shares, *[0.0] * (EMBEDDING_DIM - len(shares))]


VECTORS = {"a": axis(1.0), "b": axis(0.0, 1.0), "c": axis(0.6, 0.8)}
ITEMS = [
    item("a", "x", genres=["rock"]),
    item("b", "y", genres=["rock", "jazz"]),
    item("c", "x", genres=[]),
    item("d", artists=None, show_id="show", item_type="episode", genres=["talk"]),
    item("e", artists=None),
]


@pytest.fixture
def known(tmp_path: Path) -> Known:
    numbered = [{"item_id": one, "number": n, "positives": PLAYED[one]} for n, one in enumerate(PLAYED)]
    vectors = [{"item_id": one, "space_id": "s", "made_from": 1, "vector": own} for one, own in VECTORS.items()]
    chart = {"market": "*", "tier": "*", "item_type": "track", "item_id": "a", "weight": 7, "rank": 0}
    tables = {"vocabulary": numbered, "item_embedding": vectors, "popularity": [chart], "item": ITEMS}
    made = shard(tmp_path, {name: table(name, rows) for name, rows in tables.items()})
    return known_items(made, pl.Series([*"cabde", "unheard", "a", None]))


def lists(**items: str) -> pl.DataFrame:
    """Return lists by record, one letter or `?` per item; `?` is an item nobody knows."""
    rows = [(record, "unheard" if one == "?" else one) for record, own in items.items() for one in own]
    frame = pl.DataFrame(rows, schema=["record", "item_id"], orient="row")
    told = frame.with_columns(pl.lit("known").alias("familiarity"), pl.lit(False).alias("is_fresh"))
    return told.with_columns(pl.lit(["home.a"]).alias("sources"))


def figures(known: Known, **items: str) -> dict[tuple[str, str], float]:
    found = totals(known.described(lists(**items)), known)
    return {(record, metric): value for record, _, metric, value in found.rows()}


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


def test_new_artists_unknown_and_fresh_items_are_shares_of_the_list(known):
    """Of five items two are of new artists, one is a discovery, and three are fresh; of another list none of it."""
    rows = lists(one="abcde", two="ab").with_columns(
        pl.Series("familiarity", ["new_artist", "known", "discovery", "new_artist", "known", "known", "known"]),
        pl.Series("is_fresh", [True, False, True, True, False, False, False]),
    )
    found = {(record, metric): value for record, _, metric, value in totals(known.described(rows), known).rows()}
    assert [found["one", name] for name in ("new_artist", "unknown", "fresh")] == [0.4, 0.6, 0.6]
    assert [found["two", name] for name in ("new_artist", "unknown", "fresh")] == [0.0, 0.0, 0.0]


def test_artist_entropy_is_that_of_the_shares_of_artists(known):
    """a and c are of x, b of y, d of a show; e and what nobody knows have none."""
    found = figures(known, one="abcd", same="ac", none="e?", two="abe")
    assert found["one", "artist_entropy"] == pytest.approx(0.5 * 1 + 2 * 0.25 * 2)
    assert found["two", "artist_entropy"] == pytest.approx(1.0)
    assert found["same", "artist_entropy"] == found["none", "artist_entropy"] == 0


def test_leanings_share_an_item_among_its_genres(known):
    heard = pl.DataFrame({"user_id": ["u", "u", "u", "u", "v"], "item_id": ["a", "b", "a", "d", "c"]})
    found = {(user, metric, of): share for user, metric, of, share in played_leanings(heard, known).rows()}
    assert found == {
        ("u", "calibration_type", "track"): pytest.approx(2 / 3),
        ("u", "calibration_type", "episode"): pytest.approx(1 / 3),
        ("u", "calibration_genre", "rock"): pytest.approx(1.5 / 3),
        ("u", "calibration_genre", "jazz"): pytest.approx(0.5 / 3),
        ("u", "calibration_genre", "talk"): pytest.approx(1 / 3),
        ("v", "calibration_type", "track"): 1.0,
    }


def test_miscalibration_is_the_divergence_from_what_was_played(known):
    """Played: half tracks, half episodes. One set is alike, one has tracks only: .5 log2(.5 / .995) + .5 log2(.5 / .005)."""
    given = leanings(known.described(lists(alike="ad", tracks="ab")), "record")
    mine = leanings(known.described(lists(u="ad")), "record").drop("record")
    wanted = pl.concat([mine.with_columns(pl.lit(n, pl.UInt32).alias("unit"), pl.lit(record).alias("record"))
                        for n, record in enumerate(("alike", "tracks", "gone"))])  # fmt: skip
    found = {(unit, metric): value for unit, metric, value in miscalibration(wanted, given).rows()}
    away = 0.5 * math.log2(0.5 / 0.995) + 0.5 * math.log2(0.5 / 0.005)
    assert found[0, "calibration_type"] == found[0, "calibration_genre"] == pytest.approx(0)
    assert found[1, "calibration_type"] == pytest.approx(away)
    jazz = 0.5 * math.log2(0.5 / (0.99 * 0.75 + 0.005)) + 0.5 * math.log2(0.5 / 0.005)
    assert found[1, "calibration_genre"] == pytest.approx(jazz)
    assert found[2, "calibration_type"] == pytest.approx(math.log2(100)), "nothing of what was played"
    assert {found[n, "calibrated_type"] for n in range(3)} == {1.0}


def test_a_batch_of_sets_tells_only_of_those_who_are_served_from_it(known, tmp_path, monkeypatch):
    """Two users share a chart, one has a set; nothing is known of what the third played."""
    monkeypatch.setattr("transforms.evaluation_lists.SETS_AT_ONCE", 1)
    sets = {key: [(one, ["home.a"]) for one in items] for key, items in {"u": "ab", "*": "ad"}.items()}
    path = write_sets(tmp_path / "sets.parquet", sets)
    served = pl.DataFrame(
        {"unit": [0, 1, 2], "record": ["u", "*", "*"], "beside": [None] * 3, "ranking": [SETS] * 3},
        schema_overrides={"unit": pl.UInt32, "beside": pl.String},
    )
    played = leanings(known.described(lists(p="ad")), "record").drop("record")
    both = pl.concat([played.select(pl.lit(n, pl.UInt32).alias("unit"), pl.all()) for n in (0, 1)])
    aims = pl.DataFrame({"unit": [0], "canonical_id": ["a"]}, schema_overrides={"unit": pl.UInt32})
    _, figures_ = read_sets([path], [], pl.col("record_key"), served, aims, known, both)
    found = {(unit, metric): value for unit, ranking, metric, value in figures_.rows() if ranking == SETS}
    assert found[0, "calibration_type"] == pytest.approx(0.5 * math.log2(0.5 / 0.995) + 0.5 * math.log2(0.5 / 0.005))
    assert found[1, "calibration_type"] == pytest.approx(0)
    assert (2, "calibration_type") not in found
    assert (2, "artist_entropy") in found
