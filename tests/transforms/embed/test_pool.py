import numpy as np
import pytest

from transforms.embed.interactions import Interactions, from_lists
from transforms.embed.pool import Pool, build_pool, join_pools, ranks

SCORES = {
    "one": np.array([[5, 4, 3, 0, 0, 0], [0, 0, 0, 0, 0, 0]], np.float32),
    "two": np.array([[-1, -2, -3, -4, -np.inf, -6], [0, 0, 0, 1, -np.inf, 2]], np.float32),
}
CONTEXTS = from_lists([[0], [4, 4]], 6)


class Ages:
    def features(self, contexts: Interactions, candidates: Interactions) -> dict[str, np.ndarray]:
        return {"length": contexts.lengths[candidates.rows].astype(np.float32)}


@pytest.fixture(scope="module")
def pool() -> Pool:
    return build_pool(CONTEXTS, SCORES, 2, {"ages": Ages()})


def column(pool: Pool, name: str) -> list[float]:
    return pool.features[:, pool.names.index(name)].tolist()


def test_candidates_are_the_united_best(pool):
    assert [pool.candidates.row(r).tolist() for r in range(2)] == [[0, 1], [3, 5]]


def test_what_scores_nothing_or_must_not_be_proposed_is_no_candidate():
    pool = build_pool(CONTEXTS, SCORES, 6, {})
    assert [pool.candidates.row(r).tolist() for r in range(2)] == [[0, 1, 2, 3, 5], [3, 5]]


def test_scores_become_features(pool):
    assert column(pool, "one.score") == [5, 4, 0, 0]
    assert column(pool, "two.score") == [-1, -2, 1, 2]
    assert column(pool, "one.share") == [1, 0.5, 0, 0]
    np.testing.assert_allclose(column(pool, "one.rank"), [0, np.log(2), 0, 0])
    np.testing.assert_allclose(column(pool, "two.rank"), [0, np.log(2), np.log(2), 0], rtol=1e-6)
    assert column(pool, "ages.length") == [1, 1, 2, 2]


def test_ranks_start_anew_in_every_context_and_ties_go_to_the_lower_item():
    candidates = from_lists([[1, 4, 5], [], [0, 2]], 6)
    assert ranks(candidates, np.array([1, 3, 3, 7, 8], np.float32)).tolist() == [2, 0, 1, 1, 0]


def test_the_top_keeps_contexts_without_candidates():
    pool = Pool(from_lists([[1, 4, 5], [], [0, 2]], 6), np.arange(5, dtype=np.float32)[:, None], ("a",))
    few = pool.top(np.array([1, 3, 2, 7, 8]), 2)
    assert [few.candidates.row(r).tolist() for r in range(3)] == [[4, 5], [], [0, 2]]
    assert few.features[:, 0].tolist() == [1, 2, 3, 4]
    assert pool.ranking(np.array([1, 3, 2, 7, 8]), 2).tolist() == [[4, 5], [-1, -1], [2, 0]]


def test_hits_are_targets_of_the_same_context(pool):
    assert pool.hits(from_lists([[1, 5], [5]], 6)).tolist() == [False, True, False, True]


def test_joined_pools_lie_one_after_the_other(pool):
    twice = join_pools([pool, pool])
    assert [twice.candidates.row(r).tolist() for r in range(4)] == [[0, 1], [3, 5], [0, 1], [3, 5]]
    np.testing.assert_array_equal(twice.features[4:], pool.features)


def test_features_must_match_candidates_and_names():
    with pytest.raises(ValueError, match=r"shape \(2, 1\), candidates and names of \(2, 2\)"):
        Pool(from_lists([[0, 1]], 2), np.zeros((2, 1), np.float32), ("a", "b"))
