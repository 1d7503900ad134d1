import math
from collections import defaultdict

import numpy as np
import pytest

from transforms.embed.interactions import Interactions, from_lists
from transforms.embed.session_knn import SessionKnn, SessionKnnSettings, fit_session_knn

ITEMS = 30
SETTINGS = SessionKnnSettings(neighbours=8)


def walks(count: int, seed: int) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, ITEMS - 1, draw.integers(1, 25)).tolist() for _ in range(count)]


ROWS, CONTEXTS = walks(60, 1), [*walks(20, 2), [], [ITEMS - 1], [3, 3, 3]]


def oracle(rows: list[list[int]], context: list[int], s: SessionKnnSettings) -> np.ndarray:
    """Votes by the formulas alone, every row looked at for every context."""
    counts = [max(1, sum(item in row for row in rows)) for item in range(ITEMS)]
    rare = [math.log((len(rows) + 1) / count) for count in counts]
    age = {item: len(context) - 1 - at for at, item in enumerate(context)}
    likeness = {}
    for number, row in enumerate(rows):
        shared = set(row) & set(age)
        weight = sum(math.exp(-age[i] / s.item_decay) * rare[i] ** s.rarity for i in shared)
        likeness[number] = weight * math.exp(-s.staleness * (len(rows) - 1 - number) / len(rows))
    chosen = sorted((n for n in likeness if likeness[n] > 0), key=lambda n: (likeness[n], n))[-s.neighbours :]
    votes: defaultdict[int, float] = defaultdict(float)
    for number in chosen:
        row = rows[number]
        for at, item in enumerate(row):
            for to, other in enumerate(row):
                if item in age and to != at and abs(to - at) <= 16:
                    gap = abs(to - at) - 1
                    near = math.exp(-gap / 4) + s.follower * (gap == 0) if to > at else s.behind * math.exp(-gap / 3)
                    told = math.exp(-age[item] / s.vote_decay) * rare[item] ** (s.rarity / 2)
                    votes[other] += likeness[number] ** s.power * told * near
    factors = [counts[i] ** -s.popularity * (s.repeats if i in age else 1) for i in range(ITEMS)]
    return np.array([votes[i] * factors[i] for i in range(ITEMS)], np.float32)


@pytest.fixture(scope="module")
def whole() -> SessionKnn:
    return fit_session_knn(from_lists(ROWS, ITEMS), SETTINGS)


@pytest.fixture(scope="module")
def contexts() -> Interactions:
    return from_lists(CONTEXTS, ITEMS)


def test_votes_follow_the_formulas(whole, contexts):
    expected = np.stack([oracle(ROWS, context, SETTINGS) for context in CONTEXTS])
    assert (expected > 0).any(axis=1).sum() == len(CONTEXTS) - 2
    np.testing.assert_allclose(whole.score(contexts), expected, rtol=1e-4)


def test_an_empty_context_and_an_unheard_item_find_nothing(whole, contexts):
    nothing = [CONTEXTS.index([]), CONTEXTS.index([ITEMS - 1])]
    assert not whole.score(contexts)[nothing].any()
    items, votes = whole.top(contexts, 5)
    assert (items[nothing] == -1).all()
    assert not votes[nothing].any()


def test_the_top_is_the_best_of_all_scores(whole, contexts):
    scores = whole.score(contexts)
    items, votes = whole.top(contexts, 5)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    best = np.take_along_axis(scores, order, 1)
    np.testing.assert_array_equal(votes, best)
    np.testing.assert_array_equal(items, np.where(best > 0, order, -1))


def test_of_equally_like_rows_the_newer_is_kept():
    even = SessionKnnSettings(neighbours=1, staleness=0.0)
    model = fit_session_knn(from_lists([[0, 1], [0, 2], [3]], 4), even)
    assert model.top(from_lists([[0]], 4), 3)[0].tolist() == [[2, -1, -1]]


def test_arrays_give_the_model_back(whole, contexts):
    again = SessionKnn.from_arrays(whole.to_arrays())
    assert again.settings == whole.settings
    np.testing.assert_array_equal(again.score(contexts), whole.score(contexts))


def test_neighbours_say_how_many_how_like_how_new_and_in_what_order():
    rows = [[5, 1, 2, 3], [2, 3], [9, 3, 2], [7, 8]]
    model = fit_session_knn(from_lists(rows, 10), SessionKnnSettings(staleness=0.0))
    told = model.features(from_lists([[1, 2], []], 10), from_lists([[3, 7], [3]], 10))
    likeness = (model.neighbours(from_lists([[1, 2]], 10))[0, -3:] >> 32).astype(np.int32).view(np.float32)
    share = likeness / likeness[-1]
    assert told["holders"].tolist() == [3, 0, 0]
    assert told["newest"].tolist() == [np.float32(2 / 4), 0, 0]
    assert told["run"].tolist() == [2, 0, 0]
    np.testing.assert_allclose(told["like"], [share.sum(), 0, 0], rtol=1e-6)
    np.testing.assert_allclose(told["best"], [1, 0, 0])
    np.testing.assert_allclose(told["after"], [share[2] + share[0], 0, 0], rtol=1e-6)
    np.testing.assert_allclose(told["ahead"], [share[2] + share[0], 0, 0], rtol=1e-6)
    assert told["gap"].tolist() == [1, 0, 0]
    np.testing.assert_allclose(told["match"], [1, 1, 0], rtol=1e-6)
