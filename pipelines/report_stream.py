"""The page of a stream's last day: what the checks of each minute's sets came to. One HTML file that needs nothing else."""

import datetime
from collections.abc import Sequence
from typing import Any

from pipelines.report_html import block, count, details, share, table, text
from pipelines.report_page import STREAM_TITLE, page
from schemas.stream import PASSED

_MARKS = {"passed": ("✓", "ok"), "failed": ("✗", "bad"), "broken": ("!", "bad"), "unchecked": ("◦", "bad")}
_HEADS = ("Minute", "Verdict", "Sets #", "Checks passed #", "Bundle", "What was found")


def render_stream(verdicts: Sequence[dict[str, Any]]) -> str:
    """Return the page of some verdicts; of one minute and part the last counts."""
    last = {(one["minute"], one["part"]): one for one in verdicts}
    minutes = [last[key] for key in sorted(last, reverse=True)]
    odd = [one for one in minutes if one["outcome"] != PASSED or one["failed"]]
    looked = block("To look at", _table(odd, "Minutes with a check that did not pass"), "The latest minute first.")
    every = block("Every minute", details(count(len(minutes), "minute"), _table(minutes, "All minutes")))
    body = (looked if odd else "") + (every if minutes else "")
    return page("Segue stream", f"{_head(minutes, odd)}<section>{body}</section>")


def _head(minutes: Sequence[dict[str, Any]], odd: Sequence[dict[str, Any]]) -> str:
    sets, checked = sum(one["sets"] for one in minutes), [one for one in minutes if one["checks"]]
    bundles = {bundle for one in minutes for bundle in one["bundles"]}
    asked, failed = sum(one["checks"] for one in minutes), sum(len(one["failed"]) for one in minutes)
    figures = [
        ("Minutes with sets", f"{len(minutes):,}", f"{_clock(minutes[-1])} to {_clock(minutes[0])}" if minutes else ""),
        ("Sets checked", f"{sets:,}", "every set of a minute, none sampled"),
        ("Minutes checked", share(len(checked), len(minutes)), f"{len(minutes) - len(checked):,} unchecked"),
        ("Checks passed", f"{asked - failed:,}", f"of {asked:,}"),
        ("Minutes to look at", f"{len(odd):,}", ""),
        ("Bundles", f"{len(bundles):,}", text(", ".join(sorted(bundles))[:60])),
    ]
    cells = "".join(f"<div><dt>{a}</dt><dd>{b} <small>{c}</small></dd></div>" for a, b, c in figures)
    lead = "No set was published yet." if not minutes else "Every check of every minute passed."
    if odd:
        lead = f"{count(len(odd), 'minute')} to look at."
    return (
        f'<header><p class="brand">Segue candidate sets</p><h1>{STREAM_TITLE}</h1><p class="lead">{lead}</p>'
        f'<dl class="figures">{cells}</dl></header>'
    )


def _clock(one: dict[str, Any]) -> str:
    return datetime.datetime.fromisoformat(one["minute"]).strftime("%d %b %H:%M")


def _table(minutes: Sequence[dict[str, Any]], caption: str) -> str:
    return table(_HEADS, [_row(one) for one in minutes], caption)


def _row(one: dict[str, Any]) -> list[str]:
    mark, tone = _MARKS[one["outcome"]]
    found = ", ".join(one["failed"])
    said = " ".join(filter(None, [f"<strong>{text(found)}</strong>" if found else "", text(one["detail"] or "")]))
    part = f" <small>part {one['part'] + 1}</small>" if one["part"] else ""
    return [
        f"{_clock(one)}{part}",
        f'<span class="{tone} nowrap">{mark} {text(one["outcome"])}</span>',
        f"{one['sets']:,}",
        f"{one['checks'] - len(one['failed'])} of {one['checks']}",
        text(", ".join(one["bundles"])),
        said,
    ]
