import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.embed.interactions import from_lists
from transforms.evaluate import NOBODY, hits, top_items, without


def by_hand(ranked: list[int], wanted: set[int], k: int) -> tuple[float, ...]:
    """Recall, precision, hit rate, nDCG and reciprocal rank of one ranking, one place after the other."""
    found = [place for place, item in enumerate(ranked[:k], 1) if item in wanted]
    gain = sum(1 / math.log2(place + 1) for place in found)
    best = sum(1 / math.log2(place + 1) for place in range(1, min(k, len(wanted)) + 1))
    return len(found) / len(wanted), len(found) / k, float(bool(found)), gain / best, 1 / found[0] if found else 0.0


@given(st.data())
def test_metrics_are_those_counted_by_hand(data):
    num_items, k = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 12))
    ranked = data.draw(st.permutations(range(num_items)))
    wanted = data.draw(st.sets(st.integers(0, num_items - 1), min_size=1))
    found = hits(np.array([ranked], np.int32), from_lists([sorted(wanted)], num_items))
    metrics = found.recall, found.precision, found.hit_rate, found.ndcg, found.reciprocal_rank
    ours = [float(metric(k)[0]) for metric in metrics]
    assert ours == pytest.approx(by_hand(list(ranked), wanted, k), abs=1e-12)


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 6))
def test_the_best_come_first_and_of_equals_the_lower_number(rows, k):
    scores = np.array(rows, np.float32)
    for found, row in zip(top_items(scores, k), rows, strict=True):
        assert [row[i] for i in found] == sorted(row, reverse=True)[:k]
        assert all(a < b for a, b in itertools.pairwise(found) if row[a] == row[b])


def test_what_nobody_scored_is_nobody_and_no_hit():
    ranked = top_items(np.array([[-np.inf, 1.0, -np.inf]], np.float32), 2)
    assert ranked.tolist() == [[1, NOBODY]]
    assert hits(ranked, from_lists([[0]], 3)).recall(2).tolist() == [0.0]


def test_a_context_keeps_what_it_holds_out_of_its_ranking():
    scores = without(np.ones((2, 3), np.float32), from_lists([[0, 2], []], 3))
    assert scores.tolist() == [[-np.inf, 1, -np.inf], [1, 1, 1]]


def test_a_context_without_targets_is_refused():
    with pytest.raises(ValueError, match="shortest targets 0"):
        hits(np.zeros((1, 2), np.int32), from_lists([[]], 3))
