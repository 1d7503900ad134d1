"""Judge how much of a listener's set stays from one day to the next: of sets that are mixed up little, of stale ones all."""

from collections.abc import Mapping

from schemas.manifest import CheckResult
from validation.checks import broken, graded, percent, skipped
from validation.thresholds import CandidateSetThresholds

KEPT_USERS, KEPT_PPM, NOT_COMPARED = "kept_users", "kept_ppm", "kept_not_compared"
"""Counters: listeners looked at, the median share of their set that was in yesterday's in millionths, and 1 where there is none."""
BY_USER = "home"
"""The surface whose sets are of listeners."""
_NAME = "kept_since_yesterday"


def judge_kept(n: Mapping[str, int], surface: str, limits: CandidateSetThresholds) -> CheckResult:
    """Return whether sets change from day to day, and not altogether."""
    if surface != BY_USER:
        return skipped(_NAME, "its sets are of items in a market, not of listeners")
    if KEPT_USERS not in n:
        return broken(_NAME, "every figure counted", f"the stage did not count {KEPT_USERS}")
    if n.get(NOT_COMPARED):
        return skipped(_NAME, "no sets of the day before to compare with")
    if n[KEPT_USERS] < limits.kept_least_users:
        return skipped(
            _NAME, f"{n[KEPT_USERS]:,} listeners have sets of both days, {limits.kept_least_users} are needed"
        )
    share, least, most = n[KEPT_PPM] / 1e6, limits.kept_least_warn, limits.kept_most_warn
    why = (
        "listeners are given other sets than they had: were models, vectors or ids mixed up?"
        if share < least
        else "sets hardly change: are histories, models or charts those of another day?"
    )
    message = f"half of the listeners keep {percent(share)} or more of the candidates they had the day before: {why}"
    threshold = f"W < {percent(least)}, W > {percent(most)}"
    return graded(_NAME, share, threshold, n[KEPT_USERS], warn=not least <= share <= most, message=message)
