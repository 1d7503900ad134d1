import dataclasses
import json
from collections import Counter
from collections.abc import Mapping

import polars as pl
import pytest
from random_world import MARKETS, random_world
from recommended import FULL_HOME, FULL_NOW_PLAYING, PARTS, SPACE, Made, recommend
from toy_road import END, NOW, policy, proposals, quota

from schemas.candidates import CANDIDATE_SET
from schemas.policy import SurfacePolicy
from transforms import recommend as recommend_module
from transforms import retrieve
from transforms.io.tables import conform
from transforms.recommend import count_granted
from transforms.vector_sources import VECTOR_SIGNALS
from transforms.works import work
from validation.rows import split_rows

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


def test_sets_of_seeds_are_the_same_however_many_are_held_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(recommend_module, "BLEND_BLOCK", 2)
    whole = recommend(tmp_path / "whole", random_world(2), FULL_NOW_PLAYING, "seeds", 2)
    monkeypatch.setattr(recommend_module, "SETS_AT_ONCE", 6)
    parts = recommend(tmp_path / "parts", random_world(2), FULL_NOW_PLAYING, "seeds", 2)
    assert parts.table.equals(whole.table)
    assert parts.counters == whole.counters
    assert whole.table.num_rows > 2 * 6


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
