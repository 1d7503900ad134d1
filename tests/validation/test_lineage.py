import contextlib
import json
import logging
import re
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

import polars as pl
import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

from schemas.catalogue import CONTRACTS
from schemas.contract import TIMESTAMP, Contract, column
from schemas.inputs import EVENT, ITEM
from schemas.manifest import CheckResult, DataFile, InputRef, Manifest, dataset_folder
from schemas.tallies import HISTORY
from validation import lineage
from validation.lineage import LineageLog, PipelineRun, Replayed, StageRun, replay
from validation.lineage_facets import PRODUCER, SourceCode, dataset_name, dataset_of, error_message

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


# ---------------------------------------------------------------- against the published schemas

FORMATS = FormatChecker()


@FORMATS.checks("date-time", raises=ValueError)
def _is_date_time(value) -> bool:
    return datetime.fromisoformat(value).tzinfo is not None and "T" in value


@FORMATS.checks("uri", raises=ValueError)
def _is_uri(value) -> bool:
    return bool(urlsplit(value).scheme)


class Spec:
    """The published schemas, and what of an event contradicts them."""

    def __init__(self, folder):
        files = [folder / "OpenLineage.json", *sorted((folder / "facets").glob("*.json"))]
        documents = [json.loads(file.read_text()) for file in files]
        self.core, self.by_id = documents[0], {document["$id"]: document for document in documents}
        self.registry = Registry().with_resources([(i, Resource.from_contents(d)) for i, d in self.by_id.items()])

    def faults(self, event: dict) -> list[str]:
        return self._faults(self.core, event) + [
            fault for where in self._facets(event) for fault in self._facet(*where)
        ]

    def _faults(self, schema: dict, value: dict) -> list[str]:
        validator = Draft202012Validator(schema, registry=self.registry, format_checker=FORMATS)
        return [leaf.message for error in validator.iter_errors(value) for leaf in (error.context or [error])]

    def _facets(self, event: dict):
        places = [("RunFacet", event["run"]["facets"]), ("JobFacet", event["job"]["facets"])]
        for side, dataset in [("Input", d) for d in event["inputs"]] + [("Output", d) for d in event["outputs"]]:
            places.append(("DatasetFacet", dataset["facets"]))
            places.append((f"{side}DatasetFacet", dataset[f"{side.lower()}Facets"]))
        return [(place, name, facet) for place, facets in places for name, facet in facets.items()]

    def _facet(self, place: str, name: str, facet: dict) -> list[str]:
        url, _, pointer = facet["_schemaURL"].partition("#/$defs/")
        if url not in self.by_id:
            return [f"{url} is not among the published schemas"]
        document = self.by_id[url]
        if document["properties"].get(name) != {"$ref": f"#/$defs/{pointer}"}:
            return [f"{pointer} is not called {name}"]
        base, own = document["$defs"][pointer]["allOf"]
        wrong_place = [] if base["$ref"].endswith(f"/{place}") else [f"{name} is out of place as a {place}"]
        unknown = sorted(set(facet) - set(own["properties"]) - {"_producer", "_schemaURL", "_deleted"})
        return wrong_place + [f"{name} has no field {key}" for key in unknown] + self._faults(document, {name: facet})


@pytest.fixture(scope="module")
def spec(data_dir) -> Spec:
    return Spec(data_dir / "openlineage-spec")


@pytest.mark.data
@pytest.mark.parametrize("contract", [*CONTRACTS.values(), TINY], ids=lambda contract: contract.name)
def test_every_event_follows_the_published_schemas(spec, contract):
    events = told(tell_everything(contract), source=SourceCode("https://example.org/segue.git", SHA))

    assert [event["eventType"] for event in events] == [
        "START", "START", "START", "COMPLETE", "COMPLETE", "START", "FAIL", "FAIL", "COMPLETE",
    ]  # fmt: skip
    assert [spec.faults(event) for event in events] == [[]] * len(events)


def _rename(facet: dict, old: str, new: str) -> None:
    facet[new] = facet.pop(old)


FAULTS = {
    "event type": (lambda event, _in, _out: event.update(eventType="FINISHED"), "'FINISHED' is not one of"),
    "run id": (lambda event, _in, _out: event["run"].update(runId="42"), "'42' is not a 'uuid'"),
    "event time": (lambda event, _in, _out: event.update(eventTime="2024-03-01"), "'2024-03-01' is not a 'date-time'"),
    "field name": (
        lambda _event, _in, out: _rename(out["facets"]["version"], "datasetVersion", "version"),
        "'datasetVersion' is a required property",
    ),
    "optional field name": (
        lambda _event, _in, out: _rename(out["outputFacets"]["outputStatistics"], "rowCount", "rowcount"),
        "outputStatistics has no field rowcount",
    ),
    "facet name": (
        lambda _event, _in, out: _rename(out["facets"], "schema", "fields"),
        "SchemaDatasetFacet is not called fields",
    ),
    "place": (
        lambda _event, in_, out: out["outputFacets"].update(in_["inputFacets"]),
        "inputStatistics is out of place as a OutputDatasetFacet",
    ),
    "type of a value": (
        lambda _event, in_, _out: in_["inputFacets"]["inputStatistics"].update(rowCount="10"),
        "'10' is not of type 'integer'",
    ),
}


@pytest.mark.data
@pytest.mark.parametrize("name", FAULTS)
def test_validation_catches_a_planted_fault(spec, name):
    plant, expected = FAULTS[name]
    event = told(tell_everything(HISTORY))[4]
    assert spec.faults(event) == []
    plant(event, event["inputs"][0], event["outputs"][0])
    assert any(expected in fault for fault in spec.faults(event)), spec.faults(event)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("location", "namespace", "name"),
    [
        ("/srv/segue", "file", "/srv/segue"),
        ("/srv//segue/./x/../", "file", "/srv/segue"),
        ("//srv/segue", "file", "/srv/segue"),
        ("file:///srv/segue/", "file", "/srv/segue"),
        ("file://localhost/srv/segue", "file", "/srv/segue"),
        ("file:/srv/segue", "file", "/srv/segue"),
        ("file:///srv/a%20b", "file", "/srv/a b"),
        ("/srv/a b", "file", "/srv/a b"),
        ("/", "file", "/"),
        ("gs://bucket/segue/data", "gs://bucket", "segue/data"),
        ("gs://bucket/segue/", "gs://bucket", "segue"),
        ("gs://bucket", "gs://bucket", "/"),
        ("gs://bucket/", "gs://bucket", "/"),
        ("gs://s/s/what?#not", "gs://s", "s/what?#not"),
    ],
)
def test_names_follow_the_naming_rules(location, namespace, name):
    assert dataset_name(location) == (namespace, name)


@pytest.mark.parametrize("location", ["segue", "./segue", "", "file://host/srv", "gs:///segue", "s3://bucket/x"])
def test_a_location_that_names_nothing_is_refused(location):
    with pytest.raises(ValueError, match=r"expected an absolute path, file:///\.\.\. or gs://bucket/\.\.\., got"):
        dataset_name(location)


@pytest.mark.parametrize(
    ("root", "path", "name"),
    [
        (ROOT, "data/event/date=2024-03-01/run=k/manifest.json", ("file", "/srv/segue/data/event")),
        (ROOT + "/", "data/event/date=2024-03-01/run=k/part-0.parquet", ("file", "/srv/segue/data/event")),
        ("gs://b/r", "data/event/date=2024-03-01/run=k/manifest.json", ("gs://b", "r/data/event")),
        ("gs://b", "data/event/date=2024-03-01/run=k/manifest.json", ("gs://b", "data/event")),
        ("gs://b/r", "/raw/events/a.jsonl", ("file", "/raw/events")),
        (ROOT, "gs://raw/events/date=2024-03-01/a.jsonl", ("gs://raw", "events")),
        (ROOT, "file:///raw/events/a.jsonl", ("file", "/raw/events")),
    ],
)
def test_a_dataset_is_its_folder_without_partitions(root, path, name):
    assert dataset_of(root, path) == name


def test_a_stage_reads_under_the_name_it_was_written_under():
    written = manifest_of(EVENT)
    reader = stage_run(InputRef("events_so_far", written.path, written.digest, written.rows_out))

    outputs = told(lambda log: log.complete(stage_run(), written, EVENT))[-1]["outputs"]
    inputs = told(lambda log: log.start(reader))[0]["inputs"]

    assert [(d["namespace"], d["name"]) for d in inputs] == [(d["namespace"], d["name"]) for d in outputs]
    assert inputs[0]["facets"]["version"] == outputs[0]["facets"]["version"]
    assert outputs[0]["facets"]["version"]["datasetVersion"] == written.digest


def test_jobs_and_runs_are_named_by_parent_stage_and_qualifier():
    home = stage_run(stage="retrieve", qualifier="home")
    events = told(lambda log: log.complete(home, manifest_of(TINY), TINY))

    assert {event["job"]["namespace"] for event in events} == {"segue"}
    assert [event["job"]["name"] for event in events] == [
        "road.retrieve.home.check", "road.retrieve.home.check", "road.retrieve.home",
    ]  # fmt: skip
    check, _, stage = (event["run"] for event in events)
    assert stage["facets"]["parent"]["run"]["runId"] == str(RUN.run_uuid)
    assert stage["facets"]["parent"]["job"]["name"] == "road"
    assert check["facets"]["parent"]["run"]["runId"] == stage["runId"] == str(home.run_uuid)
    assert check["facets"]["parent"]["job"]["name"] == "road.retrieve.home"
    assert check["facets"]["parent"]["root"]["run"]["runId"] == str(RUN.run_uuid)


def test_runs_have_identities_of_their_own():
    first = stage_run()
    others = [
        replace(first, stage="x"), replace(first, qualifier="x"), replace(first, key="x"),
        replace(first, date="2024-03-02"),
        replace(first, parent=replace(RUN, started=STARTED + timedelta(milliseconds=1))),
        replace(first, stage="hist", qualifier="ories"),
    ]  # fmt: skip
    identities = {run.run_uuid for run in [first, *others]} | {RUN.run_uuid, first.identity("check")}
    assert len(identities) == len(others) + 3
    assert {identity.version for identity in identities} == {7}
    assert stage_run().run_uuid == first.run_uuid


def test_equal_runs_write_equal_bytes():
    lines: list[list[str]] = [[], []]
    for each in lines:
        tell_everything(HISTORY)(log_to(each))
    assert lines[0] == lines[1]
    assert len(lines[0]) == 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(RUN, name=""), "needs the name of its job, got an empty one"),
        (lambda: replace(stage_run(), stage=""), "needs the name of its job, got an empty one"),
        (lambda: replace(RUN, started=datetime(2024, 3, 2)), "road: expected an aware start time, got 2024-03-02T00:"),
        (lambda: replace(RUN, date="1 March"), "road: expected a date as YYYY-MM-DD, got '1 March'"),
        (lambda: SourceCode("git@example.org:segue", SHA), "expected the repository's https:// address, got 'git@"),
        (lambda: SourceCode("https://example.org/segue", "main"), "a full git commit of 40 hex digits, got 'main'"),
        (lambda: log_to([], root="segue"), "expected an absolute path"),
        (lambda: log_to([], http_url="marquez"), "Need valid url"),
    ],
)  # fmt: skip
def test_a_contradictory_construction_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


# ---------------------------------------------------------------- facets


def columns_of(event: dict) -> dict[str, list[tuple[str, str, list[str]]]]:
    fields = event["outputs"][0]["facets"]["columnLineage"]["fields"]
    return {
        name: [(i["name"], i["field"], [t["type"] for t in i["transformations"]]) for i in field["inputFields"]]
        for name, field in fields.items()
    }


def test_column_lineage_names_what_the_contract_derives_a_column_from():
    inputs = (replace(manifest_ref("event"), name="new_events"), InputRef("raw_event", "/raw/events/a.jsonl", "f1"))
    run = stage_run(*inputs)
    event = told(lambda log: log.complete(run, manifest_of(TINY, inputs), TINY))[-1]

    events = "/srv/segue/data/event"
    assert columns_of(event) == {
        "user_id": [(events, "user_id", ["DIRECT"])],
        "plays": [(events, "event_ts", ["INDIRECT"]), (events, "label", ["DIRECT"])],
        "both": [(events, "label", ["DIRECT", "INDIRECT"])],
        "market": [("/raw/events", "market", ["DIRECT"])],  # user was not read
    }
    assert {d["name"] for d in event["inputs"]} == {events, "/raw/events"}


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda contract: contract.name)
def test_column_lineage_points_only_at_inputs_of_the_run_and_covers_every_derivation(contract):
    inputs = input_refs(contract)
    event = told(lambda log: log.complete(stage_run(*inputs), manifest_of(contract, inputs), contract))[-1]
    emitted = {dataset["name"] for dataset in event["inputs"]}
    derived = {name: sources for name, sources in contract.derivations().items() if sources}
    if not derived:
        assert "columnLineage" not in event["outputs"][0]["facets"]
        return
    lineage_ = columns_of(event)
    assert {name for fields in lineage_.values() for name, _, _ in fields} == emitted
    assert {c: sum(len(kinds) for *_, kinds in fields) for c, fields in lineage_.items()} == {
        c: len(set(sources)) for c, sources in derived.items()
    }


def test_a_dataset_in_several_manifests_is_one_input():
    refs = [manifest_ref("event", "d1", 10), manifest_ref("event", "d2", 5)]
    (dataset,) = told(lambda log: log.start(stage_run(*refs)))[0]["inputs"]
    (turned,) = told(lambda log: log.start(stage_run(*reversed(refs))))[0]["inputs"]

    assert dataset["inputFacets"]["inputStatistics"]["rowCount"] == 15
    assert "fileCount" not in dataset["inputFacets"]["inputStatistics"]
    assert dataset["facets"]["version"]["datasetVersion"] not in ("d1", "d2")
    assert dataset == turned


def test_raw_files_are_counted_and_unknown_rows_left_out():
    refs = [InputRef("raw_event", f"/raw/{name}.jsonl", name, rows) for name, rows in [("a", 3), ("b", None)]]
    statistics = told(lambda log: log.start(stage_run(*refs)))[0]["inputs"][0]["inputFacets"]["inputStatistics"]
    assert (statistics.get("rowCount"), statistics["fileCount"]) == (None, 2)

    unknown = told(lambda log: log.start(stage_run(manifest_ref("event", rows=None))))[0]["inputs"][0]
    assert unknown["inputFacets"] == {}


def test_the_output_carries_the_contract_and_what_was_written():
    event = told(lambda log: log.complete(stage_run(), manifest_of(TINY), TINY))[-1]
    (output,) = event["outputs"]
    facets, statistics = output["facets"], output["outputFacets"]["outputStatistics"]

    assert (output["namespace"], output["name"]) == ("file", "/srv/segue/data/tiny")
    assert (statistics["rowCount"], statistics["size"], statistics["fileCount"]) == (1000, 8000, 2)
    assert facets["ownership"]["owners"] == [{"name": "segue-tests"}]
    assert facets["documentation"]["description"] == "A small dataset."
    assert (facets["storage"]["storageLayer"], facets["storage"]["fileFormat"]) == ("file", "parquet")
    assert [
        (f["name"], f["type"], f.get("description"), f["ordinal_position"]) for f in facets["schema"]["fields"]
    ] == [
        ("user_id", "string", "Who.", 1),
        ("plays", "int64", "How many. Unit: plays.", 2),
        ("both", "int64", "Both ways.", 3),
        ("market", "string", "Where.", 4),
        ("constant", "int64", "From nothing.", 5),
        ("vector", "array<float32>[4]", "A vector.", 6),
        ("seen", "array", "Items.", 7),
    ]
    assert facets["schema"]["fields"][6]["fields"] == [
        {"name": "_element", "type": "struct", "fields": [{"name": "item_id", "type": "string"}]}
    ]


def test_a_dataset_in_the_cloud_says_so():
    output = told(lambda log: log.complete(stage_run(), manifest_of(TINY), TINY), root="gs://b/r")[-1]["outputs"][0]
    assert (output["namespace"], output["name"]) == ("gs://b", "r/data/tiny")
    assert output["facets"]["storage"]["storageLayer"] == "gs"


def test_checks_are_facets_of_the_input_of_the_checking_job():
    contract = replace(TINY, schema=TINY.schema.append(column("label", pa.float32(), "A label.")))
    _, check, stage = told(lambda log: log.complete(stage_run(), manifest_of(contract), contract))
    (checked,) = check["inputs"]

    assert (checked["name"], check["outputs"]) == ("/srv/segue/data/tiny", [])
    assert checked["facets"]["version"]["datasetVersion"] == manifest_of(contract).digest
    metrics = checked["inputFacets"]["dataQualityMetrics"]
    assert (metrics["rowCount"], metrics["bytes"], metrics["fileCount"]) == (1000, 8000, 2)
    assert metrics["columnMetrics"] == {
        "user_id": {"nullCount": 3, "count": 997, "distinctCount": 2},
        "plays": {"nullCount": 0, "count": 1000, "min": -1, "max": 9, "sum": 4000},
        "both": {"nullCount": 1000, "count": 0, "sum": 0},
    }
    assert checked["inputFacets"]["dataQualityAssertions"]["assertions"] == [
        {"assertion": "between", "column": "label", "success": True, "severity": "error", "name": "label:between",
         "expected": "<= 0.01", "actual": "0.0", "params": {"layer": "rows", "outcome": "passed", "of": 1000}},
        {"assertion": "rows_against_last_run", "success": False, "severity": "warn", "name": "rows_against_last_run",
         "description": "too few rows", "expected": ">= 0.7", "actual": "0.6",
         "params": {"layer": "statistics", "outcome": "failed", "of": 1000}},
        {"assertion": "unique_key", "success": False, "severity": "error", "name": "unique_key",
         "expected": "no duplicates", "params": {"layer": "expectations", "outcome": "broken"}},
        {"assertion": "popularity_drift", "success": False, "severity": "error", "name": "popularity_drift",
         "expected": "<= 0.25", "actual": "0.4", "params": {"layer": "statistics", "outcome": "waived"}},
    ]  # fmt: skip
    assert "dataQualityAssertions" not in json.dumps(stage)


def test_a_dataset_nobody_checked_has_no_checking_job():
    bare = manifest_of(TINY, statistics={}, checks=())
    assert [e["job"]["name"] for e in told(lambda log: log.complete(stage_run(), bare, TINY))] == ["road.histories"]


@pytest.mark.parametrize(
    ("name", "type_", "kept"),
    [
        ("label", pa.float32(), {"min": 1, "max": 2}),
        ("event_ts", TIMESTAMP, {}),
        ("artists", pa.list_(pa.string()), {}),
    ],
)
def test_figures_in_another_unit_than_the_column_stay_out(name, type_, kept):
    contract = replace(TINY, schema=TINY.schema.append(column(name, type_, "A column.")))
    figures = {"nulls": 4, "low": 1, "high": 2, "total": 3}
    assert metrics_of(contract, {"rows": 10, "columns": {name: figures}}) == {
        name: {"nullCount": 4, "count": 6, **kept}
    }


@pytest.mark.parametrize("figures", [None, 7, {}, {"nulls": "3"}])
def test_statistics_of_another_shape_are_left_out(figures):
    assert metrics_of(TINY, {"rows": 10, "columns": {"plays": figures}}) == {}
    assert metrics_of(TINY, {"rows": 10}) == {}


def test_a_figure_that_is_no_number_is_left_out():
    figures = {"nulls": 0, "low": float("-inf"), "high": float("nan"), "total": None}
    assert metrics_of(TINY, {"rows": 10, "columns": {"plays": figures}}) == {"plays": {"nullCount": 0, "count": 10}}


def metrics_of(contract: Contract, statistics: dict) -> dict:
    manifest = manifest_of(contract, statistics=statistics)
    checked = told(lambda log: log.complete(stage_run(), manifest, contract))[1]["inputs"][0]
    return checked["inputFacets"]["dataQualityMetrics"]["columnMetrics"]


def test_a_run_carries_day_engine_parameters_and_source():
    events = told(tell_everything(TINY), source=SourceCode("https://example.org/segue.git", SHA))
    start, job = events[1]["run"]["facets"], events[1]["job"]["facets"]

    assert start["nominalTime"]["nominalStartTime"] == "2024-03-01T00:00:00+00:00"
    assert start["nominalTime"]["nominalEndTime"] == "2024-03-02T00:00:00+00:00"
    assert start["processing_engine"]["name"] == "Apache Beam"
    assert start["processing_engine"]["version"].startswith("2.")
    assert {p["key"]: p["value"] for p in start["executionParameters"]["parameters"]} == {
        "code_version": "0.1.0+abcd", "config.window": "90", "config.nested.on": "true",
    }  # fmt: skip
    assert (job["jobType"]["processingType"], job["jobType"]["integration"]) == ("BATCH", "BEAM")
    assert job["sourceCodeLocation"]["url"] == f"https://example.org/segue/tree/{SHA}"
    assert {event["producer"] for event in events} == {PRODUCER}
    assert PRODUCER in json.dumps(start["nominalTime"])
    assert "sourceCodeLocation" not in told(lambda log: log.start_run(RUN))[0]["job"]["facets"]
    assert events[0]["eventTime"] == "2024-03-02T04:05:07.000000+00:00"


def test_a_failure_says_what_and_where_and_carries_the_checks():
    failed = told(tell_everything(TINY))[6]
    assert failed["eventType"] == "FAIL"
    assert failed["run"]["facets"]["errorMessage"]["message"] == (
        "RuntimeError: blend home stopped: 1 critical check(s) failed."
    )
    tests = failed["run"]["facets"]["test"]["tests"]
    assert [(t["name"], t["status"], t["severity"]) for t in tests] == [
        ("label:between", "pass", "error"), ("rows_against_last_run", "fail", "warn"), ("unique_key", "skip", "error"),
        ("popularity_drift", "fail", "error"),
    ]  # fmt: skip
    assert failed["outputs"] == []


def raised(make) -> BaseException:
    try:
        make()
    except BaseException as error:
        return error
    raise AssertionError("expected an error")


def _raise(error: BaseException, cause: BaseException | None = None):
    raise error from cause


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _raise(ValueError("row 3: wanted 1, got 'SECRET'")), "ValueError: row 3: wanted 1, got …"),
        (lambda: _raise(ValueError("it can't be 'it's SECRET")), "ValueError: it can't be …"),
        (lambda: _raise(ValueError("got b'SECRET'")), "ValueError: got …"),
        (lambda: _raise(ValueError('bad row {"user_id": "SECRET"} in part 3')), "ValueError: bad row …"),
        (lambda: _raise(ValueError("first\nSECRET")), "ValueError: first"),
        (lambda: int("SECRET"), "ValueError: invalid literal for int() with base 10: …"),
        (lambda: {}["SECRET"], "KeyError: …"),
        (lambda: _raise(RuntimeError()), "RuntimeError"),
        (lambda: _raise(OSError(28, "No space left", "/x")), "OSError: [Errno 28] No space left: …"),
        (lambda: _raise(RuntimeError("stage stopped"), ValueError("got 'SECRET'")),
         "RuntimeError: stage stopped <- ValueError: got …"),
        (lambda: pl.Series(["SECRET"]).cast(pl.Int64), "polars.exceptions.InvalidOperationError"),
    ],
)  # fmt: skip
def test_an_error_is_told_without_values_of_rows(make, message):
    facet = error_message(raised(make))
    assert facet.message == message
    assert "SECRET" not in f"{facet.message}{facet.stackTrace}"
    assert "test_lineage.py" in facet.stackTrace


def test_a_long_error_is_cut():
    assert len(error_message(ValueError("x" * 5000)).message) == len("ValueError: ") + 300


# ---------------------------------------------------------------- delivery


@contextlib.contextmanager
def server(status: int = 201, delay_s: float = 0.0):
    """Serve OpenLineage on a free port; yields its address and the bodies that came."""
    bodies: list[str] = []

    class Lineage(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            time.sleep(delay_s)
            with contextlib.suppress(OSError):
                self.send_response(status if self.path == "/api/v1/lineage" else 404)
                self.end_headers()

        def log_message(self, *args):
            pass

    listener = HTTPServer(("127.0.0.1", 0), Lineage)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}", bodies
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def closed_port() -> str:
    with server() as (url, _):
        return url


def test_a_server_gets_every_event_as_the_file_has_it():
    lines: list[str] = []
    with server() as (url, bodies):
        tell_everything(HISTORY)(log_to(lines, http_url=url))
    assert bodies == lines
    assert len(lines) == 9


def test_an_event_is_in_the_file_before_it_is_sent():
    seen: list[int] = []
    with server() as (url, bodies):
        log = LineageLog(lambda _: seen.append(len(bodies)), ROOT, clock(), http_url=url)
        log.start_run(RUN)
        log.complete_run(RUN)
    assert seen == [0, 1]


@pytest.mark.parametrize("trouble", ["down", "error", "slow"])
def test_a_server_that_fails_costs_one_try_and_one_warning(trouble, caplog, monkeypatch):
    monkeypatch.setattr(lineage, "HTTP_TIMEOUT_S", 0.1)
    status, delay_s = (500, 0.0) if trouble == "error" else (201, 0.4)
    lines: list[str] = []
    with server(status, delay_s) as (url, bodies), caplog.at_level(logging.WARNING, "validation.lineage"):
        tell_everything(HISTORY)(log_to(lines, http_url=closed_port() if trouble == "down" else url))
    assert len(lines) == 9
    assert len(bodies) == (0 if trouble == "down" else 1)
    (record,) = caplog.records
    assert "validation.lineage.replay(lines, http_url)" in record.getMessage()
    assert "this run sends it nothing more" in record.getMessage()


def test_a_lineage_file_that_fails_is_told_once_and_stops_nothing(caplog):
    def full(_line: str) -> None:
        raise RuntimeError("no space left")

    with server() as (url, bodies), caplog.at_level(logging.WARNING, "validation.lineage"):
        log = LineageLog(full, ROOT, clock(), http_url=url)
        log.start_run(RUN)
        log.complete_run(RUN)
    assert len(bodies) == 2
    (record,) = caplog.records
    assert record.getMessage() == ("the lineage file cannot be written and will lack events of this run: no space left")


def test_replay_sends_the_same_events_again():
    lines: list[str] = []
    tell_everything(HISTORY)(log_to(lines))
    file = [line + "\n" for line in lines]
    with server() as (url, bodies):
        assert replay(file, url) == Replayed(9, ())
        assert replay(file, url) == Replayed(9, ())
    assert bodies == lines + lines


def test_replay_passes_over_a_line_cut_short_and_reports_it():
    lines: list[str] = []
    tell_everything(HISTORY)(log_to(lines))
    file = [lines[0], "", lines[1][:100], lines[2], "[1]", '{"no": "event"}']
    with server() as (url, bodies):
        assert replay(file, url) == Replayed(2, (3, 5, 6))
    assert bodies == [lines[0], lines[2]]


def test_replay_says_how_far_it_came():
    lines: list[str] = []
    tell_everything(HISTORY)(log_to(lines))
    with server(500) as (url, _), pytest.raises(ConnectionError, match=r"did not take line 1 after 0 event\(s\): 500"):
        replay(lines, url)
    with pytest.raises(ConnectionError, match="Replay the whole file again"):
        replay(lines, closed_port())


def test_item_types_nest_as_deep_as_the_contract():
    schema = told(lambda log: log.complete(stage_run(), manifest_of(ITEM), ITEM))[-1]["outputs"][0]["facets"]["schema"]
    (availability,) = [field for field in schema["fields"] if field["name"] == "availability"]
    (element,) = availability["fields"]
    assert [(f["name"], f["type"]) for f in element["fields"]] == [
        ("market", "string"), ("tiers", "array"), ("from_ts", "timestamp_us_utc"), ("to_ts", "timestamp_us_utc"),
    ]  # fmt: skip
