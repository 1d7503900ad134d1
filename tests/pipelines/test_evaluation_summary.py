"""What a summary says of worlds so small that every figure is worked out by hand."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_road import policy, quota
from toy_sets import write_sets

from pipelines.batch import record_path
from pipelines.evaluation_arms import compare_arms
from pipelines.evaluation_summary import (
    Summary,
    beside,
    coverage,
    in_words,
    overlap,
    pooled,
    small_markets,
    source_figures,
    spent_by_source,
    to_json,
    whole_sets,
)
from pipelines.recommend import CountExposure, add_exposure
from schemas.evaluation import SETS
from schemas.manifest import Manifest
from transforms.evaluation import Judged, Sums, measure
from transforms.evaluation_arms import arm_figures
from transforms.evaluation_lists import HIT, PER_UNIT, part_names, read_sets
from transforms.evaluation_now_playing import by_age
from transforms.evaluation_variety import Known
from transforms.holdout import held_out
from transforms.io.store import LocalStore
from transforms.shards import Shard, Task

DAY = "2026-01-23"
SOURCES = ("home.a", "home.b", "home.c")
COVERED = {DAY: {"covered": 0.25, "covered@10": 0.125, "gini": 0.5, "top100_share": 1.0}}
KNOWN = Known(
    pl.Series("item_id", [], pl.String),
    pl.DataFrame(schema={"item_id": pl.String, "bits": pl.Int64, "positives": pl.Int64, "row": pl.UInt32,
                         "artist_id": pl.String, "item_type": pl.String, "genres": pl.List(pl.String)}),
    0, 0, np.empty((0, 1), np.float32),
)  # fmt: skip


def people(*markets: str) -> pl.DataFrame:
    units = pl.DataFrame({"market": list(markets)}).with_row_index("unit")
    return units.with_columns(
        pl.format("user-{}", "unit").alias("user_id"), pl.lit("free").alias("tier"), pl.lit("21+").alias("tenure")
    )


def wants(units: pl.DataFrame, wanted: dict[int, str], known: dict[int, str] | None = None) -> pl.DataFrame:
    """Return targets, a letter each; those of `known` are no discovery."""
    rows = [(unit, one, one not in (known or {}).get(unit, "")) for unit, own in wanted.items() for one in own]
    frame = pl.DataFrame(
        rows, schema={"unit": pl.UInt32, "canonical_id": pl.String, "discovery": pl.Boolean}, orient="row"
    )
    told = {"type": "track", "age": "0-30 days", "device": "phone", "language": "en"}
    return frame.with_columns(
        pl.lit(True).alias("all"), pl.lit(True).alias("organic"), **{k: pl.lit(v) for k, v in told.items()}
    )


def held(ranking: str, *found: tuple[int, str, int]) -> pl.DataFrame:
    rows = [(unit, one, ranking, rank) for unit, one, rank in found]
    return pl.DataFrame(rows, schema=HIT, orient="row")


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    """Two users; `home.a` alone proposed b and z to the first one, too, `home.b` and `home.c` are charts."""
    a, b, c = SOURCES
    sets = {
        "user-0": [("a", [a]), ("b", [a, b]), ("x", [b]), ("c", [c])],
        "user-1": [("d", [b]), ("y", [a]), ("q", [c])],
    }
    units = people("SE", "US")
    targets = wants(units, {0: "abcz", 1: "ad"}, known={0: "a"})
    nothing = pl.lit(None, pl.String).alias("beside")
    served = units.select("unit", pl.col("user_id").alias("record"), nothing, pl.lit(SETS).alias("ranking"))
    aims = targets.select("unit", "canonical_id")
    path = write_sets(tmp_path / "sets.parquet", sets)
    hits, per_unit = read_sets([path], [], pl.col("record_key"), served, aims, KNOWN)
    judged = Judged(units, targets, pl.concat([hits, held(a, (0, "b", 5), (0, "z", 2))]), per_unit)
    sums = measure(judged, [SETS, a, *part_names(SOURCES)])
    return Summary("home", (DAY,), sums, COVERED, {a: 0.5})


def test_sources_are_worth_what_they_hit(summary):
    """New to the first user are b, c and z, to the second a and d; means are over both."""
    expected = {
        "home.a": {"alone": 2 / 3 / 2, "in sets": 1 / 3 / 2, "only": 0.0, "only hits": 0, "slots": 1.5, "hits/slot": 1 / 1.5,
                   "s/1k hits": 0.5 / 2 * 1_000},
        "home.b": {"alone": math.nan, "in sets": (1 / 3 + 1 / 2) / 2, "only": 1 / 2 / 2, "only hits": 1, "slots": 1.5,
                   "hits/slot": 1 / 1.5, "s/1k hits": math.nan},
        "home.c": {"alone": math.nan, "in sets": 1 / 3 / 2, "only": 1 / 3 / 2, "only hits": 1, "slots": 1.0, "hits/slot": 0.5,
                   "s/1k hits": math.nan},
    }  # fmt: skip
    assert summary.sources == list(SOURCES)
    for name, figures in expected.items():
        assert source_figures(summary, name) == pytest.approx(
            figures | {"marginal": math.nan}, abs=1e-5, nan_ok=True
        ), name
    told = to_json(summary)["sources"]
    assert told["home.b"]["alone"] is None
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert "    250.0" in in_words(summary)


def test_sources_share_the_hits_that_both_proposed(summary):
    """Hits are a and b of `home.a`, b and d of `home.b`, c of `home.c`."""
    a, b, c = SOURCES
    own = {(name, name): 1.0 for name in SOURCES}
    assert overlap(summary) == own | {(a, b): 0.5, (b, a): 0.5, (a, c): 0, (c, a): 0, (b, c): 0, (c, b): 0}


def against(sets: range, best: range, other: range = range(0)) -> Summary:
    """Return 400 users who wanted one thing each: who of them is given it by the sets, and by two sources."""
    units = people(*["SE"] * 400)
    given = {SETS: sets, "home.a": best, "home.b": other}
    hits = [held(name, *[(user, "w", 0) for user in users]) for name, users in given.items()]
    targets = wants(units, dict.fromkeys(range(400), "w"))
    sums = measure(Judged(units, targets, pl.concat(hits), pl.DataFrame(schema=PER_UNIT)), list(given))
    return Summary("home", (DAY,), sums, COVERED)


@pytest.mark.parametrize(
    ("sets", "best", "verdict", "difference"),
    [
        (range(300), range(100), "wins", 0.5),
        (range(100), range(300), "loses", -0.5),
        (range(200), range(2, 201), "undecided", 1 / 400),
        (range(200), range(200), "undecided", 0.0),
    ],
)
def test_the_blend_wins_loses_or_nothing_is_decided(sets, best, verdict, difference):
    found = against(sets, best, other=range(50)).contest()
    assert (found.best, found.verdict) == ("home.a", verdict)
    assert found.difference[0] == pytest.approx(difference)
    assert found.sets[0] == len(sets) / 400
    assert found.source[0] == len(best) / 400
    low, high = found.difference[1:]
    assert {"wins": low > 0, "loses": high < 0, "undecided": low <= 0 <= high}[verdict]
    assert f"the blend {verdict} against the best single source, home.a" in in_words(against(sets, best))


def test_the_worst_market_is_told_beside_the_best():
    """Half of the 1,200 in SE and three quarters of the 1,600 in US find it; IS is too small, though nobody finds it there."""
    units = people(*["SE"] * 1_200, *["US"] * 1_600, *["IS"] * 200)
    found = [*range(600), *range(1_200, 2_400)]
    hits = held(SETS, *[(user, "w", 0) for user in found])
    targets = wants(units, dict.fromkeys(range(units.height), "w"))
    sums = measure(Judged(units, targets, hits, pl.DataFrame(schema=PER_UNIT)), [SETS])
    fair = Summary("home", (DAY,), pooled(sums, small_markets(sums)), COVERED).fairness()
    assert (fair.worst, fair.best) == ("SE", "US")
    assert fair.ratio[0] == pytest.approx(0.5 / 0.75)
    error = 1.96 * (0.5 / 0.75) * math.sqrt(1 / 1_200 + (0.25 / 0.75) / 1_600)
    assert fair.ratio[1:] == pytest.approx((2 / 3 - error, 2 / 3 + error), abs=0.006)
    assert against(range(3), range(2)).fairness() is None, "one market, and a small one"


def test_who_is_held_out_is_told_beside_the_others():
    """Two of six are held out. They liked 3 and 1, and their sets hold half of what was new to one; the others find all of it."""
    third = dataclasses.replace(policy(quota("own")), holdout=1 / 3)
    ids = pl.Series("user_id", [f"user-{n}" for n in range(50)])
    out = held_out(ids, third)
    users = [*ids.filter(out)[:2], *ids.filter(~out)[:4]]
    units = people(*["SE"] * 6).with_columns(pl.Series("user_id", users))
    targets = wants(units, {0: "ab", **dict.fromkeys(range(1, 6), "a")}, known={1: "a"})
    events = pl.DataFrame({"user_id": [users[n] for n, times in enumerate((3, 1, 2, 2, 2, 6)) for _ in range(times)]})
    hits = held(SETS, (0, "a", 0), (0, "b", 300), *((n, "a", 299) for n in range(1, 6)))
    figures = arm_figures(units, events, targets, hits, third)
    found = Summary("home", (DAY,), measure(Judged(units, targets, hits, figures), [SETS]), COVERED)
    told = compare_arms(found.sums)
    assert {kind: (one.units, {arm: mean[0] for arm, mean in one.means.items()}) for kind, one in told.items()} == {
        "positives": ({"held_out": 2, "others": 4}, {"held_out": 2.0, "others": 3.0}),
        "recall": ({"held_out": 1, "others": 4}, {"held_out": 0.5, "others": 1.0}),
    }
    liked, recall = beside(found)
    assert liked.startswith("2 who are held out liked 2.00 (1.00 to 3.00) plays a listener, 4 others 3.00 (2.00 to ")
    assert recall == (
        "1 who are held out found 0.5000 (0.5000 to 0.5000) of what was new to them in their sets, 4 others 1.0000 (1.0000"
        " to 1.0000): 0.5000 (0.5000 to 0.5000) more"
    )
    assert json.loads(json.dumps(to_json(found)["arms"]))["recall"]["difference"] == [0.5, 0.5, 0.5]
    nobody = arm_figures(units, events, targets, hits, policy(quota("own")))
    assert nobody.is_empty()
    assert compare_arms(measure(Judged(units, targets, hits, nobody), [SETS])) == {}


def test_freshness_is_the_hit_rate_by_age_of_the_set():
    """Of three plays in the first hours two had their next item among 100, of two in the last hours none."""
    units = people(*["SE"] * 5).with_columns(pl.Series("set_age", ["0-6h"] * 3 + ["18-24h"] * 2))
    hits = pl.concat([held(SETS, (0, "w", 0), (1, "w", 99), (2, "w", 100)), held("home.a", (3, "w", 0))])
    targets = wants(units, dict.fromkeys(range(5), "w"))
    judged = Judged(units.drop("set_age"), targets, hits, by_age(units, hits))
    found = Summary("now_playing", (DAY,), measure(judged, [SETS, "home.a"]), COVERED)
    assert {age: one[0] for age, one in found.freshness().items()} == {"0-6h": pytest.approx(2 / 3), "18-24h": 0.0}
    assert beside(found) == ["hit@100 by age of the set: 0-6h 0.6667, 18-24h 0.0000"]


def test_calibration_is_a_mean_over_those_whose_likes_are_known():
    figures = [(0, "calibration_type", 3.0), (1, "calibration_type", 1.0), (0, "calibrated_type", 1.0),
               (1, "calibrated_type", 1.0)]  # fmt: skip
    rows = [(unit, SETS, metric, value) for unit, metric, value in figures]
    units = people(*["SE"] * 4)
    per_unit = pl.DataFrame(rows, schema=PER_UNIT, orient="row")
    judged = Judged(units, wants(units, dict.fromkeys(range(4), "w")), held(SETS), per_unit)
    found = Summary("home", (DAY,), measure(judged, [SETS]), COVERED)
    assert found.calibration("type")[0] == 2.0
    assert found.calibration("genre") is None
    assert beside(found) == ["sets are 2.000 by type bits from what their users played"]


def test_marginal_recall_is_that_of_sets_blended_again_with_and_without():
    """Of four users two were drawn: one loses a half and the other nothing without `home.a`, and a half each without `home.b`."""
    drawn = [(SETS, "left_out_units", 1.0, 1.0), (SETS, "left_out_recall", 1.0, 0.5), 
             ("without:home.a", "left_out_recall", 0.5, 0.5),
             ("without:home.b", "left_out_recall", 0.5, 0.0)]  # fmt: skip
    rows = [(unit, ranking, metric, values[unit]) for ranking, metric, *values in drawn for unit in (0, 1)]
    units = people(*["SE"] * 4)
    per_unit = pl.DataFrame(rows, schema=PER_UNIT, orient="row")
    judged = Judged(units, wants(units, dict.fromkeys(range(4), "w")), held(SETS), per_unit)
    found = Summary("home", (DAY,), measure(judged, [SETS]), COVERED)
    assert found.marginal("home.a")[0] == 0.25
    assert found.marginal("home.a")[1:] == (0.0, 0.5)
    assert found.marginal("home.b") == (0.5, 0.5, 0.5)
    assert found.marginal("home.c") is None
    assert source_figures(found, "home.a")["marginal"] == 0.25


def test_items_among_the_first_places_of_any_set_are_counted(tmp_path):
    """a is first, b is 10th of one set and 11th of another, c 11th, d 51st: 2 items within 10 places, 3 within 50."""
    fill = [(f"x{n}", ["home.a"]) for n in range(60)]
    first = [("a", ["home.a"]), *fill[:8], ("b", ["home.a"]), ("c", ["home.a"])]
    second = [*fill[:10], ("b", ["home.a"]), *fill[10:49], ("d", ["home.b"])]
    write_sets(tmp_path / "sets.parquet", {"u": first, "v": second})
    store = LocalStore(str(tmp_path))
    parts = CountExposure(("home.b",), 1)(Shard(Task("u", 0, {"candidate_set": ("sets.parquet",)}), store))["parts"]
    parts.write_parquet(tmp_path / "parts.parquet")
    found = add_exposure(Shard(Task("00000", 0, {"parts": ("parts.parquet",)}), store))
    assert {name: n for name, n in found.counters.items() if name.startswith("covered")} == {
        "covered_items_at:10": 10 + 2,
        "covered_items_at:50": 49 + 3,
        "covered_items_at:300": 49 + 4,
    }
    assert found.frame.filter(item_id="b")["sets"].to_list() == [2]
    assert found.frame.filter(item_id="d").select("sets", "sets_chosen").rows() == [(1, 0)], (
        "what is the same for all is no choice"
    )
    assert found.frame.columns == ["item_id", "item_type", "sets", "sets_chosen"]


@pytest.fixture
def counted(tmp_path: Path) -> LocalStore:
    """A root whose run counted exposure, and how long sources took."""
    store = LocalStore(str(tmp_path))
    counters = {"covered_items": 20, "eligible_items": 80, "gini_ppm": 250_000, "top100_slots_chosen": 9, "slots_chosen": 10,
                "covered_items_at:10": 4, "covered_items_at:50": 8, "covered_items_at:300": 20}  # fmt: skip
    made = Manifest(
        dataset="exposure", contract_version="1.0.0", fingerprint="f", stage="exposure", qualifier="home", run="r", date=DAY,
        num_shards=1, code_version="c", config={}, inputs=(), files=(), rejection_files=(), rows_in=0, rows_out=0, rejected={},
        counters=counters, statistics={}, checks=(),
    )  # fmt: skip
    store.write_bytes(made.path, made.to_json().encode())
    for day, skipped in ((DAY, False), ("2026-01-24", True)):
        spent = {} if skipped else {"home.a": 1.5, "home.b": 0.5}
        stages = [
            {"stage": "retrieve home", "skipped": skipped, "spent": spent},
            {"stage": "ingest item", "skipped": False},
        ]
        record = {"manifests": {"exposure/home": made.path}, "stages": stages}
        store.write_bytes(record_path(day), json.dumps(record).encode())
    return store


def test_coverage_is_over_what_may_be_recommended(counted):
    found = coverage(counted, DAY, "home")
    assert found == {"covered@10": 0.05, "covered@50": 0.1, "covered@300": 0.25, "covered": 0.25, "gini": 0.25,
                     "top100_share": 0.9}  # fmt: skip
    summary = dataclasses.replace(against(range(3), range(2)), catalogue={DAY: found, "2026-01-24": COVERED[DAY]})
    assert "hold 25.0% of what may be recommended, 8.8% among their first 10, Gini 0.375" in whole_sets(summary)


def test_a_run_that_skipped_its_sources_says_nothing_of_their_cost(counted):
    assert spent_by_source(counted, "home", [DAY]) == {"home.a": 1.5, "home.b": 0.5}
    assert spent_by_source(counted, "home", [DAY, DAY]) == {"home.a": 3.0, "home.b": 1.0}
    assert spent_by_source(counted, "home", [DAY, "2026-01-24"]) == {}
    assert spent_by_source(counted, "now_playing", [DAY]) == {}


def test_a_summary_of_nothing_is_told(counted):
    empty = Summary("home", (DAY,), Sums(), COVERED)
    assert empty.contest() is None
    assert empty.freshness() == {}
    assert beside(empty) == []
