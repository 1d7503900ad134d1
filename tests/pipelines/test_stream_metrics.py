import io
import re
import threading
import urllib.error
import urllib.request

import pytest

from pipelines.stream_metrics import CONTENT_TYPE, COUNTERS, GAUGES, Metrics
from pipelines.stream_views import Terminal, serve_metrics

_SAMPLE = re.compile(r'^[a-z_]+(\{[a-z_]+="(\\.|[^"\\])*"(,[a-z_]+="(\\.|[^"\\])*")*\})? -?[0-9.e+-]+$')


@pytest.fixture
def metrics() -> Metrics:
    found = Metrics()
    found.bundle = "b1"
    found.count("messages", by=3)
    found.count("outcomes", "applied", by=2)
    found.count("outcomes", "conflict")
    found.count("sets", "b1", by=2)
    found.count("dead_letters", "merge", "conflict")
    found.set("owed", 4)
    found.set("broker_up", 1)
    found.observe([0.1, 0.2, 0.3])
    return found


def test_the_text_is_openmetrics(metrics):
    metrics.bundle = 'b"1\n'
    *lines, end, last = metrics.render().split("\n")
    assert (end, last) == ("# EOF", "")
    samples = [line for line in lines if not line.startswith("#")]
    assert [line for line in samples if not _SAMPLE.match(line)] == []
    typed = dict(line.split(" ")[2:4] for line in lines if line.startswith("# TYPE "))
    for line in samples:
        name = re.split(r"[{ ]", line)[0]
        family = next(
            one for one in typed if name in (one, *(one + end for end in ("_total", "_sum", "_count", "_info")))
        )
        assert (name == f"{family}_total") == (typed[family] == "counter")
    assert len(typed) == len(COUNTERS) + len(GAUGES) + len(("freshness", "alert", "bundle"))
    assert 'segue_stream_outcomes_total{outcome="applied"} 2' in lines
    assert 'segue_stream_dead_letters_total{stage="merge",cause="conflict"} 1' in lines
    assert r'segue_stream_bundle_info{id="b\"1\n"} 1' in lines
    assert "segue_stream_freshness_seconds_count 3" in lines


def test_figures_are_read_by_name_label_and_quantile(metrics):
    assert metrics.total("outcomes") == 3
    assert metrics.total("outcomes", "applied") == 2
    assert metrics.freshness()[0.5] == pytest.approx(0.2)
    assert Metrics().freshness() == {}


def test_what_is_not_declared_is_not_counted(metrics):
    with pytest.raises(AssertionError, match="nonsense"):
        metrics.count("nonsense")
    with pytest.raises(AssertionError, match="outcomes has the labels"):
        metrics.count("outcomes")
    with pytest.raises(AssertionError, match="nonsense"):
        metrics.set("nonsense", 1)


def test_freshness_holds_the_last_sets_only(metrics):
    metrics.observe([5.0] * 10_000)
    assert metrics.freshness()[0.5] == 5.0
    assert len(metrics._fresh) == 4_096


def test_metrics_are_served_on_this_machine_and_nowhere_else(metrics):
    server = serve_metrics(metrics, 0)
    host, port = server.server_address[:2]
    assert host == "127.0.0.1"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        assert answer.read().decode() == metrics.render()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/other")
    with pytest.raises(ValueError, match=rf"metrics cannot be served on 127.0.0.1:{port} .* name another PORT="):
        serve_metrics(metrics, port)
    with pytest.raises(ValueError, match=r"127.0.0.1:99999 .* name another PORT="):
        serve_metrics(metrics, 99_999)
    server.shutdown()
    server.server_close()


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_view_says_what_matters_in_one_line_where_there_is_no_terminal(metrics):
    out, now = io.StringIO(), iter([100.0, 102.0])
    view = Terminal(metrics, lambda: next(now), out)
    view.draw()
    metrics.count("messages", by=400)
    metrics.count("sets", "b1", by=4)
    metrics.set("watermark_seconds", 93.0)
    view.draw()
    view.say("bundle b2 is in use")
    _, second, said = out.getvalue().splitlines()
    assert "200 events/s" in second
    assert "p50 200 ms" in second
    assert "applied 2  conflict 1" in second
    assert "  2 sets/s" in second
    assert "p95 " in second
    assert "p99 " in second
    assert "watermark 1970-01-01 00:01:33 (9.0 s behind)" in second
    assert "  bundle b1" in second
    assert "dead letters 1" in second
    assert said == "  bundle b2 is in use"


def test_a_replay_of_old_events_is_behind_by_days(metrics):
    out = io.StringIO()
    metrics.set("watermark_seconds", 86_400.0)
    Terminal(metrics, lambda: 86_400.0 * 12, out).draw()
    assert "watermark 1970-01-02 00:00:00 (11 days behind)" in out.getvalue()


def test_a_terminal_is_redrawn_in_place_below_what_is_said(metrics):
    out = _Screen()
    view = Terminal(metrics, lambda: 100.0, out)
    view.draw()
    assert out.getvalue().count("\n") == 3
    view.say("hello")
    assert "\033[3F\033[J  hello\n" in out.getvalue()
    view.draw()
    assert out.getvalue().count("\033[3F") == 1


def test_the_view_ends_with_the_stream(metrics):
    out, stop = io.StringIO(), threading.Event()
    stop.set()
    Terminal(metrics, lambda: 100.0, out).follow(stop)
    assert len(out.getvalue().splitlines()) == 1


def test_a_broker_that_is_down_stands_out(metrics):
    out = io.StringIO()
    metrics.set("broker_up", 0)
    Terminal(metrics, lambda: 100.0, out).draw()
    assert "broker DOWN, waiting" in out.getvalue()
