"""The page of a dataset's last validation: one HTML file that needs nothing else."""

import datetime
import html

from schemas.manifest import CheckResult, Manifest
from validation.statistics import DAY_US, FLOAT_UNITS, ColumnStatistics, DayStatistics, Statistics
from validation.waivers import verdict

_MARKS = {"passed": ("✓", "ok"), "failed": ("✗", "bad"), "broken": ("!", "bad"), "waived": ("◦", "mild")}
_VERDICTS = {"passed": "passed", "failed": "stopped: the data is bad", "broken": "stopped: a check could not run"}
_TOP_VALUES = 8
_BAR_WIDTH, _BAR_HEIGHT = 120, 22
_WIDER = 32
_CSS = """
:root { color-scheme: light dark; --fg: #1b1f24; --bg: #fff; --soft: #5b6570; --line: #d8dee4; --bar: #3b6fb5;
  --ok: #1a7f37; --bad: #b3261e; --mild: #7a5a00; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6e9ec; --bg: #14171a; --soft: #9aa4ae; --line: #333a41;
  --bar: #7fb0f0; --ok: #57c272; --bad: #ff8a80; --mild: #e0bb55; } }
* { box-sizing: border-box } body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--bg);
  color: var(--fg); font: 15px/1.45 system-ui, sans-serif; overflow-wrap: break-word }
.mark { white-space: nowrap }
h1 { font-size: 1.35rem; margin: 0 0 .25rem } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem }
p { margin: .2rem 0 } .soft { color: var(--soft) } .ok { color: var(--ok) } .bad { color: var(--bad) }
.mild { color: var(--mild) } table { width: 100%; border-collapse: collapse } th { text-align: left;
  font-weight: 600; color: var(--soft) } td, th { padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top } svg { display: block; max-width: 100% }
  rect { fill: var(--bar) }
@media (max-width: 640px) { thead { display: none } tr { display: block; padding: .4rem 0;
  border-bottom: 1px solid var(--line) } td { display: block; border: 0; padding: .05rem 0 }
  td[data-h]:not(:empty)::before { content: attr(data-h) ": "; color: var(--soft) } }
"""


def render_page(manifest: Manifest) -> str:
    """Return the page: verdict, checks with figures and thresholds, rows per day and statistics per column.

    Holds no identifier: only category columns have their values counted.
    """
    statistics = Statistics.from_json(manifest.statistics)
    title = " ".join(filter(None, [manifest.dataset, manifest.qualifier, manifest.date]))
    body = [_head(manifest, title), _checks(manifest.checks), _rejected(manifest), _days(statistics.days)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_CSS}</style></head>'
        f"<body>{''.join(body)}{_columns(statistics)}</body></html>\n"
    )


def _head(manifest: Manifest, title: str) -> str:
    decided = verdict(manifest.checks)
    passed = sum(check.outcome == "passed" for check in manifest.checks)
    tone = "ok" if decided == "passed" else "bad"
    return (
        f'<h1>{html.escape(title)}</h1><p class="{tone}"><strong>{_VERDICTS[decided]}</strong>, '
        f"{passed} of {len(manifest.checks)} checks passed</p>"
        f'<p class="soft">{manifest.rows_in:,} rows in, {manifest.rows_out:,} out, '
        f"{sum(manifest.rejected.values()):,} rejected · contract {html.escape(manifest.contract_version)} · "
        f"run {html.escape(manifest.run)} · code {html.escape(manifest.code_version)}</p>"
    )


def _checks(checks: tuple[CheckResult, ...]) -> str:
    """Show what needs attention first, then the order in which the checks ran."""
    ordered = sorted(checks, key=lambda c: (c.outcome == "passed", c.severity != "critical"))
    rows = [_check(check) for check in ordered]
    legend = '<p class="soft">W: beyond it the run goes on with a warning. B: beyond it the run stops.</p>'
    return _table("Checks", ("", "Check", "Figure", "Threshold", "Severity"), rows) + legend


def _check(check: CheckResult) -> list[str]:
    mark, tone = _MARKS[check.outcome]
    message = f'<br><span class="soft">{html.escape(check.message)}</span>' if check.message else ""
    observed = "" if check.observed is None else _figure(check.observed)
    of = f" of {check.of:,}" if check.of is not None else ""
    return [
        f'<span class="mark {tone}">{mark} {check.outcome}</span>',
        f"{html.escape(check.name)}{message}",
        f"{observed}{of}" if observed else "",
        html.escape(check.threshold),
        f"{check.severity}, {check.layer}",
    ]


def _rejected(manifest: Manifest) -> str:
    counts = sorted(manifest.rejected.items(), key=lambda pair: (-pair[1], pair[0]))
    return _table("Rejected rows", ("Rule", "Rows"), [[html.escape(r), f"{n:,}"] for r, n in counts]) if counts else ""


def _days(days: dict[str, DayStatistics]) -> str:
    if not days:
        return ""
    last = sorted(days)[-28:]
    bars = _bars([days[date].rows for date in last], 360, 60, [f"{date}: {days[date].rows:,} rows" for date in last])
    return f'<h2>Rows per day</h2>{bars}<p class="soft">{last[0]} to {last[-1]}</p>'


def _columns(statistics: Statistics) -> str:
    rows = [_column(name, column, statistics.rows) for name, column in statistics.columns.items()]
    return _table("Columns", ("Column", "Empty", "Least to greatest", "Mean", "Distribution", "Most frequent"), rows)


def _column(name: str, column: ColumnStatistics, rows: int) -> list[str]:
    given = rows - column.nulls - column.not_finite
    top = sorted((column.values or {}).items(), key=lambda pair: (-pair[1], pair[0]))[:_TOP_VALUES]
    timed = column.total is None and column.low is not None
    scale = FLOAT_UNITS if isinstance(column.low, float) else 1
    mean = f"{column.total / scale / given:,.6g}" if column.total is not None and given else ""
    bins = sorted(column.bins.items())
    return [
        html.escape(name),
        f"{column.nulls / rows:.1%}" if rows else "",
        "" if column.low is None else f"{_bound(column.low, timed)} to {_bound(column.high, timed)}",
        mean,
        _bars(
            [n for _, n in bins], _BAR_WIDTH, _BAR_HEIGHT, [f"{_bin(b, column, timed, scale)}: {n:,}" for b, n in bins]
        ),
        ", ".join(f"{html.escape(value)} {count / max(given, 1):.1%}" for value, count in top),
    ]


def _bound(number: float | None, timed: bool) -> str:
    """Spell a bound; times are days or us since the epoch, and no day is as large as the us of one."""
    if number is None or not timed:
        return _figure(number if number is not None else "")
    return _date(int(number) // DAY_US if abs(number) > DAY_US else int(number))


def _bin(bin_: int, column: ColumnStatistics, timed: bool, scale: int) -> str:
    if timed:
        return f"{_WIDER**column.level} days from {_date(bin_ * _WIDER**column.level)}"
    low = 2 ** (abs(bin_) - 1) / scale if bin_ else 0
    return f"{'-' if bin_ < 0 else ''}{low:,.4g} to {low * 2:,.4g}"


def _date(days: int) -> str:
    try:
        return (datetime.date(1970, 1, 1) + datetime.timedelta(days=days)).isoformat()
    except OverflowError:
        return f"day {days:,}"


def _figure(value: float | str) -> str:
    if isinstance(value, str):
        return html.escape(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def _bars(heights: list[int], width: int, height: int, titles: list[str]) -> str:
    if not heights:
        return ""
    step, top = width / len(heights), max(max(heights), 1)
    bars = [
        f'<rect x="{i * step:.1f}" y="{height - h * height / top:.1f}" width="{max(step - 1, 0.5):.1f}" '
        f'height="{h * height / top:.1f}"><title>{html.escape(title)}</title></rect>'
        for i, (h, title) in enumerate(zip(heights, titles))
    ]
    return f'<svg role="img" width="{width}" height="{height}" viewBox="0 0 {width} {height}">{"".join(bars)}</svg>'


def _table(title: str, heads: tuple[str, ...], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(
        "<tr>"
        + "".join(f'<td data-h="{h}">{cell}</td>' if h else f"<td>{cell}</td>" for h, cell in zip(heads, row))
        + "</tr>"
        for row in rows
    )
    return f"<h2>{title}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
