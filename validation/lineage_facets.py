"""OpenLineage facets and dataset names, from contracts, manifests and input references.

The facets follow the OpenLineage specification (https://openlineage.io/spec); what the road does not know, a
transformation's subtype for example, is left out rather than guessed.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import posixpath
import re
import traceback
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from openlineage.client.event_v2 import set_producer
from openlineage.client.facet_v2 import (
    DatasetFacet,
    InputDatasetFacet,
    JobFacet,
    RunFacet,
    column_lineage_dataset,
    data_quality_assertions_dataset,
    data_quality_metrics_input_dataset,
    dataset_type_dataset,
    dataset_version_dataset,
    documentation_dataset,
    error_message_run,
    execution_parameters_run,
    input_statistics_input_dataset,
    job_type_job,
    nominal_time_run,
    output_statistics_output_dataset,
    ownership_dataset,
    processing_engine_run,
    schema_dataset,
    source_code_location_job,
    storage_dataset,
    test_run,
)

from schemas.contract import Contract
from schemas.manifest import CheckResult, InputRef, Manifest

PRODUCER = "urn:segue:lineage"
MANIFEST_FILE = "manifest.json"
MAX_ERROR_CHARS = 300
# Roots of the modules whose exceptions word their message themselves; any other library may print rows in it.
_KNOWN_ERRORS = ("builtins", "schemas", "validation", "transforms", "pipelines", "jobs")
_SEVERITIES = {"critical": "error", "warning": "warn"}

# The client has one producer per process, and stamps it on every facet and event.
set_producer(PRODUCER)


class DatasetName(NamedTuple):
    """Identity of a dataset in the lineage graph."""

    namespace: str
    name: str


def dataset_name(location: str) -> DatasetName:
    """Name a folder as the OpenLineage naming specification does: local files and Google Cloud Storage.

    One folder has one name, however it is spelled.

    Raises:
      ValueError: neither an absolute path, `file:///...` nor `gs://bucket/...`.
    """
    url = urlsplit(location)
    if url.scheme == "gs" and url.netloc:
        return DatasetName(f"gs://{url.netloc}", _normal(location[len("gs://" + url.netloc) :]) or "/")
    local = unquote(url.path) if url.scheme == "file" and url.netloc in ("", "localhost") else location
    if local.startswith("/"):
        return DatasetName("file", "/" + _normal(local))
    raise ValueError(
        f"expected an absolute path, file:///... or gs://bucket/..., got {location!r}: give the full location"
    )


def dataset_of(root: str, path: str) -> DatasetName:
    """Name the dataset a file belongs to: its folder, without the partitions (`date=...`, `run=...`) at its end.

    Args:
      root: of the store.
      path: a manifest, data file or raw file; relative to `root`, absolute, or a URI.
    """
    whole = path if path.startswith("/") or re.match(r"[a-z]+:", path) else f"{root.rstrip('/')}/{path}"
    folder = posixpath.dirname(whole)
    while "=" in posixpath.basename(folder):
        folder = posixpath.dirname(folder)
    return dataset_name(folder)


def _normal(path: str) -> str:
    return posixpath.normpath("/" + path).strip("/")


def _is_manifest(ref: InputRef) -> bool:
    return posixpath.basename(ref.path) == MANIFEST_FILE


def group_inputs(root: str, inputs: tuple[InputRef, ...]) -> dict[DatasetName, list[InputRef]]:
    """Group what a stage read by dataset, sorted by name."""
    groups: dict[DatasetName, list[InputRef]] = {}
    for ref in inputs:
        groups.setdefault(dataset_of(root, ref.path), []).append(ref)
    return dict(sorted(groups.items()))


def column_lineage(
    contract: Contract, root: str, inputs: tuple[InputRef, ...]
) -> column_lineage_dataset.ColumnLineageDatasetFacet | None:
    """Return which input columns each column is computed from, as the contract declares it.

    Only datasets the stage read take part: a contract that several stages write names the inputs of all of them.
    None where nothing is left.
    """
    names: dict[str, set[DatasetName]] = {}
    for ref in inputs:
        dataset = dataset_of(root, ref.path)
        folder = [posixpath.basename(dataset.name)] if _is_manifest(ref) else []
        for name in (ref.name, *folder):
            names.setdefault(name, set()).add(dataset)
    fields = {column: _input_fields(sources, names) for column, sources in contract.derivations().items()}
    known = {
        column: column_lineage_dataset.Fields(inputFields=inputs_) for column, inputs_ in fields.items() if inputs_
    }
    return column_lineage_dataset.ColumnLineageDatasetFacet(fields=known) if known else None


def _input_fields(
    sources: tuple[str, ...], names: dict[str, set[DatasetName]]
) -> list[column_lineage_dataset.InputField]:
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for source in sources:
        dataset, _, column = source.removeprefix("?").partition(".")
        for namespace, name in sorted(names.get(dataset, ())):
            kinds.setdefault((namespace, name, column), []).append("INDIRECT" if source.startswith("?") else "DIRECT")
    return [
        column_lineage_dataset.InputField(
            *where, transformations=[column_lineage_dataset.Transformation(type=kind) for kind in sorted(set(kinds_))]
        )
        for where, kinds_ in sorted(kinds.items())
    ]


def schema_facet(contract: Contract) -> schema_dataset.SchemaDatasetFacet:
    """Return the columns with types, descriptions and units; an array's element is called `_element`."""
    columns = contract.to_json()["columns"]
    return schema_dataset.SchemaDatasetFacet(
        fields=[
            _schema_field(column["name"], column["type"], _description(contract, column["name"]), position)
            for position, column in enumerate(columns, start=1)
        ]
    )


def _description(contract: Contract, column: str) -> str | None:
    unit = contract.unit(column)
    return " ".join(filter(None, [contract.describe(column), unit and f"Unit: {unit}."])) or None


def _schema_field(
    name: str, type_: Any, description: str | None = None, position: int | None = None
) -> schema_dataset.SchemaDatasetFacetFields:
    spelled, children = _spell(type_)
    fields = [_schema_field(child, child_type) for child, child_type in children] or None
    return schema_dataset.SchemaDatasetFacetFields(name, spelled, description, position, fields)


def _spell(type_: Any) -> tuple[str, list[tuple[str, Any]]]:
    """Return the OpenLineage name of a contract type, and its children."""
    if isinstance(type_, str):
        return type_, []
    if "struct" in type_:
        return "struct", [(field["name"], field["type"]) for field in type_["struct"]]
    if "vector" in type_:
        return f"array<float32>[{type_['vector']}]", [("_element", "float32")]
    return "array", [("_element", type_["list"])]


def version_facet(digests: list[str]) -> dataset_version_dataset.DatasetVersionDatasetFacet:
    """Return the version: the manifest's digest; of several files or manifests, a digest of theirs."""
    together = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()[:32]
    return dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=together)


def output_facets(
    contract: Contract, manifest: Manifest, root: str, inputs: tuple[InputRef, ...]
) -> dict[str, DatasetFacet]:
    """Return the facets of the dataset a stage wrote."""
    layer = "gs" if root.startswith("gs://") else "file"
    facets: dict[str, DatasetFacet] = {
        "schema": schema_facet(contract),
        "version": version_facet([manifest.digest]),
        "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(datasetType="FILE"),
        "storage": storage_dataset.StorageDatasetFacet(storageLayer=layer, fileFormat="parquet"),
        "ownership": ownership_dataset.OwnershipDatasetFacet(owners=[ownership_dataset.Owner(name=contract.owner)]),
        "documentation": documentation_dataset.DocumentationDatasetFacet(
            description=contract.description, contentType="text/plain"
        ),
    }
    lineage = column_lineage(contract, root, inputs)
    return facets | ({"columnLineage": lineage} if lineage else {})


def output_statistics(manifest: Manifest) -> output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet:
    """Return rows, bytes and files written."""
    return output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=manifest.rows_out, size=sum(f.bytes for f in manifest.files), fileCount=len(manifest.files)
    )


def input_statistics(refs: list[InputRef]) -> dict[str, InputDatasetFacet]:
    """Return rows read, and files where they are raw; nothing where neither is known."""
    counts = [ref.rows for ref in refs if ref.rows is not None]
    rows = sum(counts) if len(counts) == len(refs) else None
    files = None if any(_is_manifest(ref) for ref in refs) else len(refs)
    if rows is None and files is None:
        return {}
    facet = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(rowCount=rows, fileCount=files)
    return {"inputStatistics": facet}


def quality_facets(contract: Contract, manifest: Manifest) -> dict[str, InputDatasetFacet]:
    """Return what the checks saw and said, as facets of the input of the checking job."""
    facets: dict[str, InputDatasetFacet] = {}
    columns, rows = manifest.statistics.get("columns", {}), manifest.statistics.get("rows", manifest.rows_out)
    metrics = {field.name: _column_metrics(field, columns.get(field.name), rows) for field in contract.schema}
    if manifest.statistics:
        facets["dataQualityMetrics"] = data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet(
            rowCount=rows,
            bytes=sum(f.bytes for f in manifest.files),
            fileCount=len(manifest.files),
            columnMetrics={name: column for name, column in metrics.items() if column},
        )
    if manifest.checks:
        facets["dataQualityAssertions"] = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
            assertions=[_assertion(check, contract) for check in manifest.checks]
        )
    return facets


def _assertion(check: CheckResult, contract: Contract) -> data_quality_assertions_dataset.Assertion:
    column, _, kind = check.name.partition(":")
    about_column = bool(kind) and column in contract.schema.names
    return data_quality_assertions_dataset.Assertion(
        assertion=kind.partition(":")[0] if about_column else check.name,
        success=check.outcome == "passed",
        column=column if about_column else None,
        severity=_SEVERITIES[check.severity],
        name=check.name,
        description=check.message or None,
        expected=check.threshold,
        actual=None if check.observed is None else str(check.observed),
        params=_check_params(check),
    )


def checks_as_tests(checks: tuple[CheckResult, ...]) -> dict[str, RunFacet]:
    """Return the checks as tests of the run: for a dataset that was not committed and so has no version."""
    if not checks:
        return {}
    return {"test": test_run.TestRunFacet(tests=[_test_execution(check) for check in checks])}


def _test_execution(check: CheckResult) -> test_run.TestExecution:
    status = {"passed": "pass", "broken": "skip"}.get(check.outcome, "fail")
    return test_run.TestExecution(
        name=check.name,
        status=status,
        severity=_SEVERITIES[check.severity],
        type=check.layer,
        description=check.message or None,
        expected=check.threshold,
        actual=None if check.observed is None else str(check.observed),
        params=_check_params(check),
    )


def _check_params(check: CheckResult) -> dict[str, Any]:
    return {"layer": check.layer, "outcome": check.outcome} | ({} if check.of is None else {"of": check.of})


def execution_parameters(
    code_version: str, config: dict[str, Any]
) -> execution_parameters_run.ExecutionParametersRunFacet:
    """Return code version and configuration, nested keys joined by dots, values as JSON."""
    pairs = [("code_version", code_version), *(("config." + key, value) for key, value in _flat(config))]
    return execution_parameters_run.ExecutionParametersRunFacet(
        parameters=[execution_parameters_run.ExecutionParameter(key=key, value=value) for key, value in pairs]
    )


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in sorted(config.items()):
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
            yield f"{prefix}{key}", text


def run_facets(logical_date: str, code_version: str, config: dict[str, Any]) -> dict[str, RunFacet]:
    """Return what is known of a run when it begins."""
    return {
        "nominalTime": nominal_time(logical_date),
        "processing_engine": processing_engine(),
        "executionParameters": execution_parameters(code_version, config),
    }


def nominal_time(logical_date: str) -> nominal_time_run.NominalTimeRunFacet:
    """Return the UTC day a run is as of."""
    start = datetime.combine(date.fromisoformat(logical_date), time(), UTC)
    return nominal_time_run.NominalTimeRunFacet(start.isoformat(), (start + timedelta(days=1)).isoformat())


@functools.cache
def _installed(distribution: str) -> str:
    return importlib.metadata.version(distribution)


def processing_engine() -> processing_engine_run.ProcessingEngineRunFacet:
    """Return Apache Beam and its version."""
    return processing_engine_run.ProcessingEngineRunFacet(
        version=_installed("apache-beam"),
        name="Apache Beam",
        openlineageAdapterVersion=_installed("openlineage-python"),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class SourceCode:
    """Where the running code lies: a repository's web address and a full git commit."""

    repository_url: str
    git_sha: str

    def __post_init__(self) -> None:
        if not self.repository_url.startswith(("http://", "https://")):
            raise ValueError(f"expected the repository's https:// address, got {self.repository_url!r}")
        if not re.fullmatch(r"[0-9a-f]{40}", self.git_sha):
            raise ValueError(f"expected a full git commit of 40 hex digits, got {self.git_sha!r}")


def source_code(source: SourceCode | None) -> dict[str, JobFacet]:
    """Return where the code is, where that is known."""
    if source is None:
        return {}
    url = f"{source.repository_url.rstrip('/').removesuffix('.git')}/tree/{source.git_sha}"
    facet = source_code_location_job.SourceCodeLocationJobFacet(
        type="git", url=url, repoUrl=source.repository_url, version=source.git_sha
    )
    return {"sourceCodeLocation": facet}


def job_facets(kind: str, integration: str, source: SourceCode | None) -> dict[str, JobFacet]:
    """Return what kind of job it is, `JOB` of `BEAM` for example, and where its code lies."""
    kind_facet = job_type_job.JobTypeJobFacet(processingType="BATCH", integration=integration, jobType=kind)
    return {"jobType": kind_facet, **source_code(source)}


def error_message(error: BaseException) -> error_message_run.ErrorMessageRunFacet:
    """Return what failed and where, never values of rows: a message is cut at its first quoted value."""
    frames = traceback.extract_tb(error.__traceback__)
    where = "\n".join(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    return error_message_run.ErrorMessageRunFacet(
        message=" <- ".join(_describe(link) for link in _chain(error)),
        programmingLanguage="PYTHON",
        stackTrace=where or None,
    )


def _chain(error: BaseException) -> list[BaseException]:
    links = [error]
    while (cause := links[-1].__cause__) is not None and cause not in links:
        links.append(cause)
    return links


def _describe(error: BaseException) -> str:
    kind = type(error)
    if kind.__module__.partition(".")[0] not in _KNOWN_ERRORS:
        return f"{kind.__module__}.{kind.__qualname__}"
    # From the first quote or brace on: a value may hold quotes itself, so that its end cannot be told.
    line = str(error).strip().partition("\n")[0]
    safe = re.sub(r"""((?<!\w)b?'|["{]).*""", "…", line)
    return f"{kind.__name__}: {safe[:MAX_ERROR_CHARS]}" if safe else kind.__name__


def _column_metrics(
    field: pa.Field, statistics: Any, rows: int
) -> data_quality_metrics_input_dataset.ColumnMetrics | None:
    """Take what the specification has a place for, from one column of `validation.statistics`, in the column's unit.

    A list's figures are of its lengths, a time's are since the epoch and a float's total is scaled: those stay out.
    """
    if not isinstance(statistics, dict) or not isinstance(statistics.get("nulls"), int):
        return None
    values, nulls = statistics.get("values"), statistics["nulls"]
    integer = pa.types.is_integer(field.type)
    number = integer or pa.types.is_floating(field.type)
    return data_quality_metrics_input_dataset.ColumnMetrics(
        nullCount=nulls,
        count=rows - nulls,
        distinctCount=None if values is None else len(values),
        min=_finite(statistics.get("low")) if number else None,
        max=_finite(statistics.get("high")) if number else None,
        sum=_finite(statistics.get("total")) if integer else None,
        quantiles=None,
    )


def _finite(figure: Any) -> float | None:
    """Return a number as it is, None for what JSON has no number for."""
    return figure if isinstance(figure, int | float) and math.isfinite(figure) else None
