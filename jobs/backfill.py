"""Run the road for each date of a range: `python -m jobs.backfill --raw FOLDER --from D1 --to D2 [--dry-run]`."""

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.batch import RAW, guarded, open_raw, run_date, write_page
from jobs.options import add_common, iso_date, leave, parse_beam, read_language, read_policy
from pipelines.backfill import RUN, DatePlan, DateResult, Wanted, dates, plan, run
from pipelines.batch import RoadResult
from pipelines.recommend import SURFACES
from pipelines.version import code_version
from transforms.embed.language import digest_of
from transforms.importers import RECORD, SHAPES
from transforms.io.store import Store, open_store


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan, run it and print the table; 0 when every date is there, 1 when one is not, 2 on bad arguments."""
    parser = argparse.ArgumentParser(
        prog="jobs.backfill", description="The road for each date of a range, as of that date."
    )
    parser.add_argument("--raw", required=True, help="input folder, local or gs://")
    parser.add_argument("--format", default=RAW, choices=(RAW, *sorted(SHAPES)), help="shape of the input folder")
    parser.add_argument("--from", dest="first", required=True, type=iso_date, help="first logical date")
    parser.add_argument("--to", dest="last", required=True, type=iso_date, help="last logical date")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop; nothing is written")
    add_common(parser)
    options, beam_args = parse_beam(parser, argv)
    if options.last < options.first:
        parser.error(f"expected --from <= --to, came {options.first} and {options.last}")
    return guarded(lambda: _run(options, beam_args))


def _run(options: argparse.Namespace, beam_args: list[str]) -> int:
    store = open_store(options.root)
    if options.dry_run:
        _show(_dry_plan(store, options))
        return 0
    with store.lock(f"backfill {options.first} to {options.last}"):
        raw = open_raw(options.raw, options.format, options.last, store)
        plans = _plan(store, raw, options)
        _show(plans)
        results: list[DateResult] = []
        try:
            results += run(store, plans, lambda day: _one(store, raw, day, options, beam_args), _say)
        finally:
            print(table(results, len(plans)))
    return 0 if all(result.good for result in results) else 1


def _plan(store: Store, raw: Store, options: argparse.Namespace) -> list[DatePlan]:
    surfaces = tuple(options.surface or SURFACES)
    text_model = digest_of(read_language(options))
    wanted = Wanted(code_version(), read_policy(options.policy).version, options.shards, surfaces, text_model)
    return plan(store, raw, dates(options.first, options.last), wanted)


def _dry_plan(store: Store, options: argparse.Namespace) -> list[DatePlan]:
    """Plan without importing: from what was imported before, where there is such."""
    if options.format == RAW:
        return _plan(store, open_store(options.raw), options)
    imported = Path(store.root, "import", f"{options.format}-{options.last}")
    if imported.joinpath(RECORD).is_file():
        return _plan(store, open_store(str(imported)), options)
    why = f"after {options.raw} has been imported"
    return [DatePlan(day, RUN, why) for day in dates(options.first, options.last)]


def _one(store: Store, raw: Store, day: str, options: argparse.Namespace, beam_args: list[str]) -> RoadResult:
    _, result = run_date(store, raw, datetime.date.fromisoformat(day), options, beam_args, "backfill")
    _say(f"  page {write_page(store, day)}")
    return result


def _show(plans: Sequence[DatePlan]) -> None:
    print("\n".join(["  plan", *(f"  {one.day}  {one.state:<8} {one.why}" for one in plans)]), flush=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table(results: Sequence[DateResult], planned: int) -> str:
    """Return what became of every date."""
    lines = [f"\n  {'date':<11} {'state':<8} {'seconds':>8}  sets and release"]
    for one in results:
        told = [f"{name}: {count:,} sets, {one.released.get(name, '?')}" for name, count in one.sets.items()]
        lines.append(
            f"  {one.day:<11} {one.state:<8} {one.seconds:>8.1f}  {'; '.join(told) or one.error.splitlines()[0]}"
        )
        lines += [f"  {'':<29}  {line.strip()}" for line in one.error.splitlines()[1:]]
    good = sum(one.good for one in results)
    lines.append(f"\n  {good} of {planned} dates are there")
    if good < planned:
        lines.append(
            "  run the same command again: it does only what is not done, and goes on inside a date it had begun"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    leave(main())
