import numpy as np
import pytest

from transforms.embed.cooccurrence import cooccurrence_factors, mutual_information
from transforms.embed.interactions import from_lists


def two_crowds(seed=0):
    """Items 0 to 9 are listened to together, and 10 to 19; item 20 alone."""
    rng = np.random.default_rng(seed)
    return from_lists([(rng.permutation(10)[:6] + 10 * (row % 2)).tolist() for row in range(60)] + [[20], []], 21)


def test_items_listened_to_together_lie_together():
    factors = cooccurrence_factors(two_crowds(), 5, 4, 0)
    cosines = factors @ factors.T
    assert cosines[:10, :10].min() > cosines[:10, 10:20].max() + 0.2


def test_vectors_have_length_one_or_none():
    lengths = np.linalg.norm(cooccurrence_factors(two_crowds(), 5, 4, 0), axis=1)
    np.testing.assert_allclose(lengths[:20], 1.0, rtol=1e-5)
    assert lengths[20] == 0


def test_directions_there_are_not_are_zeros():
    factors = cooccurrence_factors(from_lists([[0, 1], [1, 2]], 3), 2, 8, 0)
    assert factors.shape == (3, 8)
    assert not factors[:, 3:].any()


def test_information_is_that_of_the_counts():
    """Two pairs that never mix: p(pair) / (p(one) p(other) smoothed) is 4 for each, and the context powers agree."""
    information = mutual_information(from_lists([[0, 1], [2, 3]], 4), 5).toarray()
    expected = np.log(1 / 0.25)
    assert information[0, 1] == pytest.approx(expected)
    assert information[2, 3] == pytest.approx(expected)
    assert information[0, 2:].tolist() == [0, 0]


def test_nearer_items_count_for_more_and_far_ones_not_at_all():
    some = from_lists([[0, 1, 2, 3], [3, 4]] * 3, 5)
    assert mutual_information(some, 2)[0, 3] == 0
    assert mutual_information(some, 3)[0, 1] > mutual_information(some, 3)[0, 3]


def test_the_same_seed_gives_the_same_bytes():
    one, same = (cooccurrence_factors(two_crowds(), 5, 4, 3) for _ in range(2))
    assert one.tobytes() == same.tobytes()
