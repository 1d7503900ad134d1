"""The section of the report page on what the sets were worth against what was played afterwards."""

import math
from collections.abc import Iterator, Sequence

from pipelines import report_words as words
from pipelines.charts import bar, bullet, curves, legend
from pipelines.evaluation_summary import (
    BASELINES,
    HEADLINES,
    UNIT_WORDS,
    Summary,
    beside,
    overlap,
    source_figures,
    whole_sets,
)
from pipelines.recommend import HOME, NOW_PLAYING
from pipelines.report_html import block, count, share, table, text
from schemas.evaluation import FACTORS, FALLBACK, ORACLE, REPEAT_LAST, SETS, SLICES, TARGETS
from transforms.evaluation import DEPTH, RECALL_AT, Cell

_NAMED = {
    SETS: "The sets",
    FALLBACK: "Charts of the market",
    REPEAT_LAST: "What was liked last",
    FACTORS: "Matrix factorisation",
    ORACLE: "Best possible",
}
_TARGETS = {
    "all": "Everything",
    "discovery": "Not played in 90 days",
    "organic": "Picked by the user",
    "session": "Rest of the session",
}
_SLICES = {
    "market": "Market",
    "tier": "Tier",
    "tenure": "Events before",
    "skips": "Skips in between",
    "type": "Type",
    "age": "Age of the item",
    "device": "Device",
    "language": "Language of the item",
}
_AIMS = {HOME: "what was new", NOW_PLAYING: "what came next"}
_VERDICTS = {
    "wins": "The blend holds more of {} than its best single source alone.",
    "loses": "A single source alone, before filters, caps and quotas, holds more of {} than the blend.",
    "undecided": "The blend and its best single source hold about as much of {}.",
}
_LEFT_OUT = "Points are lost where some of the sets, blended again without the source, hold less of it."
_SHOWN = 6
_PARTS = 24


def render_evaluations(summaries: Sequence[Summary]) -> str:
    """Return the section; nothing where nothing was judged."""
    if not summaries:
        return ""
    note = (
        "The sets of this date against what their users played afterwards. A figure is a mean over users; the pale band is "
        "its 95 % interval, from 1,000 resamplings of the users. A source alone is judged before caps and quotas."
    )
    shown = "".join(_surface(summary) for summary in summaries)
    return f'<section id="evaluation"><h2>Evaluation</h2><p class="soft">{note}</p>{shown}</section>'


def _surface(summary: Summary) -> str:
    name = words.surface(summary.surface)
    parts = [
        block(f"{name}: found afterwards", _verdict(summary) + _curves(summary) + _ladder(summary), _units(summary)),
        block(
            "What each source adds",
            _sources(summary),
            f"Over {_AIMS[summary.surface]}. {_LEFT_OUT}",
        ),
        block(
            "Proposed by both",
            _overlap(summary),
            "Of the hits of a row's source, the share that the column's proposed too.",
        ),
        block("For whom", _slices(summary), f"Share of what was played that the sets hold, among their first {DEPTH}."),
    ]
    return "".join(parts)


def _units(summary: Summary) -> str:
    if summary.surface == NOW_PLAYING:
        return f"{count(summary.users(), 'play')} with what came next; {summary.users('session'):,} sessions with what followed."
    return f"{count(summary.users(), 'user')} played something, {summary.users('discovery'):,} of them something new."


def _verdict(summary: Summary) -> str:
    contest = summary.contest()
    if contest is None:
        return ""
    mean, low, high = (100 * value for value in contest.difference)
    return (
        f"<p>{_VERDICTS[contest.verdict].format(_AIMS[summary.surface])} {share(contest.sets[0], 1)} against {share(contest.source[0], 1)} of"
        f" {_name(contest.best)}: {mean:+.2f} points ({low:+.2f} to {high:+.2f}). In {text(whole_sets(summary))}.</p>"
        + "".join(f'<p class="soft">{text(line[0].upper() + line[1:])}.</p>' for line in beside(summary))
    )


def _name(ranking: str) -> str:
    return text(_NAMED.get(ranking) or words.source(ranking))


def _curves(summary: Summary) -> str:
    """Draw recall by place for the rankings that find most."""
    target, _, _ = HEADLINES[summary.surface]
    found = {
        name: [one[0] if (one := summary.of(target, name, "recall", k)) else 0.0 for k in RECALL_AT]
        for name in summary.rankings
        if name != ORACLE
    }
    best = sorted(found, key=lambda name: (name != SETS, -found[name][-1], name))[:_SHOWN]
    colours = {name: f"c{number}" for number, name in enumerate(best)}
    said = f"Recall of {_AIMS[summary.surface]} by number of places: {', '.join(_name(name) for name in best)}"
    chart = curves({colours[name]: found[name] for name in best}, [str(k) for k in RECALL_AT], said)
    named = legend({_NAMED.get(name) or words.source(name): colour for name, colour in colours.items()})
    return f'<div class="curves"><div>{chart}{named}</div></div>'


def _ladder(summary: Summary) -> str:
    rows = [
        [_name(name), *(cell for target in _targets(summary) for cell in _pair(summary, target, name))]
        for name in summary.rankings
    ]
    heads = [head for target in _targets(summary) for head in (f"{_TARGETS[target]} #", "")]
    return table(("Recall@300", *heads), rows, "Rankings by recall")


def _targets(summary: Summary) -> list[str]:
    return [target for target in TARGETS if summary.users(target)]


def _pair(summary: Summary, target: str, ranking: str, slice_: str = "all", part: str = "all") -> Iterator[str]:
    found = summary.figure(Cell(target, ranking, slice_, part, "recall", DEPTH))
    yield share(found[0], 1) if found else ""
    colour = "grey" if ranking in BASELINES else ""
    yield bullet(found[0], found[1], 0, found[2], 1.0, colour) if found else ""


def _sources(summary: Summary) -> str:
    rows = []
    for name in summary.sources:
        one = source_figures(summary, name)
        slots, each = f"{one['slots']:,.1f}", f"{one['hits/slot']:.4f}"
        shares = ["" if math.isnan(one[head]) else share(one[head], 1) for head in ("alone", "in sets", "only")]
        left = summary.marginal(name)
        lost = f"{100 * left[0]:+.2f} ({100 * left[1]:+.2f} to {100 * left[2]:+.2f})" if left else ""
        cost = "" if math.isnan(one["s/1k hits"]) else f"{one['s/1k hits']:,.1f}"
        rows.append([_name(name), *shares, bar(one["only"]), f"{one['only hits']:,.0f}", lost, slots, each, cost])
    heads = (
        "Source",
        "Alone #",
        "In the sets #",
        "Only it #",
        "",
        "Hits only it has #",
        "Points lost without it #",
        "Slots per set #",
        "Hits per slot #",
        "Seconds per 1,000 hits #",
    )
    return table(heads, rows, "Sources by what they add")


def _overlap(summary: Summary) -> str:
    shared = overlap(summary)
    rows = [[_name(one), *(share(shared[one, other], 1) for other in summary.sources)] for one in summary.sources]
    return table(
        ("Source", *(f"{words.source(name)} #" for name in summary.sources)), rows, "Hits that two sources share"
    )


def _slices(summary: Summary) -> str:
    heads = [head for target in _targets(summary) for head in (f"{_TARGETS[target]} #", "")]
    noun = UNIT_WORDS[summary.surface].capitalize()
    return "".join(
        table(
            (_SLICES[slice_], f"{noun} #", *heads),
            list(_parts(summary, slice_)),
            f"Recall by {_SLICES[slice_].lower()}",
        )
        for slice_ in SLICES[1:]
        if summary.parts(slice_)
    )


def _parts(summary: Summary, slice_: str) -> Iterator[list[str]]:
    for part in summary.parts(slice_)[:_PARTS]:
        named = words.market(part) if slice_ == "market" else part
        figures = [cell for target in _targets(summary) for cell in _pair(summary, target, SETS, slice_, part)]
        yield [text(named), f"{summary.most(slice_, part):,}", *figures]
