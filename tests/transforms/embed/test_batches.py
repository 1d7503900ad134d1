import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transforms.embed.batches import batches, num_batches, pack, windows
from transforms.embed.interactions import from_lists

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=8)


def skipping(rows, skipped):
    some = from_lists(rows, 10)
    return dataclasses.replace(some, weights=np.where(np.isin(some.items, skipped), -0.5, 1.0))


def pairs(rows, max_length, size, skipped=()):
    """Every (past, next) of the windows of all batches."""
    some = skipping(rows, skipped)
    spans = windows(some, max_length)
    found = []
    for batch in batches(some, spans, size, np.random.default_rng(0)):
        packed = batch.inputs
        for at, (row, target) in enumerate(zip(packed.rows, batch.targets, strict=True)):
            past = packed.items[(packed.rows == row) & (packed.columns <= packed.columns[at])]
            found.append((tuple(past.tolist()), int(target), float(batch.weights[at])))
    return found


@given(ROWS, st.integers(1, 5), st.integers(1, 9))
def test_every_item_but_the_first_of_its_row_is_a_target_once(rows, max_length, size):
    found = pairs(rows, max_length, size)
    assert sorted(target for _, target, _ in found) == sorted(item for row in rows for item in row[1:])
    assert all(len(past) <= max_length for past, _, _ in found)


@given(ROWS)
def test_long_windows_hold_the_whole_past(rows):
    expected = sorted((tuple(row[:at]), row[at], 1.0) for row in rows for at in range(1, len(row)))
    assert sorted(pairs(rows, 20, 7)) == expected


def test_the_newest_items_of_a_long_row_have_the_longest_past():
    assert ((3, 4), 5, 1.0) in pairs([[0, 1, 2, 3, 4, 5]], 2, 100)
    assert ((0,), 1, 1.0) in pairs([[0, 1, 2, 3, 4, 5]], 2, 100)


def test_skipped_items_are_inputs_and_never_targets():
    assert sorted(pairs([[4, 5, 6]], 9, 9, skipped=[5])) == [((4,), 5, 0.0), ((4, 5), 6, 1.0)]
    some = skipping([[4, 5, 6]], [5])
    [batch] = batches(some, windows(some, 9), 9, np.random.default_rng(0))
    assert batch.inputs.skipped.tolist() == [0, 1]


def test_batches_are_of_about_the_size_asked_for():
    some = from_lists([[1, 2, 3, 4, 5]] * 50, 10)
    spans = windows(some, 9)
    sizes = [len(batch.targets) for batch in batches(some, spans, 40, np.random.default_rng(0))]
    assert sizes == [40] * 5
    assert num_batches(spans, 40) == 5


def test_packed_rows_end_where_they_end():
    packed = pack(from_lists([[1, 2], [3], [4, 5, 6]], 10))
    assert packed.items[packed.lasts].tolist() == [2, 3, 6]
    assert (packed.num_rows, packed.width) == (3, 3)
