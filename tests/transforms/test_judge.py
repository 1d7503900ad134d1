"""Judging a model whose answers are known: it ranks items by number, the highest first."""

import numpy as np
import polars as pl
import pytest

from transforms.embed.families import HeldOut
from transforms.embed.interactions import from_lists
from transforms.judge import judge

ITEMS = 200
TYPES = pl.DataFrame({"item_type": ["episode" if item < 100 else "track" for item in range(ITEMS)]})
HELD_OUT = HeldOut(
    from_lists([[199], list(range(10)), list(range(30))], ITEMS), from_lists([[198], [150], [40]], ITEMS)
)
BEFORE = from_lists([[150] * 12, [198], [199] * 3], ITEMS)


class ByNumber:
    def score(self, contexts):
        return np.tile(np.arange(ITEMS, dtype=np.float32), (len(contexts), 1))


@pytest.fixture(scope="module")
def figures():
    return judge(ByNumber(), HELD_OUT, TYPES, BEFORE)


def test_what_the_context_holds_does_not_stand_before_the_target(figures):
    assert figures["mrr@20"] == pytest.approx(1 / 3)
    assert figures["recall@20"] == pytest.approx(1 / 3)
    assert figures["recall@100"] == pytest.approx(2 / 3)


def test_slices_say_where_it_fails_and_over_how_many(figures):
    assert {name: value for name, value in figures.items() if "[" in name} == {
        "contexts[type=episode]": 1, "recall@20[type=episode]": 0, "recall@100[type=episode]": 0,
        "contexts[type=track]": 2, "recall@20[type=track]": 0.5, "recall@100[type=track]": 1,
        "contexts[listens=1-5]": 1, "recall@20[listens=1-5]": 1, "recall@100[listens=1-5]": 1,
        "contexts[listens=6-20]": 1, "recall@20[listens=6-20]": 0, "recall@100[listens=6-20]": 1,
        "contexts[listens=21+]": 1, "recall@20[listens=21+]": 0, "recall@100[listens=21+]": 0,
        "contexts[plays=0]": 1, "recall@20[plays=0]": 0, "recall@100[plays=0]": 0,
        "contexts[plays=1-9]": 1, "recall@20[plays=1-9]": 1, "recall@100[plays=1-9]": 1,
        "contexts[plays=10-99]": 1, "recall@20[plays=10-99]": 0, "recall@100[plays=10-99]": 1,
    }  # fmt: skip


def test_a_target_that_is_heard_again_is_ranked():
    again = HeldOut(from_lists([[199, 5]], ITEMS), from_lists([[199]], ITEMS))
    assert judge(ByNumber(), again, TYPES, BEFORE)["mrr@20"] == 1
