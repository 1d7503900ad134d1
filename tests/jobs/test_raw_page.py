import json
import re

import pytest

from jobs.raw_page import PAGE, fill_tables, main
from schemas.inputs import EVENT
from transforms.decode import decode_lines
from transforms.ingest import check_rows


def test_the_committed_page_is_current():
    assert main(["--check"]) == 0


def test_every_given_column_is_in_its_table():
    table = fill_tables("<!-- columns of event -->\n\n<!-- end -->")
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == EVENT.given_columns()


def test_what_ingest_fills_in_may_be_missing():
    table = fill_tables("<!-- columns of event -->\n\n<!-- end -->")
    assert re.search(r"^\| `event_id` \| string \| yes \|", table, re.MULTILINE)
    assert re.search(r"^\| `session_id` \| string \| \|", table, re.MULTILINE)


def test_fields_of_records_are_listed():
    assert "| `artists[].artist_id` | string | yes |" in fill_tables("<!-- columns of item -->\n\n<!-- end -->")


def test_unknown_contract_is_named():
    with pytest.raises(ValueError, match="asks for the columns of tracks; contracts are event, item"):
        fill_tables("<!-- columns of tracks -->\n\n<!-- end -->")


def test_a_page_out_of_date_is_named_then_written(tmp_path, capsys):
    page = tmp_path / "raw.md"
    page.write_text("before\n<!-- columns of user -->\nold\n<!-- end -->\nafter\n")
    assert main(["--check"], page) == 1
    assert "raw.md is not what the contracts generate: run `make contracts`" in capsys.readouterr().err
    assert main([], page) == 0
    assert main(["--check"], page) == 0
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nafter\n")


def test_the_example_on_the_page_is_accepted():
    (example,) = re.findall(r"```jsonl\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = example.strip().splitlines()
    assert len(lines) == 5
    assert all(json.loads(line) for line in lines)
    checked = check_rows(decode_lines([line.encode() for line in lines], EVENT), EVENT, "example", "test")
    assert (checked.rows.height, checked.rejected.height) == (5, 0)
