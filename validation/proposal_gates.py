"""Judge proposals: a source that did not answer degrades the sets, and is told."""

from collections.abc import Iterator

from schemas.manifest import CheckResult, Manifest
from validation.checks import graded, percent

_LEFT_OUT = "left_out:"


def judge_proposals(manifest: Manifest) -> Iterator[CheckResult]:
    """Yield that every source answered for everybody; one warning per source that did not."""
    out = {name.removeprefix(_LEFT_OUT): n for name, n in manifest.counters.items() if name.startswith(_LEFT_OUT)}
    if not out:
        yield graded("sources_answer", 0, "0 sources left out", manifest.rows_in)
    where = ", ".join(file.path for file in manifest.artifacts)
    for named, rows in out.items():
        source, _, reason = named.rpartition(":")
        message = (
            f"{source} was {reason} for {rows:,} of {manifest.rows_in:,} keys ({percent(rows / manifest.rows_in)}): their "
            f"sets go without it and say so. The error is in {where}; mend the source and run the date again"
        )
        yield graded(f"sources_answer:{source}", rows, "0 keys left out", manifest.rows_in, warn=True, message=message)
