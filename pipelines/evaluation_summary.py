"""What evaluations of some dates say together: figures with intervals, sources side by side, and whether blending pays.

The launcher holds the cells of one surface, 8 KB each, of some thousands: they do not grow with users.
"""

import dataclasses
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from pipelines.batch import dates_with, read_record, record_path
from pipelines.evaluate import EvaluationError
from pipelines.evaluation_arms import arms_in_words, arms_to_json
from pipelines.recommend import COVERAGE_AT, COVERED_AT, HOME, NOW_PLAYING
from pipelines.runner import load_manifest
from schemas.evaluation import (
    AGED,
    CALIBRATED,
    FACTORS,
    FALLBACK,
    LEFT_OUT_RECALL,
    LEFT_OUT_UNITS,
    ORACLE,
    POPULARITY,
    POPULARITY_BEFORE,
    REPEAT_LAST,
    SETS,
    SLICES,
    TARGETS,
    UNIT,
    UNITS,
)
from schemas.manifest import Manifest
from transforms.evaluation import DEPTH, PART_OF, Cell, Sums, difference, from_frame, interval, ratios, units_of
from transforms.evaluation_lists import without
from transforms.io.store import Store

LEAST_USERS = 1_000
"""A smaller market is counted among the others."""
OTHER = "other"
HEADLINES = {HOME: ("discovery", "recall", DEPTH), NOW_PLAYING: ("all", "hit", 100)}
"""What the blend must not lose against its best single source: target, metric and places."""
UNIT_WORDS = {HOME: "users", NOW_PLAYING: "plays"}
SHOWN = {
    HOME: (("recall", 10), ("recall", 50), ("recall", 100), ("recall", 300), ("ndcg", 10), ("hit", 10)),
    NOW_PLAYING: (("hit", 1), ("hit", 10), ("hit", 50), ("hit", 100), ("ndcg", 10), ("recall", 100)),
}
FIGURES = {"only hits": 0, "slots": 1, "s/1k hits": 1}
BASELINES = (FALLBACK, REPEAT_LAST, FACTORS, ORACLE)
_INTERVAL = tuple[float, float, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Contest:
    """The sets beside the best single source, on the headline of the surface.

    Attributes:
      difference: sets minus source, with its paired 95 % interval.
      verdict: `wins`, `loses`, or `undecided` where the interval holds 0.
    """

    best: str
    sets: _INTERVAL
    source: _INTERVAL
    difference: _INTERVAL
    verdict: str


@dataclasses.dataclass(frozen=True, slots=True)
class Fairness:
    """How the market that is served worst does beside the best one, on the headline of the surface.

    Attributes:
      ratio: worst / best, with its 95 % interval: both markets are those of the plain figures in every replicate.
    """

    worst: str
    best: str
    ratio: _INTERVAL


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """What the evaluations of one surface say.

    Attributes:
      sums: of all dates, small markets among the others.
      catalogue: by date, how much of the catalogue the sets hold and how unequally.
      spent: wall seconds by source, in which it proposed on all dates; empty where a run did not count them.
    """

    surface: str
    dates: tuple[str, ...]
    sums: Sums
    catalogue: Mapping[str, Mapping[str, float]]
    spent: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def figure(self, cell: Cell) -> _INTERVAL | None:
        """Return a figure with its interval; None where nobody had a target of the kind."""
        if cell not in self.sums.cells or units_of(cell) not in self.sums.cells:
            return None
        return interval(self.sums.cells[cell], self.sums.cells[units_of(cell)])

    def of(self, target: str, ranking: str, metric: str, k: int) -> _INTERVAL | None:
        """Return a figure over all units."""
        return self.figure(Cell(target, ranking, "all", "all", metric, k))

    def users(self, target: str = "all", slice_: str = "all", part: str = "all") -> int:
        """Return how many units there were, each counted once per date."""
        found = self.sums.cells.get(Cell(target, "", slice_, part, UNITS, 0))
        return 0 if found is None else int(found[0]) // UNIT

    @property
    def rankings(self) -> list[str]:
        """Every whole ranking: the sets, the sources by name, the baselines."""
        named = {cell.ranking for cell in self.sums.cells if cell.metric == "hit"}
        return [SETS, *sorted(named - {SETS, *BASELINES}), *(name for name in BASELINES if name in named)]

    @property
    def sources(self) -> list[str]:
        """Every source that the sets draw on."""
        return sorted({kind[1] for cell in self.sums.cells if (kind := cell.ranking.split(PART_OF))[0] == "within"})

    def parts(self, slice_: str) -> list[str]:
        """Return the parts of a slice, those with most units first."""
        found = {cell.part for cell in self.sums.cells if cell.slice == slice_}
        return sorted(found, key=lambda part: (-self.most(slice_, part), part))

    def most(self, slice_: str, part: str) -> int:
        """Return the units of a part, of whatever target has most."""
        return max(self.users(target, slice_, part) for target in TARGETS)

    def ratio(self, of: str, over: str, slice_: str = "all", part: str = "all") -> _INTERVAL | None:
        """Return one figure of the sets over another one, with its interval; None where there is none of the other."""
        one, other = (Cell("all", SETS, slice_, part, name, 0) for name in (of, over))
        sums = self.sums.cells
        if other not in sums or not sums[other][0]:
            return None
        return interval(sums.get(one, np.zeros_like(sums[other])), sums[other])

    def marginal(self, source: str) -> _INTERVAL | None:
        """Return the recall@300 of the headline's target that sets lose when blended again without a source, paired; None without any.

        Freed slots are filled up by others, so that it is below 0 where these are better.
        """
        sums = self.sums.cells
        whole, left = (Cell("all", name, "all", "all", LEFT_OUT_RECALL, 0) for name in (SETS, without(source)))
        units = Cell("all", SETS, "all", "all", LEFT_OUT_UNITS, 0)
        if whole not in sums or left not in sums or not sums[units][0]:
            return None
        return interval(sums[whole] - sums[left], sums[units])

    def lift(self, slice_: str = "all", part: str = "all") -> _INTERVAL | None:
        """Return how many times as popular the sets are as what their users played; None where that is not known."""
        return self.ratio(POPULARITY, POPULARITY_BEFORE, slice_, part)

    def calibration(self, kind: str) -> _INTERVAL | None:
        """Return how far sets are from what their users played, in bits, by `type` or `genre`; None where that is not known."""
        return self.ratio(*CALIBRATED[kind])

    def freshness(self) -> dict[str, _INTERVAL]:
        """Return by age of the sets how many of the plays had their next item among the first 100; empty on Home."""
        found = {age: self.ratio(*pair) for age, pair in AGED.items()}
        return {age: one for age, one in found.items() if one}

    def fairness(self) -> Fairness | None:
        """Return how the worst market does beside the best one; None with less than two of `LEAST_USERS` units."""
        target, metric, k = HEADLINES[self.surface]
        cells = {part: Cell(target, SETS, "market", part, metric, k) for part in self.parts("market") if part != OTHER}
        figures = {part: found[0] for part, cell in cells.items()
                   if self.users(target, "market", part) >= LEAST_USERS and (found := self.figure(cell))}  # fmt: skip
        if len(figures) < 2 or not max(figures.values()):
            return None
        worst, best = min(sorted(figures), key=figures.__getitem__), max(sorted(figures), key=figures.__getitem__)
        means = [ratios(self.sums.cells[cells[part]], self.sums.cells[units_of(cells[part])]) for part in (worst, best)]
        return Fairness(worst, best, interval(*means))

    def contest(self) -> Contest | None:
        """Return how the sets do beside the best single source; None without targets or sources."""
        target, metric, k = HEADLINES[self.surface]
        sources = [name for name in self.rankings if name not in (SETS, *BASELINES)]
        cells = {name: Cell(target, name, "all", "all", metric, k) for name in (SETS, *sources)}
        figures = {name: self.figure(cell) for name, cell in cells.items()}
        known = {name: found for name, found in figures.items() if found}
        if SETS not in known or len(known) == 1:
            return None
        best = max(sorted(known.keys() - {SETS}), key=lambda name: known[name][0])
        difference = paired(self.sums, self.sums, cells[SETS], cells[best])
        verdict = "wins" if difference[1] > 0 else "loses" if difference[2] < 0 else "undecided"
        return Contest(best, known[SETS], known[best], difference, verdict)


def paired(left: Sums, right: Sums, one: Cell, other: Cell) -> _INTERVAL:
    """Return the difference of two means over the same units with its paired 95 % interval."""
    pairs = ((sums.cells[cell], sums.cells[units_of(cell)]) for sums, cell in ((left, one), (right, other)))
    return difference(*pairs)


def evaluation_path(day: str) -> str:
    """Return where the evaluations of a date are named."""
    return f"runs/date={day}/evaluation.json"


def write_evaluation(store: Store, day: str, made: Mapping[str, Manifest]) -> None:
    """Name the evaluations of a date, by surface, beside its run record; those of other surfaces stay."""
    named = evaluations_of(store, day) | {surface: manifest.path for surface, manifest in made.items()}
    store.write_bytes(evaluation_path(day), (json.dumps(named, indent=1, sort_keys=True) + "\n").encode())


def evaluations_of(store: Store, day: str) -> dict[str, str]:
    """Return the manifests of the evaluations of a date by surface; empty where it was not judged."""
    try:
        return json.loads(store.read_bytes(evaluation_path(day)))
    except FileNotFoundError:
        return {}


def judged_dates(store: Store, surface: str) -> list[str]:
    """Return the dates of a surface that were judged, in order."""
    return [day for day in dates_with(store, "evaluation.json") if surface in evaluations_of(store, day)]


def read_sums(store: Store, manifest: Manifest, where: pl.Expr | None = None) -> Sums:
    """Read the sums of an evaluation, or those that satisfy `where`."""
    lazy = pl.scan_parquet([store.local(file.path) for file in manifest.files], hive_partitioning=False)
    picked = lazy if where is None else lazy.filter(where)
    return from_frame(picked.select(*Cell._fields, "total", "replicates").collect(engine="in-memory"))


def gather_sums(store: Store, surface: str, days: Sequence[str], where: pl.Expr | None = None) -> Sums:
    """Add the evaluations of some dates up.

    Raises:
      EvaluationError: a date was not judged.
    """
    sums = Sums()
    for day in days:
        path = evaluations_of(store, day).get(surface)
        if path is None:
            raise EvaluationError(f"{surface} of {day} was not judged under {store.root}: run `make evaluate` for it")
        sums.merge(read_sums(store, load_manifest(store, path), where))
    return sums


def summarise(store: Store, surface: str, days: Sequence[str]) -> Summary:
    """Return what the evaluations of some dates say together.

    Raises:
      EvaluationError: a date was not judged.
    """
    sums = gather_sums(store, surface, days)
    sums = pooled(sums, small_markets(sums))
    covered = {day: coverage(store, day, surface) for day in days}
    return Summary(surface, tuple(days), sums, covered, spent_by_source(store, surface, days))


def spent_by_source(store: Store, surface: str, days: Sequence[str]) -> dict[str, float]:
    """Return in how many seconds of wall time each source proposed on some dates, for everybody; empty where one was skipped."""
    total: dict[str, float] = {}
    for day in days:
        stages = (read_record(store, day) or {}).get("stages", ())
        found = next((one.get("spent") for one in stages if one["stage"] == f"retrieve {surface}"), None)
        if not found:
            return {}
        for name, seconds in found.items():
            total[name] = total.get(name, 0.0) + seconds
    return total


def small_markets(sums: Sums) -> set[str]:
    """Return the markets of fewer than `LEAST_USERS` units."""
    counted = {
        cell.part: own[0] for cell, own in sums.cells.items() if cell == Cell("all", "", "market", cell.part, UNITS, 0)
    }
    return {part for part, units in counted.items() if units < LEAST_USERS * UNIT}


def pooled(sums: Sums, small: Collection[str]) -> Sums:
    """Count some markets as one, the others."""
    added = Sums()
    for cell, own in sums.cells.items():
        added.add(cell._replace(part=OTHER) if cell.slice == "market" and cell.part in small else cell, own)
    return added


def coverage(store: Store, day: str, surface: str) -> dict[str, float]:
    """Return how much of what may be recommended is in any set, and how unequally: from the counters of exposure.

    `covered@k` is among the first k places of any set; a run of code that did not count them has none.
    """
    record = json.loads(store.read_bytes(record_path(day)))
    counted = load_manifest(store, record["manifests"][f"exposure/{surface}"]).counters
    eligible = max(counted["eligible_items"], 1)
    first = {k: counted.get(f"{COVERED_AT}{k}") for k in COVERAGE_AT}
    return {f"covered@{k}": items / eligible for k, items in first.items() if items is not None} | {
        "covered": counted["covered_items"] / eligible,
        "gini": counted["gini_ppm"] / 1e6,
        "top100_share": counted["top100_slots_chosen"] / max(counted["slots_chosen"], 1),
    }


def to_json(summary: Summary) -> dict[str, Any]:
    """Return a summary for programs: every figure with its interval, and the contest."""
    contest = summary.contest()
    return {
        "surface": summary.surface,
        "dates": list(summary.dates),
        "catalogue": {day: dict(found) for day, found in summary.catalogue.items()},
        "blend_and_best_source": dataclasses.asdict(contest) if contest else None,
        "worst_and_best_market": dataclasses.asdict(fairness) if (fairness := summary.fairness()) else None,
        "calibration": {kind: summary.calibration(kind) for kind in CALIBRATED},
        "freshness": summary.freshness(),
        "arms": arms_to_json(summary.sums),
        "sources": {
            name: _known(source_figures(summary, name)) | {"marginal_interval": summary.marginal(name)}
            for name in summary.sources
        },
        "figures": [_figure(summary, cell) for cell in sorted(summary.sums.cells)],
    }


def _known(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _figure(summary: Summary, cell: Cell) -> dict[str, Any]:
    found = summary.figure(cell) if cell.metric != UNITS else None
    value, low, high = found or (float(summary.users(cell.target, cell.slice, cell.part)), None, None)
    units = summary.users(cell.target, cell.slice, cell.part)
    return cell._asdict() | {"value": value, "low": low, "high": high, "units": units}


def in_words(summary: Summary) -> str:
    """Return a summary as plain tables."""
    dates = f"{summary.dates[0]} to {summary.dates[-1]}, {len(summary.dates)} date(s)"
    counted = f"{summary.users():,} {UNIT_WORDS[summary.surface]} with a target, {summary.users('discovery'):,} with something new"
    lines = [f"\n  {summary.surface}: {dates}, {counted}", *_ladder(summary), *_sources(summary), *_slices(summary)]
    lines.append(f"\n  {whole_sets(summary)}")
    lines += [f"  {line}" for line in beside(summary)]
    contest = summary.contest()
    if contest:
        mean, low, high = contest.difference
        lines.append(
            f"\n  the blend {contest.verdict} against the best single source, {contest.best}, before filters, caps and quotas, on"
            f" {headline(summary.surface)}: {contest.sets[0]:.4f} and {contest.source[0]:.4f}, {mean:+.4f} ({low:+.4f} to {high:+.4f})"
        )
    return "\n".join(lines)


def whole_sets(summary: Summary) -> str:
    """Say what the sets of the units are like, and how much of the catalogue all sets hold, on the mean date."""
    found = {
        name: summary.of("all", SETS, name, 0) or (0.0, 0.0, 0.0)
        for name in ("size", "unknown", "new_artist", "fresh", "tail", "self_information", "artist_entropy", "distance")
    }
    known = (
        f", {found['unknown'][0]:.1%} not known to the user, {found['new_artist'][0]:.1%} of new artists"
        if summary.surface == HOME
        else ""
    )
    return (
        f"sets: {found['size'][0]:,.0f} candidates{known}, {found['fresh'][0]:.1%} fresh, {found['tail'][0]:.1%} beyond the"
        f" charts, {found['self_information'][0]:.2f} bits an item, {found['artist_entropy'][0]:.2f} bits of artists,"
        f" {found['distance'][0]:.3f} apart{_lift(summary)}; {_catalogue(summary)}"
    )


def _catalogue(summary: Summary) -> str:
    dates = list(summary.catalogue.values())
    mean = {
        name: sum(one[name] for one in dates) / len(dates) for name in dates[0] if all(name in one for one in dates)
    }
    first = [f"{mean[name]:.1%} among their first {k}" for k in COVERAGE_AT if (name := f"covered@{k}") in mean]
    held = f"all of them hold {mean['covered']:.1%} of what may be recommended"
    return f"{', '.join([held, *first])}, Gini {mean['gini']:.3f}"


def beside(summary: Summary) -> list[str]:
    """Say how sets compare: with what their users played, market with market, arm with arm, and old sets with new ones."""
    lines = list[str]()
    if told := [f"{found[0]:.3f} by {kind}" for kind in CALIBRATED if (found := summary.calibration(kind))]:
        lines.append(f"sets are {' and '.join(told)} bits from what their users played")
    if fair := summary.fairness():
        lines.append(
            f"{fair.worst}, the market served worst, has {fair.ratio[0]:.2f} ({fair.ratio[1]:.2f} to {fair.ratio[2]:.2f}) of the"
            f" {headline(summary.surface)} of {fair.best}, the best one"
        )
    lines += arms_in_words(summary.sums)
    if aged := summary.freshness():
        lines.append(f"hit@100 by age of the set: {', '.join(f'{age} {one[0]:.4f}' for age, one in aged.items())}")
    return lines


def _lift(summary: Summary) -> str:
    found = summary.lift()
    return (
        f", {found[0]:.2f} times as popular as what their users played ({found[1]:.2f} to {found[2]:.2f})"
        if found
        else ""
    )


def headline(surface: str) -> str:
    """Name the headline of a surface."""
    target, metric, k = HEADLINES[surface]
    return f"{target} {metric}@{k}"


def _ladder(summary: Summary) -> Iterable[str]:
    columns = SHOWN[summary.surface]
    for target in (name for name in TARGETS if summary.users(name)):
        yield f"\n  {target:<24}" + "".join(f"{f'{metric}@{k}':>12}" for metric, k in columns)
        for name in summary.rankings:
            found = [summary.of(target, name, metric, k) for metric, k in columns]
            yield f"  {name:<24}" + "".join(f"{one[0]:>12.4f}" if one else f"{'-':>12}" for one in found)


def _sources(summary: Summary) -> Iterable[str]:
    heads = ("alone", "in sets", "only", "only hits", "marginal", "slots", "hits/slot", "s/1k hits")
    target, _, _ = HEADLINES[summary.surface]
    yield f"\n  {f'source, {target} @{DEPTH}':<24}" + "".join(f"{head:>12}" for head in heads)
    for name in summary.sources:
        figures = source_figures(summary, name)
        yield f"  {name:<24}" + "".join(f"{_told(head, figures[head]):>12}" for head in heads)


def _told(head: str, value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.{FIGURES.get(head, 4)}f}"


def source_figures(summary: Summary, name: str) -> dict[str, float]:
    """Return what a source is worth alone and within the sets, on the headline's target.

    `only` is the part of recall that no other source proposed, and `only hits` counts it; `marginal` is what recall loses when
    sets are blended again without the source (`Summary.marginal`), NaN where they were not. `alone` is NaN for one that proposes for
    nobody in particular. `s/1k hits` is the wall seconds in which it proposed, for
    everybody, over its hits in the sets, of all targets, times 1,000; NaN where the run did not count them, or nothing was hit.
    """
    aim, _, _ = HEADLINES[summary.surface]

    def mean(ranking: str, metric: str, k: int, target: str = aim) -> float:
        found = summary.of(target, ranking, metric, k)
        return found[0] if found else 0.0

    slots, hits = mean(name, "slots", 0, "all"), mean(f"within{PART_OF}{name}", "hits", 0, "all")
    found, spent, marginal = hits * summary.users(), summary.spent.get(name), summary.marginal(name)
    return {
        "alone": mean(name, "recall", DEPTH) if name in summary.rankings else math.nan,
        "in sets": mean(f"within{PART_OF}{name}", "recall", DEPTH),
        "only": mean(f"only{PART_OF}{name}", "recall", DEPTH),
        "only hits": round(mean(f"only{PART_OF}{name}", "hits", 0) * summary.users(aim)),
        "marginal": marginal[0] if marginal else math.nan,
        "slots": slots,
        "hits/slot": hits / slots if slots else 0.0,
        "s/1k hits": 1_000 * spent / found if found and spent is not None else math.nan,
    }


def overlap(summary: Summary) -> dict[tuple[str, str], float]:
    """Return, of the hits of the first source in the sets, the share that the second proposed too, of all targets."""
    hits = {cell.ranking: own[0] for cell, own in summary.sums.cells.items()
            if (cell.target, cell.slice, cell.metric) == ("all", "all", "hits")}  # fmt: skip
    found = {}
    for one in summary.sources:
        for other in summary.sources:
            pair = f"both{PART_OF}{'+'.join(sorted((one, other)))}"
            own = hits.get(f"within{PART_OF}{one}", 0)
            found[one, other] = 1.0 if one == other else float(hits.get(pair, 0) / own) if own else 0.0
    return found


def _slices(summary: Summary) -> Iterable[str]:
    targets = [name for name in TARGETS if summary.users(name)]
    yield f"\n  {f'sets, recall@{DEPTH}':<34}{UNIT_WORDS[summary.surface]:>10}" + "".join(
        f"{name:>22}" for name in targets
    )
    for slice_ in SLICES[1:]:
        for part in summary.parts(slice_):
            told = [summary.figure(Cell(target, SETS, slice_, part, "recall", DEPTH)) for target in targets]
            cells = "".join(f"{_with_interval(one):>22}" for one in told)
            yield f"  {f'{slice_} {part}':<34}{summary.most(slice_, part):>10,}{cells}"


def _with_interval(found: _INTERVAL | None) -> str:
    return f"{found[0]:.3f} ({found[1]:.3f}-{found[2]:.3f})" if found else "-"
