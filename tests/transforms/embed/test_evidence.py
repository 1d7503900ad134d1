import math

import numpy as np
import pytest

from transforms.embed import evidence as evidence_module
from transforms.embed.evidence import Evidence, fit_evidence
from transforms.embed.interactions import from_lists

ROWS = [[0, 1, 2], [0, 1, 1], [3], [1, 0]]
CONTEXTS = from_lists([[0], [1, 0, 1], []], 5)
CANDIDATES = from_lists([[1, 2, 4], [0, 1], [1]], 5)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence_module, "_FEW", 0)
        return fit_evidence(from_lists(ROWS, 5))


@pytest.fixture(scope="module")
def features(evidence) -> dict[str, list[float]]:
    found = evidence.features(CONTEXTS, CANDIDATES)
    return {name: np.asarray(values, np.float32).round(5).tolist() for name, values in found.items()}


def logs(*counts: float) -> list[float]:
    return np.log1p(np.array(counts, np.float32)).round(5).tolist()


def test_plays_and_repeats_are_those_of_the_rows(features):
    assert features["plays"] == logs(4, 1, 0, 3, 4, 4)
    assert features["repeats"] == pytest.approx([1 / 5, 0, 0, 0, 1 / 5, 1 / 5])


def test_few_plays_are_all_alike():
    assert fit_evidence(from_lists([[0], [1, 1, 1, 1, 1, 1]], 3)).plays.tolist() == [5, 6, 5]


def test_newer_rows_make_an_item_later():
    evidence = fit_evidence(from_lists([[0]] * 50 + [[1]] * 50, 2))
    assert evidence.plays.tolist() == [50, 50]
    assert evidence.late[1] > 100 * evidence.late[0]


def test_a_context_tells_how_often_and_how_lately_it_has_a_candidate(features):
    assert features["times"] == [0, 0, 0, 1, 2, 0]
    assert features["steps"] == [99, 99, 99, 1, 0, 99]
    assert features["length"] == [1, 1, 1, 3, 3, 0]
    assert features["distinct"] == pytest.approx([1, 1, 1, 2 / 3, 2 / 3, 0], abs=1e-4)


def test_a_context_tells_what_followed_its_last_item_in_it(evidence):
    contexts, candidates = from_lists([[1, 0, 1, 0, 2, 0], [0, 0], [3]], 5), from_lists([[1, 2, 3], [0, 1], [3]], 5)
    assert evidence.features(contexts, candidates)["followed"].tolist() == [1, 1, 0, 1, 0, 0]


def test_followers_are_counted_from_each_of_the_last_items(features):
    assert features["follows0"] == logs(2, 0, 0, 1, 1, 0)
    assert features["follows1"] == logs(0, 0, 0, 0, 2, 0)
    assert features["leads0"] == logs(1, 0, 0, 2, 1, 0)
    assert features["follows_share"] == pytest.approx([2 / 4, 0, 0, 1 / 5, 1 / 5, 0])


def test_nearness_counts_pairs_of_either_order(features):
    assert features["near"][:3] == logs(4, 1, 0)
    assert features["near_items"] == [1, 1, 0, 2, 3, 0]
    assert features["surprise"][0] == pytest.approx(math.log(4.5 / (3 * 4 / 9 + 0.5)), abs=1e-4)


def test_contexts_may_all_be_empty(evidence):
    found = evidence.features(from_lists([[]], 5), from_lists([[1, 2]], 5))
    assert found["steps"].tolist() == [99, 99]
    assert not found["times"].any()


def test_arrays_give_the_counts_back(evidence):
    again = Evidence.from_arrays(evidence.to_arrays())
    for name, values in again.features(CONTEXTS, CANDIDATES).items():
        np.testing.assert_array_equal(values, evidence.features(CONTEXTS, CANDIDATES)[name])
