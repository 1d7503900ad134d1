"""Which set serves, and what is listed where a seed's set for elsewhere is served beside a chart."""

from pathlib import Path

import polars as pl
import pytest
from toy_sets import write_sets

from transforms.serving import lists_of, read_charts, served_from

UNITS = pl.DataFrame(
    {
        "unit": [0, 1, 2],
        "own": ["a|SE", "a|NO", "b|SE"],
        "anywhere": ["a|*", "a|*", "b|*"],
        "chart": ["*|SE|*", "*|NO|*", "*|SE|*"],
    }
)


def listed(own: str, chart: str | None) -> list[tuple]:
    """Return the places of a list, a letter each."""
    sets = pl.DataFrame({
        "record": ["r"], "beside": ["c" if chart is not None else None], "candidates": [[{"canonical_id": one} for one in own]]
    }, schema_overrides={"beside": pl.String})  # fmt: skip
    charts = pl.DataFrame({"beside": ["c"], "chart": [[{"canonical_id": one} for one in chart or "z"]]})
    return lists_of(sets, charts).select("record", "canonical_id", "position").rows()


def test_the_first_of_ones_own_sets_that_is_there_serves_else_the_chart():
    served = served_from(UNITS, ["own", "anywhere"], pl.Series(["a|SE", "a|*"]))
    assert served.filter(ranking="sets")["record"].to_list() == ["a|SE", "a|*", "*|SE|*"]
    assert served.filter(ranking="fallback")["record"].to_list() == UNITS["chart"].to_list()
    assert served["beside"].is_null().all()


def test_only_the_set_for_elsewhere_is_served_beside_the_chart():
    served = served_from(UNITS, ["own", "anywhere"], pl.Series(["a|SE", "a|*"]), "anywhere")
    assert served.filter(ranking="sets")["beside"].to_list() == [None, "*|NO|*", None]
    assert served.filter(ranking="fallback")["beside"].is_null().all()


@pytest.mark.parametrize(
    ("own", "chart", "expected"),
    [("abc", None, "abc"), ("abc", "dbe", "abcde"), ("abc", "", "abcz"), ("a" * 3, "a", "a")],
    ids=["no chart", "what is there already is named once", "another chart", "one recording"],
)
def test_a_chart_follows_a_short_set(own, chart, expected):
    assert listed(own, chart) == [("r", one, place) for place, one in enumerate(expected)]


def test_a_chart_has_the_last_places_of_a_full_set():
    own, chart = [chr(0x4E00 + n) for n in range(100)], [chr(0x6000 + n) for n in range(35)]
    places = [one for _, one, _ in listed("".join(own), "".join([own[3], own[90], *chart]))]
    assert places == [*own[:80], own[90], *chart[:18]]


def test_charts_are_read_by_name(tmp_path: Path):
    path = write_sets(tmp_path / "groups.parquet", {"*": [("a", ["np.chart"]), ("b", ["np.chart"])]})
    columns = ["market", "tier", "candidates.list.element.item_id"]
    found = read_charts([path], pl.Series(["*|SE|free"]), columns)
    assert [one["item_id"] for one in found["chart"].to_list()[0]] == ["a", "b"]
    assert read_charts([path], pl.Series(["*|NO|free"]), columns).is_empty()
