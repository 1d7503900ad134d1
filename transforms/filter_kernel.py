"""The hard filters, row by row: compiled, over the codes of `transforms.codes`.

A record's own items and blocked owners are marked while its rows are walked through. What may be said of an item to all who are
alike, of one market, tier and age, is said once: most rows are then two bytes to look at. Memory: 17 bytes per item, a byte
per owner, a byte for each of up to `MEMO` pairs of item and kind of record.
"""

from typing import NamedTuple

import numpy as np

from transforms.codes import (
    BEGUN,
    BOOK,
    COMPLETED,
    EVERY_MARKET,
    EVERYWHERE,
    EXPLICIT,
    FOREVER,
    GONE,
    HEARD,
    HIDDEN,
    IN_ORDER,
    MAY_BEGIN,
    MAY_EXPLICIT,
    MAY_VIDEO,
    NEXT,
    OPENING,
    OPTED_OUT,
    OTHER_BOOKS,
    PLAYED,
    SKIPPED,
    SPOKEN,
    TIRED,
    TRAILER,
    UNFIT,
    VIDEO,
    ItemArrays,
    RecordArrays,
)
from transforms.compiled import compiled

MEMO = 1 << 24
DISCOVERY, PERSONAL = 1, 2
_DAY_US = 86_400_000_000
_NO_CODE = 0xFFFFFFFF
(UNKNOWN_ITEM, TOMBSTONE, INELIGIBLE, MARKET, TIER, TOO_EXPLICIT, AGE, UNRELEASED, IS_TRAILER, NO_VIDEO, SEED, IN_SESSION, BLOCKED,
 IS_HIDDEN, IS_OPTED_OUT, IS_COMPLETED, OUT_OF_ORDER, BOOK_UNFINISHED, RECENT_SKIP, RECENTLY_PLAYED, LANGUAGE) = range(1, 22)  # fmt: skip
_OK = 0


class Moment(NamedTuple):
    """When sets are valid, us, and for how many days what was skipped and played stays out."""

    start: int
    end: int
    skip_days: int
    play_days: int


class Answers(NamedTuple):
    """What is said of each row, as in `transforms.filters.Judged`."""

    rule: np.ndarray
    detail: np.ndarray
    tired: np.ndarray


_TIMES = np.dtype([("played", np.int64), ("skipped", np.int64)])
_KIND = np.dtype([("needs", np.uint32), ("may", np.uint32), ("max_age", np.int32)], align=True)
"""What a record is asked by rules that are not about itself alone."""
_NOT_PLAIN = SPOKEN | IN_ORDER | BOOK
_UNKNOWN, _PLAIN, _FIRST_RULE = range(3)
"""Of an item and a kind: nothing is known, only what the record has to do with the item can remove it, and from here on the rule
of availability."""


def judge(
    k: np.ndarray, i: np.ndarray, kinds: np.ndarray, items: ItemArrays, records: RecordArrays, moment: Moment
) -> Answers:
    """Name, for each row, the first hard filter it fails.

    Args:
      k, i: record and item. kinds: uint8 bits, whether its source is `DISCOVERY` and `PERSONAL`.
    """
    answers = Answers(np.zeros(len(k), np.uint8), np.full(len(k), np.nan), np.zeros(len(k), np.bool_))
    told, times = np.zeros(len(items.items), np.uint8), np.empty(len(items.items), _TIMES)
    barred = np.zeros(_num_owners(items), np.bool_)
    of = np.empty(min(MEMO // max(len(items.items), 1), len(records.records)), _KIND)
    known = np.zeros((len(of), len(items.items)), np.uint8)
    rows = k.astype(np.uint32, copy=False), i.astype(np.uint32, copy=False), kinds
    _judge_all(rows, items, records, moment, (told, times, barred, known, of), answers)
    return answers


def available_until(
    k: np.ndarray, i: np.ndarray, items: ItemArrays, records: RecordArrays, moment: Moment
) -> np.ndarray:
    """Return until when each item that is available to a record stays so, us since the epoch, int64; -1 without end."""
    found = np.full(len(k), -1, np.int64)
    _until_all(k.astype(np.uint32, copy=False), i.astype(np.uint32, copy=False), items, records, moment, found)
    return found


def concerned(near: np.ndarray, items: ItemArrays, records: RecordArrays) -> tuple[np.ndarray, np.ndarray]:
    """Return records and places in `near`, codes of items, of the pairs that a record's own rules may be about, sorted."""
    place = np.full(len(items.items), -1, np.int64)
    place[near] = np.arange(len(near))
    own = near, np.ascontiguousarray(items.items["canonical"][near]), np.ascontiguousarray(items.items["work"][near])
    scratch = np.zeros(_num_owners(items), np.bool_), np.zeros(len(near), np.bool_)
    pairs = np.empty((_concern_all(place, own, items, records, scratch, np.empty((0, 2), np.int64)), 2), np.int64)
    _concern_all(place, own, items, records, scratch, pairs)
    return pairs[:, 0], pairs[:, 1]


def _num_owners(items: ItemArrays) -> int:
    return int(items.owners.max(initial=0)) + 1


@compiled
def _mark(record, pairs, blocked, told, times, barred):
    for at in range(record.pair, record.pairs):
        item = pairs[at].item
        told[item] |= pairs[at].told
        if pairs[at].told & PLAYED:
            times[item].played = pairs[at].time
        if pairs[at].told & SKIPPED:
            times[item].skipped = pairs[at].time
    _set_all(blocked[record.barred : record.bars], barred, True)


@compiled
def _unmark(record, pairs, blocked, told, barred):
    for at in range(record.pair, record.pairs):
        told[pairs[at].item] = 0
    _set_all(blocked[record.barred : record.bars], barred, False)


@compiled
def _offered(item, need, offers, moment):
    """Return whether an item is available in a market, and for a tier of it until when, -1 for not at all."""
    here, until = False, np.int64(-1)
    for at in range(item.offer, item.offers):
        offer = offers[at]
        if offer.market != EVERY_MARKET and offer.market != need.market:
            continue
        if offer.since <= moment.start and offer.until >= moment.end:
            here = True
            if offer.tiers >> need.tier & 1:
                until = max(until, offer.until)
    return here, until


@compiled
def _look_up(item, offers, needs, first, last, moment):
    """Return the rule by which an item is not available to all of what is needed, `_OK` for none, and until when it is."""
    rule, until = (_OK if first < last else MARKET), np.int64(FOREVER)
    if item.flags & EVERYWHERE:
        return rule, until
    for at in range(first, last):
        here, end = _offered(item, needs[at], offers, moment)
        if not here:
            return MARKET, until
        if end < 0:
            rule = TIER
        else:
            until = min(until, end)
    return rule, until


@compiled
def _speaks(item, record, spoken, understood):
    """Tell whether an item is in one of the record's languages; who says none is understood by all."""
    if item.language == item.languages or record.language == record.languages:
        return True
    for own in range(record.language, record.languages):
        for at in range(item.language, item.languages):
            if spoken[at] == understood[own]:
                return True
    return False


@compiled
def _owned(item, owners, barred):
    found = False
    for at in range(item.owner, item.owners):
        found |= barred[owners[at]]
    return found


@compiled
def _of_item(item, record, unavailable, moment):
    """Return the first rule that asks only what the item is and what the record is for."""
    if item.flags & GONE:
        return TOMBSTONE
    if item.flags & UNFIT or item.deleted <= moment.start:
        return INELIGIBLE
    if unavailable:
        return unavailable
    if item.flags & EXPLICIT and not record.flags & MAY_EXPLICIT:
        return TOO_EXPLICIT
    if item.age > record.max_age:
        return AGE
    if item.release > moment.start:
        return UNRELEASED
    if item.flags & TRAILER:
        return IS_TRAILER
    return NO_VIDEO if item.flags & VIDEO and not record.flags & MAY_VIDEO else _OK


@compiled
def _is_seed(item, record):
    """Tell whether an item is a recording of what the record follows, or another version of it."""
    same = record.seed != _NO_CODE and record.seed == item.canonical
    return same or (record.seed_work != _NO_CODE and record.seed_work == item.work)


@compiled
def _of_pair(item, record, told, blocked, personal):
    """Return the first rule that asks what the record has to do with the item, before those with a time."""
    flags, rights = item.flags, record.flags
    if _is_seed(item, record):
        return SEED
    if told & HEARD:
        return IN_SESSION
    if blocked:
        return BLOCKED
    if told & HIDDEN:
        return IS_HIDDEN
    if personal and rights & OPTED_OUT:
        return IS_OPTED_OUT
    if told & COMPLETED and flags & SPOKEN:
        return IS_COMPLETED
    if flags & IN_ORDER and not told & NEXT and not (flags & OPENING and rights & MAY_BEGIN and not told & BEGUN):
        return OUT_OF_ORDER
    return BOOK_UNFINISHED if flags & BOOK and not rights & OTHER_BOOKS else _OK


@compiled
def _of_time(told, times, discovery, moment):
    """Return the first rule that asks how long ago something was, and the days."""
    if told & SKIPPED:
        days = (moment.start - times.skipped) / _DAY_US
        if days <= moment.skip_days:
            return RECENT_SKIP, days
    if told & PLAYED and discovery:
        days = (moment.start - times.played) / _DAY_US
        if days <= moment.play_days:
            return RECENTLY_PLAYED, days
    return _OK, np.nan


@compiled
def _kind_of(record, kinds, num_kinds):
    """Return the number of a record's kind, the next one where there is room for it, else -1."""
    may = record.flags & (MAY_EXPLICIT | MAY_VIDEO)
    for n in range(num_kinds):
        one = kinds[n]
        if one.needs == record.needs and one.max_age == record.max_age and one.may == may:
            return n
    if num_kinds == len(kinds):
        return -1
    one = kinds[num_kinds]
    one.needs, one.max_age, one.may = record.needs, record.max_age, may
    return num_kinds


@compiled
def _has_seed(record):
    return record.seed != _NO_CODE or record.seed_work != _NO_CODE


@compiled
def _asks_more(record):
    """Tell whether a record is asked about items it has nothing to do with: has blocked somebody, follows an item, wants nothing personal."""
    return record.barred < record.bars or _has_seed(record) or record.flags & OPTED_OUT != 0


@compiled
def _judge_all(rows, items, records, moment, scratch, answers):
    """Walk through the rows; what is said of an item to all who are alike is said once."""
    (every, offers, owners, spoken), (people, pairs, understood, blocked, needs, need_starts) = items, records
    (k, i, kinds), (told, times, barred, known, of), (rules, details, tired) = rows, scratch, answers
    last, kind, num_kinds, personal = np.int64(-1), -1, 0, False
    for row in range(len(k)):
        if i[row] == _NO_CODE:
            rules[row] = UNKNOWN_ITEM
            continue
        if k[row] != last:
            if last >= 0:
                _unmark(people[last], pairs, blocked, told, barred)
            last = np.int64(k[row])
            _mark(people[last], pairs, blocked, told, times, barred)
            kind = _kind_of(people[last], of, num_kinds)
            num_kinds = max(num_kinds, kind + 1)
            personal = _asks_more(people[last])
        seen = known[kind, i[row]] if kind >= 0 else np.uint8(_UNKNOWN)
        if seen == _PLAIN and told[i[row]] == 0 and not personal:
            continue
        item, record, detail = every[i[row]], people[last], np.nan
        if seen == _UNKNOWN:
            first, after = need_starts[record.needs], need_starts[record.needs + 1]
            seen = np.uint8(_FIRST_RULE + _look_up(item, offers, needs, first, after, moment)[0])
            plain = not item.flags & _NOT_PLAIN and _of_item(item, record, seen - _FIRST_RULE, moment) == _OK
            if kind >= 0:
                known[kind, i[row]] = _PLAIN if plain else seen
        rule = np.int64(_OK) if seen == _PLAIN else _of_item(item, record, np.int64(seen) - _FIRST_RULE, moment)
        if rule == AGE:
            detail = np.float64(item.age)
        if rule == _OK:
            is_blocked = record.barred < record.bars and _owned(item, owners, barred)
            rule = _of_pair(item, record, told[i[row]], is_blocked, kinds[row] & PERSONAL)
        if rule == _OK and told[i[row]]:
            rule, detail = _of_time(told[i[row]], times[i[row]], kinds[row] & DISCOVERY, moment)
        if rule == _OK and item.flags & SPOKEN and not _speaks(item, record, spoken, understood):
            rule = np.int64(LANGUAGE)
        rules[row], details[row] = rule, detail
        tired[row] = told[i[row]] & TIRED != 0


@compiled
def _until_all(k, i, items, records, moment, found):
    for row in range(len(k)):
        needs = records.records[k[row]].needs
        first, after = records.need_starts[needs], records.need_starts[needs + 1]
        until = _look_up(items.items[i[row]], items.offers, records.needs, first, after, moment)[1]
        if until != FOREVER:
            found[row] = until


@compiled
def _concern_all(place, own, items, records, scratch, pairs):
    """Write down the pairs where there is room for them, and return how many there are.

    Args:
      own: items, their recordings and their works, side by side: a seed is looked for among them all.
    """
    (every, _, owners, _), (people, told, _, blocked, _, _), (barred, found) = items, records, scratch
    near, recordings, works = own
    size = 0
    for k in range(len(people)):
        record = people[k]
        for at in range(record.pair, record.pairs):
            if place[told[at].item] >= 0:
                found[place[told[at].item]] = True
        if record.seed != _NO_CODE:
            for at in range(len(near)):
                found[at] |= recordings[at] == record.seed
        if record.seed_work != _NO_CODE:
            for at in range(len(near)):
                found[at] |= works[at] == record.seed_work
        if record.barred < record.bars:
            _set_all(blocked[record.barred : record.bars], barred, True)
            for at in range(len(near)):
                found[at] |= _owned(every[near[at]], owners, barred)
            _set_all(blocked[record.barred : record.bars], barred, False)
        for at in range(len(near)):
            if found[at]:
                if size < len(pairs):
                    pairs[size, 0], pairs[size, 1] = k, at
                size += 1
                found[at] = False
    return size


@compiled
def _set_all(codes, values, value):
    for code in codes:
        if code != _NO_CODE:
            values[code] = value
