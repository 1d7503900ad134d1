"""Explore: draw a few items per record at random, and say with what probability each was drawn.

    pool of the group -> what the record may be offered, and does not hold anyway -> systematic over strata -> slots

The **propensity** of an explored item is the probability that this record's draw takes it, given the pool of the date, and
given everything else in the set, which is settled before and does not depend on the draw:

    propensity = slots / items       slots = min(slots of the policy, items)

`items` counts what the draw is from: the pool of the record's market and tier (`transforms.explore_pool`), one recording per
canonical item, work and series of audiobooks, without what a hard filter keeps from this record and without canonical items, works
and series that the set holds anyway. Every one of them has the same propensity, they add up to the slots, and all others have none.
Caps do not bind explored items: they come after the caps, and a draw that looked at what else was drawn would have no simple propensity.

How: items lie in order of stratum and id; one random start and equal steps say how many each stratum gives (the expected share,
rounded up or down), and these are drawn from the stratum without replacement. Seed: hash of record, surface, logical date and
policy id. Numbers of 32 bits, compared as integers: the propensity holds to 2**-32 times `items`.

Memory: per kind of record (at most as many as records), 9 bytes for each item of the block's pools and 40 for each of its own
pool; 200 bytes per slot.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from schemas.hashing import hash64_one, mix64
from schemas.policy import SurfacePolicy
from transforms.codes import MAY_EXPLICIT, MAY_VIDEO, OTHER_BOOKS
from transforms.filters import Facts, Instant, Rows, anybody, hard_filters, personal_pairs
from transforms.id_index import NO_CODE, IdIndex, alike
from transforms.sorted_groups import numbered, starts

EXPLORATION_ID = "systematic-over-strata-1"
FLOOR = 1e-4
"""The least propensity: below it one outcome would weigh as much as ten thousand others."""
ALIKE = ("alike", "work")
"""Codes of items of which a set holds one each."""
_CELLS = pl.Series("cell", [f"hash:{n:02d}" for n in range(16)])
_NONE = pl.Series("stratum", ["none"])
_BITS = 32
_FAR = np.iinfo(np.int64).max
Pairs = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, slots=True)
class Pools:
    """What records draw from, by kind of record: all who are in one market and tier, of one age, and so on.

    Attributes:
      items: rows of `Facts.items` the pools are of, ascending. strata: names.
      p, i, stratum: parallel arrays in order of kind, stratum and item: row of the proposal table, place in `items`, place in
        `strata`. starts: where each kind begins, and the end. kind_of: kind of each record.
      at: by code of `ALIKE` `(num_kinds, num_items)`, where a kind has an item of the same code, -1 where it has none.
    """

    items: np.ndarray
    strata: pl.Series
    p: np.ndarray
    i: np.ndarray
    stratum: np.ndarray
    starts: np.ndarray
    kind_of: np.ndarray
    at: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, slots=True)
class Explored:
    """What was drawn, as parallel arrays in order of record and turn, and from how much.

    Attributes:
      rows: what was drawn. turn: place among the record's explored items. sizes: items each record drew from, by `k`.
      cells: `cell`, `expected`: sum of the propensities, `drawn`: number of draws, over all records.
    """

    rows: Rows
    turn: np.ndarray
    propensity: np.ndarray
    stratum: pl.Series
    sizes: np.ndarray
    cells: pl.DataFrame

    @property
    def slots(self) -> np.ndarray:
        """Return how many items were drawn, by `k`, `(num_records,) int64`."""
        return np.bincount(self.rows.k, minlength=len(self.sizes))

    @property
    def left(self) -> np.ndarray:
        """Return how many might have been drawn and were not, by `k`, `(num_records,) int64`."""
        return self.sizes - self.slots


def nothing_explored(num_records: int) -> Explored:
    """Return what a surface has that explores nothing."""
    none = np.zeros(0, np.int64)
    rows = Rows(none.astype(np.uint32), none, none, none.astype(np.uint8), none.astype(np.int32))
    cells = pl.DataFrame(schema={"cell": pl.String, "expected": pl.Float64, "drawn": pl.Int64})
    nowhere = pl.Series("stratum", [], pl.String)
    return Explored(rows, none, none.astype(np.float64), nowhere, np.zeros(num_records, np.int64), cells)


def explore(
    proposals: pl.DataFrame, facts: Facts, held: tuple[np.ndarray, np.ndarray], policy: SurfacePolicy, instant: Instant
) -> Explored:
    """Draw what each record explores.

    Args:
      held: record and row of `facts.items` of all that the sets hold anyway.
    """
    pools = pools_of(proposals, facts, policy, instant)
    without = _kept_out(pools, facts, held, policy, instant)
    counts = _offered(pools, without, pools.stratum, len(pools.strata))
    bounds = np.concatenate([np.zeros((len(counts), 1), np.int64), counts.cumsum(axis=1)], axis=1)
    seeds, sizes = record_seeds(facts, instant), bounds[:, -1]
    places = draw(seeds, bounds, policy.explore_slots)
    k = np.repeat(np.arange(len(places)), (places >= 0).sum(axis=1))
    row = _nth_offered(pools, without, k, places[places >= 0])
    hashes = facts.item_codes.hash64(pools.items)
    order = np.lexsort((mix64(seeds[k], hashes[pools.i[row]]), k))
    k, row = k[order], row[order]
    chance = np.minimum(policy.explore_slots, sizes) / np.maximum(sizes, 1)
    cell = (hashes >> np.uint64(60)).astype(np.int64)[pools.i]
    cells = [
        _cells(pools.strata, counts, chance, pools.stratum[row]),
        _cells(_CELLS, _offered(pools, without, cell, len(_CELLS)), chance, cell[row]),
    ]
    turn = np.arange(len(k)) - np.searchsorted(k, k)
    stratum = pools.strata[pools.stratum[row]]
    rows = _rows(pools, k, pools.i[row], row, policy)
    return Explored(rows, turn, chance[k], stratum, sizes, pl.concat(cells))


def _rows(pools: Pools, k: np.ndarray, i: np.ndarray, row: np.ndarray, policy: SurfacePolicy) -> Rows:
    source = [quota.source_id for quota in policy.sources].index(policy.explore)
    codes = np.full(len(k), source, np.uint8)
    return Rows(k.astype(np.uint32), pools.p[row], pools.items[i].astype(np.uint32), codes, np.zeros(len(k), np.int32))


def pools_of(proposals: pl.DataFrame, facts: Facts, policy: SurfacePolicy, instant: Instant) -> Pools:
    """Return what each kind of record may be offered of its group's pool, by the rules that ask nothing personal."""
    pool, strata = _pool(proposals, facts, policy)
    kind_of, kinds = _kinds(facts)
    group = pool.groups.find(facts.records["group"][kinds])
    bounds = np.searchsorted(pool.group, np.arange(len(pool.groups.ids) + 1))
    group = np.minimum(group, len(pool.groups.ids))  # who has no pool: behind all
    counts = np.diff(bounds, append=bounds[-1:])[group]
    kind = np.repeat(np.arange(len(kinds)), counts)
    row = bounds[group][kind] + numbered(counts)
    there = anybody(kinds[kind], pool.i[row], facts, policy, instant)
    kind, row = kind[there], row[there]
    near, i = np.unique(pool.i, return_inverse=True)
    i, at = i[row], {}
    for name in ALIKE:
        _, alike = np.unique(facts.item_codes.arrays.items[name][near], return_inverse=True)
        at[name] = np.full((len(kinds), len(near)), -1, np.int32)
        at[name][kind, alike[i]] = np.arange(len(kind))
        at[name] = at[name][:, alike]
    begins = np.searchsorted(kind, np.arange(len(kinds) + 1))
    return Pools(near.astype(np.int64), strata, pool.p[row], i, pool.stratum[row], begins, kind_of, at)


class _Pool(NamedTuple):
    """Pools of all groups as parallel arrays, one item per code of `ALIKE`, in order of group, stratum and item."""

    groups: IdIndex
    group: np.ndarray
    stratum: np.ndarray
    i: np.ndarray
    p: np.ndarray


def _pool(proposals: pl.DataFrame, facts: Facts, policy: SurfacePolicy) -> tuple[_Pool, pl.Series]:
    """Return the pools, and the names of their strata."""
    there = (proposals["source_id"] == policy.explore).arg_true()
    offered, p = proposals.select("key", "item_id", "stratum", "source_rank")[there], there.to_numpy()
    i = facts.item_codes.ids.find(offered["item_id"])
    groups = IdIndex.of(offered["key"].unique(maintain_order=True))
    group = groups.find_runs(offered["key"])
    single, rank = np.flatnonzero(i != NO_CODE), offered["source_rank"].to_numpy()
    for name in ALIKE:
        of, alike = group[single], facts.item_codes.arrays.items[name][i[single]]
        order = np.lexsort((i[single], rank[single], alike, of))
        single = single[order][starts(of[order], alike[order])]
    strata = offered["stratum"][single]
    strata = strata.fill_null(_NONE[0]) if strata.null_count() else strata
    names = strata.unique().sort() if len(strata) else _NONE
    stratum = IdIndex.of(names).find(strata).astype(np.int64)
    order = np.lexsort((i[single], stratum, group[single]))
    single = single[order]
    return _Pool(groups, group[single], stratum[order], i[single], p[single]), names


def _kinds(facts: Facts) -> tuple[np.ndarray, np.ndarray]:
    """Number the records by the rules they are under; return the number of each, and one record of each number."""
    told, records = facts.record_codes.records, facts.records
    spoken = np.zeros(len(told), np.uint32)
    if (told["language"] < told["languages"]).any():
        spoken = alike(records["languages"].list.sort().list.join(",").fill_null(""))
    flags = told["flags"] & (MAY_EXPLICIT | MAY_VIDEO | OTHER_BOOKS)
    under = np.stack([alike(records["group"]), told["needs"], told["max_age"], flags, spoken], axis=1)
    _, first, kind = np.unique(under, axis=0, return_index=True, return_inverse=True)
    return kind.ravel(), first


def _kept_out(
    pools: Pools, facts: Facts, held: tuple[np.ndarray, np.ndarray], policy: SurfacePolicy, instant: Instant
) -> Pairs:
    """Return, sorted, records and rows of `pools` that are for the record's kind to draw, and not for the record itself."""
    k, i = personal_pairs(facts, pools.items)
    row = pools.at[ALIKE[0]][pools.kind_of[k], i]
    k, i, row = k[row >= 0], i[row >= 0], row[row >= 0]
    own = pools.i[row] == i  # and not another recording of it
    k, i, row = k[own], i[own], row[own]
    barred = hard_filters(_rows(pools, k, i, row, policy), facts, policy, instant).rule != 0
    found = [k[barred] << _BITS | row[barred]]
    for name in ALIKE:
        codes = facts.item_codes.arrays.items[name]
        near = _place_of_alike(codes[pools.items], len(codes))[codes[held[1]]]
        having, near = held[0][near >= 0].astype(np.int64), near[near >= 0]
        had = pools.at[name][pools.kind_of[having], near]
        found.append((having << _BITS | had)[had >= 0])
    pairs = np.unique(np.concatenate(found))
    return pairs >> _BITS, pairs & (1 << _BITS) - 1


def _place_of_alike(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """Return the place of an item of each code, -1 where there is none."""
    place = np.full(num_codes, -1)
    place[codes] = np.arange(len(codes))
    return place


def _offered(pools: Pools, without: Pairs, column: np.ndarray, num_columns: int) -> np.ndarray:
    """Count what each record draws from by a column of `pools`, `(num_records, num_columns) int64`."""
    k, row = without
    kind = np.repeat(np.arange(len(pools.starts) - 1), np.diff(pools.starts))
    of_kind = _counted(kind, column, len(pools.starts) - 1, num_columns)
    return of_kind[pools.kind_of] - _counted(k, column[row], len(pools.kind_of), num_columns)


def _counted(row: np.ndarray, column: np.ndarray, num_rows: int, num_columns: int) -> np.ndarray:
    flat = row * num_columns + column
    return np.bincount(flat, minlength=num_rows * num_columns).reshape(num_rows, num_columns)


def _nth_offered(pools: Pools, without: Pairs, k: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return the rows of `pools` at places among what each record draws from.

    The n-th row kept out of a record's, e rows from where its kind begins, moves all places from e - n on by one.
    """
    out, row = without
    start = pools.starts[pools.kind_of]
    nth = np.arange(len(out)) - np.searchsorted(out, out)
    moving = out << _BITS | (row - start[out] - nth)
    moved = np.searchsorted(moving, k << _BITS | place, side="right") - np.searchsorted(out, k)
    return start[k] + place + moved


def _cells(names: pl.Series, counts: np.ndarray, chance: np.ndarray, drawn: np.ndarray) -> pl.DataFrame:
    found = np.bincount(drawn, minlength=len(names))
    return pl.DataFrame({"cell": names.alias("cell"), "expected": chance @ counts, "drawn": found})


def record_seeds(facts: Facts, instant: Instant) -> np.ndarray:
    """Return what the draw of each record is seeded by, `(num_records,) uint64`."""
    keys = facts.key_hashes
    return mix64(keys, np.full(len(keys), hash64_one(f"{instant.seed}|{EXPLORATION_ID}"), np.uint64))


def draw(seeds: np.ndarray, bounds: np.ndarray, slots: int) -> np.ndarray:
    """Draw items of each record, every one of them with probability `min(1, slots / items)`.

    Args:
      seeds: `(num_records,) uint64`. bounds: `(num_records, num_strata + 1) int64`, where each stratum of a record's items
        begins and ends: from 0 to the number of its items.

    Returns:
      `(num_records, slots) int64` places among the record's items, -1 beyond the number of them.
    """
    sizes = bounds[:, -1]
    wanted, turns = np.minimum(slots, sizes), np.arange(slots)
    points = (_random(seeds, 0)[:, None] + (turns << _BITS)) * sizes[:, None]
    edges = bounds[:, 1:] * (wanted << _BITS)[:, None]
    stratum = np.minimum((points[:, :, None] >= edges[:, None, :]).sum(axis=2), bounds.shape[1] - 2)
    first, after = (np.take_along_axis(bounds, stratum + end, axis=1) for end in (0, 1))
    places = np.full(stratum.shape, -1)
    for turn in range(slots):
        same = stratum[:, :turn] == stratum[:, turn, None]
        left = after[:, turn] - first[:, turn] - same.sum(axis=1)
        place = first[:, turn] + (_random(seeds, turn + 1) * left >> _BITS)
        for taken in np.sort(np.where(same, places[:, :turn], _FAR), axis=1).T:
            place += place >= taken
        places[:, turn] = place
    return np.where(turns < wanted[:, None], places, -1)


def _random(seeds: np.ndarray, number: int) -> np.ndarray:
    """Return a random number of each seed, below `2**32`."""
    return (mix64(seeds, np.full(len(seeds), number, np.uint64)) >> np.uint64(64 - _BITS)).astype(np.int64)
