"""Home: what each user of a shard played in the days after a date, and where the lists of that date held it.

Memory: the shard's personal events of 90 days as pairs of user and item, its histories, and one row per target.
"""

import dataclasses
import datetime

import numpy as np
import polars as pl

from schemas.evaluation import ORACLE, POPULARITY, POPULARITY_BEFORE, REPEAT_LAST, SETS
from schemas.tallies import ANY
from transforms.evaluation import Judged
from transforms.evaluation_arms import arm_figures
from transforms.evaluation_factors import factored
from transforms.evaluation_left_out import LeaveOneOut
from transforms.evaluation_lists import HIT, items_in, ranked_hits, read_proposals, read_sets
from transforms.evaluation_variety import known_items, played_leanings, played_popularity
from transforms.filters import Instant
from transforms.histories import exploded, personal_events
from transforms.reach import REACH_COLUMNS, Reach, read_world, user_rights
from transforms.retrieve import ShardBundle, user_table
from transforms.serving import CHART, chart_of, served_from
from transforms.shards import Shard
from transforms.sources import age_days

PLAYED_DAYS = 90
TENURE = ((0, "0"), (5, "1-5"), (20, "6-20"))
AGES = ((0, "unreleased"), (30, "0-30 days"), (365, "31-365 days"))
_CONSENT = ("private_session", "consent_personalization")
EVENT_COLUMNS = ["user_id", "item_id", "item_type", "event_id", "event_ts", "label", "is_organic", "campaign_id",
          "device_type", *_CONSENT]  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """What a date is judged by.

    Attributes:
      as_of: end of the logical date. start, end: of the plays that are targets.
      expires_at: how long the sets were valid.
    """

    as_of: datetime.datetime
    start: datetime.datetime
    end: datetime.datetime
    expires_at: datetime.datetime

    @property
    def instant(self) -> Instant:
        """When the sets are valid."""
        return Instant(self.as_of, self.expires_at, "")

    @property
    def first_played(self) -> datetime.datetime:
        """From when on what was played is no discovery."""
        return self.as_of - datetime.timedelta(days=PLAYED_DAYS)


def judge_home(shard: Shard, window: Window, leave_out: LeaveOneOut) -> Judged:
    """Return what the lists for a shard's users were worth."""
    during = pl.col("event_ts").is_between(window.start, window.end, closed="left") & (pl.col("label") > 0)
    events = personal_events(shard.read("event", EVENT_COLUMNS, during)).sort("user_id", "event_ts", "event_id")
    users = user_table(shard)
    units = unit_table(events["user_id"], users, shard.read("history", ["user_id", "num_events"]))
    recordings = recordings_of(events["item_id"], ShardBundle(shard))
    targets = target_table(events, units, recordings, window.as_of)
    wanted = targets.join(units.select("unit", "user_id"), on="unit").rename({"user_id": "key"})
    wanted = wanted.select("unit", "key", "canonical_id").join(
        recordings.select("item_id", "canonical_id"), on="canonical_id"
    )
    targets = targets.join(
        played_before(shard, wanted, window), on=["unit", "canonical_id"], how="left", maintain_order="left"
    )
    targets = targets.with_columns(pl.lit(True).alias("all"), pl.col("played").is_null().alias("discovery"))
    hits, per_unit = _of_sets(shard, units, targets, users)
    found = [hits, read_proposals(shard.paths("proposal"), wanted), _repeated(users, wanted),
             factored(shard, users, wanted), oracle(possible(wanted, recordings, units, users, shard, window.instant))]  # fmt: skip
    arms = arm_figures(units, events, targets, hits, leave_out.policy)
    new = targets.filter("discovery").select("unit", "canonical_id")
    figures = pl.concat([per_unit, leave_out.users(shard, units.select("unit", "user_id"), new, users), arms])
    return Judged(units, targets, pl.concat(found), figures)


def unit_table(ids: pl.Series, users: pl.DataFrame, histories: pl.DataFrame) -> pl.DataFrame:
    """Return `unit`, `user_id`, `market`, `tier` and `tenure` of users, numbered in order of their ids.

    Whom nobody knew at the date is served as somebody of any market and the free tier.
    """
    known = users.select("user_id", "market", "tier").join(histories, on="user_id", how="left")
    table = ids.unique().sort().alias("user_id").to_frame().join(known, on="user_id", how="left", maintain_order="left")
    return table.with_row_index("unit").select(
        "unit",
        "user_id",
        pl.col("market").fill_null(ANY),
        pl.col("tier").fill_null("free"),
        steps(pl.col("num_events").fill_null(0), TENURE, "21+").alias("tenure"),
    )


def steps(value: pl.Expr, bounds: tuple[tuple[int, str], ...], beyond: str) -> pl.Expr:
    """Name the first bound that a value does not exceed."""
    named = pl.lit(beyond)
    for bound, name in reversed(bounds):
        named = pl.when(value <= bound).then(pl.lit(name)).otherwise(named)
    return named


def recordings_of(items: pl.Series, bundle: ShardBundle) -> pl.DataFrame:
    """Return `REACH_COLUMNS` and `canonical_id` of all recordings of what some items are recordings of.

    What the catalogue of the date does not know is its own recording, and has nothing else.
    """
    columns = [*REACH_COLUMNS, "canonical_id"]
    own = bundle.lookup("item", "item_id", items, ["item_id", "canonical_id"])
    known = bundle.lookup("item", "canonical_id", own["canonical_id"], columns)
    unknown = items.unique().to_frame().join(own, on="item_id", how="anti").with_columns(
        pl.col("item_id").alias("canonical_id")
    )  # fmt: skip
    return pl.concat([known, unknown.select("item_id", "canonical_id")], how="diagonal").sort("item_id")


def target_table(
    events: pl.DataFrame, units: pl.DataFrame, recordings: pl.DataFrame, as_of: datetime.datetime
) -> pl.DataFrame:
    """Return what each unit wanted, in the order it came to it, as `transforms.evaluation.Judged` asks; not `discovery` yet.

    Args:
      events: positives in order of user and time; of several of one item the first one gives type and device.
    """
    age = age_days("release_ts", as_of)
    dated = pl.when(age.is_null()).then(pl.lit("no release date")).otherwise(steps(age, AGES, "366+ days"))
    named = pl.when(pl.col("rec_eligible").is_null()).then(pl.lit("unknown item")).otherwise(dated)
    language = pl.col("languages").list.first().fill_null("none")
    items = recordings.select("item_id", "canonical_id", named.alias("age"), language.alias("language"))
    picked = pl.col("is_organic").fill_null(True) & pl.col("campaign_id").is_null()
    known = events.join(units.select("unit", "user_id"), on="user_id", maintain_order="left")
    return known.join(items, on="item_id", maintain_order="left").group_by("unit", "canonical_id", maintain_order=True).agg(
        picked.any().alias("organic"),
        pl.col("item_type").first().alias("type"),
        pl.col("age", "language").first(),
        pl.col("device_type").first().fill_null("unknown").alias("device"),
    )  # fmt: skip


def played_before(shard: Shard, wanted: pl.DataFrame, window: Window) -> pl.DataFrame:
    """Return the targets that were played, in any recording, in the 90 days before."""
    before = pl.col("event_ts").is_between(window.first_played, window.as_of, closed="left")
    plays = shard.read("event", ["user_id", "item_id", *_CONSENT],
                       before & ((pl.col("event_type") == "play") | (pl.col("label") > 0)))  # fmt: skip
    pairs = personal_events(plays).select(pl.col("user_id").alias("key"), "item_id").unique()
    found = wanted.join(pairs, on=["key", "item_id"], how="semi").select("unit", "canonical_id").unique()
    return found.with_columns(pl.lit(True).alias("played"))


def _of_sets(
    shard: Shard, units: pl.DataFrame, targets: pl.DataFrame, users: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Find targets in the set each user is served, and in the charts that serve whoever nobody knows."""
    own, groups = shard.paths("candidate_set"), shard.paths("groups")
    personal = shard.read("candidate_set", ["record_key"])["record_key"]
    served = served_from(units.select("unit", "user_id", chart_of(groups, pl.col("tier"))), ["user_id"], personal)
    record = pl.when(pl.col("record_key") == ANY).then(CHART).otherwise("record_key")
    played = exploded(users.join(units, on="user_id", how="semi"), "positives").select("user_id", "item_id")
    known = known_items(shard, pl.concat([items_in([*own, *groups]), played["item_id"]]))
    leaning = units.select("unit", "user_id").join(
        played_leanings(played, known), on="user_id", maintain_order="left_right"
    )
    aims = targets.select("unit", "canonical_id")
    hits, per_unit = read_sets(own, groups, record, served, aims, known, leaning.drop("user_id"))
    return hits, _beside_played(per_unit, units, played_popularity(played, known))


def _beside_played(per_unit: pl.DataFrame, units: pl.DataFrame, played: pl.DataFrame) -> pl.DataFrame:
    """Keep the popularity of the sets of those who played something, and put that of what they played beside it."""
    before = units.select("unit", "user_id").join(played, on="user_id").select(
        "unit", pl.lit(SETS).alias("ranking"), pl.lit(POPULARITY_BEFORE).alias("metric"), "value"
    )  # fmt: skip
    others = pl.col("metric") == POPULARITY
    kept = per_unit.filter(~others), per_unit.filter(others).join(before, on="unit", how="semi")
    return pl.concat([*kept, before])


def _repeated(users: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """Find targets among what the user liked last, the latest first."""
    open_ = users.join(wanted.select(pl.col("key").alias("user_id")).unique(), on="user_id", how="semi")
    last = exploded(open_.select("user_id", "positives"), "positives").group_by("user_id", "item_id")
    ordered = last.agg(pl.col("event_ts").max()).sort("user_id", "event_ts", "item_id", descending=[False, True, False])
    rank = pl.int_range(pl.len()).over("user_id")
    return ranked_hits(
        ordered.select(pl.col("user_id").alias("key"), "item_id", rank.alias("rank")), wanted, REPEAT_LAST
    )


def possible(
    wanted: pl.DataFrame,
    recordings: pl.DataFrame,
    units: pl.DataFrame,
    users: pl.DataFrame,
    shard: Shard,
    instant: Instant,
) -> pl.DataFrame:
    """Return the rows of `wanted` that the hard filters on items, market, tier, age and language would let through."""
    columns = ("market", "tier", "explicit_allowed", "max_age", "languages")
    told = users.drop("market", "tier").join(units.select("user_id", "market", "tier"), on="user_id", how="right")
    rights = user_rights(told).join(wanted.select("key", "unit", "canonical_id", "item_id"), on="key")
    ids = recordings["item_id"]
    reach = Reach.of([recordings.drop_nulls("rec_eligible").select(REACH_COLUMNS)], ids, instant, read_world(shard))
    reach = dataclasses.replace(
        reach, in_order=np.zeros_like(reach.in_order)
    )  # which part comes next moves with what is played
    numbered = rights.join(pl.DataFrame({"item_id": ids}).with_row_index("row"), on="item_id")
    found = [
        own.filter(pl.Series(reach.mask(*own.select(columns).row(0))[own["row"].to_numpy()]))
        for own in numbered.partition_by(columns, maintain_order=True)
    ]
    return pl.concat([numbered.clear(), *found]).select("unit", "canonical_id").unique()


def oracle(may: pl.DataFrame) -> pl.DataFrame:
    """Return the hits of a ranking that puts everything that may be offered and is wanted first."""
    rank = pl.int_range(pl.len(), dtype=pl.Int64).over("unit").alias("rank")
    ordered = may.sort("unit", "canonical_id").with_columns(rank, pl.lit(ORACLE).alias("ranking"))
    return ordered.select(list(HIT))
