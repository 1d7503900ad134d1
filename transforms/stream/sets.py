"""Candidate sets of sessions: from what listeners did in the last day to what they may be offered next.

    windows -> who listens, to what -> the sources of Now Playing -> filters, blend -> one record per listener

Pure: a set is a function of a window and a bundle. Whoever is served beside it, how often it is asked for and what the clock
says do not matter: filters are judged as of the full hour in which the newest event lies, so that listeners share the work.
Memory: about 600 proposals of 100 bytes for each listener asked about, 50 kB, and what they heard in 90 days.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.candidates import CANDIDATE_SET, PROPOSAL
from schemas.hashing import hash64, hash64_one, mix64
from schemas.policy import Quota, SurfacePolicy
from transforms.candidate_sets import Provenance
from transforms.codes import ItemCodes
from transforms.facts import group_of, proposed_items, user_facts
from transforms.filters import PAIR, Facts, Instant
from transforms.histories import MAX_POSITIVES, entries
from transforms.holdout import held_out
from transforms.id_index import NO_CODE
from transforms.panel import Panel
from transforms.parts import shows_of_seeds, unfinished_books
from transforms.reach import user_rights
from transforms.recommend import made
from transforms.shards import read_tables
from transforms.sorted_groups import numbered
from transforms.sources import Audience, Source
from transforms.stream.live import LiveBundle
from transforms.stream.session import (
    Heard,
    Window,
    at_a_loss,
    in_artist_context,
    playing,
    session,
    shows_video,
    turned_away,
)
from transforms.tallies import first_artist, primary_artist

QUARANTINED = "quarantined"
WIDENED = {"np.transition": 0.5, "np.similar": 2.0, "np.familiar": 2.0}
"""What becomes of quotas where three fast skips in a row say that the set is off (domain reference, section 5)."""
HOUR_US = 3_600_000_000
STANDS_HOURS = 2
"""Counted from the full hour: an hour at least after the newest event, by when a session is over; what is taken down later
is shown no longer than that, and whoever comes back begins with the sets of the batch."""
_STAMP = pl.Datetime("us", "UTC")
_TOLD: dict[str, Any] = {"user_id": pl.String, "market": pl.String, "seed_item_id": pl.String, "last_event_ts": _STAMP}
_LISTEN: dict[str, Any] = {
    "key": pl.String, "item_id": pl.String, "item_type": pl.String, "event_ts": pl.Int64, "label": pl.Float32,
    "session_id": pl.String,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Listening:
    """What one listener's window comes to.

    Attributes:
      events: of the last day; none of a listener who is quarantined. session: those of the session that goes on.
    """

    user_id: str
    window: Window
    events: tuple[Heard, ...]
    session: tuple[Heard, ...]

    @classmethod
    def of(cls, user_id: str, window: Window) -> "Listening":
        """Read a window that is not empty."""
        events = () if window.overrun else window.events
        return cls(user_id, window, events, session(events))

    @property
    def last_event_ts(self) -> int:
        """Time of the newest event, us."""
        return self.window.heard[-1].event_ts

    @property
    def told(self) -> tuple[str, str | None, str | None, int]:
        """The listener, the market of the newest event that names one, what plays, and the time of the newest event."""
        market = next((one.market for one in reversed(self.window.heard) if one.market), None)
        seed = playing(self.session)
        return self.user_id, market, seed.item_id if seed else None, self.last_event_ts

    @property
    def block(self) -> tuple[int, bool]:
        """What listeners must share to be served together: the hour, and whether quotas are widened."""
        return self.last_event_ts // HOUR_US, at_a_loss(self.session)


@dataclasses.dataclass(frozen=True)
class SessionSets:
    """Serve sessions from one bundle.

    Attributes:
      sources: of listeners. group_sources: of markets, whose proposals the bundle has.
    """

    bundle: LiveBundle
    policy: SurfacePolicy
    sources: Mapping[str, Source]
    group_sources: Mapping[str, Source]
    provenance: Provenance

    def __call__(self, windows: Mapping[str, Window]) -> pa.Table:
        """Return one record per listener in the candidate-set contract, sorted by listener.

        Who opted out of personalisation, asked to be deleted or has an empty window has none.
        """
        heard = [Listening.of(user, window) for user, window in sorted(windows.items()) if window.heard]
        blocks: dict[tuple[int, bool], list[Listening]] = {}
        for one in heard:
            blocks.setdefault(one.block, []).append(one)
        tables = [self._block(hour, lost, own) for (hour, lost), own in sorted(blocks.items())]
        if len(tables) == 1:  # in order already
            return tables[0]
        return pa.concat_tables([CANDIDATE_SET.schema.empty_table(), *tables]).sort_by("record_key")

    def _block(self, hour: int, lost: bool, heard: Sequence[Listening]) -> pa.Table:
        policy, instant = widened(self.policy) if lost else self.policy, _instant(hour, self.policy)
        told = pl.DataFrame([one.told for one in heard], schema=_TOLD, orient="row")
        known = self.bundle.listeners(told.select("user_id", "market"))
        users = known.filter(~pl.col("personalization_opt_out")) if known["personalization_opt_out"].any() else known
        if not users.height:
            return CANDIDATE_SET.schema.empty_table()
        audience = self._audience(users, told, heard, policy, instant)
        proposals, left_out = self._proposals(audience, users)
        facts = _facts(users, told, heard, audience, proposals, self.bundle, instant)
        provenance = dataclasses.replace(self.provenance, left_out=left_out)
        every = dict(self.sources) | dict(self.group_sources)
        _, table = made(proposals, facts, policy, instant, every, provenance)
        return stamped(table, heard)

    def _audience(
        self,
        users: pl.DataFrame,
        told: pl.DataFrame,
        heard: Sequence[Listening],
        policy: SurfacePolicy,
        instant: Instant,
    ) -> Audience:
        known = self.bundle.lookup(
            "item", "item_id", told["seed_item_id"], ["item_id", "canonical_id", "artists", "show_id", "genres"]
        )
        seeds = known.select(
            pl.col("item_id").alias("seed_item_id"), "canonical_id", primary_artist().alias("artist_id"),
            pl.col("genres").list.first().alias("genre"),
        )  # fmt: skip
        mine = users.select("market", "tier", "follows", key="user_id")
        asked = mine.join(told.select("seed_item_id", key="user_id"), on="key")
        keys = asked.join(seeds, on="seed_item_id", how="left").sort("key")
        said = {one.user_id: one.session for one in heard}
        listens, skips = (_listens(said, keys["key"], sign) for sign in (1, -1))
        unwanted = _unwanted(users, heard)
        liked = listens.with_columns(pl.lit(None, pl.String).alias("artist_id"))
        free = ~pl.col("key").is_in(_in_books(keys, self.bundle, instant).implode())
        seen = pl.Series([one.user_id for one in heard if shows_video(one.session)], dtype=pl.String)
        rights = user_rights(users).with_columns(
            may_begin=free, other_books=free, may_video=pl.col("key").is_in(seen.implode())
        )
        known = users.select("positives", key="user_id")
        return Audience(keys, liked, skips, instant.effective_from, policy, rights, unwanted, histories=known)

    def _proposals(self, audience: Audience, users: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, ...]]:
        heard = dataclasses.replace(audience, keys=audience.keys.filter(pl.col("seed_item_id").is_not_null()))
        held_back = held_out(heard.keys["key"], self.policy)
        return asked(self.sources, _without(heard, held_back) if held_back.any() else heard, users, self.bundle)


def _without(audience: Audience, some: pl.Series) -> Audience:
    """Return the audience without some of its keys, and what they heard."""
    keys = audience.keys.filter(~some)
    told = {name: getattr(audience, name) for name in ("listens", "skips", "histories")}
    kept = {name: rows.join(keys, on="key", how="semi", maintain_order="left") for name, rows in told.items()}
    return dataclasses.replace(audience, keys=keys, **kept)


def asked(
    sources: Mapping[str, Source], audience: Audience, users: pl.DataFrame, bundle: LiveBundle
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return what is proposed to listeners and to their groups, and which sources did not answer."""
    panel = Panel(sources, audience.policy.live_seconds)
    own = panel.ask(audience, bundle)
    groups = users.select(group_of(pl.col("tier"), bundle.world)).to_series().unique()
    shared = bundle.lookup("groups", "key", groups)
    reasons = tuple(sorted(f"source_{reason}:{name}" for name, (reason, _) in panel.left_out.items()))
    return pl.concat([read_tables([], PROPOSAL), own, shared], rechunk=True), reasons


def _instant(hour: int, policy: SurfacePolicy) -> Instant:
    """Return the validity of sets of an hour, from its beginning."""
    start = starting_at(hour)
    end = start + datetime.timedelta(hours=min(STANDS_HOURS, policy.expires_hours))
    return Instant(start, end, f"{policy.name}|{start.isoformat()}")


def starting_at(hour: int) -> datetime.datetime:
    """Return when an hour begins, counted since 1970."""
    return datetime.datetime.fromtimestamp(hour * 3600, datetime.UTC)


def widened(policy: SurfacePolicy) -> SurfacePolicy:
    """Return the policy with less of what usually follows, and more of what is alike and what is known."""
    return dataclasses.replace(policy, sources=tuple(_widened(quota) for quota in policy.sources))


def _widened(quota: Quota) -> Quota:
    by = WIDENED.get(quota.source_id, 1.0)
    low, aim, high = (int(slots * by) for slots in (quota.minimum, quota.target, quota.maximum))
    return dataclasses.replace(quota, minimum=low, target=aim, maximum=high)


def _listens(said: Mapping[str, Sequence[Heard]], keys: pl.Series, sign: int) -> pl.DataFrame:
    """Return the events whose label has a sign, of some listeners, by key and time."""
    rows = [
        (key, one.item_id, one.item_type, one.event_ts, one.label, one.session_id)
        for key in sorted(set(keys.to_list()))
        for one in said[key]
        if one.label * sign > 0
    ]
    found = pl.DataFrame(rows, schema=_LISTEN, orient="row")
    return found.replace_column(found.get_column_index("event_ts"), found["event_ts"].cast(_STAMP))


def _unwanted(users: pl.DataFrame, heard: Iterable[Listening]) -> pl.DataFrame:
    """Return `key` and `item_id` of what no source need look for; the hard filters know the rest."""
    known = set(users["user_id"].to_list())
    rows = [(one.user_id, item) for one in heard if one.user_id in known for item in _out(one)]
    met = pl.DataFrame(rows, schema={"key": pl.String, "item_id": pl.String}, orient="row")
    hidden = entries(users, "hidden_items", "item_id", "user_id").rename({"user_id": "key"})
    return pl.concat([met, hidden]).unique().sort("key", "item_id")


def _out(one: Listening) -> set[str]:
    """Return the items of the session, and those skipped or disliked in the last day."""
    return {event.item_id for event in one.session} | {event.item_id for event in one.events if turned_away(event)}


def _in_books(keys: pl.DataFrame, bundle: LiveBundle, instant: Instant) -> pl.Series:
    """Return the keys whose book goes on behind what plays: it leaves no room for the beginning of anything else."""
    seeds = bundle.lookup("item", "item_id", keys["seed_item_id"], ["item_id", "item_type", "show_id", "is_trailer"])
    books = seeds.filter(pl.col("item_type").is_in(["audiobook", "chapter"])).with_columns(key="item_id")
    if not books.height:
        return keys["key"].clear()
    shows = shows_of_seeds(books)
    _, ordered = proposed_items(books["item_id"], shows, bundle.world, bundle, instant, bundle.catalogue)
    return keys.filter(pl.col("seed_item_id").is_in(unfinished_books(books, ordered).implode()))["key"]


def _facts(
    users: pl.DataFrame, told: pl.DataFrame, heard: Sequence[Listening], audience: Audience, proposals: pl.DataFrame,
    bundle: LiveBundle, instant: Instant,
) -> Facts:  # fmt: skip
    """Return the facts of listeners: their histories go on with the last day, and a session offers nothing twice."""
    said = [(one.user_id, item) for one in heard for item in sorted({event.item_id for event in one.session})]
    session = pl.DataFrame(said, schema={"user_id": pl.String, "item_id": pl.String}, orient="row")
    asked = pl.concat([proposals.select("item_id"), session.select("item_id")])
    facts = user_facts(going_on(users, heard), asked, bundle.world, bundle, audience.policy, instant, bundle.catalogue)
    seeds = audience.keys.select(user_id="key", seed_canonical_id="canonical_id")
    rights = audience.rights.select("may_begin", "other_books", "may_video", user_id="key")
    own = told.drop("market").join(seeds, on="user_id").join(rights, on="user_id")
    known = facts.records.drop(name for name in own.columns if name != "user_id").join(
        own, on="user_id", how="left", maintain_order="left"
    )
    records = known.select(facts.records.columns)
    mine = records.select("k", "user_id").join(session, on="user_id").select("k", "item_id")
    met, skipped = _in_session(mine, proposals, facts.item_codes), _skipped(heard, facts)
    runs = _max_runs(records["user_id"], heard, audience.policy.max_run, bundle)
    return dataclasses.replace(
        facts, records=records, in_session=met, skipped=skipped, max_run=runs, catalogue=facts.item_codes
    )


def _max_runs(users: pl.Series, heard: Sequence[Listening], most: int, bundle: LiveBundle) -> np.ndarray:
    """Return how many of one artist may follow each other: any, 0, where the session is with an artist or an album.

    It says so, or its last items, one more than would be offered in a row, are of one artist.
    """
    sessions = {one.user_id: one.session for one in heard}
    last = {user: _last_items(sessions[user], most + 1) for user in users}
    ids = pl.Series([item for items in last.values() for item in items], dtype=pl.String).unique()
    known = bundle.lookup("item", "item_id", ids, ["item_id", "artists"]).select("item_id", first_artist())
    artist = dict(known.iter_rows())
    alone = [
        in_artist_context(sessions[user]) or (len(items) > most and len({artist.get(one, one) for one in items}) == 1)
        for user, items in last.items()
    ]
    return np.where(alone, 0, most)


def _last_items(events: Sequence[Heard], most: int) -> list[str]:
    """Return the last items that were not turned away, each once."""
    return list(dict.fromkeys(one.item_id for one in reversed(events) if not turned_away(one)))[:most]


def _skipped(heard: Sequence[Listening], facts: Facts) -> pl.DataFrame:
    """Return `Facts.skipped` with what was skipped in the last day, however late: such skips are no dislike in the histories."""
    k = dict(facts.records.select("user_id", "k").iter_rows())
    rows = [(k[one.user_id], event.item_id, event.event_ts) for one in heard if one.user_id in k for event in one.events
            if turned_away(event)]  # fmt: skip
    lately = pl.DataFrame(rows, schema={**PAIR, "event_ts": pl.Int64}, orient="row").cast({"event_ts": _STAMP})
    return pl.concat([facts.skipped, lately]).group_by("k", "item_id").agg(pl.col("event_ts").max())


def going_on(users: pl.DataFrame, heard: Sequence[Listening]) -> pl.DataFrame:
    """Return users whose histories go on with what they did in the last day."""
    said = {one.user_id: one.events for one in heard}
    liked, disliked = (_listens(said, users["user_id"], sign).rename({"key": "user_id"}) for sign in (1, -1))
    return users.with_columns(
        _longer(users, liked, "positives"), _longer(users, disliked, "skips"), pl.lit(True).alias("seen")
    )


def _in_session(heard: pl.DataFrame, proposals: pl.DataFrame, codes: ItemCodes) -> pl.DataFrame:
    """Return `k` and `item_id` of what was heard in the sessions, and of what is proposed of the same recordings and works."""
    place, proposed = codes.ids.find(heard["item_id"]), np.unique(codes.ids.find_runs(proposals["item_id"]))
    known, proposed = place != NO_CODE, proposed[proposed != NO_CODE]
    k, found = heard["k"].to_numpy()[known], [heard]
    for name in ("canonical", "work"):
        number = codes.arrays.items[name]
        order = proposed[np.argsort(number[proposed], kind="stable")]
        first, after = (np.searchsorted(number[order], number[place[known]], side) for side in ("left", "right"))
        twins = order[np.repeat(first, after - first) + numbered(after - first)]
        ids = codes.items["item_id"][twins]
        found.append(pl.DataFrame([pl.Series("k", np.repeat(k, after - first)), ids]))
    return pl.concat(found).unique().sort("k", "item_id")


def _longer(users: pl.DataFrame, listens: pl.DataFrame, column: str) -> pl.Series:
    """Return a column of histories that goes on with listens, each of them once."""
    if not listens.height:
        return users[column].fill_null([])
    fields = ["item_id", "item_type", "event_ts", "label", "session_id"]
    before = users.lazy().select("user_id", column).explode(column).drop_nulls(column).unnest(column)
    both = pl.concat([before.select("user_id", *fields), listens.lazy().select("user_id", *fields)])
    once = both.unique(["user_id", "item_id", "event_ts"], keep="first", maintain_order=True)
    ordered = once.sort("user_id", "event_ts", "item_id")
    last = ordered.filter(pl.int_range(pl.len(), 0, -1).over("user_id") <= MAX_POSITIVES)
    lists = last.group_by("user_id", maintain_order=True).agg(pl.struct(fields).alias(column))
    mine = users.lazy().select("user_id").join(lists, on="user_id", how="left", maintain_order="left")
    return mine.select(pl.col(column).fill_null([])).collect(engine="in-memory").to_series()


def stamped(table: pa.Table, heard: Sequence[Listening], made_by: str = "session") -> pa.Table:
    """Return sets that say what each of them knows: its newest event, and the number of them.

    Args:
      made_by: tells the ids of sets of one window apart.
    """
    known = {one.user_id: one for one in heard}
    mine = [known[str(user)] for user in table["record_key"].to_pylist()]
    sequence = np.array([one.window.sequence for one in mine], np.int64)
    last = pa.array([one.last_event_ts for one in mine], pa.timestamp("us", "UTC"))
    keys = mix64(hash64(table["record_key"]), sequence.astype(np.uint64))
    halves = [mix64(keys, np.full(len(mine), hash64_one(f"{made_by}|{n}"), np.uint64)) for n in (1, 2)]
    ids = [f"{a:016x}{b:016x}" for a, b in zip(*(half.tolist() for half in halves), strict=True)]
    reasons = [
        [*why, QUARANTINED] if one.window.overrun else why
        for one, why in zip(mine, table["degraded_reasons"].to_pylist(), strict=True)
    ]
    columns = {
        "candidate_set_id": pa.array(ids, pa.string()),
        "sequence": pa.array(sequence),
        "source_watermark": last,
        "generated_at": last,
        "degraded_reasons": pa.array(reasons, pa.list_(pa.string())),
    }
    arrays = {name: columns[name] if name in columns else table[name] for name in CANDIDATE_SET.schema.names}
    return pa.table(arrays).cast(CANDIDATE_SET.schema)
