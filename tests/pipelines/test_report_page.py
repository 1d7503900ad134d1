"""What the page shows: every figure once, all text escaped, nothing fetched from anywhere."""

import dataclasses
import html.parser
import re

import pytest
from report_root import ANN, BOB, DAY, KID, TALKER, home_root

from jobs.report import main, write_report
from pipelines import report_words as words
from pipelines.charts import Node, bar, bullet, flow, layered, lorenz, reduced, stacked
from pipelines.report import gather
from pipelines.report_html import count, seconds, share, size, table, text
from pipelines.report_page import render, render_dates, road_graph
from pipelines.report_surface import source_colours
from schemas.manifest import CheckResult

_VOID = {"meta", "br", "rect", "path", "line", "polyline", "polygon"}


class Page(html.parser.HTMLParser):
    """Reads a page and remembers elements, ids, references and whether every element was closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.words = [], [], [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "src", "xlink:href", "action", "data") if name in given]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return gather(home_root(tmp_path_factory.mktemp("root")), DAY)


@pytest.fixture(scope="module")
def content(report) -> str:
    return render(report)


@pytest.fixture(scope="module")
def page(content) -> Page:
    return Page(content)


def words_of(page: Page) -> str:
    return re.sub(r"\s+", " ", " ".join(page.words))


def test_the_page_is_one_well_formed_document(page):
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_nothing_is_fetched_from_anywhere(page, content):
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed"} == set()
    assert [link for link in page.links if not link.startswith("#")] == []
    assert "http" not in content
    assert "url(" not in content
    assert "@import" not in content


def test_every_link_leads_somewhere(page):
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_titles_are_escaped(page, content):
    assert "<script" not in content
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; Sons" in content
    assert "<b>bold" not in content
    assert "too <many> [waived by me]" in words_of(page)


def test_no_user_id_is_shown_whole(content):
    assert not [user for user in (ANN, BOB, KID, TALKER) if user in content]
    assert "User ann-00…" in content


def test_the_road_shows_rows_time_memory_and_rejections(page):
    said = words_of(page)
    assert "Home is live: 5 candidate sets." in said
    assert "1 waiver to look at" in said
    assert "5 rows rejected" in said
    assert said.count("1.2 s 3 MB") == 5
    assert "6.2 s 5 of 5 stages ran" in said


def test_a_skipped_stage_says_so_and_costs_nothing(report):
    stages = tuple(dataclasses.replace(stage, skipped=True) for stage in report.stages)
    said = words_of(Page(render(dataclasses.replace(report, stages=stages))))
    assert "unchanged" in said
    assert "0 of 5 stages ran" in said
    assert "3 MB" not in said


def test_failed_checks_come_before_waived_ones_and_all_before_the_tables(report):
    warning = CheckResult("psi", "statistics", "warning", "failed", 0.2, "W > 0.1", 10, "it moved")
    first, *rest = report.stages
    manifest = dataclasses.replace(first.manifest, checks=(*first.manifest.checks, warning))
    stages = (dataclasses.replace(first, manifest=manifest), *rest)
    said = words_of(Page(render(dataclasses.replace(report, stages=stages))))
    assert said.index("it moved") < said.index("too <many>") < said.index("Every check by stage")
    assert "1 warning and 1 waiver" in said
    assert "0.2, n = 10 against W > 0.1" in said


def test_all_checks_passed_is_said(report):
    calm = [
        dataclasses.replace(stage, manifest=dataclasses.replace(stage.manifest, checks=())) for stage in report.stages
    ]
    assert "Every check passed." in words_of(Page(render(dataclasses.replace(report, stages=tuple(calm)))))


def test_sources_stand_against_their_targets(page):
    said = words_of(page)
    assert re.search(r"Listened together home\.co_listen 0\.6 1, 2, 4 37\.5", said)
    assert re.search(r"Popular in market home\.popular_market 1\.0 0, 1, 4 62\.5", said)


def test_removals_are_split_into_what_may_not_and_what_need_not_be_there(page):
    said = words_of(page)
    assert re.search(r"Not allowed Proposals.*not available in the market market 4.*Allowed, but not needed", said)
    assert re.search(r"Allowed, but not needed Proposals.*over its source's quota quota 12", said)


def test_coverage_and_concentration_are_said(page):
    said = words_of(page)
    assert "4 items are in at least one set, 57.1 % of 7 eligible ones." in said
    assert "Gini 0.375 over these items" in said
    assert "hold 100.0 % of the 3 slots" in said


def test_reasons_name_the_seed_and_the_market(page):
    said = words_of(page)
    assert "goes with First Song" in said
    assert "popular in SE" in said


def test_lineage_leads_from_what_is_live_to_raw_files(content, page):
    datasets = re.findall(r'id="data-\d+"><th scope="row"><span title="data/(\w+)/', content)
    assert datasets == ["exposure", "candidate_set", "history", "event", "item"]
    said = words_of(page)
    lineage = said[said.index("From what was published back") :]
    assert "Home live 5 Candidate sets Home" in lineage
    assert lineage.index("Raw files") < lineage.index("/raw/events/a.jsonl eventeventev")


def test_many_raw_files_are_cut_short(report):
    stage = report.stages[1]
    (one,) = stage.manifest.inputs
    many = tuple(dataclasses.replace(one, path=f"/raw/{i}") for i in range(503))
    stages = list(report.stages)
    stages[1] = dataclasses.replace(stage, manifest=dataclasses.replace(stage.manifest, inputs=many))
    said = words_of(Page(render(dataclasses.replace(report, stages=tuple(stages)))))
    assert "/raw/499" in said
    assert "/raw/500" not in said
    assert "and 3 files more" in said


def test_charts_and_tables_speak(page):
    pictures = [given for tag, given in page.tags if tag == "svg"]
    assert [bool(given.get("aria-label")) and given["role"] == "img" for given in pictures] == [True] * len(pictures)
    tables = [tag for tag, _ in page.tags].count("table")
    assert [tag for tag, _ in page.tags].count("caption") == tables
    assert all(given.get("scope") in ("col", "row") for tag, given in page.tags if tag == "th")


def test_a_surface_without_exposure_or_examples_still_has_a_page(tmp_path):
    report = gather(home_root(tmp_path, exposure=False), DAY)
    bare = dataclasses.replace(report.surfaces[0], examples=(), released="")
    said = words_of(Page(render(dataclasses.replace(report, surfaces=(bare,)))))
    assert "Coverage and concentration" not in said
    assert "to judge by name" not in said
    assert "Home is not published" in said


def test_a_report_without_surfaces_has_a_page(report):
    assert "The road" in words_of(Page(render(dataclasses.replace(report, surfaces=()))))


def test_the_same_report_gives_the_same_bytes(report, content):
    assert render(report) == content


def test_write_report_writes_the_page_and_the_list_of_dates(tmp_path, capsys):
    store = home_root(tmp_path)
    store.write_bytes("reports/2026-01-30/index.html", b"")
    assert main(["--root", str(tmp_path), "--date", DAY]) == 0
    place = capsys.readouterr().out.strip()
    assert place == f"{store.root}/reports/{DAY}/index.html" == write_report(store, DAY)
    assert store.read_bytes(f"reports/{DAY}/index.html").startswith(b"<!doctype html>")
    listed = Page(store.read_bytes("reports/index.html").decode())
    assert listed.links == ["2026-01-31/index.html", "2026-01-30/index.html"]


def test_the_command_says_what_is_missing(tmp_path, capsys):
    assert main(["--root", str(tmp_path), "--date", DAY]) == 1
    assert "report: no finished run of 2026-01-31" in capsys.readouterr().err


def test_dates_are_listed_latest_first():
    assert Page(render_dates(["2026-01-30", "2026-01-31"])).links == ["2026-01-31/index.html", "2026-01-30/index.html"]
    stream, day = Page(render_dates(["2026-01-30", "stream"])).links
    assert (stream, day) == ("stream/index.html", "2026-01-30/index.html")


def test_each_source_has_one_colour_and_a_fallback_is_grey(report):
    (home,) = report.surfaces
    other = dataclasses.replace(
        home, policy={**home.policy, "flow": ["np.x", "np.y"], "fallback": "np.y"}, slots={"np.new": 1}
    )
    assert source_colours((home, other)) == {
        "home.co_listen": "c0", "home.popular_market": "grey", "np.x": "c1", "np.y": "grey", "np.new": "c2",
    }  # fmt: skip


def test_the_flow_picture_holds_raw_files_stages_and_what_is_live(report):
    nodes, edges = road_graph(report)
    assert [node.title for node in nodes if node.tone == "raw"] == ["Catalogue", "Events"]
    assert [(node.title, node.note) for node in nodes if node.tone == "live"] == [("Home", "live")]
    exposure, sets = (stage.manifest.path for stage in reversed(report.stages[-2:]))
    assert (exposure, "live/home", 5) in edges
    assert (sets, exposure, 5) in edges


def test_an_edge_that_a_longer_way_implies_is_left_out():
    edges = [("a", "b", 1), ("b", "c", 1), ("a", "c", 9), ("x", "c", 1)]
    assert reduced(edges) == [("a", "b", 1), ("b", "c", 1), ("x", "c", 1)]


def test_columns_follow_the_last_input_and_starts_stand_before_their_use():
    assert layered(["a", "b", "c", "x"], [("a", "b", 1), ("b", "c", 1), ("x", "c", 1)]) == [["a"], ["b", "x"], ["c"]]
    assert layered([], []) == []


def test_a_thicker_line_carries_more_rows_and_long_texts_are_squeezed():
    nodes = [Node(name, "", title, "", "", "ran") for name, title in (("a", "A"), ("b", "B"), ("c", "long " * 40))]
    drawn = flow(nodes, [("a", "b", 10), ("a", "c", 1_000_000)], "x < y")
    thin, thick = (float(width) for width in re.findall(r'stroke-width="([\d.]+)"', drawn))
    assert thin < thick
    assert drawn.count("textLength") == 1
    assert 'aria-label="x &lt; y"' in drawn


def test_bars_stay_within_their_place():
    assert 'width:50.00%"' in bar(0.5)
    assert 'width:100.00%"' in bar(7)
    assert "left:25.00%;width:75.00%" in bullet(1, 1, 2, 9, 4, "c0")
    assert "<b" not in bullet(1, 0, 0, 4, 4, "c0")
    assert stacked([("a", 1, "c0"), ("b", 3, "c1"), ("none", 0, "c2")]).count("<i") == 2
    assert "b 75.0%" in stacked([("a", 1, "c0"), ("b", 3, "c1")])
    assert stacked([]).count("<i") == 0


def test_the_lorenz_curve_starts_and_ends_in_the_corners():
    drawn = lorenz([(0.0, 0.0), (0.5, 0.1), (1.0, 1.0)], "curve")
    points = re.search(r'class="curve" points="([^"]+)"', drawn)[1].split()
    assert (points[0], points[-1]) == ("34.0,206.0", "232.0,8.0")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (count(1, "set"), "1 set"), (count(5021, "set"), "5,021 sets"), (share(1, 3), "33.3\u202f%"),
        (share(1, 700), "0.14\u202f%"), (share(0, 0), "0.0\u202f%"), (seconds(99.94), "99.9\u202fs"),
        (seconds(150), "2.5\u202fmin"), (size(2048), "2\u202fKB"), (size(3 * 2**20), "3\u202fMB"),
        (size(1.5 * 2**30), "1.5\u202fGB"), (text("<a b='c'>"), "&lt;a b=&#x27;c&#x27;&gt;"),
        (words.released("archived: newer is live"), "kept, not live (newer is live)"),
        (words.reason("popular_in_market", "*"), "popular everywhere"), (words.reason("a_reason", "SE"), "a reason"),
        (words.dataset("raw_tombstone"), "Raw takedowns"), (words.source("home.for_you"), "For you"),
        (words.surface("search_page"), "Search page"), (words.level(7, by_user=True), "level 7"),
        (words.level(0, by_user=False), "from its own listeners"), (words.rule("cap:mood"), "cap:mood"),
    ],
)  # fmt: skip
def test_words(said, expected):
    assert said == expected


def test_a_table_row_is_headed_and_labelled():
    made = table(("Name", "Rows #", ""), [["<b>x</b>", "1", "bar"]], "What <it> is", ids=["row-1"])
    assert '<tr id="row-1"><th scope="row"><b>x</b></th><td class="num" data-h="Rows">1</td><td>bar</td></tr>' in made
    assert "What &lt;it&gt; is" in made
