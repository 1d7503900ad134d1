"""Judge a dataset by its counts and statistics: layer `statistics` of the checks.

Thresholds are in `thresholds.toml`. Missing history never fails a check: the result says what was missing.
"""

import datetime
from collections.abc import Iterator

from schemas.contract import Contract
from schemas.manifest import CheckResult, Manifest
from validation.calibration_gates import judge_calibration
from validation.candidate_gates import judge_candidate_sets, judge_exposure
from validation.checks import broken, graded, percent, skipped
from validation.drift import poisson_noise
from validation.event_gates import MIN_ROWS_TO_VANISH, judge_events
from validation.index_gates import judge_index
from validation.model_gates import judge_training, judge_vectors
from validation.proposal_gates import judge_proposals
from validation.statistics import Statistics
from validation.thresholds import DatasetThresholds, ItemThresholds, Thresholds, default_thresholds

DELTA = "delta"
"""Qualifies a delivery of items of which most have not changed and are not in it."""
_COMPARED = frozenset(
    {
        "user", "popularity_partial", "popularity", "artist_top", "co_listen_partial", "co_listen",
        "transition_partial", "transition",
    }
)  # fmt: skip


def judge(contract: Contract, manifest: Manifest, previous: Manifest | None) -> list[CheckResult]:
    """Return the results of the checks that the contract's dataset is held to.

    Args:
      manifest: what the stage wrote: rows in, rejections, counters, statistics. Its own check results are not read.
      previous: of the last good run of the same stage and qualifier; one of a later date is not history and is ignored.
    """
    limits, statistics = default_thresholds(), Statistics.from_json(manifest.statistics)
    if previous is not None and previous.date > manifest.date:
        previous = None
    return [
        *_of_dataset(contract, manifest, statistics, previous, limits),
        *_vanished(contract, statistics, previous, limits.dataset),
    ]


def _of_dataset(
    contract: Contract, manifest: Manifest, statistics: Statistics, previous: Manifest | None, limits: Thresholds
) -> list[CheckResult]:
    match contract.name:
        case "event":
            return judge_events(manifest, statistics, limits.events, limits.dataset.vanished_share)
        case "item" if manifest.qualifier == DELTA:
            return list(_delivered(statistics))
        case "item":
            return list(_items(statistics, previous, limits.item, manifest.date))
        case "candidate_set":
            return judge_candidate_sets(manifest, previous, limits.candidate_set)
        case "proposal":
            return list(judge_proposals(manifest, previous, limits.candidate_set))
        case "calibration":
            return list(judge_calibration(manifest))
        case "exposure":
            return judge_exposure(manifest, previous, limits.candidate_set)
        case "history":
            return [_rows(statistics, previous, limits.dataset), _machines(manifest, limits.dataset)]
        case "vocabulary":
            return [_known_items(manifest, limits.dataset)]
        case "training":
            return list(judge_training(manifest, statistics))
        case "item_embedding":
            return list(judge_vectors(manifest, limits.embedding, limits.embedding.item_coverage))
        case "user_embedding":
            return list(judge_vectors(manifest, limits.embedding, limits.embedding.user_coverage))
        case "tombstone_scan":
            return list(_tombstones(manifest))
        case "index":
            return list(judge_index(manifest, limits.index))
        case name if name in _COMPARED:
            return [_rows(statistics, previous, limits.dataset)]
    return []


def _vanished(
    contract: Contract, statistics: Statistics, previous: Manifest | None, limits: DatasetThresholds
) -> Iterator[CheckResult]:
    """Find optional columns that the last good run filled and this one does not."""
    if previous is None or statistics.rows < MIN_ROWS_TO_VANISH:
        return
    before = Statistics.from_json(previous.statistics)
    lost = 0
    for name in (field.name for field in contract.schema if field.nullable and field.name in before.columns):
        filled = 1 - before.columns[name].nulls / max(before.rows, 1)
        if filled > limits.vanished_share and statistics.columns[name].nulls == statistics.rows:
            lost += 1
            message = (
                f"{contract.name}.{name} is empty on all {statistics.rows:,} rows, and was filled on {percent(filled)} "
                f"of them on {previous.date}: it was dropped or renamed upstream; have it delivered as declared"
            )
            yield graded(
                f"column_vanished:{name}", 0, "filled on some row", statistics.rows, block=True, message=message
            )
    if not lost:
        yield graded("columns_filled", 0, "0 columns vanished", len(before.columns))


def _rows(statistics: Statistics, previous: Manifest | None, limits: DatasetThresholds) -> CheckResult:
    name = "rows_vs_previous"
    if previous is None or not previous.rows_out:
        return skipped(name, "no earlier run to compare with")
    change = statistics.rows / previous.rows_out - 1
    chance = 4 * poisson_noise(previous.rows_out)  # a few dozen rows come and go
    warn, block = max(limits.rows_fall_warn, chance), max(limits.rows_fall_block, chance)
    message = (
        f"{statistics.rows:,} rows, {change:+.1%} against the {previous.rows_out:,} of {previous.date}: "
        "look at the rows read and rejected by this stage and the ones before it"
    )
    threshold = f"W < -{percent(warn)}, B < -{percent(block)}"
    return graded(
        name, change, threshold, previous.rows_out, warn=change < -warn, block=change < -block, message=message
    )


def _machines(manifest: Manifest, limits: DatasetThresholds) -> CheckResult:
    """Say what was put aside because no person plays so much."""
    n = manifest.counters
    share = n.get("machine_plays", 0) / max(manifest.rows_in, 1)
    message = (
        f"{n.get('machine_plays', 0):,} positives of {n.get('machine_days', 0):,} days of users with more than 2,000 are in no"
        f" tally, {percent(share)} of all events: machines, or a key that many share; look at who they are"
    )
    threshold, warn = f"W > {percent(limits.machine_warn)}", share > limits.machine_warn
    return graded("machine_plays", share, threshold, manifest.rows_in, warn=warn, message=message)


def _known_items(manifest: Manifest, limits: DatasetThresholds) -> CheckResult:
    """Judge whether the catalogue knows what listeners like."""
    n = manifest.counters
    if missing := {"positives", "positives_unknown"} - n.keys():
        return broken("items_known", "every figure counted", f"the stage did not count {', '.join(sorted(missing))}")
    unknown, positives = n["positives_unknown"], n["positives"]
    if not positives:
        return skipped("items_known", "no positives in histories")
    known = 1 - unknown / positives
    message = (
        f"{unknown:,} of {positives:,} positives in histories are of items that the catalogue does not have: is it delivered whole,"
        " and are the ids of both those of one service? Items that are withdrawn must stay in it, with deleted_at"
    )
    threshold, warn = f"W < {percent(limits.known_items_warn)}", known < limits.known_items_warn
    return graded("items_known", known, threshold, positives, warn=warn, message=message)


def _tombstones(manifest: Manifest) -> Iterator[CheckResult]:
    """Judge what must have disappeared and was found all the same."""
    n, files = manifest.counters, manifest.counters.get("files", 0)
    for name, what, block in (
        ("live_hits", "are in what is live; run the latest date again with these tombstones, and publish it", True),
        ("overdue_hits", "should have been gone for 30 days; the scan says in which dataset: run its date again, or have"
         " whoever delivers it leave them out", True),
        ("kept_hits", "are in sets that a rollback would make live; do not roll back to them", False),
    ):  # fmt: skip
        hits = n.get(name, 0)
        message = f"{hits:,} rows or slots of erased users and of items taken down {what}"
        yield graded(name, hits, "0", files, warn=hits > 0, block=block and hits > 0, message=message)


def _delivered(statistics: Statistics) -> Iterator[CheckResult]:
    rows = statistics.rows
    message = "the catalogue is empty: check the path and the format of the items that were delivered, then run again"
    yield graded("items_present", rows, "at least 1 item", None, block=not rows, message=message)
    if not rows:
        return
    unknown = statistics.columns["explicit"].nulls
    message = f"explicit is unknown on {unknown:,} of {rows:,} items: ingest must fill it in, look at its defaults"
    yield graded("explicit_known", unknown, "0 items", rows, block=unknown > 0, message=message)


def _items(
    statistics: Statistics, previous: Manifest | None, limits: ItemThresholds, day: str
) -> Iterator[CheckResult]:
    yield from _delivered(statistics)
    rows = statistics.rows
    if not rows:
        return
    described = 1 - statistics.columns["description"].nulls / rows
    message = f"only {percent(described)} of {rows:,} items have a description: their text vectors will be poor"
    threshold, warn = f"W < {percent(limits.description_warn)}", described < limits.description_warn
    yield graded("description_present", described, threshold, rows, warn=warn, message=message)
    yield _item_rows(rows, previous, limits)
    yield _eligible(statistics, previous, limits)
    yield _catalogue_age(statistics, limits, day)


def _catalogue_age(statistics: Statistics, limits: ItemThresholds, day: str) -> CheckResult:
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


def _item_rows(rows: int, previous: Manifest | None, limits: ItemThresholds) -> CheckResult:
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
