"""Sources that rest on trained models: vectors of users, sessions and items, and neighbour sessions.

Search is exact: all items against a block of users. Memory: the item matrix (`4 * dim` bytes per item, once per worker)
and `SCORES_AT_ONCE` scores.
"""

import datetime
from typing import Protocol

import numpy as np
import polars as pl

from transforms.evaluate import top_items
from transforms.sources import TALK, Audience, Bundle, Source, none_found

SCORES_AT_ONCE = 32_000_000
"""Scores held at once: 128 MB."""
SEQUENCE_LISTENS = 10
FRESH_DAYS = 30
FRESH_PLAYS = 20
TWO_TOWER_LIMIT, SEQUENCE_LIMIT, FRESH_LIMIT = 300, 130, 60
SESSION_LIMIT, SIMILAR_LIMIT, KNN_LIMIT = 60, 40, 80


class Models(Bundle, Protocol):
    """A bundle with trained models; every vector in it is of one space, or opening it was refused."""

    def item_vectors(self) -> tuple[pl.Series, np.ndarray]:
        """Return the ids of all items with a vector, sorted, and the vectors, `(num_items, dim) float32`."""

    def user_vectors(self, keys: pl.Series) -> tuple[pl.Series, np.ndarray]:
        """Return the keys that have a vector, sorted, and the vectors."""

    def encode(self, listens: pl.DataFrame, keys: pl.Series) -> np.ndarray:
        """Return the vectors of plays in order, `(num_keys, dim) float32`; of no known play, 0.

        Args:
          listens: `key`, `item_id`, `label`, by key and time. `keys`: sorted.
        """

    def neighbour_sessions(self, listens: pl.DataFrame, keys: pl.Series, limit: int) -> pl.DataFrame:
        """Return `key`, `item_id`, `raw_score`: what neighbour sessions hold, the best of each key."""


def nearest(keys: pl.Series, vectors: np.ndarray, item_ids: pl.Series, items: np.ndarray, limit: int) -> pl.DataFrame:
    """Return `key`, `item_id`, `raw_score` of the best inner products of every key, above 0.

    Args:
      vectors: `(num_keys, dim) float32`. `items`: `(num_items, dim) float32`.
    """
    found, size = [], max(1, SCORES_AT_ONCE // max(len(items), 1))
    for first in range(0, len(keys), size):
        scores = vectors[first : first + size] @ items.T
        best = top_items(scores, limit)
        values = np.take_along_axis(scores, best.astype(np.int64), axis=1)
        found.append(long_form(keys[first : first + size], item_ids, best, values))
    frame = (
        pl.concat(found)
        if found
        else pl.DataFrame(schema={"key": pl.String, "item_id": pl.String, "raw_score": pl.Float64})
    )
    return frame.filter(pl.col("raw_score") > 0)


def long_form(keys: pl.Series, item_ids: pl.Series, best: np.ndarray, values: np.ndarray) -> pl.DataFrame:
    """Return `key`, `item_id`, `raw_score` from the best items of each key and their scores, `(num_keys, k)` both."""
    rows = np.repeat(np.arange(len(keys)), best.shape[1])
    return pl.DataFrame(
        {
            "key": keys.gather(rows),
            "item_id": item_ids.gather(best.ravel()),
            "raw_score": values.ravel().astype(np.float64),
        }
    )


def two_tower(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose what is nearest to the user's vector, of the whole history.

    Score: cosine.
    """
    keys, vectors = bundle.user_vectors(audience.keys["key"])
    ids, items = bundle.item_vectors()
    return _explained(nearest(keys, vectors, ids, items, TWO_TOWER_LIMIT), audience)


def sequence(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose what goes on from the user's last ten listens and skips: what the user is at now, not what the user is like.

    Score: cosine with the vector of those in their order.
    """
    both = pl.concat([audience.listens.drop("artist_id"), audience.skips]).sort("key", "event_ts", maintain_order=True)
    recent = both.filter(pl.int_range(pl.len(), 0, -1).over("key") <= SEQUENCE_LISTENS)
    keys = audience.listens["key"].unique().sort()
    recent = recent.filter(pl.col("key").is_in(keys.implode()))
    vectors = bundle.encode(recent, keys)
    ids, items = bundle.item_vectors()
    return _explained(nearest(keys, vectors, ids, items, SEQUENCE_LIMIT), audience)


def fresh_content(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose items of the last 30 days that few have played yet, by what they say of themselves.

    Score: cosine of the user's vector and the item's, which rests on content alone where nobody played it.
    Memory: the releases of a month.
    """
    since = audience.now - datetime.timedelta(days=FRESH_DAYS)
    new = bundle.read("item", ["item_id"], (pl.col("release_ts") > since) & (pl.col("release_ts") <= audience.now))
    played = bundle.read("vocabulary", ["item_id"], pl.col("positives") >= FRESH_PLAYS)["item_id"]
    fresh = new["item_id"].filter(~new["item_id"].is_in(played.implode()))
    ids, items = bundle.item_vectors()
    at = np.flatnonzero(ids.is_in(fresh.implode()).to_numpy())
    keys, vectors = bundle.user_vectors(audience.keys["key"])
    return _explained(nearest(keys, vectors, ids.gather(at), items[at], FRESH_LIMIT), audience)


def _explained(found: pl.DataFrame, audience: Audience) -> pl.DataFrame:
    """Name the user's last listens as what led to the proposals, the newest first."""
    last = (
        audience.listens.sort("key", "event_ts", maintain_order=True)
        .group_by("key", maintain_order=True)
        .agg(
            pl.col("item_id").reverse().unique(maintain_order=True).head(3).alias("seed_item_ids"),
            pl.col("event_ts").last().alias("seed_event_ts"),
        )
    )
    return found.join(last, on="key", maintain_order="left").select(none_found().columns)


def session(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose what goes on from a session that has just played the seed.

    Score: cosine with the vector of that session.
    """
    keys = audience.keys["key"].unique().sort()
    ids, items = bundle.item_vectors()
    return _of_seed(nearest(keys, bundle.encode(_played(keys), keys), ids, items, SESSION_LIMIT))


def similar(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose what is most like the seed; of talk, only what shares a language with it.

    Score: cosine of the two items' vectors.
    """
    ids, items = bundle.item_vectors()
    at = np.flatnonzero(ids.is_in(audience.keys["key"].implode()).to_numpy())
    found = nearest(ids.gather(at), items[at], ids, items, SIMILAR_LIMIT)
    return _of_seed(_same_language(found, bundle))


def _same_language(found: pl.DataFrame, bundle: Models) -> pl.DataFrame:
    named = pl.concat([found["key"], found["item_id"]]).unique()
    known = bundle.lookup("item", "item_id", named, ["item_id", "item_type", "languages"])
    both = found.join(known.rename({"item_id": "key", "languages": "spoken"}), on="key", how="left").join(
        known.select("item_id", "languages"), on="item_id", how="left"
    )
    shared = pl.col("spoken").list.set_intersection("languages").list.len() > 0
    return both.filter(~pl.col("item_type").is_in(TALK) | shared.fill_null(False)).select(found.columns)


def session_knn(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose what sessions like this one held near the items they share with it.

    Score: votes, see `transforms.embed.session_knn`.
    """
    keys = audience.keys["key"].unique().sort()
    return _of_seed(bundle.neighbour_sessions(_played(keys), keys, KNN_LIMIT))


def _played(seeds: pl.Series) -> pl.DataFrame:
    """Return the sessions that have played nothing but their seed."""
    return pl.DataFrame({"key": seeds, "item_id": seeds, "label": pl.Series(np.ones(len(seeds)))})


def _of_seed(found: pl.DataFrame) -> pl.DataFrame:
    """Name the seed as what led to the proposals; it is none itself."""
    others = found.filter(pl.col("key") != pl.col("item_id"))
    return others.with_columns(
        pl.concat_list("key").alias("seed_item_ids"), pl.lit(None, pl.Datetime("us", "UTC")).alias("seed_event_ts")
    ).select(none_found().columns)


HOME_VECTOR_SOURCES: dict[str, Source] = {
    "home.two_tower": Source(two_tower, "cosine", "user_vector", "like_what_you_play", TWO_TOWER_LIMIT),
    "home.sequence": Source(sequence, "cosine", "recent_vector", "goes_on_from_recent", SEQUENCE_LIMIT),
    "home.fresh_content": Source(fresh_content, "cosine", "item_vector", "new_and_like_yours", FRESH_LIMIT),
}
NOW_PLAYING_VECTOR_SOURCES: dict[str, Source] = {
    "np.session": Source(session, "cosine", "session_vector", "goes_on_from_this", SESSION_LIMIT),
    "np.similar": Source(similar, "cosine", "item_vector", "like_this", SIMILAR_LIMIT),
    "np.session_knn": Source(session_knn, "votes", "neighbour_session", "played_with_this", KNN_LIMIT),
}
VECTOR_SIGNALS = ("user_vector", "recent_vector", "session_vector", "item_vector")
