"""Audit: read finished candidate sets again and count what must not be in them, by other means than the blend.

Every violation counted here stops the release. Memory: the candidates of one block, about 60 bytes each.
"""

import datetime

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.hashing import hash64, unit_interval
from schemas.policy import SurfacePolicy
from transforms.blend import NOT_DRAWN
from transforms.candidate_sets import NOT_PERSONAL, POPULAR_LEVEL
from transforms.content_mix import kind, kind_codes, no_floors
from transforms.explore import FLOOR
from transforms.filters import Facts, Instant
from transforms.holdout import HELD_OUT
from transforms.releases import released
from transforms.sources import TALK
from transforms.works import work
from validation.candidate_gates import EXPLORED, EXPLORED_EXPECTED
from validation.freshness_gates import RELEASED

JACCARD_PAIRS_PER_BLOCK = 200
TOLERANCE = 1e-6


def audit(table: pa.Table, facts: Facts, policy: SurfacePolicy, instant: Instant) -> dict[str, int]:
    """Return counters of a block of candidate sets; names as in `validation/thresholds.toml`."""
    rows = flatten(table)
    items = facts.items.join(rows.select("item_id").unique(), on="item_id", how="semi")
    records = facts.records.select(
        "k", "record_key", "context_key", "explicit_allowed", "max_age", "languages", "may_video"
    )
    joined = rows.select("record_key", "context_key", "item_id", "item_type").join(
        records, on=["record_key", "context_key"], how="left"
    )
    told = rows.join(items.select("item_id", work()), on="item_id", how="left").with_columns(
        pl.coalesce("work", "item_id").alias("work")
    )
    counters = {
        "sets": table.num_rows,
        "slots": rows.height,
        "empty_sets": facts.records.height - rows.select("record_key", "context_key").n_unique(),
        "sets_below_minimum": _small(rows, policy.minimum_size),
        "duplicate_items": sum(_duplicates(told, one) for one in ("item_id", "canonical_id", "work")),
        "tombstone_violations": rows.filter(pl.col("item_id").is_in(facts.gone.implode())).height,
        **_fallback(table),
        **_availability_violations(rows, items, facts, instant),
        **_item_violations(joined, items, instant),
        **_listener_violations(joined, items, facts, instant, policy.recent_skip_days),
        **_exploration(table, policy),
        **_mix(rows, facts),
        **{f"slots_by_source:{name}": n for name, n in rows["source_id"].value_counts().sort("source_id").rows()},
    }
    return counters | _overlap(rows, policy)


def flatten(table: pa.Table) -> pl.DataFrame:
    """Return one row per candidate: `record_key`, `context_key`, `item_id`, `canonical_id`, `source_id` (its first)."""
    frame = pl.from_arrow(table.select(["record_key", "context_key", "market", "tier", "candidates"]))
    assert isinstance(frame, pl.DataFrame)
    candidate = pl.col("candidates").struct
    return frame.explode("candidates").drop_nulls("candidates").select(
        "record_key", "context_key",
        candidate.field("item_id"), candidate.field("canonical_id"), candidate.field("item_type"), candidate.field("position"),
        candidate.field("available_until"),
        candidate.field("sources").list.first().struct.field("source_id").alias("source_id"),
    )  # fmt: skip


def _fallback(table: pa.Table) -> dict[str, int]:
    """Count the sets that are charts, but for those of whoever is held out, and of the listeners all and those with charts.

    A listener has a history that is to be used.
    """
    frame = pl.from_arrow(table.select(["fallback_level", "degraded_reasons"]))
    assert isinstance(frame, pl.DataFrame)
    charts, why = pl.col("fallback_level") >= POPULAR_LEVEL, pl.col("degraded_reasons").list
    listens = ~pl.any_horizontal(why.contains(pl.lit(reason)) for reason in NOT_PERSONAL)
    counted = frame.select(
        fallback_level_3_or_more=(charts & ~why.contains(HELD_OUT)).sum(),
        listeners=listens.sum(),
        fallback_of_listeners=(charts & listens).sum(),
    )
    return counted.row(0, named=True)


def _small(rows: pl.DataFrame, minimum: int) -> int:
    return rows.group_by("record_key", "context_key").len().filter(pl.col("len") < minimum).height


def _duplicates(rows: pl.DataFrame, column: str) -> int:
    return rows.height - rows.select("record_key", "context_key", column).n_unique() if rows.height else 0


def _item_violations(joined: pl.DataFrame, items: pl.DataFrame, instant: Instant) -> dict[str, int]:
    """Count candidates that no record of their rights may hold, by what the item is and what the record is for; and new ones."""
    start = instant.effective_from
    told = joined.join(
        items.select(
            "item_id", "explicit", "age_rating", "release_ts", "rec_eligible", "deleted_at", "is_video", spoken="languages"
        ),
        on="item_id", how="left",
    )  # fmt: skip
    shown = pl.col("is_video").fill_null(False) | (pl.col("item_type") == "video")
    counted = told.select(
        explicit_violations=(pl.col("explicit") & ~pl.col("explicit_allowed")).sum(),
        age_violations=(pl.col("age_rating") > pl.col("max_age")).sum(),
        ineligible_violations=(~pl.col("rec_eligible") | (pl.col("deleted_at") <= start).fill_null(False)).sum(),
        unreleased_violations=(pl.col("release_ts") > start).sum(),
        video_violations=(shown & ~pl.col("may_video")).sum(),
    )
    both = (pl.col("spoken").list.len() > 0) & (pl.col("languages").list.len() > 0)
    talk = told.filter(pl.col("item_type").is_in(TALK) & both)
    foreign = talk.filter(pl.col("spoken").list.set_intersection("languages").list.len() == 0)
    return counted.row(0, named=True) | {"language_violations": foreign.height} | released(told, instant, RELEASED)


def _listener_violations(
    joined: pl.DataFrame, items: pl.DataFrame, facts: Facts, instant: Instant, skip_days: int
) -> dict[str, int]:
    """Count candidates that their own record has blocked, hidden, heard to the end, or skipped in the last `skip_days`."""
    artists = pl.col("artists").list.eval(pl.element().struct.field("artist_id"))
    owners = [
        items.select("item_id", artist_id=artists).explode("artist_id"),
        items.select("item_id", artist_id="show_id"),
    ]
    lately = pl.col("event_ts") >= instant.effective_from - datetime.timedelta(days=skip_days)
    pair = ["k", "item_id"]
    barred = {
        "blocked": pl.concat(owners).join(facts.blocked, on="artist_id").select(pair),
        "hidden": facts.hidden,
        "completed": facts.played.filter("completed"),
        "recent_skip": facts.skipped.filter(lately),
    }
    shown = {"completed": joined.filter(pl.col("item_type").is_in(TALK))}
    return {
        f"{name}_violations": shown.get(name, joined).join(pairs, on=pair, how="semi").height
        for name, pairs in barred.items()
    }


def _availability_violations(rows: pl.DataFrame, items: pl.DataFrame, facts: Facts, instant: Instant) -> dict[str, int]:
    """Count candidates with no interval in the market, and those with none for a tier, through the whole validity.

    An item the catalogue does not know is available nowhere.
    """
    wanted = facts.records.select("record_key", "context_key", "needs").join(facts.needs, on="needs")
    pairs = rows.select("record_key", "context_key", "item_id").join(wanted, on=["record_key", "context_key"])
    limited = items.filter(pl.col("availability").is_not_null())
    everywhere = items.filter(pl.col("availability").is_null()).select("item_id")
    pairs = pairs.join(everywhere, on="item_id", how="anti").unique(["item_id", "market", "tier"])
    offers = (
        limited.select("item_id", "availability")
        .explode("availability")
        .unnest("availability")
        .rename({"market": "where"})
    )
    starts = pl.col("from_ts").is_null() | (pl.col("from_ts") <= instant.effective_from)
    ends = pl.col("to_ts").is_null() | (pl.col("to_ts") >= instant.expires_at)
    here = (pl.col("where") == "*") | (pl.col("where") == pl.col("market"))
    open_to = pl.col("tiers").is_null() | pl.col("tiers").list.contains(pl.col("tier"))
    offered = pairs.join(offers, on="item_id").filter(starts & ends & here)
    in_market = offered.select("item_id", "market").unique()
    for_tier = offered.filter(open_to).select("item_id", "market", "tier").unique()
    return {
        "market_violations": pairs.join(in_market, on=["item_id", "market"], how="anti").height,
        "tier_violations": pairs.join(for_tier, on=["item_id", "market", "tier"], how="anti").height,
    }


def _exploration(table: pa.Table, policy: SurfacePolicy) -> dict[str, int]:
    """Count sets whose share of explored items, or whose propensities, are not what the policy and the pool give.

    In a set, with what it counts as not drawn, propensities must add up to the explored items within 1e-6, none may be below
    `FLOOR`, and all others must be 1. As many items must be explored as the set says, and as the policy and the pool allow.
    """
    columns = ["candidates", "counts", "exploration_policy"]
    frame = pl.from_arrow(table.select(columns))
    assert isinstance(frame, pl.DataFrame)
    chance, drawn = (
        pl.col("candidates").list.eval(pl.element().struct.field(name)) for name in ("propensity", "is_exploration")
    )
    rules = pl.col("counts").struct.field("filtered_by_rule")
    left = rules.list.eval(
        pl.when(pl.element().struct.field("rule") == NOT_DRAWN).then(pl.element().struct.field("count")).otherwise(0)
    )
    told = frame.select(
        pl.col("exploration_policy").struct.field("slots"),
        left.list.sum().fill_null(0).alias("left"),
        chance=chance,
        drawn=drawn,
    ).with_row_index("set")
    each = told.explode("chance", "drawn")
    explored = pl.col("chance").filter("drawn")
    sums = each.group_by("set", maintain_order=True).agg(
        pl.col("slots").first(), pl.col("left").first(), pl.col("drawn").sum().alias("n"), explored.sum().alias("sum"),
        explored.min().fill_null(1.0).alias("least"), (pl.col("chance").filter(~pl.col("drawn")) != 1).any().alias("wrong"),
    )  # fmt: skip
    pool, n = pl.col("n") + pl.col("left"), pl.col("n")
    share = (n != pl.col("slots")) | (n != pl.min_horizontal(pool, policy.explore_slots))
    off = (pl.col("sum") * pool - n * n).abs() > TOLERANCE * n
    wrong = off | (pl.col("least") < FLOOR) | (pl.col("sum") > n) | pl.col("wrong")
    counted = sums.select(
        explored_slots=n.sum(), exploration_share_violations=share.sum(), propensity_violations=wrong.sum()
    )
    return {name: int(value or 0) for name, value in counted.row(0, named=True).items()}


def fairness(cells: pl.DataFrame) -> dict[str, int]:
    """Count, by stratum and by hash of the item, what was drawn, and what the propensities add up to, in millionths."""
    drawn = {f"{EXPLORED}{cell}": n for cell, n in cells.select("cell", "drawn").rows()}
    return drawn | {f"{EXPLORED_EXPECTED}{cell}": round(1e6 * n) for cell, n in cells.select("cell", "expected").rows()}


def _mix(rows: pl.DataFrame, facts: Facts) -> dict[str, int]:
    """Count the floors that sets have for kinds of content, and those that a set is below."""
    wanted = no_floors(facts.records.height) if facts.floors is None else facts.floors
    records = facts.records.select("k", "record_key", "context_key")
    held = rows.select("record_key", "context_key", kind()).join(records, on=["record_key", "context_key"])
    counts = np.zeros_like(wanted)
    np.add.at(counts, (held["k"].to_numpy(), kind_codes(held["kind"])), 1)
    return {"content_floors": int((wanted > 0).sum()), "content_floors_missed": int((counts < wanted).sum())}


def _overlap(rows: pl.DataFrame, policy: SurfacePolicy) -> dict[str, int]:
    """Sum the Jaccard overlap of neighbouring records in hash order, over slots of what is not the same for all, in ppm."""
    personal = rows.filter(~pl.col("source_id").is_in(policy.common))
    keys = personal.select("record_key", "context_key").sort("context_key").unique("record_key", keep="first")
    if keys.height < 2:
        return {"jaccard_ppm_sum": 0, "jaccard_pairs": 0}
    order = pl.Series("__order", unit_interval(hash64(keys["record_key"].to_arrow())))
    picked = keys.with_columns(order).sort("__order", "context_key").head(JACCARD_PAIRS_PER_BLOCK + 1)
    lists = picked.join(
        personal.group_by("record_key", "context_key").agg(pl.col("item_id").sort()),
        on=["record_key", "context_key"],
        maintain_order="left",
    )
    both = pl.col("item_id").list.set_intersection(pl.col("item_id").shift()).list.len()
    union = pl.col("item_id").list.set_union(pl.col("item_id").shift()).list.len()
    ppm = lists.select((both * 1_000_000 // union).drop_nulls())["item_id"]
    return {"jaccard_ppm_sum": int(ppm.sum()), "jaccard_pairs": len(ppm)}
