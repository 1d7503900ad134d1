"""Published records and the catalogue they name, found without reading more than they need."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from pipelines.batch import dates_with, record_path
from pipelines.overlay import live_overlays
from pipelines.publish import read_pointer
from pipelines.reblend import DEFAULT_KEY, shard_number
from pipelines.recommend import HOME, own_and_groups
from pipelines.road import paths
from pipelines.runner import load_manifest
from schemas.candidates import PLACES_OF_CHART, PLACES_OF_SET
from schemas.manifest import Manifest
from schemas.tallies import ANY
from transforms.io.store import Store


class ExplainError(ValueError):
    """There is nothing to explain; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
      key: user on Home, seed item on Now Playing.
      market, tier: of the default set, for a user nobody has seen; on Now Playing, the market of the seed's set.
      date: logical date; None asks about what is live.
    """

    surface: str
    key: str
    item_id: str | None = None
    market: str | None = None
    tier: str | None = None
    date: str | None = None


def published(store: Store, question: Question) -> tuple[Manifest, bool]:
    """Return the manifest of the sets asked about, and whether it is live.

    Raises:
      ExplainError: there are none.
    """
    pointer = read_pointer(store, question.surface)
    if question.date is None:
        if pointer is None:
            raise ExplainError(
                f"nothing is published on {question.surface} under {store.root} yet: run `make batch RAW=... DATE=...`"
                " (or `make demo`) first, or name another ROOT="
            )
        return load_manifest(store, pointer.manifest), True
    try:
        record = json.loads(store.read_bytes(record_path(question.date)))
        path = record["manifests"][f"candidate_set/{question.surface}"]
    except (FileNotFoundError, KeyError):
        days = dates_with(store, "record.json")
        raise ExplainError(
            f"{question.surface} has no run of {question.date} under {store.root}; dates that ran:"
            f" {', '.join(days) or 'none'}. Run `make batch` for it, or leave the date out to ask about what is live."
        ) from None
    return load_manifest(store, path), pointer is not None and pointer.manifest == path


def overlaid(store: Store, live: Manifest, question: Question) -> tuple[Manifest, dict] | None:
    """Return the newest overlay of live sets that holds the listener's, and its record."""
    for path in reversed(live_overlays(store, live.path)):
        sets = load_manifest(store, path)
        own = paths(sets.files, shard_number(question.key, sets.num_shards))
        rows = _records(store, own, pl.col("record_key") == question.key)
        if rows:
            return sets, rows[0]
    return None


def find_record(store: Store, sets: Manifest, question: Question) -> tuple[dict, str | None]:
    """Return the published record that serves a key, with a note where it is not the key's own.

    Raises:
      ExplainError: the data of the sets was retired.
    """
    number = shard_number(question.key, sets.num_shards)
    own = paths(own_and_groups(sets)[0], number)
    rows = _records(store, own, pl.col("record_key") == question.key)
    markets = [row["market"] for row in rows]
    if question.surface == HOME and rows:
        return rows[0], None
    wanted = question.market or next((market for market in markets if market != ANY), ANY)
    served = next((market for market in (wanted, ANY) if market in markets), None)
    if served:
        others = ", ".join(market for market in markets if market != served)
        told = [_beside_chart(_default(store, sets, question), question)] if served == ANY else []
        told += [f"sets of other markets: {others}"] if others else []
        return rows[markets.index(served)], "; ".join(told) or None
    what = "user" if question.surface == HOME else "seed item"
    found = f" in {question.market} (it has sets in {', '.join(markets)})" if rows else ""
    record = _default(store, sets, question)
    return record, (
        f"{what} {question.key!r} has no set of its own{found}: nobody has seen it, or it was deleted."
        f" The default set of market {record['market']} and tier {record['tier']} serves it."
    )


def _beside_chart(chart: Mapping, question: Question) -> str:
    """Say that a seed's set for where it was not played is not all that is served, and whether the rest has the item asked about."""
    there = (one["position"] for one in chart["candidates"][:PLACES_OF_CHART] if one["item_id"] == question.item_id)
    place = next(there, None)
    where = f"it was not played in {question.market}: " if question.market else ""
    told = f", where {question.item_id} has position {place}" if place is not None else ""
    return (
        f"{where}the first {PLACES_OF_SET} of its set for everywhere else serve it, then the first {PLACES_OF_CHART} of the"
        f" chart of {chart['market']}{told}"
    )


def _default(store: Store, sets: Manifest, question: Question) -> dict:
    market, tier = question.market or "*", (question.tier or "*") if question.surface == HOME else "*"
    _, groups = own_and_groups(sets)
    rows = _records(store, groups, pl.col("record_key") == DEFAULT_KEY)
    for wanted in ((market, tier), (market, "*"), ("*", "*")):
        for row in rows:
            if (row["market"], row["tier"]) == wanted:
                return row
    raise ExplainError(
        f"{sets.path} holds no default set for market {market}; it was not published by this code: run the date again"
    )


def _records(store: Store, names: Sequence[str], where: pl.Expr) -> list[dict]:
    """Read the records that satisfy `where`; statistics of the row groups skip the others."""
    if not names:
        return []
    gone = [name for name in names if not store.exists(name)]
    if gone:
        raise ExplainError(f"{gone[0]} was retired: only the last few published sets are kept. Ask about a later date.")
    lazy = pl.scan_parquet([store.local(name) for name in names], hive_partitioning=False)
    return lazy.filter(where).collect(engine="in-memory").sort("record_key", "context_key").to_dicts()


@dataclasses.dataclass
class Catalogue:
    """Titles and artists of items, looked up when they are needed."""

    store: Store
    manifest: Manifest

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet([self.store.local(file.path) for file in self.manifest.files], hive_partitioning=False)

    def named(self, ids: Iterable[str | None]) -> dict[str, dict]:
        """Return `item_id`, `title`, `artist`, `item_type` by id; an unknown item has no title."""
        wanted = sorted({one for one in ids if one})
        artist = pl.col("artists").list.first().struct.field("name").alias("artist")
        found = (
            self._scan()
            .filter(pl.col("item_id").is_in(wanted))
            .select("item_id", "title", artist, "item_type")
            .collect(engine="in-memory")
        )
        nothing = {"title": None, "artist": None, "item_type": None}
        known = {row["item_id"]: row for row in found.iter_rows(named=True)}
        return {one: known.get(one, {"item_id": one, **nothing}) for one in wanted}

    def require(self, item_id: str, record: Mapping) -> None:
        """Refuse an item nobody knows, naming those whose id or title looks like it.

        Raises:
          ExplainError: it is neither in the catalogue nor in the record.
        """
        if self.named([item_id])[item_id]["item_type"] or any(c["item_id"] == item_id for c in record["candidates"]):
            return
        text = item_id.lower()
        like = pl.col("item_id").str.to_lowercase().str.contains(text, literal=True) | pl.col(
            "title"
        ).str.to_lowercase().str.contains(text, literal=True)
        close = self._scan().filter(like).select("item_id", "title").head(5).collect(engine="in-memory").sort("item_id")
        hint = ", ".join(f"{row['item_id']} ({row['title']})" for row in close.iter_rows(named=True))
        raise ExplainError(
            f"no item {item_id!r} among the {self.manifest.rows_out:,} of the catalogue this run read. "
            + (f"Did you mean {hint}?" if hint else "ITEM= takes an item_id, or a part of a title to search by.")
        )
