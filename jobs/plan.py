"""How retrieval of a size should run, and why: `python -m jobs.plan --items 1000000 --users 10000000 --dim 128 --workers 100`."""

import argparse
import dataclasses
import sys
import textwrap
from collections.abc import Sequence

from pipelines.report_html import NARROW, count, seconds, size
from transforms.index.plan import HOUR, MEASURED, Option, Plan, Sizes, parts, plan

WIDTH = 110


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it printed a plan, 2 when the sizes make no sense."""
    options = _parser().parse_args(argv)
    try:
        sizes = Sizes(**vars(options))
    except ValueError as error:
        print(f"plan: {error}", file=sys.stderr)
        return 2
    print(page(sizes, plan(sizes)))
    return 0


def page(sizes: Sizes, planned: Plan) -> str:
    """Return what is printed."""
    chosen = planned.chosen
    heads = f"{'memory per worker':>19}{'work':>18}{'with these':>12}{f'recall@{sizes.k}':>13}  fits"
    return "\n".join(
        [
            f"  {sizes.items:,} items, {sizes.users:,} users, dim {sizes.dim:,}, k {sizes.k:,}, {count(sizes.markets, 'market')}",
            f"  {count(sizes.workers, 'worker')} of one core and {sizes.memory:g} GiB, {count(sizes.gpus, 'GPU')}",
            "",
            f"    {'method':<22}{heads}",
            *(f"  {'>' if one is chosen else ' '} {_row(one)}" for one in planned.options),
            "",
            *_said(f"{chosen.method}. {planned.reason}", "  "),
            "",
            *_facts(chosen, sizes),
            *([""] if planned.warnings else []),
            *(line for warning in planned.warnings for line in _said(f"! {warning}", "  ", "    ")),
            "",
            "  what this rests on; every item is taken to be open to every listener",
            *(line for one in MEASURED.rests_on() for line in _said(one, "    ", "      ")),
        ]
    )


def _row(one: Option) -> str:
    work = f"{_figure(one.work_hours)} {one.unit} h"
    took = "-" if one.hours is None else _time(one.hours)
    fits = one.lacks or ("yes" if one.fits else f"no, needs {_size(one.least)}")
    return f"{one.method:<22}{_size(one.needed):>19}{work:>18}{took:>12}{one.recall:>13.3f}  {fits}"


def _facts(one: Option, sizes: Sizes) -> list[str]:
    moved, in_shard = one.moved, parts(sizes.items, one.shards)
    at_work = count(moved.at_work, "worker" if one.unit == "core" else one.unit)
    per_item = ", ".join(f"{each:,} {words}" for words, each in one.per_item)
    facts = {
        "shards": f"{one.shards:,}, of {in_shard:,} items at the most; a worker holds one at a time",
        "memory": f"{_size(one.resident)} resident and {_size(one.mapped)} mapped per worker",
        "item": f"{one.bytes_per_item:,} bytes in memory: {per_item}",
        "besides": f"{_size(one.held)} for the process and the users in hand",
        "moved": f"items {_size(moved.items)}, {_size(moved.items_each)} to the disk of each of {at_work}, once; "
        f"users {_size(moved.users)} in; results {_size(moved.results)} out",
    }
    return [line for name, words in facts.items() for line in _said(f"{name:<9}{words}", "  ", " " * 11)]


def _said(words: str, first: str, then: str | None = None) -> list[str]:
    return textwrap.wrap(words, WIDTH, initial_indent=first, subsequent_indent=first if then is None else then)


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def _time(hours: float) -> str:
    return f"{_figure(hours)} h" if hours >= 1 else seconds(hours * HOUR).replace(NARROW, " ")


def _size(number: float) -> str:
    return size(number).replace(NARROW, " ").replace("B", "iB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jobs.plan", description="How retrieval of a size should run, and why.")
    parser.add_argument("--items", type=int, required=True, help="vectors that are searched among")
    parser.add_argument("--users", type=int, required=True, help="queries")
    parser.add_argument("--dim", type=int, required=True, help="components of a vector")
    parser.add_argument("--workers", type=int, required=True, help="workers, of one core each")
    usual = {field.name: field.default for field in dataclasses.fields(Sizes)}
    for name, kind, words in (
        ("recall", float, "of the exact best k, the least that will do"),
        ("memory", float, "GiB per worker"),
        ("markets", int, "markets that items are offered in"),
        ("k", int, "results per user"),
        ("hours", float, "that it may take"),
        ("gpus", int, "GPUs"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=usual[name], help=f"{words} ({usual[name] or 'none'})")
    parser.add_argument("--bfloat16", action="store_true", help="the workers' processors multiply bfloat16")
    return parser


if __name__ == "__main__":
    sys.exit(main())
