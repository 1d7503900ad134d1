import dataclasses
import re

import pytest

from schemas.manifest import CheckResult, Manifest
from validation.index_gates import judge_index
from validation.thresholds import default_thresholds

EMPTY = Manifest("index", "1.0.0", "f", "index", "", "r", "d", 1, "c", {}, (), (), (), 9_000, 1, {}, {}, {}, ())
GOOD = {
    "listed": 9_000, "repeated": 0, "ids": 7, "ids_given": 7, "wanted": 1_000, "hits": 990, "padded": 0, "itself": 100,
    "asked_itself": 100, "slices": 2, "wanted[SE track]": 100, "hits[SE track]": 95, "padded[SE track]": 0,
    "wanted[NO track]": 100, "hits[NO track]": 91, "padded[NO track]": 0,
}  # fmt: skip


def judged(rows: int = 9_000, **counters: int) -> dict[str, CheckResult]:
    manifest = dataclasses.replace(EMPTY, rows_in=rows, counters=GOOD | counters)
    return {one.name: one for one in judge_index(manifest, default_thresholds().index)}


@pytest.mark.parametrize(
    ("counters", "name", "message"),
    [
        ({"listed": 8_999}, "index_ids", r"8,999 of 9,000 items .* ids are those that were embedded: delete"),
        ({"repeated": 1}, "index_ids", "1 of them repeated"),
        ({"ids": 8}, "index_ids", "their ids are others than were embedded"),
        ({"hits": 949}, "recall", r'recall@100 is 94.9 ?% of 1,000 neighbours: set index = "exact" in \[road\]'),
        ({"hits[NO track]": 89}, "slice_recall", r"recall@100 among NO track is 89 ?%: set index"),
        ({"padded[SE track]": 3}, "padding", "3 neighbours were not found though there are as many"),
        ({"padded": 1}, "padding", "1 neighbours"),
        ({"itself": 98}, "self_retrieval", "only 98 ?% of 100 items find themselves first"),
    ],
)  # fmt: skip
def test_an_index_that_finds_too_little_is_stopped(counters, name, message):
    found = judged(**counters)
    assert (found[name].outcome, found[name].severity) == ("failed", "critical")
    assert re.search(message, found[name].message)
    assert all(one.outcome == "passed" for other, one in found.items() if other != name)


def test_sums_of_ids_are_compared_modulo_two_to_the_64():
    assert judged(ids=7 + 2**65)["index_ids"].outcome == "passed"


def test_an_index_of_nothing_is_stopped():
    assert judged(rows=0, listed=0)["index_ids"].outcome == "failed"


def test_a_good_index_passes_and_says_what_it_was_judged_on():
    found = judged()
    assert {one.outcome for one in found.values()} == {"passed"}
    assert (found["recall"].observed, found["recall"].of) == (0.99, 1_000)
    assert (found["slice_recall"].observed, found["slice_recall"].of) == (0.91, 2)


def test_without_slices_of_enough_items_only_the_whole_is_judged():
    counters = {name: count for name, count in GOOD.items() if "[" not in name}
    manifest = dataclasses.replace(EMPTY, counters=counters)
    found = {one.name: one for one in judge_index(manifest, default_thresholds().index)}
    assert "no market has 1,000 items of a type" in found["slice_recall"].message
    assert found["recall"].outcome == "passed"
