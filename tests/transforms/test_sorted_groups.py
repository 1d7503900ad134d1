import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.sorted_groups import ranks, runs_in_order


@given(
    groups=st.lists(st.lists(st.sampled_from([-2.5, -0.0, 0.0, 1e-30, 3.0, 3e38]), min_size=1, max_size=20), max_size=9)
)
@settings(deadline=None)
def test_a_rank_is_the_place_in_the_group_by_score_and_then_by_order(groups):
    begins = np.array([n == 0 for one in groups for n in range(len(one))], bool)
    best_first = [sorted(range(len(one)), key=lambda n, one=one: (-one[n], n)) for one in groups]
    wanted = [order.index(n) for order in best_first for n in range(len(order))]
    found = ranks(begins, np.array([score for one in groups for score in one], np.float32))
    assert found.dtype == np.int32
    assert found.tolist() == wanted


def test_what_is_no_number_is_the_greatest():
    assert ranks(np.array([True, False, False]), np.array([np.inf, np.nan, 1], np.float32)).tolist() == [1, 0, 2]


@pytest.mark.parametrize("num_groups", [2, 2**16])
def test_groups_too_many_and_too_long_for_one_integer_are_ranked_alike(num_groups):
    """17 bits for the group, 32 for the score and 17 for the place are more than there are."""
    scores = np.random.default_rng(0).integers(0, 1_000, 2**17 + num_groups).astype(np.float32)
    begins = np.zeros(len(scores), bool)
    begins[0] = begins[-num_groups + 1 :] = True
    found = ranks(begins, scores)
    assert (found[begins] == 0)[1:].all()
    long = slice(0, len(scores) - num_groups + 1)
    np.testing.assert_array_equal(np.argsort(found[long]), np.argsort(-scores[long], kind="stable"))


def test_runs_are_put_in_order_and_their_rows_stay_in_theirs():
    assert runs_in_order(np.array([2, 0, 1]), np.array([0, 2, 3]), 6).tolist() == [3, 4, 5, 0, 1, 2]
