"""Turn listening events from Pub/Sub into Now Playing sets on Pub/Sub: `python -m jobs.stream --root ROOT`.

The same messages in any order, any number of times, give the same sets. Killed at any moment, it loses nothing.
"""

import argparse
import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

from jobs.batch import guarded
from jobs.broker import add_broker, own_broker, state_folder
from jobs.options import leave
from pipelines.live import open_live
from pipelines.publish import pointer_path
from pipelines.recommend import NOW_PLAYING
from pipelines.stream import InBackground, Stream
from pipelines.stream_metrics import Metrics
from pipelines.stream_views import Terminal, serve_metrics
from pipelines.version import code_version
from transforms.io.broker import EVENTS, SETS
from transforms.io.pubsub import PREFIX
from transforms.io.state_store import StateStore
from transforms.io.store import Store, open_store
from transforms.stream.sessions import Sessions
from transforms.stream.step import Step
from transforms.stream.trial import tried

PORT = 9464


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to stop; 0 when told to, 1 when it could not go on, 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="jobs.stream", description=(__doc__ or "").split("\n")[0])
    add_broker(parser)
    parser.add_argument("--state", help="local folder of sessions (default: stream under the root)")
    parser.add_argument("--port", type=int, default=PORT, help=f"of /metrics on 127.0.0.1 ({PORT}); 0 takes any")
    options, beam_args = parser.parse_known_args(argv)
    if beam_args:
        return guarded(lambda: run_on_beam(options, beam_args))
    tables = state_folder(options.root, options.state) / "tables"
    return guarded(lambda: run(options, lambda root: Sessions(open_live(open_store(root), tables))))


def run_on_beam(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Start the stream on a Beam runner and leave it running."""
    from pipelines.stream_beam import stream_pipeline

    project = [f"--project={options.project}"] if options.project else []
    stream_pipeline(options.root, PREFIX, [*beam_args, *project]).run()
    return 0


@dataclasses.dataclass
class Following:
    """Opens and tries what the live pointer names whenever it names another; one that is refused is not tried twice."""

    store: Store
    opens: Callable[[str], Step]
    seen: bytes = b""

    def __call__(self) -> Step | None:
        """Return the step of another pointer than before, None while it stands.

        Raises:
          ValueError: nothing is live yet.
        """
        try:
            found = self.store.read_bytes(pointer_path(NOW_PLAYING))
        except FileNotFoundError:
            raise ValueError(
                f"nothing is live under {self.store.root}: run `make demo` or `make batch RAW=... DATE=...` first, or name"
                " another ROOT="
            ) from None
        if found == self.seen:
            return None
        self.seen = found
        return tried(self.opens(self.store.root))


def run(options: argparse.Namespace, opens: Callable[[str], Step]) -> int:
    """Run the stream until a signal, with the step that `opens` makes of the root."""
    stop, metrics = threading.Event(), Metrics()
    folder = state_folder(options.root, options.state)
    following = Following(open_store(options.root), opens)
    view = Terminal(metrics, time.time, sys.stderr)
    with contextlib.ExitStack() as held:
        store = StateStore(folder)
        held.callback(store.close)
        step = following()
        assert step is not None
        server = serve_metrics(metrics, options.port)
        held.callback(server.shutdown)
        broker = held.enter_context(own_broker(folder, options.project))
        held.enter_context(_signals(stop))
        view.say(f"events from {broker.subscription(EVENTS)}, sets to {broker.topic(SETS)}, bundle {step.bundle}")
        view.say(f"metrics at http://127.0.0.1:{server.server_address[1]}/metrics; state in {folder}; Ctrl-C ends it")
        drawing = threading.Thread(target=view.follow, args=(stop,), name="view", daemon=True)
        drawing.start()
        stream = Stream(
            broker=broker, store=store, step=step, metrics=metrics, code_version=code_version(),
            reload=InBackground(following), clock=time.time, stop=stop, say=view.say,
        )  # fmt: skip
        try:
            stream.run()
        finally:
            stop.set()
            drawing.join()
    return 0


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
