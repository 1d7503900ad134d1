"""The few pieces of HTML every section of the report page is made of. Whatever comes in as text is escaped here."""

import html
from collections.abc import Iterable, Sequence

MEBIBYTE = 2**20
NUMBERS = " #"
NARROW = "\u202f"


def text(value: object) -> str:
    """Escape."""
    return html.escape(str(value))


def count(number: int, noun: str) -> str:
    """Say a number of things: `1 set`, `5,021 sets`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def share(part: float, whole: float) -> str:
    """Say a share in percent; a small one keeps a digit that is not 0."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.2g}{NARROW}%" if 0 < percent < 1 else f"{percent:.1f}{NARROW}%"


def seconds(value: float) -> str:
    """Say a duration."""
    return f"{value:,.1f}{NARROW}s" if value < 100 else f"{value / 60:,.1f}{NARROW}min"


def size(number: float) -> str:
    """Say an amount of memory or storage."""
    if number < MEBIBYTE:
        return f"{number / 1024:,.0f}{NARROW}KB"
    return (
        f"{number / MEBIBYTE:,.0f}{NARROW}MB"
        if number < 1024 * MEBIBYTE
        else f"{number / 1024 / MEBIBYTE:,.1f}{NARROW}GB"
    )


def dot(colour: str) -> str:
    """Draw the dot of a colour."""
    return f'<i class="dot {colour}"></i>'


def block(title: str, body: str, note: str = "") -> str:
    """Return a part of a section; `note` says in words what is seen."""
    said = f'<p class="soft">{note}</p>' if note else ""
    return f'<div class="block"><h3>{text(title)}</h3>{said}{body}</div>'


def details(summary: str, body: str, *, opened: bool = False) -> str:
    """Return what can be folded."""
    return f"<details{' open' if opened else ''}><summary>{summary}</summary>{body}</details>"


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str, ids: Sequence[str] = (), class_: str = "cards"
) -> str:
    """Return a table of HTML cells; on a narrow page each row is a card.

    Args:
      heads: words; one that ends in `NUMBERS` is over numbers. The first column heads its row.
      caption: what the table holds, for those who hear the page.
      ids: an anchor per row.
    """
    names = [head.removesuffix(NUMBERS) for head in heads]
    numeric = [' class="num"' if head.endswith(NUMBERS) else "" for head in heads]
    head = "".join(f'<th scope="col"{kind}>{text(name)}</th>' for name, kind in zip(names, numeric, strict=True))
    body = "".join(_row(row, names, numeric, ids[i] if ids else "") for i, row in enumerate(rows))
    return (
        f'<table class="{class_}"><caption class="hidden">{text(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _row(cells: Sequence[str], names: Sequence[str], numeric: Sequence[str], anchor: str) -> str:
    first = f'<th scope="row">{cells[0]}</th>'
    rest = "".join(
        f'<td{kind} data-h="{text(name)}">{cell}</td>' if cell and name else f"<td{kind}>{cell}</td>"
        for cell, name, kind in zip(cells[1:], names[1:], numeric[1:], strict=True)
    )
    named = f' id="{text(anchor)}"' if anchor else ""
    return f"<tr{named}>{first}{rest}</tr>"
