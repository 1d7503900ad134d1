"""The trained part of a bundle, as sources see it: vectors, the encoder, neighbour sessions.

Memory: once per worker process, the vectors of all items (`4 * dim` bytes each; with an index they are mapped, and its
codes are held) with their ids and reach, the encoder and the sessions; per task, the vectors of its users.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable

import numpy as np
import polars as pl

from schemas.inputs import ITEM
from schemas.models import INDEX, VOCABULARY, Space, SpaceMismatch
from transforms.embed.interactions import from_listens
from transforms.embed.vectors import EncoderFiles
from transforms.embed.weights import unpack
from transforms.filters import Instant
from transforms.histories import exploded
from transforms.id_index import IdIndex
from transforms.index.exact import ExactIndex
from transforms.index.files import Terms, open_index
from transforms.io.store import open_store
from transforms.kin import KIN_COLUMNS, Kin
from transforms.market_profiles import MarketProfiles
from transforms.reach import REACH_COLUMNS, Reach, read_world
from transforms.retrieve import ShardBundle
from transforms.shards import Shard, Task, read_tables
from transforms.vector_sources import Index, Items, long_form

ENCODER, ENCODER_VOCABULARY, SESSION_KNN = "encoder", "encoder_vocabulary", "session_knn"
Embedded = tuple[pl.Series, np.ndarray]
Inputs = tuple[tuple[str, tuple[str, ...]], ...]
_ONE_AT_A_TIME = threading.Lock()
_OF_ITEMS = ("item_embedding", INDEX.name, "item", "tombstone", "popularity")


@dataclasses.dataclass(frozen=True)
class ModelBundle(ShardBundle):
    """The datasets and models a task was given (`transforms.vector_sources.Models`).

    Attributes:
      space: of all vectors. Rows of another are refused where they are read.
      instant: when what is found will be offered.
      code_version: of the run; an index of other code is refused.
      own_users: returns those users that have a vector, sorted, and the vectors, in place of what the dataset holds.
    """

    space: Space
    instant: Instant
    code_version: str
    own_users: Callable[[], Embedded] | None = dataclasses.field(default=None, kw_only=True)

    def items(self) -> Items:
        """Return all items with a vector."""
        with _ONE_AT_A_TIME:  # tasks in threads of one process would each make their own
            return _items(*self._of_items)

    def market_profiles(self) -> MarketProfiles:
        """Return what markets play, once for the bundle; of items as the bundle was made with them."""
        with _ONE_AT_A_TIME:
            return _market_profiles(*self._of_items)

    @property
    def _of_items(self) -> tuple[str, Inputs, Terms, Instant]:
        inputs = tuple((name, self.shard.task.inputs.get(name, ())) for name in _OF_ITEMS)
        terms = Terms(self.space, self.code_version)
        return self.shard.store.root, inputs, terms, dataclasses.replace(self.instant, seed="")

    def user_vectors(self, keys: pl.Series) -> Embedded:
        """Return those of the keys that have a vector, sorted, and the vectors."""
        if self.own_users:
            users, vectors = self.own_users()
            mine = users.is_in(keys.implode())
            return users.filter(mine), vectors[mine.to_numpy()]
        found = self.lookup("user_embedding", "user_id", keys)
        demand_space(found, self.space, "user_embedding")
        return found["user_id"], _matrix(found, self.space)

    def encode(self, listens: pl.DataFrame, keys: pl.Series) -> np.ndarray:
        """Return the vectors of plays in order, `(num_keys, dim) float32`."""
        (weights,), numbered = self.shard.task.inputs[ENCODER], tuple(self.shard.paths(ENCODER_VOCABULARY))
        with _ONE_AT_A_TIME:
            encoder = _encoder(self.shard.store.root, weights, numbered)
        vectors: np.ndarray = encoder.plays(listens, keys)
        return vectors

    def embedded(self, users: pl.DataFrame) -> Embedded:
        """Return the users whose histories tell anything, and the vectors of these.

        Args:
          users: `user_id`, `positives`, `skips`, sorted.
        """
        mine = users.filter(pl.col("positives").list.len() > 0)
        vectors = self.encode(exploded(mine, "positives", "skips").rename({"user_id": "key"}), mine["user_id"])
        known = vectors.any(axis=1)
        return mine["user_id"].filter(pl.Series(known)), vectors[known]

    def neighbour_sessions(self, listens: pl.DataFrame, keys: pl.Series, limit: int) -> pl.DataFrame:
        """Return `key`, `item_id`, `raw_score`: what neighbour sessions hold, the best of each key."""
        (weights,) = self.shard.task.inputs[SESSION_KNN]
        item_ids = _numbered(tuple(self.shard.paths("vocabulary")))
        contexts = from_listens(listens, keys, item_ids)
        with _ONE_AT_A_TIME:
            sessions = _sessions(self.shard.store.root, weights)
        items, scores = sessions.top(contexts, limit)
        return long_form(keys, item_ids.ids, items, scores)


def demand_space(rows: pl.DataFrame, space: Space, what: str) -> None:
    """Refuse vectors of another space.

    Raises:
      SpaceMismatch: names both.
    """
    others = rows.filter(pl.col("space_id") != space.id)
    if others.height:
        raise SpaceMismatch(
            f"{others.height:,} rows of {what} are in the space {others['space_id'][0]}, but are asked for in the space"
            f" {space.id}, {space}: embed both with one model"
        )


def _matrix(rows: pl.DataFrame, space: Space) -> np.ndarray:
    return rows["vector"].to_numpy() if rows.height else np.empty((0, space.dim), np.float32)


@functools.lru_cache(maxsize=1)
def _items(root: str, inputs: Inputs, terms: Terms, instant: Instant) -> Items:
    shard = Shard(Task("items", 0, dict(inputs)), open_store(root))
    ids, index = _index(shard, terms)
    paths = shard.paths("item")
    reach = Reach.of((read_tables([path], ITEM, REACH_COLUMNS) for path in paths), ids, instant, read_world(shard))
    kin = Kin.read((read_tables([path], ITEM, KIN_COLUMNS) for path in paths), ids)
    return Items(ids, index, reach, kin)


@functools.lru_cache(maxsize=1)
def _market_profiles(root: str, inputs: Inputs, terms: Terms, instant: Instant) -> MarketProfiles:
    items, shard = _items(root, inputs, terms, instant), Shard(Task("profiles", 0, dict(inputs)), open_store(root))
    return MarketProfiles.of(ShardBundle(shard), items.numbers, items.index.take)


def _index(shard: Shard, terms: Terms) -> tuple[pl.Series, Index]:
    """Return the ids of all items with a vector, sorted, and the index a task was given, else an exact one."""
    built = shard.paths(INDEX.name)
    rows = shard.read("item_embedding", ["item_id", "space_id"] if built else None).sort("item_id")
    demand_space(rows, terms.space, "item_embedding")
    if not built:
        return rows["item_id"], ExactIndex.of(_matrix(rows, terms.space))
    records = [path for path in built if path.endswith(".parquet")]
    files = [path for path in built if path not in records]
    return rows["item_id"], open_index(read_tables(records, INDEX), files, rows["item_id"], terms)


@functools.lru_cache(maxsize=2)
def _numbered(paths: tuple[str, ...]) -> IdIndex:
    return IdIndex.of(read_tables(list(paths), VOCABULARY, ["item_id"])["item_id"])


@functools.lru_cache(maxsize=1)
def _encoder(root: str, weights: str, numbered: tuple[str, ...]):
    from transforms.embed.inference import Embedder  # torch: two seconds, for tasks that need it

    return Embedder.load(open_store(root), EncoderFiles(weights, numbered))


@functools.lru_cache(maxsize=1)
def _sessions(root: str, weights: str):
    from transforms.embed.session_knn import SessionKnn

    arrays, _ = unpack(open_store(root).read_bytes(weights), weights)
    return SessionKnn.from_arrays(arrays)
