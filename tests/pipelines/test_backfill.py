import dataclasses
import datetime
import json
import shutil
from pathlib import Path

import pytest
from small_road import SmallRoad

from jobs import backfill as job
from jobs.options import read_policy
from pipelines.backfill import DatePlan, Wanted, dates, plan, run
from pipelines.batch import RoadResult, in_words, raw_digest, record_path
from pipelines.runner import StageFailed
from pipelines.version import code_version
from schemas.manifest import InputRef
from transforms.io.store import LocalStore, Store, StoreError, open_store

DAY = "2026-01-31"


@pytest.fixture
def wanted(small_road: SmallRoad) -> Wanted:
    return Wanted(code_version(), read_policy(small_road.policy).version, 2, ("home", "now_playing"))


def planned(store: Store, road: SmallRoad, wanted: Wanted, days: list[str] | None = None) -> list[DatePlan]:
    return plan(store, open_store(str(road.raw)), days or [DAY], wanted)


def test_every_date_of_the_range_is_named() -> None:
    assert dates(datetime.date(2026, 2, 27), datetime.date(2026, 3, 1)) == ["2026-02-27", "2026-02-28", "2026-03-01"]
    with pytest.raises(ValueError, match="expected FROM <= TO, came FROM=2026-02-02 TO=2026-02-01: swap them"):
        dates(datetime.date(2026, 2, 2), datetime.date(2026, 2, 1))


def test_a_date_made_the_same_way_is_there(store: Store, copy_road: SmallRoad, wanted: Wanted) -> None:
    before, there = planned(store, copy_road, wanted, ["2026-01-30", DAY])
    assert (before.day, before.state, before.why) == ("2026-01-30", "run", "never run")
    assert (there.day, there.state) == (DAY, "there")
    assert "home " in there.why
    assert "now_playing " in there.why


def test_what_changed_since_is_named(store: Store, copy_road: SmallRoad, wanted: Wanted) -> None:
    for change, why in {
        "code_version": "other code: made by 0.1.0",
        "policy_version": "other policy",
        "num_shards": "other shards: made by 2, now x",
    }.items():
        (one,) = planned(store, copy_road, dataclasses.replace(wanted, **{change: "x"}))
        assert one.state == "run"
        assert why in one.why


def test_changed_raw_files_are_named(store: Store, copy_road: SmallRoad, wanted: Wanted, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(copy_road.raw, raw)
    moved = copy_road._replace(raw=raw)
    assert planned(store, moved, wanted)[0].state == "there"
    (raw / "users" / "more.jsonl").write_text('{"user_id": "u1"}\n')
    (one,) = planned(store, moved, wanted)
    assert (one.state, one.why) == ("run", "raw users changed")


def test_a_file_that_arrived_later_changes_nothing_before(
    store: Store, copy_road: SmallRoad, wanted: Wanted, tmp_path
) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(copy_road.raw, raw)
    (raw / "users" / "date=2026-02-01").mkdir()
    (raw / "users" / "date=2026-02-01" / "more.jsonl").write_text('{"user_id": "u1"}\n')
    assert planned(store, copy_road._replace(raw=raw), wanted)[0].state == "there"


def test_a_missing_surface_or_manifest_runs_the_date_again(store: Store, copy_road: SmallRoad, wanted: Wanted) -> None:
    record = json.loads(store.read_bytes(record_path(DAY)))
    store.write_bytes(record_path(DAY), json.dumps({**record, "surfaces": ["home"]}).encode())
    assert planned(store, copy_road, wanted)[0].why == "no sets for now_playing"
    assert planned(store, copy_road, dataclasses.replace(wanted, surfaces=("home",)))[0].state == "there"
    store.write_bytes(record_path(DAY), json.dumps(record).encode())
    store.delete(record["manifests"]["history/"])
    (one,) = planned(store, copy_road, wanted)
    assert (one.state, one.why) == ("run", f"{record['manifests']['history/']} is gone")


def test_retired_data_is_still_there(store: Store, copy_road: SmallRoad, wanted: Wanted) -> None:
    for path in store.list("data/candidate_set"):
        if path.endswith(".parquet"):
            store.delete(path)
    assert planned(store, copy_road, wanted)[0].state == "there"


def test_without_events_a_date_is_missing(store: Store, copy_road: SmallRoad, wanted: Wanted, tmp_path: Path) -> None:
    (tmp_path / "raw" / "items").mkdir(parents=True)
    (tmp_path / "raw" / "items" / "one.jsonl").write_text("{}\n")
    (one,) = planned(store, copy_road._replace(raw=tmp_path / "raw"), wanted)
    assert one.state == "missing"
    assert "raw_files: no .jsonl" in one.why


def test_a_date_that_fails_stops_no_other(store: Store) -> None:
    ran, said = [], []

    def run_date(day: str) -> RoadResult:
        ran.append(day)
        if day == "2026-01-29":
            raise StageFailed("blend stopped [while running 'DoStage/Map']")
        if day == "2026-01-30":
            raise KeyError("item_id")
        return RoadResult({}, {})

    plans = [DatePlan(f"2026-01-{n}", "run", "never run") for n in (28, 29, 30)]
    plans.append(DatePlan("2026-01-31", "there", ""))
    plans.append(DatePlan("2026-02-01", "missing", "no events"))
    results = list(run(store, plans, run_date, said.append))
    assert ran == ["2026-01-28", "2026-01-29", "2026-01-30"]
    assert [one.state for one in results] == ["done", "failed", "failed", "there", "missing"]
    assert [one.error for one in results] == ["", "blend stopped", "KeyError: 'item_id'", "", "no events"]
    assert [one.good for one in results] == [True, False, False, True, False]
    assert results[3].sets["home"] > 500
    assert results[3].released == {"home": "released", "now_playing": "released"}
    assert "3 date(s) to run" in said[0]
    assert "2 date(s) to run, about" in said[1]


def test_a_root_that_fails_stops_at_once(store: Store) -> None:
    ran = []

    def run_date(day: str) -> RoadResult:
        ran.append(day)
        raise StoreError("the disk is full")

    plans = [DatePlan(day, "run", "never run") for day in ("2026-01-30", "2026-01-31")]
    with pytest.raises(StoreError, match="the disk is full"):
        list(run(store, plans, run_date, lambda line: None))
    assert ran == ["2026-01-30"]


def test_the_raw_digest_is_of_contents_not_of_names() -> None:
    a, b = InputRef("raw_event", "/x/a", "1"), InputRef("raw_event", "/x/b", "2")
    moved = [InputRef("raw_event", "/y/b", "2"), InputRef("raw_event", "/y/a", "1"), InputRef("user", "/x/u", "3")]
    assert raw_digest([a, b]) == raw_digest(moved)
    assert raw_digest([a, b]) != raw_digest([a])


def test_what_beam_appends_is_left_out() -> None:
    assert in_words(ValueError("bad [while running 'DoStage/Emit/Map']\nnext [while running 'A']")) == "bad\nnext"


def arguments(road: SmallRoad, first: str, last: str) -> list[str]:
    given = {"raw": road.raw, "root": road.root, "policy": road.policy, "shards": 2, "from": first, "to": last}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def contents(store: LocalStore) -> dict[str, str]:
    return {path: store.digest(path) for path in store.list("") if path != "lock.json"}


def test_a_second_run_does_nothing(copy_road: SmallRoad, store: LocalStore, capsys: pytest.CaptureFixture) -> None:
    before = contents(store)
    assert job.main(arguments(copy_road, DAY, DAY)) == 0
    assert contents(store) == before
    out = capsys.readouterr().out
    assert "2026-01-31  there" in out
    assert "1 of 1 dates are there" in out


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    copy_road: SmallRoad, store: LocalStore, capsys: pytest.CaptureFixture
) -> None:
    before = contents(store)
    assert job.main([*arguments(copy_road, "2026-01-30", DAY), "--dry-run"]) == 0
    assert contents(store) == before
    out = capsys.readouterr().out
    assert "2026-01-30  run      never run" in out
    assert "2026-01-31  there    made by the same code, policy and input" in out


def test_a_dry_run_of_another_shape_says_that_it_is_imported_first(
    copy_road: SmallRoad, capsys: pytest.CaptureFixture
) -> None:
    assert job.main([*arguments(copy_road, DAY, DAY), "--dry-run", "--format", "pairs"]) == 0
    assert f"run      after {copy_road.raw} has been imported" in capsys.readouterr().out
    assert not (copy_road.root / "import").exists()


def test_dates_the_wrong_way_round_are_refused(copy_road: SmallRoad, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        job.main(arguments(copy_road, DAY, "2026-01-30"))
    assert caught.value.code == 2
    assert "expected --from <= --to, came 2026-01-31 and 2026-01-30" in capsys.readouterr().err


def test_a_failed_date_gives_exit_status_1_and_the_reason(
    copy_road: SmallRoad, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*_: object) -> RoadResult:
        raise StageFailed("blend home of 2026-01-30 stopped\n  empty_sets: 3")

    monkeypatch.setattr(job, "_one", fail)
    assert job.main(arguments(copy_road, "2026-01-30", DAY)) == 1
    out = capsys.readouterr().out
    assert "2026-01-30  failed" in out
    assert "empty_sets: 3" in out
    assert "2026-01-31  there" in out
    assert "1 of 2 dates are there" in out


def test_an_interrupt_says_how_to_go_on(
    copy_road: SmallRoad, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(*_: object) -> RoadResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "_one", interrupt)
    assert job.main(arguments(copy_road, "2026-01-30", DAY)) == 130
    said = capsys.readouterr()
    assert "0 of 2 dates are there" in said.out
    assert "run the same command again" in said.err


@pytest.mark.slow
def test_an_earlier_date_is_made_and_not_released(
    copy_road: SmallRoad, store: Store, capsys: pytest.CaptureFixture
) -> None:
    live = store.read_bytes("live/home.json")
    assert job.main([*arguments(copy_road, "2026-01-30", DAY), "--surface", "home"]) == 0
    out = capsys.readouterr().out
    assert "2026-01-30  done" in out
    assert "archived: 2026-01-31 is live, which is newer" in out
    assert "2 of 2 dates are there" in out
    assert store.read_bytes("live/home.json") == live
    record = json.loads(store.read_bytes(record_path("2026-01-30")))
    assert record["run_mode"] == "backfill"
    assert store.exists(record["manifests"]["candidate_set/home"])
