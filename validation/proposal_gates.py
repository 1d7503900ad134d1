"""Judge proposals: a source that did not answer, or for others than last time, degrades the sets, and is told."""

from collections.abc import Iterator, Mapping

from schemas.manifest import CheckResult, Manifest
from validation.checks import graded, percent, skipped
from validation.drift import poisson_noise
from validation.score_gates import ANSWERED, judge_scores
from validation.thresholds import CandidateSetThresholds

_LEFT_OUT = "left_out:"
_SAID = {"failed": "failed", "slow": "was too slow"}
_KEYS = "keys_by_source"


def judge_proposals(
    manifest: Manifest, previous: Manifest | None, limits: CandidateSetThresholds
) -> Iterator[CheckResult]:
    """Yield that every source answered, for as many as in the last run and with such scores; one result per source that did not."""
    n = manifest.counters
    out = {name.removeprefix(_LEFT_OUT): keys for name, keys in n.items() if name.startswith(_LEFT_OUT)}
    asked = n.get("asked", 0)
    if not out:
        yield graded("sources_answer", 0, "0 sources left out", asked)
    for named, keys in out.items():
        source, _, reason = named.rpartition(":")
        message = (
            f"{source} {_SAID[reason]} for {keys:,} of {asked:,} keys ({percent(keys / asked)}): their sets go without it "
            f"and say so. The error is in {manifest.artifacts[0].path}; mend the source and run the date again"
        )
        yield graded(f"sources_answer:{source}", keys, "0 keys left out", asked, warn=True, message=message)
    yield from _coverage(n, previous.counters if previous else {}, limits)
    yield from judge_scores(manifest, limits)


def _coverage(n: Mapping[str, int], before: Mapping[str, int], limits: CandidateSetThresholds) -> Iterator[CheckResult]:
    """Compare for what share of keys each source proposed anything with the last run's share, where it was left out of neither."""
    silent = {name.split(":")[1] for name in (*n, *before) if name.startswith(_LEFT_OUT)}
    sources = [name.removeprefix(ANSWERED) for name in sorted(before) if name.startswith(ANSWERED) and before[name]]
    if not sources or not before.get("asked") or not n.get("asked"):
        yield skipped(_KEYS, "no earlier run to compare with")
        return
    for source in (name for name in sources if name not in silent):
        now, then = (of.get(ANSWERED + source, 0) / of["asked"] for of in (n, before))
        change, chance = now / then - 1, 4 * poisson_noise(before[ANSWERED + source])  # newcomers come by the dozen
        message = (
            f"{source} proposes anything for {percent(now)} of {n['asked']:,} keys, it did for {percent(then)}: did its input"
            " change, or who it is asked for?"
        )
        warn = abs(change) > max(limits.source_keys_warn, chance)
        threshold = f"W beyond {percent(limits.source_keys_warn)}"
        yield graded(f"{_KEYS}:{source}", change, threshold, n["asked"], warn=warn, message=message)
