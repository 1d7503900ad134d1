"""Ids as numbers: the same as a dictionary, whatever the ids."""

import random

import numpy as np
import polars as pl
import pytest

from transforms import id_index
from transforms.id_index import NO_CODE, IdIndex, alike, first_seen


def words(seed: int, count: int) -> pl.Series:
    dice = random.Random(seed)
    some = [
        None,
        "",
        "a",
        "ä",
        "a" * 13,
        "i0000000001",
        "i0000000002",
        *(f"{dice.getrandbits(20)}x" for _ in range(50)),
    ]
    return pl.Series("id", [dice.choice(some) for _ in range(count)], pl.String)


@pytest.mark.parametrize("count", [0, 1, 3, 200])
def test_ids_are_found_where_they_first_stand(count):
    ids, asked = words(1, count), words(2, 300)
    first = {one: place for place, one in reversed(list(enumerate(ids))) if one is not None}
    expected = [first.get(one, int(NO_CODE)) for one in asked]
    assert IdIndex.of(ids).find(asked).tolist() == expected
    assert IdIndex.of(ids).find_runs(asked.sort()).tolist() == IdIndex.of(ids).find(asked.sort()).tolist()
    numbers = {one: number for number, one in enumerate(dict.fromkeys(one for one in ids if one is not None))}
    assert alike(ids).tolist() == [numbers.get(one, int(NO_CODE)) for one in ids]
    assert first_seen(ids).to_list() == list(numbers)


def test_nothing_asked_is_nothing_found():
    index = IdIndex.of(pl.Series(["a"]))
    nothing = pl.Series([], dtype=pl.String)
    assert index.find(nothing).tolist() == index.find_runs(nothing).tolist() == []
    assert IdIndex.of(nothing).find(pl.Series(["a"])).tolist() == [NO_CODE]


def test_ids_of_one_hash_are_told_apart(monkeypatch):
    """Of two ids with the same hash, the index takes another seed; of an id asked for, the id itself is compared."""
    real = id_index._hashes
    monkeypatch.setattr(
        id_index, "_hashes", lambda ids, seed: real(ids, seed) if seed else np.zeros(len(ids), np.uint64)
    )
    index = IdIndex.of(pl.Series(["a", "b", "a"]))
    assert index.seed == 1
    assert index.find(pl.Series(["b", "a", "c"])).tolist() == [1, 0, NO_CODE]
    one = IdIndex.of(pl.Series(["a"]))
    assert one.seed == 0
    assert one.find(pl.Series(["z", "a"])).tolist() == [NO_CODE, 0]
