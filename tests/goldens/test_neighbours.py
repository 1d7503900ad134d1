"""Neighbours: what must be near the most played tracks of every genre, and what never."""

import golden_sets
import golden_world
import numpy as np
import polars as pl
import pytest
from golden_world import Raw

from transforms.evaluate import Hits

NEIGHBOURS = golden_world.golden("neighbours")
NEAREST = 20
PRECISION_AT = (1, 5, NEAREST)


def genres(raw: Raw) -> pl.DataFrame:
    return raw.read("items").select(pl.col("item_id").alias("other"), golden_world.GENRE.alias("other_genre"))


@pytest.fixture(scope="module")
def seeds(golden_road):
    """Return `item_id`, `genre` and `successor_id` of every seed, the most played first."""
    raw, wanted = Raw(golden_road.raw), {one["genre"]: one["seeds"] for one in NEIGHBOURS["neighbours"]}
    tracks = golden_world.popular_tracks(raw).with_columns(golden_world.GENRE.alias("genre"))
    nth = pl.int_range(pl.len()).over("genre")
    most = tracks.filter(nth < pl.col("genre").replace_strict(wanted))
    truth = pl.read_parquet(golden_road.raw.with_name(f"{golden_road.raw.name}.truth") / "items.parquet")
    return most.select("item_id", "genre").join(truth.select("item_id", "successor_id"), on="item_id")


@pytest.fixture(scope="module")
def co_listened(golden_road, seeds):
    found = golden_sets.committed(golden_road.root, "co_listen").filter(pl.col("rank") < NEAREST)
    near = found.select("item_id", pl.col("other_item_id").alias("other"), pl.col("rank").alias("place"))
    return seeds.join(near, on="item_id").join(genres(Raw(golden_road.raw)), on="other")


@pytest.fixture(scope="module")
def nearest(golden_road, seeds):
    items = golden_sets.committed(golden_road.root, "item_embedding").sort("item_id")
    vectors = np.stack(items["vector"].to_numpy())
    own = items["item_id"].to_frame().with_row_index("row").join(seeds, on="item_id", maintain_order="right")
    scores = vectors[own["row"].to_numpy()] @ vectors.T
    scores[np.arange(len(own)), own["row"].to_numpy()] = -np.inf
    found = np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]
    others = own.with_columns(pl.Series("other", items["item_id"].to_numpy()[found].tolist())).explode("other")
    others = others.with_columns(pl.int_range(pl.len()).over("item_id").alias("place"))
    return others.join(genres(Raw(golden_road.raw)), on="other")


def share_of_own(near: pl.DataFrame, genre: str) -> float:
    mine = near.filter(pl.col("genre") == genre)
    return float((mine["other_genre"] == genre).mean())


def precision(near: pl.DataFrame, genre: str, num_seeds: int) -> list[float]:
    """Return the mean share of the seed's own genre among its first 1, 5 and 20 neighbours; one that is missing is none."""
    mine = near.filter(pl.col("genre") == genre)
    rows = mine["item_id"].rank("dense").to_numpy().astype(np.int64) - 1
    at = np.zeros((num_seeds, NEAREST), bool)
    at[rows, mine["place"].to_numpy()] = (mine["other_genre"] == genre).to_numpy()
    hits = Hits(at, np.ones(num_seeds, np.int64))
    return [float(hits.precision(k).mean()) for k in PRECISION_AT]


def test_every_genre_has_its_seeds(seeds):
    assert sorted(seeds["genre"].unique()) == sorted(one["genre"] for one in NEIGHBOURS["neighbours"])
    assert seeds.height >= 450


@pytest.mark.parametrize("golden", NEIGHBOURS["neighbours"], ids=lambda golden: golden["genre"])
def test_what_is_near_is_of_the_seeds_own_genre(co_listened, nearest, golden):
    genre, must = golden["genre"], NEIGHBOURS["must"]
    assert share_of_own(co_listened, genre) >= must["co_listen"], f"{genre}: co-listens are of other genres"
    assert share_of_own(nearest, genre) >= must["vector"], f"{genre}: the nearest vectors are of other genres"


@pytest.mark.parametrize("golden", NEIGHBOURS["neighbours"], ids=lambda golden: golden["genre"])
def test_precision_is_what_it_must_be_at_every_place(seeds, co_listened, nearest, golden):
    """What must hold of all twenty holds of the first and the first five, too; a seed with too few neighbours has less."""
    genre, must = golden["genre"], NEIGHBOURS["must"]
    own = seeds.filter(pl.col("genre") == genre).height
    found = {name: precision(near, genre, own) for name, near in (("co_listen", co_listened), ("vector", nearest))}
    print(
        genre,
        {name: [f"@{k} {one:.3f}" for k, one in zip(PRECISION_AT, own, strict=True)] for name, own in found.items()},
    )
    for name, precisions in found.items():
        assert min(precisions) >= must[name], f"{genre} {name}: precision at {PRECISION_AT} is {precisions}"


def test_precision_counts_what_is_missing():
    """Of two seeds the first has its own genre at places 0 and 3, another at 1; the second has one neighbour, another's."""
    near = pl.DataFrame({"item_id": ["a", "a", "a", "b"], "genre": "rock", "place": [0, 1, 3, 0],
                         "other_genre": ["rock", "jazz", "rock", "jazz"]})  # fmt: skip
    assert precision(near, "rock", 2) == [1 / 2, 2 / 5 / 2, 2 / 20 / 2]


@pytest.mark.parametrize("golden", NEIGHBOURS["neighbours"], ids=lambda golden: golden["genre"])
def test_what_is_far_off_is_not_near(nearest, golden):
    mine = nearest.filter(pl.col("genre") == golden["genre"])
    far = mine.filter(pl.col("other_genre").is_in(golden["never"]))
    assert far.filter(pl.col("place") == 0).select("item_id", "other", "other_genre").rows() == []
    most = NEIGHBOURS["must"]["most_of_never"] * mine.height
    assert far.height <= most, f"{golden['genre']}: {far.height} of {mine.height} nearest are of {golden['never']}"


@pytest.mark.parametrize("golden", NEIGHBOURS["neighbours"], ids=lambda golden: golden["genre"])
def test_the_planted_successor_is_among_the_likeliest_followers(golden_road, seeds, golden):
    mine = seeds.filter(pl.col("genre") == golden["genre"])
    found = golden_sets.committed(golden_road.root, "transition").filter(level="item").filter(pl.col("rank") < NEAREST)
    pairs = found.select(pl.col("context_id").alias("item_id"), pl.col("next_item_id").alias("successor_id"))
    hits = mine.join(pairs, on=["item_id", "successor_id"], how="semi").height
    assert hits >= NEIGHBOURS["must"]["successor"] * mine.height, f"{golden['genre']}: {hits} of {mine.height} followed"


def test_the_neighbours_of_another_genre_would_fail(co_listened, nearest):
    names = [one["genre"] for one in NEIGHBOURS["neighbours"]]
    others = dict(zip(names, names[1:] + names[:1], strict=True))
    for near, least in ((co_listened, NEIGHBOURS["must"]["co_listen"]), (nearest, NEIGHBOURS["must"]["vector"])):
        swapped = near.with_columns(pl.col("genre").replace_strict(others))
        assert max(share_of_own(swapped, genre) for genre in names) < least / 2
