"""What candidate sets, and the exposure of items in them, are held to before they are published.

The figures are counters of the stages; one that was not counted is `broken`, never passed.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

from schemas.manifest import CheckResult, Manifest
from validation.arm_gates import ARM_COUNTERS, judge_arms
from validation.checks import broken, graded, percent, skipped
from validation.drift import poisson_noise
from validation.freshness_gates import FRESHNESS_GATES, judge_freshness
from validation.overlap_gates import judge_kept
from validation.quota_gates import judge_quotas
from validation.thresholds import CandidateSetThresholds

_ZERO = {
    "empty_sets": "a user would see nothing",
    "market_violations": "they hold items that may not be played in their market",
    "tier_violations": "they hold items that their tier may not play",
    "explicit_violations": "they hold explicit items in spite of a filter",
    "age_violations": "they hold items rated for older listeners",
    "ineligible_violations": "they hold items that may not be recommended, or were deleted",
    "unreleased_violations": "they hold items that are not out yet",
    "video_violations": "they hold videos where the client shows none",
    "blocked_violations": "they hold items of artists or shows whom the user has blocked",
    "hidden_violations": "they hold items that the user has hidden",
    "completed_violations": "they hold talk that the user has heard to its end",
    "recent_skip_violations": "they hold items that the user has skipped lately",
    "language_violations": "they hold talk in none of the user's languages",
    "tombstone_violations": "they hold items that were taken down",
    "duplicate_items": "they hold an item twice, or two versions of a work",
    "exploration_share_violations": "they explore more or fewer items than the policy and the pool give",
    "propensity_violations": "the propensities of what they explore do not add up to its slots, or are below their floor",
}
_SETS = (
    "sets",
    "slots",
    *_ZERO,
    "sets_below_minimum",
    "fallback_level_3_or_more",
    "listeners",
    "fallback_of_listeners",
    "content_floors",
    "content_floors_missed",
    "jaccard_ppm_sum",
    "jaccard_pairs",
    "eligible_items",
)
_EXPOSURE = (
    "sets",
    "slots_chosen",
    "max_item_sets_chosen",
    "top100_slots_chosen",
    "covered_items",
    "eligible_items",
    "gini_ppm",
)
_REPLAY = ("replayed", "replayed_sets_differ", "replayed_vectors_differ")
_EXPLORED_FAIRLY = ("exploration_by_stratum", "exploration_by_hash")
_PARITY = "replay_parity"
SET_GATES = (
    "sets_present", *_ZERO, "sets_below_minimum", "fallback_share", "mean_jaccard", _PARITY, *FRESHNESS_GATES, *_EXPLORED_FAIRLY,
)  # fmt: skip
EXPOSURE_GATES = ("single_item_share",)
"""Checks that may stop sets, or their exposure; each is recorded where there was nothing to judge, too."""
_SLOTS_BY_SOURCE = "slots_by_source:"
EXPLORED, EXPLORED_EXPECTED = "explored:", "explored_expected_ppm:"
WEEKS_AGO = "weeks_ago:"
TRENDS = ("covered_items", "eligible_items", "gini_ppm", *ARM_COUNTERS)
"""Figures of exposure that are compared with those of weeks ago, too."""
LEAST_PAIRS = 200
"""Pairs of sets by which an overlay is judged: the few listeners of a quiet hour may well have much in common."""
_HASH = "hash:"
_LEAST_EXPECTED = 5.0  # below it, a cell's count is no normal number (Cochran 1954)


def judge_candidate_sets(
    manifest: Manifest, previous: Manifest | None, limits: CandidateSetThresholds
) -> list[CheckResult]:
    """Return the results of the checks of candidate sets.

    Where `eligible_items` says that the catalogue is small, overlap, short sets and floors are judged by what it can give.
    """
    n = manifest.counters
    overlaid = manifest.config.get("run_mode") == "stream"
    if overlaid and not manifest.rows_out:
        return [skipped("sets_present", "whoever listened since the batch is left to its sets")]
    if missing := _missing(n, _SETS):
        return [missing]
    if not n["sets"] or not n["slots"]:
        message = (
            f"{n['sets']:,} sets with {n['slots']:,} candidates: nothing to publish; look at the stages before blend"
        )
        return [graded("sets_present", n["sets"], "at least 1 set", None, block=True, message=message)]
    return [
        graded("sets_present", n["sets"], "at least 1 set", None),
        *_violations(n),
        _below_minimum(n, limits),
        _fallback(n, previous.counters if previous else {}, limits),
        _mix(n, limits),
        _overlap(n, limits, LEAST_PAIRS if overlaid else 1),
        _parity(manifest, limits, overlaid),
        *judge_freshness(n, limits, overlaid),
        *_sources(n, previous.counters if previous else {}, limits),
        *judge_quotas(manifest, limits),
        *_fairness(n, limits),
    ]


def judge_exposure(manifest: Manifest, previous: Manifest | None, limits: CandidateSetThresholds) -> list[CheckResult]:
    """Return the results of the checks of concentration and coverage.

    "Chosen" slots are those of sources that do not say the same to everybody of a market: popularity is popular by design.
    """
    n = manifest.counters
    if missing := _missing(n, _EXPOSURE):
        return [missing]
    before = previous.counters if previous else {}
    weeks = {name: n[WEEKS_AGO + name] for name in TRENDS if WEEKS_AGO + name in n}
    spread = [*_spread(n, before, limits), *_spread(n, weeks, limits, "_in_weeks")]
    kept = judge_kept(n, manifest.qualifier, limits)
    return [*_concentration(n, before, limits), *spread, judge_arms(n, weeks, limits), kept]


def _spread(
    n: Mapping[str, int], before: Mapping[str, int], limits: CandidateSetThresholds, suffix: str = ""
) -> Iterator[CheckResult]:
    """Compare coverage and concentration with an earlier run's: a feedback loop narrows sets by a little every day."""
    for check in (_coverage(n, before, limits), _gini(n, before, limits)):
        yield dataclasses.replace(check, name=check.name + suffix)


def _missing(n: Mapping[str, int], wanted: tuple[str, ...]) -> CheckResult | None:
    missing = [name for name in wanted if name not in n]
    if not missing:
        return None
    why = f"the stage did not count {', '.join(missing)}; it must count them even where they are 0"
    return broken("counters_present", "every figure counted", why)


def _violations(n: Mapping[str, int]) -> Iterator[CheckResult]:
    for name, why in _ZERO.items():
        message = (
            f"{name}: {n[name]:,} in {n['sets']:,} sets: {why}. Nothing is published; the last release stays live. "
            "Look at the filters of the blend and at the snapshot it read"
        )
        yield graded(name, n[name], "0", n["sets"], block=n[name] > 0, message=message)


def _below_minimum(n: Mapping[str, int], limits: CandidateSetThresholds) -> CheckResult:
    share = n["sets_below_minimum"] / n["sets"]
    short, small = share > limits.below_minimum, _small(n, limits)
    message = (
        f"{n['sets_below_minimum']:,} of {n['sets']:,} sets are shorter than the surface's minimum: "
        "look at what the filters removed from them"
    )
    threshold = f"<= {percent(limits.below_minimum)}"
    return graded(
        "sets_below_minimum", share, threshold, n["sets"], warn=short, block=short and not small, message=message
    )


def _small(n: Mapping[str, int], limits: CandidateSetThresholds) -> bool:
    """Tell whether caps and filters may leave too few of the catalogue for sets as long and as mixed as they should be."""
    return n["eligible_items"] < limits.small_catalogue * n["slots"] / n["sets"]


def _fallback(n: Mapping[str, int], before: Mapping[str, int], limits: CandidateSetThresholds) -> CheckResult:
    """Judge how many sets are charts.

    Newcomers, and whoever opted out, can have nothing else, however many they are: a warning is of listeners with charts, and of
    more charts than in the last run, as when histories were lost.
    """
    share, own = n["fallback_level_3_or_more"] / n["sets"], n["fallback_of_listeners"] / max(n["listeners"], 1)
    rise = share - (before["fallback_level_3_or_more"] / before["sets"] if before.get("sets") else 0)
    warn, block = limits.fallback_warn, limits.fallback_block
    message = (
        f"{percent(share)} of the sets are market popularity or less personal ({100 * rise:+.3g} points), and {percent(own)} of"
        " those of listeners with a history: were histories or co-listens lost, or are most users new?"
    )
    threshold = f"W > {percent(warn)} of listeners or more than last time, B > {percent(block)} of all or of listeners"
    return graded(
        "fallback_share", share, threshold, n["sets"], warn=max(own, rise) > warn, block=max(own, share) > block,
        message=message,
    )  # fmt: skip


def _mix(n: Mapping[str, int], limits: CandidateSetThresholds) -> CheckResult:
    if not n["content_floors"]:
        return skipped("content_floors", "no set has a floor for a kind of content")
    if _small(n, limits):
        return skipped("content_floors", f"{n['eligible_items']:,} eligible items are too few to fill every floor")
    share = n["content_floors_missed"] / n["content_floors"]
    message = (
        f"{n['content_floors_missed']:,} of {n['content_floors']:,} floors for music, talk, books or video are missed: "
        "is too little of that kind proposed, or do quotas, caps and filters take it out?"
    )
    threshold = f"<= {percent(limits.content_floors_warn)}"
    return graded(
        "content_floors",
        share,
        threshold,
        n["content_floors"],
        warn=share > limits.content_floors_warn,
        message=message,
    )


def _overlap(n: Mapping[str, int], limits: CandidateSetThresholds, least: int) -> CheckResult:
    """Judge the mean Jaccard index of pairs of sets, without slots of what is the same for all, if there are at least so many."""
    if n["jaccard_pairs"] < least:
        return skipped(
            "mean_jaccard", f"{n['jaccard_pairs']} pairs of sets with slots from sources other than the fallback"
        )
    overlap, per_set = n["jaccard_ppm_sum"] / n["jaccard_pairs"] / 1e6, n["slots"] / n["sets"]
    by_chance = limits.jaccard_times_chance * per_set / max(2 * n["eligible_items"] - per_set, per_set)
    warn, block = max(limits.jaccard_warn, by_chance), max(limits.jaccard_block, by_chance)
    message = (
        f"two sets share {percent(overlap)} of their candidates on average, popularity aside: everybody gets the same. "
        "Look at the histories and co-listens they rest on"
    )
    threshold, pairs = f"W > {warn:.3g}, B > {block:.3g}", n["jaccard_pairs"]
    return graded(
        "mean_jaccard", overlap, threshold, pairs, warn=overlap > warn, block=overlap > block, message=message
    )


def _concentration(
    n: Mapping[str, int], before: Mapping[str, int], limits: CandidateSetThresholds
) -> Iterator[CheckResult]:
    """Judge popularity collapse."""
    slots, items, sets = n["slots_chosen"], n["eligible_items"], n["sets"]
    if not slots or not items or not sets:
        yield skipped("single_item_share", "no slots from sources other than the fallback")
        return
    yield _top100(n, before, limits)
    by_chance = min(1.0, limits.single_item_times_chance * slots / sets / items)
    least = limits.single_item_small if items < limits.single_item_small_items else limits.single_item_block
    most = max(least, by_chance)
    share, then = (
        n["max_item_sets_chosen"] / sets,
        before.get("max_item_sets_chosen", 0) / max(before.get("sets", 0), 1),
    )
    chance = 4 * poisson_noise(before.get("max_item_sets_chosen", 0))
    risen = (
        share > max(limits.single_item_block, by_chance)
        and 0 < then * max(limits.single_item_rise_warn, 1 + chance) < share
    )
    message = (
        f"one item is in {percent(share)} of the sets, popularity aside, {percent(then)} in the last run: popularity collapse. "
        "Look at the weights of co-listens and transitions, and for a bot"
    )
    rise = f"W > {percent(limits.single_item_block)} and > {limits.single_item_rise_warn:g} times the last run's"
    threshold = f"<= {percent(most)}, {rise}"
    yield graded("single_item_share", share, threshold, sets, warn=risen, block=share > most, message=message)


def _top100(n: Mapping[str, int], before: Mapping[str, int], limits: CandidateSetThresholds) -> CheckResult:
    if n["eligible_items"] <= limits.top100_min_items:
        return skipped("top100_share", f"the top 100 are no small part of {n['eligible_items']:,} eligible items")
    share = n["top100_slots_chosen"] / n["slots_chosen"]
    then = before["top100_slots_chosen"] / before["slots_chosen"] if before.get("slots_chosen") else 0.0
    message = (
        f"{percent(share)} of the slots hold one of the 100 most frequent items, popularity aside, {percent(then)} in the last run:"
        " look for collapse"
    )
    rise = limits.top100_rise_warn
    warn = share > limits.top100_warn or 0 < rise * then < share
    threshold = f"W > {percent(limits.top100_warn)}, or > {rise:g} times the last run's"
    return graded("top100_share", share, threshold, n["slots_chosen"], warn=warn, message=message)


def _coverage(n: Mapping[str, int], before: Mapping[str, int], limits: CandidateSetThresholds) -> CheckResult:
    name = "catalogue_coverage"
    if not before.get("covered_items") or not before.get("eligible_items"):
        return skipped(name, "no earlier run to compare with")
    now, then = n["covered_items"] / max(n["eligible_items"], 1), before["covered_items"] / before["eligible_items"]
    change = now / then - 1
    message = f"{percent(now)} of the eligible items are in some set, {percent(then)} were: the sets are narrowing"
    threshold, warn = f"W < -{percent(limits.coverage_fall_warn)}", change < -limits.coverage_fall_warn
    return graded(name, change, threshold, n["eligible_items"], warn=warn, message=message)


def _gini(n: Mapping[str, int], before: Mapping[str, int], limits: CandidateSetThresholds) -> CheckResult:
    if "gini_ppm" not in before:
        return skipped("gini", "no earlier run to compare with")
    rise = (n["gini_ppm"] - before["gini_ppm"]) / 1e6
    message = f"exposure is spread less evenly than it was, Gini {rise:+.3f}: the sets are concentrating"
    warn = rise > limits.gini_rise_warn
    return graded("gini", rise, f"W > +{limits.gini_rise_warn:g}", n["covered_items"], warn=warn, message=message)


def _parity(manifest: Manifest, limits: CandidateSetThresholds, overlaid: bool) -> CheckResult:
    """Judge whether sets and vectors of listeners are the same when they are made once more, as the stream makes them."""
    n = manifest.counters
    if overlaid or manifest.qualifier != "home":
        return skipped(_PARITY, "only sets that a batch makes of listeners are made again")
    if missing := [name for name in _REPLAY if name not in n]:
        return broken(_PARITY, "some sets made again", f"the stage did not count {', '.join(missing)}")
    sets, vectors = n["replayed_sets_differ"], n["replayed_vectors_differ"]
    share = max(sets, vectors) / max(n["replayed"], 1)
    message = (
        f"of {n['replayed']:,} listeners whose sets were made again as the stream makes them {sets:,} have other items, and {vectors:,}"
        " other vectors: what is evaluated is not what is served. Run `make explain` for one of them, and delete the user vectors of"
        " this date where those differ"
    )
    threshold = f"<= {percent(limits.replay_block)}"
    return graded(_PARITY, share, threshold, n["replayed"], block=share > limits.replay_block, message=message)


def _sources(n: Mapping[str, int], before: Mapping[str, int], limits: CandidateSetThresholds) -> Iterator[CheckResult]:
    """Compare the slots each source got, per set, with the last run's."""
    if not before.get("sets") or not before.get("slots"):
        return
    for key, slots in sorted(before.items()):
        if not key.startswith(_SLOTS_BY_SOURCE) or slots < limits.source_share * before["slots"]:
            continue
        change = n.get(key, 0) / n["sets"] / (slots / before["sets"]) - 1
        message = (
            f"{key.removeprefix(_SLOTS_BY_SOURCE)} fills {n.get(key, 0) / n['sets']:.3g} slots of a set, it filled "
            f"{slots / before['sets']:.3g}: did its input change, or its quota?"
        )
        threshold, warn = f"W beyond {percent(limits.source_change_warn)}", abs(change) > limits.source_change_warn
        yield graded(key, change, threshold, n["slots"], warn=warn, message=message)


def _fairness(n: Mapping[str, int], limits: CandidateSetThresholds) -> Iterator[CheckResult]:
    """Compare what was drawn with the propensities, over strata and over hashes of items, by a chi-square test.

    Draws of one record keep each other off a cell, which makes the test milder, never sharper.
    """
    for name, by_hash in zip(_EXPLORED_FAIRLY, (False, True), strict=True):
        cells = [key.removeprefix(EXPLORED) for key in sorted(n) if key.startswith(EXPLORED)]
        mine = [cell for cell in cells if cell.startswith(_HASH) == by_hash]
        pairs = [(n[EXPLORED + cell], n.get(EXPLORED_EXPECTED + cell, 0) / 1e6) for cell in mine]
        large = [pair for pair in pairs if pair[1] >= _LEAST_EXPECTED]
        if len(large) < 2:
            yield skipped(name, "too few items were explored")
            continue
        z = _standard_score(sum((drawn - mean) ** 2 / mean for drawn, mean in large), len(large))
        message = (
            f"what was explored differs from its propensities by {z:.1f} standard deviations over {len(large)} cells: the"
            " draw is broken, and weights made from these propensities would be wrong. Look at transforms/explore.py"
        )
        most = limits.exploration_block
        yield graded(name, z, f"<= {most:g}", sum(drawn for drawn, _ in large), block=z > most, message=message)


def _standard_score(chi_square: float, freedom: int) -> float:
    """Return the normal score of a chi-square value (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * freedom)
    return float(((chi_square / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))
