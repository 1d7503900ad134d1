"""Whether listeners are offered less than those who are held out: what a feedback loop takes from the first alone.

    H = log2 N - sum(c log2 c) / N     entropy in bits of the slots of an arm, c of N by item (Shannon 1948)
    D = 2 ^ H                          effective number of items: as many, offered alike, have that entropy (Jost 2006)

D of both arms grows with the catalogue and shrinks at Christmas; D of one over that of the other does not. It is compared with
four weeks ago, because a loop narrows what is offered by a little every day.
"""

from collections.abc import Mapping

from schemas.manifest import CheckResult
from validation.checks import graded, percent, skipped
from validation.thresholds import CandidateSetThresholds

OTHERS, HELD_OUT = "others", "held_out"
ARMS = (OTHERS, HELD_OUT)
OFFERED, OFFERED_MILLIBITS = "offered:", "offered_millibits:"
"""Counters by arm, of listeners with a history: slots, and the sum over items of c log2 c in thousandths of a bit."""
ARM_COUNTERS = tuple(f"{kind}{arm}" for kind in (OFFERED, OFFERED_MILLIBITS) for arm in ARMS)
_NAME = "arms_in_weeks"


def judge_arms(n: Mapping[str, int], weeks_ago: Mapping[str, int], limits: CandidateSetThresholds) -> CheckResult:
    """Return whether the effective number of items of the others fell, over that of who is held out.

    Args:
      weeks_ago: the same counters of then.
    """
    for counted, when in ((n, "are held out"), (weeks_ago, "were held out four weeks ago")):
        slots = counted.get(OFFERED + HELD_OUT, 0)
        if slots < limits.arms_least_slots or not counted.get(OFFERED + OTHERS):
            return skipped(_NAME, f"listeners with {slots:,} slots {when}, {limits.arms_least_slots:,.0f} are needed")
    now, then = ({arm: effective_items(counted, arm) for arm in ARMS} for counted in (n, weeks_ago))
    change = now[OTHERS] / now[HELD_OUT] / (then[OTHERS] / then[HELD_OUT]) - 1
    message = (
        f"listeners are offered an effective {now[OTHERS]:,.0f} items, {then[OTHERS]:,.0f} four weeks ago, those held out"
        f" {now[HELD_OUT]:,.0f} and {then[HELD_OUT]:,.0f}: what is learnt narrows what is offered. Recommendations feed on"
        " themselves; explore more (`explore` in the policy), and see whether `organic_share` falls"
    )
    threshold, warn = f"W < -{percent(limits.arms_fall_warn)}", change < -limits.arms_fall_warn
    return graded(_NAME, change, threshold, n[OFFERED + HELD_OUT], warn=warn, message=message)


def effective_items(n: Mapping[str, int], arm: str) -> float:
    """Return how many items, offered alike, have the entropy of what an arm is offered."""
    slots = n[OFFERED + arm]
    return float(slots * 2 ** (-n[OFFERED_MILLIBITS + arm] / 1000 / slots))
