"""Failures injected at their detectors, where no test of the detector does it already; all of them: docs/failures.md."""

import datetime
import operator
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_road import NOW, audience, facts, instant, item, policy, proposals, quota, table

from schemas.inputs import CAMPAIGN
from schemas.models import EMBEDDING_DIM, Space
from transforms.blend import blend
from transforms.calibrate import Calibration
from transforms.conformance import MemoryBundle
from transforms.embed.vectors import ITEMS, Batch, finish_batch
from transforms.histories import REPEATS_PER_SESSION, without_repeats
from transforms.panel import Panel
from transforms.shards import Task
from transforms.sources import Source, no_seed, none_found
from validation.rows import split_rows

REPOSITORY = Path(__file__).resolve().parents[2]
DAY = datetime.timedelta(days=1)
PAGE = REPOSITORY / "docs" / "failures.md"
_ROW = re.compile(r"^\| (\d+) \| (?P<failure>[^|]+) \| (?P<detector>[^|]+) \| (?P<tests>[^|]+) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[re.Match]:
    return list(_ROW.finditer(PAGE.read_text(encoding="utf-8")))


def test_the_page_lists_all_failures_in_order():
    assert [int(row[1]) for row in rows()] == list(range(1, 26))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["failure"])
def test_every_failure_names_tests_that_exist_or_what_is_missing(row):
    named = _TEST.findall(row["tests"])
    assert named or row["tests"].startswith("none: "), f"{row['failure']}: expected a test or `none: <why>`"
    for path, name in named:
        file = REPOSITORY / path
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        assert re.search(rf"^def {name}\(", text, re.MULTILINE), (
            f"{row['failure']}: {path} has no {name}; name the test that injects it now"
        )


@pytest.mark.parametrize("scale", [1000.0, 1e-6, -1.0])
def test_scores_of_another_scale_change_no_set(scale):
    """A retrained source scores a thousand times higher: ranks decide, and it floods nothing."""
    near, far = ([f"{name}{n}" for n in range(9)] for name in ("near", "far"))
    surface = policy(quota("near", 1, 3, 6), quota("far", 1, 3, 6))
    offered, told = proposals({"near": near, "far": far}), facts([item(one) for one in (*near, *far)])
    score = pl.when(pl.col("source_id") == "near").then(pl.col("raw_score") * scale).otherwise("raw_score")
    rescored = offered.with_columns(score.cast(pl.Float32).alias("raw_score"))
    assert not rescored.equals(offered)
    expected, found = (blend(one, told, surface, instant(surface)).candidates for one in (offered, rescored))
    assert found.equals(expected)


@pytest.mark.parametrize(
    "retrained", [lambda score: 1000 * score, lambda score: score - 5, lambda score: score / 1000 + 50]
)
@pytest.mark.parametrize("counted", [True, False])
def test_a_retrained_source_is_ranked_and_blended_as_before(retrained, counted):
    """From what the source says to the set, with chances and without: only the order of its own scores counts."""
    surface = policy(quota("near", 1, 3, 6), quota("far", 1, 3, 6))
    told = facts([item(f"{name}{n}") for name in ("near", "far") for n in range(9)])
    falling = {"near": np.linspace(0.5, 0.1, 9), "far": np.linspace(0.45, 0.05, 9)}

    def source(name, score):
        items = pl.DataFrame(
            {"item_id": [f"{name}{n}" for n in range(9)], "raw_score": [score(9.0 - n) for n in range(9)]}
        )
        rows = items.with_columns(*no_seed(), key=pl.lit("u1")).select(none_found().columns)
        return Source(lambda audience, bundle: rows, "toy", "toy", "toy", 8)

    def made(score):
        sources = {"near": source("near", score), "far": source("far", lambda score: score)}
        offered = Panel(sources, 60.0).ask(audience([{"key": "u1"}]), MemoryBundle({}))
        chances = Calibration(falling, counted).chances(offered, surface)
        return offered, blend(offered, told, surface, instant(surface), chances).candidates

    (before, expected), (after, found), (_, reversed_) = (
        made(one) for one in (lambda one: one, retrained, operator.neg)
    )
    assert not after["raw_score"].equals(before["raw_score"])
    assert after.drop("raw_score").equals(before.drop("raw_score"))
    assert found.equals(expected)
    assert not reversed_.equals(expected)


@pytest.mark.parametrize(("wrong", "counter"), [(3.0, "not_unit"), (np.nan, "not_finite"), (0.0, "without")])
def test_vectors_that_went_wrong_are_counted(wrong, counter):
    """One item of three has a vector three times too long, of no numbers, or of nothing."""
    rows = table("item", [item(one) for one in "abc"]).with_columns(pl.lit(0, pl.Int64).alias("made_from"))
    vectors = np.eye(3, EMBEDDING_DIM, dtype=np.float32)
    vectors[1] *= wrong
    batch = Batch(Task("toy", 0, {}), rows, table("item_embedding", []))
    found = finish_batch(batch, vectors, ITEMS, Space("toy", "1", EMBEDDING_DIM, "cosine")).counters
    assert {name: found[name] for name in ("not_unit", "not_finite", "without")} == {
        "not_unit": 0, "not_finite": 0, "without": 0, counter: 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [({"spend_to_date": 101.0}, "spend_to_date:at_most:budget"), ({"end_ts": NOW - DAY}, "start_ts:not_after:end_ts"),
     ({"status": "revived"}, "status:one_of"), ({}, None)],
)  # fmt: skip
def test_a_campaign_that_is_overspent_or_has_no_flight_is_rejected(wrong, rule):
    """Nothing downstream ever sees it, so that whatever will serve campaigns cannot serve this one."""
    campaign = {"campaign_id": "c", "kind": "paid", "start_ts": NOW, "end_ts": NOW + DAY, "budget": 100.0,
                "spend_to_date": 100.0, "status": "active"}  # fmt: skip
    passed, broken = split_rows(table("campaign", [campaign | wrong]), CAMPAIGN)
    assert (passed.height, broken["rule"].to_list()) == ((0, [rule]) if rule else (1, []))


def test_a_track_on_repeat_counts_three_times_a_session():
    """A client that plays one track ten thousand times makes no hit of it."""
    start = datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC)
    loop = pl.DataFrame({"session_id": ["s"] * 10_000, "item_id": ["t"] * 10_000, "event_ts": [start] * 10_000})
    assert without_repeats(loop, ["session_id", "item_id"]).height == REPEATS_PER_SESSION == 3
