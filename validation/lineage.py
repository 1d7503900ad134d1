"""Lineage: what ran, on what, into what, and what the checks said, as OpenLineage events.

    START  stage      inputs with versions
    START  stage.check, COMPLETE stage.check   the dataset as input, with its metrics and assertions
    COMPLETE  stage   inputs, the dataset with schema, column lineage and statistics; or FAIL with the error

The specification puts assertions on the input of the job that checks, hence the job of its own. Every event is one
line of a file first; an HTTP server gets the same event afterwards. Nothing here ever fails the data: what cannot be
written or sent is logged once. A file holds everything a server missed, and sending it twice does no harm.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from typing import Any, NamedTuple
from uuid import UUID

import requests
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import DatasetFacet, RunFacet, parent_run
from openlineage.client.serde import Serde
from openlineage.client.transport.http import HttpConfig, HttpTransport
from openlineage.client.uuid import generate_static_uuid

from schemas.contract import Contract
from schemas.manifest import CheckResult, InputRef, Manifest
from validation import lineage_facets as facets
from validation.lineage_facets import SourceCode

HTTP_TIMEOUT_S = 2.0
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class PipelineRun:
    """One attempt of the whole road, the parent of its stages' runs.

    Attributes:
      name: of the job, `road` for example.
      date: logical date, ISO.
      started: when the attempt began; aware. Two attempts of one date differ in it.
    """

    name: str
    date: str
    started: datetime
    code_version: str
    config: dict[str, Any]

    def __post_init__(self) -> None:
        _check_run(self.name, self.date, self.started)

    @property
    def run_uuid(self) -> UUID:
        """Identity, a UUIDv7 of `started`: equal runs have equal ones."""
        return generate_static_uuid(self.started, f"{self.name} {self.date} {self.code_version}".encode())


@dataclasses.dataclass(frozen=True, slots=True)
class StageRun:
    """One attempt of one stage.

    Attributes:
      key: digest of the stage's code, configuration, date and inputs.
      date: logical date, ISO.
      inputs: what it reads; a path relative to the root, absolute or a URI.
    """

    parent: PipelineRun
    stage: str
    qualifier: str
    date: str
    key: str
    inputs: tuple[InputRef, ...]
    code_version: str
    config: dict[str, Any]

    def __post_init__(self) -> None:
        _check_run(self.stage, self.date, self.parent.started)

    @property
    def run_uuid(self) -> UUID:
        """Identity, a UUIDv7 of the parent's start: equal runs have equal ones."""
        return self.identity("")

    def identity(self, part: str) -> UUID:
        """Return the identity of a job within the stage; of the stage itself for an empty `part`."""
        names = [str(self.parent.run_uuid), self.stage, self.qualifier, self.date, self.key, part]
        return generate_static_uuid(self.parent.started, "\0".join(names).encode())

    @property
    def job_name(self) -> str:
        """The job: parent, stage and qualifier, joined by dots."""
        return ".".join(filter(None, [self.parent.name, self.stage, self.qualifier]))


def _check_run(name: str, logical_date: str, started: datetime) -> None:
    if not name:
        raise ValueError("a lineage run needs the name of its job, got an empty one: pass the stage's name")
    if started.tzinfo is None:
        raise ValueError(f"{name}: expected an aware start time, got {started.isoformat()}: pass one in UTC")
    try:
        date.fromisoformat(logical_date)
    except ValueError as error:
        raise ValueError(f"{name}: expected a date as YYYY-MM-DD, got {logical_date!r}") from error


class _Parent(NamedTuple):
    run_uuid: UUID
    job_name: str


@dataclasses.dataclass
class LineageLog:
    """Tells what runs.

    Attributes:
      append: adds one line (given without its line break) to the lineage file and makes it durable.
      root: of the store, what relative paths are relative to: an absolute path, `file:///...` or `gs://...`.
      clock: the time, aware.
      namespace: of the jobs; datasets have those of the OpenLineage naming rules.
      http_url: an OpenLineage server, Marquez for example; None sends nothing.
      source: where the running code lies, if known.
    """

    append: Callable[[str], None]
    root: str
    clock: Callable[[], datetime]
    namespace: str = "segue"
    http_url: str | None = None
    source: SourceCode | None = None

    def __post_init__(self) -> None:
        facets.dataset_name(self.root)
        self._transport = _transport(self.http_url) if self.http_url else None
        self._append_failed = False

    def start_run(self, run: PipelineRun) -> None:
        """Tell that the road has begun."""
        self._tell_run(RunState.START, run, {})

    def complete_run(self, run: PipelineRun) -> None:
        """Tell that the road is done."""
        self._tell_run(RunState.COMPLETE, run, {})

    def fail_run(self, run: PipelineRun, error: BaseException) -> None:
        """Tell that the road has stopped, and why."""
        self._tell_run(RunState.FAIL, run, {"errorMessage": facets.error_message(error)})

    def start(self, stage: StageRun) -> None:
        """Tell that a stage has begun."""
        self._tell_stage(RunState.START, stage, {}, [])

    def complete(self, stage: StageRun, manifest: Manifest, contract: Contract) -> None:
        """Tell what a stage has committed and what its checks said."""
        output = facets.dataset_of(self.root, manifest.path)
        self._tell_checks(stage, manifest, contract, output)
        written = OutputDataset(
            *output,
            facets=facets.output_facets(contract, manifest, self.root, stage.inputs),
            outputFacets={"outputStatistics": facets.output_statistics(manifest)},
        )
        self._tell_stage(RunState.COMPLETE, stage, {}, [written])

    def fail(self, stage: StageRun, error: BaseException, checks: tuple[CheckResult, ...] = ()) -> None:
        """Tell that a stage has stopped and why; `checks` are of the dataset that was not committed."""
        why = {"errorMessage": facets.error_message(error), **facets.checks_as_tests(checks)}
        self._tell_stage(RunState.FAIL, stage, why, [])

    def _tell_run(self, state: RunState, run: PipelineRun, extra: dict[str, RunFacet]) -> None:
        run_facets = {**facets.run_facets(run.date, run.code_version, run.config), **extra}
        job = Job(self.namespace, run.name, facets.job_facets("PIPELINE", "SEGUE", self.source))
        self._emit(state, Run(str(run.run_uuid), run_facets), job, [], [])

    def _tell_stage(
        self, state: RunState, stage: StageRun, extra: dict[str, RunFacet], outputs: list[OutputDataset]
    ) -> None:
        run_facets = {
            "parent": self._parent(_Parent(stage.parent.run_uuid, stage.parent.name), stage),
            **facets.run_facets(stage.date, stage.code_version, stage.config),
            **extra,
        }
        job = Job(self.namespace, stage.job_name, facets.job_facets("JOB", "BEAM", self.source))
        self._emit(state, Run(str(stage.run_uuid), run_facets), job, self._inputs(stage), outputs)

    def _tell_checks(
        self, stage: StageRun, manifest: Manifest, contract: Contract, checked: facets.DatasetName
    ) -> None:
        said = facets.quality_facets(contract, manifest)
        if not said:
            return
        run_facets = {
            "parent": self._parent(_Parent(stage.run_uuid, stage.job_name), stage),
            "nominalTime": facets.nominal_time(stage.date),
        }
        run = Run(str(stage.identity("check")), run_facets)
        job = Job(self.namespace, f"{stage.job_name}.check", facets.job_facets("CHECK", "SEGUE", self.source))
        version: dict[str, DatasetFacet] = {"version": facets.version_facet([manifest.digest])}
        self._emit(RunState.START, run, job, [InputDataset(*checked, facets=version)], [])
        self._emit(RunState.COMPLETE, run, job, [InputDataset(*checked, facets=version, inputFacets=said)], [])

    def _parent(self, parent: _Parent, stage: StageRun) -> parent_run.ParentRunFacet:
        return parent_run.ParentRunFacet(
            run=parent_run.Run(str(parent.run_uuid)),
            job=parent_run.Job(self.namespace, parent.job_name),
            root=parent_run.Root(
                parent_run.RootRun(str(stage.parent.run_uuid)), parent_run.RootJob(self.namespace, stage.parent.name)
            ),
        )

    def _inputs(self, stage: StageRun) -> list[InputDataset]:
        return [
            InputDataset(
                *dataset,
                facets={"version": facets.version_facet([ref.digest for ref in refs])},
                inputFacets=facets.input_statistics(refs),
            )
            for dataset, refs in facets.group_inputs(self.root, stage.inputs).items()
        ]

    def _emit(
        self, state: RunState, run: Run, job: Job, inputs: list[InputDataset], outputs: list[OutputDataset]
    ) -> None:
        now = self.clock().astimezone(UTC).isoformat(timespec="microseconds")
        event = RunEvent(eventType=state, eventTime=now, run=run, job=job, inputs=inputs, outputs=outputs)
        self._write(Serde.to_json(event))
        self._send(event)

    def _write(self, line: str) -> None:
        try:
            self.append(line)
        except Exception as error:  # whatever the store's client raises: the data is worth more than its lineage
            if not self._append_failed:
                _log.error("the lineage file cannot be written and will lack events of this run: %s", error)
            self._append_failed = True

    def _send(self, event: RunEvent) -> None:
        """Send, up to the first failure: a dead server costs one timeout, not one per event."""
        if self._transport is None:
            return
        try:
            self._transport.emit(event)
        except requests.RequestException as error:
            _log.warning(
                "lineage server %s failed, this run sends it nothing more: %s. The lineage file has every event; "
                "send it later with validation.lineage.replay(lines, http_url)", self.http_url, error,
            )  # fmt: skip
            self._transport.close()
            self._transport = None


class Replayed(NamedTuple):
    """How many events were sent, and the numbers (from 1) of the lines that hold none."""

    sent: int
    unreadable: tuple[int, ...]


def replay(lines: Iterable[str], http_url: str) -> Replayed:
    """Send the events of a lineage file again, in order. A server takes an event it knows as the same event.

    A line that a kill cut short is passed over and reported; blank lines do not count.

    Raises:
      ConnectionError: the server did not take an event; says how many it took.
    """
    transport, sent, unreadable = _transport(http_url), 0, []
    for number, line in enumerate(lines, start=1):
        event = _parse(line)
        if event is None and line.strip():
            unreadable.append(number)
        if event is None:
            continue
        try:
            transport.emit(event)  # type: ignore[arg-type]  # it serialises a dict as it is
        except requests.RequestException as error:
            raise ConnectionError(
                f"lineage server {http_url} did not take line {number} after {sent} event(s): {error}. "
                "Replay the whole file again when it answers; events it has already do no harm"
            ) from error
        sent += 1
    transport.close()
    return Replayed(sent, tuple(unreadable))


def _parse(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "eventType" in event else None


def _transport(http_url: str) -> HttpTransport:
    return HttpTransport(HttpConfig(url=http_url, timeout=HTTP_TIMEOUT_S, retry={"total": 0}))
