"""Every rule of sets, broken and kept, by polars and by DuckDB."""

import copy
import datetime
import json

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from toy_stream import BEGIN, ToyStep

from schemas.candidates import CANDIDATE_SET
from validation.rows import split_rows
from validation.set_rules import RULES, set_rules, sql_set_rules


@pytest.fixture(scope="module")
def good() -> dict:
    told = {f"e{n}": [int(BEGIN.timestamp() * 1e6) + n, f"i{n}"] for n in range(3)}
    (found,) = ToyStep().sets({"u1": json.dumps(told).encode()}).to_pylist()
    return found


def same(candidates: list[dict], name: str) -> None:
    candidates[1][name] = candidates[0][name]


BREAKS = {
    "candidates:not_empty": lambda one: (one["candidates"].clear(), one["counts"].update(out=0)),
    "candidates:items_once": lambda one: same(one["candidates"], "item_id"),
    "candidates:recordings_once": lambda one: same(one["candidates"], "canonical_id"),
    "candidates:in_order": lambda one: one["candidates"][2].update(position=3),
    "candidates:propensity": lambda one: one["candidates"][0].update(propensity=0.0),
    "counts:out": lambda one: one["counts"].update(out=7),
    "expires_at:after:effective_from": lambda one: one.update(
        expires_at=one["effective_from"] - datetime.timedelta(seconds=1)
    ),
}


def by_sql(table: pa.Table) -> list[list[str]]:
    connection = duckdb.connect()
    connection.register("sets", table)
    flags = ", ".join(broken for _, broken in sql_set_rules())
    rows = connection.execute(f"SELECT {flags} FROM sets").fetchall()
    return [[name for (name, _), flag in zip(sql_set_rules(), row, strict=True) if flag] for row in rows]


@pytest.mark.parametrize("rule", [name for name, _, _ in RULES])
def test_a_rule_is_broken_alone_and_both_say_so(good, rule):
    bad = copy.deepcopy(good)
    BREAKS[rule](bad)
    table = pa.Table.from_pylist([good, bad], CANDIDATE_SET.schema)
    kept, broken = split_rows(pl.DataFrame(pl.from_arrow(table)), CANDIDATE_SET, set_rules())
    assert kept.height == 1
    assert broken["rule"].to_list() == [rule]
    assert by_sql(table) == [[], [rule]]


@pytest.mark.parametrize("propensity", [1.5, float("nan")])
def test_a_chance_is_above_nought_and_at_most_one(good, propensity):
    bad = copy.deepcopy(good)
    bad["candidates"][1]["propensity"] = propensity
    table = pa.Table.from_pylist([bad], CANDIDATE_SET.schema)
    _, broken = split_rows(pl.DataFrame(pl.from_arrow(table)), CANDIDATE_SET, set_rules())
    assert broken["rule"].to_list() == ["candidates:propensity"]
    assert by_sql(table) == [["candidates:propensity"]]
