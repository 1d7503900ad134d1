"""Hard filters: what must never be in a set, whoever proposed it, in a declared order; each removal is named.

Vectorised over the block: facts about items, about records and about pairs of both are looked up by integer code.
"""

import dataclasses
import datetime
from collections.abc import Mapping

import numpy as np
import polars as pl

from schemas.policy import SurfacePolicy
from transforms.sources import TALK

HARD_FILTERS = (
    "unknown_item", "tombstone", "ineligible", "market", "tier", "explicit", "age", "unreleased", "trailer", "seed",
    "blocked", "hidden", "opted_out", "completed", "out_of_order", "book_unfinished", "recent_skip", "recently_played",
    "language",
)  # fmt: skip
ITEM_COLUMNS = ("item_id", "item_type", "canonical_id", "artists", "album_id", "show_id", "publisher", "languages",
                "release_ts", "availability", "explicit", "age_rating", "rec_eligible", "deleted_at", "is_trailer",
                "is_serial", "season", "episode_no", "series_id")  # fmt: skip
NO_CODE = np.uint32(0xFFFFFFFF)
_DAY_US = 86_400_000_000
_FOREVER = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class Instant:
    """When the sets are valid, and what seeds their tie-breaks."""

    effective_from: datetime.datetime
    expires_at: datetime.datetime
    seed: str

    @classmethod
    def of(cls, logical_date: datetime.date, policy: SurfacePolicy) -> "Instant":
        """Return the validity of a batch set: from the end of its logical date."""
        start = datetime.datetime.combine(logical_date, datetime.time(), datetime.UTC) + datetime.timedelta(days=1)
        return cls(start, start + datetime.timedelta(hours=policy.expires_hours), f"{policy.name}|{logical_date}")


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What the hard filters need to know about the block.

    Attributes:
      records: one row per set in order of `k` (uint32, from 0): `record_key`, `needs` (id), `explicit_allowed`,
        `max_age`, `languages`, `opted_out`, `seed_canonical_id` (null without a seed), `artists_known` (list of artist
        ids, null where the record has no history), `may_begin` (it may be offered the first part of what it has not begun),
        `other_books` (no book is unfinished).
      needs: `needs`, `market`, `tier`: every pair of market and tier an item must be available in for the record.
      items: `ITEM_COLUMNS` of the proposed items and `opening` (the first part of its show or book), sorted by item_id; the
        row number is the item's code.
      gone: item ids with a tombstone.
      blocked: `k`, `artist_id` (of artist or show). hidden: `k`, `item_id`.
      played: `k`, `item_id`, `event_ts` (last), `completed`. skipped: `k`, `item_id`, `event_ts` (last).
      nexts: `k`, `item_id`, `show_id`: parts that come next. begun: the same of first parts that do not any more.
    """

    records: pl.DataFrame
    needs: pl.DataFrame
    items: pl.DataFrame
    gone: pl.Series
    blocked: pl.DataFrame
    hidden: pl.DataFrame
    played: pl.DataFrame
    skipped: pl.DataFrame
    nexts: pl.DataFrame
    begun: pl.DataFrame


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Proposals of a block as parallel arrays: one entry per record and proposal.

    Attributes:
      k: record, uint32. p: row of the proposal table, uint32. i: item code, `NO_CODE` where the item is unknown.
      s: source code, uint8. r: source rank, int32.
    """

    k: np.ndarray
    p: np.ndarray
    i: np.ndarray
    s: np.ndarray
    r: np.ndarray

    def take(self, index: np.ndarray) -> "Rows":
        """Return the rows at an index or under a mask."""
        return Rows(self.k[index], self.p[index], self.i[index], self.s[index], self.r[index])

    @classmethod
    def joined(cls, *parts: "Rows") -> "Rows":
        """Return the rows of all parts."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("k", "p", "i", "s", "r")))

    def __len__(self) -> int:
        return len(self.k)


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """What the hard filters said of each row.

    Attributes:
      rule: 0 passes, else 1 + index into `HARD_FILTERS`, uint8. detail: number the rule was decided on, NaN without.
      available_until: us since the epoch, int64; -1 without end.
    """

    rule: np.ndarray
    detail: np.ndarray
    available_until: np.ndarray

    @classmethod
    def joined(cls, *parts: "Judged") -> "Judged":
        """Return the judgements of all parts."""
        return cls(
            *(np.concatenate([getattr(p, name) for p in parts]) for name in ("rule", "detail", "available_until"))
        )


def hard_filters(rows: Rows, facts: Facts, policy: SurfacePolicy, instant: Instant) -> Judged:
    """Name, for each row, the first hard filter it fails."""
    known = rows.i != NO_CODE
    i, k = np.where(known, rows.i, 0).astype(np.int64), rows.k.astype(np.int64)
    item, record = _item_flags(facts, instant), facts.records
    discovery = np.array([quota.discovery for quota in policy.sources])[rows.s]
    personal = np.array([quota.personal for quota in policy.sources])[rows.s]
    in_market, for_tier, until = _availability_of_rows(k, i, facts, instant)
    played, completed = _last_seen(k, i, facts.played, facts.items)
    skipped, _ = _last_seen(k, i, facts.skipped, facts.items)
    start = _micros(instant.effective_from)
    played_age, skipped_age = (start - played) / _DAY_US, (start - skipped) / _DAY_US
    age = item["age_rating"][i]
    tests: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
        "unknown_item": (~known, None),
        "tombstone": (item["gone"][i], None),
        "ineligible": (item["ineligible"][i], None),
        "market": (~in_market, None),
        "tier": (~for_tier, None),
        "explicit": (item["explicit"][i] & ~_column(record, "explicit_allowed")[k], None),
        "age": (age > _column(record, "max_age")[k], age),
        "unreleased": (item["unreleased"][i], None),
        "trailer": (item["trailer"][i], None),
        "seed": (_among(k, i, _seed_pairs(facts), facts.items), None),
        "blocked": (_among(k, i, _blocked_pairs(facts), facts.items), None),
        "hidden": (_among(k, i, facts.hidden, facts.items), None),
        "opted_out": (_column(record, "opted_out")[k] & personal, None),
        "completed": (completed & item["talk"][i], None),
        "out_of_order": (item["in_order"][i] & ~_in_turn(k, i, item["opening"], facts), None),
        "book_unfinished": (item["book"][i] & ~_column(record, "other_books")[k], None),
        "recent_skip": (skipped_age <= policy.recent_skip_days, skipped_age),
        "recently_played": (discovery & (played_age <= policy.recent_play_days), played_age),
        "language": (_foreign(k, i, item["talk"], facts), None),
    }
    return Judged(*_first_failed(tests, len(rows)), until)


def _first_failed(
    tests: Mapping[str, tuple[np.ndarray, np.ndarray | None]], num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of the first rule each row fails, 0 for none, and the figure it was decided on."""
    rule, detail = np.zeros(num_rows, np.uint8), np.full(num_rows, np.nan)
    for number, name in enumerate(HARD_FILTERS, start=1):
        fails, figure = tests[name]
        first = fails & (rule == 0)
        rule[first] = number
        if figure is not None:
            detail[first] = figure[first]
    return rule, detail


def _column(frame: pl.DataFrame, name: str) -> np.ndarray:
    return frame[name].to_numpy()


def _micros(instant: datetime.datetime) -> int:
    return round(instant.timestamp() * 1_000_000)


def _item_flags(facts: Facts, instant: Instant) -> dict[str, np.ndarray]:
    """Return flags by item code; one row more where there are no items, so that a look-up of nothing is defined."""
    items = facts.items if facts.items.height else facts.items.clear(1)
    book = (pl.col("item_type") == "audiobook").fill_null(False).alias("book")
    flags = items.select(*item_flags(facts.gone, instant.effective_from), pl.col("opening").fill_null(False), book)
    return {name: flags[name].to_numpy() for name in flags.columns}


def item_flags(gone: pl.Series, since: datetime.datetime) -> list[pl.Expr]:
    """Return what the rules ask of an item itself: `gone`, `ineligible`, `explicit`, `age_rating`, `unreleased`, `talk`,
    `trailer`, `in_order`.
    """
    start = pl.lit(since)
    deleted = (pl.col("deleted_at") <= start).fill_null(False)
    return [
        pl.col("item_id").is_in(gone.implode()).fill_null(False).alias("gone"),
        (~pl.col("rec_eligible") | deleted).fill_null(True).alias("ineligible"),
        pl.col("explicit").fill_null(True),
        pl.col("age_rating").fill_null(0),
        (pl.col("release_ts") > start).fill_null(False).alias("unreleased"),
        pl.col("item_type").is_in(TALK).fill_null(False).alias("talk"),
        trailer(),
        in_order(),
    ]


def servable() -> pl.Expr:
    """Tell from the flags of items which may be recommended to anybody at all."""
    return ~pl.any_horizontal("gone", "ineligible", "unreleased", "trailer").alias("servable")


def trailer() -> pl.Expr:
    """Tell whether an item is a trailer."""
    return pl.col("is_trailer").fill_null(False).alias("trailer")


def in_order() -> pl.Expr:
    """Tell whether an item is a part that is to be heard after those before it: a chapter, or an episode of a serial show."""
    serial = (pl.col("item_type") == "episode") & pl.col("is_serial").fill_null(False) & ~trailer()
    return ((pl.col("item_type") == "chapter") | serial).fill_null(False).alias("in_order")


def series() -> pl.Expr:
    """Return the series of audiobooks, the same for every edition of one, null for all else."""
    own = pl.when(pl.col("item_type") == "audiobook").then("series_id")
    return own.max().over("canonical_id").alias("series")


def covers(instant: Instant) -> pl.Expr:
    """Tell whether an offer, `from_ts` to `to_ts`, covers the whole validity of a set."""
    start, end = pl.lit(instant.effective_from), pl.lit(instant.expires_at)
    return (pl.col("from_ts").fill_null(start) <= start) & (pl.col("to_ts").fill_null(end) >= end)


def _availability_of_rows(
    k: np.ndarray, i: np.ndarray, facts: Facts, instant: Instant
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Judge each distinct pair of needs and item once and spread the answer over the rows."""
    needs = facts.records["needs"].unique(maintain_order=True)
    coded = facts.records["needs"].replace_strict(needs, range(len(needs)), return_dtype=pl.Int64)
    codes = coded.to_numpy().astype(np.int64)[k]  # of no records, polars gives objects
    width = max(facts.items.height, 1)
    distinct, spread = _factorise(codes * width + i, len(needs) * width)
    pairs = pl.DataFrame({"needs": needs.gather(distinct // width), "i": (distinct % width).astype(np.uint32)})
    offered = facts.items.with_row_index("i")
    pairs = pairs.join(offered.select("i", "item_id"), on="i", how="left", maintain_order="left")
    judged = pairs.join(availability(pairs, facts, instant), on=["item_id", "needs"], how="left", maintain_order="left")
    until = judged["available_until"].dt.epoch("us").fill_null(-1).to_numpy()
    flags = [judged[name].fill_null(False).to_numpy()[spread] for name in ("market_ok", "tier_ok")]
    return flags[0], flags[1], until[spread]


def _factorise(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct codes, ascending, and each row's index into them; through a table where the range allows it."""
    if size > 50_000_000:
        return np.unique(codes, return_inverse=True)
    seen = np.zeros(size, bool)
    seen[codes] = True
    distinct = np.flatnonzero(seen)
    place = np.zeros(size, np.int64)
    place[distinct] = np.arange(len(distinct))
    return distinct, place[codes]


def availability(pairs: pl.DataFrame, facts: Facts, instant: Instant) -> pl.DataFrame:
    """Judge pairs of item and needs: `item_id`, `needs`, `market_ok`, `tier_ok`, `available_until`.

    An item is available where one of its intervals covers the whole validity of the set, in every market and for every
    tier the record needs; `available_until` is the earliest end among them, null without end.
    """
    wanted = pairs.select("item_id", "needs").drop_nulls().join(facts.needs, on="needs")
    offered = facts.items.select("item_id", "availability")
    everywhere = offered.filter(pl.col("availability").is_null()).select("item_id", pl.lit(True).alias("__all"))
    rows = offered.explode("availability").drop_nulls("availability").unnest("availability")
    rows = rows.filter(covers(instant)).rename({"market": "__market"})
    met = wanted.join(rows, on="item_id").filter((pl.col("__market") == "*") | (pl.col("__market") == pl.col("market")))
    open_to = pl.col("tiers").is_null() | pl.col("tiers").list.contains(pl.col("tier"))
    served = met.group_by("item_id", "needs", "market", "tier").agg(
        pl.lit(True).alias("__in_market"),
        open_to.any().alias("__for_tier"),
        pl.col("to_ts").fill_null(_FOREVER).filter(open_to).max().alias("__until"),
    )
    keys = ["item_id", "needs", "market", "tier"]
    judged = wanted.join(served, on=keys, how="left").join(everywhere, on="item_id", how="left")
    free = pl.col("__all").fill_null(False)
    return judged.group_by("item_id", "needs").agg(
        (free | pl.col("__in_market").fill_null(False)).all().alias("market_ok"),
        (free | pl.col("__for_tier").fill_null(False)).all().alias("tier_ok"),
        pl.col("__until").min().replace({_FOREVER: None}).alias("available_until"),
    )


def _codes(pairs: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return `key`: record and item code in one number, sorted, of the pairs whose item was proposed, beside the rest."""
    coded = pairs.join(items.select("item_id").with_row_index("i"), on="item_id")
    key = pl.col("k").cast(pl.UInt64) * 2**32 + pl.col("i").cast(pl.UInt64)
    return coded.with_columns(key.alias("key")).sort("key").unique("key", keep="last", maintain_order=True)


def _find(k: np.ndarray, i: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each row's pair lies in sorted `keys`, and whether it is there."""
    wanted = k.astype(np.uint64) << np.uint64(32) | i.astype(np.uint64)
    place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    return place, (keys[place] == wanted if len(keys) else np.zeros(len(k), bool))


def _among(k: np.ndarray, i: np.ndarray, pairs: pl.DataFrame, items: pl.DataFrame) -> np.ndarray:
    if not pairs.height:
        return np.zeros(len(k), bool)
    return _find(k, i, _codes(pairs.select("k", "item_id"), items)["key"].to_numpy())[1]


def _last_seen(k: np.ndarray, i: np.ndarray, seen: pl.DataFrame, items: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return when the record last met the item, us since the epoch, minus infinity for never, and whether completed."""
    never = np.full(len(k), -np.inf)
    if not seen.height:
        return never, np.zeros(len(k), bool)
    coded = _codes(seen, items)
    place, there = _find(k, i, coded["key"].to_numpy())
    if not coded.height:
        return never, np.zeros(len(k), bool)
    when = np.where(there, coded["event_ts"].dt.epoch("us").to_numpy()[place].astype(np.float64), -np.inf)
    done = coded["completed"].to_numpy()[place] & there if "completed" in coded.columns else np.zeros(len(k), bool)
    return when, done


def _seed_pairs(facts: Facts) -> pl.DataFrame:
    """Return the proposed items that are the record's own seed, or another recording of it."""
    seeds = facts.records.select("k", pl.col("seed_canonical_id").alias("canonical_id")).drop_nulls()
    return seeds.join(facts.items.select("item_id", "canonical_id"), on="canonical_id").select("k", "item_id")


def _in_turn(k: np.ndarray, i: np.ndarray, opening: np.ndarray, facts: Facts) -> np.ndarray:
    """Tell which rows come next, or begin what the record may begin and has not begun."""
    begins = opening[i] & _column(facts.records, "may_begin")[k] & ~_among(k, i, facts.begun, facts.items)
    return begins | _among(k, i, facts.nexts, facts.items)


def _blocked_pairs(facts: Facts) -> pl.DataFrame:
    """Return the proposed items of the artists and shows each record blocked."""
    if not facts.blocked.height:
        return facts.hidden.clear()
    artists = pl.col("artists").list.eval(pl.element().struct.field("artist_id")).alias("artist_id")
    owners = [
        facts.items.select("item_id", artists).explode("artist_id"),
        facts.items.select("item_id", pl.col("show_id").alias("artist_id")),
    ]
    return facts.blocked.join(pl.concat(owners).drop_nulls(), on="artist_id").select("k", "item_id").unique()


def personal_pairs(facts: Facts, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `k`, and the place in `items` (rows of `facts.items`), of the pairs that a record's own rules may be about."""
    near = dataclasses.replace(facts, items=facts.items[items])
    seen = (_seed_pairs(near), _blocked_pairs(near), facts.hidden, facts.played, facts.skipped)
    codes = near.items.select("item_id").with_row_index("i")
    told = pl.concat([pairs.select("k", "item_id").join(codes, on="item_id").select("k", "i") for pairs in seen])
    found = told.unique().sort("k", "i")
    return found["k"].to_numpy().astype(np.int64), found["i"].to_numpy().astype(np.int64)


def _foreign(k: np.ndarray, i: np.ndarray, talk: np.ndarray, facts: Facts) -> np.ndarray:
    """Tell which rows are talk in none of the record's languages; unknown languages pass."""
    foreign = np.zeros(len(k), bool)
    spoken = (
        facts.items["languages"].list.len().fill_null(0).to_numpy() > 0 if facts.items.height else np.zeros(1, bool)
    )
    asked = facts.records["languages"].list.len().fill_null(0).to_numpy() > 0
    where = np.flatnonzero((talk & spoken)[i] & asked[k])
    if not len(where):
        return foreign
    theirs, own = facts.items["languages"].gather(i[where]), facts.records["languages"].gather(k[where])
    common = pl.DataFrame({"a": theirs, "b": own}).select(pl.col("a").list.set_intersection("b").list.len()).to_series()
    foreign[where] = common.to_numpy() == 0
    return foreign
