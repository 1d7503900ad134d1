import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from tests.transforms.embed.planted_clusters import assert_clusters_are_found, planted_rows
from transforms.embed.interactions import from_lists
from transforms.embed.spectral import (
    SPECTRAL_GRID,
    Spectral,
    SpectralSettings,
    degree_power,
    fit_spectral,
    leading_directions,
    scaled_rows,
)

ROWS = planted_rows(seed=1)
NEW = from_lists([[0, 3, 5], [25, 26], []], ROWS.num_items)
SMALL = SpectralSettings(dim=16)


def test_directions_are_those_of_the_exact_decomposition():
    matrix = sp.random(80, 50, 0.2, format="csr", dtype=np.float32, random_state=np.random.default_rng(3))
    values, directions = leading_directions(matrix, 10, seed=0)
    _, exact, right = np.linalg.svd(matrix.toarray())
    np.testing.assert_allclose(values, exact[:10], rtol=1e-4)
    np.testing.assert_allclose(np.abs(np.sum(directions * right[:10].T, 0)), 1, rtol=1e-3)


def test_scores_are_the_dense_formula():
    settings = SpectralSettings(dim=5, row_power=0.3, item_power=0.4, value_power=2, capped=0, popularity_power=0.25)
    dense = ROWS.matrix().toarray().astype(np.float64)
    degrees = np.maximum(dense.sum(0), 1)
    normal = dense / dense.sum(1, keepdims=True) ** 0.3 / degrees**0.4
    _, values, right = np.linalg.svd(normal, full_matrices=False)
    weights = (values[:5] / values[0]) ** 2
    expected = normal @ (right[:5].T * weights) @ right[:5] * degrees**0.25
    np.testing.assert_allclose(fit_spectral(ROWS, settings, 0).score(ROWS), expected, atol=2e-4)


def test_largest_values_are_capped():
    settings = SpectralSettings(dim=5, value_power=2, capped=2, popularity_power=0)
    vectors = fit_spectral(ROWS, settings, 0).item_vectors
    lengths = np.sort((vectors**2).sum(0))[::-1]
    np.testing.assert_allclose(lengths[:3], lengths[0], rtol=1e-3)
    assert lengths[4] < lengths[0]


@pytest.mark.parametrize("settings", SPECTRAL_GRID)
def test_planted_clusters_are_found(settings):
    model = fit_spectral(ROWS, dataclasses.replace(settings, dim=6), 0)
    assert_clusters_are_found(model.score(NEW)[:2], NEW.take(np.arange(2)))


def test_score_is_the_product_of_the_space_and_empty_contexts_are_zeros():
    model = fit_spectral(ROWS, SMALL, 0)
    scores = model.score(NEW)
    assert (scores.shape, scores.dtype, model.item_vectors.dtype) == ((3, ROWS.num_items), np.float32, np.float32)
    np.testing.assert_array_equal(scores, model.encode(NEW) @ model.item_vectors.T)
    assert not scores[2].any()


def test_dim_is_at_most_what_there_is():
    assert fit_spectral(from_lists([[0, 1], [1, 2]], 3), SpectralSettings(dim=256), 0).item_vectors.shape == (3, 2)


def test_same_seed_gives_same_bytes_and_arrays_round_trip():
    first, again = fit_spectral(ROWS, SMALL, 4), fit_spectral(ROWS, SMALL, 4)
    for name, array in first.to_arrays().items():
        assert array.tobytes() == again.to_arrays()[name].tobytes()
    np.testing.assert_array_equal(Spectral.from_arrays(first.to_arrays()).score(NEW), first.score(NEW))


def test_scaling_by_counts():
    matrix = sp.csr_matrix(np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], np.float32))
    np.testing.assert_allclose(scaled_rows(matrix, 0.5).toarray()[0], [0.5**0.5, 0.5**0.5, 0, 0])
    np.testing.assert_allclose(degree_power(matrix, -1), [1, 0.5, 1, 1])
