"""Reach: what each listener may be offered at all, known before anything is searched for.

Whoever searches all items and filters afterwards leaves those short whose taste goes with the filter: of a market, of a
language, of what they have heard. The same rules run again over the finished list (`transforms.filters`).
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from schemas.inputs import TIERS
from schemas.policy import SurfacePolicy
from schemas.tallies import ANY
from transforms.content_mix import market_mix, no_mix
from transforms.filters import Instant
from transforms.histories import entries
from transforms.item_rules import covers, item_flags, servable, video
from transforms.parts import COMPLETED_LABEL, PART_COLUMNS, gone_items, line, openings
from transforms.shards import Shard
from transforms.sources import TALK, Bundle
from transforms.tallies import owners

ADULT = 21
LEAST_AGE = {"0-12": 0, "13-17": 13, "18-24": 18}
KIDS = "kids"
REACH_COLUMNS = (*PART_COLUMNS, "languages", "availability", "is_video")
_TIER_BITS = {tier: 1 << bit for bit, tier in enumerate(TIERS)}
_ALL_TIERS, _OF_NO_TIER = 255, 128


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What every judgement of items rests on.

    Attributes:
      markets: every market anybody played in; an item for an unknown market must be available in all of them.
      gone: ids of items under a tombstone.
      mix: what each market plays, `market`, `kind` and `share`; none: no market's share counts.
    """

    markets: list[str]
    gone: pl.Series
    mix: pl.DataFrame = dataclasses.field(default_factory=no_mix)


def read_world(shard: Shard | Bundle) -> World:
    """Read what the task's charts and tombstones say; markets and tombstoned items, a few thousand ids."""
    charts = shard.read("popularity", ["market", "tier", "item_type", "weight"])
    return World(markets_of(charts), gone_items(shard), market_mix(charts.filter(pl.col("tier") == ANY)))


def markets_of(charts: pl.DataFrame) -> list[str]:
    """Return every market anybody played in, sorted."""
    return charts.filter(pl.col("market") != ANY)["market"].unique().sort().to_list()


@dataclasses.dataclass(frozen=True)
class Reach:
    """What the hard filters say of a catalogue without looking at a history.

    Memory: `num_markets + 10` bytes per item, for the markets that items are offered in by name; 8 bytes for every language
    of talk; while it is read, 100 bytes for every part that is to be heard in order.

    Attributes:
      servable: `(num_items,) bool`: known, recommendable, released, no trailer, and neither deleted nor taken down.
      everywhere: bool, offered to everybody. offered: by market, `(num_items,) uint8`, a bit per tier of `TIERS`.
      explicit: bool. age: int16, the least age of a listener.
      talk: bool, talk that says its languages. spoken: items by language.
      in_order: bool, a part that is to be heard after those before it; `opening`: the first of its show or book. book, video: bool.
      markets: every known one; who is in an unknown market is offered what is offered in all.
    """

    servable: np.ndarray
    everywhere: np.ndarray
    offered: Mapping[str, np.ndarray]
    explicit: np.ndarray
    age: np.ndarray
    talk: np.ndarray
    spoken: Mapping[str, np.ndarray]
    in_order: np.ndarray
    opening: np.ndarray
    book: np.ndarray
    video: np.ndarray
    markets: Sequence[str]

    @classmethod
    def of(cls, items: Iterable[pl.DataFrame], ids: pl.Series, instant: Instant, world: World) -> "Reach":
        """Read a catalogue, part by part.

        Args:
          items: `REACH_COLUMNS`. ids: of the items that are searched among, sorted; their numbers are their places.
        """
        n = len(ids)
        fit, everywhere, explicit, says, ordered, book, is_video = (np.zeros(n, bool) for _ in range(7))
        age, offered, spoken = np.zeros(n, np.int16), dict[str, np.ndarray](), dict[str, list[np.ndarray]]()
        numbers, parts = pl.DataFrame({"item_id": ids, "row": pl.int_range(n, eager=True)}), []
        for part in items:
            told = part.with_columns(item_flags(world.gone, instant.effective_from)).with_columns(servable())
            parts.append(told.filter("in_order").select(*PART_COLUMNS, "servable"))
            known = told.join(numbers, on="item_id")
            rows = known["row"].to_numpy()
            fit[rows], ordered[rows] = known["servable"].to_numpy(), known["in_order"].to_numpy()
            book[rows] = (known["item_type"] == "audiobook").to_numpy()
            is_video[rows] = known.select(video()).to_series().to_numpy()
            everywhere[rows] = known["availability"].is_null().to_numpy()
            explicit[rows], age[rows] = known["explicit"].to_numpy(), known["age_rating"].to_numpy()
            for market, own in _offers(known, instant).group_by("market"):
                bits = offered.setdefault(str(market[0]), np.zeros(n, np.uint8))
                np.bitwise_or.at(bits, own["row"].to_numpy(), own["bit"].to_numpy())
            talk = known.filter("talk", pl.col("languages").list.len() > 0).select("row", "languages")
            says[talk["row"].to_numpy()] = True
            talk = talk.explode("languages")
            for language, own in talk.group_by("languages"):
                spoken.setdefault(str(language[0]), []).append(own["row"].to_numpy())
        places = {language: np.concatenate(found) for language, found in spoken.items()}
        first = openings(line(pl.concat(parts)))["item_id"] if parts else ids.clear()
        opening = ids.is_in(first.implode()).to_numpy()
        told_apart = ordered, opening, book, is_video
        return cls(fit, everywhere, offered, explicit, age, says, places, *told_apart, tuple(world.markets))

    def mask(
        self, market: str | None, tier: str, explicit_allowed: bool, max_age: int, languages: Sequence[str] | None,
        **may: bool,
    ) -> np.ndarray:  # fmt: skip
        """Return what such a listener may be offered, `(num_items,) bool`.

        Args:
          market: `*` for an unknown one; None for wherever there is any that an item is offered in.
          tier: one that all must be offered to, or several, joined by `+`; any other for all.
          may: `may_begin`, the first parts of shows and books too (of those behind them, it depends on a history which one is
            open), `other_books` and `may_video`, books and videos too; each of them may, unless it is said.
        """
        assert may.keys() <= {"may_begin", "other_books", "may_video"}, may
        found = self.servable & self.available(market, tier) & (self.age <= max_age)
        if not explicit_allowed:
            found &= ~self.explicit
        if languages:
            foreign = self.talk.copy()
            for language in languages:
                foreign[self.spoken.get(language, [])] = False
            found &= ~foreign
        found &= (~self.in_order | self.opening) if may.get("may_begin", True) else ~self.in_order
        for name, some in (("other_books", self.book), ("may_video", self.video)):
            if not may.get(name, True):
                found &= ~some
        return found

    def available(self, market: str | None, tier: str) -> np.ndarray:
        """Return what is offered there to all of a tier, `(num_items,) bool`; see `mask`."""
        if market is None:
            return np.logical_or.reduce([self.everywhere, *(bits > 0 for bits in self.offered.values())])
        nowhere, bits = np.zeros(len(self.servable), np.uint8), np.uint8(0)
        for one in tier.split("+"):
            bits |= np.uint8(_TIER_BITS.get(one, _OF_NO_TIER))
        everywhere = self.offered.get(ANY, nowhere)
        markets = (self.markets or (ANY,)) if market == ANY else (market,)
        named = [one for one in markets if one in self.offered]
        found = everywhere & bits == bits if len(named) < len(markets) else np.ones(len(self.servable), bool)
        for one in named:
            found &= (self.offered[one] | everywhere) & bits == bits
        return self.everywhere | found


def _offers(known: pl.DataFrame, instant: Instant) -> pl.DataFrame:
    """Return `row`, `market` and the `bit` of a tier of every offer that covers the validity of a set."""
    offers = known.select("row", "availability").explode("availability").drop_nulls("availability")
    if not offers.height:
        return pl.DataFrame(schema={"row": pl.Int64, "market": pl.String, "bit": pl.UInt8})
    covering = offers.unnest("availability").filter(covers(instant.effective_from, instant.expires_at))
    every, some = covering.filter(pl.col("tiers").is_null()), covering.filter(pl.col("tiers").is_not_null())
    bit = pl.col("tiers").replace_strict(_TIER_BITS, default=0, return_dtype=pl.UInt8).alias("bit")
    return pl.concat(
        [
            every.select("row", "market", pl.lit(_ALL_TIERS, pl.UInt8).alias("bit")),
            some.select("row", "market", "tiers").explode("tiers").drop_nulls().select("row", "market", bit),
        ]
    )


def young() -> pl.Expr:
    """Tell whether a user is a child."""
    return ((pl.col("tier") == KIDS) | (pl.col("age_band") == "0-12")).fill_null(False)


@functools.cache
def explicit_allowed() -> pl.Expr:
    """Tell whether a user may hear what is explicit."""
    return (~pl.col("explicit_filter").fill_null(False) & ~young()).alias("explicit_allowed")


@functools.cache
def max_age() -> pl.Expr:
    """Return the highest age rating a user may hear."""
    least = pl.col("age_band").replace_strict(LEAST_AGE, default=ADULT, return_dtype=pl.Int32).fill_null(ADULT)
    return pl.when(young()).then(0).otherwise(least).alias("max_age")


def user_rights(users: pl.DataFrame) -> pl.DataFrame:
    """Return what `Reach.mask` asks, with `key`, of a block of users (see `transforms.retrieve.user_table`)."""
    return users.select(
        pl.col("user_id").alias("key"), "market", "tier", explicit_allowed(), max_age(), "languages",
        may_begin=pl.lit(True), other_books=pl.lit(True), may_video=pl.lit(True),
    )  # fmt: skip


def seed_rights(items: pl.DataFrame, unfinished: pl.Series) -> pl.DataFrame:
    """Return what `Reach.mask` asks of seeds: wherever they are played, by whoever may play them.

    Args:
      unfinished: seeds behind which their book goes on: it leaves no room for another one.
    """
    return items.select(
        pl.col("item_id").alias("key"),
        pl.lit(None, pl.String).alias("market"),
        pl.lit(ANY).alias("tier"),
        pl.col("explicit").fill_null(True).alias("explicit_allowed"),
        pl.col("age_rating").fill_null(0).cast(pl.Int32).alias("max_age"),
        "languages",
        pl.lit(False).alias("may_begin"),
        (~pl.col("item_id").is_in(unfinished.implode())).alias("other_books"),
        video().alias("may_video"),
    )


def tiers_of_seeds(seeds: pl.DataFrame) -> pl.DataFrame:
    """Return to which tiers each seed is offered in its market: `item_id`, `market`, `tiers`; none where it is not at all.

    In `*`, that it is offered to anywhere: whoever plays it somewhere has one of these.

    Args:
      seeds: `item_id`, `market`, `availability`.
    """
    every = pl.lit(list(TIERS), pl.List(pl.String))
    everywhere = seeds.filter(pl.col("availability").is_null()).select("item_id", "market", every.alias("tiers"))
    if not seeds["availability"].list.len().sum():
        return everywhere
    offers = seeds.select("item_id", "market", "availability").explode("availability").drop_nulls()
    offers = offers.unnest("availability", separator=".")
    there = pl.col("availability.market")
    here = offers.filter((there == ANY) | (there == pl.col("market")) | (pl.col("market") == ANY))
    tiers = here.select("item_id", "market", pl.col("availability.tiers").fill_null(every).alias("tiers"))
    spread = tiers.explode("tiers").drop_nulls().unique().sort("item_id", "market", "tiers")
    return pl.concat([everywhere, spread.group_by("item_id", "market", maintain_order=True).agg("tiers")])


def unwanted(
    users: pl.DataFrame,
    listens: pl.DataFrame,
    skips: pl.DataFrame,
    begun: pl.DataFrame,
    bundle: Bundle,
    policy: SurfacePolicy,
    instant: Instant,
) -> pl.DataFrame:
    """Return `key` and `item_id` of what each user must not be offered as something to discover.

    What was hidden or is of a blocked artist or show, what was skipped or played lately, talk that was heard out,
    and the beginnings of what they are in the middle of.

    Args:
      listens, skips: of the users, with `key`. begun: first parts that do not come next, likewise.
    """
    k = users.rename({"user_id": "key"})
    age = (pl.lit(instant.effective_from) - pl.col("event_ts")).dt.total_microseconds() / 86_400e6
    heard_out = pl.col("item_type").is_in(TALK) & (pl.col("label") >= COMPLETED_LABEL)
    found = [
        listens.filter((age <= policy.recent_play_days) | heard_out).select("key", "item_id"),
        skips.filter(age <= policy.recent_skip_days).select("key", "item_id"),
        entries(k, "hidden_items", "item_id"),
        begun.select("key", "item_id"),
        _blocked(k, bundle),
    ]
    return pl.concat(found).unique().sort("key", "item_id")


def _blocked(k: pl.DataFrame, bundle: Bundle) -> pl.DataFrame:
    blocked = entries(k, "blocked_artists", "owner")
    if not blocked.height:
        return blocked.rename({"owner": "item_id"})
    every = owners().alias("owner")
    theirs = every.list.set_intersection(pl.lit(blocked["owner"].unique().to_list())).list.len() > 0
    items = bundle.read("item", ["item_id", "artists", "show_id"], theirs).select("item_id", every)
    return blocked.join(items.explode("owner").drop_nulls(), on="owner").select("key", "item_id")
