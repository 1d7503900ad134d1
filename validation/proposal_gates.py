"""Judge proposals: a source that did not answer degrades the sets, and is told."""

from collections.abc import Iterator

from schemas.manifest import CheckResult, Manifest
from validation.checks import graded, percent

_LEFT_OUT = "left_out:"
_SAID = {"failed": "failed", "slow": "was too slow"}


def judge_proposals(manifest: Manifest) -> Iterator[CheckResult]:
    """Yield that every source answered for everybody; one warning per source that did not."""
    out = {name.removeprefix(_LEFT_OUT): n for name, n in manifest.counters.items() if name.startswith(_LEFT_OUT)}
    asked = manifest.counters.get("asked", 0)
    if not out:
        yield graded("sources_answer", 0, "0 sources left out", asked)
    for named, keys in out.items():
        source, _, reason = named.rpartition(":")
        message = (
            f"{source} {_SAID[reason]} for {keys:,} of {asked:,} keys ({percent(keys / asked)}): their sets go without it "
            f"and say so. The error is in {manifest.artifacts[0].path}; mend the source and run the date again"
        )
        yield graded(f"sources_answer:{source}", keys, "0 keys left out", asked, warn=True, message=message)
