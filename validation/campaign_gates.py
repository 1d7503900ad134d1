"""Judge campaigns: those that cannot be kept to are left out, and it is told which rule they broke."""

from schemas.manifest import CheckResult, Manifest
from validation.checks import broken, graded

REFUSED = "refused"
"""Counter: campaigns whose items are not there, or not available, besides those the row rules reject."""
UNKNOWN_ITEMS, UNAVAILABLE_ITEMS = "item_ids:known", "item_ids:available"
"""Rules that a campaign breaks with an item that the catalogue does not have, or not for its market."""


def judge_campaigns(manifest: Manifest) -> CheckResult:
    """Return whether all campaigns are sane: a budget that is not spent, a flight, and items that exist and are available."""
    name, n = "campaigns_sane", manifest.counters
    if REFUSED not in n:
        return broken(name, "every figure counted", f"the stage did not count {REFUSED}")
    out, given = sum(manifest.rejected.values()), manifest.rows_out + sum(manifest.rejected.values())
    worst = ", ".join(f"{rule} {count:,}" for rule, count in sorted(manifest.rejected.items()))
    message = (
        f"{out:,} of {given:,} campaigns are paused: nothing is served for them ({worst}). The rejections name them; have them"
        " corrected and delivered again"
    )
    return graded(name, out, "0 campaigns", given, warn=out > 0, message=message)
