"""A seeded synthetic world: catalogue, people, what they did, and the truth about all of it."""

import collections
import dataclasses
from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.inputs import CAMPAIGN, EVENT, EVENT_TYPES, ITEM, TOMBSTONE, USER
from transforms.world_catalogue import Catalogue, catalogue
from transforms.world_dirt import soil
from transforms.world_events import (
    CHOICES,
    CHUNK_EVENTS,
    SESSION_SPAN_US,
    Sessions,
    Slots,
    event_frame,
    fill_sessions,
    plan_sessions,
)
from transforms.world_names import CLUSTERS
from transforms.world_people import People, campaigns, id_lists, people, tombstones
from transforms.world_setting import HOUR_US, Setting

FOLDERS = {EVENT.name: "events", ITEM.name: "items", USER.name: "users", CAMPAIGN.name: "campaigns",
           TOMBSTONE.name: "tombstones"}  # fmt: skip
"""Folder of each dataset in a raw folder."""


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """A world before anybody has pressed play."""

    setting: Setting
    items: Catalogue
    people: People
    sessions: Sessions


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Events in order of arrival, and what the chunk they come from adds to the truth.

    Attributes:
      events: raw event rows; nothing in a later batch arrived before them.
      counts: by name; adds up over batches.
      by_date: events with a right clock, each counted once, by the UTC date of `event_ts`.
    """

    events: pl.DataFrame
    counts: collections.Counter
    by_date: collections.Counter


def build_world(setting: Setting) -> World:
    """Invent everything but the events."""
    items = catalogue(setting)
    who = people(setting, items)
    return World(setting, items, who, plan_sessions(setting, who))


def snapshots(world: World) -> dict[str, pa.Table]:
    """Return the raw snapshots of the world by the name of their contract."""
    return {
        ITEM.name: world.items.table,
        USER.name: world.people.table,
        CAMPAIGN.name: campaigns(world.setting, world.items),
        TOMBSTONE.name: tombstones(world.setting, world.items, world.people),
    }


def event_batches(world: World, size: int = CHUNK_EVENTS) -> Iterator[Batch]:
    """Yield what happened, in batches of about `size` events in order of arrival; late events come in later batches.

    Memory: about 1 KB per event of a batch, and the late ones on their way.
    """
    chunks = list(world.sessions.chunks(size))
    horizons = [int(chunk.start[0]) - SESSION_SPAN_US for chunk in chunks[1:]] + [None]
    waiting = None
    for number, (chunk, horizon) in enumerate(zip(chunks, horizons)):
        clean, dirty, counts = _happen(world, chunk, number)
        arrived = dirty if waiting is None else pl.concat([waiting, dirty])
        arrived = arrived.sort(["ingest_ts", "event_id"], maintain_order=True)
        split = arrived.height if horizon is None else _arrived_before(arrived, horizon)
        waiting = arrived[split:]
        dates = clean["event_ts"].dt.date().value_counts().sort("event_ts").rows()
        yield Batch(arrived[:split], counts, collections.Counter({str(day): n for day, n in dates}))


def _happen(world: World, chunk: Sessions, number: int) -> tuple[pl.DataFrame, pl.DataFrame, collections.Counter]:
    """Return the events of a chunk that have a right clock, the same as they are delivered, and their counts."""
    rng = world.setting.rng("events", number)
    slots = fill_sessions(chunk, world.items, world.people, rng)
    events = event_frame(world.setting, chunk, slots, world.items, world.people, rng)
    dirty, counts = soil(events, world.setting, world.setting.rng("soil", number))
    late = (events["ingest_ts"] - events["event_ts"]).dt.total_microseconds() >= HOUR_US
    right = dirty["event_ts"][: events.height] == events["event_ts"]
    counts |= {"events": events.height, "late": int(late.sum()), **_slot_counts(slots)}
    return events.filter(right), dirty, collections.Counter(counts)


def _arrived_before(arrived: pl.DataFrame, instant_us: int) -> int:
    return int(arrived["ingest_ts"].to_physical().search_sorted(instant_us))


def _slot_counts(slots: Slots) -> dict[str, int]:
    """Count events by type, and plays and skips by how they were chosen."""
    types = np.bincount(slots.type, minlength=len(EVENT_TYPES)).tolist()
    choices = np.bincount(slots.choice[slots.ms_played >= 0], minlength=len(CHOICES)).tolist()
    return {f"type:{name}": n for name, n in zip(EVENT_TYPES, types)} | {
        f"choice:{name}": n for name, n in zip(CHOICES, choices)
    }


def item_truth(world: World) -> pl.DataFrame:
    """Return the taste each item belongs to and what tends to follow it (null where nothing does)."""
    items, ids = world.items, world.items.ids
    following = pl.concat([ids, pl.Series([None], dtype=pl.String)])
    return pl.DataFrame(
        {
            "item_id": ids,
            "cluster": pl.Series(items.cluster.astype(np.int32)),
            "genre": [CLUSTERS[c].genre for c in items.cluster.tolist()],
            "successor_id": following.gather(np.where(items.successor < 0, len(ids), items.successor)),
            "playable_from": _instants(items.playable_from),
            "playable_until": _instants(items.playable_until),
        }
    )


def user_truth(world: World) -> pl.DataFrame:
    """Return the tastes, favourites and followed talk of each user, also of those the accounts do not know."""
    who, ids = world.people, pl.concat([world.items.ids, pl.Series([None], dtype=pl.String)])
    talk = np.where(who.shows < 0, len(ids) - 1, who.shows)
    return pl.DataFrame(
        {
            "user_id": who.ids,
            "clusters": pl.Series(who.clusters.astype(np.int32)).arr.to_list(),
            "favourites": pl.Series("", id_lists(world.items, who.favourites)),
            "show_1": ids.gather(talk[:, 0]),
            "show_2": ids.gather(talk[:, 1]),
            "book": ids.gather(np.where(who.book < 0, len(ids) - 1, who.book)),
        }
    )


def _instants(us: np.ndarray) -> pl.Series:
    """Return timestamps; null where an item may be played for ever."""
    far = np.int64(2**61)
    return pl.Series(np.where(us > far, 0, us)).cast(pl.Datetime("us", "UTC")).set(pl.Series(us > far), None)
