"""Retrieve: ask every source for every user of a shard, or for every seed item, block by block.

Memory: `BLOCK` users (or seeds) at a time with their proposals, about 600 x 100 bytes each, and what the sources look up
for them. A lookup streams through its dataset and keeps the rows of the block.
"""

import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl

from schemas.candidates import PROPOSAL
from schemas.catalogue import CONTRACTS
from schemas.tallies import ANY
from transforms.histories import exploded
from transforms.shards import Output, Shard, read_tables
from transforms.sources import Audience, Source, propose
from transforms.tallies import primary_artist

BLOCK = 4_000


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


OpenBundle = Callable[[Shard], ShardBundle]


def user_table(shard: Shard) -> pl.DataFrame:
    """Return every user of the shard, from the snapshot or only from histories, with market and tier made good.

    Columns: the user contract, `history_market`, `positives`, `skips`, `seen` (has a history). The market is that of the
    last play, else of registration, else `*`; an unknown tier is free. Users under a tombstone are left out.
    """
    users = shard.read("user")
    histories = shard.read("history", ["user_id", "market", "positives", "skips"]).rename({"market": "history_market"})
    joined = users.join(histories.with_columns(pl.lit(True).alias("seen")), on="user_id", how="full", coalesce=True)
    gone = shard.read("tombstone", ["id"], pl.col("entity") == "user")["id"]
    kept = joined.filter(~pl.col("user_id").is_in(gone.implode()) & pl.col("deletion_requested_at").is_null())
    return kept.with_columns(
        pl.coalesce("history_market", "market", pl.lit(ANY)).alias("market"),
        pl.col("tier").fill_null("free"),
        pl.col("seen").fill_null(False),
        pl.col("personalization_opt_out").fill_null(False),
    ).sort("user_id")


def blocks(frame: pl.DataFrame, size: int = BLOCK) -> Iterator[pl.DataFrame]:
    """Yield the frame in slices of `size` rows."""
    for start in range(0, frame.height, size):
        yield frame.slice(start, size)


def user_audience(users: pl.DataFrame, bundle: ShardBundle, now: datetime.datetime) -> Audience:
    """Return the audience of a block of users; who opted out of personalisation brings no listens and no follows."""
    open_ = users.filter(~pl.col("personalization_opt_out"))
    listens, skips = (exploded(open_, column).rename({"user_id": "key"}) for column in ("positives", "skips"))
    artists = bundle.lookup("item", "item_id", listens["item_id"].unique(), ["item_id", "artists", "show_id"])
    listens = listens.join(artists.select("item_id", primary_artist().alias("artist_id")), on="item_id", how="left")
    keys = open_.select(pl.col("user_id").alias("key"), "market", "tier", "follows")
    return Audience(keys, listens.sort("key", "event_ts", "item_id"), skips, now)


def retrieve_users(
    shard: Shard, sources: Mapping[str, Source], now: datetime.datetime, open_bundle: OpenBundle = ShardBundle
) -> Output:
    """Propose for every user of a shard, in the proposal contract."""
    users, bundle = user_table(shard), open_bundle(shard)
    found = [propose(sources, user_audience(block, bundle, now), bundle) for block in blocks(users)]
    frame = pl.concat(found) if found else read_tables([], PROPOSAL)
    return Output(frame.sort(PROPOSAL.key), rows_in=users.height)


def seed_table(shard: Shard) -> pl.DataFrame:
    """Return what was played where: `item_id`, `market`, of one item shard, sorted."""
    played = shard.read("popularity_partial", ["item_id", "market"]).unique()
    known = shard.read("item", ["item_id"], pl.col("deleted_at").is_null() & pl.col("rec_eligible"))
    gone = shard.read("tombstone", ["id"], pl.col("entity") == "item")["id"]
    kept = played.join(known, on="item_id", how="semi").filter(~pl.col("item_id").is_in(gone.implode()))
    return kept.sort("item_id", "market")


def retrieve_seeds(
    shard: Shard, sources: Mapping[str, Source], now: datetime.datetime, open_bundle: OpenBundle = ShardBundle
) -> Output:
    """Propose what follows every item of a shard that was played, in the proposal contract."""
    seeds = seed_table(shard).select("item_id").unique(maintain_order=True)
    bundle = open_bundle(shard)
    known = shard.read("item", ["item_id", "canonical_id", "artists", "show_id", "genres"])
    described = (
        seeds.join(known, on="item_id")
        .select(
            pl.col("item_id").alias("key"),
            "canonical_id",
            primary_artist().alias("artist_id"),
            pl.col("genres").list.first().alias("genre"),
            pl.lit(ANY).alias("market"),
            pl.lit(ANY).alias("tier"),
            pl.lit(None, pl.List(pl.String)).alias("follows"),
        )
        .sort("key")
    )
    found = [propose(sources, without_listens(block, now), bundle) for block in blocks(described)]
    frame = pl.concat(found) if found else read_tables([], PROPOSAL)
    return Output(frame.sort(PROPOSAL.key), rows_in=described.height)


def without_listens(keys: pl.DataFrame, now: datetime.datetime) -> Audience:
    """Return the audience of keys that bring no history of their own."""
    listen = pl.Series(read_tables([], CONTRACTS["history"])["positives"]).explode().struct.unnest()
    listens = listen.select(
        pl.lit("", pl.String).alias("key"), pl.all(), pl.lit("", pl.String).alias("artist_id")
    ).clear()
    return Audience(keys, listens, listens.drop("artist_id"), now)
