"""Experiments: what each training of a road was given and how good it came out, as JSON lines and, if asked, in MLflow."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from schemas.manifest import Manifest
from transforms.io.store import Store
from transforms.train import FINISHED

EXPERIMENT = "segue"
RUN_TAG = "segue.run"
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


class ExperimentError(RuntimeError):
    """Experiments could not be logged."""


@dataclasses.dataclass(frozen=True, slots=True)
class Experiment:
    """One training.

    Attributes:
      run: its stage's key: equal keys, equal models.
      date: as of whose end it was trained.
      metrics: figures on held-out listens, by name, of the model that had not seen them.
      slices: the same over parts of them, by slice and name; `contexts` says over how many.
      curves: figures by epoch, from the first on.
    """

    run: str
    date: str
    family: str
    code_version: str
    device: str
    seed: int
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    slices: Mapping[str, Mapping[str, float]]
    curves: Mapping[str, tuple[float, ...]]


def experiments(store: Store, trainings: Iterable[Manifest]) -> list[Experiment]:
    """Read what committed trainings say of themselves, sorted by family."""
    return sorted((_experiment(store, one) for one in trainings), key=lambda one: (one.family, one.date))


def _experiment(store: Store, training: Manifest) -> Experiment:
    files = [store.local(file.path) for file in training.files]
    rows = pl.scan_parquet(files, hive_partitioning=False).sort("epoch", "name").collect(engine="in-memory")
    metrics, slices, curves = dict[str, float](), dict[str, dict[str, float]](), dict[str, tuple[float, ...]]()
    for epoch, full_name, value in rows.select("epoch", "name", "value").iter_rows():
        name, _, slice_ = full_name.removesuffix("]").partition("[")
        if epoch != FINISHED:
            curves[name] = (*curves.get(name, ()), value)
        elif slice_:
            slices.setdefault(slice_, {})[name] = value
        else:
            metrics[name] = value
    config = training.config
    return Experiment(
        training.run, training.date, training.qualifier, training.code_version, config["device"], config["seed"],
        config["settings"], metrics, slices, curves,
    )  # fmt: skip


def experiments_path(day: str) -> str:
    """Return where the experiments of a date lie."""
    return f"runs/date={day}/experiments.jsonl"


def write_experiments(store: Store, day: str, found: Iterable[Experiment]) -> None:
    """Write the trainings a date is served from, a line each."""
    lines = [json.dumps(dataclasses.asdict(one), sort_keys=True) for one in found]
    store.write_bytes(experiments_path(day), "".join(f"{line}\n" for line in lines).encode())


def log_experiments(tracking_uri: str, found: Iterable[Experiment]) -> int:
    """Log to MLflow what is not there yet, told by the tag `segue.run`; return how many were logged.

    A run that was cut off while it was logged is not marked as finished and is logged anew.

    Raises:
      ExperimentError: MLflow does not answer, or refuses.
      ModuleNotFoundError: it is not installed.
    """
    from mlflow.exceptions import MlflowException

    os.environ.setdefault(RETRIES, "2")  # its own 7 keep a finished run waiting for minutes
    try:
        return _log(tracking_uri, found)
    except MlflowException as error:
        raise ExperimentError(str(error)) from error


def _log(tracking_uri: str, found: Iterable[Experiment]) -> int:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(tracking_uri)
    known = client.get_experiment_by_name(EXPERIMENT)
    place = known.experiment_id if known else client.create_experiment(EXPERIMENT)
    logged = 0
    for one in found:
        there = f"tags.`{RUN_TAG}` = '{one.run}' and attributes.status = 'FINISHED'"
        if client.search_runs([place], there, max_results=1):
            continue
        tags = {RUN_TAG: one.run, "segue.date": one.date, "segue.code_version": one.code_version}
        run = client.create_run(place, run_name=f"{one.family} {one.date}", tags=tags).info.run_id
        given = {"family": one.family, "device": one.device, "seed": one.seed, **_flat(one.settings)}
        points = [(name, value, epoch) for name, curve in one.curves.items() for epoch, value in enumerate(curve, 1)]
        points += [(name, value, 0) for name, value in one.metrics.items()]
        points += [(f"{name}/{part}", value, 0) for part, row in one.slices.items() for name, value in row.items()]
        metrics = [Metric(_metric_name(name), value, 0, step) for name, value, step in points]
        client.log_batch(run, metrics=metrics, params=[Param(name, str(value)) for name, value in given.items()])
        client.set_terminated(run)
        logged += 1
    return logged


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level: `training.rate`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _metric_name(name: str) -> str:
    """Return a name MLflow takes: letters, digits, and `_-. :/`."""
    return name.replace("@", "_at_").replace("=", "_").replace("+", "_or_more")
