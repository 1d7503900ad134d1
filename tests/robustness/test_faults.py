"""Planted faults: each is stopped by its check, in words, and what was live stays live."""

import dataclasses
import re
import shutil

import faults
import numpy as np
import polars as pl
import pytest
from road_folders import TODAY, YESTERDAY, contents, ingest, reader_finds, write_raw

from pipelines.recommend import SURFACES
from schemas.manifest import Manifest
from transforms import explore, filters
from transforms.filter_kernel import MARKET, TIER
from transforms.sources import Source, no_seed
from transforms.world_setting import Setting

BUSY = Setting(users=1_500, items=2_000, events=60_000, markets=3, end=TODAY, days=31)
"""Days of 2,000 events: on smaller ones a third more or less happens by chance, and the gates know it."""


@pytest.fixture(scope="module")
def busy(yesterday, tmp_path_factory):
    """The day of a busy world, on a root that has taken in all of it but the events."""
    folder = tmp_path_factory.mktemp("busy")
    shutil.copytree(yesterday.root, folder / "root")
    folders = yesterday._replace(raw=write_raw(folder / "raw", BUSY), root=folder / "root")
    ingest(*folders)
    shutil.rmtree(folders.root / f"data/event/date={TODAY}")
    return folders


@pytest.fixture
def delivered(busy, copied, tmp_path):
    """Return a function that plants a fault into the events and gives the folders to run on."""

    def plant(fault):
        raw = tmp_path / "raw"
        shutil.copytree(busy.raw, raw)
        events = pl.concat([pl.read_parquet(file) for file in sorted(raw.glob("events/*.parquet"))])
        shutil.rmtree(raw / "events")
        (raw / "events").mkdir()
        fault(events).write_parquet(raw / "events/delivery.parquet")
        return copied(busy)._replace(raw=raw)

    return plant


def stopped(folders, capsys, *more) -> str:
    """Run the day, expect it to stop, and return what a person is told."""
    live = contents(folders.root, ("live",))
    assert folders.run(*more) == 1
    said = capsys.readouterr().err.partition("STOPPED  ")[2]
    assert said
    assert "Traceback" not in said
    assert "while running" not in said
    assert contents(folders.root, ("live",)) == live
    assert reader_finds(folders.root) == []
    return said


FAULTS = {
    faults.missing_rows: ("rows_on_date", "is a file of the date missing?"),
    faults.delivered_twice: ("duplicate_event_ids", "was a file delivered twice"),
    faults.replayed: ("rows_on_date", "was a file delivered twice, or a day replayed?"),
    faults.no_market: ("market_present", "dropped, renamed or left empty upstream"),
    faults.one_market_gone: ("silent_markets", "check the delivery of those markets"),
    faults.in_the_future: ("clock_skew", "they happened after they were received"),
    faults.no_day: ("rows_on_date_present", "Check that the delivery of that date is complete"),
    faults.column_dropped: ("raw_columns", "has no column 'item_id', which every event must have"),
    faults.column_renamed: ("raw_columns", "Was it renamed to 'userId'?"),
    faults.optional_column_dropped: ("column_vanished:device_type", "have it delivered"),
    faults.column_retyped: ("schema_valid", "ms_played:"),
    faults.time_retyped: ("schema_valid", "event_ts:"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_faulty_delivery_is_stopped_by_its_check(delivered, capsys, fault):
    said = stopped(delivered(fault), capsys)
    check, words = FAULTS[fault]
    assert check in said
    assert words in said


def test_without_a_fault_the_same_delivery_is_let_in(delivered):
    folders = delivered(lambda events: events)
    assert ingest(*folders).date == str(TODAY)


ITEM_FAULTS = {
    faults.most_items_gone: ("items_vs_previous [failed]", "a mass takedown needs a signed waiver"),
    faults.most_items_deleted: ("eligible_items [failed]", "look at rec_eligible in the delivery"),
    faults.one_market_left: ("eligible_items_in_markets [failed]", "recommendable items fell in 1 of 2 markets: BR"),
    faults.markets_in_words: ("market_codes [failed]", "have them delivered again with the right codes"),
}


def redelivered(folders, tmp_path, name: str, fault):
    """Return folders whose raw items, users or campaigns a fault was planted into."""
    raw = tmp_path / "raw"
    shutil.copytree(folders.raw, raw)
    rows = pl.concat([pl.read_parquet(file) for file in sorted(raw.glob(f"{name}/*.parquet"))])
    shutil.rmtree(raw / name)
    (raw / name).mkdir()
    fault(rows).write_parquet(raw / name / "delivery.parquet")
    return folders._replace(raw=raw)


@pytest.mark.parametrize("fault", ITEM_FAULTS, ids=lambda fault: fault.__name__)
def test_a_catalogue_that_lost_most_of_its_items_upstream_is_stopped(yesterday, copied, capsys, tmp_path, fault):
    said = stopped(redelivered(copied(yesterday), tmp_path, "items", fault), capsys)
    check, words = ITEM_FAULTS[fault]
    assert said.startswith(f"ingest_item of {TODAY} stopped")
    assert check in said
    assert words in said


def test_users_of_other_pseudonyms_than_the_events_are_stopped(yesterday, copied, capsys, tmp_path):
    said = stopped(redelivered(copied(yesterday), tmp_path, "users", faults.another_salt), capsys)
    assert said.startswith(f"ingest_event of {TODAY} stopped")
    assert "users_known [failed]" in said
    assert "are both ids of one salt?" in said


def test_a_campaign_for_an_item_that_is_not_there_is_paused_and_told(yesterday, copied, tmp_path):
    folders = redelivered(copied(yesterday), tmp_path, "campaigns", faults.nothing_to_promote)
    ingest(*folders)
    (path,) = folders.root.glob(f"data/campaign/date={TODAY}/*/manifest.json")
    told = Manifest.from_json(path.read_text(), str(path))
    (check,) = [one for one in told.checks if one.name == "campaigns_sane"]
    assert (check.outcome, check.severity, check.observed, check.of) == ("failed", "warning", 1, 8)
    assert (told.rows_out, told.rejected) == (7, {"item_ids:known": 1})


def test_a_normal_day_keeps_most_of_what_listeners_had(today):
    paths = today.root.glob(f"data/exposure/date={TODAY}/*/manifest.json")
    found = [Manifest.from_json(path.read_text(), str(path)) for path in paths]
    (check,) = [c for one in found if one.qualifier == "home" for c in one.checks if c.name == "kept_since_yesterday"]
    assert check.outcome == "passed"
    assert 0.2 < check.observed < 0.95
    assert check.of > 100


def test_what_a_check_stopped_is_kept_as_evidence(delivered, capsys):
    folders = delivered(faults.no_market)
    said = stopped(folders, capsys)
    (evidence,) = folders.root.glob("quarantine/ingest_event-all/date=2026-01-31/run=*")
    assert str(evidence) in said
    assert list(evidence.glob("part-*.parquet"))
    assert not list(folders.root.glob("staging/*"))


def test_a_cut_off_parquet_file_is_named(yesterday, copied, capsys, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(yesterday.raw, raw)
    file = raw / f"events/date={TODAY}/part-0.parquet"
    file.write_bytes(file.read_bytes()[:-1000])
    said = stopped(copied(yesterday)._replace(raw=raw), capsys)
    assert f"raw_files: {file.relative_to(raw)} is not readable Parquet" in said
    assert "It may have been cut off while it was copied: copy it again" in said


@pytest.mark.parametrize("left", [(), ("items", "users")], ids=["nothing", "no events"])
def test_an_empty_input_folder_is_named(yesterday, copied, capsys, tmp_path, left):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in left:
        shutil.copytree(yesterday.raw / name, raw / name)
    said = stopped(copied(yesterday)._replace(raw=raw), capsys)
    assert "raw_files: no " in said
    assert f"files under {raw}/{'events' if left else 'items'}/" in said
    assert "Point RAW= at a folder with events/ and items/" in said


@pytest.fixture
def unmade(yesterday, today, copied):
    """Return a function that makes some datasets of the day unmade again; the day before is live."""

    def undo(*datasets):
        folders = copied(today)
        for name in datasets:
            shutil.rmtree(folders.root / f"data/{name}/date={TODAY}")
        shutil.copytree(yesterday.root / "live", folders.root / "live", dirs_exist_ok=True)
        return folders

    return undo


@pytest.mark.parametrize("surface", ["home", "now_playing"])
def test_a_market_leak_is_found_by_the_audit_where_the_filter_lets_it_pass(unmade, capsys, monkeypatch, surface):
    folders, judge = unmade("candidate_set", "exposure"), filters.judge

    def leaking(*arguments):
        answers = judge(*arguments)
        answers.rule[np.isin(answers.rule, (MARKET, TIER))] = 0
        return answers

    monkeypatch.setattr(filters, "judge", leaking)
    said = stopped(folders, capsys, "--surface", surface)
    assert "market_violations [failed]" in said
    assert "they hold items that may not be played in their market" in said


def test_a_draw_that_is_the_same_for_everybody_is_stopped(unmade, capsys, monkeypatch):
    folders, draw = unmade("candidate_set", "exposure"), explore.draw
    monkeypatch.setattr(explore, "draw", lambda seeds, bounds, slots: draw(np.zeros_like(seeds), bounds, slots))
    said = stopped(folders, capsys, "--surface", "home")
    assert "exploration_by_hash [failed]" in said
    assert "the draw is broken" in said


def the_same_for_everybody(audience, bundle) -> pl.DataFrame:
    """Propose to everybody, whoever is asked about, the neighbours of the items with the most of them."""
    near = bundle.read("co_listen", ["other_item_id", "score"])
    best = near.group_by("other_item_id").agg(pl.col("score").sum().cast(pl.Float64).round(6).alias("raw_score"))
    best = best.rename({"other_item_id": "item_id"}).sort("raw_score", "item_id", descending=[True, False]).head(120)
    return audience.keys.select("key").join(best.with_columns(no_seed()), how="cross")


def test_a_popularity_collapse_is_stopped(unmade, capsys, monkeypatch):
    folders = unmade("proposal", "candidate_set", "exposure")
    collapsed = Source(the_same_for_everybody, "cosine_sum", "co_listen", "because_you_listened", 120)
    monkeypatch.setitem(SURFACES["home"].sources, "home.co_listen", collapsed)
    said = stopped(folders, capsys, "--surface", "home")
    assert "mean_jaccard [failed]" in said or "single_item_share [failed]" in said
    assert "popularity aside" in said


def test_scores_that_are_spread_otherwise_than_in_the_week_are_stopped(unmade, capsys, monkeypatch):
    """Three more days like the one before are made up, so that there is a week to compare with."""
    folders = unmade("proposal", "candidate_set", "exposure")
    for day in ("27", "28", "29"):
        shutil.copytree(folders.root / f"runs/date={YESTERDAY}", folders.root / f"runs/date=2026-01-{day}")
    one = SURFACES["home"].sources["home.co_listen"]

    def fainter(audience, bundle):
        return one.propose(audience, bundle).with_columns(pl.col("raw_score") / 256)

    monkeypatch.setitem(SURFACES["home"].sources, "home.co_listen", dataclasses.replace(one, propose=fainter))
    said = stopped(folders, capsys, "--surface", "home")
    assert "psi:scores:home.co_listen [failed]" in said
    assert said.count("[failed]") == 1
    assert "the scores of home.co_listen are not spread as in the 4 days before" in said


def broken(audience, bundle) -> pl.DataFrame:
    raise KeyError("no such model")


def test_a_source_that_fails_degrades_the_sets_and_not_the_run(unmade, capsys, monkeypatch):
    folders = unmade("proposal", "candidate_set", "exposure")
    failing = Source(broken, "cosine_sum", "co_listen", "because_you_listened", 120)
    monkeypatch.setitem(SURFACES["home"].sources, "home.co_listen", failing)
    assert folders.run("--surface", "home") == 0
    sets = pl.read_parquet(folders.root / f"data/candidate_set/date={TODAY}/*/*.parquet", hive_partitioning=False)
    lacking = pl.col("degraded_reasons").list.contains("source_failed:home.co_listen")
    assert sets.filter(pl.col("record_key") != "*").select(lacking).to_series().all()
    sources = sets["candidates"].explode().struct.field("sources").explode().struct.field("source_id")
    assert "home.co_listen" not in sources.to_list()
    assert {"home.two_tower", "home.relisten"} <= set(sources)
    (page,) = folders.root.glob("validation/proposal-home.html")
    assert re.search(
        r"home\.co_listen failed for (\d+) of \1 keys \(100 ?%\): their sets go without it", page.read_text()
    )
