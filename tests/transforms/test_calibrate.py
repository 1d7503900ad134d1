"""Calibration: counts by rank against a plain loop, a fit that falls with the rank, and probabilities that are right."""

import dataclasses
import datetime

import numpy as np
import polars as pl
import pytest
from toy_manifests import failed, manifest, results
from toy_road import DATE, days_ago, history, listen, policy, quota, shard, table, user

from schemas.candidates import CALIBRATION
from transforms.calibrate import (
    PRIOR_TRIALS,
    UNSEEN_RATE,
    Calibration,
    CountTaken,
    FitCalibration,
    Since,
    counts,
    first_of_sources,
    fit,
    since_of_seeds,
    since_of_users,
    tried,
)
from transforms.shards import Output
from validation.statistics import Statistics

A = quota("a", 1, 2, 4)
FLOW = ("a", "charts")
YESTERDAY = days_ago(1)


def proposal(key: str, source: str, *items: str) -> list[dict]:
    return [
        {"key": key, "source_id": source, "item_id": one, "source_rank": rank, "raw_score": 1.0, "score_kind": "k",
         "signal_type": "s", "seed_item_ids": []}
        for rank, one in enumerate(items)
    ]  # fmt: skip


def given(folder, **tables):
    return shard(folder, {name: table("proposal" if name == "groups" else name, rows) for name, rows in tables.items()})


def counted(made, which: str = "") -> dict[tuple[str, int], tuple[float, float]]:
    rows = made["counts"].select("source_id", "source_rank", f"{which}trials", f"{which}positives").rows()
    return {(source, rank): (trials, positives) for source, rank, trials, positives in rows}


def test_of_users_only_those_who_came_back_count_and_only_what_they_played_since(tmp_path):
    histories = [
        history("ann", [listen("x", 9), listen("y", 0.5), listen("y", 0.4)]),
        history("bob", [listen("x", 0.5)]),
        history("cid", [listen("x", 3)]),
        history("dan", [listen("x", 0.5)]),
    ]
    mine = [
        *proposal("ann", "a", "x", "y"), *proposal("bob", "a", "y", "x"), *proposal("cid", "a", "x"),
        *proposal("dan", "a", "x"),
    ]  # fmt: skip
    charts = [*proposal("*|SE|free", "charts", "y", "x"), *proposal("*|*|free", "charts", "x")]
    users = [user("ann"), user("bob"), user("cid"), user("dan", personalization_opt_out=True)]
    task = given(tmp_path, proposal=mine, groups=charts, user=users, history=histories, tombstone=[])
    found = counted(CountTaken(since_of_users, YESTERDAY, FLOW)(task))
    assert found == {("a", 0): (2, 0), ("a", 1): (2, 2), ("charts", 0): (2, 1), ("charts", 1): (2, 1)}


def test_of_seeds_a_follower_counts_by_its_share(tmp_path):
    followed = [
        {"event_date": date, "item_id": seed, "next_item_id": item, "weight": weight}
        for date, seed, item, weight in [
            (DATE, "s", "x", 3072), (DATE, "s", "y", 1024), (DATE, "t", "x", 512),
            (DATE - datetime.timedelta(days=1), "s", "z", 9216),
        ]
    ]  # fmt: skip
    mine = [*proposal("s", "a", "x", "z"), *proposal("t", "a", "y", "x"), *proposal("quiet", "a", "x")]
    charts = proposal("*|*|*", "charts", "x")
    task = given(tmp_path, proposal=mine, groups=charts, transition_partial=followed)
    made = CountTaken(since_of_seeds, YESTERDAY, FLOW)(task)
    assert counted(made) == {("a", 0): (4.5, 3), ("a", 1): (4.5, 0.5), ("charts", 0): (4.5, 3.5)}
    assert counted(made, "first_")["charts", 0] == (0, 0), "both seeds were told of x before"


def test_what_an_earlier_source_proposed_too_counts_as_its_own(tmp_path):
    """Ann's x is of near first, whatever far ranks it; of the two who are charted, the chart is first with nobody but Bob."""
    histories = [history("ann", [listen("x", 0.5)]), history("bob", [listen("x", 0.5)])]
    mine = [*proposal("ann", "far", "x", "y"), *proposal("ann", "near", "z", "x"), *proposal("bob", "far", "y")]
    charts = proposal("*|SE|free", "charts", "x", "y", "w")
    task = given(
        tmp_path, proposal=mine, groups=charts, user=[user("ann"), user("bob")], history=histories, tombstone=[]
    )
    made = CountTaken(since_of_users, YESTERDAY, ("near", "far", "charts"))(task)
    assert counted(made, "first_") == {
        ("near", 0): (1, 0), ("near", 1): (1, 1), ("far", 0): (1, 0), ("far", 1): (1, 0),
        ("charts", 0): (1, 1), ("charts", 1): (0, 0), ("charts", 2): (2, 0),
    }  # fmt: skip
    assert counted(made)["far", 0] == (2, 1)
    assert counted(made)["charts", 0] == (2, 2)
    turned = CountTaken(since_of_users, YESTERDAY, ("far", "near", "charts"))(task)
    assert counted(turned, "first_")["far", 0] == (2, 1)
    assert counted(turned, "first_")["near", 1] == (0, 0)


def test_counts_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    asked = [(f"k{n}", source) for n in range(40) for source in "ab"]
    drawn = [proposal(key, source, *rng.choice(list("vwxyz"), 3, replace=False)) for key, source in asked]
    mine = table("proposal", [row for rows in drawn for row in rows])
    trials = pl.DataFrame({"key": [f"k{n}" for n in range(40)], "weight": rng.random(40)})
    taken = mine.select("key", "item_id").unique().sample(60, seed=1).with_columns(weight=pl.lit(0.1))

    def added(mine, trials, taken):
        since = Since(trials, taken, trials.select("key", group="key"))
        return counts(first_of_sources(tried(mine, since), ("b", "a")))

    shuffled = [frame.sample(fraction=1.0, shuffle=True, seed=3) for frame in (mine, trials, taken)]
    assert added(*shuffled).equals(added(mine, trials, taken))


def rows(source: str, trials, positives, first: float = 0.0) -> pl.DataFrame:
    ranks = pl.Series("source_rank", range(len(trials)), dtype=pl.Int32)
    named = pl.DataFrame({"source_id": [source] * len(trials), "trials": trials, "positives": positives})
    sums = pl.col("trials", "positives").cast(pl.Float64)
    return named.with_columns(ranks, sums, (sums * first).name.prefix("first_"))


def test_a_fit_falls_with_the_rank_and_keeps_the_sum_of_what_was_seen():
    seen = rows("a", [1e6, 1e6, 1e6, 1e6], [2e5, 1e5, 3e5, 1e4])
    found = fit(seen, A, 0.5)["probability"].to_numpy()
    assert found == pytest.approx([0.2, 0.2, 0.2, 0.01], abs=1e-4)
    assert (np.diff(found) <= 0).all()
    assert found @ seen["trials"].to_numpy() == pytest.approx(seen["positives"].sum(), rel=1e-3)


def test_few_trials_say_what_the_source_says():
    seen = rows("a", [10_000, 1], [1_000, 0])
    found = fit(seen, A, 0.9)["probability"].to_numpy()
    own = 1_000 / 10_001
    assert found[1] == pytest.approx(PRIOR_TRIALS * own / (1 + PRIOR_TRIALS))
    assert len(found) == A.maximum


def test_a_source_nobody_saw_has_the_rate_of_the_others_and_halves_at_its_target():
    found = fit(rows("a", [], []), A, 0.3)
    assert found["probability"].to_list() == pytest.approx([0.3, 0.2, 0.15, 0.12])
    assert found["source_rank"].to_list() == [0, 1, 2, 3]


SURFACE = policy(A, quota("b", 0, 1, 2))
BY_FLOW = dataclasses.replace(SURFACE, by_flow=True)


def fitted(folder, before=None, fade=1.0, surface=SURFACE, **counts_of) -> pl.DataFrame:
    return made(before, fade, surface, **counts_of).frame


def made(before=None, fade=1.0, surface=SURFACE, strange=((), ()), **counts_of) -> Output:
    class Parts:
        def parts(self, kind, schema):
            return pl.concat(
                [pl.DataFrame(schema=schema), *(rows(s, *n).select(list(schema)) for s, n in counts_of.items())]
            )

        def paths(self, name):
            return [] if before is None else [str(before)]

    return FitCalibration(surface, fade, *strange)(Parts())


def test_what_came_first_is_fitted_by_itself(tmp_path):
    write = tmp_path / "before.parquet"
    fitted(tmp_path, a=([1e6, 1e6], [4e5, 1e5], 0.5), b=([1e6], [1e5])).write_parquet(write)
    found = fitted(tmp_path, write, 0.5, a=([1e6, 1e6], [0.0, 0.0], 1.0))
    top = found.row(by_predicate=(pl.col("source_id") == "a") & (pl.col("source_rank") == 0), named=True)
    assert (top["trials"], top["positives"], top["first_trials"], top["first_positives"]) == (1.5e6, 2e5, 1.25e6, 1e5)
    assert top["probability"] == pytest.approx(2 / 15, abs=1e-4)
    assert top["first_probability"] == pytest.approx(1 / 12.5, abs=1e-4)
    unseen = found.filter(source_id="b")["first_probability"].to_list()
    assert unseen == pytest.approx([0.05, 0.025]), "at the rate of what came first of the others: 125,000 of 2.5 M"


def test_what_was_seen_before_counts_for_less(tmp_path):
    first = fitted(tmp_path, a=([1e6, 1e6], [4e5, 1e5]), gone=([5.0], [5.0]))
    assert set(first["source_id"]) == {"a", "b"}
    write = tmp_path / "before.parquet"
    first.write_parquet(write)
    second = fitted(tmp_path, write, 0.5, a=([1e6, 1e6], [1e5, 1e5]))
    top = second.filter((pl.col("source_id") == "a") & (pl.col("source_rank") == 0)).row(0, named=True)
    assert (top["trials"], top["positives"]) == (1.5e6, 3e5)
    assert top["probability"] == pytest.approx(0.2, abs=1e-4)


def test_counts_of_another_model_are_left_out_and_told(tmp_path):
    """Source a ranks by another model than yesterday: its chances are assumed, at the rate of the others, until it was judged."""
    write = tmp_path / "before.parquet"
    seen = {"a": ([1e6, 1e6], [4e5, 1e5]), "b": ([100.0], [50.0])}
    fitted(tmp_path, **seen).write_parquet(write)
    own, other = ("a",), ("a", "b")
    assert made(write, **seen).counters == {}
    found = made(write, strange=(own, own), **seen)
    told = found.frame.filter(source_id="a")
    assert told["trials"].sum() == 0
    assert told["probability"].to_list() == pytest.approx([0.5, 0.5 / 1.5, 0.25, 0.2])
    assert found.frame.filter(source_id="b", source_rank=0)["trials"].to_list() == [200.0]
    assert found.counters == {"trials_of_another_model:a": 4_000_000}
    since = made(write, strange=((), other), **seen)
    assert since.frame.filter(source_rank=0)["trials"].to_list() == [1e6, 100.0], "what it proposes now counts alone"
    assert since.counters == {"trials_of_another_model:a": 2_000_000, "trials_of_another_model:b": 100}


@pytest.mark.parametrize(("counters", "warned"), [({}, None), ({"a": 0}, None), ({"a": 7, "b": 0}, "a")])
def test_a_source_whose_model_changed_is_told(counters, warned):
    named = {f"trials_of_another_model:{name}": n for name, n in counters.items()}
    found = results(CALIBRATION, manifest("calibration", Statistics(9, {}, {}), counters=named))
    assert failed(found) == ({f"calibration_of_model:{warned}": "warning"} if warned else {})
    if warned:
        said = found["calibration_of_model:a"].message
        assert "7 trials of a are of another model than the one it ranks by now: they are left out" in said
    else:
        assert found["calibration_of_model"].outcome == "passed"


def test_with_nothing_seen_every_source_is_unseen(tmp_path):
    found = fitted(tmp_path)
    assert found.filter(source_rank=0)["probability"].to_list() == [UNSEEN_RATE] * 2
    assert found["trials"].sum() == 0


def test_of_what_is_drawn_by_lot_each_is_as_likely(tmp_path):
    drawn = dataclasses.replace(SURFACE, explore="b", flow=("a",), fallback="a", sources=(A, quota("b", 2, 2, 2)))
    found = fitted(tmp_path, surface=drawn, b=([1e6] * 4, [0.0, 1e4, 0.0, 1e4]))
    assert found.filter(source_id="b")["probability"].to_list() == pytest.approx([0.005, 0.005])


def test_probabilities_are_looked_up_by_source_and_rank():
    known = Calibration({"a": np.array([0.5, 0.25])})
    asked = pl.Series(["a", "b", "a", "a"])
    assert known.of(asked, np.array([1, 1, 7, 0]), SURFACE).tolist() == [0.25, UNSEEN_RATE / 2, 0.25, 0.5]
    assert known.of(asked.clear(), np.array([], np.int32), SURFACE).tolist() == []


def test_what_is_fitted_on_one_half_of_a_world_is_right_for_the_other():
    """Takes are drawn with a probability that falls with the rank; the fit finds it within what chance allows."""
    rng, depth = np.random.default_rng(7), 30
    truth = 0.3 / (1 + np.arange(depth) / 5)
    trials = np.full(depth, 5_000.0)
    found = fit(rows("a", trials, rng.binomial(5_000, truth).astype(float)), dataclasses.replace(A, maximum=depth), 0.1)
    later = rng.binomial(5_000, truth) / 5_000
    error = np.abs(found["probability"].to_numpy() - later)
    assert (error < 4 * np.sqrt(2 * truth * (1 - truth) / 5_000)).all()


def test_chances_are_told_where_something_was_counted():
    offered = pl.DataFrame({"source_id": ["a", "a"], "source_rank": [0, 1]}, schema_overrides={"source_rank": pl.Int32})
    tables = {"a": np.array([0.5, 0.25])}
    assert Calibration(tables).chances(offered, SURFACE) is None, "what is assumed of every source orders none of them"
    known = Calibration(tables, counted=True).chances(offered, SURFACE)
    assert known is not None
    assert known.tolist() == [0.5, 0.25]
    first = Calibration(tables, counted=True, first={"a": np.array([0.4, 0.01])})
    assert first.chances(offered, SURFACE).tolist() == [0.5, 0.25], "where sources that agree add up"
    assert first.chances(offered, BY_FLOW).tolist() == [0.4, 0.01]
    assert Calibration(tables, counted=True).chances(offered, BY_FLOW).tolist() == [0.5, 0.25]
    assert first.of(offered["source_id"], np.array([0, 1]), SURFACE).tolist() == [0.5, 0.25], "as the ranker is told"


def test_a_calibration_from_before_what_comes_first_was_counted_is_read_as_it_was(tmp_path):
    of_today = table("calibration", [{"source_id": "a", "source_rank": 0, "trials": 9.0, "positives": 1.0, "probability": 0.5,
                                      "first_trials": 9.0, "first_positives": 1.0, "first_probability": 0.1}])  # fmt: skip
    offered = pl.DataFrame({"source_id": ["a"], "source_rank": [0]}, schema_overrides={"source_rank": pl.Int32})
    for rows, chance in ((of_today, 0.1), (of_today.select(~pl.selectors.starts_with("first_")), 0.5)):
        rows.write_parquet(tmp_path / "one.parquet")
        assert Calibration.read([str(tmp_path / "one.parquet")]).chances(offered, BY_FLOW).tolist() == [chance]
