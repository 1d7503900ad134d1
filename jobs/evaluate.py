"""What sets were worth afterwards: `python -m jobs.evaluate run --from D1 --to D2`, `... diff --base ROOT_OR_REF --head ...`."""

import argparse
import datetime
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.batch import guarded, write_page
from jobs.demo import write_demo_world
from jobs.options import DEFAULT_SHARDS, POLICY_FILE, build_runner, iso_date, leave, positive, read_policy
from jobs.revision import Trial, commit_of, judged_root, uncommitted
from pipelines import eval_diff, evaluate, off_policy
from pipelines.backfill import dates
from pipelines.evaluate import EvaluationError
from pipelines.evaluation_summary import in_words, summarise, to_json, write_evaluation
from pipelines.recommend import HOME, NOW_PLAYING
from pipelines.road import Road
from pipelines.runner import Runner
from schemas.hashing import hash64_one
from schemas.manifest import Manifest
from transforms.io.store import open_store
from transforms.off_policy_shards import POLICIES
from transforms.world_setting import PRESETS, Setting
from validation.waivers import parse_waivers

SURFACES = (HOME, NOW_PLAYING)
WINDOWS = 4
"""Dates that the protocol asks for at the least."""
PRESET = "laptop"
EVENTS_PER_SHARD = 100_000
"""Of the synthetic world: some 40,000 pairs of a played item and a market."""
WORLD_END, WORLD_DATE = datetime.date(2026, 1, 31), datetime.date(2026, 1, 23)
"""Of the synthetic world: the last date that a week of events and a day lie after."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when dates were judged, or a change may be merged; 1 when not; 2 on bad arguments."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command == "diff":
        return guarded(lambda: _diff(options))
    if options.last < options.first:
        parser.error(f"expected --from <= --to, came {options.first} and {options.last}")
    return guarded(lambda: (_off_policy if options.command == "off-policy" else _run)(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jobs.evaluate", description="What candidate sets were worth afterwards.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="judge the committed sets of a range of dates")
    other = commands.add_parser("off-policy", help="estimate what another way of exploring would have earned on Home")
    for command in (run, other):
        command.add_argument(
            "--root", default=os.environ.get("ROOT", ".segue"), help="folder or gs:// address of the sets"
        )
        command.add_argument("--from", dest="first", required=True, type=iso_date, help="first logical date")
        command.add_argument("--to", dest="last", required=True, type=iso_date, help="last logical date")
        command.add_argument("--raw", help="input folder with later events (default: those the latest run has read)")
    other.add_argument("--target", choices=sorted(POLICIES), help="policy in question (default: each of them)")
    diff = commands.add_parser("diff", help="say whether HEAD may replace BASE")
    for name in ("base", "head"):
        diff.add_argument(
            f"--{name}",
            required=True,
            help="a judged root, ROOT/runs/date=YYYY-MM-DD of one, or a git ref to run and judge",
        )
    diff.add_argument("--input", help="raw folder that refs are run on (default: a synthetic world); needs --date")
    diff.add_argument(
        "--date", type=iso_date, help="the date that refs are run for; events of 8 days after it are needed"
    )
    diff.add_argument(
        "--preset", choices=sorted(PRESETS), default=PRESET, help=f"size of the synthetic world ({PRESET})"
    )
    diff.add_argument(
        "--shards",
        type=positive,
        help=f"shards per dataset of what is run (one for 100,000 events of the world; of INPUT= {DEFAULT_SHARDS})",
    )
    diff.add_argument("--root", default=os.environ.get("ROOT", ".segue"), help="folder that refs are run under")
    diff.add_argument("--out", type=Path, help="verdict file (default: eval-diff.json in HEAD's root)")
    diff.add_argument("--waivers", type=Path, help='waivers file, dataset = "evaluation"')
    return parser


def _run(options: argparse.Namespace) -> int:
    store, days = open_store(options.root), dates(options.first, options.last)
    with store.lock(f"evaluate {options.first} to {options.last}"):
        runner = build_runner(store, days[-1], [], None, {"from": days[0], "to": days[-1]})
        events = _events(runner, options, days)
        judged = {surface: _judge(runner, surface, days, events) for surface in SURFACES}
        if not any(judged.values()):
            raise EvaluationError(f"none of the {len(days)} date(s) can be judged; the reasons are above")
        for surface, found in ((surface, found) for surface, found in judged.items() if found):
            print(in_words(summary := summarise(store, surface, found)))
            path = f"evaluations/{surface}-{found[0]}-{found[-1]}.json"
            store.write_bytes(path, (json.dumps(to_json(summary), indent=1) + "\n").encode())
            print(f"\n  every figure  {store.root}/{path}")
        for day in sorted({day for found in judged.values() for day in found}):
            print(f"  page  {write_page(store, day)}")
    return 0


def _off_policy(options: argparse.Namespace) -> int:
    """Print the estimates of every date by itself: one user's outcomes of two dates say less than those of two users."""
    store, days = open_store(options.root), dates(options.first, options.last)
    told = list[bool]()
    with store.lock(f"off-policy {options.first} to {options.last}"):
        runner = build_runner(store, days[-1], [], None, {"from": days[0], "to": days[-1]})
        events = _events(runner, options, days)
        for day in days:
            data = evaluate.demand_judgeable(store, day, HOME, events)
            added = runner.run(off_policy.add_outcomes(day, data, events))
            lines = off_policy.estimates(store, added, [options.target] if options.target else sorted(POLICIES))
            print(f"\n  {HOME} of {day}\n{off_policy.HEAD}", *(line for line, _ in lines), sep="\n")
            told += [known for _, known in lines]
    return 0 if all(told) else 1


def _events(runner: Runner, options: argparse.Namespace, days: Sequence[str]) -> Manifest:
    """Return the events of the days after the dates: of a raw folder where one is given, else what was read last."""
    latest = evaluate.latest_events(runner.store)
    if not options.raw:
        return latest
    last = datetime.date.fromisoformat(max(evaluate.last_day(days[-1], surface) for surface in SURFACES))
    return evaluate.ingest_later(runner, _road(runner, last, latest.num_shards), open_store(options.raw))


def _road(runner: Runner, day: datetime.date, num_shards: int) -> Road:
    return Road(day, num_shards, read_policy(POLICY_FILE), runner.code_version, "batch")


def _judge(runner: Runner, surface: str, days: Sequence[str], events: Manifest) -> list[str]:
    """Judge every date that can be judged, and say why the others cannot; return those that were."""
    judged = list[str]()
    for day in days:
        try:
            data = evaluate.demand_judgeable(runner.store, day, surface, events)
        except EvaluationError as error:
            print(f"  {surface} of {day} is left out: {error}", file=sys.stderr)
            continue
        road = _road(runner, datetime.date.fromisoformat(day), events.num_shards)
        factored = runner.run(evaluate.factors(road, data)) if surface == HOME else None
        stage = evaluate.evaluate(day, surface, data, events, factored)
        write_evaluation(runner.store, day, {surface: runner.run(stage)})
        judged.append(day)
    if len(judged) < WINDOWS:
        said = f"{len(judged)} date(s) of {surface} were judged; the protocol asks for {WINDOWS} at the least"
        print(f"  WARNING  {said}", file=sys.stderr)
    return judged


def _diff(options: argparse.Namespace) -> int:
    base, head = _addresses(options)
    (base, base_day), (head, head_day) = (eval_diff.part_run(address) for address in (base, head))
    roots = (open_store(base), base_day), (open_store(head), head_day)
    waivers = (
        parse_waivers(options.waivers.read_text(encoding="utf-8"), str(options.waivers)) if options.waivers else []
    )
    verdict = eval_diff.compare_roots(*roots, SURFACES, waivers)
    print(eval_diff.in_words(verdict))
    if options.out:
        options.out.write_text(verdict.to_json(), encoding="utf-8")
    else:
        roots[1][0].write_bytes("eval-diff.json", verdict.to_json().encode())
    print(f"  verdict  {options.out or f'{head}/eval-diff.json'}")
    return 0 if verdict.merge else 1


def _addresses(options: argparse.Namespace) -> list[str]:
    """Return the addresses of both sides; a git ref is run and judged first: the commit that it names now, not an hour later."""
    sides = [options.base, options.head]
    refs = {side: commit_of(side) for side in sides if not ("://" in side or Path(side).exists())}
    if not refs:
        return sides
    if "://" in options.root:
        raise EvaluationError(f"refs are run under a local folder, came ROOT={options.root}: give a folder")
    changed = uncommitted()
    if changed:
        print(f"  NOTE  {len(changed)} uncommitted file(s) are in no ref, {changed[0]} for one", file=sys.stderr)
    store = open_store(str(Path(options.root, "eval-diff")))
    with store.lock(f"eval-diff {options.base} {options.head}"):
        trial = _trial(options, Path(store.root))
        return [judged_root(side, refs[side], trial) if side in refs else side for side in sides]


def _trial(options: argparse.Namespace, folder: Path) -> Trial:
    """Return what refs are judged on; roots of another input are kept apart.

    Raises:
      EvaluationError: an input without a date.
    """
    if options.input and not options.date:
        raise EvaluationError("INPUT= needs DATE=, the date to run: one with events of at least 8 days after it")
    if options.input:
        raw = open_store(options.input).root
        return Trial(
            folder / f"{hash64_one(raw):016x}", raw, options.date.isoformat(), options.shards or DEFAULT_SHARDS
        )
    place = open_store(str(folder / options.preset))
    size: dict[str, Any] = dict(PRESETS[options.preset])
    raw = write_demo_world(Setting(**size, end=WORLD_END), place).root
    shards = options.shards or size["events"] // EVENTS_PER_SHARD
    return Trial(folder / options.preset, raw, (options.date or WORLD_DATE).isoformat(), shards)


if __name__ == "__main__":
    leave(main())
