"""How much of a listener's set was in the set of the day before, for some listeners."""

from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.hashing import hash64

SETS_AT_ONCE = 1_024
MOST = 2_000
"""Listeners: their median share is within a hundredth of that of all."""
_COLUMNS = ["record_key", "candidates.list.element.item_id"]


def kept_shares(files: Iterable[tuple[str, str]], most: int = MOST) -> np.ndarray:
    """Return what share of the candidates of a listener's set was in the one before, `(num_listeners,) float64`.

    Listeners are those with both sets in the first of the files, the least by hash; each further file is read only where they are
    too few. Memory: the keys of one file, `SETS_AT_ONCE` sets, and the items of `most` pairs of sets.

    Args:
      files: local paths of sets of the same listeners, of the date and of the day before.
    """
    found: list[np.ndarray] = []
    for now, before in files:
        left = most - sum(map(len, found))
        if left <= 0:
            break
        keys = _chosen(now, before, left)
        sets = _items(now, keys).join(_items(before, keys), on="record_key", suffix="_before").sort("record_key")
        kept = pl.col("item_id").list.set_intersection("item_id_before").list.len() / pl.col("item_id").list.len()
        found.append(sets.filter(pl.col("item_id").list.len() > 0).select(kept).to_series().to_numpy())
    return np.concatenate([np.zeros(0), *found])


def _chosen(now: str, before: str, most: int) -> pl.Series:
    """Return the keys that both files hold, the least by hash."""
    ours, theirs = (pl.Series(pq.read_table(path, columns=_COLUMNS[:1])["record_key"]) for path in (now, before))
    both = ours.filter(ours.is_in(theirs.implode()))
    order = np.argsort(hash64(both.to_arrow()), kind="stable")[:most]
    return both.gather(np.sort(order))


def _items(path: str, keys: pl.Series) -> pl.DataFrame:
    """Return `record_key` and the list `item_id` of the sets of some listeners."""
    nothing = pl.DataFrame(schema={"record_key": pl.String, "item_id": pl.List(pl.String)})
    return pl.concat([nothing, *(_of(batch, keys) for batch in _batches(path))])


def _batches(path: str) -> Iterator[pa.RecordBatch]:
    return pq.ParquetFile(path).iter_batches(batch_size=SETS_AT_ONCE, columns=_COLUMNS)


def _of(batch: pa.RecordBatch, keys: pl.Series) -> pl.DataFrame:
    frame = pl.DataFrame(batch).filter(pl.col("record_key").is_in(keys.implode()))
    items = pl.col("candidates").list.eval(pl.element().struct.field("item_id"))
    return frame.select("record_key", items.alias("item_id"))
