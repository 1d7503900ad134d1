"""What the checks of a catalogue are told of a shard of it: items to recommend by market, descriptions by kind, strange markets."""

import polars as pl

from schemas.tallies import ANY
from validation.catalogue_gates import DESCRIBED, ELIGIBLE_IN, ITEMS_OF, STRANGE_MARKETS

_CODE = "^[A-Z]{2}$"


def count_catalogue(items: pl.DataFrame) -> dict[str, int]:
    """Return the counters of some items; those of `*` may be played in every market and are in no other.

    An item counts in a market whenever it may be played there: that an offer begins or ends is no fault of the delivery.

    Args:
      items: `item_id`, `item_type`, `description`, `rec_eligible`, `deleted_at` and `availability` of the item contract.
    """
    offers = items.select("item_id", "availability", _eligible().alias("eligible")).explode("availability")
    markets = offers.select("item_id", "eligible", pl.col("availability").struct.field("market"))
    known = pl.col("market").str.contains(_CODE) | (pl.col("market") == ANY)
    strange = markets.filter(~known)["item_id"].n_unique()
    return {STRANGE_MARKETS: strange, **_by_market(items, markets.filter(known)), **_described(items)}


def _eligible() -> pl.Expr:
    return pl.col("rec_eligible") & pl.col("deleted_at").is_null()


def _by_market(items: pl.DataFrame, markets: pl.DataFrame) -> dict[str, int]:
    everywhere = items.filter(_eligible() & pl.col("availability").is_null()).select("item_id", market=pl.lit(ANY))
    pairs = pl.concat([everywhere, markets.filter("eligible").select("item_id", "market")]).unique()
    anywhere = pairs.filter(pl.col("market") == ANY).select("item_id")
    own = pairs.filter(pl.col("market") != ANY).join(anywhere, on="item_id", how="anti")
    counted = own.group_by("market").len().sort("market").rows()
    return {f"{ELIGIBLE_IN}{market}": n for market, n in [(ANY, anywhere.height), *counted]}


def _described(items: pl.DataFrame) -> dict[str, int]:
    counted = items.group_by("item_type").agg(pl.len(), pl.col("description").is_not_null().sum().alias("described"))
    rows = counted.sort("item_type").rows()
    return {f"{ITEMS_OF}{kind}": n for kind, n, _ in rows} | {f"{DESCRIBED}{kind}": n for kind, _, n in rows}
