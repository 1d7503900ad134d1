"""What the events of a date are held to, against the days before them."""

import functools
from collections.abc import Callable, Iterator

from schemas.manifest import CheckResult, Manifest
from validation.checks import broken, graded, percent, skipped
from validation.drift import Drift, earlier_days, poisson_noise, recent_drift, weekday_drift
from validation.statistics import Counts, DayStatistics, Statistics, psi
from validation.thresholds import EventThresholds

_PLAYED_TOO_LONG = ("ms_played:at_most:item_duration_ms", "ms_played:between")
_SKEWED = "event_ts:not_after:ingest_ts"
_MIXES = ("event_type", "device_type", "market")
_LIST_LIMIT = 10
MIN_ROWS_TO_VANISH = 20
"""A column that half of the rows fill is empty on 20 of them by chance once in a million."""

USERS_KNOWN, OF_UNKNOWN_USERS = "users_known", "events_of_unknown_users:"
"""Counters: users of the snapshot, and by date the events of whoever is not in it."""

Days = dict[str, DayStatistics]


def judge_events(
    manifest: Manifest, statistics: Statistics, limits: EventThresholds, vanished_share: float
) -> list[CheckResult]:
    """Return the results of all event checks; days after the logical date are not looked at."""
    days = {date: day for date, day in statistics.days.items() if date <= manifest.date}
    results = list(_of_rows_read(manifest, limits))
    if manifest.date not in days:
        return [_no_rows(manifest, days), *results]
    return [
        graded("rows_on_date_present", days[manifest.date].rows, "at least 1 row", None),
        *results,
        _rows_on_date(days, manifest.date, limits),
        _silent_markets(days, manifest.date, limits),
        _market_present(days[manifest.date], manifest.date, limits),
        _users_known(manifest, days[manifest.date].rows, limits),
        *(_mix(days, manifest.date, column, limits) for column in _MIXES),
        *_behaviour(days, manifest.date, limits),
        *_vanished(days, manifest.date, vanished_share),
    ]


def _no_rows(manifest: Manifest, days: Days) -> CheckResult:
    last = f"the last date with events is {max(days)}" if days else "no earlier date has any either"
    message = (
        f"no event of {manifest.date} came in ({manifest.rows_in:,} rows were read): {last}. "
        "Check that the delivery of that date is complete and the folder is the right one, then run again"
    )
    return graded("rows_on_date_present", 0, "at least 1 row", manifest.rows_in, block=True, message=message)


def _of_rows_read(manifest: Manifest, limits: EventThresholds) -> Iterator[CheckResult]:
    """Judge what was rejected; conflicts, long plays and skewed clocks have budgets of their own."""
    own = (*_PLAYED_TOO_LONG, _SKEWED)
    conflicts = sum(n for rule, n in manifest.rejected.items() if rule.endswith(":conflict"))
    other = {r: n for r, n in manifest.rejected.items() if r not in own and not r.endswith(":conflict")}
    worst = ", ".join(f"{rule} {n:,}" for rule, n in sorted(other.items(), key=lambda x: (-x[1], x[0]))[:3])
    yield _kept("schema_valid", sum(other.values()), manifest.rows_in, limits.schema_valid, f"mostly {worst}")
    duplicates = manifest.counters.get("duplicates", 0)
    yield _repeated(
        "duplicate_event_ids", duplicates, manifest.rows_in, limits.duplicates_warn, limits.duplicates_block
    )
    yield _repeated("conflicting_event_ids", conflicts, manifest.rows_in, limits.conflicts_warn, limits.conflicts_block)
    long = sum(manifest.rejected.get(rule, 0) for rule in _PLAYED_TOO_LONG)
    why = "they played longer than the item lasts, or than a day"
    yield _kept("ms_played_plausible", long, manifest.rows_in, limits.ms_played_plausible, why)
    skewed = manifest.rejected.get(_SKEWED, 0)
    yield _kept("clock_skew", skewed, manifest.rows_in, limits.clock, "they happened after they were received")


def _kept(name: str, rejected: int, rows: int, least: float, why: str) -> CheckResult:
    share = 1 - rejected / rows if rows else 1.0
    message = (
        f"{rejected:,} of {rows:,} rows read were rejected ({why}), more than {percent(1 - least)}: "
        "look at the rejections with that rule, and ask the producer of the events"
    )
    return graded(name, share, f">= {percent(least)}", rows, block=share < least, message=message)


def _repeated(name: str, count: int, rows: int, warn: float, block: float) -> CheckResult:
    share = count / rows if rows else 0.0
    message = (
        f"{count:,} of {rows:,} rows read repeat an event id ({name}): was a file delivered twice, or a day replayed? "
        "Remove the second copy and run again"
    )
    threshold = f"W > {percent(warn)}, B > {percent(block)}"
    return graded(name, share, threshold, rows, warn=share > warn, block=share > block, message=message)


def _rows_on_date(days: Days, date: str, limits: EventThresholds) -> CheckResult:
    name, daily = "rows_on_date", {day: float(d.rows) for day, d in days.items()}
    drift = weekday_drift(daily, date, limits.min_days, poisson_noise)
    if drift is None:
        return skipped(name, _short_history(days, date, limits))
    # a handful of events a day varies by half on its own
    halved = abs(drift.change) > limits.rows_block_always and abs(drift.change) > 4 * poisson_noise(drift.expected)
    block = drift.beyond(limits.rows_block, limits.noise_block) or halved
    next_step = (
        f"{drift.value:,.0f} events where {drift.expected:,.0f} are usual: "
        + ("is a file of the date missing?" if drift.change < 0 else "was a file delivered twice, or a day replayed?")
        + " Complete or correct the delivery and run again, or sign a waiver if the change is real"
    )
    two = _two_limits(limits.rows_warn, limits.rows_block, drift, limits)
    threshold = f"{two}, or beyond {percent(limits.rows_block_always)}"
    message = f"events of {date} changed by {drift.change:+.1%} against the {drift.basis}: {next_step}"
    warn = drift.beyond(limits.rows_warn, limits.noise_warn)
    return graded(name, drift.change, threshold, int(drift.value), warn=warn, block=block, message=message)


def _two_limits(warn: float, block: float, drift: Drift, limits: EventThresholds) -> str:
    return (
        f"W beyond {percent(warn)} and {limits.noise_warn:g} deviations, B beyond {percent(block)} and "
        f"{limits.noise_block:g} deviations (one is {percent(drift.noise)})"
    )


def _short_history(days: Days, date: str, limits: EventThresholds) -> str:
    known = len(earlier_days(days, date, 7))
    return f"not enough history: {known} of the 7 earlier days are known, {limits.min_days} are needed"


def _summed(days: Days, dates: list[str], column: str) -> Counts:
    """Add up the value counts of some days; those with too many values to count say nothing."""
    total: Counts = {}
    for date in dates:
        for value, count in (days[date].values.get(column) or {}).items():
            total[value] = total.get(value, 0) + count
    return total


def _silent_markets(days: Days, date: str, limits: EventThresholds) -> CheckResult:
    name, week = "silent_markets", earlier_days(days, date, 7)
    before, now = _summed(days, week, "market"), days[date].values.get("market")
    if len(week) < limits.min_days or not before or now is None:
        return skipped(name, _short_history(days, date, limits))
    rows = sum(before.values())
    expected = {m: n / rows * days[date].rows for m, n in before.items() if n >= limits.market_share * rows}
    silent = sorted(m for m, n in expected.items() if n >= limits.market_rows and not now.get(m))
    message = (
        f"no event of {date} from {', '.join(silent[:_LIST_LIMIT])}, where {sum(expected[m] for m in silent):,.0f} "
        "were expected: check the delivery of those markets and run again"
    )
    threshold = f"0 markets with a share >= {percent(limits.market_share)} and >= {limits.market_rows} rows expected"
    return graded(name, len(silent), threshold, len(expected), block=bool(silent), message=message)


def _market_present(day: DayStatistics, date: str, limits: EventThresholds) -> CheckResult:
    present = day.present.get("market", 0)
    share = present / day.rows
    message = (
        f"market is empty on {day.rows - present:,} of {day.rows:,} events of {date}: "
        "the column was dropped, renamed or left empty upstream; have it delivered again"
    )
    threshold = f">= {percent(limits.market_present)}"
    return graded("market_present", share, threshold, day.rows, block=share < limits.market_present, message=message)


def _users_known(manifest: Manifest, rows: int, limits: EventThresholds) -> CheckResult:
    """Judge whether the users who did something are those that were delivered; whoever came since the snapshot is a few."""
    name, n = "users_known", manifest.counters
    if USERS_KNOWN not in n:
        return broken(name, "every figure counted", f"the stage did not count {USERS_KNOWN}")
    if not n[USERS_KNOWN]:
        return skipped(name, "no users are delivered")
    unknown = n.get(f"{OF_UNKNOWN_USERS}{manifest.date}", 0)
    known, warn, block = 1 - unknown / rows, limits.known_users_warn, limits.known_users_block
    message = (
        f"{unknown:,} of {rows:,} events of {manifest.date} are of users that are not among the {n[USERS_KNOWN]:,} delivered: their"
        " age, filters and opt-outs are unknown. Is the snapshot whole and of this date, and are both ids of one salt?"
    )
    threshold = f"W < {percent(warn)}, B < {percent(block)}"
    return graded(name, known, threshold, rows, warn=known < warn, block=known < block, message=message)


def _mix(days: Days, date: str, column: str, limits: EventThresholds) -> CheckResult:
    name, week = f"psi:{column}", earlier_days(days, date, 7)
    before, now = _summed(days, week, column), days[date].values.get(column)
    if len(week) < limits.min_days:
        return skipped(name, _short_history(days, date, limits))
    if not before or not now:
        return skipped(
            name, f"{len(before)} values on the days before, {len(now or {})} on the date: nothing to compare"
        )
    # by chance alone the index is near (categories - 1) * (1 / n + 1 / m) (Yurdakul, Statistical Properties of the
    # Population Stability Index, 2018), over independent rows
    chance = (len(before.keys() | now.keys()) - 1) * (1 / sum(before.values()) + 1 / sum(now.values()))
    chance *= limits.psi_design_effect
    observed = psi(now, before)
    message = (
        f"the mix of {column} on {date} is not that of the {len(week)} days before ({_largest_shift(now, before)}): "
        "look for a client release or a lost feed; sign a waiver if it is real"
    )
    threshold = f"W > {limits.psi_warn:g}, B > {limits.psi_block:g}, plus {chance:.3f} of sampling noise"
    warn, block = observed > limits.psi_warn + chance, observed > limits.psi_block + chance
    return graded(name, observed, threshold, sum(now.values()), warn=warn, block=block, message=message)


def _largest_shift(now: Counts, before: Counts) -> str:
    shares = {v: (before.get(v, 0) / sum(before.values()), now.get(v, 0) / sum(now.values())) for v in before | now}
    value = max(sorted(shares), key=lambda v: abs(shares[v][1] - shares[v][0]))
    return f"{value} went from {percent(shares[value][0])} to {percent(shares[value][1])}"


def _organic(day: DayStatistics) -> tuple[float, int]:
    values = day.values.get("is_organic") or {}
    return values.get("true", 0), sum(values.values())


def _skips(day: DayStatistics) -> tuple[float, int]:
    values = day.values.get("event_type") or {}
    return values.get("skip", 0), values.get("skip", 0) + values.get("play", 0)


def _played(day: DayStatistics) -> tuple[float, int]:
    return day.totals.get("ms_played", 0), day.present.get("ms_played", 0)


_RATES: dict[str, Callable[[DayStatistics], tuple[float, int]]] = {
    "organic_share": _organic,
    "skip_rate": _skips,
    "mean_ms_played": _played,
}


def _behaviour(days: Days, date: str, limits: EventThresholds) -> Iterator[CheckResult]:
    """Judge the ratios of a date: a sum and the rows it is over, per day."""
    for name, ratio in _RATES.items():
        parts = {day: ratio(statistics) for day, statistics in days.items()}
        daily = {day: total / rows for day, (total, rows) in parts.items() if rows}
        drift = None
        if date in daily:
            drift = recent_drift(daily, date, limits.min_days, functools.partial(_ratio_noise, parts[date][1]))
        yield (
            skipped(name, _short_history(days, date, limits))
            if drift is None
            else _drifted(name, drift, parts[date][1], limits)
        )


def _ratio_noise(rows: int, expected: float) -> float:
    return poisson_noise(rows)


def _drifted(name: str, drift: Drift, rows: int, limits: EventThresholds) -> CheckResult:
    message = (
        f"{name} is {drift.value:.4g}, {drift.change:+.1%} against {drift.expected:.4g}, the {drift.basis}: "
        "look for a client release or a change of logging; sign a waiver if it is real"
    )
    warn, block = limits.behaviour_warn, limits.behaviour_block
    threshold = _two_limits(warn, block, drift, limits)
    return graded(
        name,
        drift.change,
        threshold,
        rows,
        warn=drift.beyond(warn, limits.noise_warn),
        block=drift.beyond(block, limits.noise_block),
        message=message,
    )


def _vanished(days: Days, date: str, share: float) -> Iterator[CheckResult]:
    """Find columns that the days before filled and the date does not."""
    week, day = earlier_days(days, date, 7), days[date]
    rows = sum(days[d].rows for d in week)
    if not rows or day.rows < MIN_ROWS_TO_VANISH:
        return
    for column, present in sorted(day.present.items()):
        before = sum(days[d].present.get(column, 0) for d in week) / rows
        if present == 0 and before > share:
            message = (
                f"{column} is empty on all {day.rows:,} events of {date}, and was filled on {percent(before)} of the "
                "week before: it was dropped or renamed upstream; have it delivered again as declared"
            )
            name = f"column_vanished:{column}"
            yield graded(name, 0, "filled on some row", day.rows, block=True, message=message)
