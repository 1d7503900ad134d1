"""Interests: planted groups are found, Ward's method is that of scipy, and nobody's interests depend on anybody else."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from transforms import interests as module
from transforms.interests import MOST_INTERESTS, interests

DIM = 32


def around(axis: int, count: int, rng: np.random.Generator, spread: float = 0.05) -> np.ndarray:
    """Return vectors of length 1 near an axis, `(count, DIM) float32`."""
    vectors = np.eye(DIM)[axis] + spread * rng.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def of_one(vectors: np.ndarray, told: np.ndarray | None = None) -> list[int]:
    given = np.ones(len(vectors), bool) if told is None else told
    return interests(vectors, np.array([0, len(vectors)]), given).tolist()


def test_planted_tastes_are_told_apart_and_the_newest_is_0():
    rng = np.random.default_rng(0)
    plays = [around(0, 5, rng), around(1, 5, rng), around(0, 4, rng)]
    assert of_one(np.concatenate(plays)) == [0] * 5 + [1] * 5 + [0] * 4


def test_one_taste_is_one_interest_however_narrow_or_wide_and_however_often_it_is_played():
    rng = np.random.default_rng(1)
    for spread in (0.01, 0.1):
        for count in (8, 40, 200):
            assert set(of_one(around(0, count, rng, spread))) == {0}


def test_there_are_four_at_the_most():
    rng = np.random.default_rng(2)
    plays = np.concatenate([around(axis, 6, rng) for axis in range(7)])
    found = of_one(plays)
    assert set(found) == set(range(MOST_INTERESTS))
    assert found[-6:] == [0] * 6


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_few_plays_are_one_interest(count):
    assert set(of_one(np.eye(DIM, dtype=np.float32)[:count])) <= {0}


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_those_of_scipy(seed):
    """However alike: four of them."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((int(rng.integers(12, 120)), DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = fcluster(linkage(vectors.astype(np.float64), "ward"), MOST_INTERESTS, "maxclust")
    found = module._parted(vectors, 0.0)
    assert len(set(found.tolist())) == MOST_INTERESTS == len(set(zip(expected, found.tolist(), strict=True)))


def test_a_skip_belongs_where_it_is_likest_and_makes_no_interest():
    rng = np.random.default_rng(3)
    skips = around(0, 1, rng), around(1, 1, rng), np.zeros((1, DIM), np.float32)
    plays = np.concatenate([around(0, 6, rng), *skips, around(1, 6, rng)])
    told = np.array([True] * 6 + [False] * 3 + [True] * 6)
    assert of_one(plays, told) == [1] * 6 + [1, 0, 0] + [0] * 6
    only_skips = np.concatenate([around(0, 6, rng), around(2, 6, rng)])
    assert set(of_one(only_skips, np.repeat([True, False], 6))) == {0}


def test_nobody_depends_on_anybody_else():
    rng = np.random.default_rng(4)
    nobody = np.zeros((0, DIM), np.float32)
    sizes = rng.integers(0, 9, 30)
    many = [np.concatenate([nobody, *(around(axis, 3, rng) for axis in rng.integers(0, 4, size))]) for size in sizes]
    starts = np.cumsum([0, *map(len, many)])
    together = interests(np.concatenate(many), starts, np.ones(starts[-1], bool))
    assert together.tolist() == [one for plays in many for one in of_one(plays)]
    assert len(set(together.tolist())) == MOST_INTERESTS
