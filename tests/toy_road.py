"""Hand-made rows of every dataset, a bundle in memory, and facts for blending: small worlds whose answer is known."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from schemas.candidates import PROPOSAL
from schemas.catalogue import CONTRACTS
from schemas.policy import Quota, SurfacePolicy
from transforms.candidate_sets import Provenance, Rests
from transforms.filters import ITEM_COLUMNS, Facts, Instant
from transforms.io.store import open_store
from transforms.io.tables import conform, write_parquet
from transforms.reach import ADULT
from transforms.shards import Shard, Task
from transforms.sources import Audience

DATE = datetime.date(2026, 1, 31)
NOW = datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)
END = NOW + datetime.timedelta(hours=36)
FIELDS = {
    "run_id": "run", "run_mode": "batch", "logical_date": DATE, "sequence": 1, "source_watermark": NOW,
    "base_run_id": None,
    "bundle_id": "b", "catalog_snapshot_id": "c", "user_snapshot_id": "u", "campaign_snapshot_id": "p",
    "policy_version": "v", "code_version": "1", "experiment_arms": [], "gate_report_id": "g",
}  # fmt: skip
PROVENANCE = Provenance(FIELDS, {"toy": Rests("model", "7")})
_STAMP = pl.Datetime("us", "UTC")


def days_ago(days: float) -> datetime.datetime:
    return NOW - datetime.timedelta(days=days)


def table(name: str, rows: Sequence[Mapping]) -> pl.DataFrame:
    """Return rows of a contract; what a row leaves out is null."""
    schema = pl.from_arrow(CONTRACTS[name].schema.empty_table()).schema
    return pl.DataFrame([{column: row.get(column) for column in schema} for row in rows], schema=schema)


def item(item_id: str, artist: str | None = None, **columns) -> dict:
    """Return a track of an artist of its own that may be played everywhere."""
    artists = [{"artist_id": artist or f"artist-{item_id}", "name": None, "role": None}]
    return {
        "item_id": item_id, "canonical_id": item_id, "item_type": "track", "artists": artists, "explicit": False,
        "rec_eligible": True, "text_hash": "0",
    } | columns  # fmt: skip


def offer_in(market: str, tiers=None, since=None, until=None) -> dict:
    return {"market": market, "tiers": tiers, "from_ts": since, "to_ts": until}


def user(user_id: str, **columns) -> dict:
    return {"user_id": user_id, "market": "SE", "tier": "free"} | columns


def listen(item_id: str, days: float = 60.0, label: float = 0.5, item_type: str = "track", session="s") -> dict:
    return {
        "item_id": item_id, "item_type": item_type, "event_ts": days_ago(days), "label": label, "session_id": session,
    }  # fmt: skip


def history(user_id: str, positives=(), skips=(), market="SE") -> dict:
    listens = [*positives, *skips]
    times = [one["event_ts"] for one in listens]
    return {
        "user_id": user_id, "market": market, "positives": sorted(positives, key=lambda one: one["event_ts"]),
        "skips": list(skips), "impressions": [], "habits": [], "num_events": len(listens), "num_positives": len(positives),
        "first_event_ts": min(times), "last_event_ts": max(times),
    }  # fmt: skip


def shard(folder: Path, tables: Mapping[str, pl.DataFrame]) -> Shard:
    """Write tables, one file each, and return what a task that reads them all sees; `groups` are proposals."""
    store = open_store(str(folder))
    for name, rows in tables.items():
        contract = PROPOSAL if name == "groups" else CONTRACTS[name]
        store.put(write_parquet(conform(rows, contract)), f"{name}.parquet")
    return Shard(Task("toy", 0, {name: (f"{name}.parquet",) for name in tables}), store)


def audience(keys: Sequence[Mapping], listens: Sequence[Mapping] = (), skips: Sequence[Mapping] = ()) -> Audience:
    """Return an audience; a listen is that of a history with `key` and `artist_id`."""
    described = {"key": pl.String, "market": pl.String, "tier": pl.String, "follows": pl.List(pl.String),
                 "canonical_id": pl.String, "artist_id": pl.String, "genre": pl.String}  # fmt: skip
    listened = {"key": pl.String, "item_id": pl.String, "item_type": pl.String, "event_ts": _STAMP,
                "label": pl.Float32, "session_id": pl.String, "artist_id": pl.String}  # fmt: skip

    def frame(rows, schema):
        return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)

    told = frame(keys, described)
    anything = told.select(
        "key", pl.lit("SE").alias("market"), pl.lit("free").alias("tier"), pl.lit(True).alias("explicit_allowed"),
        pl.lit(ADULT).alias("max_age"), pl.lit(None, pl.List(pl.String)).alias("languages"),
        pl.lit(True).alias("may_begin"), pl.lit(True).alias("other_books"),
    )  # fmt: skip
    heard = frame(listens, listened)
    return Audience(
        told,
        heard,
        frame(skips, listened).drop("artist_id"),
        NOW,
        policy(quota("any")),
        anything,
        heard.select("key", "item_id").clear(),
    )


def proposals(
    offered: Mapping[str, Sequence[str]], key: str = "u1", group: Mapping[str, Sequence[str]] | None = None
) -> pl.DataFrame:
    """Return the proposals of one key, items per source in order of rank, and of the group `*|SE|free`."""
    rows = [
        {"key": owner, "item_id": one, "source_id": source, "source_rank": rank, "raw_score": 1.0 / (1 + rank),
         "score_kind": "toy", "signal_type": "toy", "seed_item_ids": []}
        for owner, offers in ((key, offered), ("*|SE|free", group or {}))
        for source, items in offers.items()
        for rank, one in enumerate(items)
    ]  # fmt: skip
    return table("proposal", rows)


def policy(*quotas: Quota, **figures) -> SurfacePolicy:
    """Return a policy without caps that bind; the last quota is the fallback's, but for what `explore` names."""
    names = tuple(quota.source_id for quota in quotas if quota.source_id != figures.get("explore"))
    free = {
        "name": "home", "size": 100, "minimum_size": 0, "fill_to": 100, "fallback": names[-1], "explore": "", "flow": names,
        "sources": quotas, "expires_hours": 36, "fresh_days": 30, "recent_skip_days": 7, "recent_play_days": 30,
        "artist_early": 1000, "artist_early_slots": 50, "artist": 1000, "album": 1000, "show": 1000,
        "publisher": 1000, "max_run": 0, "source_seconds": 3600.0, "page": 0, "content_gap": 0.1, "talk_floor": 0.05,
        "fatigue_days": 7, "fatigue_impressions": 0, "overplayed": 0,
    }  # fmt: skip
    return SurfacePolicy(**(free | figures))


def quota(source_id: str, minimum=0, target=0, maximum=100, personal=True, discovery=False, newcomers=False) -> Quota:
    return Quota(source_id, minimum, target, maximum, personal, discovery, newcomers=newcomers)


def record(key: str = "u1", needs: str = "SE|free", **columns) -> dict:
    """Return the facts of one record, in the market and for the tier of `needs`."""
    market, tier = needs.split("|")
    return {
        "record_key": key, "user_id": key, "context_key": "", "market": market, "tier": tier, "needs": needs,
        "explicit_allowed": True, "max_age": 21, "languages": None, "opted_out": False, "seen": True,
        "seed_item_id": None, "seed_canonical_id": None, "last_event_ts": None,
        "group": f"*|{needs}", "artists_known": None, "may_begin": True, "other_books": True, "may_video": True,
        "holdout": False, "newcomer": False,
    } | columns  # fmt: skip


_RECORD = {
    "record_key": pl.String, "user_id": pl.String, "context_key": pl.String, "market": pl.String, "tier": pl.String,
    "needs": pl.String, "explicit_allowed": pl.Boolean, "max_age": pl.Int32, "languages": pl.List(pl.String),
    "opted_out": pl.Boolean, "seen": pl.Boolean, "seed_item_id": pl.String, "seed_canonical_id": pl.String,
    "last_event_ts": _STAMP,
    "group": pl.String, "artists_known": pl.List(pl.String), "may_begin": pl.Boolean, "other_books": pl.Boolean,
    "may_video": pl.Boolean, "holdout": pl.Boolean, "newcomer": pl.Boolean,
}  # fmt: skip


def facts(items: Sequence[Mapping], records: Sequence[Mapping] = (), **tables) -> Facts:
    """Return facts of some records (`u1` where none are given); `needs` are spelled out as the records'.

    Args:
      tables: `gone`, `openings` (item ids), and rows of `needs`, `blocked`, `hidden`, `played`, `skipped`, `nexts`, `begun`,
        `in_session`, `tired` as tuples; `floors` as in `Facts`.
    """
    told = pl.DataFrame(list(records) or [record()], schema=_RECORD).with_row_index("k")
    needs = [(one, *one.split("|")) for one in told["needs"].unique(maintain_order=True)]
    columns = {
        "needs": {"needs": pl.String, "market": pl.String, "tier": pl.String},
        "blocked": {"k": pl.UInt32, "artist_id": pl.String},
        "hidden": {"k": pl.UInt32, "item_id": pl.String},
        "in_session": {"k": pl.UInt32, "item_id": pl.String},
        "tired": {"k": pl.UInt32, "item_id": pl.String},
        "played": {"k": pl.UInt32, "item_id": pl.String, "event_ts": _STAMP, "completed": pl.Boolean},
        "skipped": {"k": pl.UInt32, "item_id": pl.String, "event_ts": _STAMP},
        "nexts": {"k": pl.UInt32, "item_id": pl.String, "show_id": pl.String},
        "begun": {"k": pl.UInt32, "item_id": pl.String, "show_id": pl.String},
    }
    given = {"needs": needs} | tables
    frames = {name: pl.DataFrame(given.get(name, []), schema=schema, orient="row") for name, schema in columns.items()}
    rows = table("item", items).select(ITEM_COLUMNS).sort("item_id")
    rows = rows.with_columns(opening=pl.col("item_id").is_in(tables.get("openings", [])))
    return Facts(
        records=told,
        items=rows,
        gone=pl.Series("id", tables.get("gone", []), pl.String),
        floors=tables.get("floors"),
        **frames,
    )


def instant(surface: SurfacePolicy) -> Instant:
    return Instant.of(DATE, surface)
