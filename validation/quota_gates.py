"""Judge whether sources get the slots that the policy grants them before all others."""

from collections.abc import Iterator

from schemas.manifest import CheckResult, Manifest
from validation.checks import broken, graded, percent, skipped
from validation.thresholds import CandidateSetThresholds

GRANTED, PLACED = "granted_by_source:", "placed_by_source:"
"""Counters by source, over all records: slots its minimum grants it, no more than it proposed, and those of what it proposed."""
_NAME = "least_slots"


def judge_quotas(manifest: Manifest, limits: CandidateSetThresholds) -> Iterator[CheckResult]:
    """Yield, for each source with a minimum, whether it got that many slots where it proposed as many.

    Beyond minima calibrated chances decide, up to maxima that nothing exceeds: a target is a hint, and no share to be held to.
    """
    n, sources = manifest.counters, manifest.config.get("policy", {}).get("sources", [])
    least = {one["source_id"]: one["minimum"] for one in sources if one["minimum"]}
    if missing := [f"{kind}{name}" for name in least for kind in (GRANTED, PLACED) if f"{kind}{name}" not in n]:
        yield broken(_NAME, "every figure counted", f"the stage did not count {', '.join(missing)}")
        return
    if not least or sum(least.values()) * n["sets"] > n["slots"]:
        room = f"sets have {n['slots'] / n['sets']:.3g} slots, the minima of their sources are {sum(least.values())}"
        yield skipped(_NAME, f"no room for every minimum: {room}")
        return
    for name in sorted(least):
        yield _judged(name, n[f"{GRANTED}{name}"], n[f"{PLACED}{name}"], n["slots"], limits)


def _judged(source: str, granted: int, placed: int, slots: int, limits: CandidateSetThresholds) -> CheckResult:
    name, most = f"{_NAME}:{source}", limits.slots_below_least_warn
    if granted < limits.source_share * slots:
        return skipped(name, f"it proposed {granted:,} items within its minimum for {slots:,} slots")
    message = (
        f"{source} proposed what is in {placed:,} slots, and its minimum grants it {granted:,} of what it proposed: do filters or"
        " caps take the rest out?"
    )
    short = placed / granted - 1
    return graded(name, short, f"W < -{percent(most)}", granted, warn=short < -most, message=message)
