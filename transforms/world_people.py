"""The people of a synthetic world, with their tastes, and the campaigns and tombstones around them."""

import dataclasses

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.inputs import CAMPAIGN, TIERS, TOMBSTONE, USER
from transforms.world_catalogue import (
    AUDIOBOOK,
    FRESH_DAYS,
    NEVER,
    SHOW,
    TRACK,
    Catalogue,
    Lists,
    raw_table,
)
from transforms.world_names import CLUSTERS, KIDS_CLUSTER
from transforms.world_setting import DAY_US, Setting, hex_ids, languages, market_weights

FAVOURITES = 8
UNKNOWN_SHARE = 0.001
"""Share of users the accounts do not know: their events come all the same."""
_KIDS = TIERS.index("kids")
_TIER_SHARES = (0.45, 0.35, 0.05, 0.08, 0.05, 0.02)
_BANDS = ("0-12", "13-17", "18-24", "25-34", "35-44", "45-54", "55+")
_BAND_AGES = np.array([0, 13, 18, 25, 35, 45, 55])
_USER_ID_MASK = np.uint64((1 << 40) - 1)


@dataclasses.dataclass(frozen=True, slots=True)
class People:
    """Arrays by user, `(num_users,)` unless said otherwise, and the raw table they describe.

    Attributes:
      table: raw user rows; without those the accounts do not know.
      clusters: `(num_users, 3)` tastes, the strongest first; one with fewer tastes repeats the first.
      favourites: `(num_users, 8)` item rows.
      shows: `(num_users, 2)` item rows of followed shows, -1 for people who do not listen to talk; `book` alike.
      activity: cumulative share of the sessions, ending at 1.
      active_from, active_until: us since the epoch.
      steady: users who are active at every instant of the world.
    """

    table: pa.Table
    ids: pl.Series
    market: np.ndarray
    premium: np.ndarray
    clean: np.ndarray
    age: np.ndarray
    clusters: np.ndarray
    favourites: np.ndarray
    shows: np.ndarray
    book: np.ndarray
    activity: np.ndarray
    active_from: np.ndarray
    active_until: np.ndarray
    consent: np.ndarray
    device: np.ndarray
    steady: np.ndarray


def people(setting: Setting, items: Catalogue) -> People:
    """Invent the users of a world."""
    who = _accounts(setting)
    who |= _tastes(setting, items, who)
    table = _user_table(setting, items, who)
    hidden = ("tier", "registered", "deletion", "band")
    return People(table=table, **{name: values for name, values in who.items() if name not in hidden})


def playable(
    items: Catalogue, who: People | dict, item: np.ndarray, user: np.ndarray, market: np.ndarray
) -> np.ndarray:
    """Tell which items each user may play in a market, their window aside."""

    def of(name: str) -> np.ndarray:
        return (who[name] if isinstance(who, dict) else getattr(who, name))[user]

    here = (items.home[item] < 0) | (items.home[item] == market) | (items.second[item] == market)
    tier = ~items.premium_only[item] | of("premium")
    return here & tier & ~(items.explicit[item] & of("clean")) & (items.age_rating[item] <= of("age"))


def _accounts(setting: Setting) -> dict:
    rng, n = setting.rng("accounts"), setting.users
    tier = rng.choice(len(TIERS), n, p=_TIER_SHARES)
    band = np.where(tier == _KIDS, 0, rng.choice(np.arange(1, 7), n, p=(0.07, 0.24, 0.29, 0.18, 0.12, 0.10)))
    age_days = np.where(rng.random(n) < 0.03, rng.random(n) * 7, 40 + setting.days + rng.exponential(900, n))
    registered = setting.end_us - (age_days * 86_400).astype(np.int64) * 1_000_000
    asked = (rng.random(n) < 0.002) & (age_days > 40)
    deletion = np.where(asked, setting.end_us - (rng.random(n) * 10 * DAY_US).astype(np.int64), NEVER)
    activity = np.where(rng.random(n) < 0.05, 0.0, rng.lognormal(0.0, 0.7, n).clip(0.1, 6.0))
    numbers = (np.arange(n, dtype=np.uint64) + np.uint64(setting.seed * 1009 + 1)) * np.uint64(0x9E3779B97F)
    return {
        "ids": hex_ids("u", numbers & _USER_ID_MASK, 10),
        "market": rng.choice(setting.markets, n, p=market_weights(setting.markets)),
        "tier": tier, "band": band, "registered": registered, "deletion": deletion,
        "premium": (tier > 0) & (tier != _KIDS), "age": _BAND_AGES[band],
        "clean": (tier == _KIDS) | (rng.random(n) < 0.05), "activity": np.cumsum(activity) / activity.sum(),
        "active_from": registered, "active_until": deletion, "consent": rng.random(n) >= 0.015,
        "device": rng.choice(6, n, p=(0.58, 0.16, 0.09, 0.06, 0.06, 0.05)),
        "steady": np.flatnonzero(
            (registered < setting.start_us) & (deletion == NEVER) & (tier != _KIDS) & (activity > 0)
        ),
    }  # fmt: skip


def _tastes(setting: Setting, items: Catalogue, who: dict) -> dict:
    rng, n = setting.rng("tastes"), setting.users
    clusters = np.stack([_favoured(setting, who["market"], rng) for _ in range(3)], axis=1)
    clusters[who["tier"] == _KIDS] = KIDS_CLUSTER
    num_clusters = rng.choice((1, 2, 3), n, p=(0.35, 0.40, 0.25))
    clusters = np.where(np.arange(3) < num_clusters[:, None], clusters, clusters[:, :1])
    talk = (rng.random(n) < 0.3) & (who["tier"] != _KIDS)
    books = talk & who["premium"] & (rng.random(n) < 0.4)
    return {
        "clusters": clusters,
        "favourites": _favourites(setting, items, who, clusters, rng),
        "shows": np.stack([np.where(talk, _talk(SHOW, items, who, clusters, rng), -1) for _ in range(2)], axis=1),
        "book": np.where(books, _talk(AUDIOBOOK, items, who, clusters, rng), -1),
    }


def _favoured(setting: Setting, market: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a cluster each; every market prefers others."""
    places = (np.arange(len(CLUSTERS)) * 5 + np.arange(setting.markets)[:, None] * 7) % len(CLUSTERS)
    weights = 1.0 / (8.0 + places)
    bounds = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    bounds[:, -1] = 1.0
    return (bounds[market] <= rng.random(len(market))[:, None]).sum(axis=1)


def _favourites(setting: Setting, items: Catalogue, who: dict, clusters: np.ndarray, rng) -> np.ndarray:
    """Draw 8 items each, a quarter of them of the second taste, that the user may play at every instant."""
    user = np.repeat(np.arange(len(clusters)), FAVOURITES)
    second = rng.random(len(user)) < 0.25
    cluster, market = clusters[user, second.astype(int)], who["market"][user]
    item = items.draw(cluster, market, rng)
    always = (items.playable_until[item] == NEVER) & (items.playable_from[item] < setting.start_us)
    ok = playable(items, who, item, user, market) & always
    return np.where(ok, item, items.draw_evergreen(cluster, rng)).reshape(-1, FAVOURITES)


def _talk(kind: int, items: Catalogue, who: dict, clusters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a show or book with parts for everybody, on their first topic where there is one in their market."""
    rows = np.flatnonzero((items.kind == kind) & (items.parts_size > 0))
    anywhere = rows[items.home[rows] < 0]
    lists = Lists.by_group(rows, items.cluster[rows].astype(np.int64), len(CLUSTERS))
    size = lists.size[clusters[:, 0]]
    rank = (rng.random(len(clusters)) * size).astype(np.int64)
    start = np.minimum(lists.start[clusters[:, 0]] + rank, len(rows) - 1)
    user = np.arange(len(clusters))
    fits = (size > 0) & playable(items, who, lists.rows[start], user, who["market"])
    return np.where(fits, lists.rows[start], anywhere[rng.integers(0, len(anywhere), len(clusters))])


def _user_table(setting: Setting, items: Catalogue, who: dict) -> pa.Table:
    rng, n = setting.rng("users"), setting.users
    spoken = languages(setting.market_codes)
    kids = who["tier"] == _KIDS
    off_taste = np.stack(
        [items.draw((who["clusters"][:, 0] + 11) % len(CLUSTERS), who["market"], rng) for _ in range(3)], 1
    )
    columns = {
        "user_id": who["ids"].to_list(),
        "market": [setting.market_codes[m] for m in who["market"].tolist()],
        "tier": [TIERS[t] for t in who["tier"].tolist()],
        "explicit_filter": pa.array(who["clean"], mask=~who["clean"] & (rng.random(n) < 0.02)),
        "age_band": [_BANDS[b] for b in who["band"].tolist()],
        "languages": [[spoken[m]] if spoken[m] == "en" else [spoken[m], "en"] for m in who["market"].tolist()],
        "registered_at": who["registered"],
        "follows": _follows(items, who, rng),
        "blocked_artists": id_lists(items, np.where(rng.random((n, 1)) < 0.05, items.parent[off_taste[:, :1]], -1)),
        "hidden_items": id_lists(items, np.where(rng.random((n, 1)) < 0.06, off_taste, -1)),
        "promo_opt_out": kids | (rng.random(n) < 0.05),
        "personalization_opt_out": rng.random(n) < 0.02,
        "deletion_requested_at": pa.array(who["deletion"], mask=who["deletion"] == NEVER),
    }
    return raw_table(USER, columns).filter(pa.array(rng.random(n) >= UNKNOWN_SHARE))


def _follows(items: Catalogue, who: dict, rng: np.random.Generator) -> pa.Array:
    """Let 70 % follow artists of their favourites, and every talk listener two shows."""
    artists = items.parent[who["favourites"][:, :4]]
    artists = np.where(rng.random((len(artists), 1)) < 0.7, artists, -1)
    return id_lists(items, np.concatenate([artists, who["shows"]], axis=1))


def id_lists(items: Catalogue, rows: np.ndarray) -> pa.Array:
    """Turn item rows, `(n, k)` with -1 for none, into lists of ids without repeats."""
    ids = pl.Series([*items.ids.to_list(), None])
    columns = [
        pl.Series(str(k), ids.gather(np.where(column < 0, len(ids) - 1, column))) for k, column in enumerate(rows.T)
    ]
    lists = pl.DataFrame(columns).select(pl.concat_list(pl.all()).list.drop_nulls().list.unique(maintain_order=True))
    return lists.to_series().to_arrow().cast(pa.list_(pa.string()))


def campaigns(setting: Setting, items: Catalogue) -> pa.Table:
    """Invent eight campaigns for new releases, half strategic, half paid, of which one is over and one a draft."""
    rng, n = setting.rng("campaigns"), 8
    fresh = (items.kind == TRACK) & (items.playable_from > setting.end_us - FRESH_DAYS * DAY_US)
    eligible = np.flatnonzero(
        fresh & (items.playable_from < setting.end_us) & (items.playable_until == NEVER) & (items.home < 0)
    )
    market = np.arange(n) % setting.markets
    start = setting.end_us - DAY_US * np.array([9, 7, 12, 5, 3, 30, 1, 8])
    end = start + DAY_US * np.array([21, 14, 28, 14, 14, 14, 14, 28])
    budget = np.array([5e3, 2e4, 1e4, 4e4, 8e3, 1.5e4, 6e3, 2.5e4])
    paid = np.arange(n) % 2 == 1
    ids = items.ids
    columns = {
        "campaign_id": [f"cp{i:04d}" for i in range(n)],
        "kind": ["paid" if p else "strategic" for p in paid],
        "owner": ["label services" if p else "editorial" for p in paid],
        "item_ids": [ids.gather(np.sort(rng.choice(eligible, 3, replace=False))).to_list() for _ in range(n)],
        "objective": ["streams"] * n,
        "market": [setting.market_codes[m] for m in market],
        "tiers": [None if i % 3 else ["free"] for i in range(n)],
        "surfaces": [["home"]] * n,
        "include_segments": [["active_28d"]] * n,
        "exclude_segments": [None] * n,
        "start_ts": start, "end_ts": end, "budget": budget, "currency": ["USD"] * n,
        "price_model": ["cpm" if p else "none" for p in paid],
        "spend_to_date": np.where(np.arange(n) == 6, 0.0, budget * (0.2 + 0.6 * rng.random(n))).round(2),
        "spend_as_of": np.full(n, setting.end_us), "pacing": [[0.5, 0.3, 0.2]] * n,
        "cap_per_user_lifetime": [1] * n, "cap_per_day": [1] * n, "exclude_recent_streamers_days": [21] * n,
        "min_relevance": [0.2] * n, "holdout_pct": [1.0] * n,
        "disclosure_key": ["sponsored" if p else None for p in paid],
        "priority": list(range(n)), "status": ["active"] * 5 + ["ended", "draft", "active"],
    }  # fmt: skip
    return raw_table(CAMPAIGN, columns)


def tombstones(setting: Setting, items: Catalogue, who: People) -> pa.Table:
    """Bury the taken-down items, the users whose deletion is due, and one campaign."""
    users = np.flatnonzero(who.active_until != NEVER)[::2]
    taken = items.takedowns
    columns = {
        "entity": ["item"] * len(taken) + ["user"] * len(users) + ["campaign"],
        "id": items.ids.gather(taken).to_list() + who.ids.gather(users).to_list() + ["cp0004"],
        "reason": [("legal", "takedown")[i % 2] for i in range(len(taken))] + ["erasure"] * len(users) + ["takedown"],
        "effective_ts": np.r_[items.playable_until[taken], who.active_until[users], setting.end_us - DAY_US],
    }
    return raw_table(TOMBSTONE, columns)
