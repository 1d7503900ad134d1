import json
import re
from dataclasses import replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import polars as pl
import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from toy_lineage import (
    ROOT,
    RUN,
    SHA,
    STARTED,
    TINY,
    input_refs,
    log_to,
    manifest_of,
    manifest_ref,
    stage_run,
    tell_everything,
    told,
)

from schemas.catalogue import CONTRACTS
from schemas.contract import TIMESTAMP, Contract, column
from schemas.inputs import EVENT, ITEM
from schemas.manifest import InputRef
from schemas.tallies import HISTORY
from validation.lineage_facets import PRODUCER, SourceCode, dataset_name, dataset_of, error_message

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


def test_item_types_nest_as_deep_as_the_contract():
    schema = told(lambda log: log.complete(stage_run(), manifest_of(ITEM), ITEM))[-1]["outputs"][0]["facets"]["schema"]
    (availability,) = [field for field in schema["fields"] if field["name"] == "availability"]
    (element,) = availability["fields"]
    assert [(f["name"], f["type"]) for f in element["fields"]] == [
        ("market", "string"), ("tiers", "array"), ("from_ts", "timestamp_us_utc"), ("to_ts", "timestamp_us_utc"),
    ]  # fmt: skip
