"""Metrics against plain loops, sums that merge in any order, and a bootstrap whose intervals are right."""

import dataclasses
import itertools
import math

import numpy as np
import polars as pl
import pytest

from schemas.evaluation import ORACLE, REPLICATES, SETS, TARGETS, UNIT, UNITS
from transforms.evaluation import (
    Cell,
    Judged,
    Sums,
    from_frame,
    interval,
    measure,
    poisson_weights,
    ratios,
    to_frame,
    units_of,
)
from transforms.evaluation_lists import PER_UNIT, part_names

RANKINGS = (SETS, ORACLE, "home.a", "only:home.a")


def a_world(num_units: int, seed: int = 1) -> Judged:
    """Return users with one to nine targets each, and rankings that hold a third of them."""
    dice = np.random.default_rng(seed)
    units = pl.DataFrame(
        {
            "unit": np.arange(num_units, dtype=np.uint32),
            "user_id": [f"user-{n}" for n in range(num_units)],
            "market": dice.choice(["BR", "SE", "US"], num_units),
            "tier": dice.choice(["free", "premium"], num_units),
            "tenure": dice.choice(["0", "1-5", "21+"], num_units),
        }
    )
    counts = dice.integers(1, 10, num_units)
    n = int(counts.sum())
    targets = pl.DataFrame(
        {
            "unit": np.repeat(units["unit"].to_numpy(), counts),
            "canonical_id": [f"item-{one}" for own in counts for one in range(own)],
            "all": True,
            "discovery": dice.random(n) < 0.5,
            "organic": dice.random(n) < 0.8,
            "type": dice.choice(["track", "episode"], n),
            "age": dice.choice(["0-30 days", "366+ days"], n),
            "device": dice.choice(["phone", "car"], n),
            "language": dice.choice(["en", "sv", "none"], n),
        }
    )
    found = [
        targets.select("unit", "canonical_id", pl.lit(ranking).alias("ranking"))
        .with_columns(pl.Series("rank", dice.permutation(n) % 400))
        .filter(pl.Series(dice.random(n) < 0.3))
        .unique(["unit", "rank"], maintain_order=True)
        for ranking in RANKINGS
    ]
    sizes = units.select(
        "unit", pl.lit(SETS).alias("ranking"), pl.lit("fresh").alias("metric"), pl.lit(0.25).alias("value")
    )
    return Judged(units, targets, pl.concat(found), sizes.cast(PER_UNIT))


def metrics_by_hand(ranks: list[int], wanted: int) -> dict[tuple[str, int], float]:
    """Return the metrics of one unit, from the places of its hits."""
    figures = {("recall", k): sum(rank < k for rank in ranks) / wanted for k in (10, 50, 100, 300)}
    for k in (10, 100):
        gain = sum(1 / math.log2(rank + 2) for rank in ranks if rank < k)
        figures["ndcg", k] = gain / sum(1 / math.log2(place + 2) for place in range(min(k, wanted)))
    return figures | {("hit", k): float(any(rank < k for rank in ranks)) for k in (1, 10, 50, 100, 300)}


def means_by_hand(judged: Judged, cell: Cell) -> dict[tuple[str, int], float]:
    """Return the means of a target, ranking and part of a slice over its units, one row at a time."""
    units = {row["unit"]: row for row in judged.units.to_dicts()}
    ranks = {(r["unit"], r["canonical_id"]): r["rank"] for r in judged.hits.to_dicts() if r["ranking"] == cell.ranking}
    wanted: dict[int, list[str]] = {}
    for row in judged.targets.to_dicts():
        described = units[row["unit"]] | row
        in_slice = cell.slice == "all" or described[cell.slice] == cell.part
        if in_slice and (cell.target == "all" or row[cell.target]):
            wanted.setdefault(row["unit"], []).append(row["canonical_id"])
    each = [
        metrics_by_hand([ranks[unit, one] for one in own if (unit, one) in ranks], len(own))
        for unit, own in wanted.items()
    ]
    return {name: sum(one[name] for one in each) / len(each) for name in each[0]}


@pytest.fixture(scope="module")
def judged() -> Judged:
    return a_world(300)


@pytest.fixture(scope="module")
def sums(judged: Judged) -> Sums:
    return measure(judged, RANKINGS)


PARTS = [
    ("all", "all"),
    ("market", "SE"),
    ("tenure", "0"),
    ("type", "episode"),
    ("device", "car"),
    ("language", "sv"),
    ("age", "0-30 days"),
]


@pytest.mark.parametrize(("target", "part"), list(itertools.product(TARGETS[:3], PARTS)))
def test_metrics_are_those_of_plain_loops(judged, sums, target, part):
    for ranking in (SETS, "home.a") if part[0] == "all" else (SETS,):
        start = Cell(target, ranking, *part, "", 0)
        for (metric, k), expected in means_by_hand(judged, start).items():
            cell = start._replace(metric=metric, k=k)
            mean = sums.cells[cell][0] / sums.cells[units_of(cell)][0]
            assert mean == pytest.approx(expected, abs=1e-6), cell


def test_figures_of_whole_sets_are_means_too(sums):
    assert sums.cells[Cell("all", SETS, "all", "all", "fresh", 0)][0] == 300 * UNIT // 4
    assert sums.cells[Cell("all", SETS, "market", "SE", "fresh", 0)][0] > 0


def test_figures_of_whole_sets_are_of_the_units_they_are_divided_by(judged, sums):
    """A session of Now Playing is a unit beside its plays: what its set is like was counted already."""
    few = pl.col("unit") < 100
    sessions = dataclasses.replace(
        judged, targets=judged.targets.with_columns(few.alias("all"), (~few).alias("session"))
    )
    cell = Cell("all", SETS, "all", "all", "fresh", 0)
    found = measure(sessions, RANKINGS)
    assert found.cells[cell][0] == 100 * UNIT // 4
    assert found.cells[units_of(cell)][0] == 100 * UNIT
    assert found.cells[Cell("session", "", "all", "all", UNITS, 0)][0] == 200 * UNIT


def test_a_part_of_the_sets_has_hits_and_one_recall(sums):
    names = {(c.metric, c.k) for c in sums.cells if c.ranking == "only:home.a"}
    assert names == {("recall", 300), ("hits", 0)}
    assert part_names(["b", "a"]) == ["within:a", "within:b", "only:a", "only:b", "both:a+b"]


def pieces(judged: Judged, sizes: list[int]) -> list[Judged]:
    """Cut the units into pieces, numbered from 0 in each."""
    found, start = [], 0
    for size in sizes:
        span = pl.col("unit").is_between(start, start + size, closed="left")
        again = (pl.col("unit") - start).cast(pl.UInt32)
        names = ("units", "targets", "hits", "per_unit")
        found.append(Judged(*(getattr(judged, name).filter(span).with_columns(again) for name in names)))
        start += size
    return found


def test_shards_in_any_order_give_the_same_sums(judged, sums):
    merged = Sums()
    for piece in reversed(pieces(judged, [1, 120, 179])):
        merged.merge(measure(piece, RANKINGS))
    assert {cell for cell in merged.cells if cell.metric == UNITS} == {
        cell for cell in sums.cells if cell.metric == UNITS
    }
    assert all(np.array_equal(merged.cells[cell], sums.cells[cell]) for cell in sums.cells)


def test_rows_in_any_order_and_blocks_of_any_size_give_the_same_sums(judged, sums, monkeypatch):
    monkeypatch.setattr("transforms.evaluation.BLOCK", 7)
    shuffled = Judged(judged.units, *(frame.sample(fraction=1, shuffle=True, seed=3)
                                      for frame in (judged.targets, judged.hits, judged.per_unit)))  # fmt: skip
    again = measure(shuffled, reversed(RANKINGS))
    assert again.cells.keys() == sums.cells.keys()
    assert all(np.array_equal(again.cells[cell], own) for cell, own in sums.cells.items())


def test_sums_go_through_a_table_and_back(sums):
    back = from_frame(to_frame(sums))
    assert back.cells.keys() == sums.cells.keys()
    assert all(np.array_equal(back.cells[cell], own) for cell, own in sums.cells.items())
    assert from_frame(to_frame(Sums())).cells == {}


def test_weights_are_poisson_and_belong_to_the_user():
    users = pl.Series([f"user-{n}" for n in range(2_000)])
    weights = poisson_weights(users)
    drawn = weights[:, 1:]
    assert weights.shape == (2_000, 1 + REPLICATES)
    assert (weights[:, 0] == 1).all()
    counts = np.bincount(drawn.astype(int).ravel(), minlength=6)[:6] / drawn.size
    assert counts == pytest.approx([math.exp(-1) / math.factorial(n) for n in range(6)], abs=0.001)
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.1
    assert np.array_equal(poisson_weights(users[100:101])[0], weights[100])


def test_the_interval_is_that_of_the_normal_distribution():
    """Of 2,000 users with figure 0 or 1, half of each: standard error 0.5 / sqrt(2000)."""
    weights = poisson_weights(pl.Series([f"u{n}" for n in range(2_000)]))
    values = np.arange(2_000) % 2
    mean, low, high = interval(values @ weights, weights.sum(axis=0))
    error = 1.96 * 0.5 / math.sqrt(2_000)
    assert mean == 0.5
    assert (low, high) == (pytest.approx(0.5 - error, abs=0.003), pytest.approx(0.5 + error, abs=0.003))


def test_a_replicate_without_units_is_left_out():
    assert np.isnan(ratios(np.array([1, 0]), np.array([2, 0]))[1])
    assert interval(np.array([1, 2, 0]), np.array([2, 2, 0])) == (0.5, 1.0, 1.0)
