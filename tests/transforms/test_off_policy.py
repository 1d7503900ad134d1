"""Estimates against worlds whose truth is known, with slots drawn by the sampler that draws them in the sets."""

import dataclasses

import numpy as np
import pytest

from schemas.hashing import mix64
from transforms.explore import draw
from transforms.off_policy import LEAST_EFFECTIVE, Estimates, Sums, TooFewOutcomes, estimate

WORLDS, USERS, SLOTS, ITEMS, TYPES = 300, 600, 5, 40, 6


@dataclasses.dataclass
class World:
    """Users of a few types, who like items differently, and a policy that knows some of it."""

    truth: float
    cluster: np.ndarray
    reward: np.ndarray
    logged: np.ndarray
    target: np.ndarray


def world(seed: int, draw=draw) -> World:
    dice = np.random.default_rng(seed)
    liking = np.minimum(dice.beta(1, 4, (TYPES, ITEMS)), 0.75)
    policy = np.exp(3 * liking + dice.normal(0, 0.5, liking.shape))
    policy /= policy.sum(axis=1, keepdims=True)
    share = dice.dirichlet(np.ones(TYPES))
    types = dice.choice(TYPES, USERS, p=share)
    seeds = mix64(np.arange(USERS, dtype=np.uint64), np.full(USERS, seed, np.uint64))
    bounds = np.tile([0, 7, 20, ITEMS], (USERS, 1))
    shown = draw(seeds, bounds, SLOTS)
    mood = dice.uniform(0.7, 1.3, USERS)[:, None]
    reward = (dice.random(shown.shape) < liking[types[:, None], shown] * mood).astype(float)
    logged = np.full(shown.size, 1 / ITEMS)  # propensity SLOTS / ITEMS, per slot
    truth = float(share @ (policy * liking).sum(axis=1))
    return World(
        truth, np.repeat(np.arange(USERS), SLOTS), reward.ravel(), logged, policy[types[:, None], shown].ravel()
    )


def sums(one: World, rows=slice(None), clip: float = 3.0) -> Sums:
    return Sums.of(one.cluster[rows], one.reward[rows], one.logged[rows], one.target[rows], clip, 1.0)


@pytest.fixture(scope="module")
def made() -> list[tuple[World, Estimates]]:
    worlds = [world(seed) for seed in range(WORLDS)]
    return [(one, estimate(sums(one))) for one in worlds]


@pytest.mark.parametrize("name", ["ips", "snips", "clipped"])
def test_intervals_cover_the_truth(made, name):
    intervals = [(one.truth, getattr(found, name)) for one, found in made]
    covered = [one.low <= truth <= one.high for truth, one in intervals]
    assert np.mean(covered) >= 0.93
    assert name == "clipped" or np.mean(covered) <= 0.985, "wider than they say"


def test_estimates_are_right_on_average_and_clipping_is_low(made):
    errors = {
        name: [getattr(found, name).value - one.truth for one, found in made] for name in ("ips", "snips", "clipped")
    }
    for name in ("ips", "snips"):
        assert abs(np.mean(errors[name])) < 4 * np.std(errors[name]) / np.sqrt(WORLDS)
    assert np.mean(errors["clipped"]) < -0.001


def test_clipping_above_every_weight_changes_nothing():
    found = estimate(sums(world(1), clip=1e6))
    assert found.clipped.value == pytest.approx(found.ips.value)


def first_half_twice_as_often(seeds, bounds, slots):
    """Draw as if every item of the first half were there twice."""
    return draw(seeds, np.tile([0, ITEMS * 3 // 2], (len(seeds), 1)), slots) % ITEMS


def test_wrong_propensities_miss_the_truth():
    worlds = [world(seed, first_half_twice_as_often) for seed in range(200)]
    found = [estimate(sums(one)).ips for one in worlds]
    covered = [one.low <= wrong.truth <= one.high for wrong, one in zip(worlds, found, strict=True)]
    assert np.mean(covered) < 0.9


def test_parts_add_up_to_the_whole():
    one = world(2)
    half = slice(0, USERS * SLOTS // 2), slice(USERS * SLOTS // 2, None)
    whole, parts = estimate(sums(one)), estimate(sums(one, half[0]) + sums(one, half[1]))
    assert dataclasses.astuple(whole.snips) == pytest.approx(dataclasses.astuple(parts.snips))
    assert (whole.rows, whole.clusters) == (parts.rows, parts.clusters) == (USERS * SLOTS, USERS)
    assert whole.effective == pytest.approx(parts.effective)


def test_equal_weights_are_the_plain_mean_with_its_standard_error():
    reward = np.array([0.0, 1.0] * 200)
    found = estimate(Sums.of(np.arange(400), reward, np.full(400, 0.1), np.full(400, 0.1), 5.0, 1.0))
    assert found.effective == pytest.approx(400)
    assert found.ips == found.snips
    assert found.ips.value == pytest.approx(0.5)
    assert found.ips.high - 0.5 == pytest.approx(1.959964 * reward.std(ddof=1) / 20)


def test_rows_of_one_user_count_as_one():
    """Ten equal rows of each user say no more than one of them."""
    reward = np.repeat(np.array([0.0, 1.0] * 100), 10)
    half = np.full(2_000, 0.5)
    wide = estimate(Sums.of(np.repeat(np.arange(200), 10), reward, half, half, 5.0, 1.0))
    once = estimate(Sums.of(np.arange(200), reward[::10], half[::10], half[::10], 5.0, 1.0))
    assert dataclasses.astuple(wide.ips) == pytest.approx(dataclasses.astuple(once.ips))


def test_too_few_effective_rows_are_refused():
    target = np.append(np.full(5_000, 0.001), 0.9)
    rows = np.arange(5_001), np.ones(5_001), np.full(5_001, 0.01), target
    with pytest.raises(
        TooFewOutcomes, match=r"effective sample size of 42\.7, from 5,001 rows of 5,001 users .* below 100"
    ):
        estimate(Sums.of(*rows, 10.0, 1.0))
    assert estimate(Sums.of(*(one[:-1] for one in rows), 10.0, 1.0)).effective > LEAST_EFFECTIVE
    with pytest.raises(TooFewOutcomes, match="of 1 users or seeds"):
        estimate(Sums.of(np.zeros(500), *(one[:500] for one in rows[1:]), 10.0, 1.0))


def test_a_policy_nothing_was_drawn_for_is_refused():
    with pytest.raises(TooFewOutcomes, match=r"effective sample size of 0\.0"):
        estimate(Sums.of(np.arange(9), np.ones(9), np.full(9, 0.5), np.zeros(9), 10.0, 1.0))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"logged": [0.5, 0.0]}, "expected logged > 0, came 0: .* display probability"),
        ({"logged": [0.5, 1.5]}, "expected logged from 0 to 1, came 1.5"),
        ({"target": [0.5, np.nan]}, "expected target from 0 to 1, came nan"),
        ({"reward": [0.5, 3.0]}, "expected reward from 0 to 1, came 3"),
        ({"clip": 0.0}, "expected clip > 0 and highest > 0, came 0 and 1"),
    ],
)
def test_rows_out_of_range_are_refused(changed, said):
    rows = {
        "cluster": [1, 2],
        "reward": [0, 1],
        "logged": [0.5, 0.5],
        "target": [0.5, 0.5],
        "clip": 5.0,
        "highest": 1.0,
    }
    given = {name: np.array(one) if isinstance(one, list) else one for name, one in (rows | changed).items()}
    with pytest.raises(ValueError, match=said):
        Sums.of(**given)


def test_sums_of_different_bounds_do_not_add():
    with pytest.raises(ValueError, match="clip 3 and highest 1 do not add to those with clip 4"):
        sums(world(0)) + sums(world(1), clip=4.0)
