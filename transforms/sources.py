"""What proposes candidates: one function per source, `(audience, bundle) -> proposals`.

A source returns `key`, `item_id`, `raw_score`, `seed_item_ids`, `seed_event_ts`; `propose` ranks them, cuts them and adds
what all proposals carry. Another source is one more function and one more line in a dict and in `jobs/surfaces.toml`.
"""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.candidates import PROPOSAL
from schemas.policy import SurfacePolicy
from transforms.histories import entries
from transforms.sorted_groups import numbered, ranks, starts
from transforms.tallies import owners

HOME_SEEDS = 30
SEEDS_SHOWN = 3
CO_LISTEN_LIMIT = 130
SEED_HALF_LIFE_DAYS = 14.0
NEW_MUSIC_DAYS, NEW_TALK_DAYS = 14, 7
FRESHNESS_HALF_LIFE_DAYS = 7.0
FOLLOW_AFFINITY = 3.0
RETURN_CADENCE_DAYS = 7.0
BACKOFF_WEIGHTS = {"item": 1.0, "canonical": 0.9, "artist": 0.3, "genre": 0.1}
RELATED_ARTISTS = 3
RELATED_WEIGHT = 0.3
SESSION_SEEDS = 5
FAVOURITE_DAYS, FAVOURITE_LIKING, FAVOURITE_HALF_LIFE_DAYS = 2, 1.5, 30.0
"""What one comes back to was played on so many days, or liked as much as by a like and a play, halved every month."""
GROUP_PREFIX = "*|"
TALK = ("episode", "show", "audiobook", "chapter")
_SCHEMA: dict[str, Any] = {"key": pl.String, "item_id": pl.String, "raw_score": pl.Float64, "seed_item_ids": pl.List(pl.String),
           "seed_event_ts": pl.Datetime("us", "UTC")}  # fmt: skip


class Bundle(Protocol):
    """The tables a source may ask."""

    def read(self, name: str, columns: Sequence[str] | None = None, where: pl.Expr | None = None) -> pl.DataFrame:
        """Return the rows of a dataset that satisfy `where`."""

    def lookup(self, name: str, column: str, ids: pl.Series, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows whose `column` is one of `ids`; memory is bounded by them, not by the dataset."""

    def parts(self, name: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield a dataset part by part, a file or less at a time."""


@dataclasses.dataclass(frozen=True)  # without slots: what several sources ask is made on first use and kept
class Audience:
    """For whom to propose: a block of users with their histories, or of seed items, as of an instant.

    Attributes:
      keys: `key`, `market`, `tier`, `follows`; on Now Playing what the seed is: `canonical_id`, `artist_id`, `genre`, and
        `seed_item_id` where the key is a listener in a session and not the seed itself.
      listens: exploded positives of the histories: `key`, `item_id`, `item_type`, `event_ts`, `label`, `artist_id`.
      skips: exploded skips: the same without `artist_id`.
      now: end of the logical date. policy: of the surface.
      rights: `key` and what `transforms.reach.Reach.mask` asks. unwanted: `key` and `item_id` of what a key must not be
        offered besides.
      places: `key`, `market` and `tier` (see `Reach.mask`) of sets that are made for whoever is there: in each of them a key's
        proposals are to be enough. None where keys have their own.
      histories: `key` and `positives`, as in the history contract, of whoever is in a session; a seed has none.
    """

    keys: pl.DataFrame
    listens: pl.DataFrame
    skips: pl.DataFrame
    now: datetime.datetime
    policy: SurfacePolicy
    rights: pl.DataFrame
    unwanted: pl.DataFrame
    places: pl.DataFrame | None = None
    histories: pl.DataFrame | None = None

    @property
    def seeds(self) -> pl.DataFrame:
        """The keys with their `seed_item_id`."""
        return self.keys if "seed_item_id" in self.keys.columns else self.keys.with_columns(seed_item_id="key")

    @functools.cached_property
    def leads(self) -> pl.DataFrame:
        """Each key once with its `seed_item_id`, and this as the `seed_item_ids` of a proposal, of no `seed_event_ts`."""
        seeds = self.seeds.select("key", "seed_item_id").unique("key", keep="first", maintain_order=True)
        return seeds.with_columns(pl.concat_list("seed_item_id").alias("seed_item_ids"), no_seed()[1])

    @functools.cached_property
    def session(self) -> pl.DataFrame:
        """What was played and skipped in the sessions: `key`, `item_id`, `label` (float64), in order of key and time.

        A seed that is nobody's was played and nothing else.
        """
        told = ["key", "item_id", "label"]
        both = pl.concat([one[[*told, "event_ts"]] for one in (self.listens, self.skips)])
        heard = both.sort("key", "event_ts", maintain_order=True).select(
            "key", "item_id", pl.col("label").cast(pl.Float64)
        )
        alone = self.leads.join(heard, on="key", how="anti")
        if not alone.height:
            return heard
        played = alone.select("key", item_id="seed_item_id", label=pl.lit(1.0)).drop_nulls()
        return pl.concat([heard, played]).sort("key", maintain_order=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A source and what its proposals say of themselves.

    Attributes:
      limit: proposals per key; more than its maximum of slots, because filters and duplicates take their part.
      in_every_place: the source keeps to its limit by itself, in each of `Audience.places`.
      reason_code: why a candidate is there, for a client to word.
    """

    propose: Callable[[Audience, Any], pl.DataFrame]
    score_kind: str
    signal_type: str
    reason_code: str
    limit: int
    in_every_place: bool = False


def propose(sources: Mapping[str, Source], audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Ask every source and return the proposals contract, sorted by key, source and rank."""
    found = [(name, source, proposed(source, audience, bundle)) for name, source in sorted(sources.items())]
    frames = [ranked([one]) for one in found]
    return pl.concat(frames).sort("key", "source_id", "source_rank")


def proposed(source: Source, audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Ask a source and return the columns that tell its proposals apart, and their `stratum` if they have one."""
    found = source.propose(audience, bundle)
    told = found[[*_SCHEMA, *(["stratum"] if "stratum" in found.columns else [])]]
    return told.replace_column(told.get_column_index("raw_score"), told["raw_score"].cast(pl.Float32))


def ranked(found: Sequence[tuple[str, Source, pl.DataFrame]]) -> pl.DataFrame:
    """Rank and cut what each source proposed; return the proposals contract, by source in the order given, key and item."""
    number = np.repeat(np.arange(len(found), dtype=np.uint32), [frame.height for *_, frame in found])
    rows = pl.concat([frame for *_, frame in found], how="diagonal")
    begins = starts(number, rows["key"].rle_id().to_numpy())
    if not _in_order(begins, number, rows):
        every = rows.hstack([pl.Series("number", number)])
        first = ["number"] if len(found) > 1 else []  # a key that is the same for all makes sorting slower
        down = [*(False for _ in first), False, False, True]
        rows = every.sort(*first, "key", "item_id", "raw_score", descending=down).drop("number")
        begins = starts(number, rows["key"].rle_id().to_numpy())
    rank = ranks(begins, rows["raw_score"].to_numpy())
    limits = [len(rows) if source.in_every_place else source.limit for _, source, _ in found]
    kept = rank < np.array(limits)[number]
    if not kept.all():
        rows, rank, number = rows.filter(pl.Series(kept)), rank[kept], number[kept]
    told = {"source_id": [name for name, *_ in found]}
    told |= {name: [getattr(source, name) for _, source, _ in found] for name in ("score_kind", "signal_type")}
    same = [pl.Series(name, words, pl.String)[number] for name, words in told.items()]
    if "stratum" not in rows.columns:
        same.append(pl.Series("stratum", [None], pl.String).new_from_index(0, len(rank)))
    return rows.hstack([*same, pl.Series("source_rank", rank)])[PROPOSAL.schema.names]


def _in_order(begins: np.ndarray, number: np.ndarray, rows: pl.DataFrame) -> bool:
    """Tell whether rows are by number, which they are, key and item: comparing costs a tenth of sorting.

    Args:
      begins: where another number or key begins.
    """
    key, item = rows["key"], rows["item_id"]
    heads = np.flatnonzero(begins)
    followed = (key[heads[1:]] > key[heads[:-1]]).fill_null(False).to_numpy() | (number[heads[1:]] > number[heads[:-1]])
    return bool(followed.all()) and bool(((item[1:] >= item[:-1]).fill_null(False).to_numpy() | begins[1:]).all())


def none_found() -> pl.DataFrame:
    """Return no proposals, with the columns of some."""
    return pl.DataFrame(schema=_SCHEMA)


def age_days(then: str, now: datetime.datetime) -> pl.Expr:
    """Return how many days before an instant a column lies."""
    return (pl.lit(now) - pl.col(then)).dt.total_milliseconds() / 86_400_000.0


def halved(age: pl.Expr, half_life: float) -> pl.Expr:
    """Return what is left of 1 at an age."""
    return pl.lit(0.5).pow(age / half_life)


def co_listen(audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Propose what is listened to together with the 30 strongest recent items of the user.

    Score: sum over seeds of strength (labels halved every 14 days) times the neighbour's co-listen score.
    Memory: 30 seeds x 100 neighbours per user of the block, 16 bytes each, three times over.
    """
    strength = (pl.col("label") * halved(age_days("event_ts", audience.now), SEED_HALF_LIFE_DAYS)).sum()
    listens = audience.listens.sort("key", "item_id", "event_ts")
    seeds = listens.group_by("key", "item_id", maintain_order=True).agg(
        strength.alias("strength"), pl.col("event_ts").max()
    )
    seeds = seeds.sort("key", "strength", "item_id", descending=[False, True, False]).filter(
        pl.int_range(pl.len()).over("key") < HOME_SEEDS
    )
    return neighbours(seeds, bundle, CO_LISTEN_LIMIT)


def neighbours(seeds: pl.DataFrame, bundle: Bundle, limit: int) -> pl.DataFrame:
    """Return what is listened to together with the seeds of each key, the best `limit`; scored as `co_listen` does.

    Args:
      seeds: `key`, `item_id`, `strength`, `event_ts`, by key, the strongest first.
    """
    near = bundle.lookup("co_listen", "item_id", seeds["item_id"].unique(), ["item_id", "other_item_id", "score"])
    if not near.height:
        return none_found()
    others = near["other_item_id"].unique().sort()
    codes = pl.DataFrame({"other_item_id": others, "other": np.arange(len(others), dtype=np.int64)})
    near = near.join(codes, on="other_item_id", maintain_order="left").select("item_id", "other", "score")
    numbered = seeds.with_columns(
        pl.col("key").rle_id().cast(pl.Int64).alias("user"), pl.int_range(pl.len()).alias("seed")
    )
    found = numbered.select("user", "seed", "item_id", "strength").join(near, on="item_id", maintain_order="left_right")
    return _summed(found, seeds, others, limit)


def _summed(found: pl.DataFrame, seeds: pl.DataFrame, others: pl.Series, limit: int) -> pl.DataFrame:
    """Add the parts of each user and neighbour up, strongest seed first: the order decides a float's last bit."""
    pair = (found["user"] * len(others) + found["other"]).to_numpy()
    order = np.argsort(pair, kind="stable")
    starts = np.flatnonzero(np.append(True, pair[order][1:] != pair[order][:-1]))
    parts = (found["strength"] * found["score"]).to_numpy().astype(np.float64)[order]
    sums = pl.DataFrame({"score": np.add.reduceat(parts, starts), "pair": pair[order][starts], "start": starts,
                         "n": np.diff(np.append(starts, len(order)))})  # fmt: skip
    user = pl.col("pair") // len(others)
    best = sums.sort(user, "score", "pair", descending=[False, True, False]).filter(
        pl.int_range(pl.len()).over(user) < limit
    )
    rows = found["seed"].to_numpy()[order]
    first = rows[best["start"].to_numpy()]
    shown = np.minimum(best["n"].to_numpy(), SEEDS_SHOWN)
    at = np.repeat(best["start"].to_numpy(), shown) + numbered(shown)
    lists = pa.ListArray.from_arrays(
        np.append(0, np.cumsum(shown)).astype(np.int32), seeds["item_id"].gather(rows[at]).to_arrow()
    )
    return pl.DataFrame(
        {
            "key": seeds["key"].gather(first),
            "item_id": others.gather(best["pair"].to_numpy() % len(others)),
            "raw_score": best["score"],
            "seed_item_ids": pl.Series(pl.from_arrow(lists)),
            "seed_event_ts": seeds["event_ts"].gather(first),
        }
    )


def relisten(audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Propose what the user plays again and again, when it is due.

    Score, a log-odds: `1.2 ln(n) - 0.9 |ln((t + 0.5) / (g + 0.5))| + ln(mean label)` for n plays, t days since the last
    and g the item's own mean gap (7 days where played once): highest when the usual gap has just passed. The hour and the device
    of the plays are not asked: a set, an overlay's too, is served at any hour on any device until the batch's expires, a day and
    a half on, so that it must hold what is due at each of them. No public set at hand tells users and the time of day of their
    listens, to measure whether leaning to one hour would gain more there than it loses later.
    """
    gap_days = (pl.col("event_ts").max() - pl.col("event_ts").min()).dt.total_milliseconds() / 86_400_000.0
    known = audience.listens.group_by("key", "item_id").agg(
        pl.len().alias("n"), pl.col("label").mean().alias("liking"), pl.col("event_ts").max(), gap_days.alias("span")
    )
    cadence = pl.when(pl.col("n") > 1).then(pl.col("span") / (pl.col("n") - 1)).otherwise(RETURN_CADENCE_DAYS)
    due = ((age_days("event_ts", audience.now) + 0.5) / (cadence + 0.5)).log().abs()
    score = 1.2 * pl.col("n").log() - 0.9 * due + pl.col("liking").log()
    return known.select(
        "key",
        "item_id",
        score.alias("raw_score"),
        pl.concat_list("item_id").alias("seed_item_ids"),
        pl.col("event_ts").alias("seed_event_ts"),
    )


def follow_new(audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Propose new releases (music 14 days, talk 7) of artists and shows the user follows or listens to most.

    Score: share of the user's liking that went to the artist, plus 3 where followed, halved with every week of age.
    Memory: the releases of a fortnight, joined with the block's artists.
    """
    age = age_days("release_ts", audience.now)
    limit = pl.when(pl.col("item_type").is_in(TALK)).then(NEW_TALK_DAYS).otherwise(NEW_MUSIC_DAYS)
    new = bundle.read("item", ["item_id", "item_type", "artists", "show_id", "release_ts"], (age >= 0) & (age < limit))
    new = new.select("item_id", owners().alias("artist_id"), halved(age, FRESHNESS_HALF_LIFE_DAYS).alias("freshness"))
    new = new.explode("artist_id").drop_nulls()
    liked = audience.listens.filter(pl.col("artist_id").is_not_null()).sort("key", "event_ts", "item_id")
    liking = (
        liked.group_by("key", "artist_id", maintain_order=True)
        .agg(pl.col("label").sum().alias("affinity"), pl.col("item_id").last().alias("seed"), pl.col("event_ts").last())
        .with_columns(pl.col("affinity") / pl.col("affinity").sum().over("key"))
    )
    followed = entries(audience.keys, "follows", "artist_id").with_columns(pl.lit(FOLLOW_AFFINITY).alias("bonus"))
    affinity = liking.join(followed, on=["key", "artist_id"], how="full", coalesce=True)
    score = (pl.col("affinity").fill_null(0.0) + pl.col("bonus").fill_null(0.0)) * pl.col("freshness")
    found = affinity.join(new, on="artist_id").with_columns(score.alias("raw_score"))
    return found.sort("key", "item_id", "raw_score", "artist_id", descending=[False, False, True, False]).unique(
        ["key", "item_id"], keep="first", maintain_order=True
    ).select(
        "key", "item_id", "raw_score",
        pl.when(pl.col("seed").is_not_null()).then(pl.concat_list("seed")).otherwise(pl.lit([], pl.List(pl.String))).alias("seed_item_ids"),
        pl.col("event_ts").alias("seed_event_ts"),
    )  # fmt: skip


@functools.cache
def no_seed() -> tuple[pl.Expr, pl.Expr]:
    """Return the columns of a proposal that nothing led to."""
    return (
        pl.lit([], pl.List(pl.String)).alias("seed_item_ids"),
        pl.lit(None, pl.Datetime("us", "UTC")).alias("seed_event_ts"),
    )


def best_of(found: pl.DataFrame) -> pl.DataFrame:
    """Keep the best score per key and proposal."""
    return found.group_by("key", "item_id").agg(pl.col("raw_score").max())


def of_seeds(found: pl.DataFrame, audience: Audience) -> pl.DataFrame:
    """Name the seed as what led to each proposal; the seed itself is no proposal.

    Args:
      found: `key`, `item_id`, `raw_score`, each item once per key.
    """
    told = found.join(audience.leads, on="key")
    return told.filter(told["seed_item_id"] != told["item_id"])[list(_SCHEMA)]


def transition(audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Propose what follows the seed item; less surely, what follows its canonical recording, artist or genre.

    Score: `P(next | context)` times 1, 0.9, 0.3 or 0.1 by level, the best of them.
    """
    levels = {"item": "seed_item_id", "canonical": "canonical_id", "artist": "artist_id", "genre": "genre"}
    asked = audience.seeds.select("key", **levels).unpivot(
        list(levels), index="key", variable_name="level", value_name="context_id"
    )
    weights = np.repeat([BACKOFF_WEIGHTS[level] for level in levels], audience.seeds.height)
    columns = ["level", "context_id", "next_item_id", "probability"]
    follows = bundle.lookup("transition", "context_id", asked["context_id"].unique(), columns)
    found = asked.hstack([pl.Series("weight", weights)]).join(follows, on=["level", "context_id"])
    score = (pl.col("probability") * pl.col("weight")).alias("raw_score")
    return of_seeds(best_of(found.select("key", pl.col("next_item_id").alias("item_id"), score)), audience)


def artist_radio(audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Propose the top and deep cuts of the seed's artist, then of the artists listened to with it.

    Score: `1 / (1 + rank)` within the artist, times 0.3 for related artists.
    """
    own = audience.keys.select("key", "artist_id", pl.lit(1.0).alias("closeness"))
    wanted = pl.concat([own, _related(own, audience.seeds.select("key", "seed_item_id"), bundle)]).drop_nulls()
    if not wanted.height:
        return none_found()
    cuts = bundle.lookup("artist_top", "artist_id", wanted["artist_id"].unique(), ["artist_id", "item_id", "rank"])
    score = pl.col("closeness") / (1.0 + pl.col("rank"))
    found = wanted.join(cuts, on="artist_id").select("key", "item_id", score.alias("raw_score"))
    return of_seeds(best_of(found), audience)


def _related(own: pl.DataFrame, seeds: pl.DataFrame, bundle: Bundle) -> pl.DataFrame:
    """Return `key`, `artist_id`, `closeness` of the artists nearest to each seed that are not its own."""
    near = bundle.lookup("co_listen", "item_id", seeds["seed_item_id"].unique(), ["item_id", "other_item_id", "rank"])
    artists = bundle.lookup("artist_top", "item_id", near["other_item_id"].unique(), ["artist_id", "item_id"])
    if not artists.height:
        return own.clear()
    near = seeds.join(near, left_on="seed_item_id", right_on="item_id")
    related = near.join(artists, left_on="other_item_id", right_on="item_id")
    related = related.sort("key", "rank", "artist_id").unique(["key", "artist_id"], keep="first", maintain_order=True)
    related = related.join(own, on=["key", "artist_id"], how="anti", maintain_order="left")
    related = related.filter(pl.int_range(pl.len()).over("key") < RELATED_ARTISTS)
    return related.select("key", "artist_id", pl.lit(RELATED_WEIGHT).alias("closeness"))


def familiar(audience: Audience, bundle: Bundle) -> pl.DataFrame:
    """Propose the listener's own favourites that suit the session, then what listeners of the seed come back to.

    Score: co-listen score times the return rate, both up to 1; of own favourites 1 more, and their own rate: with what
    suits them best of the session, times `1 - 0.5^liking`.
    """
    columns = ["item_id", "other_item_id", "score", "other_return_rate"]
    seeds, own = audience.seeds.select("key", "seed_item_id"), _session_seeds(audience)
    asked = pl.concat([seeds["seed_item_id"], own["seed_item_id"]]).unique()
    near = bundle.lookup("co_listen", "item_id", asked, columns).lazy()
    returned = near.filter(pl.col("other_return_rate") > 0).join(
        seeds.lazy(), left_on="item_id", right_on="seed_item_id"
    )
    score = (pl.col("score") * pl.col("other_return_rate")).cast(pl.Float64).alias("raw_score")
    found = of_seeds(
        returned.select("key", pl.col("other_item_id").alias("item_id"), score).collect(engine="in-memory"), audience
    )
    if not own.height:
        return found
    mine = _favourites(near.join(own.lazy(), left_on="item_id", right_on="seed_item_id"), audience)
    return pl.concat([mine, found]).unique(["key", "item_id"], keep="first", maintain_order=True)


def _session_seeds(audience: Audience) -> pl.DataFrame:
    """Return `key` and `seed_item_id`: the last items liked in the sessions of listeners who have a history, and what plays."""
    if audience.histories is None:
        return audience.seeds.select("key", "seed_item_id").clear()
    known = audience.histories.lazy().filter(pl.col("positives").list.len() > 0).select("key")
    heard = audience.listens.lazy().sort("key", "event_ts", "item_id", descending=[False, True, False])
    last = heard.filter(pl.int_range(pl.len()).over("key") < SESSION_SEEDS)
    seeds = pl.concat([
        audience.seeds.lazy().select("key", "seed_item_id"), last.select("key", pl.col("item_id").alias("seed_item_id")),
    ])  # fmt: skip
    return seeds.join(known, on="key", how="semi").unique().sort("key", "seed_item_id").collect(engine="in-memory")


def _favourites(near: pl.LazyFrame, audience: Audience) -> pl.DataFrame:
    """Propose what listeners played on several days, or liked much, of what is listened to together with their session.

    Args:
      near: `key`, `item_id` of the session, `other_item_id`, `score`.
    """
    assert audience.histories is not None
    pair = ["key", "item_id"]
    listens = audience.histories.lazy().explode("positives").drop_nulls("positives").unnest("positives")
    near = near.rename({"item_id": "seed", "other_item_id": "item_id"}).join(listens, on=pair, how="semi")
    ordered = near.sort(*pair, "score", "seed", descending=[False, False, True, False])
    best = ordered.group_by(pair).agg(pl.col("score", "seed").first())
    best = best.join(audience.unwanted.lazy(), on=pair, how="anti")
    told = listens.join(best, on=pair).sort(*pair, "event_ts").group_by(pair, maintain_order=True).agg(
        (pl.col("label") * halved(age_days("event_ts", audience.now), FAVOURITE_HALF_LIFE_DAYS)).sum().alias("liking"),
        pl.col("event_ts").dt.date().n_unique().alias("days"),
        pl.col("event_ts").last(), pl.col("score", "seed").first(),
    )  # fmt: skip
    known = told.filter((pl.col("days") >= FAVOURITE_DAYS) | (pl.col("liking") >= FAVOURITE_LIKING))
    score = 1.0 + pl.col("score").cast(pl.Float64) * (1.0 - pl.lit(0.5).pow(pl.col("liking")))
    led = pl.concat_list("item_id", "seed").alias("seed_item_ids")
    return known.select(*pair, score.alias("raw_score"), led, pl.col("event_ts").alias("seed_event_ts")).collect(
        engine="in-memory"
    )


HOME_SOURCES: dict[str, Source] = {
    "home.co_listen": Source(co_listen, "cosine_sum", "co_listen", "because_you_listened", CO_LISTEN_LIMIT),
    "home.follow_new": Source(follow_new, "affinity_x_freshness", "release", "new_from_yours", 90),
    "home.relisten": Source(relisten, "log_odds", "history", "listen_again", 120),
}
NOW_PLAYING_SOURCES: dict[str, Source] = {
    "np.transition": Source(transition, "probability", "transition", "often_follows", 140),
    "np.artist_radio": Source(artist_radio, "reciprocal_rank", "artist", "same_artist", 60),
    "np.familiar": Source(familiar, "cosine_x_return_rate", "co_listen", "listeners_return", 60),
}
