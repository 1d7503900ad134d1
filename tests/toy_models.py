"""In place of trained models: arithmetic whose answers move with everything a model could have learnt from."""

import dataclasses
import functools

import numpy as np
import polars as pl

from schemas.models import EMBEDDING_DIM
from transforms.conformance import MemoryBundle
from transforms.filters import Instant
from transforms.index.exact import ExactIndex
from transforms.kin import Kin
from transforms.reach import Reach, read_world
from transforms.vector_sources import Items, long_form


class ToyModel:
    """In place of an encoder: vectors that tell contents, identities and orders of plays apart."""

    def embed_items(self, numbers, features):
        spread = np.zeros((len(features), EMBEDDING_DIM), np.float32)
        rows = np.repeat(np.arange(len(features)), np.diff(features.starts))
        np.add.at(spread, (rows, features.tokens % (EMBEDDING_DIM - 1)), features.weights)
        spread[:, -1] = numbers + 2
        return spread

    def encode(self, contexts):
        found = np.zeros((len(contexts), EMBEDDING_DIM), np.float32)
        ages = contexts.starts[1:][contexts.rows] - np.arange(len(contexts.items))
        np.add.at(found, (contexts.rows, contexts.items), contexts.weights / ages)
        return found


@dataclasses.dataclass
class ToyModels(MemoryBundle):
    """Vectors from the tables; plays are as many vectors added up, the last ones counting most."""

    instant: Instant

    def items(self):
        return self._items

    @functools.cached_property
    def _items(self):
        rows = self.tables["item_embedding"].sort("item_id")
        reach = Reach.of([self.tables["item"]], rows["item_id"], self.instant, read_world(self))
        kin = Kin.read([self.tables["item"]], rows["item_id"])
        return Items(rows["item_id"], ExactIndex.of(rows["vector"].to_numpy()), reach, kin)

    def user_vectors(self, keys):
        rows = self.tables["user_embedding"].filter(pl.col("user_id").is_in(keys.implode())).sort("user_id")
        return rows["user_id"], rows["vector"].to_numpy()

    def encode(self, listens, keys):
        items = self.items()
        ids, vectors = items.ids, items.index.vectors
        known = listens.filter(pl.col("item_id").is_in(ids.implode()))
        made = np.zeros((len(keys), EMBEDDING_DIM), np.float32)
        age = known.select(pl.int_range(pl.len(), 0, -1).over("key")).to_series().to_numpy()
        at = keys.search_sorted(known["key"]).to_numpy()
        np.add.at(made, at, vectors[ids.search_sorted(known["item_id"]).to_numpy()] / age[:, None])
        return made

    def neighbour_sessions(self, listens, keys, limit):
        item_ids = self.tables["vocabulary"].sort("item_id")["item_id"]
        known = listens.filter(pl.col("item_id").is_in(item_ids.implode())).group_by("key").last().sort("key")
        votes = np.zeros((len(keys), len(item_ids)), np.float32)
        after = (item_ids.search_sorted(known["item_id"]).to_numpy() + 1) % len(item_ids)
        votes[keys.search_sorted(known["key"]).to_numpy(), after] = known["label"].to_numpy()
        best = np.argsort(-votes, axis=1, kind="stable")[:, :limit]
        found = long_form(keys, item_ids, best, np.take_along_axis(votes, best, 1))
        return found.filter(pl.col("raw_score") > 0)
