"""Serve items that are new or have changed before the next batch: `python -m jobs.delta --root ROOT --raw FOLDER`.

What serves takes them into use within seconds. Run twice on the same files, it changes nothing.
"""

import argparse
import datetime
import os
from collections.abc import Sequence
from pathlib import Path

from jobs.batch import guarded
from jobs.options import POLICY_FILE, build_runner, leave, parse_beam, read_language, read_policy
from pipelines.bundle import Bundle, BundleError, demand_servable
from pipelines.delta import make_delta
from pipelines.publish import read_pointer
from pipelines.recommend import SURFACES
from pipelines.road import Road
from pipelines.runner import load_manifest
from transforms.devices import CPU, DEVICES
from transforms.io.store import Store, open_store


def main(argv: Sequence[str] | None = None) -> int:
    """Make a delta of what is in the folder; 0 when it is served, 1 when it stopped, 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="jobs.delta", description=(__doc__ or "").split(":")[0])
    root = "folder or gs:// address of what is live"
    parser.add_argument("--root", default=os.environ.get("ROOT", ".segue"), help=root)
    parser.add_argument(
        "--raw", required=True, help="folder, local or gs://, whose items/ hold what changed, whole rows"
    )
    parser.add_argument("--device", default=CPU, choices=DEVICES, help="what embeds (cpu)")
    parser.add_argument("--text_model", help="folder of the sentence-transformers model the encoder was trained with")
    parser.add_argument("--policy", type=Path, default=POLICY_FILE, help="policy file")
    parser.add_argument("--waivers", type=Path, help="waivers file (default: waivers.toml under the root)")
    options, beam_args = parse_beam(parser, argv)
    return guarded(lambda: _run(options, beam_args))


def _run(options: argparse.Namespace, beam_args: list[str]) -> int:
    store = open_store(options.root)
    with open_store(f"{options.root}/deltas").lock("delta"):  # beside a batch run, which makes a bundle of its own
        bundle = _live_bundle(store)
        date = datetime.date.fromisoformat(bundle.date)
        runner = build_runner(store, bundle.date, beam_args, options.waivers, {"raw": options.raw})
        shards = load_manifest(store, bundle.parts["item"].manifest).num_shards
        policy, language = read_policy(options.policy), read_language(options)
        road = Road(date, shards, policy, runner.code_version, "batch", options.device, language)
        made = make_delta(runner, road, open_store(options.raw), bundle)
    print(
        f"  delta {made.delta} of bundle {made.bundle} is served; described in {store.root}/deltas/{made.delta}/delta.json"
    )
    return 0


def _live_bundle(store: Store) -> Bundle:
    """Return what the surfaces are served from, that of the latest date where they are not served from the same.

    Raises:
      BundleError: nothing is live.
    """
    pointers = [pointer for surface in SURFACES if (pointer := read_pointer(store, surface)) and pointer.bundle]
    if not pointers:
        raise BundleError(
            f"nothing is live under {store.root}: run `make batch RAW=... DATE=...` first, or name another ROOT="
        )
    latest = max(pointers, key=lambda pointer: pointer.logical_date)
    return demand_servable(store, str(latest.bundle))


if __name__ == "__main__":
    leave(main())
