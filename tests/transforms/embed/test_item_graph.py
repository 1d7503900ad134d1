from itertools import pairwise

import numpy as np
import pytest

from transforms.embed import item_graph
from transforms.embed.interactions import from_lists
from transforms.embed.item_graph import ItemGraph, ItemGraphSettings, fit_item_graph

ITEMS = 12
SETTINGS = ItemGraphSettings(reach=3, gap_decay=0.7, reverse=0.4, back=0.5, repeats=0.6)


def walks(count: int, seed: int) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, ITEMS - 1, draw.integers(1, 9)).tolist() for _ in range(count)]


ROWS, CONTEXTS = walks(25, 1), [*walks(10, 2), [], [ITEMS - 1], [3, 4, 3]]


def oracle(rows: list[list[int]], contexts: list[list[int]], s: ItemGraphSettings) -> np.ndarray:
    strengths = np.zeros((ITEMS, ITEMS))
    plays = np.maximum(np.bincount(np.concatenate(rows), minlength=ITEMS), 1)
    for row in rows:
        for at, item in enumerate(row):
            for gap, other in enumerate(row[at + 1 : at + 1 + s.reach]):
                strengths[item, other] += s.gap_decay**gap
                strengths[other, item] += s.reverse * s.gap_decay**gap
    strengths /= plays[:, None] ** s.from_popularity * plays**s.to_popularity
    scores = np.zeros((len(contexts), ITEMS))
    for number, context in enumerate(contexts):
        for item in set(context):
            scores[number] += s.back ** context[::-1].index(item) * strengths[item]
        scores[number, list(set(context))] *= s.repeats
    return scores


@pytest.mark.parametrize("at_once", [10, 4_000_000])
def test_strengths_follow_the_formula_whatever_is_counted_at_once(monkeypatch, at_once):
    monkeypatch.setattr(item_graph, "_PAIRS_AT_ONCE", at_once)
    scores = fit_item_graph(from_lists(ROWS, ITEMS), SETTINGS).score(from_lists(CONTEXTS, ITEMS))
    np.testing.assert_allclose(scores, oracle(ROWS, CONTEXTS, SETTINGS), rtol=1e-5, atol=1e-7)


def test_the_next_item_of_a_ring_comes_first():
    ring = list(range(ITEMS)) * 3
    graph = fit_item_graph(from_lists([ring], ITEMS), ItemGraphSettings())
    best = graph.score(from_lists([[a, b] for a, b in pairwise(ring)], ITEMS)).argmax(axis=1)
    assert best.tolist() == [(b + 1) % ITEMS for b in ring[1:]]


def test_nothing_follows_an_empty_context():
    graph = fit_item_graph(from_lists(ROWS, ITEMS), SETTINGS)
    assert not graph.score(from_lists([[]], ITEMS)).any()


def test_arrays_give_the_model_back():
    graph, contexts = fit_item_graph(from_lists(ROWS, ITEMS), SETTINGS), from_lists(CONTEXTS, ITEMS)
    again = ItemGraph.from_arrays(graph.to_arrays())
    assert again.settings == SETTINGS
    np.testing.assert_array_equal(again.score(contexts), graph.score(contexts))
