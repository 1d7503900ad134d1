"""Scores of a source that are spread otherwise than in the week before stop, beyond what chance and its own week make of it."""

import dataclasses
import math

import pytest
from toy_manifests import manifest

from schemas.catalogue import CONTRACTS
from schemas.manifest import CheckResult, InputRef, Manifest
from validation.gates import judge
from validation.score_gates import scores_of, week_of_scores
from validation.statistics import Statistics

KEYS = 1_000_000
CONTRACT = CONTRACTS["proposal"]


def day(scores: dict[str, int], keys: int = KEYS, encoder: str = "e1", **counters: int) -> Manifest:
    """Return a day's proposals of source `a`, by bin."""
    told = {"asked": keys, "answered:a": keys} | {f"scores:a:{bin_}": n for bin_, n in scores.items()} | counters
    return manifest("proposal", Statistics(0, {}, {}), counters=told, inputs=(InputRef("encoder", "p", encoder),))


def judged(now: Manifest, week: list[Manifest], ours: tuple[str, ...] = ()) -> CheckResult:
    told = week_of_scores(dict.fromkeys(ours, "recipe"), now.inputs[0].digest, week)
    (found,) = [
        one
        for one in judge(CONTRACT, dataclasses.replace(now, counters=now.counters | told), None)
        if one.name.startswith("psi:scores")
    ]
    return found


def shifted(psi: float) -> dict[str, int]:
    """Return a spread over two bins whose index against half and half is `psi`: x / 2 ln((1 + x) / (1 - x))."""
    low, high = 0.0, 0.999
    for _ in range(60):
        x = (low + high) / 2
        low, high = (x, high) if x * math.log((1 + x) / (1 - x)) / 2 < psi else (low, x)
    return {"4": round(5e8 * (1 + low)), "5": round(5e8 * (1 - low))}


EVEN = shifted(0.0)


@pytest.mark.parametrize(
    ("psi", "severity"), [(0.0, None), (0.098, None), (0.102, "warning"), (0.248, "warning"), (0.252, "critical")]
)
def test_scores_that_are_spread_otherwise_are_told_and_then_stopped(psi, severity):
    found = judged(day(shifted(psi)), [day(EVEN)] * 7)
    assert found.observed == pytest.approx(psi, abs=1e-4)
    assert (found.outcome, found.severity) == (("failed", severity) if severity else ("passed", "critical"))
    if severity:
        assert "the scores of a are not spread as in the 7 days before (median bin 4, it was 4)" in found.message


@pytest.mark.parametrize(
    ("observed", "psi", "severity"),
    [
        (0.109, 0.3, None),
        (0.171, 0.4, None),
        (0.238, 0.5, "warning"),
        (0.308, 0.6, "warning"),
        (0.344, 0.65, "critical"),
    ],
)
def test_a_week_that_varies_by_itself_grants_as_much(observed, psi, severity):
    """Releases of a Friday are fresh: a day of this week is 0.075 from the others, and today may be as much further."""
    found = judged(day(shifted(psi)), [day(EVEN), day(shifted(0.2))] * 3)
    assert found.observed == pytest.approx(observed, abs=1e-3)
    assert found.threshold == "W > 0.1, B > 0.25, plus 0.075 of noise"
    assert (found.outcome, found.severity) == (("failed", severity) if severity else ("passed", "critical"))


@pytest.mark.parametrize(("keys", "outcome"), [(4, "passed"), (1_000, "failed")])
def test_few_keys_differ_by_chance(keys, outcome):
    """Of four listeners each proposal is one of a hundred that are alike."""
    assert judged(day(shifted(0.3), keys), [day(EVEN, keys)] * 7).outcome == outcome


@pytest.mark.parametrize(("days", "threshold"), [(0, "not judged"), (3, "not judged"), (4, "W > 0.1, B > 0.25")])
def test_a_young_world_is_not_judged(days, threshold):
    found = judged(day({"9": 1}), [day(EVEN)] * days)
    assert found.threshold.startswith(threshold)
    if days < 4:
        assert found.outcome == "passed"
        assert f"{days} of the 7 days before, 4 are needed" in found.message


def test_after_a_training_other_scores_are_told_and_do_not_stop_and_days_of_the_new_model_count_as_soon_as_they_are_enough():
    before, after = day(EVEN), day({"9": 10**9}, encoder="e2")
    first = judged(after, [before] * 7, ours=("a",))
    assert (first.outcome, first.severity) == ("failed", "warning")
    assert "Some of these days were of another model" in first.message
    later = judged(after, [before] * 3 + [after] * 4, ours=("a",))
    assert (later.outcome, later.threshold) == ("passed", "W > 0.1, B > 0.25, plus 0.000 of noise")
    assert judged(after, [before] * 7).severity == "critical", "a source without a model has no such excuse"


def test_a_source_that_answered_and_whose_scores_nobody_counted_is_broken():
    found = judged(day({}), [day(EVEN)] * 7)
    assert (found.outcome, found.severity) == ("broken", "critical")
    assert found.message == "the stage did not count the scores of a"


def test_days_of_before_scores_were_counted_are_no_history():
    old = manifest("proposal", Statistics(0, {}, {}), counters={"asked": 5, "answered:a": 5})
    assert "0 of the 7 days before" in judged(day(EVEN), [old] * 7).message
    assert scores_of(old.counters) == {}
