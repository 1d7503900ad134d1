"""Manifests of usual deliveries, for gates to judge."""

import dataclasses
import datetime
import random

from schemas.catalogue import CONTRACTS
from schemas.contract import Contract
from schemas.inputs import EVENT
from schemas.manifest import CheckResult, DataFile, Manifest
from validation.gates import judge
from validation.statistics import ColumnStatistics, DayStatistics, Statistics

DATE = "2026-03-31"
EVENT_OPTIONAL = [field.name for field in EVENT.schema if field.nullable]


def manifest(dataset: str, statistics: Statistics, **fields) -> Manifest:
    base = Manifest(
        dataset=dataset, contract_version="1.0.0", fingerprint="f", stage="s", qualifier="", run="r", date=DATE,
        num_shards=1, code_version="c", config={}, inputs=(), files=(), rejection_files=(), rows_in=statistics.rows,
        rows_out=statistics.rows, rejected={}, counters={}, statistics=statistics.to_json(), checks=(),
    )  # fmt: skip
    return dataclasses.replace(base, **fields)


def shift(date: str, days: int) -> str:
    return (datetime.date.fromisoformat(date) + datetime.timedelta(days=days)).isoformat()


def one_day(rows: int, **changes) -> DayStatistics:
    """Return a usual day: five sixths plays, three markets, 100 s played per event."""
    day = DayStatistics(
        rows,
        dict.fromkeys(EVENT_OPTIONAL, rows),
        {
            "event_type": {"play": rows * 5 // 6, "skip": rows // 6},
            "device_type": {"phone": rows // 2, "tv": rows // 2},
            "market": {"US": rows * 6 // 10, "SE": rows * 3 // 10, "JP": rows // 10},
            "is_organic": {"true": rows // 2, "false": rows // 2},
        },
        {"ms_played": rows * 100_000},
    )
    return dataclasses.replace(day, **changes)


def month(seed: int = 0, rows: int = 10_000, days: int = 29, weekend: float = 1.3) -> dict[str, DayStatistics]:
    """Return days with a weekend peak and noise of 3 %."""
    rng = random.Random(seed)
    dates = [shift(DATE, -n) for n in range(days)]
    peak = {date: weekend if datetime.date.fromisoformat(date).weekday() >= 5 else 1.0 for date in dates}
    return {date: one_day(int(rows * peak[date] * rng.gauss(1, 0.03))) for date in dates}


def events(days: dict[str, DayStatistics], **fields) -> Manifest:
    rows = sum(day.rows for day in days.values())
    columns = {name: ColumnStatistics() for name in EVENT.schema.names}
    counters = {"users_known": 500} | fields.pop("counters", {})
    return manifest("event", Statistics(rows, columns, days), counters=counters, **fields)


def results(contract: Contract, now: Manifest, previous: Manifest | None = None) -> dict[str, CheckResult]:
    return {result.name: result for result in judge(contract, now, previous)}


def failed(found: dict[str, CheckResult]) -> dict[str, str]:
    return {name: result.severity for name, result in found.items() if result.outcome == "failed"}


def event_results(days: dict[str, DayStatistics], **fields) -> dict[str, CheckResult]:
    return results(EVENT, events(days, **fields))


def event_failures(days: dict[str, DayStatistics], **fields) -> dict[str, str]:
    return failed(event_results(days, **fields))


def items(rows: int, eligible: int | None = None, described: int | None = None, **fields) -> Manifest:
    contract = CONTRACTS["item"]
    columns = {name: ColumnStatistics() for name in contract.schema.names}
    columns["description"] = ColumnStatistics(nulls=rows - (rows if described is None else described))
    columns["rec_eligible"] = ColumnStatistics(values={"true": rows if eligible is None else eligible})
    counters = {"items_of_strange_markets": 0, "eligible_in:*": rows if eligible is None else eligible, "items_of:track": rows,
                "described:track": rows if described is None else described} | fields.pop("counters", {})  # fmt: skip
    return manifest("item", Statistics(rows, columns, {}), counters=counters, **fields)


SETS = {
    "sets": 1000, "slots": 300_000, "empty_sets": 0, "market_violations": 0, "tier_violations": 0,
    "explicit_violations": 0, "age_violations": 0, "ineligible_violations": 0, "unreleased_violations": 0, "video_violations": 0,
    "blocked_violations": 0, "hidden_violations": 0, "completed_violations": 0, "recent_skip_violations": 0,
    "language_violations": 0, "tombstone_violations": 0, "duplicate_items": 0, "sets_below_minimum": 1,
    "exploration_share_violations": 0, "propensity_violations": 0, "content_floors": 100, "content_floors_missed": 0,
    "fallback_level_3_or_more": 50, "listeners": 900, "fallback_of_listeners": 10, "eligible_items": 100_000,
    "jaccard_ppm_sum": 200 * 50_000, "jaccard_pairs": 200, "slots_by_source:a": 200_000, "slots_by_source:b": 99_000,
    "slots_by_source:c": 1_000, "vectors_age_hours": 0, "indexes": 1, "indexes_of_other_vectors": 0,
    "slots_released_days_ago:0": 0, "slots_released_days_ago:6": 5, "eligible_released_days_ago:2": 30,
}  # fmt: skip


def sets(**counters) -> Manifest:
    names = {name.replace("slots_by_source_", "slots_by_source:"): count for name, count in counters.items()}
    return manifest("candidate_set", Statistics(1000, {}, {}), counters=SETS | names)


EXPOSURE = {
    "sets": 1000, "slots_chosen": 200_000, "max_item_sets_chosen": 40, "top100_slots_chosen": 20_000,
    "covered_items": 15_000, "eligible_items": 100_000, "gini_ppm": 500_000,
}  # fmt: skip


def exposure(**counters) -> Manifest:
    return manifest("exposure", Statistics(15_000, {}, {}), counters=EXPOSURE | counters)


def proposals(**counters: int) -> list[CheckResult]:
    told = manifest(
        "proposal", Statistics(0, {}, {}), counters=counters, artifacts=(DataFile("told.json", "0", 0, 1, 0),)
    )
    return judge(CONTRACTS["proposal"], told, None)
