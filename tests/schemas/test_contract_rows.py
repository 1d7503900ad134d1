import dataclasses

import pyarrow as pa
from toy_contracts import contract_of

from schemas.contract import column
from schemas.documentation import contracts_markdown

TOY = dataclasses.replace(
    contract_of(
        column("id", pa.string(), "Id.", derived_from=("event.user_id",)),
        column("n", pa.int64(), "Number.", derived_from=("event.label", "?event.market")),
        column("run", pa.string(), "Run."),
    ),
    rows_from=("event.market", "event.user_id"),
)


def test_what_decides_which_rows_there_are_touches_every_derived_column_indirectly():
    assert TOY.derivations() == {
        "id": ("event.user_id", "?event.market", "?event.user_id"),
        "n": ("event.label", "?event.market", "?event.user_id"),
        "run": (),
    }
    assert TOY.own_derivations() == {"id": ("event.user_id",), "n": ("event.label", "?event.market"), "run": ()}


def test_what_rows_depend_on_is_no_part_of_the_fingerprint():
    assert TOY.fingerprint == dataclasses.replace(TOY, rows_from=()).fingerprint


def test_the_page_says_it_once():
    page = contracts_markdown([TOY])
    assert page.count("Which rows there are depends on `event.market`, `event.user_id`.") == 1
    assert "| `event.label`; indirectly `event.market` |" in page
    assert "Which rows" not in contracts_markdown([dataclasses.replace(TOY, rows_from=())])
