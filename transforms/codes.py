"""Codes: what the rules ask of items and of records, as numbers in arrays that a compiled loop walks through."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from schemas.hashing import hash64, mix_text
from schemas.inputs import TIERS
from schemas.tallies import ANY
from transforms.content_mix import kind, kind_codes
from transforms.id_index import NO_CODE, IdIndex, alike, first_seen
from transforms.item_rules import in_order, series_of, trailer, video
from transforms.sorted_groups import dense
from transforms.sources import TALK
from transforms.tallies import first_artist
from transforms.works import work

NEVER, FOREVER = np.iinfo(np.int64).min, 253_370_764_800_000_000  # us; the latter is 9999-12-31
UNFIT, EXPLICIT, SPOKEN, TRAILER, IN_ORDER, OPENING, BOOK, EVERYWHERE, GONE, VIDEO = (1 << bit for bit in range(10))
MAY_EXPLICIT, OPTED_OUT, MAY_BEGIN, OTHER_BOOKS, MAY_VIDEO = (1 << bit for bit in range(5))
HIDDEN, PLAYED, COMPLETED, SKIPPED, NEXT, BEGUN, HEARD, TIRED = (1 << bit for bit in range(8))
EVERY_MARKET = 0
_NO_TIER, _EVERY_TIER = 62, (1 << 63) - 1


_NUMBERED = ("canonical", "alike", "work", "artist", "album", "show", "publisher", "series")
ITEM = np.dtype(
    [("release", np.int64), ("deleted", np.int64)]
    + [(name, np.uint32) for name in _NUMBERED]
    + [(name, np.int32) for name in ("owner", "owners", "language", "languages", "offer", "offers", "age")]
    + [("flags", np.uint16), ("kind", np.uint8)],
    align=True,
)  # fmt: skip
"""An item: two times in us; numbers that are the same for what is alike, `NO_CODE` for none; where its lists begin and end, and its place in
`transforms.content_mix.KINDS`."""
OFFER = np.dtype([("since", np.int64), ("until", np.int64), ("tiers", np.int64), ("market", np.uint32)], align=True)
"""An offer of an item: two times in us, a bit per tier."""
RECORD = np.dtype(
    [(name, np.uint32) for name in ("seed", "seed_work", "needs", "flags")]
    + [(name, np.int32) for name in ("language", "languages", "barred", "bars", "pair", "pairs", "max_age")],
    align=True,
)  # fmt: skip
"""A record: the canonical number of its seed and that of its work, the number of its needs, and where its lists begin and end."""
PAIR = np.dtype([("time", np.int64), ("item", np.uint32), ("told", np.uint32)], align=True)
"""An item that a record has to do with: last time in us, bits."""
NEED = np.dtype([("market", np.uint32), ("tier", np.int64)], align=True)


class ItemArrays(NamedTuple):
    """What is asked of items: `ITEM` by code, `OFFER`, and uint32 numbers of owners and languages."""

    items: np.ndarray
    offers: np.ndarray
    owners: np.ndarray
    languages: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class ItemCodes:
    """A catalogue in codes: made once for a block of records, or held as long as the catalogue is.

    Memory: about 250 bytes per item, of which a title and its work take 40, and 40 per offer; while it
    is made, 150 more per item.

    Attributes:
      items: `transforms.filters.Facts.items`, whose row numbers are the codes. gone: item ids with a tombstone.
      shown: what candidates tell of items: `item_id`, `item_type`, `canonical_id`, `artist_id`, `release_ts`.
      ties: `(num_items,) uint64`, `schemas.hashing.mix_text` of the ids. hashes: uint64, `hash64` of those that were asked for, 0 of
        others.
      ids: the items. canonical, artists, owners, languages, markets: names that are numbered.
    """

    items: pl.DataFrame
    gone: pl.Series
    arrays: ItemArrays
    shown: pl.DataFrame
    ties: np.ndarray
    hashes: np.ndarray
    ids: IdIndex
    canonical: IdIndex
    artists: IdIndex
    owners: IdIndex
    languages: IdIndex
    markets: IdIndex

    @classmethod
    def of(cls, items: pl.DataFrame, gone: pl.Series) -> "ItemCodes":
        """Code a catalogue, sorted by `item_id`."""
        ids = IdIndex.of(items["item_id"])
        owned, languages, offered = (
            _owned(items),
            _lists(items.select("languages")),
            _lists(items.select("availability")),
        )
        offers = offered[1].struct.unnest()
        named = [values.unique().sort() for values in (owned[1], languages[1], offers["market"])]
        named[2] = pl.concat([pl.Series([ANY]), named[2].filter(named[2] != ANY)])
        by_owner, by_language, by_market = (IdIndex.of(names) for names in named)
        coded = np.empty(items.height, ITEM)
        _fill(coded, _figures(items), ("age", "release", "deleted"))
        _fill(coded, [dense(items["canonical_id"]), *_attributes(items)], _NUMBERED)
        for starts, name in ((owned[0], "owner"), (languages[0], "language"), (offered[0], "offer")):
            _fill(coded, [starts[:-1], starts[1:]], (name, f"{name}s"))
        coded["flags"] = _flags(items, ids.find(gone))
        coded["kind"] = kind_codes(items.select(kind()).to_series())
        lists = by_owner.find(owned[1]), by_language.find(languages[1])
        arrays = ItemArrays(coded, _offers(offers, by_market), *lists)
        artist = first_artist().alias("artist_id")
        shown = items.select("item_id", "item_type", "canonical_id", artist, "release_ts")
        canonical, artists = IdIndex.of(items["canonical_id"]), IdIndex.of(first_seen(shown["artist_id"]))
        hashes = mix_text(items["item_id"].to_arrow()), np.zeros(items.height, np.uint64)
        return cls(items, gone, arrays, shown, *hashes, ids, canonical, artists, by_owner, by_language, by_market)

    def without(self, gone: pl.Series, parts: pl.Series, opening: pl.Series) -> "ItemCodes":
        """Return the codes under other tombstones: `gone`, those they were made for and more.

        Args:
          parts: ids whose part of a show or book may be the first now, or no more. opening: of each, whether it is.
        """
        coded, first = self.arrays.items.copy(), self.items["opening"].to_numpy().copy()
        flags, under, at = coded["flags"], self.ids.find(gone), self.ids.find(parts)
        flags[under[under != NO_CODE]] |= GONE
        first[at] = opening.to_numpy()
        flags[at] = np.where(first[at], flags[at] | OPENING, flags[at] & ~np.uint16(OPENING))
        items = self.items.with_columns(pl.Series("opening", first)) if len(at) else self.items
        return dataclasses.replace(self, items=items, gone=gone, arrays=self.arrays._replace(items=coded))

    def hash64(self, codes: np.ndarray) -> np.ndarray:
        """Return `schemas.hashing.hash64` of items, `(num_codes,) uint64`; it is made once."""
        new = np.unique(codes[self.hashes[codes] == 0])
        self.hashes[new] = hash64(self.items["item_id"].gather(new).to_arrow())
        return self.hashes[codes]


class RecordArrays(NamedTuple):
    """What is asked of records: `RECORD` by k, `PAIR`, numbers of languages and of blocked owners, `NEED` and where those of
    each needs begin.
    """

    records: np.ndarray
    pairs: np.ndarray
    languages: np.ndarray
    barred: np.ndarray
    needs: np.ndarray
    need_starts: np.ndarray


def code_records(records: pl.DataFrame, needs: pl.DataFrame, blocked: pl.DataFrame,
                 told: Mapping[int, pl.DataFrame], codes: ItemCodes) -> RecordArrays:  # fmt: skip
    """Code what `transforms.filters.Facts` says of records.

    Args:
      told: by bit, `k` and `item_id`, and where it matters `event_ts` and `completed`.
    """
    n, by_needs = records.height, IdIndex.of(records["needs"].unique(maintain_order=True))
    spoken = _lists(records.select("languages"))
    k, pairs = _pairs(told, codes)
    pair_starts, pairs = _listed(k, n, pairs)
    barred_starts, barred = _listed(_own(blocked["k"]), n, codes.owners.find(blocked["artist_id"]))
    need_starts, wanted = _listed(by_needs.find(needs["needs"]), len(by_needs.ids), _needs(needs, codes))
    coded = np.empty(n, RECORD)
    _fill(
        coded,
        [*_seeds(records, codes), by_needs.find(records["needs"]), _record_flags(records)],
        ("seed", "seed_work", "needs", "flags"),
    )
    for starts, names in (
        (spoken[0], ("language", "languages")),
        (barred_starts, ("barred", "bars")),
        (pair_starts, ("pair", "pairs")),
    ):
        _fill(coded, [starts[:-1], starts[1:]], names)
    coded["max_age"] = records["max_age"].to_numpy()
    return RecordArrays(coded, pairs, codes.languages.find(spoken[1]), barred, wanted, need_starts)


def _fill(coded: np.ndarray, columns: Iterable[np.ndarray], names: Sequence[str]) -> None:
    for name, column in zip(names, columns, strict=True):
        coded[name] = column


def _seeds(records: pl.DataFrame, codes: ItemCodes) -> Iterator[np.ndarray]:
    """Yield the canonical numbers of the records' seeds, and the numbers of their works."""
    places = codes.canonical.find(records["seed_canonical_id"]), codes.ids.find(records["seed_item_id"])
    for name, place in zip(("canonical", "work"), places, strict=True):
        seeds = np.full(len(place), NO_CODE)
        seeds[place != NO_CODE] = codes.arrays.items[name][place[place != NO_CODE]]
        yield seeds


def _needs(needs: pl.DataFrame, codes: ItemCodes) -> np.ndarray:
    coded = np.empty(needs.height, NEED)
    coded["market"] = codes.markets.find(needs["market"])
    coded["tier"] = _tier(needs["tier"])
    return coded


def _pairs(told: Mapping[int, pl.DataFrame], codes: ItemCodes) -> tuple[np.ndarray, np.ndarray]:
    """Return `k` and `PAIR` of what is told of proposed items."""
    owners, found = [np.zeros(0, np.uint32)], [np.zeros(0, PAIR)]
    for bit, frame in told.items():
        if not frame.height:
            continue
        pairs = np.zeros(frame.height, PAIR)
        pairs["item"], pairs["told"] = codes.ids.find(frame["item_id"]), bit
        if "completed" in frame.columns:
            pairs["told"][frame["completed"].to_numpy()] |= COMPLETED
        if "event_ts" in frame.columns:
            pairs["time"] = _micros(frame["event_ts"], NEVER)
        near = pairs["item"] != NO_CODE
        owners.append(_own(frame["k"])[near])
        found.append(pairs[near])
    return np.concatenate(owners), np.concatenate(found)


def _listed(owner: np.ndarray, num_owners: int, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the list of each owner begins, and the column in order of owner; `NO_CODE` owns nothing."""
    order = np.argsort(owner, kind="stable")
    return np.searchsorted(owner[order], np.arange(num_owners + 1)), column[order]


def _own(values: pl.Series) -> np.ndarray:
    """Return a copy: compiled functions take arrays that may be written to for others than those that may not."""
    return np.array(values.to_numpy())


def _lists(frame: pl.DataFrame) -> tuple[np.ndarray, pl.Series]:
    """Return where the list of each row begins, and the values of all; a null is an empty list."""
    lists = frame.to_series()
    if lists.null_count() == len(lists):
        return np.zeros(len(lists) + 1, np.int64), lists.clear().explode()
    lengths = lists.list.len().fill_null(0).to_numpy()
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), lists.filter(lengths > 0).explode()


def _owned(items: pl.DataFrame) -> tuple[np.ndarray, pl.Series]:
    """Return where the owners of each item begin, and all of them: its artists and its show."""
    starts, artists = _lists(items.select(pl.col("artists").list.eval(pl.element().struct.field("artist_id"))))
    item, shows = np.repeat(np.arange(items.height), np.diff(starts)), items["show_id"]
    both, of = pl.concat([artists.alias("owner"), shows.alias("owner")]), np.append(item, np.arange(items.height))
    there = both.is_not_null().to_numpy()
    order = np.argsort(of[there], kind="stable")
    ends = np.cumsum(np.bincount(of[there], minlength=items.height))
    return np.concatenate([[0], ends]), both.filter(there)[order]


def _attributes(items: pl.DataFrame) -> list[np.ndarray]:
    """Return what a set holds one item of, the series of an audiobook or else the canonical item, and the work; what caps count."""
    one = pl.coalesce("series:" + pl.col("series"), "canonical_id").alias("alike")
    own = items.select("canonical_id", work(), first_artist(), "album_id", "show_id", "publisher", series_of(items))
    named = own.select(one, pl.all().exclude("canonical_id"))
    return [alike(one) for one in named.get_columns()]


def _figures(items: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    age = items["age_rating"].fill_null(0).to_numpy()
    return age, _micros(items["release_ts"], NEVER), _micros(items["deleted_at"], FOREVER)


def _micros(times: pl.Series, missing: int) -> np.ndarray:
    """Return us since the epoch, int64."""
    found = times.to_numpy().astype("datetime64[us]").view(np.int64).copy()
    found[found == NEVER] = missing  # how numpy says that there is none
    return found


def _offers(offers: pl.DataFrame, by_market: IdIndex) -> np.ndarray:
    coded = np.empty(offers.height, OFFER)
    coded["market"] = by_market.find(offers["market"])
    coded["since"], coded["until"] = _micros(offers["from_ts"], NEVER), _micros(offers["to_ts"], FOREVER)
    starts, names = _lists(offers.select("tiers"))
    bit = _tier(names)
    bits, known = np.where(offers["tiers"].is_null().to_numpy(), _EVERY_TIER, 0), bit != _NO_TIER
    np.bitwise_or.at(bits, np.repeat(np.arange(offers.height), np.diff(starts))[known], 1 << bit[known])
    coded["tiers"] = bits
    return coded


def _tier(names: pl.Series) -> np.ndarray:
    """Return the place of each in `TIERS`, `_NO_TIER` for others."""
    return np.minimum(_tiers().find(names), _NO_TIER).astype(np.int64)


@functools.cache
def _tiers() -> IdIndex:
    return IdIndex.of(pl.Series(TIERS))


def _flags(items: pl.DataFrame, gone: np.ndarray) -> np.ndarray:
    unfit = ~pl.col("rec_eligible").fill_null(False)
    named = {
        UNFIT: unfit, EXPLICIT: pl.col("explicit").fill_null(True), SPOKEN: pl.col("item_type").is_in(TALK).fill_null(False),
        TRAILER: trailer(), IN_ORDER: in_order(), OPENING: pl.col("opening").fill_null(False),
        BOOK: (pl.col("item_type") == "audiobook").fill_null(False), EVERYWHERE: pl.col("availability").is_null(),
        VIDEO: video(),
    }  # fmt: skip
    flags = _bits(items, named, np.uint16)
    flags[gone[gone != NO_CODE]] |= GONE
    return flags


def _record_flags(records: pl.DataFrame) -> np.ndarray:
    named = {
        MAY_EXPLICIT: "explicit_allowed",
        OPTED_OUT: "opted_out",
        MAY_BEGIN: "may_begin",
        OTHER_BOOKS: "other_books",
        MAY_VIDEO: "may_video",
    }
    return _bits(records, {bit: pl.col(name).fill_null(False) for bit, name in named.items()}, np.uint8)


def _bits(frame: pl.DataFrame, named: Mapping[int, pl.Expr], kind: Any) -> np.ndarray:
    told = frame.select(test.alias(str(bit)) for bit, test in named.items())
    return np.sum([told[str(bit)].to_numpy().astype(kind) * kind(bit) for bit in named], axis=0, dtype=kind)
