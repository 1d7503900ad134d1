"""Two roots beside each other: nothing changed is no difference, and a loss in one market is refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from judged_root import DAY, manifest_of, pretend

from jobs import evaluate as job
from pipelines.batch import record_path
from pipelines.eval_diff import Verdict, compare, demand_same_users, in_words, part_run
from pipelines.evaluate import EvaluationError
from pipelines.evaluation_summary import OTHER, pooled, small_markets
from schemas.evaluation import SETS
from transforms.evaluation import Judged, Sums, measure
from transforms.evaluation_lists import PER_UNIT
from transforms.io.store import LocalStore

MARKETS = {"US": 1_500, "SE": 1_200, "IS": 200}


def judged(lost: dict[str, float] | None = None) -> Judged:
    """Return users of three markets with four targets each, two of them in the sets; a share is lost in some markets."""
    units = pl.DataFrame({"market": [market for market, count in MARKETS.items() for _ in range(count)]})
    units = units.with_row_index("unit").with_columns(
        pl.format("user-{}", "unit").alias("user_id"), pl.lit("free").alias("tier"), pl.lit("21+").alias("tenure")
    )
    targets = units.select("unit", pl.lit(["a", "b", "c", "d"]).alias("canonical_id")).explode("canonical_id")
    targets = targets.with_columns(
        pl.lit(True).alias("all"), pl.lit(True).alias("discovery"), pl.lit(True).alias("organic"), pl.lit("track").alias("type"),
        pl.lit("0-30 days").alias("age"), pl.lit("phone").alias("device"),
        pl.lit("en").alias("language"),
    )  # fmt: skip
    hits = targets.filter(pl.col("canonical_id").is_in(["a", "b"])).join(units.select("unit", "market"), on="unit")
    share = pl.col("market").replace_strict(lost or {}, default=0.0, return_dtype=pl.Float64)
    place = pl.int_range(pl.len()).over("market")
    kept = hits.filter((place + 1) * share // 1 == place * share // 1)  # every fiftieth goes where the share is 0.02
    rank = pl.when(pl.col("canonical_id") == "a").then(0).otherwise(20).cast(pl.Int64).alias("rank")
    return Judged(
        units,
        targets,
        kept.select("unit", "canonical_id", pl.lit(SETS).alias("ranking"), rank),
        pl.DataFrame(schema=PER_UNIT),
    )


def sums(lost: dict[str, float] | None = None) -> Sums:
    return measure(judged(lost), [SETS])


@pytest.fixture(scope="module")
def base() -> Sums:
    return sums()


def test_nothing_changed_is_no_difference(base):
    found = list(compare("home", base, sums()))
    assert len(found) > 100
    assert {(one.relative, one.low, one.high, one.lost) for one in found} == {(0.0, 0.0, 0.0, False)}


def test_two_percent_lost_in_one_market_are_refused(base):
    found = list(compare("home", base, sums({"SE": 0.0201})))
    lost = {(one.slice, one.part) for one in found if one.lost}
    assert lost == {("market", "SE")}
    (one,) = [one for one in found if one.lost and one.target == "organic" and one.metric == "recall"]
    assert (one.users, one.base) == (1_200, 0.5)
    assert one.relative == pytest.approx(-0.02, abs=0.001)
    assert one.low < one.head - one.base < one.high < 0
    whole = next(one for one in found if one.slice == "all" and (one.metric, one.k) == ("recall", 300))
    assert whole.high < 0
    assert not whole.lost, "the whole loses less than 2 %"


def test_a_small_loss_and_a_small_market_are_not_refused(base):
    """1 % is below the rule; of 200 users nothing is decided, and they are not told by name."""
    found = list(compare("home", base, sums({"SE": 0.01, "IS": 0.1})))
    assert not [one for one in found if one.lost]
    assert {one.part for one in found if one.slice == "market"} == {"US", "SE", OTHER}
    assert min(one.relative for one in found if one.part == OTHER) < -0.05


def test_a_gain_is_not_refused(base):
    gains = list(compare("home", sums({"SE": 0.05}), base))
    assert not [one for one in gains if one.lost]
    assert max(one.relative for one in gains) > 0.04


def test_small_markets_are_one(base):
    assert small_markets(base) == {"IS"}
    parts = {cell.part for cell in pooled(base, {"IS", "SE"}).cells if cell.slice == "market"}
    assert parts == {"US", OTHER}


def test_other_users_are_refused(base):
    other = judged()
    renamed = Judged(other.units.with_columns(pl.col("user_id") + "x"), other.targets, other.hits, other.per_unit)
    with pytest.raises(
        EvaluationError, match=r"expected the same users on both sides, came 2,900 and 2,900, or others"
    ):
        demand_same_users(base, measure(renamed, [SETS]))
    with pytest.raises(EvaluationError, match=r"came 2,900 and 0"):
        demand_same_users(base, Sums())


def test_the_verdict_names_what_was_lost(base):
    found = tuple(compare("home", base, sums({"US": 0.1})))
    verdict = Verdict(False, {"home": ("2026-01-20",)}, (), found)
    text = in_words(verdict)
    assert "LOST home all recall@300 market US" in text
    assert text.endswith("DO NOT MERGE")
    assert verdict.lost[0].part == "US"
    assert np.all(np.diff([one.relative for one in verdict.lost]) >= 0)


def test_an_address_is_a_root_or_one_run_of_it():
    assert part_run("kept/here/") == ("kept/here", None)
    assert part_run("kept/here/runs/date=2026-01-31/") == ("kept/here", "2026-01-31")
    assert part_run("gs://bucket/x/runs/date=2026-01-31") == ("gs://bucket/x", "2026-01-31")


# Roots that were judged.


@pytest.fixture
def store(judged_root: LocalStore) -> LocalStore:
    return judged_root


def test_identical_roots_differ_in_nothing(store, capsys, tmp_path):
    out = tmp_path / "verdict.json"
    assert job.main(["diff", "--base", store.root, "--head", f"{store.root}/runs/date={DAY}", "--out", str(out)]) == 0
    verdict = json.loads(out.read_text())
    assert verdict["merge"] is True
    assert {(one["low"], one["high"], one["relative"]) for one in verdict["differences"]} == {(0.0, 0.0, 0.0)}
    names = {"home_coverage", "now_playing_coverage", "cost"}
    assert {(check["name"], check["outcome"]) for check in verdict["checks"]} == {(name, "passed") for name in names}
    assert "\n  MERGE" in capsys.readouterr().out


@pytest.fixture
def changed(store, tmp_path) -> Callable[[Callable[[dict], None]], LocalStore]:
    """Return a function that gives a root like the judged one but for the record of its run."""

    def made(change: Callable[[dict], None]) -> LocalStore:
        other = LocalStore(shutil.copytree(Path(store.root) / "runs", tmp_path / "root" / "runs").parent.as_posix())
        (tmp_path / "root" / "data").symlink_to(Path(store.root) / "data")
        record = json.loads(other.read_bytes(record_path(DAY)))
        change(record)
        other.write_bytes(record_path(DAY), json.dumps(record).encode())
        return other

    return made


def refused(base: LocalStore, head: LocalStore, folder: Path, waiver: str) -> int:
    """Compare two roots; with a waiver, if there is one."""
    text = (
        f'[[waiver]]\ncheck = "{waiver}"\ndataset = "evaluation"\nowner = "me"\nreason = "why"\nexpires = 2027-01-01\n'
    )
    (folder / "waivers.toml").write_text(text if waiver else "")
    arguments = ["--base", base.root, "--head", head.root, "--waivers", str(folder / "waivers.toml")]
    return job.main(["diff", *arguments, "--out", str(folder / "verdict.json")])


@pytest.mark.parametrize(
    ("figures", "waiver", "code"),
    [
        ({"cpu_seconds": 1.1}, "", 0),
        ({"cpu_seconds": 1.3}, "home_coverage", 1),
        ({"cpu_seconds": 1.3}, "cost", 0),
        ({"seconds": 1.3}, "", 0),
        ({"seconds": 1.3, "cpu_seconds": None}, "", 1),
    ],
    ids=["a little", "much", "waived", "waited for others", "not counted"],
)
def test_a_dearer_run_needs_a_waiver(store, changed, tmp_path, figures, waiver, code):
    """What counts is the time of processors; the clock where either run did not count it."""

    def dearer(record: dict) -> None:
        for stage in (stage for stage in record["stages"] if not stage["skipped"]):
            stage |= {name: factor and stage[name] * factor for name, factor in figures.items()}

    assert refused(store, changed(dearer), tmp_path, waiver) == code


@pytest.mark.parametrize(("left", "waiver", "code"), [(0.96, "", 0), (0.94, "cost", 1), (0.94, "home_coverage", 0)])
def test_sets_of_fewer_items_need_a_waiver(store, changed, tmp_path, left, waiver, code):
    """Sets that cover 4 % less of the catalogue may be merged, 6 % less may not."""
    exposed = manifest_of(store, "exposure/home")
    counters = dict(exposed.counters) | {"covered_items": round(left * exposed.counters["covered_items"])}
    narrow = dataclasses.replace(exposed, counters=counters, run="narrow")

    def narrower(record: dict) -> None:
        record["manifests"]["exposure/home"] = "narrow.json"

    head = changed(narrower)
    head.write_bytes("narrow.json", narrow.to_json().encode())
    assert refused(store, head, tmp_path, waiver) == code


@pytest.mark.slow
def test_the_same_road_made_twice_differs_in_nothing_and_may_be_merged(store, road_elsewhere, tmp_path, capsys):
    """What it cost is waived: another process was busy with other things, too."""
    again = pretend(road_elsewhere.root, tmp_path / "again", road_elsewhere.date)
    assert job.main(["run", "--from", DAY, "--to", DAY, "--root", again.root]) == 0
    assert refused(store, again, tmp_path, "cost") == 0
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert {(one["low"], one["high"], one["relative"]) for one in verdict["differences"]} == {(0.0, 0.0, 0.0)}
    assert len(verdict["differences"]) > 500
    assert {check["observed"] for check in verdict["checks"] if check["name"] != "cost"} == {0.0}
    assert "\n  MERGE" in capsys.readouterr().out
