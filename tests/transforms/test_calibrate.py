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
    counts,
    fit,
    since_of_seeds,
    since_of_users,
)
from transforms.shards import Output
from validation.statistics import Statistics

A = quota("a", 1, 2, 4)
YESTERDAY = days_ago(1)


def proposal(key: str, source: str, *items: str) -> list[dict]:
    return [
        {"key": key, "source_id": source, "item_id": one, "source_rank": rank, "raw_score": 1.0, "score_kind": "k",
         "signal_type": "s", "seed_item_ids": []}
        for rank, one in enumerate(items)
    ]  # fmt: skip


def given(folder, **tables):
    return shard(folder, {name: table("proposal" if name == "groups" else name, rows) for name, rows in tables.items()})


def counted(made) -> dict[tuple[str, int], tuple[float, float]]:
    rows = made["counts"].select("source_id", "source_rank", "trials", "positives").rows()
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
    found = counted(CountTaken(since_of_users, YESTERDAY)(task))
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
    found = counted(CountTaken(since_of_seeds, YESTERDAY)(task))
    assert found == {("a", 0): (4.5, 3), ("a", 1): (4.5, 0.5), ("charts", 0): (4.5, 3.5)}


def test_counts_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    asked = [f"k{n}" for n in range(40)]
    mine = table(
        "proposal", [row for key in asked for row in proposal(key, "a", *rng.choice(list("vwxyz"), 3, replace=False))]
    )
    trials = pl.DataFrame({"key": asked, "weight": rng.random(40)})
    taken = mine.sample(60, seed=1).select("key", "item_id").with_columns(weight=pl.lit(0.1))
    expected = counts(mine, trials, taken)
    shuffled = [frame.sample(fraction=1.0, shuffle=True, seed=3) for frame in (mine, trials, taken)]
    assert counts(*shuffled).equals(expected)


def rows(source: str, trials, positives) -> pl.DataFrame:
    ranks = pl.Series("source_rank", range(len(trials)), dtype=pl.Int32)
    named = pl.DataFrame({"source_id": [source] * len(trials), "trials": trials, "positives": positives})
    return named.with_columns(ranks, pl.col("trials", "positives").cast(pl.Float64))


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
