"""What trainings say of themselves, in the run's folder and in a local MLflow on SQLite."""

import dataclasses
import json

import pytest
from small_road import SmallRoad

from jobs import batch
from pipelines.batch import RoadResult, read_record
from pipelines.experiments import (
    EXPERIMENT,
    Experiment,
    ExperimentError,
    experiments,
    experiments_path,
    log_experiments,
)
from pipelines.runner import load_manifest
from transforms.io.store import Store, open_store

ONE = Experiment(
    "abc", "2026-01-31", "encoder", "code", "cpu", 7, {"dim": 64, "training": {"rate": 0.003}}, {"recall@20": 0.25},
    {"plays=100+": {"contexts": 3.0, "recall@20": 1.0}}, {"loss": (7.5, 6.25)},
)  # fmt: skip


@pytest.fixture
def found(small_road: SmallRoad) -> list[Experiment]:
    store = open_store(str(small_road.root))
    named = read_record(store, "2026-01-31")["manifests"]
    return experiments(store, [load_manifest(store, path) for name, path in named.items() if "training/" in name])


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """A client of a database of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = pytest.importorskip("mlflow").MlflowClient(uri)

    def runs():
        return client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])

    return uri, client, runs


def test_a_road_leaves_a_line_for_each_training(small_road: SmallRoad, found: list[Experiment]) -> None:
    store = open_store(str(small_road.root))
    lines = store.read_bytes(experiments_path("2026-01-31")).decode().splitlines()
    assert [json.loads(line)["family"] for line in lines] == ["encoder", "session_knn"]
    assert [json.loads(line) for line in lines] == json.loads(json.dumps([dataclasses.asdict(one) for one in found]))


def test_an_experiment_has_settings_metrics_slices_and_curves(found: list[Experiment]) -> None:
    encoder, sessions = found
    assert encoder.settings["training"]["epochs"] == 1
    assert len(encoder.curves["loss"]) == len(encoder.curves["validation"]) == 1
    assert sessions.curves == {}
    for one in found:
        assert 0 < one.metrics["recall@20"] <= one.metrics["recall@100"] <= 1
        assert {name.partition("=")[0] for name in one.slices} == {"type", "listens", "plays"}
        for kind in ("type=", "listens=", "plays="):
            parts = [row for name, row in one.slices.items() if name.startswith(kind)]
            of_all = sum(row["contexts"] * row["recall@100"] for row in parts) / sum(row["contexts"] for row in parts)
            assert of_all == pytest.approx(one.metrics["recall@100"])


def test_mlflow_is_told_everything_once(mlflow) -> None:
    uri, client, runs = mlflow
    assert log_experiments(uri, [ONE]) == 1
    assert log_experiments(uri, [ONE]) == 0
    [run] = runs()
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "family": "encoder", "device": "cpu", "seed": "7", "dim": "64", "training.rate": "0.003",
    }  # fmt: skip
    assert run.data.metrics == {
        "recall_at_20": 0.25, "contexts/plays_100_or_more": 3.0, "recall_at_20/plays_100_or_more": 1.0, "loss": 6.25,
    }  # fmt: skip
    assert [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "loss")] == [
        (1, 7.5),
        (2, 6.25),
    ]


def test_what_was_cut_off_while_it_was_logged_is_logged_anew(mlflow, monkeypatch) -> None:
    uri, client, runs = mlflow
    with monkeypatch.context() as patch:
        patch.setattr(type(client), "set_terminated", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            log_experiments(uri, [ONE])
    assert log_experiments(uri, [ONE]) == 1
    assert sorted(run.info.status for run in runs()) == ["FINISHED", "RUNNING"]


def result(store: Store) -> RoadResult:
    named = read_record(store, "2026-01-31")["manifests"]
    return RoadResult({name: load_manifest(store, path) for name, path in named.items()}, {})


def test_a_job_logs_where_the_uri_says(small_road: SmallRoad, mlflow, monkeypatch, capsys) -> None:
    uri, _, runs = mlflow
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    store = open_store(str(small_road.root))
    batch.log_to_mlflow(store, result(store))
    assert f"2 of 2 experiments logged to {uri}" in capsys.readouterr().err
    assert {run.data.params["family"] for run in runs()} == {"encoder", "session_knn"}


def test_a_server_that_does_not_answer_is_a_warning(small_road: SmallRoad, monkeypatch, capsys) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    store = open_store(str(small_road.root))
    batch.log_to_mlflow(store, result(store))
    said = capsys.readouterr().err
    assert "WARNING  experiments were not logged to http://127.0.0.1:9" in said
    assert "run the same command again" in said
    with pytest.raises(ExperimentError):
        log_experiments("http://127.0.0.1:9", [ONE])


def test_without_mlflow_the_job_does_not_start(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(batch, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"mlflow is not installed: .*\[mlflow\]"):
        batch.demand_mlflow()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    batch.demand_mlflow()
