"""How far a day is from the days before it, and how much of that is noise."""

import dataclasses
import datetime
import math
import statistics
from collections.abc import Callable, Mapping

_NORMAL = 1.4826
"""The median absolute deviation of a normal distribution times this is its standard deviation."""


@dataclasses.dataclass(frozen=True, slots=True)
class Drift:
    """A day's figure against the expected one.

    Attributes:
      change: `(value - expected) / expected`.
      noise: robust standard deviation of the recent days' changes, at least the sampling noise.
      basis: what `expected` is.
    """

    value: float
    expected: float
    change: float
    noise: float
    basis: str

    def beyond(self, limit: float, deviations: float) -> bool:
        """Say whether the change exceeds `limit` and is more than that many deviations of noise."""
        return abs(self.change) > limit and abs(self.change) > deviations * self.noise


def weekday_drift(
    daily: Mapping[str, float], date: str, min_days: int, chance: Callable[[float], float]
) -> Drift | None:
    """Compare a day with the median of its weekday in the last four weeks; None where the history is too short.

    Where not all four are there: with the median of the last seven days.

    Args:
      daily: figures by ISO date; days that are not in it are unknown.
      min_days: least number of earlier days.
      chance: gives the relative standard deviation that the expected figure has by chance alone.
    """
    month, week = _earlier(daily, date, 28), _earlier(daily, date, 7)
    same = [month[day] for day in month if (_day(date) - _day(day)).days % 7 == 0]
    if len(same) == 4:
        usual = {k: statistics.median(v for d, v in month.items() if _day(d).weekday() == k) for k in _weekdays(month)}
        changes = [value / usual[_day(d).weekday()] - 1 for d, value in month.items() if usual[_day(d).weekday()]]
        return _drift(daily.get(date, 0), statistics.median(same), changes, chance, "weekday in the last 4 weeks")
    return _against(daily, date, week, min_days, chance, "last 7 days")


def recent_drift(
    daily: Mapping[str, float], date: str, min_days: int, chance: Callable[[float], float]
) -> Drift | None:
    """Compare a day with the median of the last 28 days; None where the history is too short. See `weekday_drift`."""
    return _against(daily, date, _earlier(daily, date, 28), min_days, chance, "last 28 days")


def _against(
    daily: Mapping[str, float],
    date: str,
    earlier: Mapping[str, float],
    min_days: int,
    chance: Callable[[float], float],
    basis: str,
) -> Drift | None:
    if len(earlier) < min_days:
        return None
    expected = statistics.median(earlier.values())
    changes = [value / expected - 1 for value in earlier.values()] if expected else []
    return _drift(daily.get(date, 0), expected, changes, chance, f"{basis}, {len(earlier)} of them known")


def _drift(
    value: float, expected: float, changes: list[float], chance: Callable[[float], float], basis: str
) -> Drift | None:
    if not expected:
        return None
    middle = statistics.median(changes)
    noise = _NORMAL * statistics.median(abs(change - middle) for change in changes)
    return Drift(value, expected, value / expected - 1, max(noise, chance(expected)), f"median of the {basis}")


def earlier_days(daily: Mapping[str, object], date: str, days: int) -> list[str]:
    """Return the known dates among the `days` days before a date, in order."""
    first = (_day(date) - datetime.timedelta(days=days)).isoformat()
    return [day for day in sorted(daily) if first <= day < date]


def _earlier(daily: Mapping[str, float], date: str, days: int) -> dict[str, float]:
    return {day: daily[day] for day in earlier_days(daily, date, days)}


def poisson_noise(expected: float) -> float:
    """Return the relative standard deviation of a count."""
    return 1 / math.sqrt(expected) if expected > 0 else math.inf


def _weekdays(daily: Mapping[str, float]) -> set[int]:
    return {_day(date).weekday() for date in daily}


def _day(date: str) -> datetime.date:
    return datetime.date.fromisoformat(date)
