"""What share of a set stayed since the day before, of listeners chosen by hash."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_road import table

from schemas.catalogue import CONTRACTS
from transforms import overlap
from transforms.io.tables import conform
from transforms.overlap import kept_shares


def written(path: Path, held: dict[str, list[str]]) -> str:
    """Write sets by key to a file with the columns of the contract that are read."""
    element = pl.Struct({"item_id": pl.String, "position": pl.Int32})
    candidates = [[{"item_id": one, "position": n} for n, one in enumerate(items)] for items in held.values()]
    frame = pl.DataFrame({"record_key": list(held), "candidates": pl.Series(candidates, dtype=pl.List(element))})
    frame.write_parquet(path, use_pyarrow=True)
    return str(path)


@pytest.fixture
def pair(tmp_path):
    def write(now: dict[str, list[str]], before: dict[str, list[str]], name: str = "") -> tuple[str, str]:
        return written(tmp_path / f"now{name}", now), written(tmp_path / f"before{name}", before)

    return write


def test_a_share_is_of_the_set_of_the_date_and_the_order_does_not_matter(pair):
    now = {"a": ["x", "y", "z", "w"], "b": ["x"], "c": ["x", "y"], "new": ["x"]}
    before = {"a": ["z", "v", "x"], "b": ["x", "y"], "c": ["v"], "old": ["x"]}
    assert kept_shares([pair(now, before)]).tolist() == [0.5, 1.0, 0.0]


def test_sets_are_read_a_few_at_a_time_and_no_more_files_than_are_needed(pair, monkeypatch):
    monkeypatch.setattr(overlap, "SETS_AT_ONCE", 2)
    held = {f"u{n}": [f"i{n}", "x"] for n in range(5)}
    files = [pair(held, held, "1"), pair({f"v{n}": ["x"] for n in range(5)}, {f"v{n}": ["y"] for n in range(5)}, "2")]
    assert kept_shares([files[0], ("not there", "not there")], most=5).tolist() == [1.0] * 5
    assert sorted(kept_shares(files, most=8).tolist()) == [0.0] * 3 + [1.0] * 5


def test_who_is_looked_at_does_not_depend_on_who_comes_first(pair):
    now, before = ({f"u{n}": [f"{n}", day] for n in range(50)} for day in ("today", "yesterday"))
    other = {key: now[key] for key in reversed(now)} | {"zz": ["x"]}
    first, again = (kept_shares([pair(one, before, str(n))], most=10) for n, one in enumerate((now, other)))
    assert len(first) == 10
    assert first.tolist() == again.tolist()


def test_nobody_has_both(pair):
    assert kept_shares([pair({"a": ["x"]}, {"b": ["x"]})]).shape == (0,)
    assert kept_shares([]).dtype == np.float64


def test_the_columns_are_those_of_the_contract():
    nothing = conform(table("candidate_set", []), CONTRACTS["candidate_set"])
    assert {"record_key", "candidates"} <= set(nothing.column_names)
    assert "item_id" in [field.name for field in nothing.schema.field("candidates").type.value_type]
