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
from schemas.policy import SurfacePolicy
from transforms.candidate_sets import Provenance
from transforms.codes import ItemCodes
from transforms.facts import group_of, proposed_items, user_facts
from transforms.filters import PAIR, Facts, Instant, Pool
from transforms.histories import MAX_POSITIVES
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
HOUR_US = 3_600_000_000
STANDS_HOURS = 2
"""Counted from the full hour: an hour at least after the newest event, by when a session is over; what is taken down later
is shown no longer than that, and whoever comes back begins with the sets of the batch."""
_STAMP = pl.Datetime("us", "UTC")
SEED_COLUMNS = ("item_id", "item_type", "canonical_id", "artists", "show_id", "genres", "is_trailer")
_TOLD: dict[str, Any] = {"user_id": pl.String, "market": pl.String, "seed_item_id": pl.String, "last_event_ts": _STAMP}
_LISTEN: dict[str, Any] = {
    "key": pl.String, "item_id": pl.String, "item_type": pl.String, "event_ts": _STAMP, "label": pl.Float32,
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
    def hour(self) -> int:
        """Full hours of the newest event since 1970, which listeners must share to be served together."""
        return self.last_event_ts // HOUR_US


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
        blocks: dict[int, list[Listening]] = {}
        for one in heard:
            blocks.setdefault(one.hour, []).append(one)
        tables = [self._block(hour, own) for hour, own in sorted(blocks.items())]
        if len(tables) == 1:  # in order already
            return tables[0]
        return pa.concat_tables([CANDIDATE_SET.schema.empty_table(), *tables]).sort_by("record_key")

    def _block(self, hour: int, heard: Sequence[Listening]) -> pa.Table:
        policy, instant = self.policy, _instant(hour, self.policy)
        told = pl.DataFrame([one.told for one in heard], schema=_TOLD, orient="row")
        known = self.bundle.listeners(told.select("user_id", "market"))
        users = known.filter(~pl.col("personalization_opt_out")) if known["personalization_opt_out"].any() else known
        if not users.height:
            return CANDIDATE_SET.schema.empty_table()
        audience = self._audience(users, told, heard, instant)
        offered, pool, left_out = self._proposals(audience, users)
        facts = dataclasses.replace(_facts(users, heard, audience, offered, self.bundle, instant), pool=pool)
        provenance = dataclasses.replace(self.provenance, left_out=left_out)
        every = dict(self.sources) | dict(self.group_sources)
        _, table = made(offered, facts, policy, instant, every, provenance)
        return stamped(table, heard)

    def _audience(
        self, users: pl.DataFrame, told: pl.DataFrame, heard: Sequence[Listening], instant: Instant
    ) -> Audience:
        known = self.bundle.lookup("item", "item_id", told["seed_item_id"].unique(), SEED_COLUMNS)
        seeds = known.select(
            "canonical_id",
            primary_artist().alias("artist_id"),
            seed_item_id="item_id",
            genre=pl.col("genres").list.first(),
        )
        mine = users.select("market", "tier", "follows", key="user_id").join(
            told.select("seed_item_id", key="user_id"), on="key", how="left", maintain_order="left"
        )
        keys = mine.join(seeds, on="seed_item_id", how="left", maintain_order="left")
        said = {one.user_id: one.session for one in heard}
        listens, skips = (_listens(said, keys["key"], sign) for sign in (1, -1))
        liked = listens.hstack([pl.Series("artist_id", [None], pl.String).new_from_index(0, listens.height)])
        shows = {one.user_id: shows_video(one.session) for one in heard}
        rights = user_rights(users).with_columns(pl.Series("may_video", [shows[user] for user in users["user_id"]]))
        in_books = _in_books(keys, known, self.bundle, instant)
        if len(in_books):
            free = ~pl.col("key").is_in(in_books.implode())
            rights = rights.with_columns(may_begin=free, other_books=free)
        own = users.select("positives", key="user_id")
        unwanted = _unwanted(users, heard)
        return Audience(keys, liked, skips, instant.effective_from, self.policy, rights, unwanted, histories=own)

    def _proposals(self, audience: Audience, users: pl.DataFrame) -> tuple[pl.DataFrame, Pool | None, tuple[str, ...]]:
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
) -> tuple[pl.DataFrame, Pool | None, tuple[str, ...]]:
    """Return what is proposed to listeners and to their groups, pools that are held, and which sources did not answer."""
    panel = Panel(sources, audience.policy.live_seconds)
    own = panel.ask(audience, bundle)
    groups = users.select(group_of(pl.col("tier"), bundle.world)).to_series().unique()
    shared, pool = bundle.shared(groups, audience.policy.explore)
    reasons = tuple(sorted(f"source_{reason}:{name}" for name, (reason, _) in panel.left_out.items()))
    offered = pl.concat([read_tables([], PROPOSAL), own, shared], rechunk=True)
    return offered, pool._replace(p=pool.p + own.height) if pool else None, reasons


def _instant(hour: int, policy: SurfacePolicy) -> Instant:
    """Return the validity of sets of an hour, from its beginning."""
    start = starting_at(hour)
    end = start + datetime.timedelta(hours=min(STANDS_HOURS, policy.expires_hours))
    return Instant(start, end, f"{policy.name}|{start.isoformat()}")


def starting_at(hour: int) -> datetime.datetime:
    """Return when an hour begins, counted since 1970."""
    return datetime.datetime.fromtimestamp(hour * 3600, datetime.UTC)


def _listens(said: Mapping[str, Sequence[Heard]], keys: pl.Series, sign: int) -> pl.DataFrame:
    """Return the events whose label has a sign, of some listeners, by key and time."""
    rows = [
        (key, one.item_id, one.item_type, one.event_ts, one.label, one.session_id)
        for key in sorted(set(keys.to_list()))
        for one in said[key]
        if one.label * sign > 0
    ]
    return pl.DataFrame(rows, schema=_LISTEN, orient="row")


def _unwanted(users: pl.DataFrame, heard: Iterable[Listening]) -> pl.DataFrame:
    """Return `key` and `item_id` of what no source need look for; the hard filters know the rest."""
    hidden = dict(users.select("user_id", "hidden_items").iter_rows())
    rows = [
        (one.user_id, item)
        for one in heard
        if one.user_id in hidden
        for item in sorted(_out(one) | set(hidden[one.user_id] or ()))
    ]
    return pl.DataFrame(rows, schema={"key": pl.String, "item_id": pl.String}, orient="row")


def _out(one: Listening) -> set[str]:
    """Return the items of the session, and those skipped or disliked in the last day."""
    return {event.item_id for event in one.session} | {event.item_id for event in one.events if turned_away(event)}


def _in_books(keys: pl.DataFrame, seeds: pl.DataFrame, bundle: LiveBundle, instant: Instant) -> pl.Series:
    """Return the keys whose book goes on behind what plays: it leaves no room for the beginning of anything else."""
    of_books = (seeds["item_type"] == "audiobook") | (seeds["item_type"] == "chapter")
    if not of_books.any():
        return keys["key"].clear()
    books = seeds.filter(of_books).with_columns(key="item_id")
    shows = shows_of_seeds(books)
    _, ordered = proposed_items(books["item_id"], shows, bundle.world, bundle, instant, bundle.catalogue)
    return keys.filter(pl.col("seed_item_id").is_in(unfinished_books(books, ordered).implode()))["key"]


def _facts(
    users: pl.DataFrame,
    heard: Sequence[Listening],
    audience: Audience,
    proposals: pl.DataFrame,
    bundle: LiveBundle,
    instant: Instant,
) -> Facts:
    """Return the facts of listeners: their histories go on with the last day, and a session offers nothing twice."""
    sessions = {one.user_id: one.session for one in heard}
    met = [(k, item) for k, user in enumerate(users["user_id"]) for item in sorted({e.item_id for e in sessions[user]})]
    session_items = pl.DataFrame(met, schema=PAIR, orient="row")
    asked = pl.concat([proposals.select("item_id"), session_items.select("item_id")])
    facts = user_facts(going_on(users, heard), asked, bundle.world, bundle, audience.policy, instant, bundle.catalogue)
    last = {one.user_id: one.last_event_ts for one in heard}
    records = facts.records.with_columns(  # in order of the listeners, as the audience is
        *(audience.rights[name] for name in ("may_begin", "other_books", "may_video")),
        pl.Series("last_event_ts", [last[user] for user in users["user_id"]], _STAMP),
        seed_item_id=audience.keys["seed_item_id"], seed_canonical_id=audience.keys["canonical_id"],
    )  # fmt: skip
    return dataclasses.replace(
        facts,
        records=records,
        in_session=_in_session(session_items, proposals, facts.item_codes),
        skipped=_skipped(heard, facts),
        max_run=_max_runs([sessions[user] for user in users["user_id"]], audience.policy.max_run, bundle),
        at_a_loss=np.array([at_a_loss(sessions[user]) for user in users["user_id"]]),
        catalogue=facts.item_codes,
    )


def _max_runs(sessions: Sequence[tuple[Heard, ...]], most: int, bundle: LiveBundle) -> np.ndarray:
    """Return how many of one artist may follow each other: any, 0, where the session is with an artist or an album.

    It says so, or its last items, one more than would be offered in a row, are of one artist.
    """
    last = [_last_items(one, most + 1) for one in sessions]
    ids = pl.Series([item for items in last for item in items], dtype=pl.String).unique()
    known = bundle.lookup("item", "item_id", ids, ["item_id", "artists"]).select("item_id", first_artist())
    artist = dict(known.iter_rows())
    alone = [
        in_artist_context(one) or (len(items) > most and len({artist.get(item, item) for item in items}) == 1)
        for one, items in zip(sessions, last, strict=True)
    ]
    return np.where(alone, 0, most)


def _last_items(events: Sequence[Heard], most: int) -> list[str]:
    """Return the last items that were not turned away, each once."""
    return list(dict.fromkeys(one.item_id for one in reversed(events) if not turned_away(one)))[:most]


def _skipped(heard: Sequence[Listening], facts: Facts) -> pl.DataFrame:
    """Return `Facts.skipped` with what was skipped in the last day, however late: such skips are no dislike in the histories."""
    k = dict(zip(facts.records["user_id"], facts.records["k"], strict=True))
    rows = [(k[one.user_id], event.item_id, event.event_ts) for one in heard if one.user_id in k for event in one.events
            if turned_away(event)]  # fmt: skip
    if not rows:
        return facts.skipped
    lately = pl.DataFrame(rows, schema={**PAIR, "event_ts": _STAMP}, orient="row")
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
    arrays = [columns[name] if name in columns else table[name] for name in CANDIDATE_SET.schema.names]
    return pa.table(arrays, schema=CANDIDATE_SET.schema)
