"""What the report page knows of candidate sets: counts over a bounded read, and which few sets to show by name.

Memory: one batch of `BATCH_SETS` sets with two short strings per candidate, about 50 MB; and a handful of picked rows.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import polars as pl
import pyarrow.parquet as pq

from schemas.hashing import hash64, mix64
from schemas.manifest import DataFile, Manifest
from schemas.tallies import ANY
from transforms.io.store import Store
from transforms.sources import TALK

BATCH_SETS = 2_048
SETS_READ = 30_000
MAX_PICKS = 12
TALK_SHARE = 0.5
TALK_LISTENS = 5
_TALK_KEYS = 64
_FLAT = ["record_key", "context_key", "market", "tier", "fallback_level", "degraded_reasons"]
_TYPE, _FAMILIARITY = "candidates.list.element.item_type", "candidates.list.element.familiarity"
_PICK = {"file": pl.Int64, "row": pl.Int64, "hash": pl.UInt64, "record_key": pl.String, "context_key": pl.String,
         "market": pl.String, "tier": pl.String, "fallback_level": pl.Int32, "seen": pl.Boolean}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Pick:
    """One set to show: row `row` of the file `path`, chosen for `why`."""

    path: str
    row: int
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """Counts over the sets of one surface.

    Attributes:
      levels, degraded: sets by fallback level and by reason, over all sets.
      sets_read: sets the next two are counted over: whole files, which are hash shards, until `SETS_READ`.
      mix: candidates by market and item type. familiarity: candidates by how well the user knows them.
    """

    levels: Mapping[int, int]
    degraded: Mapping[str, int]
    sets_read: int
    mix: Mapping[str, Mapping[str, int]]
    familiarity: Mapping[str, int]
    picks: tuple[Pick, ...]


def sampled(files: Sequence[DataFile], limit: int = SETS_READ) -> list[DataFile]:
    """Return the files to read closely: the smallest first, until they hold `limit` rows."""
    chosen, rows = list[DataFile](), 0
    for file in sorted(files, key=lambda f: (f.rows, f.path)):
        if rows >= limit:
            break
        chosen.append(file)
        rows += file.rows
    return chosen


def survey(store: Store, sets: Manifest, talk_keys: frozenset[str]) -> Survey:
    """Read the sets of a surface once.

    Args:
      talk_keys: record keys known to be about talk, one of which is shown if it has a set.
    """
    levels, degraded = collections.Counter[int](), collections.Counter[str]()
    mix, familiarity = collections.Counter[tuple[str, str]](), collections.Counter[str]()
    close = sampled(sets.files)
    best = {name: pl.DataFrame(schema=_PICK) for name in _CATEGORIES}
    for number, file in enumerate(sorted(sets.files, key=lambda f: f.path)):
        near, row = file in close, 0
        for batch in _batches(store.local(file.path), near):
            levels.update(dict(batch["fallback_level"].value_counts().rows()))
            degraded.update(dict(batch["degraded_reasons"].explode().drop_nulls().value_counts().rows()))
            if near:
                mix.update(_mix(batch))
                familiarity.update(_familiarity(batch))
                best = _better(best, _pickable(batch, number, row), talk_keys)
            row += batch.height
    paths = [file.path for file in sorted(sets.files, key=lambda f: f.path)]
    return Survey(
        dict(sorted(levels.items())),
        dict(sorted(degraded.items())),
        sum(file.rows for file in close),
        _by_market(mix),
        dict(sorted(familiarity.items())),
        _picked(best, paths),
    )


def _batches(path: str, near: bool) -> Iterator[pl.DataFrame]:
    columns = [*_FLAT, _TYPE, _FAMILIARITY] if near else _FLAT
    for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH_SETS, columns=columns):
        frame = pl.from_arrow(batch)
        assert isinstance(frame, pl.DataFrame)
        yield frame


def _mix(batch: pl.DataFrame) -> dict[tuple[str, str], int]:
    types = batch.select("market", pl.col("candidates").list.eval(pl.element().struct.field("item_type")).alias("type"))
    counted = types.explode("type").drop_nulls("type").group_by("market", "type").len()
    return {(market, kind): n for market, kind, n in counted.rows()}


def _familiarity(batch: pl.DataFrame) -> dict[str, int]:
    flat = batch["candidates"].explode().drop_nulls()
    return dict(flat.struct.field("familiarity").value_counts().rows()) if len(flat) else {}


def _by_market(mix: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    markets: dict[str, dict[str, int]] = {}
    for (market, kind), n in sorted(mix.items()):
        markets.setdefault(market, {})[kind] = n
    return markets


_LEVEL, _KNOWN, _KIDS = pl.col("fallback_level"), pl.col("record_key") != ANY, pl.col("tier") == "kids"
_SEEN = _KNOWN & pl.col("seen") & ~_KIDS
_CATEGORIES: dict[str, tuple[pl.Expr, int]] = {
    "personal": (_SEEN & (_LEVEL == 0), 2),
    "partly personal": (_SEEN & (_LEVEL == 1), 2),
    "about talk": (_SEEN & pl.col("__talk"), 1),
    "a child's account": (_KNOWN & pl.col("seen") & _KIDS, 1),
    "market and content": (_KNOWN & (_LEVEL == 2), 1),
    "what is popular": (_KNOWN & (_LEVEL == 3), 1),
    "never seen": (~_KNOWN & (pl.col("market") != ANY), 1),
    "never seen, market unknown": (~_KNOWN & (pl.col("market") == ANY), 1),
    "another market": (_SEEN, MAX_PICKS),
    "another one": (_SEEN, MAX_PICKS),
    "one more": (_KNOWN, MAX_PICKS),
}


def _pickable(batch: pl.DataFrame, file: int, first_row: int) -> pl.DataFrame:
    order = mix64(hash64(batch["record_key"].to_arrow()), hash64(batch["context_key"].to_arrow()))
    return batch.select(
        pl.lit(file, pl.Int64).alias("file"),
        pl.int_range(first_row, first_row + pl.len(), dtype=pl.Int64).alias("row"),
        pl.Series("hash", order, pl.UInt64),
        *_FLAT[:-1],
        (~pl.col("degraded_reasons").list.contains("no_history")).alias("seen"),
    )


def _better(best: Mapping[str, pl.DataFrame], rows: pl.DataFrame, talk_keys: frozenset[str]) -> dict[str, pl.DataFrame]:
    """Keep, per category, the rows of the smallest hash; one per market where markets are to vary."""
    talk = rows.with_columns(pl.col("record_key").is_in(sorted(talk_keys)).alias("__talk"))
    kept = {}
    for name, (test, count) in _CATEGORIES.items():
        found = talk.filter(test).drop("__talk")
        ordered = pl.concat([best[name], found]).sort("hash", "record_key", "context_key")
        if name == "another market":
            ordered = ordered.unique("market", keep="first", maintain_order=True)
        kept[name] = ordered.head(count)
    return kept


def _picked(best: Mapping[str, pl.DataFrame], paths: Sequence[str]) -> tuple[Pick, ...]:
    """Walk through the categories in order; a set is shown once, and a record key only once while others are left."""
    chosen: dict[tuple[int, int], Pick] = {}
    seen = set[tuple[str, str]]()
    for name, rows in best.items():
        for row in rows.iter_rows(named=True):
            key = (row["record_key"], row["context_key"] if row["record_key"] == ANY else "")
            if len(chosen) < MAX_PICKS and key not in seen:
                seen.add(key)
                chosen[row["file"], row["row"]] = Pick(paths[row["file"]], row["row"], name)
    return tuple(chosen.values())


def talk_listeners(store: Store, histories: Manifest) -> frozenset[str]:
    """Return a few users at least half of whose last positives are talk: the smallest hashes of a bounded read."""
    found = pl.DataFrame(schema={"user_id": pl.String})
    for file in sampled(histories.files):
        columns = ["user_id", "positives.list.element.item_type"]
        for batch in pq.ParquetFile(store.local(file.path)).iter_batches(batch_size=BATCH_SETS, columns=columns):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            talk = pl.col("positives").list.eval(pl.element().struct.field("item_type").is_in(TALK))
            rows = frame.select("user_id", talk.list.mean().alias("share"), talk.list.len().alias("n"))
            some = rows.filter((pl.col("share") >= TALK_SHARE) & (pl.col("n") >= TALK_LISTENS)).select("user_id")
            found = _smallest(pl.concat([found, some]), "user_id")
    return frozenset(found["user_id"])


def talk_items(store: Store, items: Manifest) -> frozenset[str]:
    """Return a few talk items: the smallest hashes of a bounded read."""
    found = pl.DataFrame(schema={"item_id": pl.String})
    for file in sampled(items.files):
        columns = ["item_id", "item_type"]
        for batch in pq.ParquetFile(store.local(file.path)).iter_batches(batch_size=BATCH_SETS, columns=columns):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            some = frame.filter(pl.col("item_type").is_in(TALK)).select("item_id")
            found = _smallest(pl.concat([found, some]), "item_id")
    return frozenset(found["item_id"])


def _smallest(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    order = pl.Series("__order", hash64(rows[column].to_arrow()), pl.UInt64)
    return rows.with_columns(order).sort("__order", column).head(_TALK_KEYS).drop("__order")


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """How the candidates of a surface are spread over items.

    Attributes:
      points: Lorenz curve: share of covered items, the least shown first, and their share of all candidates.
      top: `(item_id, sets, sets_chosen)` of the items most often there for another reason than the fallback source.
    """

    points: tuple[tuple[float, float], ...]
    top: tuple[tuple[str, int, int], ...]


CURVE_POINTS = 64
TOP_ITEMS = 10


def exposure_curve(store: Store, exposure: Manifest) -> Curve:
    """Read the exposure of items in streams; memory: one row per distinct number of sets, and ten items."""
    paths = [store.local(file.path) for file in exposure.files if file.rows]
    if not paths:
        return Curve((), ())
    lazy = pl.scan_parquet(paths, hive_partitioning=False)
    values = lazy.group_by("sets").len().collect(engine="streaming").sort("sets")
    # Many items may share the tenth place: their ids break the tie, or the page would differ from run to run.
    chosen = lazy.select("sets_chosen").top_k(TOP_ITEMS, by="sets_chosen").collect(engine="streaming")
    tenth = chosen["sets_chosen"].min()
    above = lazy.filter(pl.col("sets_chosen") > tenth).top_k(TOP_ITEMS, by="sets_chosen").collect(engine="streaming")
    level = lazy.filter(pl.col("sets_chosen") == tenth).bottom_k(TOP_ITEMS, by="item_id").collect(engine="streaming")
    best = pl.concat([above, level]).sort("sets_chosen", "item_id", descending=[True, False]).head(TOP_ITEMS)
    return Curve(_lorenz(values), tuple(best.select("item_id", "sets", "sets_chosen").rows()))


def _lorenz(values: pl.DataFrame) -> tuple[tuple[float, float], ...]:
    """Return at most `CURVE_POINTS + 1` points of the curve from `sets` and `len`, sorted by `sets`."""
    items = values["len"].cast(pl.Float64).cum_sum()
    mass = (values["len"].cast(pl.Float64) * values["sets"]).cum_sum()
    x, y = (items / items[-1]).to_list(), (mass / mass[-1]).to_list()
    points, step = [(0.0, 0.0)], 1.0 / CURVE_POINTS
    for here, share in zip(x, y, strict=True):
        if here - points[-1][0] >= step or share - points[-1][1] >= step or here == x[-1]:
            points.append((round(here, 5), round(share, 5)))
    return tuple(points)
