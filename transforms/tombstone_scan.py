"""Tombstone scan: what must disappear, looked for in everything that is reached from what is live.

Users are looked for in every dataset that names them, items in candidate sets, where they would be shown.
Memory: the ids of the tombstones, and one column of one file, or the ids in `SETS_AT_ONCE` sets.
"""

import dataclasses
import datetime
from collections.abc import Iterator

import polars as pl
import pyarrow.parquet as pq

from schemas.audit import TOMBSTONE_SCAN
from transforms.evaluation_lists import SETS_AT_ONCE
from transforms.shards import Output, Shard

NAMING_USERS = {"candidate_set": "record_key", "proposal": "key", "history": "user_id", "user_embedding": "user_id",
                "event": "user_id", "user": "user_id"}  # fmt: skip
"""The column of a dataset that may hold the id of a user."""
DAYS_TO_ERASE = 30
"""What is not shown must be gone after so many days; what is shown, at once."""
_ITEM = "candidates.list.element.item_id"


@dataclasses.dataclass(frozen=True)
class ScanFiles:
    """Count what is under a tombstone in some files of one dataset.

    Attributes:
      now: tombstones that take effect later do not count yet.
    """

    now: datetime.datetime

    def __call__(self, shard: Shard) -> Output:
        ((place, _),) = [pair for pair in shard.task.inputs.items() if pair[0] != "tombstone"]
        reached, dataset, qualifier = place.split("/")
        gone = shard.read("tombstone", ["entity", "id", "effective_ts"], pl.col("effective_ts") <= self.now)
        overdue = gone.filter(pl.col("effective_ts") < self.now - datetime.timedelta(days=DAYS_TO_ERASE))
        found = pl.concat([_nothing(), *(part for path in shard.paths(place) for part in hits_in(path, dataset, gone))])
        late = found.join(overdue.select("entity", "id"), on=["entity", "id"], how="semi")
        hits = {"user_hits": _added(found, "user"), "item_hits": _added(found, "item"), "overdue_hits": _added(late)}
        day, files = (self.now - datetime.timedelta(microseconds=1)).date(), len(shard.paths(place))
        row = {"logical_date": day, "reached": reached, "dataset": dataset, "qualifier": qualifier,
               "task": shard.task.name, "files": files}  # fmt: skip
        both = hits["user_hits"] + hits["item_hits"]
        counters = {f"{reached}_hits": both, "overdue_hits": hits["overdue_hits"], "files": files}
        frame = pl.DataFrame([row | hits])
        return Output(frame.select(TOMBSTONE_SCAN.schema.names), rows_in=gone.height, counters=counters)


def _nothing() -> pl.DataFrame:
    return pl.DataFrame(schema={"entity": pl.String, "id": pl.String, "hits": pl.Int64})


def _added(found: pl.DataFrame, entity: str | None = None) -> int:
    return int((found if entity is None else found.filter(pl.col("entity") == entity))["hits"].sum())


def hits_in(path: str, dataset: str, gone: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield `entity`, `id`, `hits` of what a file holds of what is gone; a seed of a set is an item.

    Args:
      gone: `entity`, `id`.
    """
    named = pl.scan_parquet(path, hive_partitioning=False).select(pl.col(NAMING_USERS[dataset]).alias("id"))
    entities = ("user", "item") if dataset == "candidate_set" else ("user",)
    wanted = gone.filter(pl.col("entity").is_in(entities)).select("entity", "id")
    yield _counted(named.join(wanted.lazy(), on="id").collect(engine="streaming"))
    if dataset == "candidate_set":
        for batch in pq.ParquetFile(path).iter_batches(batch_size=SETS_AT_ONCE, columns=[_ITEM]):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            items = frame["candidates"].explode().struct.field("item_id").alias("id").to_frame()
            yield _counted(items.join(wanted.filter(pl.col("entity") == "item"), on="id"))


def _counted(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by("entity", "id").agg(pl.len().cast(pl.Int64).alias("hits")).sort("entity", "id")
