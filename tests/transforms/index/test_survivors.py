"""What is collected, beside plain loops."""

import numpy as np
import pytest

from transforms.compiled import AT_ONCE, compiled, lowest, reaching
from transforms.index.survivors import Barred, Pool, collect


@compiled
def asked(numbers, first, least):
    return reaching(numbers, first, least)


@compiled
def ends(numbers):
    return [lowest(one) for one in numbers]


@pytest.mark.parametrize("type_", [np.int16, np.int32])
def test_a_bit_says_which_integers_reach_a_limit(type_):
    rng, told = np.random.default_rng(3), np.iinfo(type_)
    numbers = rng.integers(told.min, told.max, (5, 2 * AT_ONCE + 3), type_, endpoint=True)
    numbers[0, :3] = told.min, told.max, 0
    for first in (0, 1, 2, 131, 131 * 4):
        some = numbers.ravel()[first : first + AT_ONCE]
        for least in (told.min, -1, 0, int(some[7]), told.max):
            expected = sum(1 << n for n, one in enumerate(some.tolist()) if one >= least)
            assert asked(numbers, first, type_(least)) == expected


def test_the_lowest_bit_is_found():
    assert ends(np.array([1 << n | 1 << 63 for n in range(64)], np.uint64)) == list(range(64))


@pytest.mark.parametrize("type_", [np.int16, np.int32])
@pytest.mark.parametrize("size", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("masked", [True, False])
def test_what_reaches_its_limit_and_is_not_barred_is_collected(type_, size, masked):
    """Bounds are bits of floats: what is below 0 is in the order of its magnitude."""
    rng, top = np.random.default_rng(size), np.iinfo(type_).max
    wide = rng.normal(0.2, 1, (7, size)).astype(np.float32).view(np.int32)
    bounds = (wide >> (32 - 8 * np.dtype(type_).itemsize)).astype(type_)
    ordered = np.where(bounds < 0, bounds ^ top, bounds)
    least = np.array([np.sort(own)[size // 2] for own in ordered], type_)
    least[0], least[1] = np.iinfo(type_).min, top
    masks = rng.random((2, 10 + size)) < 0.7 if masked else np.empty((1, 0), bool)
    places = [np.flatnonzero(rng.random(10 + size) < 0.2) for _ in least]
    starts = np.append(0, np.cumsum([len(one) for one in places]))
    mask_of = np.arange(len(least)) % len(masks)
    barred = Barred(masks, mask_of, np.concatenate(places), starts)
    pool = Pool.of(len(least), size, type_, barred)
    collect(bounds, least, 10, barred, pool)
    for q, limit in enumerate(least):
        expected = [
            (10 + j, ordered[q, j]) for j in range(size)
            if ordered[q, j] >= limit and 10 + j not in places[q] and (not masked or masks[mask_of[q], 10 + j])
        ]  # fmt: skip
        n = pool.counts[q]
        assert list(zip(pool.places[q, :n].tolist(), pool.bounds[q, :n].tolist(), strict=True)) == expected
