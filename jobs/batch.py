"""Run the road for one date: `python -m jobs.batch --raw FOLDER --format raw --date YYYY-MM-DD`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from jobs.options import add_common, build_runner, iso_date, leave, parse_beam, read_language, read_policy
from pipelines.batch import RoadResult, in_words, run_road
from pipelines.bundle import BundleError
from pipelines.experiments import ExperimentError, experiments, log_experiments
from pipelines.inputs import InputError
from pipelines.publish import PublishError
from pipelines.recommend import SURFACES
from pipelines.road import Road
from pipelines.runner import Runner, StageFailed, StageRecord
from transforms.decode import UnreadableFile
from transforms.importers import SHAPES, import_folder
from transforms.io.broker import BrokerDown, BrokerError
from transforms.io.store import Store, StoreError, open_store

RAW = "raw"
MLFLOW = "MLFLOW_TRACKING_URI"
EXPECTED_ERRORS = (
    InputError, StageFailed, StoreError, PublishError, BundleError, UnreadableFile, ValueError, FileNotFoundError,
    BrokerError, BrokerDown,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the road and print the summary; 0 when the date is done or was already, 1 when it stopped, 2 on bad arguments."""
    parser = argparse.ArgumentParser(
        prog="jobs.batch", description="Raw events to published candidate sets, for one date."
    )
    parser.add_argument("--raw", required=True, help="input folder, local or gs://")
    parser.add_argument("--format", default=RAW, choices=(RAW, *sorted(SHAPES)), help="shape of the input folder")
    parser.add_argument("--date", required=True, type=iso_date, help="logical date: events up to its end count")
    add_common(parser)
    options, beam_args = parse_beam(parser, argv)
    return guarded(lambda: _run(options, beam_args))


def guarded(body) -> int:
    """Run a command; say an expected error in its own words, without a stack trace."""
    try:
        done = body()
        sys.stdout.flush()
        return done
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except EXPECTED_ERRORS as error:
        print(f"\nSTOPPED  {in_words(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nSTOPPED  interrupted; run the same command again to go on from here", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, beam_args: list[str]) -> int:
    store = open_store(options.root)
    with store.lock(f"batch {options.date}"):
        started = time.monotonic()
        raw = open_raw(options.raw, options.format, options.date, store)
        runner, result = run_date(store, raw, options.date, options, beam_args, "batch")
        print(summary(runner.records, result, time.monotonic() - started))
        print(f"\n  page  {write_page(store, options.date.isoformat())}")
    return 0


def open_raw(raw: str, shape: str, end, store: Store) -> Store:
    """Open a raw folder; another shape is imported first, beside the root's data, and stamped to end on `end`."""
    if shape == RAW:
        return open_store(raw)
    if store.root.startswith("gs://"):
        raise ValueError(
            f"FORMAT={shape} imports to a local folder: give ROOT= a local folder, or import first and upload"
        )
    out = Path(store.root, "import", f"{shape}-{end}")
    done = import_folder(shape, Path(raw), out, end, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    print(f"  imported {done.events:,} events, {done.items:,} items, {done.users:,} users", file=sys.stderr)
    return open_store(str(out))


def run_date(
    store: Store, raw: Store, date, options: argparse.Namespace, beam_args: list[str], mode: str
) -> tuple[Runner, RoadResult]:
    """Run the road for a date with the given options; the caller holds the root's lock."""
    demand_mlflow()
    config = {"raw": raw.root, "shards": options.shards, "mode": mode}
    runner = build_runner(store, date.isoformat(), beam_args, options.waivers, config)
    policy, language = read_policy(options.policy), read_language(options)
    road = Road(date, options.shards, policy, runner.code_version, mode, options.device, language)
    surfaces = tuple(options.surface or SURFACES)
    runner.lineage.start_run(runner.parent)
    try:
        result = run_road(runner, road, raw, surfaces)
    except BaseException as error:
        runner.lineage.fail_run(runner.parent, error)
        raise
    runner.lineage.complete_run(runner.parent)
    log_to_mlflow(store, result)
    return runner, result


def log_to_mlflow(store: Store, result: RoadResult) -> None:
    """Log the road's experiments where MLFLOW_TRACKING_URI is set; a server that fails does not undo a release."""
    uri = os.environ.get(MLFLOW)
    if not uri:
        return
    trainings = [manifest for name, manifest in result.manifests.items() if name.startswith("training/")]
    try:
        logged = log_experiments(uri, experiments(store, trainings))
        print(f"  {logged} of {len(trainings)} experiments logged to {uri}", file=sys.stderr)
    except ExperimentError as error:
        print(
            f"  WARNING  experiments were not logged to {uri}: {error}\n  What was published stands, and the experiments"
            " lie beside the run's record; run the same command again to log them.",
            file=sys.stderr,
        )


def demand_mlflow() -> None:
    """Refuse to start where experiments are to be logged and cannot be.

    Raises:
      ValueError: MLFLOW_TRACKING_URI is set and MLflow is not installed.
    """
    if os.environ.get(MLFLOW) and not find_spec("mlflow"):
        raise ValueError(
            f"{MLFLOW} is set, but mlflow is not installed: .venv/bin/pip install -e '.[mlflow]', or unset it"
        )


def write_page(store: Store, day: str) -> str:
    """Write the report page of a date and return its place; a page that fails does not undo a release."""
    from jobs.report import write_report

    try:
        return write_report(store, day)
    except EXPECTED_ERRORS as error:
        return f"could not be written: {in_words(error)} What was published stands; make report DATE={day} writes it."


def summary(records: Sequence[StageRecord], result: RoadResult, seconds: float) -> str:
    """Return the table a run ends with."""
    head = f"\n  {'stage':<26}{'in':>12}{'out':>12}{'rejected':>10}{'checks':>9}{'seconds':>9}{'peak MB':>9}"
    lines = [head, *map(_line, records)]
    did = sum(not record.skipped for record in records)
    lines.append(f"\n  {did} of {len(records)} stages ran, {len(records) - did} unchanged, {seconds:.1f} s")
    lines += [f"  {surface:<12} {state}" for surface, state in result.released.items()]
    return "\n".join(lines)


def _line(record: StageRecord) -> str:
    checks = f"{record.checks_passed}/{record.checks_total}"
    cost = f"{'-':>9}{'-':>9}" if record.skipped else f"{record.seconds:>9.1f}{record.peak_bytes / 2**20:>9,.0f}"
    return f"  {record.stage:<26}{record.rows_in:>12,}{record.rows_out:>12,}{record.rejected:>10,}{checks:>9}{cost}"


if __name__ == "__main__":
    leave(main())
