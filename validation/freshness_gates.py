"""How old what candidate sets rest on is, and how new what they hold is.

Ages are between logical dates and release dates, never from a clock: a date that is run again or backfilled is judged alike.
"""

from collections.abc import Iterator, Mapping

from schemas.manifest import CheckResult
from validation.checks import broken, graded, skipped
from validation.thresholds import CandidateSetThresholds

VECTORS_AGE, INDEXES, STRANGE_INDEXES = "vectors_age_hours", "indexes", "indexes_of_other_vectors"
"""Counters: hours from the date of the oldest vectors to that of the sets; indexes searched, and those not built from them."""
RELEASED, RELEASED_ELIGIBLE = "slots_released_days_ago:", "eligible_released_days_ago:"
"""Counters by whole days between an item's release and the sets: of slots, and of items that may be recommended."""
RELEASE_DAYS = 7
"""So many days of releases are counted, from 0."""
FRESHNESS_GATES = ("vectors_age", "index_of_vectors")
_FRESHEST = "freshest_item"
_AFTER_THE_BATCH = "an overlay rests on what the batch's sets rest on, and expires with them"


def judge_freshness(n: Mapping[str, int], limits: CandidateSetThresholds, overlaid: bool) -> Iterator[CheckResult]:
    """Yield whether vectors, index and items are of the day of the sets."""
    if overlaid:
        yield from (skipped(name, _AFTER_THE_BATCH) for name in (*FRESHNESS_GATES, _FRESHEST))
        return
    if missing := [name for name in (VECTORS_AGE, INDEXES, STRANGE_INDEXES) if name not in n]:
        why = f"the stage did not count {', '.join(missing)}"
        yield from (broken(name, "every figure counted", why) for name in FRESHNESS_GATES)
        return
    yield _vectors(n, limits)
    yield _index(n)
    yield _freshest(n, limits)


def _vectors(n: Mapping[str, int], limits: CandidateSetThresholds) -> CheckResult:
    hours, most = n[VECTORS_AGE], limits.vectors_age_hours_block
    message = (
        f"the oldest vectors or index they rest on, or the catalogue these were made from, are {hours:,} h older than the sets:"
        " what was released since cannot be found. Nothing is published; delete the item vectors of this date and run it again"
    )
    return graded("vectors_age", hours, f"B > {most:g} h", None, block=hours > most, message=message)


def _index(n: Mapping[str, int]) -> CheckResult:
    if not n[INDEXES]:
        return skipped("index_of_vectors", "vectors are searched without an index")
    strange = n[STRANGE_INDEXES]
    message = (
        "the index was not built from the item vectors that the sets rest on: delete its folder under data/index and run"
        " the date again"
    )
    return graded("index_of_vectors", strange, "0", n[INDEXES], block=strange > 0, message=message)


def _freshest(n: Mapping[str, int], limits: CandidateSetThresholds) -> CheckResult:
    held, may = (_by_age(n, prefix) for prefix in (RELEASED, RELEASED_ELIGIBLE))
    threshold = f"W without any of the last {RELEASE_DAYS} days"
    if sum(may.values()) < limits.fresh_least:
        return skipped(_FRESHEST, f"{sum(may.values()):,} items to recommend were released in {RELEASE_DAYS} days")
    freshest = next((age for age, slots in held.items() if slots), None)
    message = (
        f"none of the {sum(may.values()):,} items to recommend that were released in the last {RELEASE_DAYS} days is in any set,"
        f" the latest {next(age for age, items in may.items() if items)} days ago: do sources still see today's catalogue?"
    )
    return graded(_FRESHEST, freshest, threshold, sum(may.values()), warn=freshest is None, message=message)


def _by_age(n: Mapping[str, int], prefix: str) -> dict[int, int]:
    return {age: n.get(f"{prefix}{age}", 0) for age in range(RELEASE_DAYS)}
