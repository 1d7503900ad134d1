"""A dozen candidate sets a person can judge by name: sets, listens and titles of shown items only.

Memory: one batch of `BATCH_SETS` sets without their scores, and the rows of a few hundred items.
"""

import collections
import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.report_sets import Pick
from schemas.hashing import shard_of
from schemas.manifest import Manifest
from schemas.tallies import ANY
from transforms.io.store import Store

BATCH_SETS = 256
SHOWN_CANDIDATES = 20
SHOWN_LISTENS = 12
SHOWN_OF_AN_ID = 6
_INNER = ("item_id", "item_type", "position", "familiarity", "is_fresh", "is_exploration", "reason_code",
          "sources.list.element.source_id", "sources.list.element.seed_item_ids")  # fmt: skip
_COLUMNS = ["record_key", "user_id", "market", "tier", "fallback_level", "degraded_reasons", "counts",
            *(f"candidates.list.element.{name}" for name in _INNER)]  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """An item as people know it. `artist` is the first, else show, book or author; empty where it says no more."""

    item_id: str
    title: str
    artist: str
    item_type: str


@dataclasses.dataclass(frozen=True, slots=True)
class Listen:
    """A liked item of the last listens: how often among them, and days from the last to the end of the logical date."""

    item: Named
    times: int
    days_ago: float


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate as shown; `seed` is the item that led to it, None where there is none."""

    position: int
    item: Named
    sources: tuple[str, ...]
    reason_code: str
    seed: Named | None
    familiarity: str
    is_fresh: bool
    is_exploration: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One set as shown.

    Attributes:
      who: first characters of the user id, never all of them; empty on a set for an item and where nobody was seen.
      seed: the item that plays; None on Home and for an item nobody has seen.
      size: candidates of the whole set. considered: proposals it was chosen from.
    """

    why: str
    who: str
    seed: Named | None
    market: str
    tier: str
    fallback_level: int
    degraded_reasons: tuple[str, ...]
    size: int
    considered: int
    listens: tuple[Listen, ...]
    candidates: tuple[Candidate, ...]


def examples(
    store: Store,
    picks: Sequence[Pick],
    items: Manifest,
    histories: Manifest | None,
    end: datetime.datetime,
) -> tuple[Example, ...]:
    """Read the picked sets and name what is in them.

    Args:
      histories: of the users the sets are for; None where they are for items.
      end: end of the logical date.
    """
    records = read_picks(store, picks)
    users = [record["record_key"] for record in records if record["user_id"] not in (None, ANY)]
    heard = read_listens(store, histories, users) if histories else {}
    wanted = {record["record_key"] for record in records if record["user_id"] is None}
    for record in records:
        for shown in record["candidates"]:
            wanted |= {shown["item_id"], *_seeds(shown)[:1]}
    wanted |= {listen["item_id"] for listens in heard.values() for listen in listens}
    names = name_items(store, items, wanted - {ANY})
    return tuple(
        _example(pick, record, heard.get(record["record_key"], []), names, end)
        for pick, record in zip(picks, records, strict=True)
    )


def read_picks(store: Store, picks: Sequence[Pick]) -> list[dict[str, Any]]:
    """Return the picked records, `candidates` cut to what is shown and `size` added, in the order of the picks."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for path in sorted({pick.path for pick in picks}):
        rows = sorted(pick.row for pick in picks if pick.path == path)
        first = 0
        for batch in pq.ParquetFile(store.local(path)).iter_batches(batch_size=BATCH_SETS, columns=_COLUMNS):
            here = [row for row in rows if first <= row < first + batch.num_rows]
            found |= {(path, row): _cut(batch.slice(row - first, 1)) for row in here}
            first += batch.num_rows
            if first > rows[-1]:
                break
    return [found[pick.path, pick.row] for pick in picks]


def _cut(row: pa.RecordBatch) -> dict[str, Any]:
    frame = pl.from_arrow(row)
    assert isinstance(frame, pl.DataFrame)
    candidates = pl.col("candidates")
    cut = frame.with_columns(candidates.list.len().alias("size"), candidates.list.head(SHOWN_CANDIDATES))
    return cut.row(0, named=True)


def read_listens(store: Store, histories: Manifest, users: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the last positives of a few users, the latest first."""
    rows = _rows_of(store, histories, "user_id", users, ["positives"])
    return {user: list(reversed(row["positives"])) for user, row in rows.items()}


def name_items(store: Store, items: Manifest, ids: Iterable[str]) -> dict[str, Named]:
    """Return names of a few items; an item the catalogue does not know is absent."""
    columns = ["item_type", "title", "artists", "author", "show_id"]
    rows = _rows_of(store, items, "item_id", ids, columns)
    shows = {row["show_id"] for row in rows.values() if row["show_id"]} - set(rows)
    shows_too = rows | _rows_of(store, items, "item_id", shows, columns)
    return {item_id: _named(row, shows_too) for item_id, row in rows.items()}


def _named(row: Mapping[str, Any], shows: Mapping[str, Mapping[str, Any]]) -> Named:
    artists = [artist["name"] for artist in row["artists"] or [] if artist["name"]]
    show = shows.get(row["show_id"] or "", {}).get("title")
    artist = artists[0] if artists else show or row["author"] or ""
    title = row["title"] or row["item_id"]
    return Named(row["item_id"], title, "" if artist == title else artist, row["item_type"])


def _rows_of(
    store: Store, manifest: Manifest, column: str, ids: Iterable[str], columns: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the rows of a few ids; only the files of their shards are read."""
    wanted = sorted(set(ids))
    shards = set(shard_of(pa.array(wanted, pa.string()), manifest.num_shards).tolist())
    paths = [store.local(file.path) for file in manifest.files if file.shard in shards]
    if not paths or not wanted:
        return {}
    lazy = pl.scan_parquet(paths, hive_partitioning=False).filter(pl.col(column).is_in(wanted))
    rows = lazy.select(column, *columns).collect(engine="streaming").sort(column)
    return {row[column]: row for row in rows.rows(named=True)}


def _seeds(candidate: Mapping[str, Any]) -> list[str]:
    """Return the seeds of the source that ranked it best, which is what the reason is about."""
    first = candidate["sources"][0] if candidate["sources"] else {}
    return list(first.get("seed_item_ids") or [])


def _example(
    pick: Pick,
    record: Mapping[str, Any],
    heard: Sequence[Mapping[str, Any]],
    names: Mapping[str, Named],
    end: datetime.datetime,
) -> Example:
    key, seen = record["record_key"], record["record_key"] != ANY
    personal = record["user_id"] is not None and seen
    return Example(
        why=pick.why,
        who=f"{key[: max(min(SHOWN_OF_AN_ID, len(key) - SHOWN_OF_AN_ID // 2), 0)]}…" if personal else "",
        seed=_known(key, names) if seen and not personal else None,
        market=record["market"],
        tier=record["tier"],
        fallback_level=record["fallback_level"],
        degraded_reasons=tuple(record["degraded_reasons"]),
        size=record["size"],
        considered=record["counts"]["in"],
        listens=_listens(heard, names, end),
        candidates=tuple(_candidate(shown, key, names) for shown in record["candidates"]),
    )


def _listens(
    heard: Sequence[Mapping[str, Any]], names: Mapping[str, Named], end: datetime.datetime
) -> tuple[Listen, ...]:
    times = collections.Counter(listen["item_id"] for listen in heard)
    last = {listen["item_id"]: listen["event_ts"] for listen in reversed(heard)}
    return tuple(
        Listen(_known(item_id, names), times[item_id], (end - last[item_id]).total_seconds() / 86_400)
        for item_id in list(dict.fromkeys(listen["item_id"] for listen in heard))[:SHOWN_LISTENS]
    )


def _candidate(shown: Mapping[str, Any], key: str, names: Mapping[str, Named]) -> Candidate:
    seeds = [seed for seed in _seeds(shown)[:1] if seed not in (key, shown["item_id"])]
    return Candidate(
        position=shown["position"],
        item=_known(shown["item_id"], names),
        sources=tuple(dict.fromkeys(source["source_id"] for source in shown["sources"])),
        reason_code=shown["reason_code"],
        seed=_known(seeds[0], names) if seeds else None,
        familiarity=shown["familiarity"],
        is_fresh=shown["is_fresh"],
        is_exploration=shown["is_exploration"],
    )


def _known(item_id: str, names: Mapping[str, Named]) -> Named:
    return names.get(item_id) or Named(item_id, item_id, "", "")
