import datetime
import math

import pytest

from validation.drift import earlier_days, poisson_noise, recent_drift, weekday_drift

DATE = "2026-03-31"


def days_before(values: dict[int, float]) -> dict[str, float]:
    day = datetime.date.fromisoformat(DATE)
    return {(day - datetime.timedelta(days=n)).isoformat(): value for n, value in values.items()}


def no_chance(expected: float) -> float:
    return 0.0


def test_four_same_weekdays_are_the_reference():
    daily = days_before(dict.fromkeys(range(1, 29), 1000.0) | {0: 300.0, 7: 400.0, 14: 410.0, 21: 390.0, 28: 100.0})
    drift = weekday_drift(daily, DATE, 4, no_chance)
    assert drift.expected == 395.0
    assert drift.change == pytest.approx(300 / 395 - 1)
    assert drift.basis == "median of the weekday in the last 4 weeks"


def test_seven_days_are_the_reference_where_a_weekday_is_missing():
    daily = days_before({n: 100.0 * n for n in range(8)} | {14: 9e9, 21: 9e9})
    drift = weekday_drift(daily, DATE, 4, no_chance)
    assert drift.expected == 400.0
    assert drift.change == -1.0


def test_too_few_days_are_no_reference():
    daily = days_before({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 8: 1.0})
    assert weekday_drift(daily, DATE, 4, no_chance) is None
    assert weekday_drift(daily, DATE, 3, no_chance) is not None
    assert recent_drift(daily, DATE, 4, no_chance) is not None
    assert recent_drift(daily, DATE, 5, no_chance) is None


def test_noise_is_the_scaled_median_absolute_deviation_of_the_changes():
    drift = recent_drift(days_before({0: 100.0, 1: 90.0, 2: 100.0, 3: 100.0, 4: 120.0, 5: 110.0}), DATE, 4, no_chance)
    assert drift.noise == pytest.approx(1.4826 * 0.1)


def test_noise_is_at_least_what_chance_gives():
    drift = recent_drift(days_before(dict.fromkeys(range(6), 100.0)), DATE, 4, poisson_noise)
    assert drift.noise == 0.1


def test_beyond_needs_size_and_significance():
    drift = recent_drift(days_before({0: 70.0, 1: 100.0, 2: 100.0, 3: 100.0, 4: 100.0}), DATE, 4, lambda expected: 0.06)
    assert drift.beyond(0.25, 4)
    assert not drift.beyond(0.25, 6)
    assert not drift.beyond(0.31, 1)


def test_an_expectation_of_nothing_says_nothing():
    assert recent_drift(days_before({0: 5.0, 1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}), DATE, 4, no_chance) is None


def test_earlier_days_exclude_the_date_and_what_is_older():
    daily = days_before({0: 1, 1: 1, 7: 1, 8: 1, -1: 1})
    assert earlier_days(daily, DATE, 7) == ["2026-03-24", "2026-03-30"]


def test_poisson_noise():
    assert poisson_noise(400) == 0.05
    assert poisson_noise(0) == math.inf
