"""Judge a dataset by its counts and statistics: layer `statistics` of the checks.

Thresholds are in `thresholds.toml`. Missing history never fails a check: the result says what was missing.
"""

from collections.abc import Iterator

from schemas.contract import Contract
from schemas.manifest import CheckResult, Manifest
from validation.calibration_gates import judge_calibration
from validation.campaign_gates import judge_campaigns
from validation.candidate_gates import judge_candidate_sets, judge_exposure
from validation.catalogue_gates import judge_delivered, judge_items
from validation.checks import broken, graded, percent, skipped
from validation.drift import poisson_noise
from validation.event_gates import MIN_ROWS_TO_VANISH, judge_events
from validation.index_gates import judge_index
from validation.model_gates import judge_training, judge_vectors
from validation.proposal_gates import judge_proposals
from validation.statistics import Statistics
from validation.thresholds import DatasetThresholds, Thresholds, default_thresholds

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
            return list(judge_delivered(statistics))
        case "item":
            return list(judge_items(manifest, statistics, previous, limits.item))
        case "candidate_set":
            return judge_candidate_sets(manifest, previous, limits.candidate_set)
        case "campaign":
            return [judge_campaigns(manifest)]
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
