import dataclasses

import pytest

from schemas.manifest import CheckResult, Manifest
from validation.model_gates import judge_training, judge_vectors
from validation.statistics import Statistics
from validation.thresholds import default_thresholds

EMPTY = Manifest("training", "1.0.0", "f", "train", "m", "r", "d", 1, "c", {}, (), (), (), 0, 0, {}, {}, {}, ())
NOTHING = Statistics(0, {}, {})
LIMITS = default_thresholds().embedding
GOOD = {
    "sampled": 1000, "repeated": 0, "mean_cosine_ppm": 100_000, "effective_rank_ppm": 800_000, "overlap_ppm": 900_000,
    "popularity_ppm": 0,
}  # fmt: skip


def trained(**counters: int) -> dict[str, CheckResult]:
    manifest = dataclasses.replace(EMPTY, rows_in=counters.pop("rows_in", 9), counters=counters)
    return {one.name: one for one in judge_training(manifest, NOTHING)}


def vectors(rows: int = 1000, of: int = 1000, **counters: int) -> dict[str, CheckResult]:
    manifest = dataclasses.replace(EMPTY, rows_in=of, rows_out=rows, counters=GOOD | counters)
    return {one.name: one for one in judge_vectors(manifest, LIMITS, LIMITS.item_coverage)}


@pytest.mark.parametrize(
    ("counters", "name"),
    [
        ({"rows_in": 0}, "listens"),
        ({"not_finite": 1, "weights": 10}, "weights_finite"),
        ({"last_feature_us": 5_000_000, "first_label_us": 5_000_000}, "no_leak"),
        ({"last_feature_us": 9_000_000, "first_label_us": 5_000_000}, "no_leak"),
    ],
)
def test_a_training_that_cannot_be_trusted_is_stopped(counters, name):
    found = trained(**counters)
    assert (found[name].outcome, found[name].severity) == ("failed", "critical")
    assert all(one.outcome == "passed" for other, one in found.items() if other != name)


def test_a_clean_training_passes_with_the_gap_it_was_judged_on():
    found = trained(last_feature_us=5_000_000, first_label_us=6_500_000)
    assert found["no_leak"].observed == 1.5
    assert {one.outcome for one in found.values()} == {"passed"}


@pytest.mark.parametrize(
    ("counters", "name", "severity"),
    [
        ({"not_unit": 1}, "unit_vectors", "critical"),
        ({"not_finite": 1}, "unit_vectors", "critical"),
        ({"rows": 994}, "coverage", "critical"),
        ({"mean_cosine_ppm": 310_000}, "mean_cosine", "warning"),
        ({"effective_rank_ppm": 290_000}, "effective_rank", "warning"),
        ({"repeated": 60}, "repeated", "warning"),
        ({"overlap_ppm": 590_000}, "neighbour_overlap", "warning"),
        ({"overlap_ppm": 290_000}, "neighbour_overlap", "critical"),
        ({"popularity_ppm": 310_000}, "popularity", "warning"),
        ({"popularity_ppm": 610_000}, "popularity", "critical"),
    ],
)
def test_vectors_that_went_wrong_are_graded(counters, name, severity):
    found = vectors(**counters)
    assert (found[name].outcome, found[name].severity) == ("failed", severity)
    assert all(one.outcome == "passed" for other, one in found.items() if other != name)


def test_good_vectors_pass_and_few_are_not_judged_as_a_space():
    assert {one.outcome for one in vectors().values()} == {"passed"}
    assert "too few" in vectors(sampled=3)["collapse"].message
