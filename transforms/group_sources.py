"""Sources of groups: what is proposed to whoever is in a market with a tier, or in any, for keys `*|market|tier`."""

import polars as pl

from schemas.tallies import ANY
from transforms.content_mix import KINDS, kind
from transforms.sources import CO_LISTEN_LIMIT, HOME_SEEDS, Audience, Bundle, Source, neighbours, no_seed, none_found
from transforms.tallies import primary_artist

CHART, CHART_OF_A_KIND = 2_000, 500
"""However few the plays of talk, books and videos beside music, a chart holds so many of each."""


def popular(audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Propose what is popular in a market for a tier, of all item types; of each kind of content the most popular too.

    Score: decayed plays in the market and tier, plus a thousandth of those in the market, plus a millionth of those
    everywhere: a short list is continued with the wider ones. What rises has no places of its own: plays that halve every week
    follow it. On nowplaying's sessions in their order, 240 taken for a day, the first 15 and 300 places hold 1.94 and 10.4 %
    of the plays of the day after, over the last 60 days; with a half-life of 2 days 1.93 and 9.3 %, of 30 days 1.78 and 9.9 %;
    and with every fifth place for what rose most, by 2 days against 7, 1.84 and 10.2 %.
    Memory: three charts of `CHART` items and `CHART_OF_A_KIND` of each kind per key.
    """
    charts = bundle.read("popularity", ["market", "tier", "item_type", "item_id", "weight"]).with_columns(kind())
    charts = charts.sort(
        "market", "tier", "weight", "item_id", "item_type", descending=[False, False, True, False, False]
    )
    charts = charts.filter(_charted("market", "tier"))
    keys = audience.keys.select("key", "market", "tier")
    wider = [
        keys,
        keys.with_columns(pl.lit(ANY).alias("tier")),
        keys.with_columns(pl.lit(ANY).alias("tier"), pl.lit(ANY).alias("market")),
    ]
    found = [
        level.unique()
        .join(charts, on=["market", "tier"])
        .select("key", "item_id", "kind", (pl.col("weight") * share).alias("raw_score"))
        for level, share in zip(wider, (1.0, 1e-3, 1e-6), strict=True)
    ]
    # The order of a sum of floats decides its last bit: largest first.
    ordered = pl.concat(found).sort("key", "item_id", "raw_score", "kind", descending=[False, False, True, False])
    summed = ordered.group_by("key", "item_id", maintain_order=True).agg(
        pl.col("raw_score").sum(), pl.col("kind").first()
    )
    best = summed.sort("key", "raw_score", "item_id", descending=[False, True, False]).filter(_charted("key"))
    return best.with_columns(*no_seed())


def _charted(*chart: str) -> pl.Expr:
    """Tell what a chart, in order, holds of itself and of each kind."""
    place, of_kind = (pl.int_range(pl.len()).over(*by) for by in (chart, (*chart, "kind")))
    return (place < CHART) | (of_kind < CHART_OF_A_KIND)


def popular_company(audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Propose what is listened to together with a market's top artists, but for the chart that a set would hold of it anyhow.

    It stands in for the co-listens of who has no history (domain reference, section 4). Score: that of
    `transforms.sources.co_listen` of one listener who played the best item of each of the 30 top artists, as much as the
    market plays the artist; an item of nobody stands for itself. No single listener led to it, so that it has no seeds.
    Memory: that of `popular`, and 30 seeds x 100 neighbours per key.
    """
    down = ["key", "raw_score", "item_id"]
    charted = popular(audience, bundle)[down].sort(down, descending=[False, True, False])
    chart = charted.filter(pl.int_range(pl.len()).over("key") < audience.policy.size)
    owners = bundle.lookup("item", "item_id", chart["item_id"].unique(), ["item_id", "artists", "show_id"])
    owned = chart.join(
        owners.select("item_id", primary_artist().alias("artist_id")), on="item_id", how="left", maintain_order="left"
    )
    artist = pl.coalesce("artist_id", "item_id").alias("artist_id")
    played = owned.group_by("key", artist, maintain_order=True).agg(
        pl.col("raw_score").sum().alias("strength"), pl.col("item_id").first()
    )
    best = played.sort("key", "strength", "item_id", descending=[False, True, False])
    top = best.filter(pl.int_range(pl.len()).over("key") < HOME_SEEDS)
    seeds = top.with_columns(pl.col("strength") / pl.col("strength").sum().over("key"), no_seed()[1].alias("event_ts"))
    found = neighbours(seeds, bundle, CO_LISTEN_LIMIT + audience.policy.size).join(
        chart, on=["key", "item_id"], how="anti"
    )
    return found.select("key", "item_id", "raw_score").with_columns(no_seed()).select(none_found().columns)


POPULAR = Source(popular, "decayed_plays", "popularity", "popular_in_market", CHART + len(KINDS) * CHART_OF_A_KIND)
HOME_GROUP_SOURCES: dict[str, Source] = {
    "home.popular_market": POPULAR,
    "home.popular_company": Source(popular_company, "cosine_sum", "co_listen", "goes_with_popular", CO_LISTEN_LIMIT),
}
NOW_PLAYING_GROUP_SOURCES: dict[str, Source] = {"np.popular_market": POPULAR}
