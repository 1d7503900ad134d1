"""What the arms are offered: counted from sets, and what weeks of a feedback loop make of it."""

import dataclasses
import math

import numpy as np
import polars as pl
import pytest
from toy_manifests import EXPOSURE, exposure, failed, results
from toy_sets import write_sets

from pipelines.recommend import CountExposure, add_exposure
from schemas.catalogue import CONTRACTS
from transforms.arms import count_offered
from transforms.shards import TARGET
from validation.arm_gates import ARM_COUNTERS, ARMS, HELD_OUT, OTHERS, effective_items

CONTRACT = CONTRACTS["exposure"]
WEEKS, SHARDS = 4, 2
ITEMS, SLOTS = 1_000, 60
LISTENERS = {OTHERS: 1_500, HELD_OUT: 200}


class OneFile:
    """A task of exposure: a file of sets, or what is to be added up."""

    def __init__(self, path=None, parts=None):
        self._path, self._parts = path, parts

    def paths(self, name):
        return [str(self._path)]

    def parts(self, name, schema):
        return self._parts.select(list(schema))


def write(path, sets: list[tuple[list[str], list[str]]]) -> str:
    """Write sets, given as why they are degraded and the items they hold."""
    held = {f"u{n}": [(one, ["own"]) for one in items] for n, (_, items) in enumerate(sets)}
    return write_sets(path, held, {f"u{n}": why for n, (why, _) in enumerate(sets)})


def counted(path) -> dict[str, int]:
    """Count the sets of a file as the stage does, over two shards of items."""
    parts = CountExposure(("charts",), SHARDS)(OneFile(path))["parts"]
    each = [add_exposure(OneFile(parts=part)).counters for part in parts.partition_by(TARGET)]
    return {name: sum(one[name] for one in each) for name in ARM_COUNTERS}


def test_listeners_with_a_history_are_in_an_arm_and_nobody_else(tmp_path):
    sets = [
        ([], ["a", "b"]), (["below_minimum_size"], ["a"]), (["holdout"], ["a", "c"]), (["holdout", "no_history"], ["z"]),
        (["no_history"], ["z"]), (["opted_out", "holdout"], ["z"]), ([], []),
    ]  # fmt: skip
    found = counted(write(tmp_path / "sets.parquet", sets))
    assert found == {
        "offered:others": 3, "offered:held_out": 2, "offered_millibits:others": 2_000, "offered_millibits:held_out": 0,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_the_effective_number_is_two_to_the_entropy_however_items_are_spread_over_shards(seed):
    slots = np.random.default_rng(seed).integers(0, 500, 300)
    p = slots[slots > 0] / slots.sum()
    whole = pl.DataFrame(dict.fromkeys(ARMS, slots))
    each = [count_offered(whole[n::3]) for n in range(3)]
    added = {name: sum(one[name] for one in each) for name in ARM_COUNTERS}
    assert added == count_offered(whole)
    assert effective_items(added, OTHERS) == pytest.approx(2 ** -(p * np.log2(p)).sum(), rel=1e-4)


def test_items_offered_alike_are_as_many_as_they_are():
    alike = count_offered(pl.DataFrame(dict.fromkeys(ARMS, [7] * 50)))
    assert math.isclose(effective_items(alike, HELD_OUT), 50, rel_tol=1e-3)


# Weeks of a service. Who is held out has the charts and is drawn for; the others have what is to their taste.


def weeks(folder, feeds_on_itself: bool, seed: int = 1) -> list[dict[str, int]]:
    """Return the counters of weeks in a row.

    Where recommendations feed on themselves, an item is offered the more, the more it was offered the week before: what is played
    is mostly what was offered, and what is learnt is what was played.
    """
    dice, appeal = np.random.default_rng(seed), 1 / np.arange(10, ITEMS + 10)
    taste, found = appeal / appeal.sum(), []
    for week in range(WEEKS + 1):
        sets = [([], one) for one in drawn(dice, taste)]
        sets += [(["holdout"], charts(dice)) for _ in range(LISTENERS[HELD_OUT])]
        found.append(counted(write(folder / f"{week}.parquet", sets)))
        offered = np.bincount([int(one) for why, held in sets if not why for one in held], minlength=ITEMS)
        if feeds_on_itself:
            taste = taste * (offered + 1)
            taste /= taste.sum()
    return found


def drawn(dice: np.random.Generator, taste: np.ndarray) -> list[list[str]]:
    """Draw a set for every listener, without replacement: the largest of Gumbel variates (Yellott 1977)."""
    luck = np.log(taste) + dice.gumbel(size=(LISTENERS[OTHERS], ITEMS))
    return [[str(one) for one in row] for row in np.argsort(-luck)[:, :SLOTS]]


def charts(dice: np.random.Generator) -> list[str]:
    return [str(n) for n in range(SLOTS - 4)] + [str(n) for n in dice.choice(np.arange(SLOTS, ITEMS), 4, replace=False)]


def judged(now: dict[str, int], then: dict[str, int]):
    before = {f"weeks_ago:{name}": n for name, n in {**EXPOSURE, **then}.items()}
    return results(CONTRACT, exposure(**now, **before), exposure())


def test_a_feedback_loop_that_narrows_the_others_and_not_the_held_out_is_told(tmp_path):
    first, *_, last = weeks(tmp_path, feeds_on_itself=True)
    found = judged(last, first)
    assert failed(found) == {"arms_in_weeks": "warning"}
    assert "what is learnt narrows what is offered" in found["arms_in_weeks"].message
    assert effective_items(last, HELD_OUT) == pytest.approx(effective_items(first, HELD_OUT), rel=0.02)
    assert failed(judged(first, last)) == {}, "to be offered more is no alarm"


@pytest.mark.parametrize("seed", [1, 2])
def test_weeks_without_a_loop_are_not_told_nor_what_both_arms_do(tmp_path, seed):
    first, *_, last = weeks(tmp_path, feeds_on_itself=False, seed=seed)
    found = judged(last, first)["arms_in_weeks"]
    assert (found.outcome, found.of) == ("passed", LISTENERS[HELD_OUT] * SLOTS)
    assert abs(found.observed) < 0.02
    halved = dict(last)
    for arm in ARMS:  # half as many items in both: each has twice the slots, one more bit
        halved[f"offered_millibits:{arm}"] += 1_000 * halved[f"offered:{arm}"]
    assert effective_items(halved, OTHERS) == pytest.approx(effective_items(last, OTHERS) / 2)
    assert judged(halved, first)["arms_in_weeks"].outcome == "passed"


@pytest.mark.parametrize("short", ["now", "then"])
def test_of_too_few_who_are_held_out_nothing_is_said(short):
    enough = count_offered(pl.DataFrame({OTHERS: [10**6], HELD_OUT: [10_000]}))
    few = count_offered(pl.DataFrame({OTHERS: [10**6], HELD_OUT: [9_999]}))
    found = judged(few, enough) if short == "now" else judged(enough, few)
    said = {"now": "9,999 slots are held out", "then": "9,999 slots were held out four weeks ago"}[short]
    assert (found["arms_in_weeks"].threshold, said in found["arms_in_weeks"].message) == ("not judged", True)
    alone = results(CONTRACT, dataclasses.replace(exposure(), counters=EXPOSURE | enough))["arms_in_weeks"]
    assert "listeners with 0 slots were held out four weeks ago, 10,000 are needed" in alone.message
