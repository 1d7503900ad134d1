import numpy as np
import polars as pl
import pytest

from validation.vectors import (
    VectorSample,
    effective_rank,
    mean_cosine,
    neighbour_overlap,
    rank_correlation,
    read_sample,
)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def scattered(n: int = 400, dim: int = 16, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, dim)))


def written(folder, name: str, vectors: np.ndarray, first: int = 0) -> str:
    ids = [f"i{number:05d}" for number in range(first, first + len(vectors))]
    frame = pl.DataFrame({"item_id": ids, "vector": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))})
    path = str(folder / f"{name}.parquet")
    frame.write_parquet(path)
    return path


def test_the_mean_cosine_is_that_of_all_pairs():
    vectors = scattered(30)
    pairs = vectors @ vectors.T
    assert mean_cosine(vectors) == pytest.approx(pairs[~np.eye(30, dtype=bool)].mean(), abs=1e-6)


def test_collapsed_vectors_have_a_high_cosine_and_a_low_rank():
    collapsed = unit(scattered() * 0.05 + 1)
    assert mean_cosine(collapsed) > 0.9 > 0.1 > mean_cosine(scattered())
    assert effective_rank(collapsed) < effective_rank(scattered())


def test_vectors_in_two_directions_of_equal_size_have_rank_two():
    assert effective_rank(np.eye(8, dtype=np.float32)[[0, 1] * 5]) == pytest.approx(2)


def test_neighbours_of_a_turned_space_are_the_same_and_of_another_chance():
    vectors = scattered()
    turned = vectors @ np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0]
    assert neighbour_overlap(vectors, turned.astype(np.float32)) == pytest.approx(1, abs=0.01)
    assert neighbour_overlap(vectors, scattered(seed=2)) < 0.15


def test_the_rank_correlation_knows_order_only():
    assert rank_correlation(np.array([1, 2, 3, 9]), np.array([1, 10, 11, 12])) == pytest.approx(1)
    assert rank_correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    assert rank_correlation(np.array([1, 1, 1]), np.array([1, 2, 3])) == 0


def test_a_sample_says_what_repeats_what_moved_and_what_goes_with_plays(tmp_path):
    vectors = scattered()
    vectors[1] = vectors[0]
    path = written(tmp_path, "now", vectors)
    before = written(tmp_path, "before", vectors)
    mean = vectors.mean(axis=0)
    plays = pl.DataFrame({"item_id": [f"i{n:05d}" for n in range(400)], "positives": np.exp(9 * vectors @ mean) * 100})
    plays.with_columns(pl.col("positives").cast(pl.Int64)).write_parquet(tmp_path / "plays.parquet")
    found = VectorSample("item_id", [before], [str(tmp_path / "plays.parquet")])([path])
    assert found["sampled"] == 400
    assert found["repeated"] == 1
    assert found["overlap_ppm"] == 1_000_000
    assert found["popularity_ppm"] > 900_000


def test_a_sample_is_the_same_whatever_the_files(tmp_path):
    vectors = scattered()
    whole = read_sample([written(tmp_path, "whole", vectors)], "item_id")
    halves = [written(tmp_path, "a", vectors[:200]), written(tmp_path, "b", vectors[200:], 200)]
    assert read_sample(halves, "item_id").equals(whole)
