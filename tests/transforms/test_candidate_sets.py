import dataclasses
import datetime
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pytest
from toy_road import (
    DATE,
    NOW,
    days_ago,
    facts,
    history,
    instant,
    item,
    listen,
    offer_in,
    policy,
    proposals,
    quota,
    record,
    shard,
    table,
    user,
)

from schemas.candidates import CANDIDATE_SET
from schemas.hashing import hash64_one
from schemas.inputs import TIERS
from schemas.policy import SurfacePolicy
from transforms import retrieve
from transforms.audit import audit
from transforms.blend import blend
from transforms.candidate_sets import Provenance, Rests, assemble
from transforms.groups import KEEP, RetrieveGroups
from transforms.io.tables import conform
from transforms.recommend import Recommend
from transforms.retrieve import retrieve_seeds, retrieve_users
from transforms.sources import (
    HOME_GROUP_SOURCES,
    HOME_SOURCES,
    NOW_PLAYING_GROUP_SOURCES,
    NOW_PLAYING_SOURCES,
    Source,
)
from validation.rows import split_rows

END = NOW + datetime.timedelta(hours=36)
FIELDS = {
    "run_id": "run", "run_mode": "batch", "logical_date": DATE, "sequence": 1, "source_watermark": NOW,
    "base_run_id": None,
    "bundle_id": "b", "catalog_snapshot_id": "c", "user_snapshot_id": "u", "campaign_snapshot_id": "p",
    "policy_version": "v", "code_version": "1", "experiment_arms": [], "gate_report_id": "g",
    "exploration_policy": {"id": "none", "slots": 0, "seed": 0},
}  # fmt: skip
PROVENANCE = Provenance(FIELDS, {"toy": Rests("model", "7")})
HOME = policy(
    quota("home.co_listen", 2, 4, 8, discovery=True), quota("home.relisten", 1, 3, 6),
    quota("home.follow_new", 0, 2, 5, discovery=True), quota("home.popular_market", 1, 2, 30, personal=False),
    size=20, minimum_size=5, fill_to=15, artist_early=2, artist_early_slots=5, artist=4, album=2, show=1,
)  # fmt: skip
NOW_PLAYING = policy(
    quota("np.transition", 2, 4, 8), quota("np.familiar", 1, 1, 3), quota("np.artist_radio", 0, 2, 5),
    quota("np.popular_market", 0, 0, 30, personal=False),
    name="now_playing", size=12, minimum_size=4, fill_to=6, max_run=2, artist=6, recent_play_days=0,
)  # fmt: skip


# A random world, and the road over it.


SAFE = ("i00", "i01")
MARKETS = ("SE", "NO")


def random_world(seed: int) -> dict[str, pl.DataFrame]:
    """Return every table the sources and filters read, with whatever may go wrong in them.

    Two items may be played by anybody, are in every chart, and nobody minds them: no set has a reason to be empty.
    """
    dice = random.Random(seed)
    ids = [f"i{n:02d}" for n in range(40)]
    items = [item(one, "z", release_ts=days_ago(99)) for one in SAFE] + [random_item(one, dice) for one in ids[2:]]
    histories = [
        history(
            f"u{n:02d}",
            random_listens(ids[2:], dice, 1.0),
            random_listens(ids[2:], dice, -0.5),
            dice.choice([*MARKETS, None]),
        )
        for n in range(5, 18)
    ]
    tombstones = [
        {"entity": "item", "id": "i03", "reason": "takedown", "effective_ts": NOW},
        {"entity": "user", "id": "u02", "reason": "erasure", "effective_ts": NOW},
    ]
    users = [random_user(f"u{n:02d}", ids, dice) for n in range(14)]
    named = {"item": items, "user": users, "history": histories, "tombstone": tombstones, **random_tallies(ids, dice)}
    return {name: table(name, rows) for name, rows in named.items()}


def random_user(user_id: str, ids: list[str], dice: random.Random) -> dict:
    return user(
        user_id, market=dice.choice([*MARKETS, "ZZ", None]), tier=dice.choice([None, *TIERS]),
        explicit_filter=dice.choice([True, False, None]), age_band=dice.choice([None, "0-12", "13-17", "25-34"]),
        languages=dice.choice([None, ["sv"], ["de"]]), follows=dice.sample("abcdef", 2),
        blocked_artists=dice.sample("abcdef", 1), hidden_items=dice.sample(ids[2:], 2),
        personalization_opt_out=dice.choice([None, None, True]), deletion_requested_at=dice.choice([None] * 8 + [NOW]),
    )  # fmt: skip


def random_item(item_id: str, dice: random.Random) -> dict:
    offers = [
        None, [offer_in("*")], [offer_in("SE")], [offer_in("SE", ["premium", "kids"]), offer_in("NO", ["free"])],
        [offer_in("*", until=END - datetime.timedelta(hours=1))], [offer_in("*", since=days_ago(9), until=END)],
    ]  # fmt: skip
    return item(
        item_id, dice.choice("abcdef"), canonical_id=dice.choice([item_id] * 4 + ["c1"]),
        album_id=dice.choice([None, "l1", "l2"]), item_type=dice.choice(["track", "track", "episode"]),
        availability=dice.choice(offers), explicit=dice.random() < 0.2, age_rating=dice.choice([None, 0, 13, 18]),
        rec_eligible=dice.random() < 0.9, languages=dice.choice([None, ["sv"], ["en"]]),
        release_ts=days_ago(dice.uniform(-2, 20)), genres=["g"],
    )  # fmt: skip


def random_listens(ids: list[str], dice: random.Random, label: float) -> list[dict]:
    return [listen(dice.choice(ids), dice.uniform(0, 60), label) for _ in range(dice.randint(1, 12))]


def random_tallies(ids: list[str], dice: random.Random) -> dict[str, list[dict]]:
    """Return tallies of random figures; some of their items are unknown to the catalogue."""
    known = [*ids, "gone1", "gone2"]
    plays = [
        {"event_date": DATE, "item_id": one, "item_type": "track", "market": market, "tier": tier,
         "weight": dice.randint(1, 99)}
        for market in (*MARKETS, "*") for tier in ("free", "premium") for one in [*SAFE, *dice.sample(known[2:], 15)]
    ]  # fmt: skip
    pairs = [
        {"item_id": one, "other_item_id": other, "score": dice.random(), "rank": n, "other_return_rate": dice.random()}
        for one in ids for n, other in enumerate(dice.sample([i for i in known if i != one], 8))
    ]  # fmt: skip
    steps = [
        {"level": level, "context_id": context, "next_item_id": one, "probability": dice.random(), "rank": n}
        for level, contexts in (("item", ids), ("artist", "abcdef")) for context in contexts
        for n, one in enumerate(dice.sample(known, 5))
    ]  # fmt: skip
    cuts = [{"artist_id": a, "item_id": one, "rank": n} for a in "abcdef" for n, one in enumerate(dice.sample(ids, 5))]
    tallies = {"popularity_partial": plays, "popularity": charts_of(plays), "co_listen": pairs, "transition": steps}
    return {
        name: [{"weight": 1, "plays": 1} | row for row in rows]
        for name, rows in (tallies | {"artist_top": cuts}).items()
    }


def charts_of(plays: list[dict]) -> list[dict]:
    """Add plays up per market and tier, per market and in all; an unknown market has no chart of its own."""
    charts = Counter()
    for row in plays:
        places = (
            [("*", "*")] if row["market"] == "*" else [(row["market"], row["tier"]), (row["market"], "*"), ("*", "*")]
        )
        charts.update({(*place, row["item_id"]): row["weight"] for place in places})
    return [
        {"market": m, "tier": t, "item_type": "track", "item_id": i, "weight": w, "rank": 0}
        for (m, t, i), w in charts.items()
    ]


class Made(NamedTuple):
    """Finished sets with what they were made from."""

    table: pa.Table
    counters: Mapping[str, int]
    offered: pl.DataFrame
    world: Mapping[str, pl.DataFrame]
    surface: SurfacePolicy


def recommend(folder: Path, world: Mapping[str, pl.DataFrame], surface: SurfacePolicy, who: str) -> Made:
    """Run retrieve, blend, assemble and audit over one shard; `who` is users, seeds or groups."""
    own, shared = (
        (HOME_SOURCES, HOME_GROUP_SOURCES) if surface is HOME else (NOW_PLAYING_SOURCES, NOW_PLAYING_GROUP_SOURCES)
    )
    read = shard(folder / "world", world)
    groups = RetrieveGroups(shared, surface, instant(surface), NOW)(read).frame
    proposed = (retrieve_users if surface is HOME else retrieve_seeds)(read, own, NOW).frame
    given = shard(folder / "proposed", {**world, "groups": groups, "proposal": proposed})
    made = getattr(Recommend(surface, instant(surface), {**own, **shared}, PROVENANCE), who)(given)
    return Made(made.frame, made.counters, pl.concat([proposed, groups]), world, surface)


CASES = [
    (seed, *case)
    for seed in range(4)
    for case in ((HOME, "users"), (HOME, "groups"), (NOW_PLAYING, "seeds"), (NOW_PLAYING, "groups"))
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the sets of a case, made once."""
    kept: dict[tuple, Made] = {}

    def build(seed: int, surface: SurfacePolicy, who: str) -> Made:
        key = (seed, surface.name, who)
        if key not in kept:
            kept[key] = recommend(tmp_path_factory.mktemp("world"), random_world(seed), surface, who)
        return kept[key]

    return build


cases = pytest.mark.parametrize(("seed", "surface", "who"), CASES, ids=[f"{s}-{p.name}-{w}" for s, p, w in CASES])


@cases
def test_sets_keep_the_invariants_of_the_contract(made, seed, surface, who):
    one = made(seed, surface, who)
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
        assert [c["position"] for c in found] == list(range(len(found)))
        assert all(0 <= c["blend_score"] <= 1 and 0 < c["propensity"] <= 1 for c in found)
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
def test_nothing_is_in_a_set_that_must_not_be(made, seed, surface, who):
    """Look every candidate up by hand: no filter, no audit."""
    one = made(seed, surface, who)
    items = {row["item_id"]: row for row in one.world["item"].to_dicts()}
    users = {row["user_id"]: row for row in one.world["user"].to_dicts()}
    for row in one.table.to_pylist():
        person, seed_item = users.get(row["user_id"] or "", {}), items.get(row["context"]["seed_item_id"] or "", {})
        for found in (items[c["item_id"]] for c in row["candidates"]):
            assert found["rec_eligible"]
            assert found["item_id"] != "i03"
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
        "explicit_violations",
        "tombstone_violations",
        "market_violations",
        "tier_violations",
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


@cases
def test_a_second_run_and_smaller_blocks_give_the_same_sets(made, seed, surface, who, tmp_path, monkeypatch):
    one = made(seed, surface, who)
    monkeypatch.setattr("transforms.recommend.BLEND_BLOCK", 3)
    monkeypatch.setattr(retrieve.blocks, "__defaults__", (2,))
    again = recommend(tmp_path, one.world, surface, who)
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
    """Return the Home sets of a tiny world by user."""
    made = recommend(folder, tiny_world(**tables), HOME, "users")
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
    assert (row["record_key"], row["user_id"], row["context_key"], row["context"]["seed_item_id"]) == (
        "seed",
        None,
        "market=SE",
        "seed",
    )
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


# One block, assembled by hand.


REASONED = {
    name: Source(lambda audience, bundle: None, "toy", "toy", f"because of {name}", 9) for name in ("own", "chart")
}


def assembled(offered, told, surface, group=None) -> list[dict]:
    made = blend(proposals(offered, group=group), told, surface, instant(surface))
    return assemble(made, told, surface, instant(surface), REASONED, PROVENANCE).to_pylist()


@pytest.mark.parametrize(
    ("own", "market", "seen", "level", "reasons"),
    [
        (4, "SE", True, 0, []), (2, "SE", True, 0, []), (1, "SE", True, 1, []), (0, "SE", True, 3, []),
        (0, "*", True, 4, ["unknown_market"]), (1, "*", False, 1, ["no_history", "unknown_market"]),
        (0, "SE", False, 3, ["no_history"]),
    ],
)  # fmt: skip
def test_the_fallback_level_says_how_personal_a_set_is(own, market, seen, level, reasons):
    surface = policy(quota("own", 0, 4, 4), quota("chart", 4, 4, 4, personal=False), size=4, fill_to=4, minimum_size=4)
    mine, charts = [f"o{n}" for n in range(own)], [f"c{n}" for n in range(4 - own)]
    who = record(needs=f"{market}|free", group="*|SE|free", seen=seen)
    told = facts([item(one) for one in (*mine, *charts)], [who])
    (row,) = assembled({"own": mine}, told, surface, {"chart": charts})
    assert (row["fallback_level"], row["degraded_reasons"]) == (level, reasons)


def test_a_set_one_short_of_the_minimum_says_so():
    surface = policy(quota("own"), quota("chart", personal=False), minimum_size=3)
    told = facts([item("a"), item("b"), item("c")])
    assert assembled({"own": ["a", "b"]}, told, surface)[0]["degraded_reasons"] == ["below_minimum_size"]
    assert assembled({"own": ["a", "b", "c"]}, told, surface)[0]["degraded_reasons"] == []


def test_a_candidate_says_how_familiar_and_fresh_it_is_and_why_it_is_there():
    items = [
        item("played", "x", release_ts=days_ago(31)), item("other", "x", release_ts=days_ago(30)), item("new", "y"),
        item("nobody", artists=None, release_ts=days_ago(1)),
    ]  # fmt: skip
    told = facts(items, [record(artists_known=["x"])], played=[(0, "played", days_ago(2), False)])
    surface = policy(quota("own"), quota("chart", personal=False))
    (row,) = assembled({"own": ["played", "other", "new"]}, told, surface, {"chart": ["nobody"]})
    shown = {c["item_id"]: (c["familiarity"], c["is_fresh"], c["reason_code"]) for c in row["candidates"]}
    assert shown == {
        "played": ("known", False, "because of own"), "other": ("discovery", True, "because of own"),
        "new": ("new_artist", False, "because of own"), "nobody": ("discovery", True, "because of chart"),
    }  # fmt: skip


def test_a_source_names_the_artifact_its_score_rests_on():
    surface = policy(quota("own", 0, 4, 9), quota("chart"))
    (row,) = assembled({"own": ["a", "b", "c"]}, facts([item("a"), item("b"), item("c")]), surface)
    sources = [c["sources"][0] for c in row["candidates"]]
    assert [(s["model_id"], s["model_version"]) for s in sources] == [("model", "7")] * 3
    assert [s["calibrated_score"] for s in sources] == pytest.approx([1, 1 / 1.25, 1 / 1.5])


def test_a_record_without_candidates_is_left_out():
    surface = policy(quota("own"), quota("chart"))
    told = facts([item("a")], [record("u0"), record("u1"), record("u2")])
    assert [row["record_key"] for row in assembled({"own": ["a"]}, told, surface)] == ["u1"]
    assert assembled({}, told, surface) == []


def test_ids_differ_by_record_context_surface_and_run():
    surface = policy(quota("own"), quota("chart"))
    told = facts([item("a")], [record("u1"), record("u1", context_key="market=NO")])
    made = blend(proposals({"own": ["a"]}), told, surface, instant(surface))
    found = set()
    for place in (surface, dataclasses.replace(surface, name="now_playing")):
        for run in ("run", "other"):
            provenance = Provenance(FIELDS | {"run_id": run}, {})
            sets = assemble(made, told, place, instant(surface), REASONED, provenance)
            found |= set(sets["candidate_set_id"].to_pylist())
    assert len(found) == 8


def test_the_largest_record_is_below_256_kib():
    """500 candidates (the most of any surface) of two sources each with three seeds, ids of 22 characters."""
    ids = [f"{hash64_one(str(n)):022d}" for n in range(500)]
    surface = policy(quota("own", 0, 10, 500), quota("chart", 0, 10, 500), size=500, fill_to=500)
    told = facts([item(one, availability=[offer_in("*", until=END)]) for one in ids])
    seeded = proposals({"own": ids, "chart": ids[::-1]}).with_columns(
        pl.lit(ids[:3]).alias("seed_item_ids"), pl.lit(NOW).alias("seed_event_ts")
    )
    made = blend(seeded, told, surface, instant(surface))
    sets = assemble(made, told, surface, instant(surface), REASONED, PROVENANCE)
    assert len(sets["candidates"][0]) == 500
    assert all(len(c["sources"]) == 2 for c in sets["candidates"][0].as_py())
    assert sets.nbytes <= 256 * 1024


# The audit, on sets somebody tampered with.


AUDITED = policy(quota("own"), quota("chart", personal=False), minimum_size=2)
LEAKS = {
    "market_violations": {"availability": [offer_in("NO")]},
    "tier_violations": {"availability": [offer_in("SE", ["premium"])]},
    "explicit_violations": {"explicit": True},
}
VIOLATIONS = (*LEAKS, "tombstone_violations", "duplicate_items")


def audited(told, tamper=lambda rows: rows) -> dict[str, int]:
    """Blend two items for `u1` without a look at `bad`, tamper with the rows, and audit them with all facts."""
    surface, at = AUDITED, instant(AUDITED)
    innocent = dataclasses.replace(
        told, items=table("item", [item("a"), item("b"), item("bad")]), gone=told.gone.clear()
    )
    made = assemble(
        blend(proposals({"own": ["a", "b", "bad"]}), innocent, surface, at), innocent, surface, at, REASONED, PROVENANCE
    )
    tampered = pa.Table.from_pylist(tamper(made.to_pylist()), schema=CANDIDATE_SET.schema)
    found = audit(tampered, told, surface, at)
    return {name: found[name] for name in (*VIOLATIONS, "empty_sets", "sets_below_minimum", "slots", "sets")}


def clean(**found: int) -> dict[str, int]:
    return dict.fromkeys(VIOLATIONS, 0) | {"empty_sets": 0, "sets_below_minimum": 0, "slots": 3, "sets": 1} | found


def told_of(**bad) -> object:
    return facts([item("a"), item("b"), item("bad", **bad)], [record(explicit_allowed=False)])


def test_a_good_set_has_no_violations():
    assert audited(told_of()) == clean()


@pytest.mark.parametrize("violation", LEAKS)
def test_a_leak_is_counted_though_no_filter_ran(violation):
    also = {"tier_violations": 1} if violation == "market_violations" else {}
    assert audited(told_of(**LEAKS[violation])) == clean(**{violation: 1} | also)


@pytest.mark.parametrize("until", [NOW, END - datetime.timedelta(microseconds=1)])
def test_what_ends_before_the_set_expires_is_a_leak(until):
    found = audited(told_of(availability=[offer_in("SE", until=until)]))
    assert found["market_violations"] == found["tier_violations"] == 1
    assert audited(told_of(availability=[offer_in("SE", until=END)])) == clean()


def test_an_item_of_no_market_is_a_leak():
    assert audited(told_of(availability=[]))["market_violations"] == 1


def test_what_was_taken_down_is_counted():
    told = dataclasses.replace(told_of(), gone=pl.Series("id", ["bad"]))
    assert audited(told) == clean(tombstone_violations=1)


def test_an_item_the_catalogue_does_not_know_is_a_leak():
    told = facts([item("a"), item("b")], [record(explicit_allowed=False)])
    assert audited(told)["market_violations"] == 1


def repeated(rows: list[dict], **changes) -> list[dict]:
    first = rows[0]["candidates"][0]
    rows[0]["candidates"].append(first | changes)
    return rows


def test_an_item_twice_in_a_set_is_counted_as_item_and_as_recording():
    assert audited(told_of(), repeated) == clean(duplicate_items=2, slots=4)
    assert audited(told_of(), lambda rows: repeated(rows, item_id="b2"))["duplicate_items"] == 1


def test_the_same_item_in_two_sets_is_no_duplicate():
    told = facts([item("a"), item("b"), item("bad")], [record(), record("u2")])
    assert audited(told, lambda rows: [*rows, rows[0] | {"record_key": "u2", "candidate_set_id": "2"}]) == clean(
        slots=6, sets=2
    )


def test_missing_and_short_sets_are_counted():
    assert audited(told_of(), lambda rows: [])["empty_sets"] == 1
    assert audited(told_of(), lambda rows: [rows[0] | {"candidates": rows[0]["candidates"][:1]}]) == clean(
        sets_below_minimum=1, slots=1
    )
    assert audited(told_of(), lambda rows: [rows[0] | {"candidates": []}])["empty_sets"] == 1


def test_overlap_is_counted_over_what_the_fallback_did_not_fill():
    told = facts([item(one) for one in "abcz"], [record("u1"), record("u2")])
    offered = [proposals({"own": own}, key) for key, own in (("u1", ["a", "b"]), ("u2", ["b", "c"]))]
    shared = proposals({}, group={"chart": ["z"]})
    at = instant(AUDITED)
    made = assemble(blend(pl.concat([*offered, shared]), told, AUDITED, at), told, AUDITED, at, REASONED, PROVENANCE)
    found = audit(made, told, AUDITED, at)
    assert (found["jaccard_pairs"], found["jaccard_ppm_sum"]) == (1, 333_333)
    assert (found["slots_by_source:own"], found["slots_by_source:chart"]) == (4, 2)
