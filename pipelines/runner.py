"""The stage runner: what happens around every stage, written once.

    find     a committed result of the same code, configuration and inputs: skip
    run      Beam, into the stage's staging folder; what a killed run left there is taken up
    check    row rules (done while writing), statistics, expectations; waivers; one verdict
    commit   move the files, manifest last; or leave the evidence in quarantine and stop
    tell     lineage, counts, seconds, peak memory

The launcher holds manifests and one small entry per output file, never a dataset.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.progress import Console, Meter
from schemas.contract import Contract
from schemas.manifest import CheckResult, DataFile, InputRef, Manifest, dataset_folder
from transforms.io.store import Store
from transforms.shards import ARTIFACTS, SAID, Task, Workspace, staged_entries, take_spent
from validation.gates import judge
from validation.lineage import LineageLog, PipelineRun, StageRun
from validation.page import render_page
from validation.statistics import Statistics
from validation.waivers import Waiver, apply_waivers, verdict

LOCAL_TASKS = 2
"""Tasks at once on this machine, which also bounds memory: while one reads and writes, the other counts. A service
with workers of its own spreads tasks over those."""
ENTRIES = "entries.json"
"""Beside additive daily partials: what later runs need to know of each file to take it over."""


class StageFailed(RuntimeError):
    """A stage was stopped by its checks; nothing was committed."""

    def __init__(self, message: str, checks: tuple[CheckResult, ...] = ()) -> None:
        super().__init__(message)
        self.checks = checks


def no_figures(paths: Sequence[str]) -> Mapping[str, int]:
    """Return no further counters."""
    return {}


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """One step of the road.

    Attributes:
      qualifier: tells two stages of one name apart, `home` for example.
      date: logical date, ISO.
      config: everything besides code and inputs that decides the output; JSON.
      tasks: what Beam spreads. `transform` turns them into staged outputs; `num_parts` tasks write them, after
        `num_emits` tasks that emit parts for them.
      dated: whether the date itself decides the output; otherwise a result of another date serves too.
      figures: further counters, read from the staged files by the launcher; must be bounded whatever their size.
      units: for a dataset of additive daily partials, the digest of each day's inputs: a day already committed by an
        earlier run is taken over instead of being computed again. Tasks carry the day as `event_date`.
      join: brings the tasks that are left to do together into fewer.
    """

    name: str
    contract: Contract
    date: str
    inputs: tuple[InputRef, ...]
    tasks: tuple[Task, ...]
    transform: Callable[[Workspace, Sequence[Task]], beam.PTransform]
    num_parts: int
    num_shards: int
    config: Mapping[str, object] = dataclasses.field(default_factory=dict)
    qualifier: str = ""
    dated: bool = True
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    figures: Callable[[Sequence[str]], Mapping[str, int]] = no_figures
    num_emits: int = 0
    join: Callable[[list[Task]], list[Task]] = list

    @property
    def label(self) -> str:
        """What people call it."""
        return " ".join(filter(None, [self.name, self.qualifier]))

    def key(self, code_version: str) -> str:
        """Return the digest that names the result: equal keys, equal bytes."""
        parts = {
            "stage": [self.name, self.qualifier, self.num_shards],
            "contract": self.contract.fingerprint,
            "code": code_version,
            "config": dict(self.config),
            "date": self.date if self.dated else None,
            "inputs": sorted([ref.name, ref.digest] for ref in self.inputs),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, slots=True)
class StageRecord:
    """What a stage did in this run, for the summary, the report page and the run record.

    Attributes:
      cpu_seconds: None where workers elsewhere did it. spent: wall seconds by part of the work, over all its tasks.
    """

    stage: str
    manifest: str
    skipped: bool
    rows_in: int
    rows_out: int
    rejected: int
    checks_passed: int
    checks_total: int
    seconds: float
    peak_bytes: int
    cpu_seconds: float | None
    spent: Mapping[str, float]


@dataclasses.dataclass
class Runner:
    """Runs stages against one root.

    Attributes:
      previous: manifests of the last good run by `dataset/qualifier`, what drift is measured against.
      records: one per stage run so far.
    """

    store: Store
    code_version: str
    lineage: LineageLog
    parent: PipelineRun
    console: Console
    waivers: Sequence[Waiver] = ()
    previous: Mapping[str, Manifest] = dataclasses.field(default_factory=dict)
    beam_args: Sequence[str] = ()
    records: list[StageRecord] = dataclasses.field(default_factory=list)

    def run(self, stage: Stage) -> Manifest:
        """Return the stage's committed manifest, after doing what is not done yet.

        Raises:
          StageFailed: a critical check failed or could not run.
          StoreError: the root cannot be written.
        """
        key = stage.key(self.code_version)
        done = self._committed(stage, key)
        if done is not None:
            self.store.delete(_staging(stage, key))  # left there by a run killed just after it committed
            self._record(stage.label, done, Meter(), skipped=True)
            return done
        run = self._stage_run(stage, key)
        self.lineage.start(run)
        try:
            manifest, meter = self._execute(stage, key)
        except BaseException as error:
            self.lineage.fail(run, error, error.checks if isinstance(error, StageFailed) else ())
            raise
        self.lineage.complete(run, manifest, stage.contract)
        self._record(stage.label, manifest, meter, skipped=False)
        return manifest

    def take_over(self, label: str, manifest: Manifest) -> None:
        """Put on record, as unchanged, what an earlier run made and this one serves from."""
        self._record(label, manifest, Meter(), skipped=True)

    def admit(self, contract: Contract, manifest: Manifest, day: str) -> None:
        """Judge a dataset of many days once more, as of one of them: ingest ran for its own date only.

        Raises:
          StageFailed: a critical check failed.
        """
        if manifest.date == day:
            return
        before = self.previous.get(f"{contract.name}/")
        results = judge(contract, dataclasses.replace(manifest, date=day), before)
        checks = tuple(apply_waivers(results, self.waivers, contract.name, day))
        if verdict(checks) != "passed":
            stopped = [c for c in checks if c.severity == "critical" and c.outcome in ("failed", "broken")]
            lines = [
                f"{contract.name}s of {day} stopped: {len(stopped)} critical check(s) failed. Nothing was published."
            ]
            raise StageFailed("\n".join([*lines, *(f"  {c.name}: {c.message}" for c in stopped)]), checks)

    def _committed(self, stage: Stage, key: str) -> Manifest | None:
        folders = [dataset_folder(stage.contract.name, stage.date, key)]
        if not stage.dated:
            manifests = self.store.list(f"data/{stage.contract.name}")
            folders += [p.removesuffix("/manifest.json") for p in manifests if p.endswith(f"/run={key}/manifest.json")]
        for path in (f"{folder}/manifest.json" for folder in folders):
            if self.store.exists(path):
                return load_manifest(self.store, path)
        return None

    def _execute(self, stage: Stage, key: str) -> tuple[Manifest, Meter]:
        staging = _staging(stage, key)
        at_once = 1 if elsewhere(self.beam_args) else LOCAL_TASKS
        space = Workspace(self.store.root, staging, key, stage.contract.name, stage.name, self.code_version, at_once)
        kept = self._reusable(stage)
        left = [task for task in stage.tasks if task.event_date not in kept] if stage.units else list(stage.tasks)
        fresh = stage.join(left)
        total = stage.num_parts + stage.num_emits
        with self.console.watch(
            stage.label, total, lambda: self._tasks_done(stage, staging), lambda: self._said(staging)
        ) as meter:
            if fresh or not stage.units:
                run_beam(fresh, stage.transform(space, fresh), self.beam_args)
            meter.spent = take_spent(self.store, staging)
            entries = [e for e in staged_entries(self.store, staging) if e["event_date"] not in kept]
            manifest = self._draft(stage, key, entries, kept)
            staged = [self._located(staging, stage, key, entry["name"]) for entry in entries]
            manifest = dataclasses.replace(manifest, counters=manifest.counters | dict(stage.figures(staged)))
            manifest = dataclasses.replace(manifest, checks=self._checks(stage, manifest, staged))
        self._judge(stage, manifest, staging)
        self._commit(manifest, staging, entries)
        return manifest, meter

    def _located(self, staging: str, stage: Stage, key: str, name: str) -> str:
        """Return a local path of a staged part; a run killed while it committed may have moved it already."""
        staged = f"{staging}/part-{name}.parquet"
        committed = f"{dataset_folder(stage.contract.name, stage.date, key)}/part-{name}.parquet"
        return self.store.local(staged if self.store.exists(staged) else committed)

    def _tasks_done(self, stage: Stage, staging: str) -> int:
        emitted = len(self.store.list(f"{staging}/emitted")) if stage.num_emits else 0
        return emitted + len(self.store.list(f"{staging}/done"))

    def _said(self, staging: str) -> str:
        try:
            return self.store.read_bytes(f"{staging}/{SAID}").decode()
        except FileNotFoundError:
            return ""

    def _reusable(self, stage: Stage) -> dict[str, list[tuple[DataFile, dict]]]:
        """Return, for each day whose partial is committed already, its files with their entries."""
        before = self.previous.get(f"{stage.contract.name}/{stage.qualifier}")
        if not stage.units or before is None or before.code_version != self.code_version:
            return {}
        if before.fingerprint != stage.contract.fingerprint or before.num_shards != stage.num_shards:
            return {}
        units = before.config.get("units", {})
        kept: dict[str, list[tuple[DataFile, dict]]] = {d: [] for d, x in stage.units.items() if units.get(d) == x}
        files = [file for file in before.files if file.event_date in kept]
        folders = sorted({file.path.rpartition("/")[0] for file in files})
        entries = {folder: json.loads(self.store.read_bytes(f"{folder}/{ENTRIES}")) for folder in folders}
        for file in files:
            folder, _, name = file.path.rpartition("/")
            kept[str(file.event_date)].append((file, entries[folder][name]))
        return kept

    def _draft(self, stage: Stage, key: str, entries: list[dict], kept: dict) -> Manifest:
        folder = dataset_folder(stage.contract.name, stage.date, key)
        old = [pair for day in sorted(kept) for pair in kept[day]]
        every = entries + [entry for _, entry in old]
        files = [_data_file(folder, "", entry, entry["file"]) for entry in entries] + [file for file, _ in old]
        refused = [
            _data_file(folder, "rejected/", entry, entry["rejections"]) for entry in entries if entry["rejections"]
        ]
        config = dict(stage.config) | ({"units": dict(stage.units)} if stage.units else {})
        return Manifest(
            dataset=stage.contract.name,
            contract_version=stage.contract.version,
            fingerprint=stage.contract.fingerprint,
            stage=stage.name,
            qualifier=stage.qualifier,
            run=key,
            date=stage.date,
            num_shards=stage.num_shards,
            code_version=self.code_version,
            config=config,
            inputs=stage.inputs,
            files=tuple(sorted(files, key=lambda f: (f.event_date or "", f.shard, f.path))),
            rejection_files=tuple(refused),
            rows_in=sum(entry["rows_in"] for entry in every),
            rows_out=sum(entry["file"]["rows"] for entry in every),
            rejected=_added([entry["rejected"] for entry in every]),
            counters=_added([entry["counters"] for entry in every]),
            statistics=Statistics.merged(Statistics.from_json(entry["statistics"]) for entry in every).to_json(),
            checks=(),
            artifacts=tuple(_artifacts(folder, entries)),
        )

    def _checks(self, stage: Stage, manifest: Manifest, staged: list[str]) -> tuple[CheckResult, ...]:
        from validation.expectations import validate

        before = self.previous.get(f"{stage.contract.name}/{stage.qualifier}")
        results = list(judge(stage.contract, manifest, before))
        if staged:
            results += validate(stage.contract, staged)
        return tuple(apply_waivers(results, self.waivers, stage.contract.name, stage.date))

    def _judge(self, stage: Stage, manifest: Manifest, staging: str) -> None:
        page = f"validation/{'-'.join(filter(None, [stage.contract.name, stage.qualifier]))}.html"
        self.store.write_bytes(page, render_page(manifest).encode())
        decided = verdict(manifest.checks)
        if decided == "passed":
            return
        evidence = f"quarantine/{stage.name}-{stage.qualifier or 'all'}/date={stage.date}/run={manifest.run}"
        for path in self.store.list(staging):
            self.store.move(path, evidence + path.removeprefix(staging))
        self.store.write_bytes(f"{evidence}/manifest.json", manifest.to_json().encode())
        self.store.delete(staging)
        shown = _failure(stage, manifest, decided, f"{self.store.root}/{evidence}", f"{self.store.root}/{page}")
        raise StageFailed(shown, manifest.checks)

    def _commit(self, manifest: Manifest, staging: str, entries: list[dict]) -> None:
        folder = dataset_folder(manifest.dataset, manifest.date, manifest.run)
        for entry in entries:
            part = f"part-{entry['name']}.parquet"
            self.store.move(f"{staging}/{part}", f"{folder}/{part}")
            if entry["rejections"]:
                self.store.move(f"{staging}/rejected/{part}", f"{folder}/rejected/{part}")
        for file in manifest.artifacts:
            self.store.move(f"{staging}/{file.path.removeprefix(folder + '/')}", file.path)
        if "units" in manifest.config:
            named = {f"part-{entry['name']}.parquet": entry for entry in entries}
            self.store.write_bytes(f"{folder}/{ENTRIES}", json.dumps(named, sort_keys=True).encode())
        self.store.write_bytes(manifest.path, manifest.to_json().encode())
        self.store.delete(staging)

    def _stage_run(self, stage: Stage, key: str) -> StageRun:
        return StageRun(
            self.parent,
            stage.name,
            stage.qualifier,
            stage.date,
            key,
            stage.inputs,
            self.code_version,
            dict(stage.config),
        )

    def _record(self, label: str, manifest: Manifest, meter: Meter, *, skipped: bool) -> None:
        passed = sum(check.outcome == "passed" for check in manifest.checks)
        record = StageRecord(
            label, manifest.path, skipped, manifest.rows_in, manifest.rows_out, sum(manifest.rejected.values()),
            passed, len(manifest.checks), round(meter.seconds, 3), meter.peak_bytes,
            None if elsewhere(self.beam_args) else round(meter.cpu_seconds, 3), meter.spent,
        )  # fmt: skip
        self.records.append(record)
        state = "unchanged, skipped" if skipped else f"{meter.seconds:.1f} s, {meter.peak_bytes / 2**20:,.0f} MB"
        self.console.say(f"  {label:<26} {manifest.rows_out:>12,} rows   {state}")


def run_beam(tasks: Sequence[Task], transform: beam.PTransform, args: Sequence[str]) -> None:
    """Run one stage's tasks; the runner is always pinned, `DirectRunner` would look for a binary on the network."""
    for name in ("apache_beam", "great_expectations"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options = PipelineOptions([*([] if elsewhere(args) else ["--runner=FnApiRunner"]), *args], save_main_session=False)
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = pipeline | "CreateTasks" >> beam.Create(list(tasks)) | "DoStage" >> transform
    except RuntimeError as error:
        if str(error).startswith("KeyboardInterrupt"):  # Beam makes an error of the key that stops a run
            raise KeyboardInterrupt from error
        raise


def elsewhere(args: Sequence[str]) -> bool:
    """Tell whether Beam arguments name a runner of their own."""
    return any(arg.startswith("--runner") for arg in args)


def load_manifest(store: Store, path: str) -> Manifest:
    """Read a manifest.

    Raises:
      ValueError: it cannot be read; the message names it.
    """
    return Manifest.from_json(store.read_bytes(path).decode(), f"{store.root}/{path}")


def missing_files(store: Store, manifest: Manifest) -> list[str]:
    """Return the files of a manifest that are not there any more: sets are retired, folders deleted."""
    there = {
        path for folder in {file.path.rpartition("/")[0] for file in manifest.files} for path in store.list(folder)
    }
    return [file.path for file in manifest.files if file.path not in there]


def input_ref(manifest: Manifest, name: str | None = None) -> InputRef:
    """Return what names a committed dataset as an input."""
    return InputRef(name or manifest.dataset, manifest.path, manifest.digest, manifest.rows_out)


def _staging(stage: Stage, key: str) -> str:
    return f"staging/{stage.name}-{stage.qualifier or 'all'}-{key}"


def _data_file(folder: str, below: str, entry: dict, described: dict) -> DataFile:
    path = f"{folder}/{below}part-{entry['name']}.parquet"
    return DataFile(
        path, described["sha256"], described["rows"], described["bytes"], entry["shard"], entry["event_date"]
    )


def _artifacts(folder: str, entries: list[dict]) -> Iterator[DataFile]:
    for entry in entries:
        for name, described in sorted(entry["artifacts"].items()):
            path = f"{folder}/{ARTIFACTS}/{name}"
            yield DataFile(path, described["sha256"], 0, described["bytes"], entry["shard"])


def _added(counts: list[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))


def _failure(stage: Stage, manifest: Manifest, decided: str, evidence: str, page: str) -> str:
    stopped = [c for c in manifest.checks if c.severity == "critical" and c.outcome in ("failed", "broken")]
    what = "could not run" if decided == "broken" else "failed"
    lines = [f"{stage.label} of {stage.date} stopped: {len(stopped)} critical check(s) {what}. Nothing was published."]
    lines += [f"  {c.name} [{c.outcome}]: {c.message or f'{c.observed} against {c.threshold}'}" for c in stopped]
    lines += [f"  the rows are kept in {evidence}", f"  every check of the stage: {page}"]
    return "\n".join(lines)
