"""The process beside the stream: a minute's verdict by Great Expectations, the page, and what it survives."""

import copy

import pyarrow as pa
import pytest
from toy_stream import sets

from pipelines import stream_checks
from pipelines.stream_checks import PAGE, TRIES, judge_minute, work
from pipelines.stream_validation import LEDGER
from schemas.candidates import CANDIDATE_SET
from schemas.stream import VERDICT
from transforms.io.store import LocalStore
from transforms.stream.spool import KEPT, READY, Spool, forget_tries, verdicts, waiting
from validation.set_rules import RULES


class Enough(BaseException):
    """There is nothing more to do."""


def enough() -> None:
    raise Enough


def spool(folder, *tables: pa.Table) -> str:
    spooled = Spool(folder)
    for table in tables:
        spooled.add(table, 1_769_774_400.0)
    spooled.close()
    return waiting(folder)[-1]


def test_a_minute_is_judged_by_the_suite_of_its_contract(tmp_path):
    folder, store = tmp_path / "checks", LocalStore(str(tmp_path))
    spool(folder, sets("a", "b"), sets("b", "c"))
    (twice,) = sets("d").to_pylist()
    other = copy.deepcopy(twice) | {"market": "DE", "tier": ""}
    bad = spool(folder, pa.Table.from_pylist([twice, other], CANDIDATE_SET.schema))
    with pytest.raises(Enough):
        work(folder, store, "v", enough)
    good, failed = verdicts(folder).values()
    assert good.keys() == set(VERDICT.schema.names)
    assert (good["outcome"], good["sets"], good["failed"], good["bundles"]) == ("passed", 3, [], ["b1"])
    assert good["checks"] > len(CANDIDATE_SET.schema.names) + len(RULES)
    assert (failed["outcome"], failed["severity"], failed["part"]) == ("failed", "critical", 1)
    assert failed["failed"] == ["tier:required", "candidate_set_id:unique"]
    assert [path.stem for path in (folder / KEPT).iterdir()] == [bad]
    assert not list(folder.glob("*.tries"))
    assert "No set was published yet" in store.read_bytes(PAGE).decode()


def test_the_page_follows_the_ledger(tmp_path, monkeypatch):
    store, folder = LocalStore(str(tmp_path)), tmp_path / "checks"
    spool(folder, sets("a"))
    monkeypatch.setattr(stream_checks, "validate", lambda *_: [])
    with pytest.raises(Enough):
        work(folder, store, "v", enough)
    (one,) = (path.read_bytes() for path in folder.glob("*.json"))
    (folder / LEDGER).write_bytes(one + b"\n")
    with pytest.raises(Enough):
        work(folder, store, "v", enough)
    assert "1 minute" in store.read_bytes(PAGE).decode()


def test_checks_that_cannot_run_are_broken_and_the_sets_are_kept(tmp_path, monkeypatch):
    name = spool(tmp_path, sets("a"))
    monkeypatch.setattr(stream_checks, "validate", lambda *_: 1 / 0)
    found = judge_minute(tmp_path, name, "v")
    assert (found["outcome"], found["sets"], found["severity"]) == ("broken", 1, "critical")
    assert "ZeroDivisionError" in found["detail"]


def test_a_minute_that_ends_the_process_is_broken_after_three_tries(tmp_path, monkeypatch):
    name = spool(tmp_path, sets("a"))

    def dies(*_) -> None:
        raise Enough

    monkeypatch.setattr(stream_checks, "validate", dies)
    for _ in range(TRIES):
        with pytest.raises(Enough):
            judge_minute(tmp_path, name, "v")
    assert judge_minute(tmp_path, name, "v")["detail"] == "the checks ended 3 times at it"
    forget_tries(tmp_path)
    with pytest.raises(Enough):
        judge_minute(tmp_path, name, "v")


def test_a_minute_that_was_cut_off_is_judged_as_far_as_it_goes_and_says_so(tmp_path, monkeypatch):
    name = spool(tmp_path, sets("a"), sets("b"))
    path = tmp_path / f"{name}{READY}"
    path.write_bytes(path.read_bytes()[:-150])
    monkeypatch.setattr(stream_checks, "validate", lambda *_: [])
    found = judge_minute(tmp_path, name, "v")
    assert (found["outcome"], found["sets"]) == ("passed", 1)
    assert found["detail"].startswith("cut off after 1 sets")
