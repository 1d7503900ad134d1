import datetime

import pytest

from schemas.manifest import CheckResult
from validation.waivers import Waiver, apply_waivers, parse_waivers, verdict

ENTRY = """
[[waiver]]
check = "items_vs_previous"
dataset = "item"
owner = "catalogue@example.org"
reason = "Label X was taken down"
expires = 2026-03-31
"""


def result(outcome="failed", severity="critical", name="items_vs_previous") -> CheckResult:
    return CheckResult(
        name, "statistics", severity, outcome, -0.2, "B < -5 %", 100, "too few" if outcome == "failed" else ""
    )


def waived(date: str, dataset: str = "item", check: CheckResult | None = None) -> CheckResult:
    (only,) = apply_waivers([check or result()], parse_waivers(ENTRY, "waivers.toml"), dataset, date)
    return only


def test_entries_are_read():
    (waiver,) = parse_waivers(ENTRY, "waivers.toml")
    assert waiver == Waiver(
        "items_vs_previous", "item", "catalogue@example.org", "Label X was taken down", datetime.date(2026, 3, 31)
    )
    assert parse_waivers("", "waivers.toml") == []


def test_a_waiver_holds_through_its_last_date():
    held = waived("2026-03-31")
    assert held.outcome == "waived"
    assert held.message == "too few [waived by catalogue@example.org until 2026-03-31: Label X was taken down]"
    assert verdict([held]) == "passed"


def test_an_expired_waiver_does_not_hold_and_is_named():
    expired = waived("2026-04-01")
    assert expired.outcome == "failed"
    assert "the waiver by catalogue@example.org until 2026-03-31: Label X was taken down has expired" in expired.message
    assert verdict([expired]) == "failed"


def test_the_waiver_that_holds_longest_counts():
    later = ENTRY.replace("2026-03-31", "2026-05-01").replace("catalogue@", "later@")
    (held,) = apply_waivers([result()], parse_waivers(later + ENTRY, "w"), "item", "2026-04-15")
    assert held.outcome == "waived"
    assert "by later@example.org" in held.message


def test_other_checks_datasets_and_outcomes_are_left_alone():
    assert waived("2026-03-01", dataset="user") == result()
    assert waived("2026-03-01", check=result(name="eligible_items")) == result(name="eligible_items")
    for outcome in ("passed", "broken"):
        assert waived("2026-03-01", check=result(outcome)) == result(outcome)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ENTRY.replace("reason", "resaon"),
            "w.toml, waiver 1: expected the keys check, dataset, owner, reason, expires, got",
        ),
        (ENTRY.replace("owner = ", "#"), "w.toml, waiver 1: expected the keys"),
        (ENTRY + ENTRY.replace("catalogue@example.org", " "), "w.toml, waiver 2: owner must be text and not empty"),
        (ENTRY.replace("2026-03-31", '"2026-03-31"'), "expected expires = YYYY-MM-DD without quotes, got '2026-03-31'"),
        (ENTRY.replace("2026-03-31", "2026-03-31T00:00:00"), "expected expires = YYYY-MM-DD without quotes"),
        (ENTRY.replace("[[waiver]]", "[waiver]"), r"expected \[\[waiver\]\] tables only, got one \[waiver\]"),
        (ENTRY.replace("waiver", "waver"), r"expected \[\[waiver\]\] tables only, got \['waver'\]"),
        ("[[waiver", "w.toml is not TOML"),
    ],
)
def test_a_wrong_file_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_waivers(text, "w.toml")


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([], "passed"),
        ([result("passed"), result("failed", "warning"), result("broken", "warning")], "passed"),
        ([result("waived")], "passed"),
        ([result("broken"), result("passed")], "broken"),
        ([result("broken"), result("failed")], "failed"),
    ],
)
def test_verdict(results, expected):
    assert verdict(results) == expected
