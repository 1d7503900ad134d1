"""What is live, and back to what was live before: `python -m jobs.release status`, `... rollback --surface home`."""

import argparse
import datetime
import os
from collections.abc import Sequence

from jobs.audit import newer_tombstones
from jobs.batch import guarded
from jobs.options import build_runner, leave, now
from pipelines.bundle import LABELS, label, label_of, list_bundles
from pipelines.publish import Pointer, read_pointer, rollback, undo_rollback
from pipelines.reblend import instant_of
from pipelines.recommend import SURFACES
from pipelines.runner import load_manifest
from schemas.manifest import Manifest
from transforms.io.store import Store, open_store


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it did what it says, 1 when it could not, 2 on bad arguments."""
    options = _parser().parse_args(argv)
    store = open_store(options.root)
    if options.command == "status":
        return guarded(lambda: _status(store, now().date()))
    if options.command == "bundles":
        return guarded(lambda: _bundles(store, now().date()))
    if options.command == "label":
        return guarded(lambda: _label(store, options.bundle, options.label))
    return guarded(lambda: _rollback(store, options.surface, options.raw, undo=options.undo))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs.release", description="What is live on each surface, and rolling it back."
    )
    root = "folder or gs:// address the sets are published under"
    parser.add_argument("--root", default=os.environ.get("ROOT", ".segue"), help=root)
    commands = parser.add_subparsers(dest="command", required=True)
    back = commands.add_parser("rollback", help="make the set before the live one live again")
    back.add_argument("--surface", required=True, choices=tuple(SURFACES))
    back.add_argument("--undo", action="store_true", help="make the set that was rolled back last live again")
    back.add_argument("--raw", help="input folder with newer tombstones (default: those last ingested under the root)")
    mark = commands.add_parser("label", help="put a label on a bundle that is not live")
    mark.add_argument("--bundle", required=True)
    mark.add_argument("--label", required=True, choices=LABELS)
    status = commands.add_parser("status", help="say what is live")
    for command in (back, mark, status, commands.add_parser("bundles", help="list what sets were made from")):
        command.add_argument("--root", default=argparse.SUPPRESS, help=root)
    return parser


def _rollback(store: Store, surface: str, raw: str | None, *, undo: bool) -> int:
    # No lock, but to ingest: a rollback must not wait for a run of hours. The pointer is one file, swapped in one move.
    today = now().date()
    newer: tuple[str, ...] = ()
    if raw:
        with store.lock(f"rollback {surface}"):
            runner = build_runner(store, today.isoformat(), [], None, {"rollback": surface})
            newer = (newer_tombstones(runner, raw, today).path,)
    before = read_pointer(store, surface)
    pointer = undo_rollback(store, surface, newer) if undo else rollback(store, surface, newer)
    assert before is not None
    print(f"  {surface}: {pointer.logical_date} ({pointer.manifest}) is live again, in place of {before.logical_date}")
    expires = instant_of(load_manifest(store, pointer.manifest)).expires_at
    if expires <= now():
        print(f"  its sets expired at {expires:%Y-%m-%d %H:%M} UTC: readers pass over them. Run the latest date again")
    if not undo:
        print(f"  {before.manifest} is withdrawn: no run releases it again. UNDO=1 does.")
    return 0


def _status(store: Store, today: datetime.date) -> int:
    for surface in SURFACES:
        pointer = read_pointer(store, surface)
        print("\n".join(_lines(store, surface, pointer, today)))
    return 0


def _bundles(store: Store, today: datetime.date) -> int:
    live = {pointer.bundle for surface in SURFACES if (pointer := read_pointer(store, surface)) and pointer.bundle}
    found = list_bundles(store)
    if not found:
        print(f"  no bundle is written under {store.root}")
        return 0
    print(f"  {'bundle':<18}{'label':<11}{'date':<12}{'days':>5}{'MB':>9}{'checks':>8}  encoder on held-out data")
    for one in found:
        age = (today - datetime.date.fromisoformat(one.date)).days
        checks = "passed" if set(one.checks.values()) == {"passed"} else "FAILED"
        metrics = "  ".join(f"{name} {value:.3f}" for name, value in sorted(one.metrics.items()))
        named = f"  {one.bundle:<18}{label_of(store, one.bundle, live):<11}{one.date:<12}"
        print(f"{named}{age:>5}{one.bytes / 2**20:>9,.1f}{checks:>8}  {metrics}")
    return 0


def _label(store: Store, bundle: str, name: str) -> int:
    label(store, bundle, name)
    print(f"  bundle {bundle} is labelled {name}")
    return 0


def _lines(store: Store, surface: str, pointer: Pointer | None, today: datetime.date) -> list[str]:
    if pointer is None:
        return [f"  {surface:<12} nothing is published under {store.root}"]
    manifest = load_manifest(store, pointer.manifest)
    age = (today - datetime.date.fromisoformat(pointer.logical_date)).days
    rows = [
        f"  {surface:<12} {pointer.logical_date}, {age} day(s) old, {_sets(manifest)}",
        f"  {'':<12} {pointer.manifest}",
    ]
    before = [load_manifest(store, path) for path in pointer.previous]
    rows += [f"  {'':<12} before: {one.date}, {_sets(one)}" for one in before]
    rows += [f"  {'':<12} withdrawn: {path}" for path in pointer.withdrawn]
    return rows if before else [*rows, f"  {'':<12} nothing to roll back to"]


def _sets(manifest: Manifest) -> str:
    return f"{manifest.rows_out:,} sets, digest {manifest.digest[:12]}"


if __name__ == "__main__":
    leave(main())
