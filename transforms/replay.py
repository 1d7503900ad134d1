"""Replay: some listeners' sets once more, made as the stream makes them, beside those that a batch has just made.

    histories -> embedded anew -> the sources, asked in a small block -> filters, blend -> the same items in the same order?

A batch takes vectors over from earlier runs, asks for thousands of listeners at once and lets one stage read what another wrote; the
stream does none of this. Where they differ, one of them is wrong, and what was evaluated is not what is served (domain
reference, section 12, failure 1).
Memory: `MOST` listeners, `SHARE` of a shard at most, with their proposals and sets.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.candidates import PROPOSAL
from schemas.hashing import hash64
from transforms.facts import user_facts
from transforms.model_bundle import ModelBundle
from transforms.panel import Panel
from transforms.reach import read_world
from transforms.recommend import Recommend, made, offered_to
from transforms.retrieve import user_audience, user_table
from transforms.shards import Output, Shard, read_tables
from transforms.sources import Source

MOST, SHARE = 10_000, 0.1
"""Listeners of a run; of fewer than ten times as many, a tenth."""
TOLERANCE = 1e-5
"""Between two vectors of one history (domain reference, section 10)."""
REPLAYED, DIFFER, VECTORS_DIFFER = "replayed", "replayed_sets_differ", "replayed_vectors_differ"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddedAnew(ModelBundle):
    """A bundle in which the vectors of users are made of their histories, here and now.

    Attributes:
      users: `user_id`, `positives`, `skips`, sorted.
    """

    users: pl.DataFrame

    @classmethod
    def of(cls, bundle: ModelBundle, users: pl.DataFrame) -> "EmbeddedAnew":
        """Return the bundle for some users."""
        given = {field.name: getattr(bundle, field.name) for field in dataclasses.fields(bundle)}
        return cls(**given, users=users)

    @functools.cached_property
    def _vectors(self) -> tuple[pl.Series, np.ndarray, int]:
        """The users with a vector, sorted, the vectors, and how many users have another than was stored.

        One that does not differ is the stored one: two devices round differently.
        """
        ids, anew = self.embedded(self.users)
        stored = dict(zip(*super().user_vectors(self.users["user_id"]), strict=True))
        own = np.array([stored.get(user, np.full_like(one, np.inf)) for user, one in zip(ids, anew, strict=True)])
        same = np.abs(anew - own.reshape(anew.shape)).max(axis=1, initial=0.0) <= TOLERANCE
        anew[same] = own[same]
        return ids, anew, int((~same).sum()) + len(stored.keys() - set(ids))

    @property
    def differ(self) -> int:
        """How many of the users have another vector than was stored, or one of the two and not the other."""
        return self._vectors[2]

    def user_vectors(self, keys: pl.Series) -> tuple[pl.Series, np.ndarray]:
        """Return those of the keys that have a vector, sorted, and the vectors."""
        ids, vectors, _ = self._vectors
        mine = ids.is_in(keys.implode())
        return ids.filter(mine), vectors[mine.to_numpy()]


@dataclasses.dataclass(frozen=True)
class Replayed:
    """Make the sets of a shard's users, and some of them twice.

    Attributes:
      sources: of users. most: listeners of a shard.
    """

    recommend: Recommend
    sources: Mapping[str, Source]
    open_bundle: Callable[[Shard], ModelBundle]
    most: int

    def __call__(self, shard: Shard) -> Output:
        """Return the sets of the shard's users, and in the counters how many were made again and differ."""
        sets = self.recommend.users(shard)
        assert isinstance(sets.frame, pa.Table)
        chosen = sample(sets.frame["record_key"], self.most)
        first = sets.frame.filter(pc.is_in(sets.frame["record_key"], value_set=chosen))
        again, vectors_differ = self._again(shard, pl.Series(chosen))
        told = {REPLAYED: len(chosen), DIFFER: differing(first, again), VECTORS_DIFFER: vectors_differ}
        return dataclasses.replace(sets, counters={**sets.counters, **told})

    def _again(self, shard: Shard, chosen: pl.Series) -> tuple[pa.Table, int]:
        users = user_table(shard, pl.col("user_id").is_in(chosen.implode()))
        bundle = EmbeddedAnew.of(self.open_bundle(shard), users.select("user_id", "positives", "skips"))
        one, world = self.recommend, read_world(shard)
        provenance = one.provenance_of(shard)
        gone = {reason.partition(":")[2] for reason in provenance.left_out}
        sources = {name: source for name, source in self.sources.items() if name not in gone}
        audience = user_audience(users, bundle, one.policy, one.instant)
        own = Panel(sources, one.policy.source_seconds).ask(audience, bundle)
        offered = offered_to(users, own, read_tables(shard.paths("groups"), PROPOSAL), world)
        facts = user_facts(users, offered, world, bundle, one.policy, one.instant)
        return made(offered, facts, one.policy, one.instant, one.sources, provenance)[1], bundle.differ


def sample(keys: pa.ChunkedArray, most: int) -> pa.Array:
    """Return those of the keys that are replayed: the least by hash, `SHARE` of them and no more than `most`."""
    count = min(most, math.ceil(SHARE * len(keys)))
    return keys.take(np.sort(np.argsort(hash64(keys), kind="stable")[:count])).combine_chunks()


def differing(sets: pa.Table, again: pa.Table) -> int:
    """Return how many of the sets do not hold the same items in the same order as those that were made again."""
    items = pl.col("candidates").list.eval(pl.element().struct.field("item_id"))
    frames = (pl.DataFrame(one.select(["record_key", "candidates"])) for one in (sets, again))
    first, second = (frame.select("record_key", items) for frame in frames)
    both = first.join(second, on="record_key", how="left")
    same = (both["candidates"] == both["candidates_right"]).fill_null(False)
    return int((~same).sum())
