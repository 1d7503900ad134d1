import numpy as np
import pytest

from tests.transforms.embed.planted_clusters import assert_clusters_are_found, planted_rows
from transforms.embed import ease
from transforms.embed.ease import EASE_GRID, Ease, EaseSettings, fit_ease
from transforms.embed.interactions import from_lists

ROWS = planted_rows(seed=3)
NEW = from_lists([[0, 3, 5], [25, 26], []], ROWS.num_items)


def test_plain_regression_is_the_published_inverse():
    dense = ROWS.matrix().toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + 20 * np.eye(dense.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    model = fit_ease(ROWS, EaseSettings(ridge=20, dropout=0, row_power=0, popularity_power=0))
    np.testing.assert_allclose(model.score(NEW), NEW.matrix() @ weights, atol=2e-5)


def test_dropout_and_powers_are_the_dense_formula():
    dense = ROWS.matrix().toarray().astype(np.float64)
    normal = dense / dense.sum(1, keepdims=True) ** 0.5
    normal /= np.sqrt((normal[normal > 0] ** 2).mean())
    products = normal.T @ normal
    inverse = np.linalg.inv(products + np.diag(20 + 0.6 / 0.4 * np.diag(products)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    degrees = np.maximum(dense.sum(0), 1)
    context = NEW.matrix().toarray()
    context /= np.maximum(context.sum(1, keepdims=True), 1) ** 0.5
    model = fit_ease(ROWS, EaseSettings(ridge=20, dropout=0.6, row_power=0.5, popularity_power=-0.2))
    np.testing.assert_allclose(model.score(NEW), context @ weights * degrees**-0.2, atol=2e-5)


@pytest.mark.parametrize("settings", EASE_GRID)
def test_planted_clusters_are_found(settings):
    scores = fit_ease(ROWS, settings).score(NEW)
    assert_clusters_are_found(scores[:2], NEW.take(np.arange(2)))
    assert (scores.dtype, scores.shape) == (np.float32, (3, ROWS.num_items))
    assert not scores[2].any()


def test_same_input_gives_same_bytes_and_arrays_round_trip():
    first, again = (fit_ease(ROWS, EaseSettings()) for _ in range(2))
    for name, array in first.to_arrays().items():
        assert array.tobytes() == again.to_arrays()[name].tobytes()
    np.testing.assert_array_equal(Ease.from_arrays(first.to_arrays()).score(NEW), first.score(NEW))


def test_too_many_rows_are_refused(monkeypatch):
    monkeypatch.setattr(ease, "MOST_ROWS", 100)
    with pytest.raises(ValueError, match="at most 100 rows, but there are 240"):
        fit_ease(ROWS, EaseSettings())
