"""What is explored, against brute force over all pairs, and how often, against what the propensities say."""

import dataclasses
import random

import numpy as np
import polars as pl
import pytest
from toy_road import PROVENANCE, days_ago, facts, instant, item, offer_in, policy, proposals, quota, record

from schemas.catalogue import CONTRACTS
from schemas.hashing import mix64
from transforms import explore as module
from transforms.audit import audit, fairness
from transforms.blend import blend
from transforms.blend_order import interleave
from transforms.candidate_sets import assemble
from transforms.explore import EXPLORATION_ID, FLOOR, draw, explore
from transforms.filters import Facts, Rows, hard_filters
from transforms.sources import Source
from transforms.works import work
from validation.candidate_gates import _fairness
from validation.thresholds import default_thresholds

SLOTS = 5
SURFACE = policy(
    quota("own"), quota("chart", personal=False), quota("pool", SLOTS, SLOTS, SLOTS, personal=False, discovery=True),
    explore="pool", fallback="chart", flow=("own", "chart"), size=20, fill_to=10,
)  # fmt: skip
NOTHING_HELD = (np.zeros(0, np.uint32), np.zeros(0, np.uint32))


def seeds(n: int) -> np.ndarray:
    return mix64(np.arange(n, dtype=np.uint64), np.full(n, 7, np.uint64))


def bounds_of(strata: list[int], n: int) -> np.ndarray:
    return np.tile(np.concatenate([[0], np.cumsum(strata)]), (n, 1))


# The draw.


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """Return by how many standard deviations counts differ from their means, as a chi-square of as many cells."""
    square = ((found - expected) ** 2 / expected).sum()
    return float((square - len(found)) / np.sqrt(2 * len(found)))


@pytest.mark.parametrize("strata", [[40], [3, 20, 7, 0, 10], [1] * 17, [0, 5, 0, 2]])
def test_every_place_is_drawn_as_often_as_it_should(strata):
    n, total = 10_000, sum(strata)
    places = draw(seeds(n), bounds_of(strata, n), SLOTS)
    found = np.bincount(places.ravel(), minlength=total)
    assert deviation(found, np.full(total, n * SLOTS / total)) < 4
    assert np.abs(found / n - SLOTS / total).max() < 0.02


def test_no_place_is_drawn_twice_and_strata_get_their_share_rounded():
    strata = np.array([3, 20, 7, 0, 10])
    places = np.sort(draw(seeds(2_000), bounds_of(list(strata), 2_000), SLOTS), axis=1)
    assert (np.diff(places, axis=1) > 0).all()
    stratum = (places[:, :, None] >= strata.cumsum()).sum(axis=2)
    given = np.stack([(stratum == code).sum(axis=1) for code in range(5)], axis=1)
    share = SLOTS * strata / strata.sum()
    assert ((np.floor(share) <= given) & (given <= np.ceil(share))).all()


def test_pairs_within_a_stratum_are_drawn_alike():
    """Without replacement, uniformly: of 3 of 6, each of the 15 pairs is in one draw of five."""
    places = draw(seeds(10_000), bounds_of([6], 10_000), 3)
    pairs = [(places == a).any(axis=1) & (places == b).any(axis=1) for a in range(6) for b in range(a)]
    np.testing.assert_allclose([pair.mean() for pair in pairs], 0.2, atol=0.02)


@pytest.mark.parametrize("items", [0, 1, 4, 5])
def test_few_items_are_all_drawn_and_none_is_none(items):
    places = draw(seeds(50), bounds_of([items // 2, items - items // 2], 50), SLOTS)
    assert (np.sort(places, axis=1) == [-1] * (SLOTS - items) + list(range(items))).all()


# Who may be offered what, and how often it is.


def pooled(items: list[dict], group: str = "*|SE|free") -> pl.DataFrame:
    """Return a pool of items in three strata, as proposals of a group."""
    found = proposals({}, group={"pool": [one["item_id"] for one in items]})
    return found.with_columns(
        pl.lit(group).alias("key"), pl.Series("stratum", [f"s{n * n % 3}" for n in range(len(items))])
    )


def world(seed: int, num_records: int = 30, num_items: int = 60) -> tuple[pl.DataFrame, Facts]:
    """Return a pool and records who may be offered different parts of it."""
    dice = random.Random(seed)
    ids = [f"i{n:03d}" for n in range(num_items)]
    items = [
        item(one, dice.choice("abcdef"), canonical_id=dice.choice([one, one, one, f"c{one[-1]}"]),
             title=dice.choice([None, f"Song {n % 4}", f"Song {n % 4} (Live)"]),
             item_type=dice.choice(["track", "track", "episode", "episode", "audiobook"]), series_id=dice.choice([None, "s"]),
             is_serial=dice.choice([None, None, True]), is_trailer=dice.choice([None, None, None, True]),
             languages=dice.choice([None, ["sv"], ["en"]]),
             explicit=dice.random() < 0.2, age_rating=dice.choice([0, 0, 18]),
             availability=dice.choice([None, None, [offer_in("SE")], [offer_in("NO")], [offer_in("*", ["free"])]]))
        for n, one in enumerate(ids)
    ]  # fmt: skip
    records = [
        record(f"u{n:05d}", dice.choice(["SE|free", "SE|kids", "NO|free"]), explicit_allowed=dice.random() < 0.5,
               max_age=dice.choice([0, 21]), languages=dice.choice([None, ["sv"]]), opted_out=dice.random() < 0.2,
               group="*|SE|free", seed_canonical_id=dice.choice([None, "c0"]), other_books=dice.random() < 0.5)
        for n in range(num_records)
    ]  # fmt: skip
    some = [(n, dice.choice(ids)) for n in range(num_records) for _ in range(4)]
    told = facts(
        items, records, hidden=some[::4], blocked=[(n, dice.choice("abc")) for n in range(0, num_records, 3)],
        played=[(*pair, days_ago(dice.choice([3, 40])), True) for pair in some[1::2]],
        skipped=[(*pair, days_ago(dice.choice([3, 40]))) for pair in some[2::4]], gone=["i007"],
    )  # fmt: skip
    return pooled(items), told


def may_be_drawn(pool: pl.DataFrame, told: Facts, held=NOTHING_HELD) -> np.ndarray:
    """Return by brute force what each record draws from, `(num_records, num_items) bool`."""
    rows = told.items.select("item_id", "item_type", "canonical_id", "series_id").to_dicts()
    series = {
        one["canonical_id"]: one["series_id"] for one in rows if one["item_type"] == "audiobook" and one["series_id"]
    }
    alike = np.array([series.get(one["canonical_id"], one["canonical_id"]) for one in rows])
    works = told.items.select(work())["work"].to_numpy()
    both = told.items.select("item_id", alike=pl.Series(alike), work=pl.Series(works))
    ranked = pool.join(both, on="item_id").sort("source_rank").unique("alike", keep="first", maintain_order=True)
    first = ranked.unique("work", keep="first", maintain_order=True)["item_id"]
    shape = told.records.height, told.items.height
    k, i = (axis.ravel().astype(np.uint32) for axis in np.indices(shape))
    every = Rows(k, i, i, np.full(len(k), 2, np.uint8), np.zeros(len(k), np.int32))
    passed = (hard_filters(every, told, SURFACE, instant(SURFACE)).rule == 0).reshape(shape)
    passed &= told.items["item_id"].is_in(first.implode()).to_numpy()
    for who, row in zip(*held, strict=True):
        passed[who] &= (alike != alike[row]) & (works != works[row])
    return passed


@pytest.mark.parametrize("seed", range(8))
def test_records_draw_from_what_the_hard_filters_let_through_and_they_do_not_hold(seed):
    pool, told = world(seed)
    dice = np.random.default_rng(seed)
    held = (np.repeat(np.arange(30, dtype=np.uint32), 6), dice.integers(0, 60, 180).astype(np.uint32))
    made = explore(pool, told, held, SURFACE, instant(SURFACE))
    allowed = may_be_drawn(pool, told, held)
    assert 0.02 < allowed.mean() < 0.7
    np.testing.assert_array_equal(made.sizes, allowed.sum(axis=1))
    assert allowed[made.rows.k, made.rows.i].all()
    np.testing.assert_array_equal(made.slots, np.minimum(SLOTS, made.sizes))
    np.testing.assert_allclose(made.propensity, (made.slots / np.maximum(made.sizes, 1))[made.rows.k])
    assert pool["item_id"].gather(made.rows.p).to_list() == told.items["item_id"].gather(made.rows.i).to_list()
    strata = dict(zip(pool["item_id"], pool["stratum"], strict=True))
    assert made.stratum.to_list() == [strata[one] for one in told.items["item_id"].gather(made.rows.i)]


@pytest.mark.parametrize("seed", range(8))
def test_propensities_of_all_that_may_be_drawn_add_up_to_the_slots(seed):
    pool, told = world(seed)
    made = explore(pool, told, NOTHING_HELD, SURFACE, instant(SURFACE))
    chance = np.zeros(told.records.height)
    chance[made.rows.k] = made.propensity
    np.testing.assert_allclose((may_be_drawn(pool, told) * chance[:, None]).sum(axis=1), made.slots, atol=1e-6)


MANY = 10_000


@pytest.fixture(scope="module")
def many():
    pool, told = world(1, MANY)
    return pool, told, may_be_drawn(pool, told)


def frequencies(many, surface=SURFACE) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Return how often each item was drawn, how often its propensities say, and the counters of the run."""
    pool, told, allowed = many
    made = explore(pool, told, NOTHING_HELD, surface, instant(surface))
    chance = np.minimum(SLOTS, made.sizes) / np.maximum(made.sizes, 1)
    found = np.bincount(made.rows.i, minlength=told.items.height)
    expected = (allowed * chance[:, None]).sum(axis=0)
    return found[expected > 0], expected[expected > 0], fairness(made.cells)


def verdicts(counters: dict[str, int]) -> dict[str, str]:
    return {one.name: one.outcome for one in _fairness(counters, default_thresholds().candidate_set)}


def test_over_ten_thousand_users_items_are_explored_as_often_as_stated(many):
    found, expected, counters = frequencies(many)
    assert deviation(found, expected) < 4
    assert len(found) > 20
    assert verdicts(counters) == {"exploration_by_stratum": "passed", "exploration_by_hash": "passed"}


def first_of_each_stratum(seeds, bounds, slots):
    """Draw how many of each stratum right, and of these always the first."""
    right = np.sort(draw(seeds, bounds, slots), axis=1)
    stratum = (right[:, :, None] >= bounds[:, None, 1:]).sum(axis=2)
    nth = np.stack([(stratum[:, :turn] == stratum[:, turn, None]).sum(axis=1) for turn in range(slots)], axis=1)
    first = np.take_along_axis(bounds, np.minimum(stratum, bounds.shape[1] - 2), axis=1)
    return np.where(right >= 0, first + nth, -1)


def strata_in_equal_parts(seeds, bounds, slots):
    """Draw one of each stratum before a second of any, whatever their sizes."""
    sizes = np.diff(bounds, axis=1)
    places = np.full((len(seeds), slots), -1)
    for row in range(len(seeds)):
        pools = [list(range(low, low + size)) for low, size in zip(bounds[row], sizes[row], strict=False)]
        order = [
            pool[int(seeds[row] >> np.uint64(9)) % len(pool) - n]
            for n in range(slots)
            for pool in pools
            if n < len(pool)
        ]
        places[row, : len(order[:slots])] = order[:slots]
    return places


@pytest.mark.parametrize(
    ("wrong", "caught"),
    [(first_of_each_stratum, "exploration_by_hash"), (strata_in_equal_parts, "exploration_by_stratum")],
)
def test_a_wrong_draw_is_told_by_its_frequencies(many, monkeypatch, wrong, caught):
    monkeypatch.setattr(module, "draw", wrong)
    found, expected, counters = frequencies(many)
    assert deviation(found, expected) > 20
    assert verdicts(counters)[caught] == "failed"


def test_the_draw_is_another_on_another_day_and_surface(many):
    pool, told, _ = many
    when = instant(SURFACE)
    made = [
        explore(pool, told, NOTHING_HELD, SURFACE, dataclasses.replace(when, seed=seed))
        for seed in ("home|2026-01-31", "home|2026-01-31", "home|2026-02-01", "np|2026-01-31")
    ]
    assert made[0].rows.i.tolist() == made[1].rows.i.tolist()
    for other in made[2:]:
        assert (made[0].sizes == other.sizes).all()
        assert np.mean(made[0].rows.i == other.rows.i) < 0.3


# In the set.

REASONED = {
    name: Source(lambda audience, bundle: None, "toy", "toy", f"because of {name}", 9)
    for name in ("own", "chart", "pool")
}


def offered(told: Facts, pool: pl.DataFrame) -> pl.DataFrame:
    users = told.records["record_key"].to_list()
    ids = told.items["item_id"].to_list()
    own = [proposals({"own": ids[n % 20 : n % 20 + 30]}, user) for n, user in enumerate(users)]
    return pl.concat([*own, proposals({}, group={"chart": ids[::2]}), pool])


def test_a_record_explores_alone_as_in_a_block_and_in_any_order():
    pool, told = world(3)
    everything = offered(told, pool)
    whole = blend(everything, told, SURFACE, instant(SURFACE)).candidates
    shuffled = everything.sample(fraction=1.0, shuffle=True, seed=5)
    assert blend(shuffled, told, SURFACE, instant(SURFACE)).candidates.equals(whole)
    for k in range(30):
        mine = {
            name: getattr(told, name).filter(pl.col("k") == k).with_columns(pl.lit(0, pl.UInt32).alias("k"))
            for name in ("records", "blocked", "hidden", "played", "skipped")
        }
        alone = blend(everything, dataclasses.replace(told, **mine), SURFACE, instant(SURFACE)).candidates
        assert alone.drop("k").equals(whole.filter(pl.col("k") == k).drop("k"))


def sets():
    pool, told = world(3, num_items=200)
    made = blend(offered(told, pool), told, SURFACE, instant(SURFACE))
    return made, told, assemble(made, told, SURFACE, instant(SURFACE), REASONED, PROVENANCE)


def test_a_set_says_what_it_explores_and_how():
    made, told, table = sets()
    sizes = dict(zip(told.records["record_key"], made.explored.sizes, strict=True))
    for row in table.to_pylist():
        size = sizes[row["record_key"]]
        drawn = [one for one in row["candidates"] if one["is_exploration"]]
        assert row["exploration_policy"]["id"] == EXPLORATION_ID
        assert row["exploration_policy"]["slots"] == len(drawn) == min(SLOTS, size)
        assert all(one["propensity"] == pytest.approx(len(drawn) / size) for one in drawn)
        assert all(one["stratum"] in ("s0", "s1", "s2") and one["reason_code"] == "because of pool" for one in drawn)
        others = [one for one in row["candidates"] if not one["is_exploration"]]
        assert len(others) <= SURFACE.size - SLOTS
        assert all(one["propensity"] == 1 and one["stratum"] is None for one in others)
        assert ("too_few_to_explore" in row["degraded_reasons"]) == (len(drawn) < SLOTS)
    assert len({row["exploration_policy"]["seed"] for row in table.to_pylist()}) == table.num_rows


def test_who_opted_out_explores_like_anybody_else():
    made, told, _ = sets()
    opted_out = told.records["opted_out"].to_numpy()
    assert opted_out.any()
    assert (made.explored.slots[opted_out] == np.minimum(SLOTS, made.explored.sizes[opted_out])).all()
    assert made.explored.slots[opted_out].max() == SLOTS


def test_without_a_pool_nothing_is_explored_and_the_set_says_so():
    _, told = world(3)
    made = blend(offered(told, proposals({})), told, SURFACE, instant(SURFACE))
    table = assemble(made, told, SURFACE, instant(SURFACE), REASONED, PROVENANCE)
    assert table.num_rows
    for row in table.to_pylist():
        assert "too_few_to_explore" in row["degraded_reasons"]
        assert row["exploration_policy"] == {"id": EXPLORATION_ID, "slots": 0, "seed": 0}
    assert audit(table, told, SURFACE, instant(SURFACE))["exploration_share_violations"] == 0


@pytest.mark.parametrize(
    ("settled", "explored", "places"),
    [
        (6, 2, [2, 5]),
        (1, 3, [0, 2, 3]),
        (0, 2, [0, 1]),
        (3, 0, []),
        (291, 9, [16, 49, 82, 116, 149, 182, 216, 249, 282]),
    ],
)
def test_what_is_explored_is_spread_through_the_list(settled, explored, places):
    found = interleave(np.array([settled]), np.array([explored]))
    assert sorted(found) == list(range(settled + explored))
    assert (np.diff(found[:settled]) > 0).all()
    np.testing.assert_allclose(found[settled:], places, atol=1)


# The audit, on sets somebody tampered with.


def tampered(change) -> dict[str, int]:
    _, told, table = sets()
    rows = table.to_pylist()
    first = next(row for row in rows if row["exploration_policy"]["slots"] == SLOTS)
    change(first, [one for one in first["candidates"] if one["is_exploration"]])
    made = table.from_pylist(rows, schema=CONTRACTS["candidate_set"].schema)
    found = audit(made, told, SURFACE, instant(SURFACE))
    return {name: found[name] for name in ("exploration_share_violations", "propensity_violations")}


def test_an_honest_set_is_no_violation():
    assert tampered(lambda row, drawn: None) == {"exploration_share_violations": 0, "propensity_violations": 0}


@pytest.mark.parametrize(
    "change",
    [
        lambda row, drawn: drawn[0].update(propensity=drawn[0]["propensity"] * 1.001),
        lambda row, drawn: [one.update(propensity=FLOOR / 2) for one in drawn],
        lambda row, drawn: next(o for o in row["candidates"] if not o["is_exploration"]).update(propensity=0.5),
        lambda row, drawn: row["counts"]["filtered_by_rule"].clear(),
    ],
)
def test_propensities_that_do_not_add_up_are_counted(change):
    assert tampered(change) == {"exploration_share_violations": 0, "propensity_violations": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda row, drawn: row["candidates"].remove(drawn[0]),
        lambda row, drawn: drawn[0].update(is_exploration=False, propensity=1.0),
        lambda row, drawn: row["exploration_policy"].update(slots=SLOTS - 1),
    ],
)
def test_another_share_of_explored_items_is_counted(change):
    assert tampered(change)["exploration_share_violations"] == 1
