"""Judge a catalogue: that it is there, described, of this day, and no smaller than yesterday's, as a whole and in every market."""

import datetime
from collections.abc import Iterator, Mapping

from schemas.manifest import CheckResult, Manifest
from validation.checks import broken, graded, percent, skipped
from validation.drift import poisson_noise
from validation.statistics import Statistics
from validation.thresholds import ItemThresholds

ELIGIBLE_IN, USERS_IN = "eligible_in:", "users_in:"
"""Counters by market: items that may be recommended and played there (`*`: those of every market, in no other), and users."""
ITEMS_OF, DESCRIBED = "items_of:", "described:"
"""Counters by kind: items, and those with a description."""
STRANGE_MARKETS = "items_of_strange_markets"
"""Counter: items with an offer in what is no market code."""
_EVERYWHERE = "*"
_IN_MARKETS = "eligible_items_in_markets"
_LIST_LIMIT = 10
_SOME = 100
"""Items of a kind: of fewer, one in ten without a description may be chance."""


def judge_delivered(statistics: Statistics) -> Iterator[CheckResult]:
    """Yield what any delivery of items is held to."""
    rows = statistics.rows
    message = "the catalogue is empty: check the path and the format of the items that were delivered, then run again"
    yield graded("items_present", rows, "at least 1 item", None, block=not rows, message=message)
    if not rows:
        return
    unknown = statistics.columns["explicit"].nulls
    message = f"explicit is unknown on {unknown:,} of {rows:,} items: ingest must fill it in, look at its defaults"
    yield graded("explicit_known", unknown, "0 items", rows, block=unknown > 0, message=message)


def judge_items(
    manifest: Manifest, statistics: Statistics, previous: Manifest | None, limits: ItemThresholds
) -> Iterator[CheckResult]:
    """Yield what a whole catalogue is held to."""
    yield from judge_delivered(statistics)
    if not statistics.rows:
        return
    yield _described(manifest.counters, statistics, limits)
    yield _market_codes(manifest.counters, statistics.rows)
    yield _rows(statistics.rows, previous, limits)
    yield _eligible(statistics, previous, limits)
    yield _eligible_in_markets(manifest.counters, previous.counters if previous else {}, limits)
    yield _age(statistics, limits, manifest.date)


def _described(n: Mapping[str, int], statistics: Statistics, limits: ItemThresholds) -> CheckResult:
    """Judge descriptions of all items, and of every kind that there are some of: tracks with one do not speak for shows."""
    name, rows = "description_present", statistics.rows
    described = 1 - statistics.columns["description"].nulls / rows
    kinds = {key.removeprefix(ITEMS_OF): count for key, count in n.items() if key.startswith(ITEMS_OF)}
    if not kinds:
        return broken(name, "every figure counted", f"the stage did not count {ITEMS_OF}<kind>")
    shares = {kind: n.get(f"{DESCRIBED}{kind}", 0) / count for kind, count in kinds.items() if count >= _SOME}
    few = sorted(kind for kind, share in shares.items() if share < limits.description_warn)
    told = "".join(f", {percent(shares[kind])} of {kinds[kind]:,} {kind}s" for kind in few)
    message = f"only {percent(described)} of {rows:,} items have a description{told}: their text vectors will be poor"
    threshold = f"W < {percent(limits.description_warn)} of any kind"
    return graded(
        name, described, threshold, rows, warn=bool(few) or described < limits.description_warn, message=message
    )


def _market_codes(n: Mapping[str, int], rows: int) -> CheckResult:
    name = "market_codes"
    if STRANGE_MARKETS not in n:
        return broken(name, "every figure counted", f"the stage did not count {STRANGE_MARKETS}")
    message = (
        f"{n[STRANGE_MARKETS]:,} of {rows:,} items have an offer whose market is neither two capital letters (ISO 3166) nor *:"
        " they can be played by nobody there; have them delivered again with the right codes"
    )
    return graded(name, n[STRANGE_MARKETS], "0 items", rows, block=n[STRANGE_MARKETS] > 0, message=message)


def _rows(rows: int, previous: Manifest | None, limits: ItemThresholds) -> CheckResult:
    name = "items_vs_previous"
    if previous is None or not previous.rows_out:
        return skipped(name, "no earlier catalogue to compare with")
    change = rows / previous.rows_out - 1
    message = (
        f"the catalogue went from {previous.rows_out:,} items ({previous.date}) to {rows:,}, {change:+.1%}: "
        "check that the delivery is whole; a mass takedown needs a signed waiver"
    )
    warn = change < -limits.rows_fall_warn or change > limits.rows_rise_warn
    fall, rise = percent(limits.rows_fall_warn), percent(limits.rows_rise_warn)
    threshold = f"W < -{fall} or > {rise}, B < -{percent(limits.rows_fall_block)}"
    block = change < -limits.rows_fall_block
    return graded(name, change, threshold, previous.rows_out, warn=warn, block=block, message=message)


def _eligible(statistics: Statistics, previous: Manifest | None, limits: ItemThresholds) -> CheckResult:
    name, now = "eligible_items", _eligible_count(statistics)
    before = _eligible_count(Statistics.from_json(previous.statistics)) if previous else 0
    if not now:
        message = f"none of {statistics.rows:,} items may be recommended: look at rec_eligible in the delivery"
        return graded(name, 0, "at least 1 item", statistics.rows, block=True, message=message)
    if not before:
        return graded(name, now, "at least 1 item", statistics.rows)
    change = now / before - 1
    message = (
        f"recommendable items went from {before:,} to {now:,}, {change:+.1%}: look at rec_eligible in the delivery"
    )
    threshold, block = f"B < -{percent(limits.eligible_fall_block)}", change < -limits.eligible_fall_block
    return graded(name, change, threshold, before, block=block, message=message)


def _eligible_count(statistics: Statistics) -> int:
    return (statistics.columns["rec_eligible"].values or {}).get("true", 0)


def _eligible_in_markets(n: Mapping[str, int], before: Mapping[str, int], limits: ItemThresholds) -> CheckResult:
    """Compare what may be recommended in each market that has users with yesterday's, beyond what comes and goes by the dozen."""
    now, then, users = (_counted(of, prefix) for of, prefix in ((n, ELIGIBLE_IN), (before, ELIGIBLE_IN), (n, USERS_IN)))
    if _EVERYWHERE not in now:
        return broken(_IN_MARKETS, "every figure counted", f"the stage did not count {ELIGIBLE_IN}<market>")
    if _EVERYWHERE not in then:
        return skipped(_IN_MARKETS, "no earlier catalogue to compare with")
    served = [market for market, count in users.items() if 0 < count >= limits.market_users * sum(users.values())]
    if not served:
        return skipped(_IN_MARKETS, "it is not known in which markets users are")
    known = {market: _in(then, market) for market in served}
    changes = {market: _in(now, market) / count - 1 for market, count in known.items() if count}
    lost = sorted(m for m, x in changes.items() if x < -max(limits.eligible_fall_block, 4 * poisson_noise(known[m])))
    told = ", ".join(f"{m} {known[m]:,} to {_in(now, m):,} ({changes[m]:+.1%})" for m in lost[:_LIST_LIMIT])
    message = (
        f"recommendable items fell in {len(lost)} of {len(changes)} markets: {told}. Look at availability in the delivery; a mass"
        " takedown needs a signed waiver"
    )
    threshold = (
        f"B < -{percent(limits.eligible_fall_block)} in a market with >= {percent(limits.market_users)} of the users"
    )
    worst = min(changes.values(), default=0.0)
    return graded(_IN_MARKETS, worst, threshold, len(changes), block=bool(lost), message=message)


def _counted(n: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): count for name, count in n.items() if name.startswith(prefix)}


def _in(items: Mapping[str, int], market: str) -> int:
    return items[_EVERYWHERE] + items.get(market, 0)


def _age(statistics: Statistics, limits: ItemThresholds, day: str) -> CheckResult:
    """Judge how old the latest change in the catalogue is: vectors and index of a date are as old as what was delivered."""
    last = statistics.columns["updated_at"].high
    if last is None:
        return skipped("catalogue_age", "updated_at is not delivered")
    end = datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC) + datetime.timedelta(days=1)
    days = (end.timestamp() - float(last) / 1e6) / 86_400
    message = (
        f"nothing in the catalogue changed for {days:.1f} days: is an old delivery read again? New releases are missing"
    )
    threshold, warn = f"W > {limits.age_days_warn:g} days", days > limits.age_days_warn
    return graded("catalogue_age", days, threshold, statistics.rows, warn=warn, message=message)
