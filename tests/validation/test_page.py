import dataclasses
import datetime
import html.parser

import polars as pl
import pytest

from schemas.catalogue import CONTRACTS
from schemas.contract import Contract
from schemas.inputs import EVENT, USER
from schemas.manifest import CheckResult, Manifest
from validation.page import render_page
from validation.rows import polars_schema
from validation.statistics import collect

VOID = {"meta", "br"}


class Tags(html.parser.HTMLParser):
    """Collects what a browser would load, and proves that every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "img", "iframe"), tag
        assert not {name for name, _ in attrs} & {"src", "href", "srcset", "onload"}
        if tag == "tr":
            self.cells.append([])
        if tag == "td":
            self.cells[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1][-1] += data


def manifest(contract: Contract, frame: pl.DataFrame, checks: tuple[CheckResult, ...] = (), **fields) -> Manifest:
    base = Manifest(
        dataset=contract.name, contract_version="1.0.0", fingerprint="f", stage="ingest", qualifier="", run="r1",
        date="2026-03-02", num_shards=1, code_version="c1", config={}, inputs=(), files=(), rejection_files=(),
        rows_in=frame.height, rows_out=frame.height, rejected={}, counters={},
        statistics=collect(frame, contract).to_json(), checks=checks,
    )  # fmt: skip
    return dataclasses.replace(base, **fields)


def events() -> pl.DataFrame:
    day = datetime.date(2026, 3, 1)
    rows = [
        {
            "event_id": f"secret-event-{n}", "user_id": f"secret-user-{n}", "session_id": f"secret-session-{n}",
            "item_id": f"secret-item-{n}", "context_uri": f"secret-uri-{n}", "query_hash": f"secret-query-{n}",
            "event_type": "play" if n else "skip", "market": "SE", "ms_played": 1000 * n, "label": 0.5,
            "is_organic": True, "event_ts": datetime.datetime(2026, 3, 1 + n % 2, tzinfo=datetime.UTC),
            "event_date": day + datetime.timedelta(days=n % 2),
        }
        for n in range(4)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=polars_schema(EVENT))


def check(name: str, outcome: str, severity: str = "critical", **fields) -> CheckResult:
    base = CheckResult(name, "statistics", severity, outcome, 0.98765, ">= 99.9 %", 10_000)
    return dataclasses.replace(base, **fields)


def test_the_page_shows_checks_failures_first_with_figures_and_thresholds():
    checks = (
        check("fine", "passed"),
        check("warned", "failed", "warning"),
        check("stopped", "failed", message="rows <are> missing"),
        check("blind", "broken", observed=None, of=None),
        check("signed", "waived"),
    )
    page = render_page(manifest(EVENT, events(), checks))
    rows = [row for row in Tags(page).cells if row and row[-1].endswith(", statistics")]
    assert [row[1].removesuffix("rows <are> missing") for row in rows] == [
        "stopped",
        "blind",
        "signed",
        "warned",
        "fine",
    ]
    assert rows[0] == [
        "✗ failed",
        "stoppedrows <are> missing",
        "0.98765 of 10,000",
        ">= 99.9 %",
        "critical, statistics",
    ]
    assert rows[1][2] == ""
    assert "rows &lt;are&gt; missing" in page
    assert "stopped: the data is bad" in page
    assert "1 of 5 checks passed" in page


@pytest.mark.parametrize(
    ("outcome", "words"),
    [("passed", "<strong>passed"), ("broken", "stopped: a check could not run"), ("waived", "<strong>passed")],
)
def test_the_verdict_is_spelled(outcome, words):
    assert words in render_page(manifest(EVENT, events(), (check("x", outcome),)))


def test_no_identifier_is_printed():
    page = render_page(manifest(EVENT, events()))
    assert "secret" not in page
    users = pl.DataFrame([{"user_id": "secret-user", "follows": ["secret-artist"]}], schema=polars_schema(USER))
    assert "secret" not in render_page(manifest(USER, users))


def test_columns_show_shares_ranges_means_and_values():
    cells = {row[0]: row for row in Tags(render_page(manifest(EVENT, events()))).cells if row}
    assert cells["ms_played"][1:4] == ["0.0%", "0 to 3,000", "1,500"]
    assert cells["label"][3] == "0.5"
    assert cells["event_ts"][2] == "2026-03-01 to 2026-03-02"
    assert cells["event_date"][2] == "2026-03-01 to 2026-03-02"
    assert cells["event_type"][-1] == "play 75.0%, skip 25.0%"
    assert cells["platform"][1] == "100.0%"
    assert "1,024 to 2,048: 1" in cells["ms_played"][4]


def test_days_and_rejections_are_shown():
    page = render_page(manifest(EVENT, events(), rejected={"market:max_length": 3, "event_id:conflict": 40}))
    assert "2026-03-01: 2 rows" in page
    rows = Tags(page).cells
    assert rows.index(["event_id:conflict", "40"]) < rows.index(["market:max_length", "3"])


def test_the_page_stands_alone_in_light_and_dark_and_on_a_narrow_screen():
    page = render_page(manifest(EVENT, events(), (check("x", "passed"),)))
    assert "prefers-color-scheme: dark" in page
    assert "max-width: 640px" in page
    assert "http" not in page
    assert "url(" not in page
    assert len(page) < 60_000


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=list(CONTRACTS))
def test_every_contract_has_a_page_even_without_rows(contract):
    page = render_page(manifest(contract, pl.DataFrame(schema=polars_schema(contract))))
    assert {row[0] for row in Tags(page).cells if row} == set(contract.schema.names)


def test_the_same_manifest_gives_the_same_page():
    assert render_page(manifest(EVENT, events())) == render_page(manifest(EVENT, events()[::-1]))
