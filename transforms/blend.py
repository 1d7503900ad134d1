"""Blend: from proposals to ordered candidates, for a block of records at once.

    hard filters, each removal named -> one row per canonical item, all its sources kept -> quotas -> caps -> size

Pure and vectorised over records; the stream calls the same functions. Memory: about 300 bytes per proposal of the block.
"""

import dataclasses
import datetime

import numpy as np
import polars as pl

from schemas.hashing import hash64, hash64_one, mix64
from schemas.policy import SurfacePolicy
from transforms.sources import TALK

FILTERS = (
    "unknown_item", "tombstone", "ineligible", "market", "tier", "explicit", "age", "unreleased", "blocked", "hidden",
    "opted_out", "completed", "recent_skip", "recently_played", "language",
)  # fmt: skip
LATER_RULES = ("duplicate", "quota", "cap:artist", "cap:album", "cap:show", "cap:publisher", "size")


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
      records: one row per set: `k` (uint32), `record_key`, `needs` (id), `explicit_allowed`, `max_age`, `languages`,
        `opted_out`, `artists_known` (list of artist ids, null where the record has no history).
      needs: `needs`, `market`, `tier`: every pair of market and tier an item must be available in for the record.
      items: attributes of the proposed items, one row each, see `ITEM_COLUMNS`.
      gone: item ids with a tombstone.
      blocked: `k`, `artist_id`. hidden: `k`, `item_id`.
      played: `k`, `item_id`, `event_ts` (last), `completed`. skipped: `k`, `item_id`, `event_ts` (last).
    """

    records: pl.DataFrame
    needs: pl.DataFrame
    items: pl.DataFrame
    gone: pl.Series
    blocked: pl.DataFrame
    hidden: pl.DataFrame
    played: pl.DataFrame
    skipped: pl.DataFrame


ITEM_COLUMNS = ("item_id", "item_type", "canonical_id", "artists", "album_id", "show_id", "publisher", "languages",
                "release_ts", "availability", "explicit", "age_rating", "rec_eligible", "deleted_at")  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Blended:
    """Candidates and why everything else is not among them.

    Attributes:
      candidates: one row per candidate, sorted by `k` and `position`; `source_id` is the one whose slot it took.
      sources: every surviving proposal behind a candidate: `k`, `position` and the proposal's columns.
      removed: `k`, `item_id`, `source_id`, `rule`, `detail` (number the rule was decided on, may be null).
    """

    candidates: pl.DataFrame
    sources: pl.DataFrame
    removed: pl.DataFrame


def blend(proposals: pl.DataFrame, facts: Facts, policy: SurfacePolicy, instant: Instant) -> Blended:
    """Blend the proposals of a block.

    Args:
      proposals: `k` and the columns of the proposal contract but `key`.
    """
    judged = hard_filters(proposals, facts, policy, instant)
    kept = judged.filter(pl.col("rule").is_null()).drop("rule", "detail")
    merged, duplicates = merge_canonical(kept, policy)
    slotted, over_quota = fill_quotas(merged, policy, instant)
    capped, over_cap = apply_caps(slotted, policy)
    candidates, over_size = cut(capped, policy)
    removed = [judged.filter(pl.col("rule").is_not_null()), duplicates, over_quota, over_cap, over_size]
    sources = kept.join(
        candidates.select("k", "canonical_id", "position"), on=["k", "canonical_id"]
    ).sort("k", "position", "source_rank", "source_id")
    return Blended(candidates, sources, pl.concat([_removal(frame) for frame in removed]).sort("k", "item_id", "source_id"))


def _removal(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select("k", "item_id", "source_id", "rule", pl.col("detail").cast(pl.Float64))


def hard_filters(proposals: pl.DataFrame, facts: Facts, policy: SurfacePolicy, instant: Instant) -> pl.DataFrame:
    """Add what is known of each item, and `rule`: the first hard filter it fails, in `FILTERS` order; null passes."""
    discovery = [quota.source_id for quota in policy.sources if quota.discovery]
    personal = [quota.source_id for quota in policy.sources if quota.personal]
    items = facts.items.select(
        *ITEM_COLUMNS[:3],
        pl.col("artists").list.first().struct.field("artist_id").alias("artist_id"),
        pl.col("artists").list.eval(pl.element().struct.field("artist_id")).alias("artist_ids"),
        "album_id", "show_id", "publisher", pl.col("languages").alias("item_languages"),
        "release_ts", "explicit", "age_rating", "rec_eligible", "deleted_at",
        pl.lit(True).alias("__known"), pl.col("item_id").is_in(facts.gone.implode()).alias("__gone"),
    )  # fmt: skip
    wide = proposals.join(items, on="item_id", how="left").join(
        facts.records.drop("record_key", "artists_known"), on="k", how="left"
    )
    wide = wide.join(availability(wide, facts, instant), on=["item_id", "needs"], how="left")
    for name, table in (("__blocked", _blocked_items(wide, facts)), ("__hidden", facts.hidden)):
        wide = wide.join(table.select("k", "item_id").unique().with_columns(pl.lit(True).alias(name)), on=["k", "item_id"], how="left")
    wide = wide.join(facts.played.rename({"event_ts": "__played"}), on=["k", "item_id"], how="left")
    wide = wide.join(facts.skipped.rename({"event_ts": "__skipped"}), on=["k", "item_id"], how="left")
    tests = _tests(discovery, personal, policy, instant)
    rule = pl.coalesce(pl.when(tests[name][0].fill_null(False)).then(pl.lit(name)) for name in FILTERS)
    detail = pl.coalesce(
        pl.when(pl.col("rule") == name).then(tests[name][1].cast(pl.Float64)) for name in FILTERS if tests[name][1] is not None
    )
    judged = wide.with_columns(rule.alias("rule")).with_columns(detail.alias("detail"))
    helpers = [c for c in judged.columns if c.startswith("__")]
    dropped = ["artist_ids", "item_languages", "age_rating", "rec_eligible", "deleted_at", "needs", "explicit_allowed",
               "max_age", "languages", "opted_out", "completed", "market_ok", "tier_ok", *helpers]  # fmt: skip
    return judged.drop(dropped).sort("k", "source_id", "source_rank", "item_id")


def _tests(discovery: list[str], personal: list[str], policy: SurfacePolicy, instant: Instant) -> dict:
    """Return, per filter, when it removes and the number to show with it."""
    start = pl.lit(instant.effective_from)
    skip_age, play_age = _days(start - pl.col("__skipped")), _days(start - pl.col("__played"))
    spoken = pl.col("item_languages").list.len() > 0
    understood = (pl.col("languages").list.set_intersection("item_languages").list.len() > 0).fill_null(True)
    source = pl.col("source_id")
    return {
        "unknown_item": (pl.col("__known").is_null(), None),
        "tombstone": (pl.col("__gone"), None),
        "ineligible": (~pl.col("rec_eligible") | (pl.col("deleted_at") <= start), None),
        "market": (~pl.col("market_ok"), None),
        "tier": (~pl.col("tier_ok"), None),
        "explicit": (pl.col("explicit") & ~pl.col("explicit_allowed"), None),
        "age": (pl.col("age_rating").fill_null(0) > pl.col("max_age"), pl.col("age_rating")),
        "unreleased": (pl.col("release_ts") > start, None),
        "blocked": (pl.col("__blocked"), None),
        "hidden": (pl.col("__hidden"), None),
        "opted_out": (pl.col("opted_out") & source.is_in(personal), None),
        "completed": (pl.col("completed") & pl.col("item_type").is_in(TALK), None),
        "recent_skip": (skip_age <= policy.recent_skip_days, skip_age),
        "recently_played": (source.is_in(discovery) & (play_age <= policy.recent_play_days), play_age),
        "language": (pl.col("item_type").is_in(TALK) & spoken & ~understood, None),
    }


def _days(interval: pl.Expr) -> pl.Expr:
    return interval.dt.total_milliseconds() / 86_400_000.0


def _blocked_items(wide: pl.DataFrame, facts: Facts) -> pl.DataFrame:
    if not facts.blocked.height:
        return pl.DataFrame(schema={"k": pl.UInt32, "item_id": pl.String})
    by = wide.select("k", "item_id", pl.col("artist_ids").alias("artist_id")).explode("artist_id")
    shows = wide.select("k", "item_id", pl.col("show_id").alias("artist_id"))
    return pl.concat([by, shows]).join(facts.blocked, on=["k", "artist_id"], how="semi")


def availability(wide: pl.DataFrame, facts: Facts, instant: Instant) -> pl.DataFrame:
    """Judge each pair of item and needs once: `item_id`, `needs`, `market_ok`, `tier_ok`, `available_until`.

    An item is available where one of its intervals covers the whole validity of the set, in every market and for every
    tier the record needs; `available_until` is the earliest end among them, null without end.
    """
    pairs = wide.select("item_id", "needs").unique().join(facts.needs, on="needs")
    offered = facts.items.select("item_id", "availability")
    everywhere = offered.filter(pl.col("availability").is_null()).select("item_id", pl.lit(True).alias("__all"))
    rows = offered.explode("availability").drop_nulls("availability").unnest("availability")
    covers = (pl.col("from_ts").fill_null(instant.effective_from) <= instant.effective_from) & (
        pl.col("to_ts").fill_null(instant.expires_at) >= instant.expires_at
    )
    rows = rows.filter(covers).rename({"market": "__market"})
    met = pairs.join(rows, on="item_id").filter((pl.col("__market") == "*") | (pl.col("__market") == pl.col("market")))
    served = met.group_by("item_id", "needs", "market", "tier").agg(
        pl.lit(True).alias("__in_market"),
        (pl.col("tiers").is_null() | pl.col("tiers").list.contains(pl.col("tier"))).any().alias("__for_tier"),
        pl.col("to_ts").fill_null(_FOREVER).max().alias("__until"),
    )
    judged = pairs.join(served, on=["item_id", "needs", "market", "tier"], how="left").join(everywhere, on="item_id", how="left")
    free = pl.col("__all").fill_null(False)
    return judged.group_by("item_id", "needs").agg(
        (free | pl.col("__in_market").fill_null(False)).all().alias("market_ok"),
        (free | pl.col("__for_tier").fill_null(False)).all().alias("tier_ok"),
        pl.col("__until").min().replace({_FOREVER: None}).alias("available_until"),
    )


_FOREVER = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)


def merge_canonical(kept: pl.DataFrame, policy: SurfacePolicy) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keep, per record and canonical item, one row per source: the item its source ranked best.

    All sources propose the same item afterwards: the one ranked best by any source.
    """
    best = kept.sort("k", "canonical_id", "source_rank", "item_id").unique(
        ["k", "canonical_id"], keep="first", maintain_order=True
    )
    chosen = best.select("k", "canonical_id", pl.col("item_id").alias("__chosen"))
    joined = kept.join(chosen, on=["k", "canonical_id"])
    other = joined.filter(pl.col("item_id") != pl.col("__chosen"))
    duplicates = other.with_columns(pl.lit("duplicate").alias("rule"), pl.lit(None, pl.Float64).alias("detail"))
    attributes = best.drop("source_id", "source_rank", "raw_score", "score_kind", "signal_type", "seed_item_ids", "seed_event_ts")
    per_source = joined.group_by("k", "canonical_id", "source_id").agg(pl.col("source_rank").min())
    return per_source.join(attributes, on=["k", "canonical_id"]), duplicates


def fill_quotas(merged: pl.DataFrame, policy: SurfacePolicy, instant: Instant) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Give every candidate one slot: minima first, then targets in step, then maxima in `flow` order.

    A candidate of several sources takes the slot that comes first; the other sources then move up. Equal slots are told
    apart by the hash of record, item and date. Returns rows in blend order per record, and what is over all quotas.
    """
    tied = merged.with_columns(_tie_break(merged, instant))
    first = _slots(tied, policy).sort("k", "canonical_id", "slot", "source_id").unique(
        ["k", "canonical_id"], keep="first", maintain_order=True
    )
    slotted = _slots(first.drop("slot"), policy)
    over = slotted.filter(pl.col("slot").is_infinite()).with_columns(
        pl.lit("quota").alias("rule"), pl.col("__rank").cast(pl.Float64).alias("detail")
    )
    kept = slotted.filter(pl.col("slot").is_finite()).sort("k", "slot", "__tie", "item_id")
    return kept, over


def _tie_break(merged: pl.DataFrame, instant: Instant) -> pl.Series:
    seed = np.uint64(hash64_one(instant.seed))
    records, items = merged["record_key"].to_arrow(), merged["item_id"].to_arrow()
    return pl.Series("__tie", mix64(mix64(hash64(records), hash64(items)), np.full(merged.height, seed)))


def _slots(rows: pl.DataFrame, policy: SurfacePolicy) -> pl.DataFrame:
    """Add `__rank` within record and source, and `slot`: 0..1 minima, 1..2 targets, 2+i the i-th of the flow, inf over."""
    rank = pl.int_range(pl.len()).over("k", "source_id").alias("__rank")
    ranked = rows.sort("k", "source_id", "source_rank", "__tie").with_columns(rank)
    r, slot = pl.col("__rank"), pl.lit(float("inf"))
    for quota in policy.sources:
        low, aim, high = quota.minimum, quota.target, quota.maximum
        flow = 2.0 + policy.flow.index(quota.source_id)
        own = (
            pl.when(r < low)
            .then((r + 0.5) / max(low, 1))
            .when(r < aim)
            .then(1.0 + (r - low + 0.5) / max(aim - low, 1))
            .when(r < high)
            .then(flow + (r - aim + 0.5) / max(high - aim, 1))
            .otherwise(float("inf"))
        )
        slot = pl.when(pl.col("source_id") == quota.source_id).then(own).otherwise(slot)
    return ranked.with_columns(slot.alias("slot"))


def apply_caps(rows: pl.DataFrame, policy: SurfacePolicy) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Take out what exceeds the caps per artist, album, show and publisher; put an artist's surplus behind the first slots.

    Rows come in blend order and leave in it; an item without the attribute is never capped by it.
    """
    limits = {"artist_id": policy.artist, "album_id": policy.album, "show_id": policy.show, "publisher": policy.publisher}
    over = []
    for column, limit in limits.items():
        nth = pl.int_range(pl.len()).over("k", column).alias("__nth")
        counted = rows.with_columns(nth)
        beyond = pl.col(column).is_not_null() & (pl.col("__nth") >= limit)
        name = f"cap:{column.removesuffix('_id')}"
        over.append(_removal(counted.filter(beyond).with_columns(pl.lit(name).alias("rule"), pl.lit(limit).alias("detail"))))
        rows = counted.filter(~beyond)
        if column == "artist_id":
            early = pl.col(column).is_not_null() & (pl.col("__nth") >= policy.artist_early)
            rows = rows.with_columns(early.alias("__surplus"))
    place = pl.int_range(pl.len()).over("k", "__surplus")
    late = pl.col("__surplus") | (place >= policy.artist_early_slots)
    return rows.with_columns(late.alias("__late")).sort("k", "__late", "slot", "__tie", "item_id").drop("__nth"), pl.concat(over)


def cut(rows: pl.DataFrame, policy: SurfacePolicy) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Cut to size and number the positions; the fallback source fills a set no further than `fill_to`.

    `blend_score` falls from 1 with the position; `calibrated` is `1 / (1 + rank / target)` of the candidate's source until
    a calibration is fitted.
    """
    place = pl.int_range(pl.len(), dtype=pl.Int32).over("k").alias("position")
    placed = rows.with_columns(place)
    filler = (pl.col("source_id") == policy.fallback) & (pl.col("slot") >= 2.0)
    beyond = (pl.col("position") >= policy.size) | (filler & (pl.col("position") >= policy.fill_to))
    over = placed.filter(beyond).with_columns(pl.lit("size").alias("rule"), pl.col("position").cast(pl.Float64).alias("detail"))
    kept = placed.filter(~beyond).with_columns(place)
    if policy.max_run:
        kept = break_runs(kept, policy.max_run)
    score = (1.0 / (1.0 + pl.col("position") / policy.size)).cast(pl.Float32)
    return kept.with_columns(score.alias("blend_score")).sort("k", "position"), over


def break_runs(rows: pl.DataFrame, max_run: int) -> pl.DataFrame:
    """Reorder the records in which more than `max_run` candidates of one artist follow each other.

    The next candidate of another artist is drawn forward; where there is none, the run stays. Only the records that
    need it are walked through.
    """
    artist = pl.col("artist_id")
    in_run = pl.all_horizontal(
        (artist == artist.shift(step)) & (pl.col("k") == pl.col("k").shift(step)) for step in range(1, max_run + 1)
    ).fill_null(False)
    needing = rows.filter(in_run)["k"].unique().implode()
    if not needing.explode().len():
        return rows
    calm, restless = rows.filter(~pl.col("k").is_in(needing)), rows.filter(pl.col("k").is_in(needing))
    order = [_spread(part["artist_id"].to_list(), max_run) for part in restless.partition_by("k", maintain_order=True)]
    position = np.concatenate(order).astype(np.int32)
    return pl.concat([calm, restless.with_columns(pl.Series("position", position, pl.Int32))]).sort("k", "position")


def _spread(artists: list[str | None], max_run: int) -> np.ndarray:
    """Return the new position of each row: greedy, first come first served but for runs."""
    waiting, order = list(range(len(artists))), []
    while waiting:
        tail = [artists[i] for i in order[-max_run:]]
        full = len(tail) == max_run and tail[0] is not None and all(name == tail[0] for name in tail)
        pick = next((n for n, i in enumerate(waiting) if artists[i] != tail[0]), 0) if full else 0
        order.append(waiting.pop(pick))
    positions = np.empty(len(artists), np.int64)
    positions[order] = np.arange(len(artists))
    return positions
