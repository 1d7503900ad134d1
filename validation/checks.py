"""How a figure becomes a check result of layer `statistics`."""

from schemas.manifest import CheckResult


def graded(
    name: str,
    observed: float | str | None,
    threshold: str,
    of: int | None,
    *,
    warn: bool = False,
    block: bool = False,
    message: str = "",
) -> CheckResult:
    """Return a result that stops the stage where `block`, is recorded where `warn`, and passed otherwise.

    A passed result has severity `critical`. `message` is for the failed one.
    """
    severity = "warning" if warn and not block else "critical"
    failed = warn or block
    observed = round(observed, 6) if isinstance(observed, float) else observed
    return CheckResult(
        name,
        "statistics",
        severity,
        "failed" if failed else "passed",
        observed,
        threshold,
        of,
        message if failed else "",
    )


def skipped(name: str, why: str) -> CheckResult:
    """Return a passed result that says why there was nothing to judge."""
    return CheckResult(name, "statistics", "warning", "passed", None, "not judged", None, why)


def broken(name: str, threshold: str, why: str) -> CheckResult:
    """Return the critical result of a check that could not run."""
    return CheckResult(name, "statistics", "critical", "broken", None, threshold, None, why)


def percent(share: float) -> str:
    """Spell a share for people: 0.0123 is `1.23 %`."""
    return f"{100 * share:.4g} %"
