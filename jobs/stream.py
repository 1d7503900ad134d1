"""Turn listening events from Pub/Sub into Now Playing sets on Pub/Sub: `python -m jobs.stream --root ROOT`.

The same messages in any order, any number of times, give the same sets. Killed at any moment, it loses nothing.
"""

import argparse
import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # read when Polars is loaded: what a batch of a stream holds is small

from jobs.batch import guarded
from jobs.broker import add_broker, own_broker, state_folder
from jobs.options import leave, parse_beam, positive
from pipelines.delta import DeltaError
from pipelines.live import Following, open_sessions
from pipelines.stream import InBackground, Stream
from pipelines.stream_metrics import Metrics
from pipelines.stream_validation import LOG, Validation
from pipelines.stream_views import Terminal, serve_metrics
from pipelines.version import code_version
from transforms.io.broker import CONTROL, EVENTS, SETS
from transforms.io.pubsub import PREFIX, PubSub
from transforms.io.state_store import StateStore
from transforms.io.store import open_store
from transforms.stream.crew import dismiss
from transforms.stream.step import Step

PORT, CHECKS = 9464, "checks"
_CODE = str(Path(__file__).resolve().parents[1])


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to stop; 0 when told to, 1 when it could not go on, 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="jobs.stream", description=(__doc__ or "").split("\n")[0])
    add_broker(parser)
    parser.add_argument("--state", help="local folder of sessions (default: stream under the root)")
    parser.add_argument("--port", type=int, default=PORT, help=f"of /metrics on 127.0.0.1 ({PORT}); 0 takes any")
    parser.add_argument("--processes", type=positive, default=1, help="that make sets, this one counted (1)")
    options, beam_args = parse_beam(parser, argv)
    if beam_args:
        return guarded(lambda: run_on_beam(options, beam_args))
    opens = functools.partial(open_sessions, folder=_tables(options), processes=options.processes)
    return guarded(lambda: run(options, opens))


def _tables(options: argparse.Namespace) -> Path:
    return state_folder(options.root, options.state) / "tables"


def run_on_beam(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Start the stream on a Beam runner and leave it running.

    A job that is updated keeps the tombstones it was told of; any other is told once more, of all that Pub/Sub keeps.
    """
    from pipelines.stream_beam import is_update, stream_pipeline

    project = [f"--project={options.project}"] if options.project else []
    pipeline = stream_pipeline(options.root, PREFIX, [*beam_args, *project])
    with contextlib.closing(PubSub(options.project)) as broker:
        broker.create()
        if not is_update(pipeline):
            broker.deliver_again(CONTROL)
    pipeline.run()
    return 0


def run(options: argparse.Namespace, opens: Callable[..., Step]) -> int:
    """Run the stream until a signal, with the step that `opens` makes of the root (`pipelines.live.Following`)."""
    stop, metrics = threading.Event(), Metrics()
    folder = state_folder(options.root, options.state)
    following = Following(open_store(options.root), opens)
    view = Terminal(metrics, time.time, sys.stderr)
    with contextlib.ExitStack() as held:
        store = StateStore(folder)
        held.callback(store.close)
        held.callback(dismiss)
        follow = _told(following, metrics)
        step = follow()
        assert step is not None
        if following.refused:
            metrics.count("refusals", DeltaError.__name__)
            view.say(f"bundle {step.bundle} serves without what changed in its catalogue since: {following.refused}")
        server = serve_metrics(metrics, options.port)
        held.callback(server.shutdown)
        broker = held.enter_context(own_broker(folder, options.project))
        held.enter_context(_signals(stop))
        view.say(f"events from {broker.subscription(EVENTS)}, sets to {broker.topic(SETS)}, bundle {step.bundle}")
        view.say(f"metrics at http://127.0.0.1:{server.server_address[1]}/metrics; state in {folder}; Ctrl-C ends it")
        drawing = threading.Thread(target=view.follow, args=(stop,), name="view", daemon=True)
        drawing.start()
        validation = validation_of(options.root, folder, metrics, view.say)
        held.callback(validation.close)
        stream = Stream(
            broker=broker, store=store, step=step, metrics=metrics, code_version=code_version(),
            reload=InBackground(follow), clock=time.time, stop=stop, say=view.say,
            validation=validation,
        )  # fmt: skip
        try:
            stream.run()
        finally:
            stop.set()
            drawing.join()
    return 0


def _told(following: Following, metrics: Metrics) -> Callable[[], Step | None]:
    """Return what follows and says in the metrics whether what is live is served."""

    def follow() -> Step | None:
        try:
            return following()
        finally:
            metrics.set("bundle_behind", following.behind)

    return follow


def validation_of(root: str, folder: Path, metrics: Metrics, say: Callable[[str], None]) -> Validation:
    """Return what has each minute's sets checked by a process of its own, which ends when this one does."""
    minutes = folder / CHECKS

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jobs.stream_checks", "--root", root, "--folder", str(minutes)]
        code = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_CODE, os.environ.get("PYTHONPATH")]))}
        with (minutes / LOG).open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=code, start_new_session=True
            )

    return Validation(minutes, start, metrics, code_version(), say)


@contextlib.contextmanager
def _signals(stop: threading.Event):
    """Finish the batch on the first signal; the second one ends the process as ever."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def told(number: int, frame: object) -> None:
        stop.set()
        for one in signals:
            signal.signal(one, before[one])

    before = {one: signal.signal(one, told) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


if __name__ == "__main__":
    leave(main())
