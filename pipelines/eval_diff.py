"""Compare the evaluations of two roots: the same users and draws on both sides, slice by slice, and one verdict.

Replicate r counts a user as often in both roots, so that the difference of replicates is a paired bootstrap.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from pipelines.batch import read_record
from pipelines.evaluate import EvaluationError
from pipelines.evaluation_summary import LEAST_USERS, coverage, gather_sums, judged_dates, paired, pooled, small_markets
from pipelines.recommend import HOME, NOW_PLAYING
from schemas.evaluation import SETS, UNIT, UNITS
from schemas.manifest import CheckResult
from transforms.evaluation import Cell, Sums, ratios, units_of
from transforms.io.store import Store
from validation.checks import graded
from validation.waivers import Waiver, apply_waivers, verdict

DECIDES = {HOME: (("recall", 300), ("ndcg", 10)), NOW_PLAYING: (("hit", 100), ("hit", 10))}
"""The figures that can refuse: what a set holds at all, and what it puts first. All others are told."""
DROP, COVERAGE_DROP, COST_RISE = 0.02, 0.05, 0.20
"""Merge rule of `docs/evaluation.md`: relative."""
LOST_SHOWN = 20
WAIVABLE = "evaluation"
_RUN = "/runs/date="


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """A figure in two roots, over the same users.

    Attributes:
      relative: difference / base; 0 where both are 0.
      low, high: paired 95 % interval of the difference.
      lost: whether it refuses the change.
    """

    surface: str
    target: str
    slice: str
    part: str
    metric: str
    k: int
    users: int
    base: float
    head: float
    relative: float
    low: float
    high: float
    lost: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a change may be merged, and on what figures that was decided.

    Attributes:
      dates: by surface, the dates both roots were judged on.
    """

    merge: bool
    dates: Mapping[str, tuple[str, ...]]
    checks: tuple[CheckResult, ...]
    differences: tuple[Difference, ...]

    @property
    def lost(self) -> list[Difference]:
        """What refuses the change, the greatest loss first."""
        return sorted((one for one in self.differences if one.lost), key=lambda one: one.relative)

    def to_json(self) -> str:
        """Serialise."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"


def part_run(address: str) -> tuple[str, str | None]:
    """Part the address of a root, or of one run in it (`ROOT/runs/date=2026-01-31`), into root and date."""
    root, found, day = address.rstrip("/").rpartition(_RUN)
    return (root, day) if found else (day, None)


def compare_roots(
    base: tuple[Store, str | None], head: tuple[Store, str | None], surfaces: Sequence[str], waivers: Sequence[Waiver]
) -> Verdict:
    """Compare every surface that both roots have judged.

    Args:
      base, head: a root, and a date where only one counts.

    Raises:
      EvaluationError: there is no date that both have judged, or they have not judged the same users.
    """
    dates = {name: _common(base, head, name) for name in surfaces}
    dates = {name: days for name, days in dates.items() if days}
    if not dates:
        raise EvaluationError(
            f"{base[0].root} and {head[0].root} have no judged date in common: run `make evaluate` on both over the same dates"
        )
    differences, checks = list[Difference](), list[CheckResult]()
    for name, days in dates.items():
        sums = [gather_sums(store, name, days, pl.col("ranking").is_in([SETS, ""])) for store, _ in (base, head)]
        demand_same_users(*sums)
        differences += compare(name, *sums)
        checks.append(_coverage(base[0], head[0], name, days))
    checks.append(_cost(base[0], head[0], sorted({day for days in dates.values() for day in days})))
    lost = sum(one.lost for one in differences)
    judged = apply_waivers(checks, waivers, WAIVABLE, max(max(days) for days in dates.values()))
    return Verdict(not lost and verdict(judged) == "passed", dates, tuple(judged), tuple(differences))


def _common(base: tuple[Store, str | None], head: tuple[Store, str | None], surface: str) -> tuple[str, ...]:
    found = [{day} & set(judged_dates(store, surface)) if day else set(judged_dates(store, surface))
             for store, day in (base, head)]  # fmt: skip
    return tuple(sorted(found[0] & found[1]))


def demand_same_users(base: Sums, head: Sums) -> None:
    """Refuse two evaluations that did not judge the same users: each replicate weighs them alike.

    Raises:
      EvaluationError: they did not.
    """
    cell = Cell("all", "", "all", "all", UNITS, 0)
    one, other = base.cells.get(cell), head.cells.get(cell)
    if one is None or other is None or not np.array_equal(one, other):
        counts = [0 if own is None else int(own[0]) // UNIT for own in (one, other)]
        raise EvaluationError(
            f"expected the same users on both sides, came {counts[0]:,} and {counts[1]:,}, or others of that number:"
            " judge both by the same events"
        )


def compare(surface: str, base: Sums, head: Sums) -> Iterator[Difference]:
    """Yield the difference of every figure of the sets that both sides have; markets small on either are one on both."""
    small = small_markets(base) | small_markets(head)
    base, head = pooled(base, small), pooled(head, small)
    for cell in sorted(cell for cell in base.cells if cell.ranking == SETS and units_of(cell) in base.cells):
        if cell in head.cells and units_of(cell) in head.cells:
            yield _difference(surface, cell, base, head)


def _difference(surface: str, cell: Cell, base: Sums, head: Sums) -> Difference:
    before, after = (float(ratios(own.cells[cell], own.cells[units_of(cell)])[0]) for own in (base, head))
    change, low, high = paired(head, base, cell, cell)
    relative = change / before if before else 0.0
    users = int(base.cells[units_of(cell)][0]) // UNIT
    decides = (cell.metric, cell.k) in DECIDES[surface] and users >= LEAST_USERS
    return Difference(
        surface, cell.target, cell.slice, cell.part, cell.metric, cell.k, users, before, after, relative, low, high,
        lost=decides and relative <= -DROP and high < 0,
    )  # fmt: skip


def _coverage(base: Store, head: Store, surface: str, days: Sequence[str]) -> CheckResult:
    found = [sum(coverage(store, day, surface)["covered"] for day in days) / len(days) for store in (base, head)]
    change = found[1] / found[0] - 1 if found[0] else 0.0
    message = (
        f"the sets of {surface} cover {found[1]:.2%} of what may be recommended, {found[0]:.2%} before: spread them, or have"
        " it waived"
    )
    block = change < -COVERAGE_DROP
    return graded(f"{surface}_coverage", change, f"B < -{COVERAGE_DROP:.0%}", len(days), block=block, message=message)


def _cost(base: Store, head: Store, days: Sequence[str]) -> CheckResult:
    """Compare what the stages that ran in both roots cost, date by date; what either skipped says nothing."""
    total = np.zeros(2)
    for day in days:
        ran = [{s["stage"]: s for s in (read_record(store, day) or {}).get("stages", ()) if not s["skipped"]}
               for store in (base, head)]  # fmt: skip
        for name in ran[0].keys() & ran[1].keys():
            total += _seconds(ran[0][name], ran[1][name])
    change = float(total[1] / total[0] - 1) if total[0] else 0.0
    message = f"{total[1]:,.0f} s for what took {total[0]:,.0f} s before: make it cheaper, or have it waived"
    return graded(
        "cost", change, f"B > +{COST_RISE:.0%}", round(float(total[0])), block=change > COST_RISE, message=message
    )


def _seconds(base: Mapping, head: Mapping) -> tuple[float, float]:
    """Return the seconds of a stage in two roots: of processors, which others on the machine add little to; of the clock where
    either root did not count them, as workers elsewhere do not."""
    counted = all(one.get("cpu_seconds") is not None for one in (base, head))
    name = "cpu_seconds" if counted else "seconds"
    return base[name], head[name]


def in_words(found: Verdict) -> str:
    """Return a verdict as a plain table."""
    dates = "; ".join(f"{name}: {len(days)} date(s), {days[0]} to {days[-1]}" for name, days in found.dates.items())
    overall = [one for one in found.differences if one.slice == "all" and (one.metric, one.k) in DECIDES[one.surface]]
    head = f"  {'figure':<52}{'users':>9}{'base':>9}{'head':>9}{'change':>9}  95 % interval"
    lines = [
        f"\n  {dates}",
        head,
        *map(_line, overall),
        *(f"  LOST {_line(one).lstrip()}" for one in found.lost[:LOST_SHOWN]),
    ]
    if len(found.lost) > LOST_SHOWN:
        lines.append(f"  and {len(found.lost) - LOST_SHOWN} more lost, in the verdict file")
    lines += [_told(check) for check in found.checks]
    return "\n".join([*lines, f"\n  {'MERGE' if found.merge else 'DO NOT MERGE'}"])


def _line(one: Difference) -> str:
    name = f"{one.surface} {one.target} {one.metric}@{one.k} {one.slice if one.slice == 'all' else f'{one.slice} {one.part}'}"
    return f"  {name:<52}{one.users:>9,}{one.base:>9.4f}{one.head:>9.4f}{one.relative:>+9.2%}  {one.low:+.4f} to {one.high:+.4f}"


def _told(check: CheckResult) -> str:
    return f"  {check.name:<30} {check.observed:+.2%}, {check.threshold}: {check.outcome}. {check.message}".rstrip()
