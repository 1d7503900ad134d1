"""Retrieve: ask every source for every user of a shard, or for every seed item, block by block.

Memory: `BLOCK` users (or seeds) at a time with their proposals, about 600 x 100 bytes each, and what the sources look up
for them; of a seed, as much again for every market of which less than a source's limit is among them. A lookup streams through
its dataset and keeps the rows of the block.
"""

import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl

from schemas.catalogue import CONTRACTS
from schemas.policy import SurfacePolicy
from schemas.tallies import ANY
from transforms.filters import Instant
from transforms.histories import exploded
from transforms.holdout import held_out
from transforms.item_rules import in_order
from transforms.panel import Panel
from transforms.parts import (
    HEARD_COLUMNS,
    gone_items,
    line,
    next_of_listeners,
    parts_of,
    shows_of_seeds,
    unfinished_books,
)
from transforms.reach import markets_of, seed_rights, tiers_of_seeds, unwanted, user_rights
from transforms.shards import Output, Shard, read_tables
from transforms.sources import Audience, Source
from transforms.tallies import primary_artist

BLOCK = 4_000
OF_HISTORIES = ("user_id", "market", "positives", "skips", "impressions", "habits")


@dataclasses.dataclass(frozen=True, slots=True)
class ShardBundle:
    """The datasets a task was given, as sources see them (`transforms.sources.Bundle`)."""

    shard: Shard

    def read(self, name: str, columns: Sequence[str] | None = None, where: pl.Expr | None = None) -> pl.DataFrame:
        """Return the rows that satisfy `where`, in file order."""
        return self.shard.read(name, columns, where)

    def lookup(self, name: str, column: str, ids: pl.Series, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows whose `column` is one of `ids`, sorted by the contract's key."""
        contract, paths = CONTRACTS[name], self.shard.paths(name)
        if not paths or not len(ids):
            return read_tables([], contract, columns)
        wanted = ids.drop_nulls().unique().alias(column).to_frame().lazy()
        found = pl.scan_parquet(paths, hive_partitioning=False).join(wanted, on=column, how="semi")
        sort_key = [name for name in contract.key if columns is None or name in columns]
        picked = found.select(columns) if columns else found
        return picked.collect(engine="streaming").sort(sort_key)

    def parts(self, name: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield a dataset file by file."""
        return (read_tables([path], CONTRACTS[name], columns) for path in self.shard.paths(name))


OpenBundle = Callable[[Shard], ShardBundle]


def user_table(shard: Shard, where: pl.Expr | None = None) -> pl.DataFrame:
    """Return the users of the shard whose `user_id` satisfies `where`, from the snapshot or only from histories.

    Market and tier are made good. Columns: the user contract, `history_market`, the lists of `OF_HISTORIES`, `seen` (has a history). The market is that of the
    last play, else of registration, else `*`; an unknown tier is free. Users under a tombstone are left out.
    """
    histories = heard_by(shard.read("history", list(OF_HISTORIES), where))
    joined = shard.read("user", None, where).join(histories, on="user_id", how="full", coalesce=True)
    return made_good(joined, shard.read("tombstone", ["entity", "id"]), ["history_market", "market"]).sort("user_id")


def heard_by(histories: pl.DataFrame) -> pl.DataFrame:
    """Return histories as they stand beside users: `history_market` for `market`, and `seen`."""
    return histories.rename({"market": "history_market"}).with_columns(pl.lit(True).alias("seen"))


def made_good(joined: pl.DataFrame, tombstones: pl.DataFrame, markets: list[str]) -> pl.DataFrame:
    """Return users with their histories (`heard_by`), as `user_table` does, in their order.

    Args:
      markets: columns that say where a user is, the first that is not null before the others.
    """
    gone = tombstones["id"].filter(tombstones["entity"] == "user")
    out = joined["user_id"].is_in(gone.implode()) | joined["deletion_requested_at"].is_not_null()
    kept = joined.filter(~out) if out.any() else joined
    return kept.with_columns(
        pl.coalesce(*markets, pl.lit(ANY)).alias("market"),
        pl.col("tier").fill_null("free"),
        pl.col("seen", "personalization_opt_out").fill_null(False),
    )


def blocks(frame: pl.DataFrame, size: int = BLOCK) -> Iterator[pl.DataFrame]:
    """Yield the frame in slices of `size` rows."""
    for start in range(0, frame.height, size):
        yield frame.slice(start, size)


def user_audience(users: pl.DataFrame, bundle: ShardBundle, policy: SurfacePolicy, instant: Instant) -> Audience:
    """Return the audience of a block of users, without those who opted out of personalisation or are held out."""
    open_ = users.filter(~pl.col("personalization_opt_out") & ~held_out(users["user_id"], policy))
    listens, skips = (exploded(open_, column).rename({"user_id": "key"}) for column in ("positives", "skips"))
    artists = bundle.lookup("item", "item_id", listens["item_id"].unique(), HEARD_COLUMNS)
    ordered = line(parts_of(artists.filter(in_order())["show_id"], bundle, gone_items(bundle), instant.effective_from))
    _, begun = next_of_listeners(listens, ordered, "key")
    listens = listens.join(artists.select("item_id", primary_artist().alias("artist_id")), on="item_id", how="left")
    keys = open_.select(pl.col("user_id").alias("key"), "market", "tier", "follows")
    own = user_rights(open_), unwanted(open_, listens, skips, begun, bundle, policy, instant)
    return Audience(keys, listens.sort("key", "event_ts", "item_id"), skips, instant.effective_from, policy, *own)


def retrieve_users(
    shard: Shard,
    sources: Mapping[str, Source],
    policy: SurfacePolicy,
    instant: Instant,
    open_bundle: OpenBundle = ShardBundle,
) -> Output:
    """Propose for every user of a shard, in the proposal contract."""
    users, bundle = user_table(shard), open_bundle(shard)
    audiences = (user_audience(block, bundle, policy, instant) for block in blocks(users))
    return Panel(sources, policy.source_seconds).output(shard, audiences, bundle, users.height)


def seed_table(shard: Shard) -> pl.DataFrame:
    """Return what was played where, `item_id` and `market`, of one item shard, sorted; `*` is wherever it was not played yet.

    There it is followed by what may be played in all markets. What is offered in one market alone has no such row, nor has what was
    played in all that have charts.
    """
    played = shard.read("popularity_partial", ["item_id", "market"]).unique()
    markets = markets_of(shard.read("popularity", ["market"]))
    everywhere = played.filter(pl.col("market").is_in(markets)).group_by("item_id").len().filter(len=len(markets))
    columns = ["item_id", "deleted_at", "rec_eligible", "availability"]
    known = ShardBundle(shard).lookup("item", "item_id", played["item_id"], columns)
    there = pl.col("deleted_at").is_null() & ~pl.col("item_id").is_in(gone_items(shard).implode())
    known = known.filter(there, "rec_eligible")
    offered = pl.col("availability").list.eval(pl.element().struct.field("market"))
    abroad = known.filter(offered.is_null() | offered.list.contains(ANY) | (offered.list.n_unique() > 1))
    more = abroad.join(everywhere, on="item_id", how="anti").select("item_id", market=pl.lit(ANY))
    return pl.concat([played.join(known, on="item_id", how="semi"), more]).unique().sort("item_id", "market")


def retrieve_seeds(
    shard: Shard,
    sources: Mapping[str, Source],
    policy: SurfacePolicy,
    instant: Instant,
    open_bundle: OpenBundle = ShardBundle,
) -> Output:
    """Propose what follows every item of a shard that was played, in the proposal contract."""
    played, bundle = seed_table(shard), open_bundle(shard)
    seeds = played.select(pl.col("item_id").unique().sort())
    wanted = (played.join(block, on="item_id", how="semi", maintain_order="left") for block in blocks(seeds))
    audiences = (seed_audience(block, bundle, policy, instant) for block in wanted)
    return Panel(sources, policy.source_seconds).output(shard, audiences, bundle, len(seeds))


def seed_audience(played: pl.DataFrame, bundle: ShardBundle, policy: SurfacePolicy, instant: Instant) -> Audience:
    """Return the audience of a block of seed items; a seed is not offered to itself.

    Args:
      played: `item_id` and `market`, see `seed_table`.
    """
    columns = ["item_id", "item_type", "canonical_id", "artists", "show_id", "genres", "explicit", "age_rating",
               "languages", "is_trailer", "availability", "is_video"]  # fmt: skip
    known = bundle.lookup("item", "item_id", played["item_id"].unique(), columns)
    key = pl.col("item_id").alias("key")
    keys = known.select(
        key,
        "canonical_id",
        primary_artist().alias("artist_id"),
        pl.col("genres").list.first().alias("genre"),
        pl.lit(ANY).alias("market"),
        pl.lit(ANY).alias("tier"),
        pl.lit(None, pl.List(pl.String)).alias("follows"),
    )
    nobody = without_listens(keys, policy, instant.effective_from)
    told = known.with_columns(key)
    ordered = line(parts_of(shows_of_seeds(told), bundle, gone_items(bundle), instant.effective_from))
    rights = seed_rights(known, unfinished_books(told, ordered))
    own = tiers_of_seeds(played.join(known.select("item_id", "availability"), on="item_id"))
    places = own.select(key, "market", pl.col("tiers").list.join("+").alias("tier")).sort("key", "market")
    return dataclasses.replace(nobody, rights=rights, unwanted=known.select(key, "item_id"), places=places)


def without_listens(keys: pl.DataFrame, policy: SurfacePolicy, now: datetime.datetime) -> Audience:
    """Return the audience of keys that bring no history and no rights of their own."""
    listen = pl.Series(read_tables([], CONTRACTS["history"])["positives"]).explode().struct.unnest()
    listens = listen.select(
        pl.lit("", pl.String).alias("key"), pl.all(), pl.lit("", pl.String).alias("artist_id")
    ).clear()
    nobody = user_rights(read_tables([], CONTRACTS["user"]))
    return Audience(keys, listens, listens.drop("artist_id"), now, policy, nobody, listens.select("key", "item_id"))
