"""Judge the scores sources propose with: how they are spread, against the week before, source by source.

Ranks decide what is in a set (`docs/failures.md`, 23), so that a new scale alone does no harm. Other scores from the same model
and tables are another thing: its input changed, or who it is asked for.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from schemas.manifest import CheckResult, Manifest
from validation.checks import broken, graded, skipped
from validation.statistics import Counts, psi
from validation.thresholds import CandidateSetThresholds, default_thresholds

SCORES = "scores:"
"""Counters by source and bin: proposals with such a score."""
ANSWERED = "answered:"
"""Counters by source: keys for which it proposed anything."""
WEEK_SCORES, WEEK_KEYS, WEEK_DAYS = "scores_in_week:", "answered_in_week:", "days_in_week:"
WEEK_SPREAD, WEEK_OTHERS = "scores_psi_in_week_ppm:", "days_of_other_models:"
_PSI = "psi:scores"
_ENCODER = "encoder"


def scores_of(counters: Mapping[str, int]) -> dict[str, Counts]:
    """Return proposals by bin, by source."""
    found: dict[str, Counts] = {}
    for name, n in counters.items():
        if name.startswith(SCORES):
            source, _, bin_ = name.removeprefix(SCORES).rpartition(":")
            found.setdefault(source, {})[bin_] = n
    return found


def week_of_scores(ours: Mapping[str, object], encoder: str, week: Sequence[Manifest]) -> dict[str, int]:
    """Return the counters that say how the scores of a surface were spread in the days before.

    Of a source that ranks by a model the days of the same model count, if there are `scores_days` of them, else all.

    Args:
      ours: sources that rank by a model. encoder: digest of the one they rank by. week: proposals of those days.
    """
    found: dict[str, int] = {}
    days = [(scores_of(one.counters), one.counters, _encoder(one) == encoder) for one in week]
    for source in sorted({source for scores, *_ in days for source in scores}):
        known = [(scores[source], n.get(ANSWERED + source, 0), same) for scores, n, same in days if source in scores]
        same = [one for one in known if one[2]]
        chosen = same if source in ours and len(same) >= default_thresholds().candidate_set.scores_days else known
        others = sum(not one[2] for one in chosen) if source in ours else 0
        found |= _told(source, [one[0] for one in chosen], sum(one[1] for one in chosen), others)
    return found


def _encoder(manifest: Manifest) -> str:
    return next((ref.digest for ref in manifest.inputs if ref.name == _ENCODER), "")


def _told(source: str, days: list[Counts], keys: int, others: int) -> dict[str, int]:
    spread = max((psi(day, _added(days[:n] + days[n + 1 :])) for n, day in enumerate(days)), default=0.0)
    summed = {f"{WEEK_SCORES}{source}:{bin_}": n for bin_, n in sorted(_added(days).items())}
    told = {WEEK_KEYS: keys, WEEK_DAYS: len(days), WEEK_OTHERS: others, WEEK_SPREAD: round(1e6 * spread)}
    return summed | {f"{name}{source}": n for name, n in told.items()}


def _added(days: Iterable[Counts]) -> Counts:
    total: Counts = {}
    for day in days:
        for bin_, n in day.items():
            total[bin_] = total.get(bin_, 0) + n
    return total


@dataclasses.dataclass(frozen=True, slots=True)
class _Spread:
    """The scores of one source on a date and in the days before, over how many keys each."""

    now: Counts
    before: Counts
    keys: int
    keys_before: int

    @property
    def chance(self) -> float:
        """The index that chance alone gives (see `validation.event_gates`); the proposals for one key are alike, and count once."""
        bins = len(self.now.keys() | self.before.keys())
        return (bins - 1) * (1 / max(self.keys, 1) + 1 / max(self.keys_before, 1))


def judge_scores(manifest: Manifest, limits: CandidateSetThresholds) -> Iterator[CheckResult]:
    """Yield, for every source that proposed something in the days before, how far its scores are from those days'."""
    n = manifest.counters
    now = scores_of(n)
    answered = [name.removeprefix(ANSWERED) for name, keys in n.items() if name.startswith(ANSWERED) and keys]
    if uncounted := sorted(set(answered) - now.keys()):
        yield broken(_PSI, "every figure counted", f"the stage did not count the scores of {', '.join(uncounted)}")
        return
    for source in sorted(answered):
        yield _judged(source, now[source], n, limits)


def _judged(source: str, now: Counts, n: Mapping[str, int], limits: CandidateSetThresholds) -> CheckResult:
    name, days, others = f"{_PSI}:{source}", n.get(WEEK_DAYS + source, 0), n.get(WEEK_OTHERS + source, 0)
    if days < limits.scores_days:
        return skipped(name, f"not enough history: {days} of the 7 days before, {limits.scores_days} are needed")
    prefix = f"{WEEK_SCORES}{source}:"
    before = {key.removeprefix(prefix): count for key, count in n.items() if key.startswith(prefix)}
    spread = _Spread(now, before, n[ANSWERED + source], n[WEEK_KEYS + source])
    usual = spread.chance + n[WEEK_SPREAD + source] / 1e6
    observed, warn, block = psi(now, before), limits.scores_warn + usual, limits.scores_block + usual
    trained = " Some of these days were of another model: look at how its training went." if others else ""
    message = (
        f"the scores of {source} are not spread as in the {days} days before (median bin {_median(now)}, it was {_median(before)}):"
        f" did its input change, or who it is asked for?{trained} See docs/operations.md"
    )
    stops = "W" if others else "B"
    threshold = f"W > {limits.scores_warn:g}, {stops} > {limits.scores_block:g}, plus {usual:.3f} of noise"
    return graded(
        name, observed, threshold, sum(now.values()), warn=observed > (block if others else warn),
        block=observed > block and not others, message=message,
    )  # fmt: skip


def _median(counts: Counts) -> str:
    """Return the bin of the median score."""
    bins = sorted(counts.items(), key=lambda pair: int(pair[0]))
    half, passed = sum(counts.values()) / 2, 0
    for bin_, n in bins:
        passed += n
        if passed >= half:
            return bin_
    return "none"
