"""How old what sets rest on is: by logical dates and lineage, so that no date becomes too old by being run again."""

import dataclasses
from types import SimpleNamespace

import pytest
from toy_manifests import manifest

from pipelines.rests import count_rests
from pipelines.runner import input_ref
from schemas.manifest import DataFile, Manifest
from validation.statistics import Statistics

DAY = "2026-03-31"


def made(dataset: str, *inputs: Manifest, date: str = DAY, content: str = "") -> Manifest:
    """Return the manifest of a dataset whose digest depends on `content` alone."""
    file = DataFile(f"data/{dataset}/date={date}/run=r/part-0.parquet", content or dataset, 1, 1, 0)
    refs = tuple(input_ref(one) for one in inputs)
    return manifest(dataset, Statistics(1, {}, {}), date=date, inputs=refs, files=(file,))


def models(catalogue: Manifest, indexed: bool = False, **dates: str) -> SimpleNamespace:
    items, users = (made(name, catalogue, date=dates.get(name, DAY)) for name in ("item_embedding", "user_embedding"))
    built = made("index", items, users, catalogue, date=dates.get("index", DAY)) if indexed else None
    return SimpleNamespace(items=items, users=users, index=built)


def counted(catalogue: Manifest, of: SimpleNamespace) -> tuple[int, int, int]:
    return tuple(count_rests(DAY, catalogue, of).values())  # type: ignore[arg-type]


@pytest.mark.parametrize("read_first", ["2026-03-31", "2026-03-01", "2026-04-09"])
def test_vectors_of_the_date_are_of_the_date_whenever_its_catalogue_was_first_read(read_first):
    """A catalogue that is delivered unchanged is read once, and so is one of a backfill that goes backwards."""
    catalogue = made("item", date=read_first)
    assert counted(catalogue, models(catalogue)) == (0, 0, 0)
    assert counted(catalogue, models(catalogue, indexed=True)) == (0, 1, 0)


@pytest.mark.parametrize("old", ["item_embedding", "user_embedding", "index"])
@pytest.mark.parametrize(("date", "hours"), [("2026-03-30", 24), ("2026-03-28", 72), ("2026-04-09", 0)])
def test_the_oldest_decides(old, date, hours):
    catalogue = made("item")
    assert counted(catalogue, models(catalogue, indexed=True, **{old: date})) == (hours, 1, 0)


def test_vectors_of_another_catalogue_are_as_old_as_that_one():
    """Vectors of the date itself, made from what was delivered three days before."""
    before, now = made("item", date="2026-03-28", content="old"), made("item", content="new")
    assert counted(now, models(before)) == (72, 0, 0)


def test_an_index_that_was_not_built_from_the_vectors_is_counted():
    catalogue = made("item")
    mine, others = models(catalogue, indexed=True), made("item_embedding", catalogue, content="other")
    mine.index = dataclasses.replace(mine.index, inputs=(input_ref(others),))
    assert counted(catalogue, mine) == (0, 1, 1)
    mine.index = dataclasses.replace(mine.index, inputs=())
    assert counted(catalogue, mine) == (0, 1, 1)
