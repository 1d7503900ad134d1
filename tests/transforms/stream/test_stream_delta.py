"""What changed beside what did not: one index of both is the oracle, and the row updated last counts."""

import numpy as np
import polars as pl
import pytest
from toy_road import days_ago, item, table

from transforms.index.exact import ExactIndex, Limits
from transforms.stream.delta import Beside, Changed


def vectors(n: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("of_delta", [1, 40])
@pytest.mark.parametrize("k", [5, 700])
def test_two_segments_are_searched_as_one_index_of_both(of_delta, k):
    base, delta, queries = vectors(600, 1), vectors(of_delta, 2), vectors(30, 3)
    both = np.concatenate([base, delta])
    beside = Beside(ExactIndex.of(base), ExactIndex.of(delta))
    random = np.random.default_rng(4)
    masks = random.random((3, len(both))) < [[0.02], [0.5], [1.0]]
    masks[1, 600:] = False
    pairs = np.unique(random.integers(0, 30, 200) << 32 | random.integers(0, len(both), 200))
    limits = Limits(masks, random.integers(0, 3, 30), pairs)
    found, expected = beside.search(queries, k, limits), ExactIndex.of(both).search(queries, k, limits)
    assert (found.rows == expected.rows).all()
    assert (found.scores == expected.scores).all()
    unlimited = beside.search(queries, k)
    assert (unlimited.rows == ExactIndex.of(both).search(queries, k).rows).all()
    rows = np.array([0, len(both) - 1, 599, 600])
    assert (beside.take(rows) == both[rows]).all()
    assert len(beside) == len(both)


def delivered(**updated: float | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return items updated so many days ago, with vectors of their own."""
    rows = [
        item(name, title=f"{name}-{days}", updated_at=None if days is None else days_ago(days))
        for name, days in updated.items()
    ]
    embedded = [
        {"item_id": name, "space_id": "s", "made_from": 0, "vector": [float(days or 0)] * 64}
        for name, days in updated.items()
    ]
    return table("item", rows), table("item_embedding", embedded)


def test_the_row_updated_last_counts_with_its_own_vector():
    known = table("item", [item("a", updated_at=days_ago(5)), item("b", updated_at=None)])
    deltas = [delivered(a=6, b=1, c=1, d=2, e=None), delivered(c=2, d=2, e=3)]
    changed = Changed.of("two", deltas, known)
    titles = dict(changed.items.select("item_id", "title").iter_rows())
    assert titles == {"b": "b-1", "c": "c-1", "d": "d-2", "e": "e-3"}, "a was updated in the bundle since"
    firsts = {name: vector[0] for name, vector in changed.vectors.select("item_id", "vector").iter_rows()}
    assert firsts == {"b": 1.0, "c": 1.0, "d": 2.0, "e": 3.0}
    assert Changed.of("one", deltas[:1], known).items["title"].to_list() == ["b-1", "c-1", "d-2", "e-None"]
