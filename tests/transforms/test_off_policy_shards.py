"""Rows of explored items against probabilities worked out by hand, and a policy whose worth is known."""

import datetime
import types
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_road import DATE, NOW

from pipelines.off_policy import estimates, gather
from schemas.hashing import mix64
from transforms.evaluation_home import Window
from transforms.explore import draw
from transforms.io.store import LocalStore
from transforms.off_policy import TooFewOutcomes, estimate
from transforms.off_policy_shards import POLICIES, AddOutcomes, nothing, outcomes, sums_of

LIKED = {"user_id": pl.String, "canonical_id": pl.String}


def pool(group: str, **weights: float) -> pl.DataFrame:
    return pl.DataFrame({"group": group, "item_id": list(weights), "canonical_id": list(weights),
                         "weight": list(weights.values())})  # fmt: skip


def candidates(record: str, market: str, *items: tuple[str, bool], propensity: float, slots: int) -> pl.DataFrame:
    rows = {"item_id": [one for one, _ in items], "canonical_id": [one for one, _ in items],
            "is_exploration": [drawn for _, drawn in items]}  # fmt: skip
    known = {"record_key": record, "market": market, "tier": "free", "slots": slots}
    return pl.DataFrame(rows).with_columns(pl.lit(value).alias(name) for name, value in known.items()).with_columns(
        pl.when("is_exploration").then(propensity).otherwise(1.0).alias("propensity")
    )  # fmt: skip


POOL = pool("*|SE|free", a=1.0, b=2.0, c=3.0, d=6.0)


def test_a_slot_shows_an_item_in_proportion_to_its_weight_among_what_is_left():
    """The set holds d: 3 items are drawn from, of mass 6, and 2 slots take them with 2/3 each."""
    sets = candidates("u", "SE", ("x", False), ("d", False), ("a", True), ("c", True), propensity=2 / 3, slots=2)
    liked = pl.DataFrame({"user_id": ["u", "u", "v"], "canonical_id": ["c", "x", "a"]})
    found = outcomes(sets, POOL, liked)
    assert found["record_key"].to_list() == ["u", "u"]
    assert found["reward"].to_list() == [0.0, 1.0]
    assert found["logged"].to_list() == pytest.approx([1 / 3, 1 / 3])
    assert found["target"].to_list() == pytest.approx([1 / 6, 3 / 6])


def test_where_nobody_played_yet_the_pool_of_all_markets_counts():
    pools = pl.concat([POOL, pool("*|*|free", a=1.0, z=3.0)])
    sets = candidates("u", "NO", ("z", True), propensity=0.5, slots=1)
    assert outcomes(sets, pools, pl.DataFrame(schema=LIKED))["target"].to_list() == pytest.approx([0.75])


def test_a_probability_is_never_above_one():
    """Of a pool of 4, a filter left 2 to draw from; that these are the heaviest is not known."""
    sets = candidates("u", "SE", ("d", True), propensity=0.5, slots=1)
    assert outcomes(sets, POOL, pl.DataFrame(schema=LIKED))["target"].to_list() == [1.0]


def test_every_policy_is_a_probability_over_the_pool():
    pools = POOL.drop("weight").with_columns(
        pl.Series("positives", [0, 1, 5, 9]), pl.Series("raw_score", [1.0, 0.5, 0.5, 0.1])
    )
    for name, weight in POLICIES.items():
        weighed = pools.with_columns(weight.alias("weight"))
        sets = [candidates("u", "SE", (one, True), propensity=0.25, slots=1) for one in "abcd"]
        targets = [outcomes(one, weighed, pl.DataFrame(schema=LIKED))["target"].item() for one in sets]
        assert sum(targets) == pytest.approx(1), name
    uniform = POLICIES["uniform"]
    found = outcomes(sets[0], pools.with_columns(uniform.alias("weight")), pl.DataFrame(schema=LIKED))
    assert found["target"].to_list() == found["logged"].to_list(), "what ran"


def test_the_worth_of_a_policy_is_within_its_interval():
    """2,000 users draw 4 of 40 items, and like item n with chance n / 80; the policy draws item n in proportion to n + 1."""
    items, users, slots = 40, 2_000, 4
    dice, weights = np.random.default_rng(5), np.arange(1, items + 1)
    seeds = mix64(np.arange(users, dtype=np.uint64), np.full(users, 9, np.uint64))
    places = draw(seeds, np.tile([0, items], (users, 1)), slots)
    names = [f"i{n:02d}" for n in range(items)]
    flat, who = places.ravel(), np.repeat(np.arange(users), slots)
    sets = pl.DataFrame({"record_key": [f"u{n:04d}" for n in who], "item_id": [names[n] for n in flat]}).with_columns(
        pl.col("item_id").alias("canonical_id"), pl.lit("SE").alias("market"), pl.lit("free").alias("tier"),
        pl.lit(slots).alias("slots"), pl.lit(True).alias("is_exploration"), pl.lit(slots / items).alias("propensity"),
    )  # fmt: skip
    liked = sets.filter(pl.Series(dice.random(len(flat)) < flat / 80)).select(
        pl.col("record_key").alias("user_id"), "canonical_id"
    )
    rows = outcomes(sets, pool("*|SE|free", **dict(zip(names, weights.astype(float), strict=True))), liked)
    truth = float((weights / weights.sum()) @ (np.arange(items) / 80))
    halves = [rows.filter(pl.col("record_key") < "u1000"), rows.filter(pl.col("record_key") >= "u1000")]
    for sums in (sums_of(rows), sums_of(halves[0]) + sums_of(halves[1]) + nothing()):
        found = estimate(sums)
        for one in (found.ips, found.snips, found.clipped):
            assert one.low <= truth <= one.high


def emitted(folder: Path, rows: list[dict]) -> types.SimpleNamespace:
    pl.DataFrame(rows).write_parquet(folder / "sums.parquet")
    return types.SimpleNamespace(files=[types.SimpleNamespace(path="sums.parquet")])


def test_too_few_outcomes_are_refused_with_the_figure(tmp_path):
    rows = pl.DataFrame({"record_key": ["u", "v"], "reward": [1.0, 0.0], "logged": [0.5, 0.5], "target": [0.5, 0.25]})
    work = AddOutcomes(Window(NOW, NOW, NOW + datetime.timedelta(days=7), NOW), DATE, "home.explore")
    told = [work._row("popularity", shard, sums_of(rows[shard])) for shard in (0, 1)]
    ((line, known),) = estimates(LocalStore(str(tmp_path)), emitted(tmp_path, told), ["popularity"])
    assert not known
    assert "an effective sample size of 1.8, from 2 rows of 2 users or seeds, is below 100: nothing can be said" in line
    with pytest.raises(TooFewOutcomes):
        estimate(gather(pl.DataFrame(told)))
