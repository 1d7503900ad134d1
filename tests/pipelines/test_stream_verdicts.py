"""The checks of a minute where a Beam runner runs them: what the process beside the local driver says."""

import copy
import json

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that
from toy_stream import sets

from pipelines import stream_checks
from pipelines.stream_verdicts import AMONG, VerdictsOf
from schemas.candidates import CANDIDATE_SET
from schemas.stream import VERDICT
from transforms.stream.spool import packed, unpacked

NOON = 1_769_774_400.0


def broken() -> pa.Table:
    (one,) = sets("d").to_pylist()
    return pa.Table.from_pylist([one, copy.deepcopy(one) | {"market": "DE", "tier": ""}], CANDIDATE_SET.schema)


def verdicts_are(expected: dict[int, tuple], found) -> None:
    said = [json.loads(one.data) for one in found]
    assert all(one.keys() == set(VERDICT.schema.names) for one in said)
    assert {one["part"]: (one["outcome"], one["sets"], one["failed"]) for one in said} == expected
    assert len(said) == len(expected)
    assert {one["minute"] for one in said} == {"2026-01-30T12:00:00+00:00"}
    assert {one.attributes["outcome"] for one in found} == {outcome for outcome, _, _ in expected.values()}


def judged(tables: list[tuple[int, pa.Table]], expected: dict[int, tuple]) -> None:
    packs = [(group, packed(table)) for group, table in tables]
    with beam.Pipeline("FnApiRunner") as pipeline:
        made = pipeline | beam.Create(packs) | VerdictsOf("v", clock=lambda: NOON)
        assert_that(made, lambda found: verdicts_are(expected, found))


def test_each_group_gets_a_verdict_on_all_its_sets_with_repetitions_left_out():
    tables = [(0, sets("a", "b")), (AMONG, sets("b", "c")), (1, broken())]
    judged(tables, {0: ("passed", 3, []), 1: ("failed", 2, ["tier:required", "candidate_set_id:unique"])})


def test_checks_that_cannot_run_say_nothing_of_the_sets(monkeypatch):
    monkeypatch.setattr(stream_checks, "validate", lambda *_: 1 / 0)
    judged([(2, sets("a"))], {2: ("broken", 1, [])})


@pytest.mark.parametrize("users", [["a"], ["a", "b", "c"]])
def test_what_is_packed_is_unpacked(users):
    (batch,) = unpacked([packed(sets(*users))])
    assert pa.Table.from_batches([batch]).equals(sets(*users))
