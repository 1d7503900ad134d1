"""Make Home sets of whoever listened since the batch: `python -m jobs.overlay --root ROOT`, once an hour.

Run twice, or again after it was killed, it makes nothing twice: the same windows and the same bundle give the same bytes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.batch import guarded, write_page
from jobs.broker import add_broker, same_broker, state_folder
from jobs.options import build_runner, leave, parse_beam
from pipelines.live import live_on
from pipelines.overlay import Overlaid, overlay_home
from pipelines.recommend import HOME
from transforms.io.broker import SETS
from transforms.io.store import open_store


def main(argv: Sequence[str] | None = None) -> int:
    """Make what is due; 0 when everybody has what they may have, 1 when it stopped, 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="jobs.overlay", description=(__doc__ or "").split(":")[0])
    add_broker(parser)
    parser.add_argument("--state", help="local folder of the stream's state (default: stream under the root)")
    parser.add_argument("--waivers", type=Path, help="waivers file (default: waivers.toml under the root)")
    options, beam_args = parse_beam(parser, argv)
    return guarded(lambda: _run(options, beam_args))


def _run(options: argparse.Namespace, beam_args: list[str]) -> int:
    store, state = open_store(options.root), state_folder(options.root, options.state)
    with open_store(f"{options.root}/overlays").lock(
        "overlay"
    ):  # beside a batch run, which publishes and does not wait
        day = live_on(store, HOME).bundle.date
        runner = build_runner(store, day, beam_args, options.waivers, {"overlay": HOME})
        with same_broker(options.root, options.project) as broker:
            done = overlay_home(runner, state, state / "tables", broker)
            print(_in_words(done, broker.topic(SETS)))
        if done.unreadable.windows:
            print(
                f"  {done.unreadable.windows:,} windows were left out, the first {done.unreadable.why}", file=sys.stderr
            )
        if done.sets:
            print(f"  page {write_page(store, day)}")
    return 0


def _in_words(done: Overlaid, topic: str) -> str:
    base = f"since the sets of {done.live.bundle.date}, run {done.live.pointer.run}"
    if done.sets is None:
        return f"  nobody listened {base}, or since the last overlay: nothing to make"
    return (
        f"  {done.sets.rows_out:,} sets of {done.asked:,} listeners who went on {base}\n  sent to {topic}; kept in"
        f" {done.sets.path}"
    )


if __name__ == "__main__":
    leave(main())
