"""Sets where there is next to nothing: two items, listeners nobody has seen, markets nobody played in."""

import dataclasses
from collections import Counter

import polars as pl
import pytest
from recommended import HOME, NOW_PLAYING, PLAIN, recommend
from toy_road import DATE, NOW, history, item, listen, offer_in, table, user

from schemas.inputs import TIERS
from transforms.groups import KEEP


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


def test_a_seed_that_was_not_played_in_a_market_is_followed_by_what_may_be_played_in_all(tmp_path):
    items = [
        item("seed", availability=[offer_in("SE", ["free"]), offer_in("NO", ["kids"])]), item("alone", availability=[offer_in("SE", ["free"])]),
        item("near", availability=[offer_in("SE")]), item("free", availability=[offer_in("*", ["free"])]),
        item("both", availability=[offer_in("*", ["kids", "free"])]),
    ]  # fmt: skip
    follows = [
        {"level": "item", "context_id": seed, "next_item_id": one["item_id"], "probability": 0.1, "weight": 1, "rank": n}
        for seed in ("seed", "alone") for n, one in enumerate(items[2:])
    ]  # fmt: skip
    plays = [{"event_date": DATE, "item_id": one, "item_type": "track", "market": m, "tier": "free", "weight": 1, "plays": 1}
             for one, m in (("seed", "SE"), ("seed", "ZZ"), ("alone", "SE"), ("both", "SE"), ("both", "NO"))]  # fmt: skip
    charts = [
        {"market": m, "tier": "*", "item_type": "track", "item_id": "both", "weight": 1, "rank": 0}
        for m in ("SE", "NO", "*")
    ]
    world = tiny_world(item=items, transition=follows, popularity_partial=plays, popularity=charts)
    made = recommend(tmp_path, world, NOW_PLAYING, "seeds").table.to_pylist()
    found = {
        (row["record_key"], row["context_key"]): sorted(
            c["item_id"] for c in row["candidates"] if not c["is_exploration"]
        )
        for row in made
    }
    assert found == {
        ("seed", "market=SE"): ["both", "free", "near"],
        ("seed", "market=*"): ["both"],
        ("alone", "market=SE"): ["both", "free", "near"],
        ("both", "market=SE"): [],
    }, (
        "what is offered in one market alone is played nowhere else, and what is played in all with charts needs no other set"
    )
    assert not any("unknown_market" in row["degraded_reasons"] for row in made)
