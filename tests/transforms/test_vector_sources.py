"""Sources over vectors, in a plane: the angle between two decides, so that the right answer can be read off."""

import dataclasses
import math

import numpy as np
import polars as pl
import pytest
from toy_road import audience, days_ago, instant, item, listen, offer_in, policy, quota, table

from transforms.conformance import MemoryBundle
from transforms.index.exact import ExactIndex
from transforms.kin import CAPS, Kin
from transforms.market_profiles import MarketProfiles
from transforms.reach import Reach, World
from transforms.vector_sources import (
    Items,
    fresh_content,
    fresh_market,
    nearest,
    sequence,
    session,
    session_knn,
    similar,
    two_tower,
)


def at(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


PLACES = {"east": 0, "near_east": 10, "north_east": 45, "north": 90, "west": 180}
IDS = pl.Series("item_id", sorted(PLACES))
VECTORS = np.array([at(PLACES[name]) for name in IDS], np.float32)
SURFACE = policy(quota("any"))
REACH = Reach.of(
    [table("item", [item(name) for name in IDS])], IDS, instant(SURFACE), World([], pl.Series(dtype=pl.String))
)
ITEMS = Items(IDS, ExactIndex.of(VECTORS), REACH, Kin(np.zeros((len(IDS), len(CAPS)), np.uint64)))


@dataclasses.dataclass
class PlaneBundle(MemoryBundle):
    """Plays are encoded as the place of the last one."""

    users: dict = dataclasses.field(default_factory=dict)

    def items(self):
        return ITEMS

    def user_vectors(self, keys):
        known = pl.Series([key for key in sorted(keys) if key in self.users], dtype=pl.String)
        return known, np.array([at(self.users[key]) for key in known], np.float32).reshape(-1, 2)

    def market_profiles(self):
        return MarketProfiles(
            {("SE", ""): np.array(at(0)), ("SE", "sv"): np.array(at(90)), ("*", ""): np.array(at(180))}
        )

    def encode(self, listens, keys):
        last = dict(listens.group_by("key").agg(pl.col("item_id").last()).rows())
        return np.array([at(PLACES[last[key]]) for key in keys], np.float32).reshape(-1, 2)

    def neighbour_sessions(self, listens, keys, limit):
        held = pl.DataFrame({"item_id": ["east", "north"], "raw_score": [2.0, 1.0]})
        return keys.to_frame("key").join(held, how="cross")


def bundle(users=None, items=(), plays=()) -> PlaneBundle:
    vocabulary = [{"item_id": name, "number": 0, "positives": n} for name, n in plays]
    return PlaneBundle({"item": table("item", items), "vocabulary": table("vocabulary", vocabulary)}, users or {})


def found(frame: pl.DataFrame, key: str) -> list[str]:
    return frame.filter(pl.col("key") == key).sort("raw_score", descending=True)["item_id"].to_list()


LISTENS = [{"key": "ann", **listen("west", days=9)}, {"key": "ann", **listen("east", days=1)}]


def test_the_nearest_come_first_and_what_points_away_comes_last():
    who = audience([{"key": "x"}])
    frame = nearest(who, pl.Series(["x"]), np.array([at(0)], np.float32), ITEMS, 3)
    assert found(frame, "x") == ["east", "near_east", "north_east"]
    everything = nearest(who, pl.Series(["x"]), np.array([at(1)], np.float32), ITEMS, 9)
    assert found(everything, "x") == ["east", "near_east", "north_east", "north", "west"]


def test_what_a_kind_of_listener_may_be_offered_is_made_out_once_for_all_that_search(monkeypatch):
    made, mask = [], Reach.mask
    monkeypatch.setattr(Reach, "mask", lambda self, **rights: made.append(rights["languages"]) or mask(self, **rights))
    items = dataclasses.replace(ITEMS)
    who = audience([{"key": "x"}, {"key": "y"}, {"key": "z"}])
    spoken = pl.Series("languages", [["sv", "en"], None, ["en", "sv"]])
    who = dataclasses.replace(who, rights=who.rights.sort("key").with_columns(spoken))
    for _ in range(2):
        frame = nearest(who, pl.Series(["x", "y", "z"]), np.array([at(0)] * 3, np.float32), items, 3)
        assert all(found(frame, key) == ["east", "near_east", "north_east"] for key in "xyz")
    assert made == [("en", "sv"), None]


def test_a_market_against_the_taste_of_a_listener_gives_as_many_as_it_has():
    """NO has 1 % of the catalogue, and all of it points away from what everybody likes."""
    rng, num_items, limit = np.random.default_rng(5), 2_000, 10
    ids = pl.Series("item_id", [f"i{n:04d}" for n in range(num_items)])
    angles = rng.uniform(-80, 80, num_items)
    angles[::100] += 180
    rows = [item(one, availability=[offer_in("SE" if n % 100 else "NO")]) for n, one in enumerate(ids)]
    reach = Reach.of([table("item", rows)], ids, instant(SURFACE), World(["NO", "SE"], pl.Series(dtype=pl.String)))
    vectors = np.array([at(angle) for angle in angles], np.float32)
    items = Items(ids, ExactIndex.of(vectors), reach, Kin(np.zeros((num_items, len(CAPS)), np.uint64)))
    who = audience([{"key": "ann"}, {"key": "bob"}])
    who = dataclasses.replace(who, rights=who.rights.with_columns(market=pl.lit("NO")))
    asked = np.array([at(0), at(5)], np.float32)
    for wanted in (limit, 50):
        frame = nearest(who, pl.Series(["ann", "bob"]), asked, items, wanted)
        for key, query in zip(("ann", "bob"), asked, strict=True):
            here = np.arange(0, num_items, 100)
            best = here[np.argsort(-(vectors[here] @ query), kind="stable")]
            assert found(frame, key) == ids.gather(best[: min(wanted, 20)]).to_list()
    assert frame["raw_score"].max() < 0


def test_what_a_listener_may_not_be_offered_is_not_looked_for(monkeypatch):
    """Each has a right of their own, so that there are more kinds than are masked at once."""
    monkeypatch.setattr("transforms.vector_sources.MASKS_AT_ONCE", 2)
    offers = {"east": [offer_in("NO")], "near_east": [offer_in("SE", ["premium"])], "north": [offer_in("SE")]}
    rows = [item(name, availability=offers.get(name), explicit=name == "north_east") for name in IDS]
    reach = Reach.of([table("item", rows)], IDS, instant(SURFACE), World([], pl.Series(dtype=pl.String)))
    rights = {
        "ann": ("SE", "free", True),
        "bob": ("NO", "free", False),
        "cid": ("SE", "premium", False),
        "dan": ("SE", "free", True),
    }
    who = audience([{"key": key} for key in rights])
    told = [{"key": key, "market": m, "tier": t, "explicit_allowed": e} for key, (m, t, e) in rights.items()]
    who = dataclasses.replace(
        who,
        rights=pl.DataFrame(told).with_columns(max_age=pl.lit(21), languages=pl.lit(None, pl.List(pl.String))),
        unwanted=pl.DataFrame({"key": ["dan", "dan"], "item_id": ["north", "unknown"]}),
    )  # fmt: skip
    keys = pl.Series(sorted(rights))
    frame = nearest(
        who,
        keys,
        np.array([at(30)] * 4, np.float32),
        Items(IDS, ITEMS.index, reach, Kin(np.zeros((len(IDS), len(CAPS)), np.uint64))),
        1,
    )
    best = {key: found(frame, key) for key in rights}
    assert best == {"ann": ["north_east"], "bob": ["east"], "cid": ["near_east"], "dan": ["north_east"]}
    frame = nearest(
        who,
        keys,
        np.array([at(30)] * 4, np.float32),
        Items(IDS, ITEMS.index, reach, Kin(np.zeros((len(IDS), len(CAPS)), np.uint64))),
        9,
    )
    assert found(frame, "ann") == ["north_east", "north", "west"]
    assert found(frame, "dan") == ["north_east", "west"]


def test_proposals_are_spread_over_albums_and_looked_for_further_off():
    """The four nearest are of one album; the caps leave one of it."""
    rows = [item(name, album_id="l" if name != "west" else None) for name in IDS]
    kin = Kin.read([table("item", rows)], IDS)
    who = dataclasses.replace(audience([{"key": "x"}]), policy=policy(quota("any"), album=1))
    frame = nearest(who, pl.Series(["x"]), np.array([at(91)], np.float32), Items(IDS, ITEMS.index, REACH, kin), 2)
    assert found(frame, "x") == ["north", "west"]


def test_a_vector_of_no_known_play_finds_nothing():
    who = audience([{"key": "x"}, {"key": "y"}])
    frame = nearest(who, pl.Series(["x", "y"]), np.array([[0, 0], at(0)], np.float32), ITEMS, 2)
    assert frame["key"].to_list() == ["y", "y"]


def test_the_user_vector_proposes_and_the_last_listens_explain():
    frame = two_tower(audience([{"key": "ann"}, {"key": "bob"}], LISTENS), bundle({"ann": 90, "bob": 0}))
    assert found(frame, "ann")[0] == "north"
    assert frame.filter(pl.col("key") == "ann")["seed_item_ids"][0].to_list() == ["east", "west"]
    assert found(frame, "bob") == []  # a vector without listens has nothing to explain it


def test_the_sequence_goes_on_from_the_last_listen():
    listens = [{"key": "ann", **listen("north", days=10)}, *LISTENS]
    assert found(sequence(audience([{"key": "ann"}], listens), bundle()), "ann")[:2] == ["east", "near_east"]


def test_who_has_no_listens_has_no_sequence():
    assert sequence(audience([{"key": "ann"}]), bundle()).height == 0


@pytest.mark.parametrize(("plays", "skips", "enough"), [(2, 0, False), (3, 0, True), (1, 1, False), (1, 2, True)])
def test_fewer_than_three_events_are_no_sequence(plays, skips, enough):
    heard = [[{"key": "ann", **listen("east", days=day)} for day in range(1, n + 1)] for n in (plays, skips)]
    assert (sequence(audience([{"key": "ann"}], *heard), bundle()).height > 0) is enough


def heard_in_turns(*items: str, times: int = 5) -> list[dict]:
    """Return listens of ann: each item so many times, the last item last."""
    order = [name for name in items for _ in range(times)]
    return [{"key": "ann", **listen(name, days=len(order) - place)} for place, name in enumerate(order)]


def test_a_sequence_goes_on_from_every_interest_and_names_the_plays_of_the_one_that_found_it():
    frame = sequence(audience([{"key": "ann"}], heard_in_turns("west", "east")), bundle()).sort("raw_score", "item_id")
    told = {one["item_id"]: (round(one["raw_score"], 2), one["seed_item_ids"]) for one in frame.to_dicts()}
    assert told["west"] == (1.0, ["west"])
    assert told["east"] == (1.0, ["east"])
    assert told["near_east"] == (0.98, ["east"])
    assert not frame.select("key", "item_id").is_duplicated().any()


def test_a_sequence_goes_back_200_listens_and_no_further():
    old = heard_in_turns("west", times=200)
    new = [{"key": "ann", **listen("east", days=0.5 / n)} for n in range(1, 201)]
    some = sequence(audience([{"key": "ann"}], [*old, *new[:150]]), bundle())
    none = sequence(audience([{"key": "ann"}], [*old, *new]), bundle())
    west = [frame.filter(item_id="west")["raw_score"][0] for frame in (some, none)]
    assert west == pytest.approx([1.0, -1.0])


def test_interests_do_not_depend_on_how_many_users_are_asked_at_once(monkeypatch):
    listens = heard_in_turns("west", "north", "east")
    people = [f"u{n}" for n in range(7)]
    said = [{**one, "key": key} for n, key in enumerate(people) for one in listens[: 9 + n]]
    who = audience([{"key": key} for key in people], said)
    expected = sequence(who, bundle())
    monkeypatch.setattr("transforms.vector_sources.USERS_AT_ONCE", 2)
    assert sequence(who, bundle()).equals(expected)


def test_fresh_items_are_new_and_little_played():
    items = [
        item("east", release_ts=days_ago(3)), item("near_east", release_ts=days_ago(3)),
        item("north_east", release_ts=days_ago(400)), item("north", release_ts=days_ago(-2)),
    ]  # fmt: skip
    frame = fresh_content(
        audience([{"key": "ann"}], LISTENS), bundle({"ann": 20}, items, [("near_east", 500), ("east", 3)])
    )
    assert found(frame, "ann") == ["east"]


def test_who_has_told_nothing_is_proposed_what_is_new_and_like_the_market():
    """Ann has listened and Bob has a vector; the others are new, of whom Eva speaks Swedish and Tom is somewhere unknown."""
    items = [item(one, release_ts=days_ago(3 if one != "north_east" else 400)) for one in PLACES]
    who = audience([{"key": one} for one in ("ann", "bob", "eva", "sam", "tom")], LISTENS)
    own = pl.col("key")
    rights = who.rights.with_columns(
        market=pl.when(own == "tom").then(pl.lit("FI")).otherwise("market"),
        languages=pl.when(own == "eva").then(pl.lit(["sv"])).otherwise("languages"),
    )
    frame = fresh_market(dataclasses.replace(who, rights=rights), bundle({"bob": 0}, items, [("west", 500)]))
    assert found(frame, "ann") == found(frame, "bob") == []
    assert found(frame, "sam") == ["east", "near_east", "north"]
    assert found(frame, "eva")[0] == "north"
    assert found(frame, "tom")[0] == "north", "of what is left least far from the west"
    assert frame["seed_item_ids"].list.len().sum() == 0
    nowhere = bundle({}, items)
    nowhere.market_profiles = lambda: MarketProfiles({})
    assert fresh_market(who, nowhere).height == 0
    assert fresh_market(audience([{"key": "ann"}], LISTENS), bundle({}, items)).height == 0


def test_a_session_goes_on_without_its_seed():
    assert found(session(audience([{"key": "east"}]), bundle()), "east") == ["near_east", "north_east", "north", "west"]


def test_talk_is_like_talk_of_its_language():
    items = [
        item("east", item_type="episode", languages=["sv"]), item("near_east", languages=["en"]),
        item("north_east", languages=["sv", "en"]), item("north"), item("west"),
    ]  # fmt: skip
    assert found(similar(audience([{"key": "east"}]), bundle(items=items)), "east") == ["north_east"]
    music = [*([{**items[0], "item_type": "track"}]), *items[1:]]
    assert found(similar(audience([{"key": "east"}]), bundle(items=music)), "east")[0] == "near_east"


def test_neighbour_sessions_do_not_propose_the_seed():
    frame = session_knn(audience([{"key": "east"}]), bundle())
    assert frame.select("item_id", "seed_item_ids").rows() == [("north", ["east"])]


@pytest.mark.parametrize("source", [two_tower, sequence, fresh_content, fresh_market, session, similar])
def test_every_source_gives_the_columns_of_proposals(source):
    frame = source(audience([{"key": "east"}], [{"key": "east", **listen("west")}]), bundle({"east": 0}))
    assert frame.columns == ["key", "item_id", "raw_score", "seed_item_ids", "seed_event_ts"]


def test_a_skip_is_part_of_what_a_sequence_goes_on_from():
    """The toy bundle goes on from whatever came last."""
    skips = [{"key": "ann", **listen("north", days=0.5, label=-0.5)}, {"key": "bob", **listen("north", label=-0.5)}]
    frame = sequence(audience([{"key": "ann"}, {"key": "bob"}], LISTENS, skips), bundle())
    assert found(frame, "ann")[0] == "north"
    assert found(frame, "bob") == []


@pytest.mark.parametrize("seed", range(6))
def test_what_follows_a_seed_is_enough_in_every_market_it_is_played_in(seed):
    """A fifth of the items is offered in NO, to some tiers only, and taste goes with it: it is all in the north."""
    rng, limit = np.random.default_rng(seed), 5
    ids = pl.Series("item_id", [f"i{n:02d}" for n in range(60)])
    angles = rng.uniform(0, 180, 60)
    offers = [
        [
            offer_in("SE"),
            *([offer_in("NO", [None, ["premium"], ["free", "premium"]][rng.integers(3)])] * int(angle > 144)),
        ]
        for angle in angles
    ]
    rows = [item(name, availability=own if n % 7 else None) for n, (name, own) in enumerate(zip(ids, offers))]
    reach = Reach.of([table("item", rows)], ids, instant(SURFACE), World(["NO", "SE"], pl.Series(dtype=pl.String)))
    vectors = np.array([at(angle) for angle in angles], np.float32)
    items = Items(ids, ExactIndex.of(vectors), reach, Kin(np.zeros((60, len(CAPS)), np.uint64)))
    keys = ids[:8]
    places = [(key, "SE", "free") for key in keys] + [
        (key, "NO", str(rng.choice(["premium", "free+premium"]))) for key in keys[::2]
    ]
    who = audience([{"key": key} for key in keys])
    who = dataclasses.replace(
        who,
        rights=who.rights.with_columns(market=pl.lit(None, pl.String), tier=pl.lit("*")),
        places=pl.DataFrame(places, schema=["key", "market", "tier"], orient="row"),
    )
    frame = nearest(who, keys, vectors[:8], items, limit)
    assert not frame.select("key", "item_id").is_duplicated().any()
    places = {*places, *((key, None, "*") for key in keys)}
    for key, market, tier in places:
        here = reach.available(market, tier)
        scores = np.where(here, vectors @ vectors[ids.index_of(key)], -np.inf)
        best = ids.gather(np.argsort(-scores, kind="stable")[: min(limit, int(here.sum()))])
        assert set(best) <= set(found(frame, key))
    assert frame.height > limit * len(keys)
