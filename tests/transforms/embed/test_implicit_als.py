import dataclasses

import numpy as np

from tests.transforms.embed.planted_clusters import assert_clusters_are_found, planted_rows
from transforms.embed.implicit_als import AlsSettings, ImplicitAls, fit_implicit_als, solved
from transforms.embed.interactions import from_lists

ROWS = planted_rows(seed=4)
NEW = from_lists([[0, 3, 5], [25, 26], []], ROWS.num_items)
SMALL = AlsSettings(dim=12, unheard=0.1, regularization=0.01)


def exact_row(heard: np.ndarray, others: np.ndarray, settings: AlsSettings) -> np.ndarray:
    """Solve one row's normal equations."""
    mine = others[heard].astype(np.float64)
    ridge = settings.regularization * (len(heard) + settings.unheard * len(others))
    left = mine.T @ mine + settings.unheard * others.T @ others + ridge * np.eye(others.shape[1])
    return np.linalg.solve(left, mine.sum(0))


def loss(rows: np.ndarray, items: np.ndarray, settings: AlsSettings) -> float:
    """Return the module's loss over all pairs."""
    heard, scores = ROWS.matrix().toarray(), rows @ items.T
    row_ridges = settings.regularization * (heard.sum(1) + settings.unheard * heard.shape[1])
    item_ridges = settings.regularization * (heard.sum(0) + settings.unheard * heard.shape[0])
    ridges = (row_ridges * (rows**2).sum(1)).sum() + (item_ridges * (items**2).sum(1)).sum()
    return float((heard * (1 - scores) ** 2).sum() + settings.unheard * (scores**2).sum() + ridges)


def test_contexts_are_folded_in_by_the_exact_solve():
    model = fit_implicit_als(ROWS, SMALL, 0)
    encoded = model.encode(NEW)
    for number in range(2):
        np.testing.assert_allclose(encoded[number], exact_row(NEW.row(number), model.item_vectors, SMALL), atol=2e-3)
    assert not encoded[2].any()


def test_enough_steps_reach_the_exact_solve_from_any_start():
    settings = AlsSettings(dim=12, unheard=0.1, regularization=0.01, steps=40)
    generator = np.random.default_rng(0)
    others = generator.standard_normal((ROWS.num_items, 12)).astype(np.float32)
    start = generator.standard_normal((len(ROWS), 12)).astype(np.float32)
    vectors = solved(ROWS.matrix(), others, others.T @ others, start, settings)
    for number in (0, 7, 200):
        np.testing.assert_allclose(vectors[number], exact_row(ROWS.row(number), others, settings), atol=1e-4)


def test_every_sweep_lowers_the_loss():
    losses = []
    for sweeps in (0, 1, 2, 4):
        settings = AlsSettings(dim=12, unheard=0.1, regularization=0.01, sweeps=sweeps, steps=8)
        model = fit_implicit_als(ROWS, settings, 0)
        losses.append(loss(model.encode(ROWS), model.item_vectors, settings))
    assert losses == sorted(losses, reverse=True)
    assert losses[1] < 0.99 * losses[0]


def test_planted_clusters_are_found():
    model = fit_implicit_als(ROWS, dataclasses.replace(SMALL, dim=6), 0)
    scores = model.score(NEW)
    assert_clusters_are_found(scores[:2], NEW.take(np.arange(2)))
    assert (scores.dtype, scores.shape) == (np.float32, (3, ROWS.num_items))
    np.testing.assert_array_equal(scores, model.encode(NEW) @ model.item_vectors.T)
    assert not model.item_vectors[-1].any()


def test_same_seed_gives_same_bytes_and_arrays_round_trip():
    first, again = (fit_implicit_als(ROWS, SMALL, 4) for _ in range(2))
    for name, array in first.to_arrays().items():
        assert array.tobytes() == again.to_arrays()[name].tobytes()
    back = ImplicitAls.from_arrays(first.to_arrays())
    assert back.settings == SMALL
    np.testing.assert_array_equal(back.score(NEW), first.score(NEW))
