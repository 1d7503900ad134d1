import contextlib
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from toy_lineage import ROOT, RUN, clock, log_to, tell_everything

from schemas.tallies import HISTORY
from validation import lineage
from validation.lineage import LineageLog, Replayed, replay


@contextlib.contextmanager
def server(status: int = 201, delay_s: float = 0.0):
    """Serve OpenLineage on a free port; yields its address and the bodies that came."""
    bodies: list[str] = []

    class Lineage(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            time.sleep(delay_s)
            with contextlib.suppress(OSError):
                self.send_response(status if self.path == "/api/v1/lineage" else 404)
                self.end_headers()

        def log_message(self, *args):
            pass

    listener = HTTPServer(("127.0.0.1", 0), Lineage)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}", bodies
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def closed_port() -> str:
    with server() as (url, _):
        return url


def test_a_server_gets_every_event_as_the_file_has_it():
    lines: list[str] = []
    with server() as (url, bodies):
        tell_everything(HISTORY)(log_to(lines, http_url=url))
    assert bodies == lines
    assert len(lines) == 9


def test_an_event_is_in_the_file_before_it_is_sent():
    seen: list[int] = []
    with server() as (url, bodies):
        log = LineageLog(lambda _: seen.append(len(bodies)), ROOT, clock(), http_url=url)
        log.start_run(RUN)
        log.complete_run(RUN)
    assert seen == [0, 1]


@pytest.mark.parametrize("trouble", ["down", "error", "slow"])
def test_a_server_that_fails_costs_one_try_and_one_warning(trouble, caplog, monkeypatch):
    monkeypatch.setattr(lineage, "HTTP_TIMEOUT_S", 0.1)
    status, delay_s = (500, 0.0) if trouble == "error" else (201, 0.4)
    lines: list[str] = []
    with server(status, delay_s) as (url, bodies), caplog.at_level(logging.WARNING, "validation.lineage"):
        tell_everything(HISTORY)(log_to(lines, http_url=closed_port() if trouble == "down" else url))
    assert len(lines) == 9
    assert len(bodies) == (0 if trouble == "down" else 1)
    (record,) = caplog.records
    assert "validation.lineage.replay(lines, http_url)" in record.getMessage()
    assert "this run sends it nothing more" in record.getMessage()


def test_a_lineage_file_that_fails_is_told_once_and_stops_nothing(caplog):
    def full(_line: str) -> None:
        raise RuntimeError("no space left")

    with server() as (url, bodies), caplog.at_level(logging.WARNING, "validation.lineage"):
        log = LineageLog(full, ROOT, clock(), http_url=url)
        log.start_run(RUN)
        log.complete_run(RUN)
    assert len(bodies) == 2
    (record,) = caplog.records
    assert record.getMessage() == ("the lineage file cannot be written and will lack events of this run: no space left")


def test_replay_sends_the_same_events_again():
    lines: list[str] = []
    tell_everything(HISTORY)(log_to(lines))
    file = [line + "\n" for line in lines]
    with server() as (url, bodies):
        assert replay(file, url) == Replayed(9, ())
        assert replay(file, url) == Replayed(9, ())
    assert bodies == lines + lines


def test_replay_passes_over_a_line_cut_short_and_reports_it():
    lines: list[str] = []
    tell_everything(HISTORY)(log_to(lines))
    file = [lines[0], "", lines[1][:100], lines[2], "[1]", '{"no": "event"}']
    with server() as (url, bodies):
        assert replay(file, url) == Replayed(2, (3, 5, 6))
    assert bodies == [lines[0], lines[2]]


def test_replay_says_how_far_it_came():
    lines: list[str] = []
    tell_everything(HISTORY)(log_to(lines))
    with server(500) as (url, _), pytest.raises(ConnectionError, match=r"did not take line 1 after 0 event\(s\): 500"):
        replay(lines, url)
    with pytest.raises(ConnectionError, match="Replay the whole file again"):
        replay(lines, closed_port())
