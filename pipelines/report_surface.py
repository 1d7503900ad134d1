"""The section of one surface on the report page: sets by name, then what they are made of."""

from collections.abc import Mapping, Sequence

from pipelines import report_words as words
from pipelines.charts import bar, bullet, legend, lorenz, stacked
from pipelines.report import SurfaceView
from pipelines.report_examples import Candidate, Example, Named
from pipelines.report_html import block, count, details, dot, share, table, text
from schemas.inputs import ITEM_TYPES

COLOURS = 10
_OPEN = 2
_MARKETS = 24
_TASTE = 4


def source_colours(surfaces: tuple[SurfaceView, ...]) -> dict[str, str]:
    """Give each source of every surface its colour; a fallback source is grey."""
    colours: dict[str, str] = {}
    for surface in surfaces:
        for name in [*_sources_of(surface), *surface.slots]:
            grey = name == surface.policy["fallback"]
            number = sum(colour != "grey" for colour in colours.values())
            colours.setdefault(name, "grey" if grey else f"c{number % COLOURS}")
    return colours


def _sources_of(view: SurfaceView) -> list[str]:
    """Return the sources with slots: those of the flow, then what is drawn by lot."""
    named = [quota["source_id"] for quota in view.policy["sources"]]
    return [*view.policy["flow"], *(name for name in named if name not in view.policy["flow"])]


def render_surface(view: SurfaceView, colours: Mapping[str, str]) -> str:
    """Return the section."""
    name = words.surface(view.name)
    counted = view.sets.counters
    mean = counted["slots"] / max(counted["sets"], 1)
    parts = [
        _examples(view, colours),
        '<div class="columns">',
        _sources(view, colours),
        _levels(view),
        _removed(view),
        _mix(view),
        "</div>",
        _exposure(view),
    ]
    return (
        f'<section id="{text(view.name)}"><h2>{text(name)}</h2><p>{count(counted["sets"], "candidate set")} with '
        f"{counted['slots']:,} candidates, {mean:,.0f} each on average; "
        f"{text(words.released(view.released))}.</p>{''.join(parts)}</section>"
    )


def _examples(view: SurfaceView, colours: Mapping[str, str]) -> str:
    if not view.examples:
        return ""
    shown = "".join(_example(example, colours, opened=i < _OPEN) for i, example in enumerate(view.examples))
    names = {words.source(name): colours[name] for name in _sources_of(view)}
    note = (
        "The first candidates of a few sets, in blend order, beside what the user liked last. The same people are "
        "shown every day, chosen by hash to cover what there is. A ranker still has to order them."
    )
    if view.sets.config.get("run_mode") == "stream":
        note = (
            "The first candidates of a few sets of whoever listened since the batch, in blend order, beside what the user "
            "liked last before it. A ranker still has to order them."
        )
    if not view.by_user:
        note = (
            "What may follow when this item plays, in blend order: the first candidates of a few sets, chosen by hash "
            "to cover what there is. A ranker still has to order them."
        )
    return block(f"{count(len(view.examples), 'set')} to judge by name", legend(names) + shown, note)


def _example(example: Example, colours: Mapping[str, str], *, opened: bool) -> str:
    taste = " · ".join(text(candidate.item.title) for candidate in example.candidates[:_TASTE])
    head = f'<strong>{_who(example)}</strong> <span class="soft">· {_facts(example)}</span>'
    inside = _listens(example) + _candidates(example, colours)
    alone = "" if example.listens else " alone"
    folded = details(
        f'{head}<span class="taste">{taste}</span>', f'<div class="inside{alone}">{inside}</div>', opened=opened
    )
    return folded.replace("<details", '<details class="set"', 1)


def _who(example: Example) -> str:
    if example.seed:
        return f"After {_titled(example.seed)}"
    return f"User {text(example.who)}" if example.who else "Whoever nobody has seen"


def _titled(item: Named, *marks: str) -> str:
    by = " · ".join(text(mark) for mark in (item.artist, *marks) if mark)
    return f'<span class="name">{text(item.title)}</span> <span class="by">{by}</span>'


def _facts(example: Example) -> str:
    degraded = [words.degraded(reason) for reason in example.degraded_reasons]
    parts = [
        words.PICKS.get(example.why, ""),
        words.market(example.market),
        "" if example.tier == "*" else example.tier,
        f"level {example.fallback_level}, {words.level(example.fallback_level, by_user=not example.seed)}",
        *degraded,
        f"{example.size:,} of {count(example.considered, 'proposal')}",
    ]
    return " · ".join(text(part) for part in parts if part)


def _listens(example: Example) -> str:
    if not example.listens:
        return ""
    rows = "".join(
        f'<li><span class="name">{text(listen.item.title)}</span><span class="by">{text(listen.item.artist)}'
        f"{' · ' if listen.item.artist else ''}{_ago(listen.days_ago)}"
        f"{f' · {listen.times} times' if listen.times > 1 else ''}</span></li>"
        for listen in example.listens
    )
    return f'<div><h4 class="soft small">Liked last</h4><ol class="heard">{rows}</ol></div>'


def _ago(days: float) -> str:
    return "today" if days < 1 else f"{count(int(days), 'day')} ago"


def _candidates(example: Example, colours: Mapping[str, str]) -> str:
    rows = [_candidate(candidate, example.market, colours) for candidate in example.candidates]
    heads = ("#", "Title", "From", "Why", "Familiar")
    width = len(heads) if example.who else len(heads) - 1
    caption = "First candidates in blend order"
    return f"<div>{table(heads[:width], [row[:width] for row in rows], caption, class_='cards picked')}</div>"


def _candidate(candidate: Candidate, market: str, colours: Mapping[str, str]) -> list[str]:
    marks = ("fresh" if candidate.is_fresh else "", "explored" if candidate.is_exploration else "")
    badges = "".join(
        f'<span class="badge">{dot(colours.get(name, "grey"))}{text(words.source(name))}</span>'
        for name in candidate.sources
    )
    why = text(words.reason(candidate.reason_code, market))
    seed = f" <em>{text(candidate.seed.title)}</em>" if candidate.seed else ""
    familiar = words.FAMILIARITY.get(candidate.familiarity, candidate.familiarity)
    return [
        f'<span class="place">{candidate.position + 1}</span>',
        _titled(candidate.item, candidate.item.item_type, *marks),
        badges,
        f'<span class="small">{why}{seed}</span>',
        f'<span class="soft small nowrap">{text(familiar)}</span>',
    ]


def _sources(view: SurfaceView, colours: Mapping[str, str]) -> str:
    sets, slots = max(view.sets.counters["sets"], 1), max(view.sets.counters["slots"], 1)
    quotas = {quota["source_id"]: quota for quota in view.policy["sources"]}
    rows = []
    for name in [*_sources_of(view), *(name for name in view.slots if name not in quotas)]:
        quota = quotas.get(name, {"minimum": 0, "target": 0, "maximum": 0})
        n = view.slots.get(name, 0)
        low, target, high = quota["minimum"], quota["target"], quota["maximum"]
        rows.append(
            [
                f'{dot(colours[name])}{text(words.source(name))} <code class="soft">{text(name)}</code>',
                f"{n / sets:,.1f}",
                bullet(n / sets, low, target, high, max(high, n / sets, 1.0), colours[name]),
                f"{low}, {target}, {high}",
                share(n, slots),
            ]
        )
    heads = ("Source", "Per set #", "", "Least, target, most", "Of all #")
    note = (
        "Candidates per set by the source that ranked them best. The tick is the policy's target for a full set, the "
        "pale band runs from its least to its most, on a scale of each source's own."
    )
    return block("Slots by source", table(heads, rows, "Candidates by source"), note)


def _levels(view: SurfaceView) -> str:
    total = sum(view.survey.levels.values())
    bars = stacked(
        [
            (f"{level} {words.level(level, by_user=view.by_user)}", n, f"l{min(level, 4)}")
            for level, n in view.survey.levels.items()
        ]
    )
    rows = [
        [
            f"{dot(f'l{min(level, 4)}')}{level} {text(words.level(level, by_user=view.by_user))}",
            f"{n:,}",
            share(n, total),
        ]
        for level, n in view.survey.levels.items()
    ]
    body = bars + table(("Fallback level", "Sets #", "Share #"), rows, "Sets by fallback level")
    reasons = [[text(words.degraded(name)), f"{n:,}", share(n, total)] for name, n in view.survey.degraded.items()]
    if reasons:
        body += (
            '<div class="block">'
            + table(("Less than it could be", "Sets #", "Share #"), reasons, "Sets by what they lack")
            + "</div>"
        )
    return block("How personal the sets are", body, "Each set says honestly how personal it is.")


def _removed(view: SurfaceView) -> str:
    if not view.removed:
        return ""
    filters = {rule: n for rule, n in view.removed.items() if not rule.startswith(words.CHOICES)}
    choices = {rule: n for rule, n in view.removed.items() if rule.startswith(words.CHOICES)}
    body = _rules("Not allowed", filters) + _rules("Allowed, but not needed", choices)
    note = (
        f"What became of proposals that are in no set; {view.proposals:,} proposals came in, and one that many sets "
        "share counts once per set."
    )
    return block("Removed by rule", body, note)


def _rules(title: str, removed: Mapping[str, int]) -> str:
    rows = [
        [f'{text(words.rule(rule))} <code class="soft">{text(rule)}</code>', f"{n:,}", bar(n / max(removed.values()))]
        for rule, n in removed.items()
    ]
    return table((title, "Proposals #", ""), rows, title) if rows else ""


def _mix(view: SurfaceView) -> str:
    if not view.survey.mix:
        return ""
    types = [kind for kind in ITEM_TYPES if any(kind in mix for mix in view.survey.mix.values())]
    tone = {kind: f"t{ITEM_TYPES.index(kind)}" for kind in types}
    ordered = sorted(view.survey.mix.items(), key=lambda pair: (-sum(pair[1].values()), pair[0]))
    rows = [
        [
            text(words.market(market)),
            f"{sum(mix.values()):,}",
            stacked([(kind, mix.get(kind, 0), tone[kind]) for kind in types]) + _shares(mix, types),
        ]
        for market, mix in ordered[:_MARKETS]
    ]
    more = f" The {_MARKETS} largest of {len(ordered)} markets." if len(ordered) > _MARKETS else ""
    read, sets = view.survey.sets_read, view.sets.counters["sets"]
    over = f"Counted over {read:,} of {sets:,} sets." if read < sets else "Counted over every set."
    body = legend({kind: tone[kind] for kind in types}) + table(
        ("Market", "Candidates #", "Mix"), rows, "Candidates by market and item type"
    )
    return block("Item types by market", body + _familiarity(view), over + more)


def _shares(mix: Mapping[str, int], types: Sequence[str]) -> str:
    said = ", ".join(f"{kind} {share(mix[kind], sum(mix.values()))}" for kind in types if mix.get(kind))
    return f'<span class="soft small">{text(said)}</span>'


def _familiarity(view: SurfaceView) -> str:
    total = sum(view.survey.familiarity.values())
    named = ", ".join(
        f"{text(words.FAMILIARITY.get(k, k))} {share(n, total)}" for k, n in view.survey.familiarity.items()
    )
    return f'<p class="soft small">To their users: {named}.</p>' if total and view.by_user else ""


def _exposure(view: SurfaceView) -> str:
    n = view.exposure
    if not n or not view.curve.points:
        return ""
    gini, covered = n["gini_ppm"] / 1e6, n["covered_items"]
    facts = [
        f"<strong>{covered:,}</strong> items are in at least one set"
        + (
            f", <strong>{share(covered, view.eligible)}</strong> of {view.eligible:,} eligible ones."
            if view.eligible
            else "."
        ),
        f"Gini <strong>{gini:.3f}</strong> over these items: 0 is all equal, 1 is all on one.",
        f"The 100 items chosen most often hold <strong>{share(n['top100_slots_chosen'], n['slots_chosen'])}</strong> of"
        f" the {n['slots_chosen']:,} slots that are not the fallback source's.",
    ]
    listed = '<ul class="facts">' + "".join(f"<li>{fact}</li>" for fact in facts) + "</ul>"
    chart = lorenz(view.curve.points, f"Lorenz curve of candidates over items, Gini {gini:.3f}")
    said = '<p class="soft small">Items from the least to the most shown, against their share of all candidates.</p>'
    body = f'<div class="spread"><div>{chart}{said}</div><div>{listed}{_tops(view)}</div></div>'
    return block("Coverage and concentration", body)


def _tops(view: SurfaceView) -> str:
    most = max((chosen for _, _, chosen in view.top), default=1)
    rows = [
        [_titled(item, item.item_type), f"{chosen:,}", bar(chosen / most), f"{sets:,}"]
        for item, sets, chosen in view.top
    ]
    return table(("Chosen most often", "Sets #", "", "With fallback #"), rows, "Items in most sets") if rows else ""
