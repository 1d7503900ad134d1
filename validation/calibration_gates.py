"""Judge a calibration: what was counted of another model says nothing of this one's ranks, and is left out and told."""

from collections.abc import Iterator

from schemas.manifest import CheckResult, Manifest
from validation.checks import graded

OTHER_MODEL = "trials_of_another_model:"
"""Counters by source: trials that were left out because they are of another model than the one that proposes now."""
_NAME = "calibration_of_model"


def judge_calibration(manifest: Manifest) -> Iterator[CheckResult]:
    """Yield that every source is calibrated on its own model; one warning per source that is not."""
    out = {
        name.removeprefix(OTHER_MODEL): n for name, n in manifest.counters.items() if name.startswith(OTHER_MODEL) and n
    }
    if not out:
        yield graded(_NAME, 0, "0 sources of another model", manifest.rows_out)
    for source, trials in sorted(out.items()):
        message = (
            f"{trials:,} trials of {source} are of another model than the one it ranks by now: they are left out, and its"
            " chances are assumed until what it proposes now was judged, which takes a run of another date"
        )
        yield graded(f"{_NAME}:{source}", trials, "0 trials left out", manifest.rows_out, warn=True, message=message)
