"""Hard filters: what must never be in a set, whoever proposed it, in a declared order; each removal is named.

Facts about items, about records and about pairs of both are coded once and looked up by a compiled loop.
"""

import dataclasses
import datetime
import functools
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from schemas.hashing import hash64, mix64
from schemas.policy import SurfacePolicy
from transforms.codes import (
    BEGUN,
    HEARD,
    HIDDEN,
    MAY_EXPLICIT,
    MAY_VIDEO,
    NEXT,
    OTHER_BOOKS,
    PLAYED,
    SKIPPED,
    TIRED,
    ItemCodes,
    RecordArrays,
    code_records,
)
from transforms.filter_kernel import DISCOVERY, PERSONAL, Moment, available_until, concerned, judge
from transforms.id_index import NO_CODE, IdIndex

HARD_FILTERS = (
    "unknown_item", "tombstone", "ineligible", "market", "tier", "explicit", "age", "unreleased", "trailer", "video",
    "seed", "in_session", "blocked", "hidden", "opted_out", "completed", "out_of_order", "book_unfinished", "recent_skip", "recently_played",
    "language",
)  # fmt: skip
PAIR: dict[str, Any] = {"k": pl.UInt32, "item_id": pl.String}
ITEM_COLUMNS = ("item_id", "item_type", "canonical_id", "title", "artists", "album_id", "show_id", "publisher", "languages",
                "release_ts", "availability", "explicit", "age_rating", "rec_eligible", "deleted_at", "is_trailer",
                "is_serial", "season", "episode_no", "series_id", "is_video")  # fmt: skip


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


class Pool(NamedTuple):
    """Pools of some groups, what their records explore: parallel arrays, in order of group, stratum and item.

    `groups`, `strata`: names of them. `group`, `stratum`: places in these. `i`: item code; `p`: row of the proposal table.
    """

    groups: IdIndex
    strata: pl.Series
    group: np.ndarray
    stratum: np.ndarray
    i: np.ndarray
    p: np.ndarray


@dataclasses.dataclass(frozen=True)  # without slots: codes are made on first use and kept
class Facts:
    """What the hard filters need to know about the block.

    Attributes:
      records: one row per set in order of `k` (uint32, from 0): `record_key`, `needs` (id), `explicit_allowed`,
        `max_age`, `languages`, `opted_out`, `seed_item_id` and `seed_canonical_id` (null without a seed), `artists_known` (list of artist
        ids, null where the record has no history), `may_begin` (it may be offered the first part of what it has not begun),
        `other_books` (no book is unfinished), `may_video` (its client shows video), `newcomer` (there is no history to go by).
      needs: `needs`, `market`, `tier`: every pair of market and tier an item must be available in for the record.
      items: `ITEM_COLUMNS` of the proposed items, of seeds and of what was heard in sessions, and `opening` (the first part of its show or book), sorted by item_id; the
        row number is the item's code.
      gone: item ids with a tombstone.
      blocked: `k`, `artist_id` (of artist or show). hidden: `k`, `item_id`.
      played: `k`, `item_id`, `event_ts` (last), `completed`. skipped: `k`, `item_id`, `event_ts` (last).
      nexts: `k`, `item_id`, `show_id`: parts that come next. begun: the same of first parts that do not any more.
      in_session: `k`, `item_id` of what was heard in the session that goes on, in any recording and version.
      tired: `k`, `item_id` of what was shown or played too often lately.
      floors: `(num_records, num_kinds) int64`, how many of each kind of content there must be (`transforms.content_mix`); None: any.
      pool: what is explored, where somebody holds it; else it is coded of the proposals.
      max_run: `(num_records,) int64`, how many candidates of one artist may follow each other, 0 for any; None: as the policy says.
      at_a_loss: `(num_records,) bool`, whose sets have been off, so that quotas are widened; None: nobody's.
      catalogue: `items` and `gone` in codes, where somebody holds them; else they are coded for these facts alone.
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
    catalogue: ItemCodes | None = None
    in_session: pl.DataFrame = dataclasses.field(default_factory=lambda: pl.DataFrame(schema=PAIR))
    tired: pl.DataFrame = dataclasses.field(default_factory=lambda: pl.DataFrame(schema=PAIR))
    floors: np.ndarray | None = None
    pool: Pool | None = None
    max_run: np.ndarray | None = None
    at_a_loss: np.ndarray | None = None

    @functools.cached_property
    def item_codes(self) -> ItemCodes:
        """The items in codes."""
        held = self.catalogue
        same = held is not None and held.items is self.items and held.gone is self.gone
        return held if held is not None and same else ItemCodes.of(self.items, self.gone)

    @functools.cached_property
    def key_hashes(self) -> np.ndarray:
        """Hashes of the records' keys and contexts, `(num_records,) uint64`."""
        return mix64(*(hash64(self.records[name].to_arrow()) for name in ("record_key", "context_key")))

    @functools.cached_property
    def record_codes(self) -> RecordArrays:
        """The records in codes of the items."""
        told = {HIDDEN: self.hidden, PLAYED: self.played, SKIPPED: self.skipped, NEXT: self.nexts, BEGUN: self.begun,
                HEARD: self.in_session, TIRED: self.tired}  # fmt: skip
        return code_records(self.records, self.needs, self.blocked, told, self.item_codes)


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
      tired: bool, of what was shown or played too often lately; it is no reason to remove it.
    """

    rule: np.ndarray
    detail: np.ndarray
    tired: np.ndarray

    @classmethod
    def joined(cls, *parts: "Judged") -> "Judged":
        """Return the judgements of all parts."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("rule", "detail", "tired")))


def hard_filters(rows: Rows, facts: Facts, policy: SurfacePolicy, instant: Instant) -> Judged:
    """Name, for each row, the first hard filter it fails; the fewer the jumps between records, the faster."""
    kinds = [DISCOVERY * quota.discovery + PERSONAL * quota.personal for quota in policy.sources]
    of_rows = np.array(kinds, np.uint8)[rows.s]
    return Judged(
        *judge(rows.k, rows.i, of_rows, facts.item_codes.arrays, facts.record_codes, _moment(policy, instant))
    )


def until(rows: Rows, facts: Facts, policy: SurfacePolicy, instant: Instant) -> np.ndarray:
    """Return until when what passes the hard filters is available, us since the epoch, int64; -1 without end."""
    return available_until(rows.k, rows.i, facts.item_codes.arrays, facts.record_codes, _moment(policy, instant))


def anybody(k: np.ndarray, i: np.ndarray, facts: Facts, policy: SurfacePolicy, instant: Instant) -> np.ndarray:
    """Tell which items pass the hard filters that ask nothing personal of a record, `(num_pairs,) bool`; no part in order does."""
    told = facts.record_codes
    people = told.records.copy()
    people["flags"] &= MAY_EXPLICIT | OTHER_BOOKS | MAY_VIDEO
    people["seed"] = people["seed_work"] = NO_CODE
    people["pairs"], people["bars"] = people["pair"], people["barred"]
    of_rows = np.zeros(len(k), np.uint8)
    arrays = facts.item_codes.arrays, told._replace(records=people)
    return judge(k.astype(np.uint32), i, of_rows, *arrays, _moment(policy, instant)).rule == 0


def _moment(policy: SurfacePolicy, instant: Instant) -> Moment:
    span = micros(instant.effective_from), micros(instant.expires_at)
    return Moment(*span, policy.recent_skip_days, policy.recent_play_days)


def micros(instant: datetime.datetime) -> int:
    """Return us since the epoch."""
    return round(instant.timestamp() * 1_000_000)


def personal_pairs(facts: Facts, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `k`, and the place in `items` (rows of `facts.items`), of the pairs that a record's own rules may be about."""
    return concerned(items, facts.item_codes.arrays, facts.record_codes)
