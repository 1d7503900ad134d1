"""Runs, stages and manifests to tell of in lineage events."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from schemas.contract import Contract, column
from schemas.manifest import CheckResult, DataFile, InputRef, Manifest, dataset_folder
from validation.lineage import LineageLog, PipelineRun, StageRun

ROOT = "/srv/segue"
DATE = "2024-03-01"
STARTED = datetime(2024, 3, 2, 4, 5, 6, tzinfo=UTC)
SHA = "0123456789abcdef0123456789abcdef01234567"
RUN = PipelineRun("road", DATE, STARTED, "0.1.0+abcd", {"shards": 8, "surfaces": {"home": {"slots": 20}}})
CHECKS = (
    CheckResult("label:between", "rows", "critical", "passed", 0.0, "<= 0.01", 1000),
    CheckResult("rows_against_last_run", "statistics", "warning", "failed", 0.6, ">= 0.7", 1000, "too few rows"),
    CheckResult("unique_key", "expectations", "critical", "broken", None, "no duplicates"),
    CheckResult("popularity_drift", "statistics", "critical", "waived", 0.4, "<= 0.25"),
)
COLUMN_STATISTICS = (
    {"nulls": 3, "values": {"u1": 600, "u2": 397}, "low": None, "high": None, "total": None},
    {"nulls": 0, "values": None, "low": -1, "high": 9, "total": 4000, "bins": {"3": 9}, "level": 0},
    {"nulls": 1000, "values": None, "low": None, "high": None, "total": 0},
)
TINY = Contract(
    name="tiny",
    version="1.0.0",
    owner="segue-tests",
    description="A small dataset.",
    key=("user_id",),
    shard_by="user_id",
    schema=pa.schema(
        [
            column("user_id", pa.string(), "Who.", derived_from=("event.user_id",)),
            column("plays", pa.int64(), "How many.", unit="plays", derived_from=("event.label", "?event.event_ts")),
            column("both", pa.int64(), "Both ways.", derived_from=("?event.label", "event.label")),
            column("market", pa.string(), "Where.", derived_from=("user.market", "raw_event.market")),
            column("constant", pa.int64(), "From nothing."),
            column("vector", pa.list_(pa.float32(), 4), "A vector."),
            column("seen", pa.list_(pa.struct([pa.field("item_id", pa.string(), False)])), "Items."),
        ]
    ),
)


def manifest_ref(dataset: str, digest: str = "d1", rows: int | None = 10) -> InputRef:
    return InputRef(dataset, f"{dataset_folder(dataset, DATE, digest)}/manifest.json", digest, rows)


def stage_run(*inputs: InputRef, stage: str = "histories", qualifier: str = "") -> StageRun:
    return StageRun(RUN, stage, qualifier, DATE, "k1", inputs, "0.1.0+abcd", {"window": 90, "nested": {"on": True}})


def manifest_of(contract: Contract, inputs: tuple[InputRef, ...] = (), **changes) -> Manifest:
    folder = dataset_folder(contract.name, DATE, "k1")
    files = tuple(DataFile(f"{folder}/part-{n}.parquet", f"sha{n}", 500, 4000, n) for n in range(2))
    manifest = Manifest(
        dataset=contract.name, contract_version=contract.version, fingerprint=contract.fingerprint, stage="histories",
        qualifier="", run="k1", date=DATE, num_shards=2, code_version="0.1.0+abcd", config={}, inputs=inputs,
        files=files, rejection_files=(), rows_in=1010, rows_out=1000, rejected={"x": 10}, counters={},
        statistics={"rows": 1000, "columns": dict(zip(contract.schema.names, COLUMN_STATISTICS)), "days": {}},
        checks=CHECKS,
    )  # fmt: skip
    return replace(manifest, **changes)


def clock():
    """Tick a second per reading, from one instant on."""
    ticks = iter(STARTED + timedelta(seconds=n) for n in range(1, 1000))
    return lambda: next(ticks)


def log_to(lines: list[str], **options) -> LineageLog:
    return LineageLog(lines.append, options.pop("root", ROOT), clock(), **options)


def told(tell, **options) -> list[dict]:
    lines: list[str] = []
    tell(log_to(lines, **options))
    assert not any("\n" in line for line in lines)
    return [json.loads(line) for line in lines]


def input_refs(contract: Contract) -> tuple[InputRef, ...]:
    """One reference to each dataset a contract's columns come from."""
    datasets = {s.removeprefix("?").partition(".")[0] for sources in contract.derivations().values() for s in sources}
    return tuple(
        InputRef(name, f"/raw/{name}/a.jsonl", "f1") if name.startswith("raw_") else manifest_ref(name)
        for name in sorted(datasets)
    )


def tell_everything(contract: Contract):
    """Return what tells one run with a stage that completes and one that fails."""

    def tell(log: LineageLog) -> None:
        inputs = input_refs(contract)
        good, bad = stage_run(*inputs), stage_run(*inputs, stage="blend", qualifier="home")
        log.start_run(RUN)
        log.start(good)
        log.complete(good, manifest_of(contract, inputs), contract)
        log.start(bad)
        log.fail(bad, RuntimeError("blend home stopped: 1 critical check(s) failed."), CHECKS)
        log.fail_run(RUN, RuntimeError("the road stopped"))
        log.complete_run(RUN)

    return tell
