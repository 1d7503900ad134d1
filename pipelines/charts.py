"""Charts of the report page: pure functions from figures to inline SVG or HTML, coloured by the page's style sheet.

Bars are HTML, so that they follow the width of the page; what needs geometry is SVG with a description of its own.
"""

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence

FLOW_WIDTH = 1200
_GAP_X, _GAP_Y, _NODE_HEIGHT, _PAD = 26, 12, 68, 8
_SIDE, _MARGIN = 240, 34
_LETTER = {"title": 8.6, "kicker": 7.2, "figure": 7.2, "note": 7.2}  # widest usual mean width; titles are bold


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A box of the flow picture: up to four lines, and a tone that is a class of the style sheet."""

    name: str
    kicker: str
    title: str
    figure: str
    note: str
    tone: str


Edge = tuple[str, str, int]


def flow(nodes: Sequence[Node], edges: Sequence[Edge], label: str) -> str:
    """Draw what flows where, left to right; a line is the thicker the more rows it carries.

    Args:
      edges: `(from, to, rows)`; one that a longer way implies is left out.
    """
    kept = reduced(edges)
    columns = layered([node.name for node in nodes], kept)
    width = (FLOW_WIDTH - _GAP_X * (len(columns) - 1)) / max(len(columns), 1)
    height = max((len(column) for column in columns), default=0) * (_NODE_HEIGHT + _GAP_Y) + _GAP_Y
    places = {
        name: (i * (width + _GAP_X), _top(len(column), j, height))
        for i, column in enumerate(columns)
        for j, name in enumerate(column)
    }
    lines = "".join(_line(places[a], places[b], width, rows) for a, b, rows in kept)
    boxes = "".join(_box(node, places[node.name], width) for node in nodes)
    return (
        f'<svg class="flow" role="img" aria-label="{html.escape(label)}" viewBox="-1 0 {FLOW_WIDTH + 2} {height}">'
        f"{lines}{boxes}</svg>"
    )


def reduced(edges: Sequence[Edge]) -> list[Edge]:
    """Leave out every edge whose end can be reached from its start by a longer way too."""
    after: dict[str, set[str]] = {}
    for start, end, _ in edges:
        after.setdefault(start, set()).add(end)

    def reachable(start: str) -> set[str]:
        found, waiting = set[str](), list(after.get(start, ()))
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += after.get(name, ())
        return found

    return [(a, b, n) for a, b, n in edges if not any(b in reachable(c) for c in after[a] - {b})]


def layered(names: Sequence[str], edges: Sequence[Edge]) -> list[list[str]]:
    """Put each name into the column after its last input, near their height; a start just before its first use."""
    depth = dict.fromkeys(names, 0)
    for _ in names:
        for start, end, _rows in edges:
            depth[end] = max(depth[end], depth[start] + 1)
    starts = set(names) - {end for _, end, _ in edges}
    depth |= {name: min([depth[b] for a, b, _ in edges if a == name], default=1) - 1 for name in starts}
    columns: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name in names:
        columns[depth[name]].append(name)
    place = {name: j / len(column) for column in columns for j, name in enumerate(column)}
    for column in columns[1:]:
        column.sort(key=lambda name: (_mean([place[a] for a, b, _ in edges if b == name], place[name]), name))
        place |= {name: (j + 0.5) / len(column) for j, name in enumerate(column)}
    return columns


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _top(count: int, place: int, height: float) -> float:
    """Centre a column."""
    used = count * (_NODE_HEIGHT + _GAP_Y) - _GAP_Y
    return (height - used) / 2 + place * (_NODE_HEIGHT + _GAP_Y)


def _line(start: tuple[float, float], end: tuple[float, float], width: float, rows: int) -> str:
    x1, y1 = start[0] + width, start[1] + _NODE_HEIGHT / 2
    x2, y2 = end[0], end[1] + _NODE_HEIGHT / 2
    bend = max((x2 - x1) / 2, 12)
    thick = 0.8 + 0.4 * math.log10(max(rows, 1))
    path = f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return f'<path class="edge" d="{path}" stroke-width="{thick:.1f}"/>'


def _box(node: Node, place: tuple[float, float], width: float) -> str:
    x, y = place
    lines = [("kicker", node.kicker), ("title", node.title), ("figure", node.figure), ("note", node.note)]
    shown = [(kind, text) for kind, text in lines if text]
    first = y + (_NODE_HEIGHT - 14 * len(shown)) / 2 + 11
    room = width - 2 * _PAD - 3
    texts = "".join(
        f'<text class="{kind}" x="{x + _PAD + 3:.1f}" y="{first + 14 * i:.1f}"{_squeeze(text, room, _LETTER[kind])}>'
        f"{html.escape(text)}</text>"
        for i, (kind, text) in enumerate(shown)
    )
    return (
        f'<g class="node {node.tone}"><rect class="box" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}"'
        f' height="{_NODE_HEIGHT}" rx="6"/><rect class="edge-mark" x="{x:.1f}" y="{y + 8:.1f}" width="3"'
        f' height="{_NODE_HEIGHT - 16}" rx="1.5"/>{texts}</g>'
    )


def _squeeze(text: str, room: float, letter: float) -> str:
    """Make a text that may be too long for its box as wide as the box."""
    return f' textLength="{room:.1f}" lengthAdjust="spacingAndGlyphs"' if len(text) * letter > room else ""


def bar(share: float, colour: str = "") -> str:
    """Draw a horizontal bar that fills `share` of its place; the figure stands beside it in words."""
    return f'<span class="bar" aria-hidden="true"><i class="{colour}" style="width:{_percent(share)}"></i></span>'


def bullet(actual: float, low: float, target: float, high: float, scale: float, colour: str) -> str:
    """Draw a figure as a bar over the span from `low` to `high`, with a tick at the target."""
    span = f"left:{_percent(low / scale)};width:{_percent((min(high, scale) - low) / scale)}"
    tick = f'<b style="left:{_percent(target / scale)}"></b>' if target else ""
    return (
        f'<span class="bullet" aria-hidden="true"><u style="{span}"></u>'
        f'<i class="{colour}" style="width:{_percent(actual / scale)}"></i>{tick}</span>'
    )


def stacked(parts: Sequence[tuple[str, int, str]]) -> str:
    """Draw `(name, amount, colour)` as one divided bar; the names are tooltips, a legend or table says the figures."""
    total = sum(amount for _, amount, _ in parts) or 1
    pieces = "".join(
        f'<i class="{colour}" style="width:{_percent(amount / total)}" title="{html.escape(name)}: {amount:,}'
        f' ({amount / total:.1%})"></i>'
        for name, amount, colour in parts
        if amount
    )
    words = ", ".join(f"{name} {amount / total:.1%}" for name, amount, _ in parts if amount)
    return f'<span class="stacked" role="img" aria-label="{html.escape(words)}">{pieces}</span>'


def legend(entries: Mapping[str, str]) -> str:
    """Say which colour is what: `{words: colour}`."""
    items = "".join(f'<li><i class="dot {colour}"></i>{html.escape(name)}</li>' for name, colour in entries.items())
    return f'<ul class="legend">{items}</ul>'


def lorenz(points: Sequence[tuple[float, float]], label: str) -> str:
    """Draw a Lorenz curve with the line of equal shares."""
    size, low = _SIDE, _MARGIN
    high = size - 8
    scale = high - low
    place = [(low + x * scale, high - low + 8 - y * scale) for x, y in points]
    base = high - low + 8
    curve = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    ticks = "".join(
        f'<text class="tick" x="{low + t * scale:.1f}" y="{base + 15:.1f}" text-anchor="middle">{t:.0%}</text>'
        f'<text class="tick" x="{low - 5}" y="{base - t * scale + 4:.1f}" text-anchor="end">{t:.0%}</text>'
        for t in (0, 0.5, 1)
    )
    return (
        f'<svg class="lorenz" role="img" aria-label="{html.escape(label)}" viewBox="0 0 {size + 12} {size}">'
        f'<polygon class="area" points="{low},{base} {curve} {high},{base}"/>'
        f'<line class="equal" x1="{low}" y1="{base}" x2="{high}" y2="{base - scale}"/>'
        f'<polyline class="curve" points="{curve}"/>'
        f'<path class="axis" d="M{low} {base - scale}V{base}H{high}"/>{ticks}</svg>'
    )


def line(values: Sequence[float], label: str) -> str:
    """Draw figures by epoch, from the first on; the least and the most stand beside the line."""
    width, height, left, top = 300, 120, 46, 10
    low, high = min(values), max(values)
    across, down = width - left - 8, height - top - 22
    place = [
        (left + (0.5 if len(values) == 1 else i / (len(values) - 1)) * across,
         top + (0.5 if high == low else (high - value) / (high - low)) * down)
        for i, value in enumerate(values)
    ]  # fmt: skip
    marks = "".join(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in place)
    curve = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    base = top + down
    ends = [(left, 1)] if len(values) == 1 else [(left, 1), (left + across, len(values))]
    ticks = "".join(f'<text x="{x}" y="{base + 16}" text-anchor="middle">{epoch}</text>' for x, epoch in ends)
    levels = [(top + down / 2, high)] if high == low else [(top, high), (base, low)]
    ticks += "".join(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{v:.3g}</text>' for y, v in levels)
    return (
        f'<svg class="line" role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width} {height}">'
        f'<path class="axis" d="M{left} {top}V{base}H{left + across}"/>'
        f'<polyline class="curve" points="{curve}"/>{marks}{ticks}</svg>'
    )


def curves(series: Mapping[str, Sequence[float]], ticks: Sequence[str], label: str) -> str:
    """Draw shares over the same ticks, from 0 up to the highest, one line per colour; a legend says which is whose."""
    width, height, left, top = 420, 190, 46, 10
    most = max((value for values in series.values() for value in values), default=0.0) or 1.0
    across, base = width - left - 14, height - 22
    x = [left + (0.5 if len(ticks) == 1 else i / (len(ticks) - 1)) * across for i in range(len(ticks))]
    drawn = ""
    for colour, values in series.items():
        points = " ".join(
            f"{a:.1f},{base - value / most * (base - top):.1f}" for a, value in zip(x, values, strict=True)
        )
        drawn += f'<polyline fill="none" stroke-width="2" stroke="var(--{colour})" points="{points}"/>'
    named = "".join(
        f'<text x="{a:.1f}" y="{base + 16}" text-anchor="middle">{tick}</text>'
        for a, tick in zip(x, ticks, strict=True)
    )
    named += f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{most:.0%}</text>'
    return (
        f'<svg class="line" role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width} {height}">'
        f'<path class="axis" d="M{left} {top}V{base}H{left + across}"/>{drawn}{named}</svg>'
    )


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"
