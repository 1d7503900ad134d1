import dataclasses
import datetime
import itertools
import math
import tomllib

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from toy_road import audience, days_ago, history, item, listen, table

from jobs.options import POLICY_FILE
from schemas.candidates import PROPOSAL
from schemas.policy import Policy
from transforms.conformance import MemoryBundle, departures
from transforms.explore_pool import HOME_EXPLORE_SOURCES, NOW_PLAYING_EXPLORE_SOURCES
from transforms.group_sources import HOME_GROUP_SOURCES, NOW_PLAYING_GROUP_SOURCES
from transforms.io.tables import conform
from transforms.part_sources import HOME_PART_SOURCES, NOW_PLAYING_PART_SOURCES
from transforms.sources import (
    HOME_SEEDS,
    HOME_SOURCES,
    NOW_PLAYING_SOURCES,
    Audience,
    Source,
    artist_radio,
    co_listen,
    familiar,
    follow_new,
    none_found,
    propose,
    relisten,
    transition,
)
from transforms.vector_sources import HOME_VECTOR_SOURCES, NOW_PLAYING_VECTOR_SOURCES

ALL_SOURCES = HOME_SOURCES | HOME_GROUP_SOURCES | NOW_PLAYING_SOURCES | NOW_PLAYING_GROUP_SOURCES
U1 = {"key": "u1", "market": "SE", "tier": "free"}
U2 = {"key": "u2", "market": "SE", "tier": "free"}


def heard(item_id: str, days: float = 0.0, label: float = 1.0, key: str = "u1", artist: str | None = None) -> dict:
    return {
        "key": key,
        "item_id": item_id,
        "item_type": "track",
        "event_ts": days_ago(days),
        "label": label,
        "artist_id": artist,
    }


def scores(found: pl.DataFrame, key: str = "u1") -> dict[str, float]:
    """Return the scores of one key by item, the best first."""
    rows = found.filter(pl.col("key") == key).sort("raw_score", "item_id", descending=[True, False])
    return dict(rows.select("item_id", "raw_score").rows())


def near(*rows: tuple[str, str, float]) -> pl.DataFrame:
    """Return co-listens of `(seed, neighbour, score)`, ranked in the order given."""
    ranks: dict[str, int] = {}
    told = []
    for seed, other, score in rows:
        ranks[seed] = ranks.get(seed, -1) + 1
        told.append(
            {"item_id": seed, "other_item_id": other, "score": score, "rank": ranks[seed], "other_return_rate": 0.5}
        )
    return table("co_listen", told)


# home.co_listen


def test_co_listen_adds_up_strength_times_closeness():
    listens = [heard("a"), heard("a", 14), heard("b", 28, label=0.5)]
    bundle = MemoryBundle({"co_listen": near(("a", "x", 0.4), ("a", "y", 0.2), ("b", "x", 0.8), ("c", "z", 9.0))})
    found = co_listen(audience([U1], listens), bundle)
    # a: 1 + 1/2, half after 14 days; b: 1/2 x 1/4
    assert scores(found) == pytest.approx({"x": 1.5 * 0.4 + 0.125 * 0.8, "y": 1.5 * 0.2})


def test_co_listen_names_the_strongest_seeds_and_the_last_event_of_the_first():
    listens = [heard("a", 3), heard("a", 1), heard("b", 9), heard("c", 2, label=0.9), heard("d", 4)]
    bundle = MemoryBundle({"co_listen": near(*((seed, "x", 1.0) for seed in "abcd"))})
    (row,) = co_listen(audience([U1], listens), bundle).iter_rows(named=True)
    assert row["seed_item_ids"] == ["a", "d", "c"]
    assert row["seed_event_ts"] == days_ago(1)


def test_co_listen_asks_the_strongest_seeds_only():
    listens = [heard(f"s{n:02d}", label=1.0 - n / 100) for n in range(HOME_SEEDS + 2)]
    bundle = MemoryBundle({"co_listen": near(*((f"s{n:02d}", f"x{n:02d}", 1.0) for n in range(HOME_SEEDS + 2)))})
    assert sorted(scores(co_listen(audience([U1], listens), bundle))) == [f"x{n:02d}" for n in range(HOME_SEEDS)]


def test_co_listen_keeps_users_apart():
    listens = [heard("a"), heard("b", key="u2")]
    bundle = MemoryBundle({"co_listen": near(("a", "x", 1.0), ("b", "y", 1.0))})
    found = co_listen(audience([U1, U2], listens), bundle)
    assert (list(scores(found)), list(scores(found, "u2"))) == (["x"], ["y"])


# home.relisten


def log_odds(n: int, days: float, gap: float, liking: float) -> float:
    return 1.2 * math.log(n) - 0.9 * abs(math.log((days + 0.5) / (gap + 0.5))) + math.log(liking)


def test_relisten_knows_the_cadence_of_each_item():
    listens = [
        *(heard("daily", days) for days in (1, 2, 3, 4)),
        *(heard("tired", days) for days in (20, 21, 22, 23)),
        *(heard("weekly", days, label=0.5) for days in (7, 14)),
        heard("once", 7),
        heard("now", 0),
    ]
    found = scores(relisten(audience([U1], listens), MemoryBundle({})))
    assert found == pytest.approx({
        "daily": log_odds(4, 1, 1, 1.0), "weekly": log_odds(2, 7, 7, 0.5), "once": log_odds(1, 7, 7, 1.0),
        "tired": log_odds(4, 20, 1, 1.0), "now": log_odds(1, 0, 7, 1.0),
    })  # fmt: skip
    assert list(found) == ["daily", "weekly", "once", "tired", "now"]


def test_relisten_names_the_item_itself_and_its_last_play():
    (row,) = relisten(audience([U1], [heard("a", 9), heard("a", 2)]), MemoryBundle({})).iter_rows(named=True)
    assert (row["seed_item_ids"], row["seed_event_ts"]) == (["a"], days_ago(2))


# home.follow_new


def released(item_id: str, days: float, artist: str = "a", **columns) -> dict:
    return item(item_id, artist, release_ts=days_ago(days), **columns)


def new(items: list[dict], listens=(), follows=(), key: str = "u1") -> dict[str, float]:
    keys = [U1 | {"follows": list(follows)}, U2]
    return scores(follow_new(audience(keys, listens), MemoryBundle({"item": table("item", items)})), key)


@pytest.mark.parametrize(
    ("kind", "days", "there"),
    [
        ("track", 13.99, True), ("track", 14, False), ("video", 13.99, True), ("track", 0, True),
        ("track", -0.01, False), ("episode", 6.99, True), ("episode", 7, False), ("chapter", 7, False),
        ("audiobook", 6.99, True),
    ],
)  # fmt: skip
def test_music_is_new_for_a_fortnight_and_talk_for_a_week(kind, days, there):
    assert list(new([released("n", days, item_type=kind)], follows=["a"])) == (["n"] if there else [])


def test_what_is_followed_comes_before_what_is_listened_to():
    items = [
        released("followed", 0, "a"),
        released("liked", 0, "b"),
        released("both", 7, "c"),
        released("other", 0, "d"),
    ]
    listens = [heard("x", label=1.0, artist="b"), heard("y", label=0.5, artist="c"), heard("z", label=0.5, artist="c")]
    found = new(items, listens, follows=["a", "c"])
    # shares of liking: b 1/2, c 1/2; plus 3 where followed; half after a week
    assert found == pytest.approx({"followed": 3.0, "both": (0.5 + 3.0) / 2, "liked": 0.5})
    assert new(items, listens, follows=["a", "c"], key="u2") == {}


def test_new_episodes_of_a_followed_show_and_guests_count():
    guest = [{"artist_id": one, "name": None, "role": None} for one in ("z", "a")]
    items = [
        released("talk", 0, item_type="episode", artists=None, show_id="show"),
        released("guest", 0, artists=guest),
    ]
    assert new(items, follows=["show", "a"]) == {"guest": 3.0, "talk": 3.0}
    assert new([released("nobody", 0, artists=None)], follows=["show"]) == {}


def test_an_item_of_two_known_artists_has_the_better_reason():
    both = [{"artist_id": one, "name": None, "role": None} for one in ("a", "b")]
    bundle = MemoryBundle({"item": table("item", [released("n", 0, artists=both)])})
    listens = [heard("x", 5, artist="b"), heard("y", 3, artist="b"), heard("z", 4, artist="c")]
    (row,) = follow_new(audience([U1 | {"follows": ["b", "b"]}], listens), bundle).iter_rows(named=True)
    assert row["raw_score"] == pytest.approx(2 / 3 + 3)
    assert (row["seed_item_ids"], row["seed_event_ts"]) == (["y"], days_ago(3))


def test_who_only_follows_has_no_seed():
    bundle = MemoryBundle({"item": table("item", [released("n", 0)])})
    (row,) = follow_new(audience([U1 | {"follows": ["a"]}]), bundle).iter_rows(named=True)
    assert (row["seed_item_ids"], row["seed_event_ts"]) == ([], None)


# What sources of groups are asked (`test_group_sources`).


def chart(*rows: tuple[str, str, str, int]) -> MemoryBundle:
    told = [{"market": m, "tier": t, "item_type": "track", "item_id": i, "weight": w, "rank": 0} for m, t, i, w in rows]
    return MemoryBundle({"popularity": table("popularity", told)})


def groups(*pairs: str):
    return audience([{"key": f"*|{pair}", "market": pair.split("|")[0], "tier": pair.split("|")[1]} for pair in pairs])


# np.transition


def follows(*rows: tuple[str, str, str, float]) -> MemoryBundle:
    told = [
        {"level": level, "context_id": context, "next_item_id": after, "probability": p, "weight": 1, "rank": 0}
        for level, context, after, p in rows
    ]
    return MemoryBundle({"transition": table("transition", told)})


SEED = {"key": "s", "market": "*", "tier": "*", "canonical_id": "s", "artist_id": "a", "genre": "g"}


def test_every_level_of_back_off_has_its_weight_and_the_best_counts():
    bundle = follows(
        ("item", "s", "i", 0.5), ("canonical", "c", "c1", 0.5), ("artist", "a", "a1", 0.5), ("genre", "g", "g1", 0.5),
        ("artist", "a", "i", 1.0), ("genre", "g", "a1", 0.9), ("item", "a", "wrong", 1.0), ("genre", "s", "wrong", 1.0),
    )  # fmt: skip
    found = transition(audience([SEED | {"canonical_id": "c"}]), bundle)
    assert scores(found, "s") == pytest.approx({"i": 0.5, "c1": 0.45, "a1": 0.15, "g1": 0.05})


def test_a_seed_of_no_artist_and_genre_asks_what_follows_it_alone():
    bundle = follows(("item", "s", "i", 0.5), ("artist", "a", "x", 1.0))
    found = transition(audience([{"key": "s", "market": "*", "tier": "*", "canonical_id": "s"}]), bundle)
    assert scores(found, "s") == {"i": 0.5}
    assert found["seed_item_ids"].to_list() == [["s"]]


def test_no_seed_follows_itself():
    found = transition(audience([SEED]), follows(("artist", "a", "s", 1.0), ("genre", "g", "s", 1.0)))
    assert found.height == 0


# np.artist_radio


def cuts(*artists: tuple[str, str]) -> pl.DataFrame:
    """Return the top items of artists, the best first, one character each."""
    rows = [
        {"artist_id": artist, "item_id": one, "weight": 1, "rank": rank}
        for artist, items in artists
        for rank, one in enumerate(items)
    ]
    return table("artist_top", rows)


def test_the_radio_plays_the_artist_and_then_its_neighbours():
    bundle = MemoryBundle({
        "co_listen": near(("s", "p", 0.9), ("s", "m", 0.8), ("t", "z", 0.9)),
        "artist_top": cuts(("a", "ksl"), ("b", "pq"), ("c", "m"), ("d", "z")),
    })  # fmt: skip
    found = artist_radio(audience([SEED]), bundle)
    assert scores(found, "s") == pytest.approx({"k": 1.0, "l": 1 / 3, "m": 0.3, "p": 0.3, "q": 0.15})


def test_the_radio_has_three_related_artists():
    bundle = MemoryBundle({
        "co_listen": near(*(("s", one, 0.9 - n / 10) for n, one in enumerate("kbcde"))),
        "artist_top": cuts(("a", "sk"), ("b", "b"), ("c", "c"), ("d", "d"), ("e", "e")),
    })  # fmt: skip
    assert sorted(scores(artist_radio(audience([SEED]), bundle), "s")) == ["b", "c", "d", "k"]


def test_three_related_artists_are_three_where_the_own_one_is_not_among_them():
    bundle = MemoryBundle({
        "co_listen": near(*(("s", one, 0.9 - n / 10) for n, one in enumerate("bcde"))),
        "artist_top": cuts(("a", "sk"), ("b", "b"), ("c", "c"), ("d", "d"), ("e", "e")),
    })  # fmt: skip
    assert sorted(scores(artist_radio(audience([SEED]), bundle), "s")) == ["b", "c", "d", "k"]


# np.familiar


def test_familiar_is_what_listeners_return_for():
    told = near(("s", "x", 0.9), ("s", "y", 0.5), ("s", "z", 0.4), ("t", "w", 0.9)).with_columns(
        pl.Series("other_return_rate", [0.1, 0.4, 0.0, 0.9], pl.Float32)
    )
    found = familiar(audience([SEED]), MemoryBundle({"co_listen": told}))
    assert scores(found, "s") == pytest.approx({"y": 0.2, "x": 0.09})


def known_by(listens: dict[str, list[dict]], *session: str) -> Audience:
    """Return listeners in one session each, which plays `s` at last, with what they heard before."""
    keys = [SEED | {"key": key} for key in listens]
    asking = audience(
        keys, [heard(one, n / 1_000, 0.5, key) for key in listens for n, one in enumerate(("s", *session))]
    )
    seeds = asking.keys.with_columns(seed_item_id=pl.lit("s"))
    told = [history(key, own) for key, own in listens.items() if own]
    histories = table("history", told).select("positives", key="user_id")
    return dataclasses.replace(asking, keys=seeds, histories=histories)


def played(item_id: str, *days: float, label: float = 0.5) -> list[dict]:
    return [listen(item_id, one, label) for one in days]


def companions() -> MemoryBundle:
    told = near(("s", "x", 0.9), ("s", "y", 0.5), ("s", "z", 0.4), ("r", "w", 0.8), ("r", "y", 0.6))
    rates = pl.Series("other_return_rate", [0.1, 0.4, 0.0, 0.9, 0.9], pl.Float32)
    return MemoryBundle({"co_listen": told.with_columns(rates)})


def test_familiar_begins_with_own_favourites_that_suit_the_session():
    own = [*played("w", 3, 9), *played("z", 1, 1, 1, label=1.0), *played("x", 5), *played("far", 1, 2, 3)]
    found = familiar(known_by({"ann": own, "bob": []}, "r"), companions())
    assert scores(found, "bob") == pytest.approx({"y": 0.2, "x": 0.09})
    w = 0.5 * (0.5 ** (3 / 30) + 0.5 ** (9 / 30))
    expected = {"w": 1 + 0.8 * (1 - 0.5**w), "z": 1 + 0.4 * (1 - 0.5 ** (3 * 0.5 ** (1 / 30))), "y": 0.2, "x": 0.09}
    assert scores(found, "ann") == pytest.approx(expected), "once is no favourite, and what suits nothing is left out"
    (row,) = found.filter(pl.col("item_id") == "w").to_dicts()
    assert (row["seed_item_ids"], row["seed_event_ts"]) == (["w", "r"], days_ago(3))


def test_a_favourite_is_near_to_one_of_the_last_items_of_the_session_and_not_among_them():
    own = [*played("x", 3, 9), *played("y", 3, 9), *played("w", 3, 9)]
    asking = known_by({"ann": own}, "a", "b", "c", "d", "r")
    barred = pl.DataFrame({"key": ["ann"], "item_id": ["y"]})
    found = familiar(dataclasses.replace(asking, unwanted=barred), companions())
    assert {name for name, score in scores(found, "ann").items() if score > 1} == {"x"}, "r is too long ago for w"


def test_familiar_keeps_the_rules_of_sources_in_sessions_too():
    own = [*played("w", 3, 9), *played("z", 1, 1, label=1.0), *played("y", 4, 5)]
    asking = known_by({"ann": own, "bob": own[:2]}, "r")
    assert departures(NOW_PLAYING_SOURCES["np.familiar"], asking, companions()) == []


# What `propose` makes of them.


def fixed(*rows: tuple[str, str, float], limit: int = 9) -> Source:
    frame = pl.DataFrame(
        [{"key": k, "item_id": i, "raw_score": s, "seed_item_ids": [], "seed_event_ts": None} for k, i, s in rows],
        schema=none_found().schema,
    )
    return Source(lambda audience, bundle: frame, "kind", "signal", "reason", limit)


def test_ranks_begin_at_the_best_of_each_key_and_end_at_the_limit():
    source = fixed(("u1", "a", 1.0), ("u1", "c", 3.0), ("u1", "b", 2.0), ("u2", "a", 5.0), limit=2)
    found = propose({"s": source}, audience([U1, U2]), MemoryBundle({}))
    assert found.select("key", "item_id", "source_rank").rows() == [("u1", "c", 0), ("u1", "b", 1), ("u2", "a", 0)]
    assert found.select("source_id", "score_kind", "signal_type").unique().rows() == [("s", "kind", "signal")]


def test_scores_equal_in_float32_go_to_the_smaller_id():
    source = fixed(("u1", "b", 1.0 + 1e-12), ("u1", "a", 1.0))
    assert propose({"s": source}, audience([U1]), MemoryBundle({}))["item_id"].to_list() == ["a", "b"]


def test_the_order_in_which_rows_are_found_changes_nothing():
    rows = [("u1", "b", 3.0), ("u1", "a", 1.0), ("u1", "c", 1.0), ("u2", "a", 2.0), ("u3", "z", 0.5)]
    for dealt in itertools.permutations(rows):
        found = propose({"s": fixed(*dealt)}, audience([U1, U2]), MemoryBundle({}))
        assert found.select("key", "item_id", "raw_score").rows() == rows


# Every source, on one world.


def world() -> MemoryBundle:
    """Return 30 items in a ring: each item's neighbours are listened to with it and follow it."""
    ids = [f"i{n:02d}" for n in range(30)]
    artists = {one: f"a{n % 5}" for n, one in enumerate(ids)}
    items = [
        item(one, artists[one], release_ts=days_ago(n), genres=[f"g{n % 3}"], canonical_id=f"c{n // 2}")
        for n, one in enumerate(ids)
    ]
    pairs = [(one, ids[(n + step) % 30], 1.0 / step) for n, one in enumerate(ids) for step in (1, 2, 3)]
    steps = [("item", one, ids[(n + 1) % 30], 0.7) for n, one in enumerate(ids)]
    steps += [("artist", f"a{n}", one, 0.1) for n in range(5) for one in ids[:9]]
    charts = [(m, t, one, 30 - n) for m in ("SE", "*") for t in ("free", "*") for n, one in enumerate(ids[::2])]
    own = [(artist, [one for one in ids if artists[one] == artist]) for artist in sorted(set(artists.values()))]
    return MemoryBundle({
        "item": table("item", items), "co_listen": near(*pairs), **follows(*steps).tables, **chart(*charts).tables,
        "artist_top": cuts(*own),
    })  # fmt: skip


def audiences():
    users = [U1 | {"follows": ["a3"]}, U2]
    listens = [heard(f"i{n:02d}", n % 11, 0.5, key, f"a{n % 5}") for key in ("u1", "u2") for n in range(5, 20, 2)] * 2
    seeds = [
        SEED | {"key": f"i{n:02d}", "canonical_id": f"c{n // 2}", "artist_id": f"a{n % 5}", "genre": f"g{n % 3}"}
        for n in range(10)
    ]
    return audience(users, listens), audience(seeds), groups("SE|free", "SE|*", "*|*")


def asked(name: str):
    people, seeds, charts = audiences()
    return people if name in HOME_SOURCES else seeds if name in NOW_PLAYING_SOURCES else charts


@pytest.mark.parametrize("name", sorted(ALL_SOURCES))
def test_every_source_keeps_the_contract(name):
    source, asking = ALL_SOURCES[name], asked(name)
    raw = source.propose(asking, world())
    assert set(raw.columns) >= set(none_found().columns)
    found = propose({name: source}, asking, world())
    table_ = conform(found, PROPOSAL)
    assert table_.schema.names == PROPOSAL.schema.names
    assert set(found["key"]) == set(asking.keys["key"])
    assert found["raw_score"].is_finite().all()
    assert found.select("key", "item_id").is_duplicated().sum() == 0
    assert (found["item_id"] != found["key"]).all()
    assert found["seed_item_ids"].list.len().max() <= 3
    for (_,), rows in found.partition_by("key", as_dict=True).items():
        assert rows["source_rank"].to_list() == list(range(rows.height))
        assert rows["raw_score"].is_sorted(descending=True)
        assert rows.height <= source.limit


@pytest.mark.parametrize("name", sorted(ALL_SOURCES))
def test_no_source_depends_on_the_order_of_rows(name):
    source, asking, bundle = ALL_SOURCES[name], asked(name), world()
    expected = propose({name: source}, asking, bundle)
    for seed in range(3):
        shuffled = dataclasses.replace(
            asking,
            keys=asking.keys.sample(fraction=1.0, shuffle=True, seed=seed),
            listens=asking.listens.sample(fraction=1.0, shuffle=True, seed=seed),
        )
        tables = {n: rows.sample(fraction=1.0, shuffle=True, seed=seed) for n, rows in bundle.tables.items()}
        assert_frame_equal(propose({name: source}, shuffled, MemoryBundle(tables)), expected, check_exact=True)


@pytest.mark.parametrize("name", sorted(ALL_SOURCES))
def test_no_source_minds_an_empty_world_or_nobody(name):
    empty = MemoryBundle({n: rows.clear() for n, rows in world().tables.items()})
    nobody = dataclasses.replace(asked(name), keys=asked(name).keys.clear(), listens=asked(name).listens.clear())
    assert propose({name: ALL_SOURCES[name]}, nobody, world()).height == 0
    without_tables = propose({name: ALL_SOURCES[name]}, asked(name), empty)
    assert without_tables.height == (0 if name != "home.relisten" else 16)


def test_no_source_sees_what_is_yet_to_come():
    later = datetime.timedelta(days=1)
    asking = asked("home.follow_new")
    found = propose({"s": ALL_SOURCES["home.follow_new"]}, dataclasses.replace(asking, now=asking.now - later), world())
    assert "i00" not in found["item_id"].to_list()
    assert "i01" in propose({"s": ALL_SOURCES["home.follow_new"]}, asking, world())["item_id"].to_list()


def test_every_source_of_the_policy_is_there_and_proposes_more_than_it_may_place():
    surfaces = Policy.from_dict(tomllib.loads(POLICY_FILE.read_text()), "surfaces.toml").surfaces.values()
    quotas = {one.source_id: one for surface in surfaces for one in surface.sources}
    explored = HOME_EXPLORE_SOURCES | NOW_PLAYING_EXPLORE_SOURCES
    parts = HOME_PART_SOURCES | NOW_PLAYING_PART_SOURCES
    every = ALL_SOURCES | HOME_VECTOR_SOURCES | NOW_PLAYING_VECTOR_SOURCES | explored | parts
    assert sorted(quotas) == sorted(every)
    assert [name for name, one in quotas.items() if every[name].limit <= one.maximum] == []
