import datetime
import json
import math

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.catalogue import CONTRACTS
from schemas.contract import TIMESTAMP, Contract, column
from schemas.inputs import EVENT
from schemas.rules import OneOf
from validation.rows import polars_schema
from validation.statistics import KEEP_DAYS, MAX_BINS, MAX_VALUES, Statistics, categories, collect, merge, psi

WIDE = Contract(
    "wide", "1.0.0", "tests", "One column of each kind.", ("id",), None,
    pa.schema([
        column("id", pa.string(), "I."),
        column("event_date", pa.date32(), "D.", nullable=True),
        column("event_type", pa.string(), "K.", nullable=True, rules=(OneOf(("play", "skip")),)),
        column("is_organic", pa.bool_(), "O.", nullable=True),
        column("ms_played", pa.int64(), "M.", nullable=True, unit="ms"),
        column("score", pa.float32(), "S.", nullable=True),
        column("seen", TIMESTAMP, "T.", nullable=True),
        column("tags", pa.list_(pa.string()), "G.", nullable=True),
        column("parts", pa.list_(pa.struct([pa.field("a", pa.int32())])), "P.", nullable=True),
    ]),
)  # fmt: skip
UTC = datetime.UTC
DAY = datetime.date(2026, 3, 1)


def frame(rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=polars_schema(WIDE))


def optional(strategy):
    return st.none() | strategy


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from("abc"),
            "event_date": optional(st.dates(datetime.date(2025, 1, 1), datetime.date(2026, 1, 1))),
            "event_type": optional(st.sampled_from(["play", "skip"])),
            "is_organic": optional(st.booleans()),
            "ms_played": optional(st.integers(-(2**63), 2**63 - 1)),
            "score": optional(st.floats(width=32)),
            "seen": optional(
                st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1), timezones=st.just(UTC))
            ),
            "tags": optional(st.lists(st.just("t"), max_size=5)),
            "parts": optional(st.lists(st.just({"a": 1}), max_size=3)),
        }
    ),
    max_size=12,
)


def text(statistics: Statistics) -> str:
    return json.dumps(statistics.to_json(), sort_keys=True)


@settings(max_examples=40, deadline=None)
@given(ROWS, ROWS, ROWS)
def test_merging_is_commutative_associative_and_equal_to_one_pass(a, b, c):
    x, y, z = (collect(frame(rows), WIDE) for rows in (a, b, c))
    assert text(merge(x, y)) == text(merge(y, x))
    assert text(merge(merge(x, y), z)) == text(merge(x, merge(y, z)))
    assert text(Statistics.merged([x, y, z])) == text(collect(frame(a + b + c), WIDE))


@settings(max_examples=20, deadline=None)
@given(ROWS)
def test_json_round_trip(rows):
    statistics = collect(frame(rows), WIDE)
    assert Statistics.from_json(json.loads(text(statistics))) == statistics


def test_merging_stays_exact_where_bounds_are_hit():
    days = [datetime.date(2000, 1, 1) + datetime.timedelta(days=3 * n) for n in range(2 * MAX_BINS)]
    rows = [
        {"id": "i", "event_date": day, "seen": datetime.datetime.combine(day, datetime.time(), UTC)} for day in days
    ]
    whole, parts = collect(frame(rows), WIDE), [collect(frame(rows[n::7]), WIDE) for n in range(7)]
    assert text(Statistics.merged(parts)) == text(Statistics.merged(parts[::-1])) == text(whole)
    assert whole.columns["seen"].level == 1
    assert sum(whole.columns["seen"].bins.values()) == len(days)
    assert list(whole.days) == [day.isoformat() for day in days[-KEEP_DAYS:]]


def test_too_many_values_are_no_value_counts_in_any_order():
    rule = OneOf(("x",))
    contract = Contract(
        "c", "1.0.0", "t", "C.", ("k",), None, pa.schema([column("k", pa.string(), "K.", rules=(rule,))])
    )
    values = [f"v{n}" for n in range(MAX_VALUES + 1)]
    parts = [collect(pl.DataFrame({"k": values[n::3]}), contract) for n in range(3)]
    assert parts[0].columns["k"].values is not None
    assert Statistics.merged(parts) == Statistics.merged(parts[::-1]) == collect(pl.DataFrame({"k": values}), contract)
    assert Statistics.merged(parts).columns["k"].values is None
    enough = collect(pl.DataFrame({"k": values[1:]}), contract).columns["k"].values
    assert enough == dict.fromkeys(sorted(values[1:]), 1)


def test_figures_of_a_small_frame():
    rows = [
        {
            "id": "a",
            "event_date": DAY,
            "event_type": "play",
            "is_organic": True,
            "ms_played": 5,
            "score": 0.5,
            "tags": ["t"],
        },
        {"id": "b", "event_date": DAY, "event_type": "play", "is_organic": False, "ms_played": -1, "score": math.nan},
        {
            "id": "c",
            "event_date": DAY,
            "event_type": "skip",
            "ms_played": 0,
            "score": -0.25,
            "tags": [],
            "parts": [{}] * 3,
        },
        {"id": "d", "event_date": DAY + datetime.timedelta(days=1), "seen": datetime.datetime(1970, 1, 3, tzinfo=UTC)},
    ]
    statistics = collect(frame(rows), WIDE)
    columns = statistics.columns
    assert statistics.rows == 4
    assert columns["event_type"].values == {"play": 2, "skip": 1}
    assert columns["is_organic"].values == {"false": 1, "true": 1}
    played = columns["ms_played"]
    assert (played.nulls, played.total, played.low, played.high) == (1, 4, -1, 5)
    assert played.bins == {3: 1, -1: 1, 0: 1}
    score = columns["score"]
    assert (score.nulls, score.not_finite, score.total, score.low, score.high) == (1, 1, 2**18, -0.25, 0.5)
    assert score.bins == {20: 1, -19: 1}
    assert (columns["tags"].nulls, columns["tags"].total, columns["tags"].high) == (2, 1, 1)
    assert (columns["parts"].nulls, columns["parts"].total) == (3, 3)
    assert columns["seen"].bins == {2: 1}
    first = statistics.days["2026-03-01"]
    assert (first.rows, first.totals) == (3, {"ms_played": 4})
    assert first.values == {"event_type": {"play": 2, "skip": 1}, "is_organic": {"false": 1, "true": 1}}
    assert first.present["tags"] == 2
    assert statistics.days["2026-03-02"].present == {
        "event_date": 1, "event_type": 0, "is_organic": 0, "ms_played": 0, "score": 0, "seen": 1, "tags": 0, "parts": 0,
    }  # fmt: skip


def test_large_sums_do_not_overflow():
    rows = [{"id": "a", "ms_played": 2**63 - 1}] * 3
    assert collect(frame(rows), WIDE).columns["ms_played"].total == 3 * (2**63 - 1)


def test_identifiers_are_never_counted_by_value():
    for contract in CONTRACTS.values():
        named = categories(contract)
        assert not {name for name in named if name.endswith(("_id", "_ids", "_key", "_hash", "_uri"))} - {"source_id"}
        assert not named & {"key", "id", "payload", "title", "detail", "other_item_id"}
    assert {"event_type", "device_type", "market", "app_version"} <= categories(EVENT)


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=list(CONTRACTS))
def test_every_contract_has_statistics_of_no_rows(contract):
    empty = pl.DataFrame(schema=polars_schema(contract))
    statistics = collect(empty, contract)
    assert list(statistics.columns) == contract.schema.names
    assert Statistics.merged([statistics, statistics]) == statistics
    assert Statistics.merged([]).rows == 0


def test_other_json_is_refused():
    with pytest.raises(
        ValueError, match=r"not statistics this code can read \(KeyError.*run the stage that wrote them again"
    ):
        Statistics.from_json({"rows": 1})


def test_psi_of_known_shares():
    # shares 0.2, 0.8 against 0.5, 0.5: -0.3 ln 0.4 + 0.3 ln 1.6; half a row in a million does not show
    expected = -0.3 * math.log(0.4) + 0.3 * math.log(1.6)
    assert psi({"a": 200_000, "b": 800_000}, {"a": 500_000, "b": 500_000}) == pytest.approx(expected, abs=1e-5)


def test_psi_is_zero_for_equal_shares_symmetric_and_finite():
    assert psi({"a": 10, "b": 30}, {"a": 10, "b": 30}) == 0.0
    left, right = {"a": 100}, {"a": 50, "b": 50}
    assert psi(left, right) == pytest.approx(psi(right, left))
    assert 1 < psi(left, right) < 10
    assert psi({}, right) == 0.0
