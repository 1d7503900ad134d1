"""Sources that rest on trained models: vectors of users, sessions and items, and neighbour sessions.

Search is among what each listener may be offered (`transforms.reach`), exact or by an index. Memory: the items of a space
with their index, once per worker, and `MASKS_AT_ONCE` bits for each; `MASKS_AT_ONCE` bytes per item; what a search holds
(`transforms.index.exact`).
"""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import polars as pl
from polars import selectors as cs

from transforms.id_index import NO_CODE, IdIndex
from transforms.index.exact import Found, Limits
from transforms.interests import interests
from transforms.kin import Kin, looked_at
from transforms.market_profiles import MarketProfiles
from transforms.sorted_groups import starts
from transforms.sources import TALK, Audience, Bundle, Source, no_seed, none_found, of_seeds

Rows = np.ndarray | slice
MASKS_AT_ONCE = 64
SEQUENCE_LISTENS, SEQUENCE_LEAST = 200, 3
USERS_AT_ONCE = 500
FRESH_DAYS = 30
FRESH_PLAYS = 20
TWO_TOWER_LIMIT, SEQUENCE_LIMIT, FRESH_LIMIT = 300, 130, 60
SESSION_LIMIT, SIMILAR_LIMIT, KNN_LIMIT = 60, 40, 80


class Index(Protocol):
    """Vectors to search among."""

    def __len__(self) -> int:
        """Return how many there are."""

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of rows, `(n, dim) float32`."""

    def search(self, queries: np.ndarray, k: int, limits: Limits | None = None) -> Found:
        """Return items of great inner product with every query: k, or all it may find where those are fewer."""


class Reaches(Protocol):
    """What each kind of listener may be offered of the vectors."""

    def mask(self, *kind: Any, **may: Any) -> np.ndarray:
        """Return `(num_items,) bool`, see `transforms.reach.Reach.mask`."""

    def available(self, market: str | None, tier: str) -> np.ndarray:
        """Return `(num_items,) bool`, see `transforms.reach.Reach.available`."""


@dataclasses.dataclass(frozen=True)  # without slots: numbers are made on first use and kept
class Items:
    """All items with a vector.

    Attributes:
      ids: each once; an item's row is its place, and null the id of one that is not to be found. index: their vectors. reach: who may be offered them. kin: what they have in
        common.
    """

    ids: pl.Series
    index: Index
    reach: Reaches
    kin: Kin

    @functools.cached_property
    def numbers(self) -> IdIndex:
        """The ids, to look rows up by; 22 to 43 bytes for each."""
        return IdIndex.of(self.ids)

    def mask(self, rights: Mapping[str, Any]) -> np.ndarray:
        """Return what a kind of listener may be offered, `(num_items,) bool`, see `transforms.reach.Reach.mask`.

        The last `MASKS_AT_ONCE` are kept, a bit for each item: every source that searches asks for the same kinds.
        """
        kind = tuple((name, tuple(told) if isinstance(told, list) else told) for name, told in rights.items())
        return np.unpackbits(self._bits(kind), count=len(self.ids)).view(bool)

    @functools.cached_property
    def _bits(self) -> Callable[[tuple], np.ndarray]:
        return functools.lru_cache(MASKS_AT_ONCE)(lambda kind: np.packbits(self.reach.mask(**dict(kind))))

    def rows(self, ids: pl.Series) -> np.ndarray:
        """Return the rows of those of the ids that have one, ascending."""
        return np.flatnonzero(self.ids.is_in(ids.implode()).to_numpy())


class Models(Bundle, Protocol):
    """A bundle with trained models; every vector in it is of one space, or opening it was refused."""

    def items(self) -> Items:
        """Return all items with a vector."""

    def market_profiles(self) -> MarketProfiles:
        """Return what markets play."""

    def user_vectors(self, keys: pl.Series) -> tuple[pl.Series, np.ndarray]:
        """Return the keys that have a vector, sorted, and the vectors."""

    def encode(self, listens: pl.DataFrame, keys: pl.Series) -> np.ndarray:
        """Return the vectors of plays in order, `(num_keys, dim) float32`; of no known play, 0.

        Args:
          listens: `key`, `item_id`, `label`, by key and time. `keys`: sorted.
        """

    def neighbour_sessions(self, listens: pl.DataFrame, keys: pl.Series, limit: int) -> pl.DataFrame:
        """Return `key`, `item_id`, `raw_score`: what neighbour sessions hold, the best of each key."""


def nearest(
    audience: Audience, keys: pl.Series, vectors: np.ndarray, items: Items, limit: int, among: Rows = slice(None)
) -> pl.DataFrame:
    """Return `key`, `item_id`, `raw_score` of the best inner products of every key.

    What a key may not be offered, and what it does not want, is not looked for; `limit` others are found wherever there
    are as many, however little like the key, in each of the audience's places if it has some, spread over albums and artists as
    far as the surface's caps ask for it.

    Args:
      keys: of the audience. vectors: `(num_keys, dim) float32`, 0 for those that find nothing. among: rows of the items to look
        at.
    """
    told_apart = vectors.any(axis=1)
    keys, vectors = keys.filter(pl.Series(told_apart)), vectors[told_apart]
    found = [_nearest(audience, keys, vectors, items, limit, among)]
    for some, market, tier in _short(found[0], audience, keys, items, limit):
        there = audience.rights.with_columns(market=pl.lit(market), tier=pl.lit(tier))
        own = dataclasses.replace(audience, rights=there)
        found.append(_nearest(own, keys.gather(some), vectors[some], items, limit, among))
    return pl.concat(found).unique(["key", "item_id"], maintain_order=True) if len(found) > 1 else found[0]


def _short(
    found: pl.DataFrame, audience: Audience, keys: pl.Series, items: Items, limit: int
) -> Iterator[tuple[np.ndarray, str, str]]:
    """Yield the keys, by number, that found fewer than `limit` in one of the audience's places, and its market and tier."""
    if audience.places is None:
        return
    numbers = keys.to_frame("key").with_row_index("n")
    own = found.join(numbers, on="key", maintain_order="left")["n"].to_numpy()
    row = items.numbers.find(found["item_id"])
    places = audience.places.join(numbers, on="key").select("market", "tier", "n").sort("market", "tier", "n")
    for (market, tier), asked in places.group_by("market", "tier", maintain_order=True):
        market, tier = str(market), str(tier)
        here = items.reach.available(market, tier)
        if not here.all():
            enough = np.bincount(own[here[row]], minlength=len(keys)) >= limit
            some = asked["n"].to_numpy()
            if len(short := some[~enough[some]]):
                yield short, market, tier


def _nearest(
    audience: Audience, keys: pl.Series, vectors: np.ndarray, items: Items, limit: int, among: Rows
) -> pl.DataFrame:
    kind, kinds = _kinds(keys, audience)
    without = _without(keys, audience, items)
    found = list[pl.DataFrame]()
    for first in range(0, len(kinds), MASKS_AT_ONCE):
        some_kinds = kinds[first : first + MASKS_AT_ONCE]
        masks = np.zeros((len(some_kinds), len(items.ids)), bool)
        for mask, rights in zip(masks, some_kinds, strict=True):
            mask[among] = items.mask(rights)[among]
        some = np.flatnonzero((kind >= first) & (kind < first + MASKS_AT_ONCE))
        limits = Limits(masks, kind - first, without).take(some)
        best = items.index.search(vectors[some], looked_at(limit, audience.policy), limits)
        at = items.kin.spread(best.rows, limit, audience.policy)
        rows, scores = (np.take_along_axis(one, at, axis=1) for one in (best.rows, best.scores))
        found.append(long_form(keys[some], items.ids, rows, scores))
    return pl.concat(found or [none_found()[["key", "item_id", "raw_score"]]])


def _kinds(keys: pl.Series, audience: Audience) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the kind of each key, `(num_keys,) int64`, and of each kind what `transforms.reach.Reach.mask` asks."""
    asked = keys.to_frame("key").join(audience.rights, on="key", how="left", maintain_order="left").drop("key")
    alike = asked.with_columns(cs.list().list.sort()).with_row_index("of")
    kinds = alike.group_by(asked.columns, maintain_order=True).agg("of")
    kind = np.empty(len(keys), np.int64)
    kind[kinds["of"].explode().to_numpy()] = np.repeat(np.arange(len(kinds)), kinds["of"].list.len().to_numpy())
    return kind, kinds.drop("of").rows(named=True)


def _without(keys: pl.Series, audience: Audience, items: Items) -> np.ndarray:
    """Return what each key must not be offered besides, as `transforms.index.exact.Limits` has it."""
    query = IdIndex.of(keys).find_runs(audience.unwanted["key"])
    row = items.numbers.find(audience.unwanted["item_id"])
    both = (query != NO_CODE) & (row != NO_CODE)
    return np.unique(query[both].astype(np.int64) << 32 | row[both])


def long_form(keys: pl.Series, item_ids: pl.Series, best: np.ndarray, values: np.ndarray) -> pl.DataFrame:
    """Return `key`, `item_id`, `raw_score` of the best items of each key, `(num_keys, k)` both; a row below 0 is none.

    By key, as they are given, and row: so by item, where ids are sorted.
    """
    both = best.astype(np.int64) << 32 | values.astype(np.float32).view(np.uint32)
    both.sort(axis=1)
    there = both >= 0
    found = both[there]
    return pl.DataFrame(
        {
            "key": keys[np.repeat(np.arange(len(keys)), there.sum(axis=1))],
            "item_id": item_ids[found >> 32],
            "raw_score": found.astype(np.uint32).view(np.float32).astype(np.float64),
        }
    )


def two_tower(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose what is nearest to the user's vector, of the whole history.

    Score: cosine.
    """
    keys, vectors = bundle.user_vectors(audience.keys["key"])
    return _explained(nearest(audience, keys, vectors, bundle.items(), TWO_TOWER_LIMIT), audience.listens)


def sequence(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose what goes on from each interest in the user's last 200 listens and the skips among them.

    Score: cosine with the vector of an interest's plays in their order, the best of them. Fewer than three plays are no
    sequence (domain reference, section 4). What led to a proposal is of the interest that found it.
    Memory: `SEQUENCE_LIMIT` proposals for each interest of the block's users, and the vectors of `USERS_AT_ONCE` users' plays.
    """
    plays = _last_plays(audience)
    plays = plays.with_columns(interest=pl.Series(_interests(plays, bundle.items()), dtype=pl.Int8))
    found = [_gone_on(own, audience, bundle) for _, own in sorted(plays.partition_by("interest", as_dict=True).items())]
    every = pl.concat([none_found(), *found])
    best = every.sort("key", "item_id", "raw_score", descending=[False, False, True], maintain_order=True)
    return best.unique(["key", "item_id"], keep="first", maintain_order=True)


def _last_plays(audience: Audience) -> pl.DataFrame:
    """Return the last listens and the skips among them, by key and time, of keys that have some and enough of both."""
    both = pl.concat([audience.listens.drop("artist_id"), audience.skips]).sort("key", "event_ts", maintain_order=True)
    enough = pl.len().over("key") >= SEQUENCE_LEAST
    heard = (pl.col("label") > 0).cum_sum(reverse=True).over("key")
    return both.filter(enough & (pl.col("label") > 0).any().over("key") & (heard <= SEQUENCE_LISTENS))


def _interests(plays: pl.DataFrame, items: Items) -> np.ndarray:
    """Return the interest of each play, see `transforms.interests.interests`; made of listens to items that have a vector."""
    row = items.numbers.find(plays["item_id"])
    known = row != NO_CODE
    told = known & (plays["label"] > 0).to_numpy()
    begins = np.append(np.flatnonzero(starts(plays["key"].rle_id().to_numpy())), plays.height)
    found = [np.empty(0, np.int8)]
    for users in range(0, len(begins) - 1, USERS_AT_ONCE):
        some = begins[users : users + USERS_AT_ONCE + 1]
        span = slice(some[0], some[-1])
        vectors = items.index.take(np.where(known[span], row[span], 0).astype(np.int64)) * known[span, None]
        found.append(interests(vectors, some - some[0], told[span]))
    return np.concatenate(found)


def _gone_on(plays: pl.DataFrame, audience: Audience, bundle: Models) -> pl.DataFrame:
    """Return proposals for what goes on from one interest of each key; the last listens of it are what led to them."""
    keys = plays["key"].unique().sort()
    found = nearest(audience, keys, bundle.encode(plays, keys), bundle.items(), SEQUENCE_LIMIT)
    return _explained(found, plays.filter(pl.col("label") > 0))


def fresh_content(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose items of the last 30 days that few have played yet, by what they say of themselves.

    Score: cosine of the user's vector and the item's, which rests on content alone where nobody played it.
    Memory: the releases of a month.
    """
    keys, vectors = bundle.user_vectors(audience.keys["key"])
    items = bundle.items()
    found = nearest(audience, keys, vectors, items, FRESH_LIMIT, _fresh(audience, bundle, items))
    return _explained(found, audience.listens)


def _fresh(audience: Audience, bundle: Models, items: Items) -> np.ndarray:
    """Return the rows of items of the last 30 days that few have played yet."""
    since = audience.now - datetime.timedelta(days=FRESH_DAYS)
    new = bundle.read("item", ["item_id"], (pl.col("release_ts") > since) & (pl.col("release_ts") <= audience.now))
    played = bundle.read("vocabulary", ["item_id"], pl.col("positives") >= FRESH_PLAYS)["item_id"]
    return items.rows(new["item_id"].filter(~new["item_id"].is_in(played.implode())))


def fresh_market(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose the same to whoever has neither listens nor a vector, by what their market plays in their languages.

    Score: cosine of the item's vector and the mean of those the market plays, weighed by plays: of what is in a language of the
    account, where the market plays any, else of all (`transforms.market_profiles`). Memory: as `fresh_content`.
    """
    embedded, _ = bundle.user_vectors(audience.keys["key"])
    known = pl.concat([embedded, audience.listens["key"].unique()])
    cold = audience.rights.filter(~pl.col("key").is_in(known.implode())).sort("key")
    if not cold.height:
        return none_found()
    profiles = bundle.market_profiles()
    every = ((key, profiles.of_listener(*told)) for key, *told in cold.select("key", "market", "languages").iter_rows())
    asked = {key: vector for key, vector in every if vector is not None}
    if not asked:
        return none_found()
    keys, vectors, items = pl.Series(list(asked)), np.stack(list(asked.values())), bundle.items()
    found = nearest(audience, keys, vectors, items, FRESH_LIMIT, _fresh(audience, bundle, items))
    return found.with_columns(no_seed()).select(none_found().columns)


def _explained(found: pl.DataFrame, listens: pl.DataFrame) -> pl.DataFrame:
    """Name the last of some listens as what led to the proposals, the newest first."""
    last = (
        listens.sort("key", "event_ts", maintain_order=True)
        .group_by("key", maintain_order=True)
        .agg(
            pl.col("item_id").reverse().unique(maintain_order=True).head(3).alias("seed_item_ids"),
            pl.col("event_ts").last().alias("seed_event_ts"),
        )
    )
    return found.join(last, on="key", maintain_order="left").select(none_found().columns)


def session(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose what goes on from the session: of a seed that is nobody's, one that has just played it.

    Score: cosine with the vector of that session.
    """
    keys = audience.keys["key"].unique().sort()
    vectors = bundle.encode(audience.session, keys)
    return of_seeds(nearest(audience, keys, vectors, bundle.items(), SESSION_LIMIT), audience)


def similar(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose what is most like the seed; of talk, only what shares a language with it.

    Score: cosine of the two items' vectors.
    """
    items = bundle.items()
    seeds = audience.leads[["key", "seed_item_id"]].sort("key")
    row = items.numbers.find(seeds["seed_item_id"])
    asked = seeds.filter(row != NO_CODE)
    vectors = items.index.take(row[row != NO_CODE].astype(np.int64))
    found = nearest(audience, asked["key"], vectors, items, SIMILAR_LIMIT)
    return of_seeds(_same_language(found, asked, bundle), audience)


def _same_language(found: pl.DataFrame, seeds: pl.DataFrame, bundle: Models) -> pl.DataFrame:
    ids = seeds["seed_item_id"].unique()
    known = bundle.lookup("item", "item_id", ids, ["item_id", "item_type", "languages"])
    if known.height == len(ids) and not known["item_type"].is_in(TALK).fill_null(True).any():
        return found
    spoken = seeds.join(known.rename({"item_id": "seed_item_id", "languages": "spoken"}), on="seed_item_id")
    items = bundle.lookup("item", "item_id", found["item_id"].unique(), ["item_id", "languages"])
    both = found.join(spoken, on="key", how="left").join(items, on="item_id", how="left")
    shared = pl.col("spoken").list.set_intersection("languages").list.len() > 0
    return both.filter(~pl.col("item_type").is_in(TALK) | shared.fill_null(False)).select(found.columns)


def session_knn(audience: Audience, bundle: Models) -> pl.DataFrame:
    """Propose what sessions like this one held near the items they share with it.

    Score: votes, see `transforms.embed.session_knn`.
    """
    keys = audience.keys["key"].unique().sort()
    liked = audience.session.filter(pl.col("label") > 0)
    return of_seeds(bundle.neighbour_sessions(liked, keys, KNN_LIMIT), audience)


HOME_VECTOR_SOURCES: dict[str, Source] = {
    "home.two_tower": Source(two_tower, "cosine", "user_vector", "like_what_you_play", TWO_TOWER_LIMIT),
    "home.sequence": Source(sequence, "cosine", "recent_vector", "goes_on_from_recent", SEQUENCE_LIMIT),
    "home.fresh_content": Source(fresh_content, "cosine", "item_vector", "new_and_like_yours", FRESH_LIMIT),
    "home.fresh_market": Source(fresh_market, "cosine", "item_vector", "new_and_like_market", FRESH_LIMIT),
}
NOW_PLAYING_VECTOR_SOURCES: dict[str, Source] = {
    "np.session": Source(session, "cosine", "session_vector", "goes_on_from_this", SESSION_LIMIT, in_every_place=True),
    "np.similar": Source(similar, "cosine", "item_vector", "like_this", SIMILAR_LIMIT, in_every_place=True),
    "np.session_knn": Source(session_knn, "votes", "neighbour_session", "played_with_this", KNN_LIMIT),
}
VECTOR_SIGNALS = ("user_vector", "recent_vector", "session_vector", "item_vector")
