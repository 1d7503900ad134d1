"""Scores fall into quarters of octaves, on both sides of zero, whatever their scale."""

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest

from transforms.score_bins import count_scores, score_bins


def bin_of(score: float) -> int:
    return int(score_bins(np.array([score]))[0])


@pytest.mark.parametrize("score", [1e-6, 0.37, 1.0, 3.1, 50_000.0])
def test_a_score_twice_as_high_is_four_bins_above_and_the_opposite_one_is_on_the_other_side(score):
    assert bin_of(2 * score) == bin_of(score) + 4
    assert bin_of(-score) == -bin_of(score) < 0


def test_a_bin_is_a_quarter_of_an_octave():
    edges = [1.0, 1.25, 1.5, 1.75]
    below = [math.nextafter(edge, 0) for edge in edges]
    assert [bin_of(edge) for edge in edges] == [133, 134, 135, 136]
    assert [bin_of(one) for one in below] == [132, 133, 134, 135]


def test_bins_are_few_however_far_scores_go():
    far = score_bins(np.array([0.0, 1e-300, 2.0**-33, 1e38, 1e300]))
    assert far[0] == 0
    assert (far[1:] > 0).all()
    assert far.max() <= 4 * 65


def test_counts_add_up_by_source_and_what_is_no_number_is_left_out():
    rows = pl.DataFrame(
        {"source_id": ["a", "a", "b", "b"], "raw_score": pl.Series([1.0, 1.1, -1.0, float("nan")], dtype=pl.Float32)}
    )
    assert count_scores(rows) == {"scores:a:133": 2, "scores:b:-133": 1}
    assert count_scores(rows.clear()) == {}


def test_counting_agrees_with_the_bin_of_each_score():
    rng = np.random.default_rng(5)
    scores = (rng.choice([-1, 0, 1], 5_000) * 2.0 ** rng.uniform(-40, 40, 5_000)).astype(np.float32)
    sources = rng.choice(["a", "b", "c"], 5_000)
    expected = Counter(f"scores:{source}:{bin_}" for source, bin_ in zip(sources, score_bins(scores), strict=True))
    assert count_scores(pl.DataFrame({"source_id": sources, "raw_score": scores})) == expected
