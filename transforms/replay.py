"""Replay: some listeners' sets once more, made as the stream makes them, beside those that a batch has just made.

    histories -> embedded anew -> the sources, asked in a small block -> filters, blend -> the same items in the same order?

A batch takes vectors over from earlier runs, asks for thousands of listeners at once and lets one stage read what another wrote; the
stream does none of this. Where they differ, one of them is wrong, and what was evaluated is not what is served (domain
reference, section 12, failure 1).
Memory: `MOST` listeners, `SHARE` of a shard at most, with their proposals and sets.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.candidates import PROPOSAL
from schemas.hashing import hash64
from transforms.facts import user_facts
from transforms.model_bundle import Embedded, ModelBundle
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
        one, world, stored = self.recommend, read_world(shard), self.open_bundle(shard)
        embedded = stored.embedded(users.select("user_id", "positives", "skips"))
        anew, vectors_differ = compared(embedded, stored.user_vectors(users["user_id"]))
        bundle = dataclasses.replace(stored, own_users=lambda: anew)
        provenance = one.provenance_of(shard)
        gone = {reason.partition(":")[2] for reason in provenance.left_out}
        sources = {name: source for name, source in self.sources.items() if name not in gone}
        audience = user_audience(users, bundle, one.policy, one.instant)
        own = Panel(sources, one.policy.source_seconds).ask(audience, bundle)
        offered = offered_to(users, own, read_tables(shard.paths("groups"), PROPOSAL), world)
        facts = user_facts(users, offered, world, bundle, one.policy, one.instant)
        return made(offered, facts, one.policy, one.instant, one.sources, provenance)[1], vectors_differ


def sample(keys: pa.ChunkedArray, most: int) -> pa.Array:
    """Return those of the keys that are replayed: the least by hash, `SHARE` of them and no more than `most`."""
    count = min(most, math.ceil(SHARE * len(keys)))
    return keys.take(np.sort(np.argsort(hash64(keys), kind="stable")[:count])).combine_chunks()


def compared(anew: Embedded, stored: Embedded) -> tuple[Embedded, int]:
    """Return the vectors that are new, and how many users have another than was stored, or one of the two and not the other.

    One that does not differ is the stored one: two devices round differently.
    """
    (ids, vectors), known = anew, dict(zip(*stored, strict=True))
    own = [known.get(user, np.full_like(one, np.inf)) for user, one in zip(ids, vectors, strict=True)]
    kept = np.array(own).reshape(vectors.shape)
    same = np.abs(vectors - kept).max(axis=1, initial=0.0) <= TOLERANCE
    found = np.where(same[:, None], kept, vectors)
    return (ids, found), int((~same).sum()) + len(known.keys() - set(ids))


def differing(sets: pa.Table, again: pa.Table) -> int:
    """Return how many of the sets do not hold the same items in the same order as those that were made again."""
    items = pl.col("candidates").list.eval(pl.element().struct.field("item_id"))
    frames = (pl.DataFrame(one.select(["record_key", "candidates"])) for one in (sets, again))
    first, second = (frame.select("record_key", items) for frame in frames)
    both = first.join(second, on="record_key", how="left")
    same = (both["candidates"] == both["candidates_right"]).fill_null(False)
    return int((~same).sum())
