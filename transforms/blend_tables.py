"""What the compiled part of blending is given, and what it gives back (`transforms.blend_kernel`)."""

from typing import NamedTuple

import numpy as np


class Limits(NamedTuple):
    """The figures of a policy by which candidates are chosen."""

    fallback: int
    size: int
    fill_to: int
    minimum_size: int
    artist: int
    album: int
    show: int
    publisher: int
    artist_early: int
    artist_early_slots: int
    by_flow: bool


class Passed(NamedTuple):
    """Rows that pass the hard filters, by record.

    `floors`: `(num_records, num_kinds) int64`, candidates of each kind there must be. `widened`: `(num_records,) int64`, which of
    the quotas' slots are a record's.
    `rows`: places in the other arrays, those of record k from `starts[k]` to `starts[k + 1]`. Of every row, proposal, item, source,
    rank, and whether the item was shown or played too often; `chances`: by proposal, `(0,) float64` where nothing is known of
    them. `own_hash`, `item_hash`: uint64 of records and of items, with `seed` by which equal slots are told apart. `rule`,
    `detail`: of every row, written to where one that passed is not chosen.
    """

    starts: np.ndarray
    floors: np.ndarray
    widened: np.ndarray
    rows: np.ndarray
    p: np.ndarray
    i: np.ndarray
    s: np.ndarray
    r: np.ndarray
    tired: np.ndarray
    chances: np.ndarray
    own_hash: np.ndarray
    item_hash: np.ndarray
    seed: np.uint64
    rule: np.ndarray
    detail: np.ndarray


class Quotas(NamedTuple):
    """What sources may take.

    `slots`: `(2, num_sources, most + 1) int64`, as they are and widened, of the n-th proposal of each source where nothing is known
    of chances; `OVER` beyond its maximum. `turns`: `(num_sources,) int64`, whose turn it is among equal chances. `leads`: `(num_sources,) bool`.
    """

    slots: np.ndarray
    turns: np.ndarray
    leads: np.ndarray


class Settled(NamedTuple):
    """What is chosen, in order of record and position.

    `counts`: candidates by record. `row`, `num_behind`: of each candidate, the row whose slot it took, and how many stand
    behind it; `behind`: these, one after the other.
    """

    counts: np.ndarray
    row: np.ndarray
    num_behind: np.ndarray
    behind: np.ndarray
