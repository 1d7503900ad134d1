"""Facts: what the hard filters need to know about a block of users, of seed items, or of nobody in particular."""

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from schemas.inputs import TIERS
from schemas.policy import SurfacePolicy
from schemas.tallies import ANY
from transforms.codes import ItemCodes
from transforms.content_mix import floors
from transforms.filters import ITEM_COLUMNS, PAIR, Facts, Instant
from transforms.histories import entries, exploded
from transforms.holdout import HELD_OUT, held_out
from transforms.id_index import NO_CODE
from transforms.item_rules import in_order, video
from transforms.parts import (
    COMPLETED_LABEL,
    HEARD_COLUMNS,
    line,
    next_of_listeners,
    next_of_seeds,
    openings,
    parts_of,
    shows_of_seeds,
    unfinished_books,
)
from transforms.reach import World, explicit_allowed, max_age, tiers_of_seeds
from transforms.retrieve import ShardBundle
from transforms.sources import Bundle
from transforms.tallies import first_artist

SEED_COLUMNS = ("item_id", "item_type", "canonical_id", "show_id", "availability", "explicit", "age_rating", "languages",
                "is_trailer", "is_video")  # fmt: skip
_OF_PARTS: dict[str, Any] = {"k": pl.UInt32, "item_id": pl.String, "show_id": pl.String}


@dataclasses.dataclass(frozen=True, slots=True)
class HeldCatalogue:
    """A whole catalogue, ready for blocks of few records, which are to be blended at once; held as long as a bundle is.

    Memory: the items, and about 400 bytes for each besides. Which part of a show or book is the first is told as of the
    instant it was made for; everything else is judged at the instant of the facts.

    Attributes:
      codes: of all items. ordered: all parts that are to be heard in order (`transforms.parts.line`).
    """

    codes: ItemCodes
    ordered: pl.DataFrame

    @classmethod
    def of(cls, bundle: Bundle, world: World, instant: Instant) -> "HeldCatalogue":
        """Read and code the catalogue of a bundle."""
        items = bundle.read("item", list(ITEM_COLUMNS)).sort("item_id")
        items, ordered = _with_parts(items, items["show_id"].clear(), world, bundle, instant)
        return cls(ItemCodes.of(items, world.gone), ordered)

    def without(self, bundle: Bundle, world: World, instant: Instant) -> "HeldCatalogue":
        """Return what `of` does under more tombstones; only they, and the shows and books they are parts of, are coded anew."""
        new = world.gone.filter(~world.gone.is_in(self.codes.gone.implode()))
        shows = self.ordered.filter(pl.col("item_id").is_in(new.implode()))["show_id"].unique()
        anew = line(parts_of(shows, bundle, world.gone, instant.effective_from))
        others = self.ordered.filter(~pl.col("show_id").is_in(shows.implode()))
        ordered = pl.concat([others, anew]).sort("show_id", maintain_order=True) if len(shows) else self.ordered
        opening = anew["item_id"].is_in(openings(anew)["item_id"].implode())
        return HeldCatalogue(self.codes.without(world.gone, anew["item_id"], opening), ordered)

    def lookup(self, ids: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        """Return columns of the items with these ids, in no order."""
        found = self.codes.ids.find(ids)
        return self.codes.items[list(columns)][found[found != NO_CODE]]


def group_of(tier: pl.Expr, world: World) -> pl.Expr:
    """Return the key of the charts for column `market` and a tier; where nobody played yet, that of all markets."""
    market = pl.when(pl.col("market").is_in(world.markets)).then("market").otherwise(pl.lit(ANY))
    return pl.format("*|{}|{}", market, tier)


def user_facts(
    users: pl.DataFrame,
    proposals: pl.DataFrame,
    world: World,
    bundle: ShardBundle,
    policy: SurfacePolicy,
    instant: Instant,
    held: HeldCatalogue | None = None,
) -> Facts:
    """Return the facts of a block of users (see `transforms.retrieve.user_table`), numbered `k` in row order.

    What who opted out heard and skipped keeps items out and says nothing else; of who is held out, also what is known.

    Args:
      held: the bundle's catalogue; without one, what was heard and proposed is looked up in the bundle.
    """
    k = users.with_columns(held_out(users["user_id"], policy)).with_row_index("k")
    positives, skips = (exploded(k, column, key="k") for column in ("positives", "skips"))
    served, profiled = _taking_part(k, positives)
    heard = _heard(positives["item_id"].unique(), bundle, held)
    mine = heard.filter(in_order())["show_id"]
    items, ordered = proposed_items(proposals["item_id"], mine, world, bundle, instant, held)
    nexts, begun = next_of_listeners(positives, ordered, "k")
    records = _user_records(k, world, _artists_known(profiled, heard))
    return Facts(
        records=records,
        needs=_needs(records.select("needs", "market", "tier").unique(), world),
        items=items,
        gone=world.gone,
        blocked=entries(k, "blocked_artists", "artist_id", "k"),
        hidden=entries(k, "hidden_items", "item_id", "k"),
        played=_last_plays(positives),
        skipped=skips.group_by("k", "item_id").agg(pl.col("event_ts").max()),
        nexts=nexts,
        begun=begun,
        catalogue=held.codes if held else None,
        tired=_tired(served, profiled, policy, instant),
        floors=_floors(served, records, world, policy),
    )


def _heard(ids: pl.Series, bundle: ShardBundle, held: HeldCatalogue | None) -> pl.DataFrame:
    return held.lookup(ids, HEARD_COLUMNS) if held else bundle.lookup("item", "item_id", ids, HEARD_COLUMNS)


def _taking_part(k: pl.DataFrame, positives: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the users whose sets follow their histories, and what was heard by those who did not opt out."""
    out, held = k["personalization_opt_out"], k[HELD_OUT]
    profiled = positives.join(k.filter(~out).select("k"), on="k", how="semi") if out.any() else positives
    return k.filter(~(out | held)) if (out | held).any() else k, profiled


def _last_plays(positives: pl.DataFrame) -> pl.DataFrame:
    completed = (pl.col("label") >= COMPLETED_LABEL).any().alias("completed")
    return positives.group_by("k", "item_id").agg(pl.col("event_ts").max(), completed)


def _tired(served: pl.DataFrame, positives: pl.DataFrame, policy: SurfacePolicy, instant: Instant) -> pl.DataFrame:
    """Return `k` and `item_id` of what was shown too often without a play, or played too often (`SurfacePolicy.fatigue_days`)."""
    if not (policy.fatigue_impressions or policy.overplayed):
        return pl.DataFrame(schema=PAIR)
    lately = pl.col("event_ts") > instant.effective_from - datetime.timedelta(days=policy.fatigue_days)
    pair, found = ["k", "item_id"], [positives.select("k", "item_id").clear()]
    positives = positives.join(served.select("k"), on="k", how="semi")
    if policy.fatigue_impressions:
        impressions = exploded(served, "impressions", key="k")
        heard = positives.group_by(pair).agg(pl.col("event_ts").max().alias("heard"))
        shown = impressions.filter(lately).join(heard, on=pair, how="left")
        since = shown.filter(pl.col("heard").is_null() | (pl.col("event_ts") > pl.col("heard")))
        found.append(_often(since, pair, policy.fatigue_impressions))
    if policy.overplayed:
        found.append(_often(positives.filter(lately), pair, policy.overplayed))
    return pl.concat(found).unique().sort(pair)


def _often(rows: pl.DataFrame, pair: list[str], times: int) -> pl.DataFrame:
    return rows.group_by(pair).len().filter(pl.col("len") >= times).select(pair)


def _floors(served: pl.DataFrame, records: pl.DataFrame, world: World, policy: SurfacePolicy) -> np.ndarray | None:
    if not policy.page:
        return None
    habits = served.select("k", "habits").explode("habits").drop_nulls("habits").unnest("habits")
    return floors(habits, records["market"], world.mix, policy)


def _artists_known(positives: pl.DataFrame, owners: pl.DataFrame) -> pl.DataFrame:
    primary = first_artist().alias("artists_known")
    artists = positives.select("k", "item_id").join(owners, on="item_id").select("k", primary)
    distinct = artists.drop_nulls().unique().sort("k", "artists_known")
    return distinct.group_by("k", maintain_order=True).agg("artists_known")


def newcomer() -> pl.Expr:
    """Tell of whom there is no history to go by: they have none, or it is not to be used; who is held out is none of them."""
    nothing = pl.col("positives").list.len().fill_null(0) == 0
    return ((nothing | pl.col("personalization_opt_out")) & ~pl.col(HELD_OUT)).alias("newcomer")


def _user_records(k: pl.DataFrame, world: World, artists_known: pl.DataFrame) -> pl.DataFrame:
    told = k.select(
        "k",
        pl.col("user_id").alias("record_key"),
        "user_id",
        pl.lit("").alias("context_key"),
        "market",
        "tier",
        pl.format("{}|{}", "market", "tier").alias("needs"),
        explicit_allowed(),
        max_age(),
        "languages",
        pl.col("personalization_opt_out").alias("opted_out"),
        "seen",
        pl.lit(None, pl.String).alias("seed_item_id"),
        pl.lit(None, pl.String).alias("seed_canonical_id"),
        pl.when(~pl.col("personalization_opt_out"))
        .then(pl.col("positives").list.last().struct.field("event_ts"))
        .alias("last_event_ts"),
        group_of(pl.col("tier"), world).alias("group"),
        pl.lit(True).alias("may_begin"),
        pl.lit(True).alias("other_books"),
        pl.lit(True).alias("may_video"),
        HELD_OUT,
        newcomer(),
    )
    return told.join(artists_known, on="k", how="left", maintain_order="left")


def seed_facts(
    seeds: pl.DataFrame,
    items: pl.DataFrame,
    proposals: pl.DataFrame,
    world: World,
    bundle: ShardBundle,
    instant: Instant,
    held: HeldCatalogue | None = None,
) -> Facts:
    """Return the facts of a block of seeds: whoever may play the seed may play what follows it.

    A candidate must be available in the seed's market for every tier the seed is available to, not explicit unless the
    seed is, rated no older, no video unless the seed is one, and no part of a show or book but the one that follows the seed. A seed that is not available in
    the market itself has no record.

    Args:
      seeds: `item_id`, `market`. items: `SEED_COLUMNS` of the seeds. held: as in `user_facts`.
    """
    own = seeds.join(items.select(SEED_COLUMNS), on="item_id")
    joined = own.join(tiers_of_seeds(own), on=["item_id", "market"]).sort("item_id", "market").with_row_index("k")
    reached = pl.format("{}|{}", "market", pl.col("tiers").list.join("+")).alias("needs")
    needs = joined.select(reached, "market", pl.col("tiers").alias("tier")).unique().explode("tier")
    told = items.with_columns(key="item_id")
    asked = pl.concat([proposals["item_id"], seeds["item_id"]])
    proposed, ordered = proposed_items(asked, shows_of_seeds(told), world, bundle, instant, held)
    unfinished = pl.col("record_key").is_in(unfinished_books(told, ordered).implode())
    records = _seed_records(joined, reached, world).with_columns(other_books=~unfinished)
    follows = next_of_seeds(told, ordered).rename({"key": "record_key"})
    nexts = records.select("k", "record_key").join(follows, on="record_key").drop("record_key")
    facts = _impersonal(records, needs, proposed, world, nexts)
    return dataclasses.replace(facts, catalogue=held.codes if held else None)


def _seed_records(joined: pl.DataFrame, reached: pl.Expr, world: World) -> pl.DataFrame:
    return joined.select(
        "k",
        pl.col("item_id").alias("record_key"),
        pl.lit(None, pl.String).alias("user_id"),
        pl.format("market={}", "market").alias("context_key"),
        "market",
        pl.lit(ANY).alias("tier"),
        reached,
        pl.col("explicit").alias("explicit_allowed"),
        pl.col("age_rating").fill_null(0).alias("max_age"),
        "languages",
        pl.lit(False).alias("opted_out"),
        pl.lit(True).alias("seen"),
        pl.col("item_id").alias("seed_item_id"),
        pl.col("canonical_id").alias("seed_canonical_id"),
        pl.lit(None, pl.Datetime("us", "UTC")).alias("last_event_ts"),
        group_of(pl.lit(ANY), world).alias("group"),
        pl.lit(None, pl.List(pl.String)).alias("artists_known"),
        pl.lit(False).alias("may_begin"),
        video().alias("may_video"),
        pl.lit(False).alias(HELD_OUT),
        pl.lit(False).alias("newcomer"),
    )


def group_facts(
    proposals: pl.DataFrame, world: World, bundle: ShardBundle, policy: SurfacePolicy, instant: Instant
) -> Facts:
    """Return the facts of the sets for anybody: one per market and tier, safe for any age."""
    groups = proposals.select(pl.col("key").alias("group")).unique().sort("group")
    parts = pl.col("group").str.split("|")
    records = groups.with_row_index("k").select(
        "k",
        pl.lit("*").alias("record_key"),
        pl.lit("*").alias("user_id"),
        pl.format("market={}|tier={}", parts.list.get(1), parts.list.get(2)).alias("context_key"),
        parts.list.get(1).alias("market"),
        parts.list.get(2).alias("tier"),
        pl.format("{}|{}", parts.list.get(1), parts.list.get(2)).alias("needs"),
        pl.lit(False).alias("explicit_allowed"),
        pl.lit(0, pl.Int32).alias("max_age"),
        pl.lit(None, pl.List(pl.String)).alias("languages"),
        pl.lit(False).alias("opted_out"),
        pl.lit(False).alias("seen"),
        pl.lit(None, pl.String).alias("seed_item_id"),
        pl.lit(None, pl.String).alias("seed_canonical_id"),
        pl.lit(None, pl.Datetime("us", "UTC")).alias("last_event_ts"),
        "group",
        pl.lit(None, pl.List(pl.String)).alias("artists_known"),
        pl.lit(not policy.by_seed).alias("may_begin"),
        pl.lit(True).alias("other_books"),
        pl.lit(not policy.by_seed).alias("may_video"),
        pl.lit(False).alias(HELD_OUT),
        pl.lit(True).alias("newcomer"),
    )
    needs = _needs(records.select("needs", "market", "tier").unique(), world)
    nothing = pl.Series("show_id", [], pl.String)
    items, _ = proposed_items(proposals["item_id"], nothing, world, bundle, instant)
    return _impersonal(records, needs, items, world, pl.DataFrame(schema=_OF_PARTS))


def proposed_items(
    ids: pl.Series,
    shows: pl.Series,
    world: World,
    bundle: ShardBundle,
    instant: Instant,
    held: HeldCatalogue | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Look up what the filters ask of every proposed item, sorted by id; of a held catalogue, of every item.

    Args:
      shows: others whose parts are asked for.

    Returns:
      The items, and all parts in order of their shows and of the others (`transforms.parts.line`).
    """
    if held:
        mine = pl.col("show_id").is_in(shows.drop_nulls().unique().implode())
        return held.codes.items, held.ordered.filter(mine) if len(shows) else held.ordered.clear()
    items = bundle.lookup("item", "item_id", ids.unique(), list(ITEM_COLUMNS))
    return _with_parts(items, shows, world, bundle, instant)


def _with_parts(
    items: pl.DataFrame, shows: pl.Series, world: World, bundle: Bundle, instant: Instant
) -> tuple[pl.DataFrame, pl.DataFrame]:
    every = pl.concat([items.filter(in_order())["show_id"], shows.alias("show_id")])
    ordered = line(parts_of(every, bundle, world.gone, instant.effective_from))
    opening = pl.col("item_id").is_in(openings(ordered)["item_id"].implode()).alias("opening")
    return items.with_columns(opening), ordered


def _needs(groups: pl.DataFrame, world: World) -> pl.DataFrame:
    """Spell out `*`: every known market (where none is known, what is offered in all), every tier."""
    markets = (
        pl.when(pl.col("market") == ANY)
        .then(pl.lit(world.markets or [ANY], pl.List(pl.String)))
        .otherwise(pl.concat_list("market"))
    )
    tiers = pl.when(pl.col("tier") == ANY).then(pl.lit(list(TIERS))).otherwise(pl.concat_list("tier"))
    return groups.select("needs", markets.alias("market"), tiers.alias("tier")).explode("market").explode("tier")


def _impersonal(
    records: pl.DataFrame, needs: pl.DataFrame, items: pl.DataFrame, world: World, nexts: pl.DataFrame
) -> Facts:
    key_and_time: dict[str, Any] = {"k": pl.UInt32, "item_id": pl.String, "event_ts": pl.Datetime("us", "UTC")}
    return Facts(
        records=records,
        needs=needs,
        items=items,
        gone=world.gone,
        blocked=pl.DataFrame(schema={"k": pl.UInt32, "artist_id": pl.String}),
        hidden=pl.DataFrame(schema={"k": pl.UInt32, "item_id": pl.String}),
        played=pl.DataFrame(schema={**key_and_time, "completed": pl.Boolean}),
        skipped=pl.DataFrame(schema=key_and_time),
        nexts=nexts,
        begun=nexts.clear(),
    )
