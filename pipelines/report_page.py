"""The report page: one HTML file that needs nothing else, rendered from a gathered `Report`."""

import datetime
import functools
from collections.abc import Mapping
from pathlib import Path

from pipelines import report_words as words
from pipelines.charts import Edge, Node, bar, flow
from pipelines.overlay import OVERLAY
from pipelines.report import Rejected, Report, StageView, SurfaceView
from pipelines.report_evaluation import render_evaluations
from pipelines.report_html import block, count, details, seconds, share, size, table, text
from pipelines.report_models import render_models
from pipelines.report_surface import render_surface, source_colours
from schemas.manifest import CheckResult, InputRef, Manifest

RAW = "raw_"
STREAM, STREAM_TITLE = "stream", "Stream, the last day"
SHORT = 12
RAW_FILES_SHOWN = 500
_TONES = {"failed": "bad", "broken": "bad", "waived": "mild", "passed": "ok"}
_MARKS = {"failed": "✗", "broken": "!", "waived": "◦", "passed": "✓"}


@functools.cache
def style() -> str:
    """Return the style sheet."""
    return Path(__file__).with_name("report.css").read_text(encoding="utf-8")


def render(report: Report) -> str:
    """Return the page of a date."""
    colours = source_colours(report.surfaces)
    surfaces = "".join(render_surface(surface, colours) for surface in report.surfaces)
    sections = [
        _head(report),
        _road(report),
        surfaces,
        render_evaluations(report.evaluations),
        render_models(report.models),
        _checks(report),
        _rejections(report),
        _lineage(report),
    ]
    foot = (
        f"<footer>Code {text(report.code_version)}, policy {text(report.policy_version)},"
        f" {count(report.num_shards, 'shard')}, {text(report.run_mode)} run. Ids of people are cut to their first"
        " characters.</footer>"
    )
    return page(f"Segue {report.day}", "".join(sections) + foot)


def render_dates(days: list[str]) -> str:
    """Return the list of the dates that have a page, the latest first, after that of the stream if it has one."""
    named = {day: STREAM_TITLE if day == STREAM else _long(day) for day in sorted(days, reverse=True)}
    items = "".join(f'<li><a href="{text(day)}/index.html">{text(name)}</a></li>' for day, name in named.items())
    return page(
        "Segue reports", f'<header><p class="brand">Segue</p><h1>Reports</h1></header><ul class="facts">{items}</ul>'
    )


def page(title: str, body: str) -> str:
    """Wrap a body into a document."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style()}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def _long(day: str) -> str:
    date = datetime.date.fromisoformat(day)
    return f"{date.day} {date:%B %Y}"


def _head(report: Report) -> str:
    sections = [("road", "Road"), *((s.name, words.surface(s.name)) for s in report.surfaces)]
    sections += [("evaluation", "Evaluation")] if report.evaluations else []
    sections += [("models", "Models")] if report.models else []
    sections += [("checks", "Checks"), ("rejections", "Rejections"), ("lineage", "Lineage")]
    links = "".join(f'<li><a href="#{text(anchor)}">{text(name)}</a></li>' for anchor, name in sections)
    return (
        f'<header><a class="skip" href="#road">Skip to the road</a><p class="brand">Segue candidate sets</p>'
        f'<h1>{text(_long(report.day))}</h1><p class="lead">{_lead(report)}</p>{_figures(report)}'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
    )


def _lead(report: Report) -> str:
    surfaces = " ".join(
        f"{text(words.surface(s.name))} is {text(words.released(s.released))}:"
        f" {count(s.sets.rows_out, 'candidate set')}."
        for s in report.surfaces
    )
    unhappy = _unhappy(report)
    if not unhappy:
        return f"{surfaces} Every check passed."
    waived = sum(check.outcome == "waived" for _, check in unhappy)
    warned = len(unhappy) - waived
    said = " and ".join(
        filter(None, [count(warned, "warning") if warned else "", count(waived, "waiver") if waived else ""])
    )
    return f'{surfaces} <a href="#checks">{said}</a> to look at.'


def _figures(report: Report) -> str:
    by_name = {stage.manifest.dataset: stage.manifest for stage in report.stages}
    checks = [check for stage in report.stages for check in stage.manifest.checks]
    rejected = sum(rejection.rows for rejection in report.rejections)
    ran = [stage for stage in report.stages if not stage.skipped]
    figures = [
        ("Events", f"{by_name['event'].rows_out:,}", f"{rejected:,} rows rejected") if "event" in by_name else None,
        ("Catalogue", f"{by_name['item'].rows_out:,}", "items") if "item" in by_name else None,
        ("Candidate sets", f"{sum(s.sets.rows_out for s in report.surfaces):,}", _candidates(report)),
        ("Checks passed", f"{sum(c.outcome == 'passed' for c in checks):,}", f"of {len(checks):,}"),
        ("Time", seconds(sum(stage.seconds for stage in ran)), f"{len(ran)} of {len(report.stages)} stages ran"),
        ("Peak memory", size(max((stage.peak_bytes for stage in ran), default=0)), "all processes together"),
    ]
    cells = "".join(f"<div><dt>{a}</dt><dd>{b} <small>{c}</small></dd></div>" for a, b, c in filter(None, figures))
    return f'<dl class="figures">{cells}</dl>'


def _candidates(report: Report) -> str:
    return f"{sum(s.sets.counters['slots'] for s in report.surfaces):,} candidates"


def _unhappy(report: Report) -> list[tuple[StageView, CheckResult]]:
    order = {"failed": 0, "broken": 0, "waived": 1}
    found = [(s, c) for s in report.stages for c in s.manifest.checks if c.outcome in order]
    return sorted(found, key=lambda pair: (order[pair[1].outcome], pair[1].severity != "critical"))


def _road(report: Report) -> str:
    nodes, edges = road_graph(report)
    label = f"From raw files through {len(report.stages)} stages to what is live; the table below has every figure"
    note = (
        "What each stage wrote, in rows. A line is the thicker the more rows it carries; inputs that a longer way "
        "implies are left out. Dashed boxes were no part of the run."
    )
    most = max((stage.seconds for stage in report.stages), default=0.0) or 1.0
    rows = [_stage(stage, most) for stage in report.stages]
    heads = ("Stage", "Rows in #", "Rows out #", "Rejected #", "Checks #", "Time #", "", "Peak memory #")
    return (
        f'<section id="road"><h2>The road</h2><p class="soft">{note}</p>'
        f'<div class="scroll" role="region" aria-label="Flow picture" tabindex="0">{flow(nodes, edges, label)}</div>'
        f"{table(heads, rows, 'Stages with rows, checks, time and memory')}</section>"
    )


def _stage(stage: StageView, most: float) -> list[str]:
    m = stage.manifest
    passed, rejected = sum(c.outcome == "passed" for c in m.checks), sum(m.rejected.values())
    took = f'<span class="soft">{_skipped(stage)}</span>' if stage.skipped else seconds(stage.seconds)
    tone = "" if passed == len(m.checks) else ' class="mild"'
    return [
        f"{text(_title(m))}{_of(m)}",
        f"{m.rows_in:,}",
        f"{m.rows_out:,}",
        f"{rejected:,}" if rejected else "",
        f"<span{tone}>{passed:,} of {len(m.checks):,}</span>",
        took,
        "" if stage.skipped else bar(stage.seconds / most),
        "" if stage.skipped else size(stage.peak_bytes),
    ]


def _skipped(stage: StageView) -> str:
    """Say why a stage was not part of the run."""
    return "made since" if stage.label == OVERLAY else "unchanged"


def _title(manifest: Manifest) -> str:
    return words.dataset(manifest.dataset)


def _of(manifest: Manifest) -> str:
    said = words.qualifier(manifest.dataset, manifest.qualifier)
    return f' <span class="soft">{text(said)}</span>' if said else ""


def road_graph(report: Report) -> tuple[list[Node], list[Edge]]:
    """Return the boxes and lines of the flow picture: raw folders, stages, and what is live."""
    nodes, edges = dict[str, Node](), list[Edge]()
    stages = {stage.manifest.path: stage for stage in report.stages}
    for path, stage in stages.items():
        for name, files in _raw_inputs(stage.manifest).items():
            shown = count(len(files), "file")
            nodes[name] = Node(name, "raw", words.dataset(name.removeprefix(RAW)), shown, "", "raw")
            edges.append((name, path, stage.manifest.rows_in))
        nodes[path] = _node(path, stage)
        edges += [(ref.path, path, ref.rows or 0) for ref in stage.manifest.inputs if ref.path in stages]
    for surface in report.surfaces:
        name, last = f"live/{surface.name}", surface.sets.path
        last = next(
            (p for p, s in stages.items() if s.manifest.dataset == "exposure" and s.manifest.qualifier == surface.name),
            last,
        )
        state = "live" if "live" in words.released(surface.released).split(",")[0].split(" ")[:1] else "not live"
        nodes[name] = Node(name, "", words.surface(surface.name), count(surface.sets.rows_out, "set"), state, "live")
        edges.append((last, name, surface.sets.rows_out))
    return list(nodes.values()), edges


def _node(path: str, stage: StageView) -> Node:
    m, rejected = stage.manifest, sum(stage.manifest.rejected.values())
    calm = all(check.outcome == "passed" for check in m.checks)
    note = f"{rejected:,} rejected" if rejected else _skipped(stage) if stage.skipped else seconds(stage.seconds)
    kicker = words.qualifier(m.dataset, m.qualifier)
    tone = "warned" if not calm else "skipped" if stage.skipped else "ran"
    return Node(path, kicker, _title(m), f"{m.rows_out:,} rows", note, tone)


def _raw_inputs(manifest: Manifest) -> dict[str, list[InputRef]]:
    found: dict[str, list[InputRef]] = {}
    for ref in manifest.inputs:
        if ref.name.startswith(RAW):
            found.setdefault(ref.name, []).append(ref)
    return found


def _checks(report: Report) -> str:
    calls = "".join(_call(stage, check) for stage, check in _unhappy(report)) or "<p>Every check passed.</p>"
    folded = "".join(_checks_of(stage) for stage in report.stages)
    total = sum(len(stage.manifest.checks) for stage in report.stages)
    note = (
        f"{total:,} checks in three layers: row rules, statistics, expectations. A critical one that fails stops the "
        "run; what is listed first did not pass and did not stop it. W: beyond it a warning; B: beyond it a stop."
    )
    return (
        f'<section id="checks"><h2>Checks</h2><p class="soft">{note}</p>{calls}'
        f"{block('Every check by stage', folded)}</section>"
    )


def _call(stage: StageView, check: CheckResult) -> str:
    stop = " stop" if check.outcome in ("failed", "broken") and check.severity == "critical" else ""
    name = f"{text(_title(stage.manifest))}{_of(stage.manifest)}: <code>{text(check.name)}</code>"
    return (
        f'<div class="call{stop}"><strong>{name}</strong> '
        f"{_outcome(check)}, {_figure(check)} against {text(check.threshold)}.<br>"
        f'<span class="soft">{text(check.message)}</span></div>'
    )


def _outcome(check: CheckResult) -> str:
    said = words.OUTCOMES[check.outcome]
    said = "warning" if check.outcome == "failed" and check.severity == "warning" else said
    return f'<span class="nowrap {_TONES[check.outcome]}">{_MARKS[check.outcome]} {said}</span>'


def _figure(check: CheckResult) -> str:
    """Say what was observed: a number `of` all, or a share with the number it was taken over."""
    if check.observed is None or isinstance(check.observed, str):
        return text(check.observed or "")
    if isinstance(check.observed, int):
        return f"{check.observed:,}" + (f" of {check.of:,}" if check.of is not None else "")
    return f"{check.observed:,.4g}" + (f", n = {check.of:,}" if check.of is not None else "")


def _checks_of(stage: StageView) -> str:
    checks = stage.manifest.checks
    order = {"failed": 0, "broken": 1, "waived": 2, "passed": 3}
    ordered = sorted(checks, key=lambda check: order[check.outcome])
    rows = [
        [
            f"<code>{text(c.name)}</code>",
            _outcome(c),
            _figure(c),
            text(c.threshold),
            f'<span class="nowrap">{text(c.severity)}, {text(c.layer)}</span>',
        ]
        for c in ordered
    ]
    passed = sum(check.outcome == "passed" for check in checks)
    tone = "soft" if passed == len(checks) else "mild"
    name = f"{text(_title(stage.manifest))}{_of(stage.manifest)}"
    summary = f'{name} <span class="{tone}">{passed:,} of {len(checks):,} passed</span>'
    return details(summary, table(("Check", "Outcome", "Figure #", "Threshold", "Kind"), rows, "Checks of one stage"))


def _rejections(report: Report) -> str:
    total = sum(rejected.rows for rejected in report.rejections)
    if not total:
        body = "<p>No row was rejected.</p>"
    else:
        most = max(rejected.rows for rejected in report.rejections)
        rows = [
            [
                f"{text(words.dataset(r.dataset))} <code>{text(r.rule)}</code>",
                f"{r.rows:,}",
                bar(r.rows / most),
                share(r.rows, r.of),
                details("examples", _rejected(r)) if r.shown else "",
            ]
            for r in report.rejections
        ]
        body = table(("Cause", "Rows #", "", "Of rows in #", "Examples"), rows, "Rejected rows by cause")
    note = "Rows kept out, by the first rule they broke, with up to three examples each. Private fields are removed."
    return f'<section id="rejections"><h2>Rejections</h2><p class="soft">{note}</p>{body}</section>'


def _rejected(rejected: Rejected) -> str:
    return "".join(
        f'<p class="small">{text(row.source)}, row {row.position:,}: {text(row.detail)}</p>'
        + (f"<pre><code>{text(row.payload)}</code></pre>" if row.payload else "")
        for row in rejected.shown
    )


def _lineage(report: Report) -> str:
    stages = list({stage.manifest.path: stage for stage in reversed(report.stages)}.values())  # two may ask for one
    anchors = {stage.manifest.path: f"data-{i}" for i, stage in enumerate(stages)}
    titles = {stage.manifest.path: f"{_title(stage.manifest)}{_of(stage.manifest)}" for stage in stages}
    rows = [_live(surface, anchors) for surface in report.surfaces]
    rows += [_dataset(stage.manifest, anchors, titles) for stage in stages]
    raw = "".join(
        _raw_files(name, files) for stage in report.stages for name, files in _raw_inputs(stage.manifest).items()
    )
    note = (
        "From what was published back to the files it came from. A run is the digest of a stage's code, "
        "configuration and inputs; equal digests of data are equal rows."
    )
    ids = [*(f"live-{surface.name}" for surface in report.surfaces), *anchors.values()]
    heads = ("Dataset", "Rows #", "Files #", "Size #", "Run", "Data digest", "Made from")
    listed = table(heads, rows, "Datasets from output back to input", ids=ids)
    return (
        f'<section id="lineage"><h2>Lineage</h2><p class="soft">{note}</p>{listed}'
        f"{block('Raw files', raw or '<p>None.</p>')}</section>"
    )


def _live(surface: SurfaceView, anchors: Mapping[str, str]) -> list[str]:
    made = f'<a href="#{anchors[surface.sets.path]}">{text(_title(surface.sets))}{_of(surface.sets)}</a>'
    state = f'<span class="soft">{text(words.released(surface.released))}</span>'
    name = f"{text(words.surface(surface.name))} {state}"
    return [name, f"{surface.sets.rows_out:,}", "", "", "", "", made]


def _dataset(manifest: Manifest, anchors: Mapping[str, str], titles: Mapping[str, str]) -> list[str]:
    made = [
        f'<a href="#{anchors[ref.path]}">{titles[ref.path]}</a>'
        for ref in manifest.inputs
        if ref.path in anchors and ref.path != manifest.path
    ]
    made += [
        f'<a href="#{text(name)}">{text(words.dataset(name))}</a>, {count(len(files), "file")}'
        for name, files in _raw_inputs(manifest).items()
    ]
    return [
        f'<span title="{text(manifest.path)}">{text(_title(manifest))}{_of(manifest)}</span>',
        f"{manifest.rows_out:,}",
        f"{len(manifest.files):,}",
        size(sum(file.bytes for file in manifest.files)),
        f'<code class="nowrap">{text(manifest.run[:SHORT])}</code>',
        f'<code class="nowrap">{text(manifest.digest[:SHORT])}</code>',
        " · ".join(made) or '<span class="soft">no files were given</span>',
    ]


def _raw_files(name: str, files: list[InputRef]) -> str:
    rows = [
        [f"<code>{text(ref.path)}</code>", f"<code>{text(ref.digest[:SHORT])}</code>"]
        for ref in files[:RAW_FILES_SHOWN]
    ]
    more = len(files) - RAW_FILES_SHOWN
    rest = f'<p class="soft">and {count(more, "file")} more, in the manifest of the stage</p>' if more > 0 else ""
    listed = table(("File", "Digest"), rows, f"Files of {words.dataset(name)}") + rest
    summary = f"{text(words.dataset(name))}, {count(len(files), 'file')}"
    return f'<div id="{text(name)}">{details(summary, listed)}</div>'
