"""The order of a set: by the chance that any source is right, with the rules that come before it, and the runs of an artist."""

import dataclasses
import random

import numpy as np
import polars as pl
import pytest
from test_blend import assert_same, blended, ids, names, random_block, tracks
from toy_road import facts, instant, item, policy, proposals, quota, record

from transforms.blend import blend

CHANCE = {"near": [0.5, 0.2, 0.1], "own": [0.3, 0.25, 0.01], "chart": [0.05]}


def chances(offered: pl.DataFrame, of: dict[str, list[float]]) -> np.ndarray:
    """Return the chance of each proposal by source and rank; deeper ones have the last."""
    rows = offered.select("source_id", "source_rank").rows()
    return np.array([of[source][min(rank, len(of[source]) - 1)] for source, rank in rows])


def ordered(offered, items, surface, group=None, of=CHANCE):
    given = proposals(offered, group=group)
    return blend(given, facts(items), surface, instant(surface), chances(given, of))


def test_the_likelier_stands_first_whichever_slot_it_took():
    surface = policy(quota("near", 0, 1, 3), quota("own", 2, 2, 3))
    found = ordered({"near": ["a", "b"], "own": ["c", "d"]}, tracks(names("x", 0), list("abcd")), surface)
    assert ids(found) == ["a", "c", "d", "b"]


def test_two_sources_together_are_likelier_right_than_either():
    surface = policy(quota("near"), quota("own"))
    found = ordered({"near": ["a", "b", "both"], "own": ["both", "c"]}, tracks(["a", "b", "c", "both"]), surface)
    # both: 1 - .9 x .7 = .37, below a's .5 and above c's .25
    assert ids(found) == ["a", "both", "c", "b"]


def test_sets_are_as_large_with_chances_as_without():
    for seed in range(6):
        given, told, surface, _ = random_block(seed)
        of = {"near": [0.4, 0.1], "own": [0.2], "chart": [0.3, 0.001]}
        by_slot = blend(given, told, surface, instant(surface))
        by_chance = blend(given, told, surface, instant(surface), chances(given, of))
        for k in range(5):
            assert len(ids(by_slot, k)) == len(set(ids(by_chance, k)))
            where = pl.col("k") == k
            assert by_chance.candidates.filter(where)["position"].to_list() == list(range(len(ids(by_chance, k))))


def test_an_artist_has_no_more_of_the_first_slots_than_its_share():
    surface = policy(quota("near"), quota("own"), artist_early=1, artist_early_slots=2)
    items = [item("a1", "x"), item("a2", "x"), item("b", "y"), item("c", "z")]
    of = {"near": [0.9, 0.8, 0.2, 0.1], "own": [0.0]}
    assert ids(ordered({"near": ["a1", "a2", "b", "c"], "own": []}, items, surface, of=of)) == ["a1", "b", "a2", "c"]


def test_what_is_over_a_cap_stays_at_the_end_however_likely():
    surface = policy(quota("near"), quota("own"), album=1, minimum_size=3)
    items = [item("a", album_id="l"), item("b", album_id="l"), item("c")]
    of = {"near": [0.9, 0.8, 0.1], "own": [0.0]}
    assert ids(ordered({"near": ["a", "b", "c"], "own": []}, items, surface, of=of)) == ["a", "c", "b"]


def test_what_leads_stands_before_what_is_likelier():
    leading = dataclasses.replace(quota("own", 0, 1, 1), leads=True)
    found = ordered({"near": ["a", "b"], "own": ["c", "d"]}, tracks(list("abcd")), policy(quota("near"), leading))
    assert ids(found) == ["c", "a", "b"]


@pytest.mark.parametrize("seed", range(4))
def test_neither_the_order_of_proposals_nor_the_block_changes_the_order(seed):
    given, told, surface, _ = random_block(seed)
    of = {"near": [0.4, 0.1], "own": [0.2, 0.15], "chart": [0.3, 0.001]}
    whole = blend(given, told, surface, instant(surface), chances(given, of))
    shuffled = given.sample(fraction=1.0, shuffle=True, seed=seed)
    assert_same(whole, blend(shuffled, told, surface, instant(surface), chances(shuffled, of)))
    for k in range(5):
        mine = {
            name: getattr(told, name).filter(pl.col("k") == k).with_columns(pl.lit(0, pl.UInt32).alias("k"))
            for name in ("records", "blocked", "hidden", "played", "skipped")
        }
        alone = blend(given, dataclasses.replace(told, **mine), surface, instant(surface), chances(given, of))
        assert ids(alone) == ids(whole, k)


def test_what_leads_stands_first_without_chances_too():
    leading = dataclasses.replace(quota("own", 2, 2, 4), leads=True)
    surface = policy(quota("near", 4, 4, 4), leading, quota("charts", 0, 0, 4))
    items = [item(one) for one in ("a", "b", "c", "d", "x", "y")]
    offered = proposals({"near": ["a", "b", "c", "d"], "own": ["x", "y"]})
    found = blend(offered, facts(items), surface, instant(surface))
    assert ids(found)[:2] == ["x", "y"]
    assert set(ids(found)[2:]) == {"a", "b", "c", "d"}


def test_where_nothing_is_known_a_set_stands_in_the_order_of_the_flow():
    quotas = quota("own", 1, 2, 4), quota("near", 1, 2, 4), quota("charts", 0, 0, 4)
    offered = proposals({"own": ["c", "a", "d"], "near": ["a", "b", "e"], "charts": ["x"]})
    in_step = policy(*quotas, flow=("near", "own", "charts"))
    by_flow = dataclasses.replace(in_step, by_flow=True)
    told = facts([item(one) for one in "abcdex"])
    found = {surface.by_flow: ids(blend(offered, told, surface, instant(surface))) for surface in (in_step, by_flow)}
    assert found[True] == ["a", "b", "e", "c", "d", "x"], "a is near's first, whichever slot it took"
    assert found[False] != found[True]
    assert sorted(found[False]) == sorted(found[True])
    lost = dataclasses.replace(told, at_a_loss=np.array([True]))
    assert ids(blend(offered, lost, by_flow, instant(by_flow))) == found[False], "what usually follows was off"
    leading = dataclasses.replace(by_flow, sources=(dataclasses.replace(quotas[0], leads=True), *quotas[1:]))
    assert ids(blend(offered, told, leading, instant(leading)))[0] == "c"
    known = np.linspace(0.1, 0.9, offered.height)
    assert_same(
        blend(offered, told, by_flow, instant(by_flow), known), blend(offered, told, in_step, instant(in_step), known)
    )


# Runs of one artist.


def longest_run(artists: list[str]) -> int:
    runs, longest = 0, 0
    for n, artist in enumerate(artists):
        runs = runs + 1 if n and artist == artists[n - 1] else 1
        longest = max(longest, runs)
    return longest


def test_no_artist_follows_itself_more_often_than_it_may():
    items = [item(one, "x") for one in names("a", 6)] + [item(one, "y") for one in names("b", 4)]
    surface = policy(quota("s"), quota("t"), max_run=2)
    found = blended({"s": names("a", 6) + names("b", 4)}, facts(items), surface)
    assert ids(found) == ["a00", "a01", "b00", "a02", "a03", "b01", "a04", "a05", "b02", "b03"]
    assert found.candidates["position"].to_list() == list(range(10))


def test_a_run_stays_where_nothing_else_is_left():
    items = [item(one, "x") for one in names("a", 4)] + [item("b", "y")]
    found = blended({"s": [*names("a", 4), "b"]}, facts(items), policy(quota("s"), quota("t"), max_run=1))
    assert ids(found) == ["a00", "b", "a01", "a02", "a03"]


def test_items_of_no_artist_are_no_run():
    items = [item(one, artists=None) for one in names("a", 4)]
    assert ids(blended({"s": names("a", 4)}, facts(items), policy(quota("s"), quota("t"), max_run=1))) == names("a", 4)


def test_runs_end_with_the_record():
    told = facts([item(one, "x") for one in names("a", 2)] + [item("b")], [record("u1"), record("u2")])
    offered = pl.concat([proposals({"s": ["b", "a00"]}, "u1"), proposals({"s": ["a01", "b"]}, "u2")])
    surface = policy(quota("s"), quota("t"), max_run=1)
    found = blend(offered, told, surface, instant(surface))
    assert [ids(found, k) for k in (0, 1)] == [["b", "a00"], ["a01", "b"]]


def test_runs_are_as_long_as_each_record_has_it():
    items = [item(one, "x") for one in names("a", 4)] + [item(one, "y") for one in names("b", 2)]
    told = dataclasses.replace(facts(items, [record(f"u{n}") for n in range(3)]), max_run=np.array([2, 0, 1]))
    offered = pl.concat(proposals({"s": names("a", 4) + names("b", 2)}, f"u{n}") for n in range(3))
    surface = policy(quota("s"), quota("t"), max_run=2)
    found = blend(offered, told, surface, instant(surface))
    assert [ids(found, k) for k in range(3)] == [
        ["a00", "a01", "b00", "a02", "a03", "b01"], names("a", 4) + names("b", 2), ["a00", "b00", "a01", "b01", "a02", "a03"],
    ]  # fmt: skip


def test_whoever_is_at_a_loss_has_other_quotas_than_the_others_of_a_block():
    surface = policy(
        quota("np.transition", 2, 6, 6), quota("np.similar", 2, 2, 3), quota("chart", 0, 0, 8, personal=False), size=8, fill_to=8
    )  # fmt: skip
    offered = {"np.transition": names("a", 20), "np.similar": names("b", 20)}
    told = facts([item(one) for one in names("a", 20) + names("b", 20)], [record(f"u{n}") for n in range(3)])
    lost = dataclasses.replace(told, at_a_loss=np.array([False, True, False]))
    found = blend(pl.concat(proposals(offered, f"u{n}") for n in range(3)), lost, surface, instant(surface))
    first = [[one[0] for one in ids(found, k)] for k in range(3)]
    assert [(own.count("a"), own.count("b")) for own in first] == [(6, 2), (3, 5), (6, 2)]
    alone = facts([item(one) for one in names("a", 20) + names("b", 20)], [record("u1")])
    widened = blend(proposals(offered, "u1"), alone, surface.widened, instant(surface))
    assert ids(found, 1) == ids(widened)


@pytest.mark.parametrize("seed", range(10))
def test_runs_are_broken_as_long_as_another_artist_waits(seed):
    dice = random.Random(seed)
    items = [item(one, dice.choice("xxxyz")) for one in names("a", 30)]
    surface = policy(quota("s"), quota("t"), max_run=2)
    found = blended({"s": names("a", 30)}, facts(items), surface)
    artists = found.candidates["artist_id"].to_list()
    tail = next(n for n in range(len(artists)) if len(set(artists[n:])) == 1)
    assert longest_run(artists[: tail + 2]) <= 2
    assert sorted(ids(found)) == names("a", 30)
