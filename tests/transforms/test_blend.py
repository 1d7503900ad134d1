import dataclasses
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from toy_road import days_ago, facts, instant, item, policy, proposals, quota, record

from transforms.blend import Blended, blend
from transforms.filters import HARD_FILTERS
from transforms.works import work


def blended(offered, told, surface, group=None) -> Blended:
    return blend(proposals(offered, group=group), told, surface, instant(surface))


def ids(found: Blended, k: int = 0) -> list[str]:
    return found.candidates.filter(pl.col("k") == k)["item_id"].to_list()


def names(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i:02d}" for i in range(n)]


def tracks(*lists: list[str], **columns) -> list[dict]:
    return [item(one, **columns) for one in sorted({one for names_ in lists for one in names_})]


def removed(found: Blended) -> dict[str, list]:
    """Return the removed items by rule, with the source and the number each was decided on."""
    rows = found.removed.select("rule", "item_id", "source_id", "detail").rows()
    return {rule: [tuple(row[1:]) for row in rows if row[0] == rule] for rule in sorted({row[0] for row in rows})}


# One canonical item, all its sources.


def test_recordings_of_one_canonical_item_are_one_candidate_with_every_source():
    items = [item("a", canonical_id="c"), item("b", canonical_id="c"), item("z"), item("y")]
    surface = policy(quota("near", maximum=9), quota("own", maximum=9))
    found = blended({"near": ["z", "a"], "own": ["b", "y"]}, facts(items), surface)
    assert sorted(ids(found)) == ["b", "y", "z"]
    place = ids(found).index("b")
    sources = found.sources.filter(pl.col("position") == place).select("source_id", "source_rank").rows()
    assert sources == [("own", 0), ("near", 1)]
    assert removed(found) == {"duplicate": [("a", "near", None)]}


def test_versions_of_one_work_are_one_candidate_with_every_source():
    items = [item("a", "x", title="Rain"), item("b", "x", title="Rain - 2011 Remaster"), item("c", "y", title="Rain (Live)"),
             item("d", "x", title="Rain Again"), item("e", "x", title="Rain", item_type="episode")]  # fmt: skip
    found = blended({"near": ["c", "a", "d"], "own": ["b", "e"]}, facts(items), policy(quota("near"), quota("own")))
    assert sorted(ids(found)) == ["b", "c", "d", "e"]
    sources = (
        found.sources.filter(pl.col("position") == ids(found).index("b")).select("source_id", "source_rank").rows()
    )
    assert sources == [("own", 0), ("near", 1)]
    assert removed(found) == {"duplicate": [("a", "near", None)]}


@pytest.mark.parametrize(("ranked", "left"), [("abc", "a"), ("bac", "bc"), ("cab", "c")])
def test_of_recordings_with_other_titles_the_best_ranked_says_what_work_they_are(ranked, left):
    items = [item("a", "x", canonical_id="c1", title="Rain"), item("b", "x", canonical_id="c1", title="Regen"),
             item("c", "x", canonical_id="c2", title="Rain (Live)")]  # fmt: skip
    found = blended(
        {"near": list(ranked), "own": ["z"]}, facts([*items, item("z")]), policy(quota("near"), quota("own"))
    )
    assert sorted(ids(found)) == [*left, "z"]
    assert set(found.sources.filter(pl.col("source_id") == "near")["source_rank"]) == {0, 1, 2}


def test_the_better_ranked_recording_that_passes_the_filters_stands_for_all():
    items = [item("a", canonical_id="c", explicit=True), item("b", canonical_id="c")]
    surface = policy(quota("near"), quota("own"))
    found = blended(
        {"near": ["a"], "own": ["z", "b"]}, facts([*items, item("z")], [record(explicit_allowed=False)]), surface
    )
    assert set(ids(found)) == {"b", "z"}
    assert removed(found) == {"explicit": [("a", "near", None)]}
    assert found.sources.filter(pl.col("source_rank") == 1)["source_id"].to_list() == ["own"]


def test_equal_ranks_go_to_the_smaller_item_id():
    items = [item("b", canonical_id="c"), item("a", canonical_id="c")]
    found = blended({"near": ["b"], "own": ["a"]}, facts(items), policy(quota("near"), quota("own")))
    assert ids(found) == ["a"]
    assert sorted(found.sources["source_id"]) == ["near", "own"]
    assert found.sources["source_id"][0] == found.candidates["source_id"][0], (
        "the source whose slot it took comes first"
    )


def test_a_proposal_of_many_sources_takes_one_slot_and_the_others_move_up():
    surface = policy(quota("near", 1, 1, 1), quota("own", 1, 1, 1))
    found = blended({"near": ["a"], "own": ["a", "b"]}, facts([item("a"), item("b")]), surface)
    assert sorted(ids(found)) == ["a", "b"]
    assert found.candidates.sort("item_id")["source_id"].to_list() == ["near", "own"]


def standing(found: Blended, told) -> pl.DataFrame:
    """Return `k`, `item_id`, `taken`: what stands for each that passed: the best ranked of a canonical item, then of a work."""
    of = told.items.select("item_id", "canonical_id", work()).rows_by_key("item_id", unique=True, named=True)
    passed = (found.rule == 0) | (found.rule > len(HARD_FILTERS))
    rows = found.proposals["item_id"].gather(found.rows.p[passed]).to_list()
    ranks: dict[int, dict[str, int]] = {}
    for k, one, rank in zip(found.rows.k[passed].tolist(), rows, found.rows.r[passed].tolist(), strict=True):
        mine = ranks.setdefault(k, {})
        mine[one] = min(rank, mine.get(one, rank))
    told_ = []
    for k, mine in ranks.items():
        stands = {one: one for one in mine}
        for column in ("canonical_id", "work"):
            best: dict[str, str] = {}
            for one in sorted(set(stands.values()), key=lambda one: (mine[one], one)):
                best.setdefault(of[one][column], one)
            stands = {one: best[of[other][column]] for one, other in stands.items()}
        told_ += [(k, *pair) for pair in stands.items()]
    return pl.DataFrame(told_, schema={"k": pl.UInt32, "item_id": pl.String, "taken": pl.String}, orient="row")


@pytest.mark.parametrize("seed", range(8))
def test_every_proposal_judged_is_removed_once_or_stands_behind_a_candidate(seed):
    offered, told, surface, group = random_block(seed)
    found = blend(offered, told, surface, instant(surface))
    rows = found.removed.select("k", "item_id", "source_id")
    assert rows.height == rows.unique().height
    candidates = found.candidates.select("k", "position", pl.col("item_id").alias("taken"))
    behind = found.sources.join(candidates, on=["k", "position"])
    twins = found.removed.filter(pl.col("rule") == "duplicate")
    stands = standing(found, told)
    others = stands.filter(pl.col("item_id") != pl.col("taken"))
    assert set(twins.select("k", "item_id").rows()) == set(others.select("k", "item_id").rows())
    assert candidates.join(stands, on=["k", "taken"], how="anti").height == 0
    merged = twins.join(stands, on=["k", "item_id"]).join(behind, on=["k", "taken", "source_id"], how="semi").height
    judged = rows.height + found.sources.height - merged
    assert judged == int(found.offered.sum())
    own = offered.filter(~pl.col("key").str.starts_with("*")).height
    assert found.offered.sum() == own + group if group else found.offered.sum() >= own


# Quotas, against the same thing done slowly, one slot after the other.


def slots_in_turn(available: dict[str, int], surface) -> list[tuple[tuple, str]]:
    """Return `(when, source)` of every slot in order: minima, targets, and then maxima in `flow` order.

    Within minima and within targets, a source of n slots is served at 1/2n, 3/2n, ... of the way.
    """
    slots = []
    for one in surface.sources:
        for n in range(min(available[one.source_id], one.maximum)):
            phases = ((0, 0, one.minimum), (1, one.minimum, one.target), (2, one.target, one.maximum))
            phase, low, high = next(p for p in phases if p[1] <= n < p[2])
            turn = surface.flow.index(one.source_id) if phase == 2 else 0
            slots.append(((phase, turn, Fraction(2 * (n - low) + 1, 2 * (high - low))), one.source_id))
    return sorted(slots)


@pytest.mark.parametrize("seed", range(20))
def test_quotas_are_filled_like_slots_in_turn(seed):
    dice = random.Random(seed)
    quotas = []
    for name in ("a", "b", "c", "d"):
        low, aim, high = sorted(dice.choices(range(8), k=3))
        quotas.append(quota(name, low, aim, max(high, 1)))
    size = dice.randint(1, 20)
    surface = policy(*quotas, size=size, fill_to=size)
    available = {one.source_id: dice.randint(0, 12) for one in quotas}
    offered = {name: names(name, n) for name, n in available.items() if name != "d"}
    group = {"d": names("d", available["d"])}
    found = blended(offered, facts(tracks(*offered.values(), *group.values())), surface, group)
    slots = slots_in_turn(available, surface)
    taken = Counter(found.candidates["source_id"].to_list())
    assert taken.total() == min(size, len(slots))
    for one in quotas:
        assert taken[one.source_id] <= one.maximum
        if size < len(slots):
            cut = slots[size][0]  # slots of equal turn are told apart by a hash: any of them may be the last
            least = sum(when < cut and name == one.source_id for when, name in slots)
            most = sum(when <= cut and name == one.source_id for when, name in slots)
            assert least <= taken[one.source_id] <= most
        else:
            assert taken[one.source_id] == sum(name == one.source_id for _, name in slots)


def test_minima_are_filled_before_any_target():
    surface = policy(quota("a", 2, 50, 50), quota("b", 3, 3, 3), quota("c", 1, 1, 1), size=6, fill_to=6)
    offered = {"a": names("a", 40), "b": names("b", 10)}
    found = blended(offered, facts(tracks(*offered.values(), ["c0"])), surface, {"c": ["c0"]})
    assert Counter(found.candidates["source_id"].to_list()) == {"a": 2, "b": 3, "c": 1}


def test_what_a_short_source_leaves_flows_on_in_order():
    surface = policy(quota("a", 0, 4, 6), quota("b", 0, 4, 10), quota("c", 0, 1, 10), size=12, fill_to=12)
    offered = {"a": ["a0"], "b": names("b", 20)}
    found = blended(offered, facts(tracks(*offered.values(), names("c", 20))), surface, {"c": names("c", 20)})
    assert Counter(found.candidates["source_id"].to_list()) == {"a": 1, "b": 10, "c": 1}
    assert {rule for rule, _ in Counter(found.removed["rule"].to_list()).items()} == {"quota", "size"}


def test_what_is_over_a_maximum_is_removed_by_quota():
    found = blended({"a": names("a", 3)}, facts(tracks(names("a", 3))), policy(quota("a", 0, 0, 2), quota("b")))
    assert ids(found) == ["a00", "a01"]
    assert removed(found) == {"quota": [("a02", "a", 2.0)]}


# Caps.


@pytest.mark.parametrize("cap", ["artist", "album", "show", "publisher"])
def test_each_cap_takes_the_surplus_in_blend_order(cap):
    columns = {"artist": {}, "album": {"album_id": "x"}, "show": {"show_id": "x"}, "publisher": {"publisher": "x"}}[cap]
    same = [item(one, artist="x" if cap == "artist" else None, **columns) for one in names("a", 4)]
    surface = policy(quota("a"), quota("b"), **{cap: 2})
    found = blended({"a": [*names("a", 4), "z"]}, facts([*same, item("z")]), surface)
    assert ids(found) == ["a00", "a01", "z"]
    assert [(rule, [row[0] for row in rows]) for rule, rows in removed(found).items()] == [
        (f"cap:{cap}", ["a02", "a03"])
    ]


def test_what_lacks_the_attribute_is_never_capped():
    items = [item(one, artists=None) for one in names("a", 5)]
    surface = policy(quota("a"), quota("b"), artist=1, album=1, show=1, publisher=1, artist_early=1)
    assert ids(blended({"a": names("a", 5)}, facts(items), surface)) == names("a", 5)


def test_what_an_album_gives_away_another_album_of_the_artist_takes():
    items = [item(one, "x", album_id="first") for one in names("a", 4)] + [
        item(one, "x", album_id="second") for one in names("b", 4)
    ]
    surface = policy(quota("s"), quota("t"), artist=3, album=2)
    found = blended({"s": names("a", 4) + names("b", 4)}, facts(items), surface)
    assert ids(found) == ["a00", "a01", "b00"]


def capped_in_turn(rows: list[dict], surface) -> list[str]:
    """Take one row after the other while every count of what it belongs to has room."""
    counts, taken = Counter(), []
    for row in rows:
        owners = [
            ("artist", row["artists"][0]["artist_id"]),
            ("album", row.get("album_id")),
            ("publisher", row.get("publisher")),
        ]
        owners = [owner for owner in owners if owner[1]]
        if all(counts[owner] < getattr(surface, owner[0]) for owner in owners):
            counts.update(owners)
            taken.append(row["item_id"])
    return taken


@pytest.mark.parametrize("seed", range(10))
def test_caps_are_the_same_as_row_by_row(seed):
    dice = random.Random(seed)
    rows = []
    for one in names("a", 40):  # an album is one artist's, an artist one publisher's
        artist = dice.choice("xyz")
        album = dice.choice([None, f"{artist}1", f"{artist}2"])
        rows.append(item(one, artist, album_id=album, publisher="p" if artist == "z" else "q"))
    surface = policy(
        quota("s"), quota("t"), artist=dice.randint(1, 9), album=dice.randint(1, 4), publisher=dice.randint(3, 12)
    )
    assert ids(blended({"s": names("a", 40)}, facts(rows), surface)) == capped_in_turn(rows, surface)


def test_the_surplus_of_an_artist_goes_behind_the_first_slots():
    items = [item(one, "x") for one in names("a", 5)] + [item(one) for one in names("b", 5)]
    surface = policy(quota("s"), quota("t"), artist_early=2, artist_early_slots=5)
    found = blended({"s": names("a", 5) + names("b", 5)}, facts(items), surface)
    assert ids(found) == ["a00", "a01", "b00", "b01", "b02", "a02", "a03", "a04", "b03", "b04"]
    assert found.removed.height == 0


def test_what_is_over_a_cap_fills_a_short_set_to_its_minimum_only():
    items = [item(one, "x") for one in names("a", 9)]
    surface = policy(quota("s"), quota("t"), artist=2, minimum_size=5)
    found = blended({"s": names("a", 9)}, facts([*items, item("z")]), surface, {"t": ["z"]})
    assert ids(found) == ["a00", "a01", "z", "a02", "a03"]
    assert [row[0] for row in removed(found)["cap:artist"]] == names("a", 9)[4:]


def test_what_is_over_its_quota_never_fills_up():
    surface = policy(quota("s", 0, 1, 2), quota("t"), minimum_size=5)
    assert ids(blended({"s": names("a", 9)}, facts(tracks(names("a", 9))), surface)) == ["a00", "a01"]


def test_caps_count_per_record():
    told = facts([item(one, "x") for one in names("a", 3)], [record("u1"), record("u2")])
    offered = pl.concat([proposals({"s": names("a", 3)}, key) for key in ("u1", "u2")])
    surface = policy(quota("s"), quota("t"), artist=2)
    found = blend(offered, told, surface, instant(surface))
    assert [ids(found, k) for k in (0, 1)] == [["a00", "a01"]] * 2


# Size and fallback.


def test_the_set_is_cut_to_size():
    found = blended(
        {"s": names("a", 9)}, facts(tracks(names("a", 9))), policy(quota("s"), quota("t"), size=4, fill_to=4)
    )
    assert ids(found) == names("a", 4)
    assert found.candidates["position"].to_list() == [0, 1, 2, 3]
    assert removed(found)["size"][0] == ("a04", "s", 4.0)


@pytest.mark.parametrize(("own", "charts"), [(0, 5), (3, 2), (5, 0), (7, 0)])
def test_the_fallback_fills_to_its_limit_only(own, charts):
    offered, group = {"s": names("a", own)}, {"t": names("t", 20)}
    surface = policy(quota("s"), quota("t", personal=False), size=8, fill_to=5)
    found = blended(offered, facts(tracks(names("a", own), names("t", 20))), surface, group)
    assert Counter(found.candidates["source_id"].to_list()) == Counter({"s": own, "t": charts})


def test_the_fallbacks_own_target_is_no_filling():
    offered, group = {"s": names("a", 7)}, {"t": names("t", 20)}
    surface = policy(quota("s"), quota("t", 1, 2, 20, personal=False), size=8, fill_to=5)
    found = blended(offered, facts(tracks(names("a", 7), names("t", 20))), surface, group)
    assert Counter(found.candidates["source_id"].to_list()) == {"t": 2, "s": 6}


def test_floors_are_met_with_what_stands_deep_in_a_chart():
    """Its maximum is a whole set, which binds nothing; another source's maximum does."""
    music, talk = names("m", 20), names("t", 6)
    items = [*tracks(music), *tracks(talk, item_type="episode"), *tracks(["u"], item_type="episode")]
    surface = policy(quota("own", maximum=2), quota("chart", 1, 2, 8, personal=False), size=8, fill_to=8)
    told = facts(items, floors=np.array([[0, 3, 0, 0]]))
    found = blended({"own": ["m18", "m19", "u"]}, told, surface, {"chart": [*music, *talk]})
    assert Counter(one[0] for one in ids(found)) == {"m": 5, "t": 3}
    assert {"t00", "t01", "t02"} < set(ids(found))
    assert [row[:2] for row in removed(found)["quota"]] == [("u", "own")]


def test_what_is_for_newcomers_is_offered_to_them_alone():
    surface = policy(
        quota("own"), quota("company", 1, 2, 3, personal=False, newcomers=True), quota("chart", 1, 1, 9, personal=False)
    )
    people = [record("new", newcomer=True), record("ann"), record("bob")]
    told = facts(tracks(names("a", 2), names("c", 5), names("t", 9)), people)
    offered = [
        proposals({"own": names("a", 2)}, "ann"),
        proposals({}, group={"company": names("c", 5), "chart": names("t", 9)}),
    ]
    found = blend(pl.concat(offered), told, surface, instant(surface))
    slots = [Counter(found.candidates.filter(pl.col("k") == k)["source_id"].to_list()) for k in range(3)]
    assert slots == [{"company": 3, "chart": 9}, {"own": 2, "chart": 9}, {"chart": 9}]
    assert found.offered.tolist() == [14, 11, 9]


def test_what_is_for_newcomers_stands_evenly_among_charts():
    surface = policy(
        quota("company", maximum=2, personal=False, newcomers=True),
        quota("chart", 0, 1, 10, personal=False),
        size=10,
        fill_to=10,
    )
    told = facts(tracks(names("c", 5), names("t", 20)), [record("new", newcomer=True)])
    found = blended({}, told, surface, {"company": names("c", 5), "chart": names("t", 20)})
    assert "".join(one[0] for one in ids(found)) == "tttctttttc"


# The whole, on random blocks.


def random_block(seed: int):
    """Return proposals, facts, a policy and how many proposals of groups are offered (0: not known), all seeded."""
    dice = random.Random(seed)
    ids_ = names("i", 40)
    items = [
        item(one, dice.choice("vwxyz"), canonical_id=dice.choice([one, "c1", "c2"]), album_id=dice.choice([None, "l"]),
             title=dice.choice([None, f"Song {dice.randint(0, 5)}", f"Song {dice.randint(0, 5)} (Live)"]),
             explicit=dice.random() < 0.1, rec_eligible=dice.random() < 0.9)
        for one in ids_
    ]  # fmt: skip
    users = names("u", 5)
    told = facts(
        items, [record(one, explicit_allowed=dice.random() < 0.5) for one in users],
        hidden=[(n, dice.choice(ids_)) for n in range(5)],
        played=[(n, dice.choice(ids_), days_ago(3), True) for n in range(5)],
    )  # fmt: skip
    offered = [
        proposals({source: dice.sample(ids_, dice.randint(0, 20)) for source in ("near", "own")}, one) for one in users
    ]
    chart = dice.sample(ids_, 30)
    target = dice.choice([0, 3])
    size = dice.randint(5, 30)
    surface = policy(
        quota("near", 2, 5, 9, discovery=True), quota("own", 1, 6, 8), quota("chart", 0, target, 30, personal=False),
        size=size, fill_to=size, minimum_size=3, artist=6, artist_early=2, artist_early_slots=6, max_run=2,
    )  # fmt: skip
    shared = proposals({}, group={"chart": chart})
    return pl.concat([*offered, shared]), told, surface, len(chart) * len(users) if target else 0


def assert_same(one: Blended, other: Blended) -> None:
    assert_frame_equal(one.candidates, other.candidates)
    assert_frame_equal(one.sources, other.sources)
    assert_frame_equal(one.removed, other.removed)


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_the_proposals_changes_nothing(seed):
    offered, told, surface, _ = random_block(seed)
    shuffled = offered.sample(fraction=1.0, shuffle=True, seed=seed)
    assert_same(blend(offered, told, surface, instant(surface)), blend(shuffled, told, surface, instant(surface)))


@pytest.mark.parametrize("seed", range(8))
def test_a_record_is_blended_alone_as_in_a_block(seed):
    offered, told, surface, _ = random_block(seed)
    whole = blend(offered, told, surface, instant(surface))
    for k in range(5):
        mine = {
            name: getattr(told, name).filter(pl.col("k") == k).with_columns(pl.lit(0, pl.UInt32).alias("k"))
            for name in ("records", "blocked", "hidden", "played", "skipped")
        }
        alone = blend(offered, dataclasses.replace(told, **mine), surface, instant(surface))
        assert ids(alone) == ids(whole, k)


@pytest.mark.parametrize("seed", range(8))
def test_candidates_are_unique_and_in_order(seed):
    offered, told, surface, _ = random_block(seed)
    found = blend(offered, told, surface, instant(surface)).candidates
    assert found.height
    for (_,), rows in found.partition_by("k", as_dict=True).items():
        assert rows["position"].to_list() == list(range(rows.height))
        assert rows["item_id"].n_unique() == rows["canonical_id"].n_unique() == rows.height <= surface.size
        assert told.items.join(rows, on="item_id", how="semi").select(work()).n_unique() == rows.height
        assert np.all(np.diff(rows["blend_score"].to_numpy()) < 0)


def test_ties_are_broken_by_record_and_date():
    users = names("u", 30)
    told = facts([item("a"), item("b")], [record(one) for one in users])
    offered = pl.concat([proposals({"s": ["a"], "t": ["b"]}, one) for one in users])
    surface = policy(quota("s", 1, 1, 1), quota("t", 1, 1, 1))
    found = blend(offered, told, surface, instant(surface))
    first = Counter(found.candidates.filter(pl.col("position") == 0)["item_id"].to_list())
    assert min(first["a"], first["b"]) >= 5  # 15 of 30 expected of a fair hash


def test_nothing_proposed_is_an_empty_blend():
    surface = policy(quota("s"), quota("t"))
    found = blended({}, facts([]), surface)
    assert (found.candidates.height, found.sources.height, found.removed.height) == (0, 0, 0)


# With chances.


def by_chance(offered: dict[str, list[str]], chances: dict[str, float], surface) -> list[str]:
    rows = proposals(offered)
    of = rows["item_id"].replace_strict(chances, return_dtype=pl.Float64).to_numpy()
    found = blend(rows, facts(tracks(*offered.values())), surface, instant(surface), of)
    return ids(found)


def test_beyond_the_minima_the_likeliest_take_the_slots():
    near, own = names("n", 6), names("o", 6)
    chances = {one: 0.9 - n / 100 for n, one in enumerate(near)} | {one: 0.5 - n / 100 for n, one in enumerate(own)}
    surface = policy(quota("near", 1, 2, 4), quota("own", 2, 6, 6), quota("charts", 0, 0, 9), size=6, fill_to=6)
    assert by_chance({"near": near, "own": own}, chances, surface) == near[:4] + own[:2], (
        "two are a minimum, four a maximum"
    )
    loose = policy(quota("near", 0, 2, 6), quota("own", 0, 6, 6), quota("charts", 0, 0, 9), size=6, fill_to=6)
    assert by_chance({"near": near, "own": own}, chances, loose) == near


def test_among_equal_chances_sources_take_turns_in_flow_order():
    near, own = names("n", 3), names("o", 3)
    even = dict.fromkeys([*near, *own], 0.25)
    for flow in (("own", "near", "charts"), ("near", "own", "charts")):
        surface = policy(quota("near"), quota("own"), quota("charts"), size=3, fill_to=3, flow=flow)
        assert set(by_chance({"near": near, "own": own}, even, surface)) == set({"near": near, "own": own}[flow[0]])


def test_the_fallback_fills_up_however_likely():
    near, charts = names("n", 4), names("c", 4)
    chances = dict.fromkeys(near, 0.01) | dict.fromkeys(charts, 0.9)
    surface = policy(quota("near"), quota("charts", 0, 1, 9), size=5, fill_to=5)
    assert set(by_chance({"near": near, "charts": charts}, chances, surface)) == {*near, "c00"}


def test_a_source_that_agrees_with_another_adds_to_its_chance():
    surface = policy(quota("near"), quota("own"), quota("charts"), size=1, fill_to=1)
    chances = {"a": 0.3, "b": 0.4}
    assert by_chance({"near": ["b"], "own": ["a"]}, chances, surface) == ["b"]
    assert by_chance({"near": ["b", "a"], "own": ["a"]}, chances, surface) == ["a"]
