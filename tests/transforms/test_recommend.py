import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pytest
from random_world import MARKETS, random_calibration, random_models, random_world
from toy_road import (
    DATE,
    END,
    NOW,
    PROVENANCE,
    history,
    instant,
    item,
    listen,
    offer_in,
    policy,
    proposals,
    quota,
    shard,
    table,
    user,
)

from pipelines.recommend import SURFACES, rests_on
from schemas.candidates import CANDIDATE_SET
from schemas.inputs import TIERS
from schemas.policy import SurfacePolicy
from transforms import retrieve
from transforms.groups import KEEP, RetrieveGroups
from transforms.io.tables import conform
from transforms.recommend import Recommend, count_granted
from transforms.vector_sources import VECTOR_SIGNALS
from transforms.works import work
from validation.rows import split_rows

HOME = policy(
    quota("home.co_listen", 2, 4, 8, discovery=True), quota("home.relisten", 1, 3, 6),
    quota("home.follow_new", 0, 2, 5, discovery=True), quota("home.explore", 3, 3, 3, personal=False, discovery=True),
    quota("home.popular_company", 0, 2, 4, personal=False, discovery=True, newcomers=True),
    quota("home.popular_market", 1, 2, 30, personal=False), explore="home.explore",
    size=20, minimum_size=5, fill_to=15, artist_early=2, artist_early_slots=5, artist=4, album=2, show=1,
)  # fmt: skip
NOW_PLAYING = policy(
    quota("np.transition", 2, 4, 8), quota("np.familiar", 1, 1, 3), quota("np.artist_radio", 0, 2, 5),
    quota("np.explore", 2, 2, 2, personal=False), quota("np.popular_market", 0, 0, 30, personal=False),
    explore="np.explore", name="now_playing", size=12, minimum_size=4, fill_to=6, max_run=2, artist=6, recent_play_days=0,
)  # fmt: skip


PLAIN = dataclasses.replace(
    HOME, explore="", sources=tuple(quota for quota in HOME.sources if quota.source_id != HOME.explore)
)


def with_models(surface: SurfacePolicy, *names: str) -> SurfacePolicy:
    """Return a policy with a few slots for sources of parts and on vectors too."""
    more = tuple(quota(name, 1, 2, 5, discovery=not name.endswith("_part")) for name in names)
    return dataclasses.replace(surface, sources=(*more, *surface.sources), flow=(*names, *surface.flow))


FRESH = quota("home.fresh_market", 0, 2, 4, personal=False, discovery=True, newcomers=True)
FULL_HOME = with_models(HOME, "home.next_part", "home.two_tower", "home.sequence", "home.fresh_content")
FULL_HOME = dataclasses.replace(FULL_HOME, sources=(FRESH, *FULL_HOME.sources), flow=(FRESH.source_id, *FULL_HOME.flow))
FULL_NOW_PLAYING = with_models(NOW_PLAYING, "np.next_part", "np.session", "np.similar", "np.session_knn")
SPACE, PARTS = (
    "a space",
    ("co_listen", "history", "popularity", "transition", "artist_top", "item", "session_knn", "encoder"),
)
RESTS = rests_on({name: SimpleNamespace(dataset=name, run=f"run of {name}") for name in PARTS}, SPACE)


# The road over a random world.


class Made(NamedTuple):
    """Finished sets with what they were made from."""

    table: pa.Table
    counters: Mapping[str, int]
    offered: pl.DataFrame
    world: Mapping[str, pl.DataFrame]
    surface: SurfacePolicy


def recommend(folder: Path, world: Mapping[str, pl.DataFrame], surface: SurfacePolicy, who: str, seed: int = 0) -> Made:
    """Run retrieve, blend, assemble and audit over one shard; `who` is users, seeds or groups."""
    wanted, every = {quota.source_id for quota in surface.sources}, SURFACES[surface.name]
    own = {name: source for name, source in every.sources.items() if name in wanted}
    shared = {name: source for name, source in every.group_sources.items() if name in wanted}
    read = shard(folder / "world", world)
    groups = RetrieveGroups(shared, surface, instant(surface))(read).frame
    models = random_models(world, seed, surface)
    answered = every.retrieve(read, own, surface, instant(surface), lambda shard: models)
    assert not answered.artifacts, answered.artifacts
    proposed = answered.frame
    given = {**world, "groups": groups, "proposal": proposed, "calibration": random_calibration(surface, seed)}
    provenance = dataclasses.replace(PROVENANCE, artifacts=RESTS)
    blending = Recommend(surface, instant(surface), {**own, **shared}, provenance)
    made = getattr(blending, who)(shard(folder / "proposed", given))
    return Made(made.frame, made.counters, pl.concat([proposed, groups]), world, surface)


KINDS = ((FULL_HOME, "users"), (FULL_HOME, "groups"), (FULL_NOW_PLAYING, "seeds"), (FULL_NOW_PLAYING, "groups"))
FEW = [(seed, *case) for seed in range(4) for case in KINDS]
CASES = [*FEW, *((seed, *KINDS[0 if seed % 2 else 2]) for seed in range(4, 30))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the sets of a case, made once."""
    kept: dict[tuple, Made] = {}

    def build(seed: int, surface: SurfacePolicy, who: str) -> Made:
        key = (seed, surface.name, who)
        if key not in kept:
            kept[key] = recommend(tmp_path_factory.mktemp("world"), random_world(seed), surface, who, seed)
        return kept[key]

    return build


def each(some):
    return pytest.mark.parametrize(("seed", "surface", "who"), some, ids=[f"{s}-{p.name}-{w}" for s, p, w in some])


cases = each(CASES)


@cases
def test_sets_keep_the_invariants_of_the_contract(made, seed, surface, who):
    one = made(seed, surface, who)
    works = dict(one.world["item"].select("item_id", work()).rows())
    rows = conform(one.table, CANDIDATE_SET).to_pylist()
    assert rows
    assert (
        len({row["candidate_set_id"] for row in rows})
        == len({(row["record_key"], row["context_key"]) for row in rows})
        == len(rows)
    )
    for row in rows:
        found = row["candidates"]
        assert 1 <= len(found) <= surface.size <= {"home": 500, "now_playing": 150}[surface.name]
        assert len({c["item_id"] for c in found}) == len({c["canonical_id"] for c in found}) == len(found)
        assert len({works[c["item_id"]] for c in found}) == len(found)
        assert [c["position"] for c in found] == list(range(len(found)))
        assert all(0 <= c["blend_score"] <= 1 and 0 < c["propensity"] <= 1 for c in found)
        drawn = [c for c in found if c["is_exploration"]]
        assert len(drawn) == row["exploration_policy"]["slots"] <= surface.explore_slots
        assert all(c["is_exploration"] == (c["stratum"] is not None) for c in found)
        assert all(c["is_exploration"] or c["propensity"] == 1 for c in found)
        assert all(c["available_until"] is None or c["available_until"] >= row["expires_at"] for c in found)
        for source in (s for c in found for s in c["sources"]):
            assert abs(source["raw_score"]) < 3e38
            assert 0 < source["calibrated_score"] <= 1
        assert all(c["sources"] for c in found)
        assert (row["effective_from"], row["expires_at"], row["generated_at"]) == (NOW, END, NOW)
        assert row["counts"]["out"] == len(found)
    _, bad = split_rows(pl.from_arrow(one.table), CANDIDATE_SET)
    assert bad["rule"].to_list() == []


@cases
def test_what_a_score_rests_on_is_in_the_bundle_and_its_space_is_that_of_all_vectors(made, seed, surface, who):
    bundle = {(name, f"run of {name}") for name in PARTS}
    for row in made(seed, surface, who).table.to_pylist():
        for source in (s for c in row["candidates"] for s in c["sources"]):
            assert (source["model_id"], source["model_version"]) in bundle, source
            assert source["embedding_space_id"] == (SPACE if source["signal_type"] in VECTOR_SIGNALS else None), source
        assert len(json.dumps(row, default=str).encode()) <= 256 * 1024


def test_every_source_is_in_some_set(made):
    rows = [row for case in FEW for row in made(*case).table.to_pylist()]
    there = {source["source_id"] for row in rows for c in row["candidates"] for source in c["sources"]}
    assert there == {quota.source_id for surface, _ in KINDS for quota in surface.sources}


@cases
def test_nothing_is_in_a_set_that_must_not_be(made, seed, surface, who):
    """Look every candidate up by hand: no filter, no audit."""
    one = made(seed, surface, who)
    items = {row["item_id"]: row for row in one.world["item"].to_dicts()}
    users = {row["user_id"]: row for row in one.world["user"].to_dicts()}
    for row in one.table.to_pylist():
        person, seed_item = users.get(row["user_id"] or "", {}), items.get(row["context"]["seed_item_id"] or "", {})
        for found in (items[c["item_id"]] for c in row["candidates"]):
            assert found["rec_eligible"]
            assert not found["is_video"] or surface.name == "home" or seed_item.get("is_video")
            assert found["item_id"] != "i03"
            assert not found["is_trailer"]
            assert found["canonical_id"] != seed_item.get("canonical_id")
            assert found["release_ts"] <= NOW
            assert found["item_id"] not in (person.get("hidden_items") or [])
            assert found["artists"][0]["artist_id"] not in (person.get("blocked_artists") or [])
            assert playable(found, row["market"], row["tier"])
            if (
                who == "groups"
                or row["tier"] == "kids"
                or person.get("explicit_filter")
                or seed_item.get("explicit") is False
            ):
                assert not found["explicit"]
            if who == "groups" or row["tier"] == "kids" or person.get("age_band") == "0-12":
                assert not found["age_rating"]


def playable(found: Mapping, market: str, tier: str) -> bool:
    """Tell whether an item may be played in a market (`*`: in both) for a tier (`*`: any one) until the sets expire."""
    if found["availability"] is None:
        return True
    offers = [
        o
        for o in found["availability"]
        if (o["to_ts"] is None or o["to_ts"] >= END) and (o["from_ts"] is None or o["from_ts"] <= NOW)
    ]

    def there(place: str) -> bool:
        here = [o for o in offers if o["market"] in ("*", place)]
        return any(o["tiers"] is None or tier == "*" or tier in o["tiers"] for o in here)

    return all(there(place) for place in (MARKETS if market == "*" and tier != "*" else (market,)))


@cases
def test_every_record_has_a_set_and_the_audit_finds_nothing(made, seed, surface, who):
    one = made(seed, surface, who)
    violations = (
        "duplicate_items",
        *(f"{leak}_violations" for leak in ("explicit", "age", "ineligible", "unreleased", "blocked", "hidden")),
        *(f"{leak}_violations" for leak in ("completed", "recent_skip", "language")),
        "tombstone_violations",
        "market_violations",
        "tier_violations",
        "exploration_share_violations",
        "propensity_violations",
    )
    assert {name: one.counters[name] for name in violations} == dict.fromkeys(violations, 0)
    assert one.counters["sets"] == one.table.num_rows
    assert one.counters["slots"] == sum(len(row) for row in one.table["candidates"].to_pylist())
    assert one.counters["empty_sets"] == 0


@cases
def test_counts_add_up_to_the_proposals_judged(made, seed, surface, who):
    """`in` = removed + sources - duplicates that stand behind their twin."""
    one = made(seed, surface, who)
    keys = one.offered.group_by("key").agg(pl.struct("item_id", "source_id").alias("offers"))
    offers = {key: [(o["item_id"], o["source_id"]) for o in rows] for key, rows in keys.rows()}
    for row in one.table.to_pylist():
        counts = row["counts"]
        removed = {entry["rule"]: entry["count"] for entry in counts["filtered_by_rule"]}
        assert all(removed.values())
        behind = sum(len(c["sources"]) for c in row["candidates"])
        merged = counts["in"] - sum(removed.values()) - behind
        assert -removed.get("duplicate", 0) <= merged <= 0
        shared = f"*|{row['market'] if row['market'] in MARKETS else '*'}|{row['tier']}"
        own = offers.get(row["record_key"], [])
        assert len(own) <= counts["in"] <= len(own) + len(offers.get(shared, []))
    spelled = Counter()
    for row in one.table.to_pylist():
        spelled.update({f"removed:{entry['rule']}": entry["count"] for entry in row["counts"]["filtered_by_rule"]})
    assert {name: n for name, n in one.counters.items() if name.startswith("removed:")} == dict(spelled)


@each(FEW[:8])
def test_a_second_run_and_smaller_blocks_give_the_same_sets(made, seed, surface, who, tmp_path, monkeypatch):
    one = made(seed, surface, who)
    monkeypatch.setattr("transforms.recommend.BLEND_BLOCK", 3)
    monkeypatch.setattr(retrieve.blocks, "__defaults__", (2,))
    again = recommend(tmp_path, one.world, surface, who, seed)
    assert again.table.equals(one.table)


# Who nobody has seen, and where nobody played.


def tiny_world(**tables) -> dict[str, pl.DataFrame]:
    """Return two items anybody may play, one of them played once in SE, and nobody."""
    names = (
        "item",
        "user",
        "history",
        "tombstone",
        "popularity",
        "popularity_partial",
        "co_listen",
        "transition",
        "artist_top",
    )
    world = {name: [] for name in names} | {
        "item": [item("a"), item("b")],
        "popularity": [
            {"market": m, "tier": t, "item_type": "track", "item_id": "a", "weight": 1, "rank": 0}
            for m, t in (("SE", "free"), ("SE", "*"), ("*", "*"))
        ],
    }  # fmt: skip
    return {name: table(name, rows) for name, rows in (world | tables).items()}


def home(folder, **tables) -> dict[str, dict]:
    """Return the Home sets of a tiny world by user, without what is explored."""
    made = recommend(folder, tiny_world(**tables), PLAIN, "users")
    assert made.counters["empty_sets"] == 0
    return {row["record_key"]: row for row in made.table.to_pylist()}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("market", ["SE", "ZZ", None])
def test_one_servable_item_is_enough_for_a_user_nobody_has_seen(tmp_path, market, tier):
    row = home(tmp_path, user=[user("u", market=market, tier=tier)])["u"]
    assert [c["item_id"] for c in row["candidates"]] == ["a"]
    assert (row["market"], row["tier"]) == (market or "*", tier)
    assert row["fallback_level"] == (3 if market else 4)
    assert row["degraded_reasons"] == ["no_history", *([] if market else ["unknown_market"]), "below_minimum_size"]


def test_however_explicit_the_charts_a_child_has_what_is_left(tmp_path):
    rude = [item(f"rude{n:03d}", f"artist{n}", explicit=True) for n in range(KEEP + 50)]
    clean = [item(f"clean{n:02d}", f"other{n}") for n in range(30)]
    charts = [
        {"market": m, "tier": t, "item_type": "track", "item_id": one["item_id"], "weight": 900 - n, "rank": n}
        for m, t in (("SE", "free"), ("SE", "*"), ("*", "*"))
        for n, one in enumerate([*rude, *clean])
    ]
    users = [user("child", market="SE", age_band="0-12"), user("grown", market="SE", age_band="45-54")]
    sets = home(tmp_path, item=[*rude, *clean], popularity=charts, user=users)
    heard = {who: [c["item_id"] for c in row["candidates"]] for who, row in sets.items()}
    assert [len(ids) for ids in heard.values()] == [HOME.fill_to, HOME.fill_to]
    assert all(one.startswith("clean") for one in heard["child"])
    assert all(one.startswith("rude") for one in heard["grown"])


def test_a_listener_of_talk_finds_it_where_music_is_played_most(tmp_path):
    music = [item(f"m{n:03d}", f"artist{n}") for n in range(KEEP + 50)]
    talk = [item(f"t{n:02d}", item_type="episode", artists=None, show_id=f"show{n}") for n in range(30)]
    charts = [
        {"market": m, "tier": t, "item_type": one["item_type"], "item_id": one["item_id"], "weight": 900 - n, "rank": n}
        for m, t in (("SE", "free"), ("SE", "*"), ("*", "*"))
        for n, one in enumerate([*music, *talk])
    ]
    heard = [{"band": 1, "device": "car", "kind": "talk", "plays": 20}]
    told = {"item": [*music, *talk], "popularity": charts, "user": [user("u", market="SE"), user("v", market="SE")],
            "history": [history("u", [listen("a", 70)], market="SE") | {"habits": heard}]}  # fmt: skip
    surface = dataclasses.replace(PLAIN, page=5, show=20)
    made = recommend(tmp_path, tiny_world(**told), surface, "users")
    kinds = {row["record_key"]: Counter(c["item_type"] for c in row["candidates"]) for row in made.table.to_pylist()}
    assert kinds["u"]["episode"] >= 0.7 * surface.fill_to
    assert kinds["v"]["episode"] == 0
    assert made.counters["content_floors_missed"] == 0


def test_a_user_the_snapshot_does_not_know_has_a_set(tmp_path):
    row = home(tmp_path, history=[history("u", [listen("b", 70)], market=None)])["u"]
    assert {c["item_id"] for c in row["candidates"]} == {"a", "b"}
    assert (row["market"], row["tier"], row["user_id"]) == ("*", "free", "u")


def test_a_world_without_markets_has_sets(tmp_path):
    chart = [{"market": "*", "tier": "*", "item_type": "track", "item_id": "a", "weight": 1, "rank": 0}]
    everywhere = [item("a", availability=[offer_in("*")])]
    made = recommend(tmp_path / "groups", tiny_world(popularity=chart, item=everywhere), HOME, "groups")
    assert made.counters["empty_sets"] == 0
    assert {row["tier"]: len(row["candidates"]) for row in made.table.to_pylist()} == dict.fromkeys(("*", *TIERS), 1)
    row = home(tmp_path / "users", popularity=chart, item=everywhere, user=[user("u", market=None)])["u"]
    assert [c["item_id"] for c in row["candidates"]] == ["a"]


def test_who_is_erased_has_no_set(tmp_path):
    gone = [{"entity": "user", "id": "gone", "reason": "erasure", "effective_ts": NOW}]
    users = [user("gone"), user("asked", deletion_requested_at=NOW), user("here")]
    assert list(home(tmp_path, user=users, tombstone=gone)) == ["here"]


@pytest.mark.parametrize("seed", range(4))
def test_whoever_is_held_out_has_charts_and_what_is_drawn(tmp_path, made, seed):
    usual, held = made(seed, FULL_HOME, "users"), dataclasses.replace(FULL_HOME, holdout=0.5)
    other = recommend(tmp_path, random_world(seed), held, "users", seed)
    before = {row["record_key"]: row for row in usual.table.to_pylist()}
    rows = {row["record_key"]: row for row in other.table.to_pylist()}
    out = {key for key, row in rows.items() if "holdout" in row["degraded_reasons"]}
    assert set(rows) == set(before)
    assert 0 < len(out) < len(rows)
    for key, row in rows.items():
        if key not in out:
            assert row["candidates"] == before[key]["candidates"], "nobody else minds"
        else:
            assert {s["source_id"] for c in row["candidates"] for s in c["sources"]} <= {held.fallback, held.explore}
            assert row["fallback_level"] >= 3
    assert other.counters["propensity_violations"] == other.counters["exploration_share_violations"] == 0
    charts = sum(row["fallback_level"] >= 3 for key, row in rows.items() if key not in out)
    assert other.counters["fallback_level_3_or_more"] == charts, "who is held out is no sign of trouble"
    assert other.counters["listeners"] <= len(rows) - len(out)


def test_who_opted_out_has_the_charts(tmp_path):
    plays = [listen("b", 70) for _ in range(9)]
    sets = home(
        tmp_path,
        user=[user("u", personalization_opt_out=True), user("v")],
        history=[history("u", plays), history("v", plays)],
    )
    assert [c["item_id"] for c in sets["u"]["candidates"]] == ["a"]
    assert (sets["u"]["fallback_level"], sets["u"]["degraded_reasons"]) == (3, ["opted_out", "below_minimum_size"])
    assert {c["item_id"] for c in sets["v"]["candidates"]} == {"a", "b"}
    assert sets["v"]["context"]["last_event_ts"] is not None
    assert sets["u"]["context"]["last_event_ts"] is None


def test_nothing_of_what_who_opted_out_heard_shows(tmp_path):
    plays = [listen("a", 70) for _ in range(9)]
    users = [user("u", personalization_opt_out=True), user("v")]
    sets = home(tmp_path, user=users, history=[history("u", plays), history("v", plays)])
    assert [[c["familiarity"] for c in sets[name]["candidates"]] for name in "uv"] == [["new_artist"], ["known"]]


def test_a_seed_is_followed_by_what_everybody_who_may_play_it_may_play(tmp_path):
    items = [
        item("seed", availability=[offer_in("SE", ["free", "kids"])], age_rating=13),
        item("free", availability=[offer_in("SE", ["free"])]),
        item("both", availability=[offer_in("*", ["kids", "free"])]), item("far", availability=[offer_in("NO")]),
        item("old", age_rating=18), item("rude", explicit=True), item("twin", canonical_id="seed"),
    ]  # fmt: skip
    follows = [
        {
            "level": "item",
            "context_id": "seed",
            "next_item_id": one["item_id"],
            "probability": 0.1,
            "weight": 1,
            "rank": n,
        }
        for n, one in enumerate(items)
    ]
    plays = [
        {
            "event_date": DATE,
            "item_id": "seed",
            "item_type": "track",
            "market": m,
            "tier": "free",
            "weight": 1,
            "plays": 1,
        }
        for m in ("SE", "NO")
    ]
    chart = [{"market": "SE", "tier": "*", "item_type": "track", "item_id": "seed", "weight": 1, "rank": 0}]
    made = recommend(
        tmp_path,
        tiny_world(item=items, transition=follows, popularity_partial=plays, popularity=chart),
        NOW_PLAYING,
        "seeds",
    )
    (row,) = made.table.to_pylist()  # it may not be played in NO itself
    named = row["record_key"], row["user_id"], row["context_key"], row["context"]["seed_item_id"]
    assert named == ("seed", None, "market=SE", "seed")
    assert [c["item_id"] for c in row["candidates"]] == ["both"]
    assert {e["rule"]: e["count"] for e in row["counts"]["filtered_by_rule"]} == {
        "age": 1,
        "explicit": 1,
        "market": 1,
        "seed": 1,
        "tier": 1,
    }


def test_where_no_seed_may_be_played_there_is_no_set(tmp_path):
    items = [item("seed", availability=[offer_in("NO")]), item("a")]
    plays = [{"event_date": DATE, "item_id": "seed", "item_type": "track", "market": "SE", "tier": "free"}]
    plays = [row | {"weight": 1, "plays": 1} for row in plays]
    made = recommend(tmp_path, tiny_world(item=items, popularity_partial=plays), NOW_PLAYING, "seeds")
    assert (made.table.num_rows, made.counters["empty_sets"]) == (0, 0)


@pytest.mark.parametrize("source", ["home.popular_company", "home.fresh_market"])
@each([one for one in CASES if one[2] == "users"])
def test_what_is_for_newcomers_is_for_whoever_has_no_history_to_go_by(made, seed, surface, who, source):
    one, shown = made(seed, surface, who), set()
    heard = {row["user_id"] for row in one.world["history"].to_dicts() if row["positives"]}
    opted_out = set(one.world["user"].filter("personalization_opt_out")["user_id"])
    for row in one.table.to_pylist():
        names = {source["source_id"] for c in row["candidates"] for source in c["sources"]}
        shown |= {row["user_id"]} if source in names else set()
    assert not shown & (heard - opted_out)
    assert bool(shown) == (source in one.offered["source_id"])


def test_a_source_is_granted_no_more_than_its_minimum_and_what_it_proposed_and_is_in_what_others_proposed_too():
    """For `u1` both minima are full, `u2` is proposed one item, and a group none of its own."""
    surface = policy(quota("near", 2, 4, 8), quota("own", 1, 3, 6), quota("chart", 0, 2, 30))
    offered = [proposals({"near": ["a", "b", "c"], "own": ["a"], "chart": ["d"]}, "u1"),
               proposals({"near": ["e"]}, "u2", {"near": ["x", "y"]}), proposals({"near": ["z"]}, "stranger")]  # fmt: skip
    placed = pl.DataFrame(
        [(0, 0, "near"), (0, 0, "own"), (0, 0, "near"), (0, 1, "chart"), (1, 0, "near")],
        schema={"k": pl.UInt32, "position": pl.Int32, "source_id": pl.String}, orient="row",
    )  # fmt: skip
    records = pl.DataFrame({"record_key": ["u1", "u2"]})
    assert count_granted(pl.concat(offered), records, placed, surface) == {
        "granted_by_source:near": 3, "granted_by_source:own": 1, "placed_by_source:near": 2, "placed_by_source:own": 1,
    }  # fmt: skip
