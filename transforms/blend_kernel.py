"""From rows that pass the hard filters to settled candidates, one record after the other: compiled.

    one item per canonical id and per work -> slots by quota -> caps -> cut -> order -> the rows behind each candidate

Memory: 52 bytes per item, and 100 per row of the longest record.
"""

from typing import NamedTuple

import numpy as np

from transforms.blend_tables import Limits, Passed, Quotas, Settled
from transforms.compiled import compiled
from transforms.filter_kernel import LANGUAGE

TIE_BITS, SLOT_BITS = 12, 14
FATIGUE = 0.5
"""What the chance of an item is multiplied by that was shown or played too often (domain reference, section 6)."""
OVER = 1 << 31
DUPLICATE, QUOTA, SERIES, CAP_ARTIST, CAP_ALBUM, CAP_SHOW, CAP_PUBLISHER, SIZE, CONTENT = range(
    LANGUAGE + 1, LANGUAGE + 10
)
_NO_CODE, _UNSET = 0xFFFFFFFF, np.iinfo(np.int64).max
_AIMING, _FILLING = 1 << (SLOT_BITS + TIE_BITS), 2 << (SLOT_BITS + TIE_BITS)
_TURN_BITS = 4
MOST_TURNS = (1 << _TURN_BITS) - 1
_STEPS_OF_HALF, _LAST_STEP, _NEXT_TO_NOTHING = 32, (1 << SLOT_BITS - _TURN_BITS) - 1, 1e-9
"""Chances within 2 % of each other, `2 ** (1 / 32)`, are as good as equal."""
_TURN_SHIFT, _PLACE_BITS, _KEY_BITS, _RADIX_BITS = 24, 24, 32, 8  # a slot with its tie-break is below 2**32
_EARLY, _ARTIST, _ALBUM, _SHOW, _PUBLISHER, _SERIES, _COUNTERS = range(7)
_CANDIDATE = np.dtype(
    [("slot", np.int64), ("missed", np.float64), ("tie", np.int64)]
    + [(name, np.int32) for name in ("row", "rank", "place", "begin", "behind", "source")]
    + [("item", np.uint32), ("rule", np.uint8), ("over", np.bool_), ("late", np.bool_)],
    align=True,
)  # fmt: skip
_MERGED = np.dtype([("row", np.int32), ("candidate", np.int32), ("source", np.int32)], align=True)


class _Scratch(NamedTuple):
    """For one record: candidates, room to sort in, its rows by source, the candidate of each row, the number of each canonical item or
    work, empty between records, and counters by code, of the record or an earlier one.
    """

    candidates: np.ndarray
    packed: np.ndarray
    other: np.ndarray
    merged: np.ndarray
    of: np.ndarray
    number: np.ndarray
    counters: np.ndarray


def settle(passed: Passed, items: np.ndarray, limits: Limits, quotas: Quotas) -> Settled:
    """Choose the candidates of every record.

    Args:
      items: `transforms.codes.ITEM`.
    """
    n, num_records = len(passed.rows), len(passed.starts) - 1
    longest = int(np.diff(passed.starts).max(initial=0))
    assert not longest >> _PLACE_BITS, f"{longest:,} proposals for one record"
    scratch = _Scratch(
        np.zeros(longest, _CANDIDATE), np.empty(longest, np.int64), np.empty(longest, np.int64),
        np.empty(longest, _MERGED), np.empty(longest, np.int32), np.zeros(len(items) + 1, np.int32), np.zeros((_COUNTERS, len(items)), np.int64),
    )  # fmt: skip
    room = min(n, num_records * limits.size)
    found = Settled(
        np.zeros(num_records, np.int64), np.empty(room, np.int64), np.empty(room, np.int64), np.empty(n, np.int64)
    )  # fmt: skip
    rank_bits, source_bits = (int(one.max(initial=0)).bit_length() for one in (passed.r, passed.s))
    num_behind = _settle_all(passed, items, limits, quotas, scratch, (rank_bits, source_bits), found)
    taken = int(found.counts.sum())
    return Settled(found.counts, found.row[:taken], found.num_behind[:taken], found.behind[:num_behind])


@compiled
def _settle_all(passed, items, limits, quotas, scratch, bits, found):
    (
        (starts, floors, widened, rows, p, i, s, r, tired, chances, own_hash, item_hash, seed, rules, details),
        (candidates, packed, other, merged, of, number, counters),
    ) = passed, scratch
    counts, taken_rows, num_behind, behind = found
    taken, stood = 0, 0
    for k in range(len(starts) - 1):
        own = rows[starts[k] : starts[k + 1]]
        size = _merge(own, i, r, items, number, candidates, of)
        size = _merge_works(size, items, number, candidates, of[: len(own)], packed)
        _hash_ties(candidates[:size], own_hash[k], item_hash, seed)
        num_merged = _by_source(own, (i, s, r), of, items, candidates, (packed, other, bits), merged)
        _take_slots(merged[:num_merged], quotas.slots[widened[k]], candidates)
        if len(chances):
            _miss(merged[:num_merged], p, tired, chances, candidates)
            _compete(candidates[:size], quotas.turns, limits.fallback)
        elif limits.by_flow and not widened[k]:
            _miss_by_flow(merged[:num_merged], quotas.turns, candidates)
        order = _in_order(candidates[:size], packed[:size], other[:size])
        _cap(order, candidates, items, counters, (2 * k + 1) << _TURN_SHIFT, limits)
        chosen = _cut(order, candidates, items, floors[k], limits)
        if len(chances) or (limits.by_flow and not widened[k]) or np.any(quotas.leads):
            chosen = _by_chance(chosen, candidates, quotas.leads, items, counters, (2 * k + 2) << _TURN_SHIFT, limits)
        stood = _account(own, (i, s, r), of, candidates, chosen, (behind, rules, details), stood)
        for n in chosen:
            taken_rows[taken], num_behind[taken] = candidates[n].row, candidates[n].behind
            taken += 1
        counts[k] = len(chosen)
    return stood


@compiled
def _merge(own, i, r, items, number, candidates, of):
    """Choose one item per canonical id, the one ranked best by any source, then the smaller one; return how many there are.

    Rows learn the number of their candidate. Those without a canonical id are one.
    """
    size = 0
    for at in range(len(own)):
        item, rank = i[own[at]], r[own[at]]
        place = min(np.int64(items[item].canonical), len(number) - 1)
        n = number[place]
        if n == 0:
            size += 1
            number[place] = n = size
            one = candidates[n - 1]
            one.item, one.rank, one.slot, one.missed, one.source, one.behind = item, rank, _UNSET, 1.0, -1, 0
        best = candidates[n - 1]
        if rank < best.rank or (rank == best.rank and item < best.item):
            best.item, best.rank = item, rank
        best.behind += 1
        of[at] = n - 1
    for n in range(size):
        number[min(np.int64(items[candidates[n].item].canonical), len(number) - 1)] = 0
    return size


@compiled
def _merge_works(size, items, number, candidates, of, moved):
    """Choose one candidate per work as `_merge` does, the others' rows behind it; return how many there are.

    What is left differs in work and, as before, in canonical id.

    Args:
      of: the candidate of each row. moved: room for a number of each candidate.
    """
    kept = 0
    for n in range(size):
        work = items[candidates[n].item].work
        if number[work] == 0:
            candidates[kept] = candidates[n]
            kept += 1
            number[work] = kept
        else:
            best, one = candidates[number[work] - 1], candidates[n]
            best.behind += one.behind
            if one.rank < best.rank or (one.rank == best.rank and one.item < best.item):
                best.item, best.rank = one.item, one.rank
        moved[n] = number[work] - 1
    for n in range(kept):
        number[items[candidates[n].item].work] = 0
    if kept < size:
        for at in range(len(of)):
            of[at] = moved[of[at]]
    return kept


@compiled
def _hash_ties(candidates, own_hash, item_hash, seed):
    """Tell equal slots apart by bits of the hash of record, date and item."""
    for n in range(len(candidates)):
        one = candidates[n]
        one.tie = np.int64(_mix64(_mix64(own_hash, item_hash[one.item]), seed) >> np.uint64(64 - TIE_BITS))


@compiled
def _mix64(left, right):
    """Combine two numbers as `schemas.hashing.mix64` does."""
    x = left * np.uint64(0x9E3779B97F4A7C15) ^ right
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def _sorted(packed, other, first, last):
    """Return numbers in order of their bits from `first` up to `last`, equal ones as before: a radix sort, in either array."""
    for low in range(first, last, _RADIX_BITS):
        ends = np.zeros((1 << _RADIX_BITS) + 1, np.int32)
        for number in packed:
            ends[(number >> low & (1 << _RADIX_BITS) - 1) + 1] += 1
        for digit in range(1 << _RADIX_BITS):
            ends[digit + 1] += ends[digit]
        for number in packed:
            digit = number >> low & (1 << _RADIX_BITS) - 1
            other[ends[digit]] = number
            ends[digit] += 1
        packed, other = other, packed
    return packed


@compiled
def _by_source(own, table, of, items, candidates, room, merged):
    """Put the rows of chosen items in order of source, rank and tie-break, one of each source and item; return their number."""
    (i, s, r), (packed, other, (rank_bits, source_bits)), size, sorted_ = table, room, 0, True
    for at in range(len(own)):
        row = own[at]
        if candidates[of[at]].item == i[row]:
            packed[size] = (np.int64(s[row]) << rank_bits | r[row]) << _PLACE_BITS | at
            sorted_ = sorted_ and (size == 0 or packed[size - 1] < packed[size])
            size += 1
    order = packed[:size]
    if not sorted_:
        order = _sorted(order, other[:size], _PLACE_BITS, _PLACE_BITS + rank_bits + source_bits)
    _settle_ties(order, of, candidates, items)
    kept = 0
    for number in order:
        at = number & (1 << _PLACE_BITS) - 1
        row, n = own[at], of[at]
        if candidates[n].source == s[row]:  # proposed twice: the better rank speaks
            continue
        candidates[n].source = s[row]
        one = merged[kept]
        one.row, one.candidate, one.source = row, n, s[row]
        kept += 1
    return kept


@compiled
def _settle_ties(order, of, candidates, items):
    """Put rows of one source and rank in order of tie-break and canonical id."""
    for at in range(1, len(order)):
        place, this = at, order[at]
        if order[place - 1] >> _PLACE_BITS != this >> _PLACE_BITS:
            continue
        own = candidates[of[this & (1 << _PLACE_BITS) - 1]]
        while place and order[place - 1] >> _PLACE_BITS == this >> _PLACE_BITS:
            before = candidates[of[order[place - 1] & (1 << _PLACE_BITS) - 1]]
            if before.tie < own.tie:
                break
            if before.tie == own.tie and items[before.item].canonical <= items[own.item].canonical:
                break
            order[place] = order[place - 1]
            place -= 1
        order[place] = this


@compiled
def _take_slots(merged, slots, candidates):
    """Give every candidate the first slot that one of its sources has for it; then the other sources move up."""
    most, nth = slots.shape[1] - 1, 0
    for at in range(len(merged)):
        one = merged[at]
        nth = nth + 1 if at and merged[at - 1].source == one.source else 0
        best = candidates[one.candidate]
        slot = slots[one.source, min(nth, most)] << TIE_BITS | best.tie
        if slot < best.slot:
            best.slot, best.row, best.source = slot, one.row, one.source
    source = -1
    for at in range(len(merged)):
        one = merged[at]
        if one.source != source:
            source, nth = one.source, 0
        best = candidates[one.candidate]
        if best.row == one.row:
            best.slot = slots[source, min(nth, most)] << TIE_BITS | best.tie
            nth += 1


@compiled
def _miss(merged, p, tired, chances, candidates):
    """Multiply how likely all sources of a candidate are wrong."""
    for at in range(len(merged)):
        row = merged[at].row
        candidates[merged[at].candidate].missed *= 1.0 - chances[p[row]] * (FATIGUE if tired[row] else 1.0)


@compiled
def _miss_by_flow(merged, turns, candidates):
    """Take what a source earlier in the flow proposed for likelier, and of one source what it ranks better; no slot changes."""
    for at in range(len(merged)):
        one = candidates[merged[at].candidate]
        one.missed = min(one.missed, (turns[merged[at].source] + at / len(merged)) / (MOST_TURNS + 1))


@compiled
def _compete(candidates, turns, fallback):
    """Give slots beyond the minima to the likeliest, in turn where chances are as good as equal; the fallback only fills up."""
    for n in range(len(candidates)):
        one = candidates[n]
        if one.slot < _AIMING or one.slot >= OVER or (one.source == fallback and one.slot >= _FILLING):
            continue
        halvings = -np.log2(max(1.0 - one.missed, _NEXT_TO_NOTHING))
        step = np.int64(min(_STEPS_OF_HALF * halvings, _LAST_STEP))
        one.slot = _AIMING | (step << _TURN_BITS | turns[one.source]) << TIE_BITS | one.tie


@compiled
def _in_order(candidates, packed, other):
    """Return the numbers of candidates in order of slot, then item."""
    for n in range(len(candidates)):
        packed[n] = candidates[n].slot << _PLACE_BITS | n
    order = _sorted(packed, other, _PLACE_BITS, _PLACE_BITS + _KEY_BITS)
    for at in range(1, len(order)):
        place, this = at, order[at]
        while place and order[place - 1] >> _PLACE_BITS == this >> _PLACE_BITS:
            before = candidates[order[place - 1] & (1 << _PLACE_BITS) - 1]
            if before.item <= candidates[this & (1 << _PLACE_BITS) - 1].item:
                break
            order[place] = order[place - 1]
            place -= 1
        order[place] = this
    for at in range(len(order)):
        order[at] &= (1 << _PLACE_BITS) - 1
    return order


@compiled
def _nth(code, column, counters, turn):
    """Return how many of this code came before in this turn, -1 without one. A later turn, a larger number, begins at 0."""
    if code == _NO_CODE:
        return -1
    nth = max(counters[column, code] - turn, 0)
    counters[column, code] = turn + nth + 1
    return nth


@compiled
def _by_group(order, groups):
    """Return what is in order by group, of which there are four, and as before within each."""
    ends, placed = np.zeros(5, np.int64), np.empty_like(order)
    for at in range(len(order)):
        ends[groups[at] + 1] += 1
    ends = np.cumsum(ends)
    for at in range(len(order)):
        placed[ends[groups[at]]] = order[at]
        ends[groups[at]] += 1
    return placed


@compiled
def _cap(order, candidates, items, counters, turn, limits):
    """Name what exceeds its quota or a cap. The narrow first: what an album gives away must not use up its artist's room."""
    for n in order:
        one, item = candidates[n], items[candidates[n].item]
        one.rule = 0
        if one.slot >> TIE_BITS == OVER >> TIE_BITS:  # behind it stands what a fallback may fill up with
            one.rule = QUOTA
        elif _nth(item.series, _SERIES, counters, turn) >= 1:
            one.rule = SERIES
        elif _nth(item.album, _ALBUM, counters, turn) >= limits.album:
            one.rule = CAP_ALBUM
        elif _nth(item.show, _SHOW, counters, turn) >= limits.show:
            one.rule = CAP_SHOW
        elif _nth(item.artist, _ARTIST, counters, turn) >= limits.artist:
            one.rule = CAP_ARTIST
        elif _nth(item.publisher, _PUBLISHER, counters, turn) >= limits.publisher:
            one.rule = CAP_PUBLISHER
        one.over = one.rule != 0
    _hold_back(order, candidates, items, counters, turn, limits, False)


@compiled
def _hold_back(order, candidates, items, counters, turn, limits, every):
    """Tell what goes behind the first slots, so that no artist has more of these than its share; of `every` or what is not over."""
    early = 0
    for n in order:
        one, artist = candidates[n], items[candidates[n].item].artist
        one.late = False
        if one.over and not every:
            continue
        one.late = _nth(artist, _EARLY, counters, turn) >= limits.artist_early or early >= limits.artist_early_slots
        early += not one.late


@compiled
def _cut(order, candidates, items, floors, limits):
    """Cut to size and return the chosen in order; the fallback fills no further than `fill_to`, caps than `minimum_size`.

    An artist's surplus of the first slots goes behind them, what is over a cap to the very end. Kinds below their floor take the
    last places of others.
    """
    groups, taken = np.empty(len(order), np.int64), 0
    for at in range(len(order)):
        one = candidates[order[at]]
        last = 3 if one.rule == QUOTA or one.rule == SERIES else 2
        groups[at] = last if one.over else np.int64(one.late)
    placed = _by_group(order, groups)
    for place in range(len(placed)):
        n = placed[place]
        one = candidates[n]
        one.place = place
        if one.rule >= CAP_ARTIST and one.place < limits.minimum_size:
            one.rule = 0
        filler = one.source == limits.fallback and one.slot >= _FILLING and one.place >= limits.fill_to
        if one.rule == 0 and (one.place >= limits.size or filler):
            one.rule = SIZE
    _keep_floors(placed, candidates, items, floors, limits.size)
    for n in placed:
        if candidates[n].rule == 0:
            placed[taken] = n
            taken += 1
    return placed[:taken]


@compiled
def _keep_floors(placed, candidates, items, floors, size):
    """Take in what did not fit of kinds below their floor, for the last that was taken of kinds above theirs; no minimum gives way."""
    counts, taken, last = np.zeros(len(floors), np.int64), 0, len(placed) - 1
    for n in placed:
        if candidates[n].rule == 0:
            counts[items[candidates[n].item].kind] += 1
            taken += 1
    if not np.any(counts < floors):
        return
    for n in placed:
        one, kind = candidates[n], items[candidates[n].item].kind
        if one.rule != SIZE or counts[kind] >= floors[kind]:
            continue
        if taken == size:
            last = _dispensable(placed, candidates, items, counts, floors, last)
            if last < 0:
                return
            candidates[placed[last]].rule = CONTENT
            counts[items[candidates[placed[last]].item].kind] -= 1
            taken -= 1
        one.rule = 0
        counts[kind] += 1
        taken += 1


@compiled
def _dispensable(placed, candidates, items, counts, floors, last):
    """Return the last place up to `last` of what was taken beyond all minima and floors, -1 where there is none."""
    while last >= 0:
        one = candidates[placed[last]]
        kind = items[one.item].kind
        if one.rule == 0 and one.slot >= _AIMING and counts[kind] > floors[kind]:
            return last
        last -= 1
    return last


@compiled
def _by_chance(chosen, candidates, leads, items, counters, turn, limits):
    """Return the chosen in order of chance, where there is any; what leads stands before everything else, what is over a cap at the end."""
    wrong = np.empty(len(chosen), np.float64)
    for at in range(len(chosen)):
        wrong[at] = -(1.0 - candidates[chosen[at]].missed)
    likely, groups = chosen[np.argsort(wrong, kind="mergesort")], np.empty(len(chosen), np.int64)
    for at in range(len(likely)):
        one = candidates[likely[at]]
        groups[at] = 2 * one.over + (not leads[one.source])
    order = _by_group(likely, groups)
    _hold_back(order, candidates, items, counters, turn, limits, True)
    for at in range(len(order)):
        groups[at] = 2 * candidates[order[at]].over + candidates[order[at]].late
    return _by_group(order, groups)


@compiled
def _account(own, table, of, candidates, chosen, found, stood):
    """Write down what became of the rows of a record, and list those behind each candidate: its slot's source first, then the
    better rank. Return where the next list begins.
    """
    (i, s, r), (behind, rules, details) = table, found
    for n in chosen:
        candidates[n].begin, stood = stood, stood + candidates[n].behind
        candidates[n].behind = 0
    for at in range(len(own)):
        row, one = own[at], candidates[of[at]]
        if one.item != i[row]:
            rules[row] = DUPLICATE
        elif one.rule != 0:
            rules[row], details[row] = one.rule, one.place
        if one.rule != 0:
            continue
        place = one.begin + one.behind
        while place > one.begin and _before(row, behind[place - 1], one.source, s, r):
            behind[place] = behind[place - 1]
            place -= 1
        behind[place] = row
        one.behind += 1
    return stood


@compiled
def _before(row, other, source, s, r):
    if (s[row] == source) != (s[other] == source):
        return s[row] == source
    return r[row] < r[other] or (r[row] == r[other] and s[row] < s[other])
