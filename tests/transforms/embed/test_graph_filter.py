import numpy as np
import pytest

from tests.transforms.embed.planted_clusters import assert_clusters_are_found, planted_rows
from transforms.embed.graph_filter import GraphFilter, GraphFilterSettings, fit_graph_filter
from transforms.embed.interactions import from_lists

ROWS = planted_rows(seed=2)
NEW = from_lists([[0, 3, 5], [25, 26], []], ROWS.num_items)


@pytest.mark.parametrize("sharpening", [0.0, 0.7])
def test_scores_are_the_dense_formula(sharpening):
    settings = GraphFilterSettings(0.3, 0.4, context_power=0.2, sharpening=sharpening, popularity_power=0.25)
    dense = ROWS.matrix().toarray().astype(np.float64)
    degrees = np.maximum(dense.sum(0), 1)
    graph = dense / dense.sum(1, keepdims=True) ** 0.3 / degrees**0.4
    products = graph.T @ graph
    products /= np.linalg.eigvalsh(products).max()
    expected = (NEW.matrix() / degrees**0.2) @ (products - sharpening * products @ products) * degrees**0.25
    np.testing.assert_allclose(fit_graph_filter(ROWS, settings, 0).score(NEW), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("sharpening", [0.0, 0.25])
def test_planted_clusters_are_found(sharpening):
    scores = fit_graph_filter(ROWS, GraphFilterSettings(sharpening=sharpening), 0).score(NEW)
    assert_clusters_are_found(scores[:2], NEW.take(np.arange(2)))
    assert (scores.dtype, scores.shape) == (np.float32, (3, ROWS.num_items))
    assert not scores[2].any()


def test_same_seed_gives_same_bytes_and_arrays_round_trip():
    first, again = (fit_graph_filter(ROWS, GraphFilterSettings(), 4) for _ in range(2))
    for name, array in first.to_arrays().items():
        assert array.tobytes() == again.to_arrays()[name].tobytes()
    np.testing.assert_array_equal(GraphFilter.from_arrays(first.to_arrays()).score(NEW), first.score(NEW))


def test_rows_of_nothing_score_nothing():
    model = fit_graph_filter(from_lists([[], []], 4), GraphFilterSettings(), 0)
    assert not model.score(from_lists([[1]], 4)).any()
