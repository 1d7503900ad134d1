"""The ladder's matrix factorisation: what factors of who listened to what, and nothing else, would have put first.

Memory: once per worker, `4 * dim` bytes for each item of the vocabulary with its id, twice where the processor multiplies
bfloat16; per block of users their contexts and `DEPTH` places each.
"""

import functools
import threading

import numpy as np
import polars as pl

from schemas.evaluation import FACTORS
from schemas.models import VOCABULARY
from transforms.embed.implicit_als import ImplicitAls
from transforms.embed.interactions import from_listens
from transforms.embed.weights import unpack
from transforms.evaluation import DEPTH
from transforms.evaluation_lists import HIT, ranked_hits
from transforms.histories import exploded
from transforms.id_index import IdIndex
from transforms.index.exact import NOTHING, ExactIndex, Limits
from transforms.io.store import open_store
from transforms.retrieve import blocks
from transforms.shards import Shard, read_tables

_ONE_AT_A_TIME = threading.Lock()


def factored(shard: Shard, users: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """Find targets among the items of the greatest product with each user's factors, what they have liked left out.

    Args:
      users: `user_id`, `positives`. wanted: as of `transforms.evaluation_lists.read_proposals`.

    Returns:
      Hits; none where a task was given no factors, or nobody liked anything.
    """
    weights = shard.task.inputs.get(FACTORS, ())
    if not weights:
        return pl.DataFrame(schema=HIT)
    with _ONE_AT_A_TIME:  # tasks in threads of one process would each make their own
        item_ids, model, index = _opened(shard.store.root, weights[0], tuple(shard.paths("vocabulary")))
    asked = users.join(wanted.select(pl.col("key").alias("user_id")).unique(), on="user_id", how="semi")
    liked = exploded(asked.select("user_id", "positives"), "positives").rename({"user_id": "key"})
    keys = liked["key"].unique().sort().to_frame()
    found = [_ranked(block["key"], liked, item_ids, model, index) for block in blocks(keys)]
    return pl.concat([pl.DataFrame(schema=HIT), *(ranked_hits(one, wanted, FACTORS) for one in found)])


def _ranked(
    keys: pl.Series, liked: pl.DataFrame, item_ids: pl.Series, model: ImplicitAls, index: ExactIndex
) -> pl.DataFrame:
    """Return `key`, `item_id`, `rank` (from 0) of the first `DEPTH` items of each key."""
    contexts = from_listens(liked.filter(pl.col("key").is_in(keys.implode())), keys, IdIndex.of(item_ids))
    heard = np.unique(contexts.rows << 32 | contexts.items)
    limits = Limits(np.ones((1, len(item_ids)), bool), np.zeros(len(keys), np.int64), heard)
    rows = index.search(model.encode(contexts), DEPTH, limits).rows
    at, rank = np.nonzero(rows != NOTHING)
    return pl.DataFrame({"key": keys.gather(at), "item_id": item_ids.gather(rows[at, rank]), "rank": rank})


@functools.lru_cache(maxsize=1)
def _opened(root: str, weights: str, numbered: tuple[str, ...]) -> tuple[pl.Series, ImplicitAls, ExactIndex]:
    arrays, _ = unpack(open_store(root).read_bytes(weights), weights)
    model = ImplicitAls.from_arrays(arrays)
    item_ids = read_tables(list(numbered), VOCABULARY, ["item_id"])["item_id"]
    return item_ids, model, ExactIndex.of(model.item_vectors)
