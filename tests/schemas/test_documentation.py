"""The page of the contracts: complete, current, and safe to render."""

import pyarrow as pa
from toy_contracts import contract_of, every_type

from schemas.catalogue import CONTRACTS
from schemas.contract import column
from schemas.documentation import contracts_markdown
from schemas.release import check_page
from schemas.rules import Between, Required


def rows(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("| `")]


def test_a_row_says_everything_about_a_column():
    contract = contract_of(
        column(
            "id",
            pa.int64(),
            "What | it * is.",
            unit="ms",
            rules=(Required(), Between(0, 9)),
            derived_from=("event.a", "?event.b", "user.c"),
        )
    )
    assert rows(contracts_markdown([contract])) == [
        r"| `id` | int64 | no | ms | not null; 0 to 9 | What \| it \* is. | `event.a`, `user.c`; indirectly `event.b` |"
    ]


def test_nested_fields_have_rows_of_their_own():
    page = rows(contracts_markdown([every_type()]))
    assert [row.split("`")[1] for row in page[-6:]] == [
        "parts",
        "parts[].in",
        "parts[].note",
        "part",
        "part.in",
        "part.note",
    ]
    assert page[-5] == "| `parts[].in` | int32 | no | | | | |"


def test_every_contract_has_its_section_and_head():
    page = contracts_markdown()
    for contract in CONTRACTS.values():
        assert f"\n## {contract.name}\n" in page
        assert f"fingerprint `{contract.fingerprint}`, owner {contract.owner}." in page
        assert f"](#{contract.name})" in page
        assert all(f"\n| `{name}` |" in page for name in contract.schema.names)


def test_every_row_has_seven_cells():
    for row in rows(contracts_markdown()):
        assert row.replace(r"\|", "").count("|") == 8, row


def test_the_committed_page_is_current():
    assert check_page() == []


def test_a_stale_or_missing_page_is_reported(tmp_path):
    page = tmp_path / "docs" / "contracts.md"
    message = ["docs/contracts.md is not what the contracts generate: run `make contracts` and commit it"]
    assert check_page([every_type()], page) == message
    page.parent.mkdir()
    page.write_text(contracts_markdown([every_type()]))
    assert check_page([every_type()], page) == []
    assert check_page([every_type(description="Another text.")], page) == message
