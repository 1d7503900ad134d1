"""What a person and a monitor see of a stream at work."""

import collections
import datetime
import http.server
import threading
from collections.abc import Callable
from typing import TextIO

from pipelines.stream_metrics import CONTENT_TYPE, Metrics
from transforms.stream.session import OUTCOMES

REDRAW_S, LINE_S = 0.5, 5.0
_RATE_S = 5.0


class Terminal:
    """A view of a few lines, redrawn in place where there is a terminal, one line every five seconds where there is none.

    Lines that are said stand above it.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float], out: TextIO) -> None:
        self._metrics, self._clock, self._out = metrics, clock, out
        self._lock, self._drawn = threading.Lock(), 0
        self._samples: collections.deque[tuple[float, int, int]] = collections.deque()

    def say(self, line: str) -> None:
        """Print one line for a person."""
        with self._lock:
            self._erase()
            print(f"  {line}", file=self._out, flush=True)

    def follow(self, stop: threading.Event) -> None:
        """Draw until told to stop, and once more then."""
        while not stop.wait(REDRAW_S if self._out.isatty() else LINE_S):
            self.draw()
        self.draw()

    def draw(self) -> None:
        """Draw the view as things stand."""
        lines = self._lines()
        with self._lock:
            self._erase()
            if self._out.isatty():
                print("\n".join(lines), file=self._out, flush=True)
                self._drawn = len(lines)
            else:
                print(" |".join(lines), file=self._out, flush=True)

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\033[{self._drawn}F\033[J")
            self._drawn = 0

    def _lines(self) -> list[str]:
        metrics, now = self._metrics, self._clock()
        events, sets = self._rates(now)
        fresh = metrics.freshness()
        told = "  ".join(f"p{q * 100:.0f} {_short(seconds)}" for q, seconds in fresh.items()) or "no set yet"
        outcomes = {labels[0]: number for labels, number in metrics.by_label("outcomes").items() if number}
        order = [*[name for name in OUTCOMES if name in outcomes], *sorted(outcomes.keys() - set(OUTCOMES))]
        held = f"  held {metrics.gauge('held'):,.0f}" if metrics.gauge("held") else ""
        broker = "up" if metrics.gauge("broker_up") else "DOWN, waiting"
        return [
            f"  {events:,.0f} events/s  {sets:,.0f} sets/s  freshness {told}",
            f"  lag {_short(metrics.gauge('lag_seconds'))}  watermark {_behind(metrics.gauge('watermark_seconds'), now)}"
            f"  owed {metrics.gauge('owed'):,.0f}{held}  broker {broker}  bundle {metrics.bundle}",
            "  " + ("  ".join(f"{name} {outcomes[name]:,}" for name in order) or "no events yet")
            + f"  dead letters {metrics.total('dead_letters'):,}",
        ]  # fmt: skip

    def _rates(self, now: float) -> tuple[float, float]:
        """Return events and sets per second over the last seconds."""
        self._samples.append((now, self._metrics.total("messages"), self._metrics.total("sets")))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _RATE_S:
            self._samples.popleft()
        (begin, events, sets), (_, events_now, sets_now) = self._samples[0], self._samples[-1]
        seconds = max(now - begin, 1e-9)
        return (events_now - events) / seconds, (sets_now - sets) / seconds


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def _behind(watermark: float, now: float) -> str:
    """Return an event time, and how far behind the clock it is."""
    if not watermark:
        return "-"
    told = datetime.datetime.fromtimestamp(watermark, datetime.UTC).isoformat(" ", "seconds")[:19]
    days, rest = divmod(max(now - watermark, 0.0), 86_400)
    return f"{told} ({f'{days:,.0f} days' if days else _short(rest)} behind)"


def serve_metrics(metrics: Metrics, port: int) -> http.server.ThreadingHTTPServer:
    """Serve `/metrics` on 127.0.0.1 from a thread, and return the server; port 0 takes any that is free.

    Raises:
      ValueError: the port is taken.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/metrics"
            body = metrics.render().encode() if found else b"metrics are at /metrics\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", CONTENT_TYPE if found else "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep requests out of the view."""

    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise ValueError(f"metrics cannot be served on 127.0.0.1:{port} ({error}); name another PORT=") from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
