"""Campaigns beside the catalogue: one that promotes an item that is not there, or not for its market, is left out whole."""

import polars as pl

from schemas.tallies import ANY
from transforms.decode import DETAIL, RULE
from transforms.shards import Shard
from validation.campaign_gates import UNAVAILABLE_ITEMS, UNKNOWN_ITEMS

_NOT_SERVED = ("draft", "paused", "ended")
_ITEM = ["item_id", "rec_eligible", "deleted_at", "availability"]


def offending(campaigns: pl.DataFrame, shard: Shard) -> pl.DataFrame:
    """Return the campaigns that are left out because of an item, with `rule` and `detail`; of several, the first item that offends.

    Memory: the items that are promoted. What is not served now, a draft for example, may name what is yet to come.

    Args:
      campaigns: of the campaign contract, and any other columns.
      shard: with the catalogue as its input `item`.
    """
    served = campaigns.filter(~pl.col("status").is_in(_NOT_SERVED).fill_null(False))
    wanted = served.select("campaign_id", "market", "start_ts", "end_ts", item_id="item_ids").explode("item_id")
    wanted = wanted.drop_nulls("item_id")
    items = shard.read("item", _ITEM, pl.col("item_id").is_in(wanted["item_id"].unique().implode()))
    told = wanted.join(items, on="item_id", how="left")
    held = pl.col("rec_eligible") & (pl.col("deleted_at").is_null() | (pl.col("deleted_at") > pl.col("end_ts")))
    unknown = told.filter(~held.fill_null(False)).with_columns(pl.lit(UNKNOWN_ITEMS).alias(RULE))
    unavailable = _unavailable(told.filter(held)).with_columns(pl.lit(UNAVAILABLE_ITEMS).alias(RULE))
    found = pl.concat(
        [unknown.select("campaign_id", "item_id", RULE), unavailable.select("campaign_id", "item_id", RULE)]
    )
    first = found.sort("campaign_id", RULE, "item_id").unique("campaign_id", keep="first", maintain_order=True)
    named = first.select("campaign_id", RULE, pl.format("item_id={}", "item_id").alias(DETAIL))
    return campaigns.join(named, on="campaign_id", how="inner", maintain_order="left")


def _unavailable(promoted: pl.DataFrame) -> pl.DataFrame:
    """Return the promoted items of which no offer in the campaign's market overlaps its flight."""
    some = promoted.filter(pl.col("availability").is_not_null())
    offers = some.explode("availability").unnest("availability", separator=".")
    where, market = pl.col("availability.market"), pl.col("market")
    here = (where == ANY) | (where == market) | (market.is_null() & where.is_not_null())
    begins = (pl.col("availability.from_ts") <= pl.col("end_ts")).fill_null(True)
    ends = (pl.col("availability.to_ts") >= pl.col("start_ts")).fill_null(True)
    offered = offers.filter(here & begins & ends).select("campaign_id", "item_id").unique()
    return some.join(offered, on=["campaign_id", "item_id"], how="anti")
