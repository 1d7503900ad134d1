"""The section of the report page on what was trained: how training went, and what each model is worth to whom."""

from collections.abc import Mapping, Sequence

from pipelines import report_words as words
from pipelines.charts import bar, line
from pipelines.experiments import Experiment
from pipelines.report_html import block, share, table, text

BY_SLICE = ("recall@20", "recall@100")
METRICS = (*BY_SLICE, "mrr@20")


def render_models(models: Sequence[Experiment]) -> str:
    """Return the section; nothing where nothing was trained."""
    if not models:
        return ""
    note = (
        "Each model was first trained without the latest listens and judged on them: for each person, or "
        "session, the last item, ranked among all items. Then it was trained on everything; that one serves."
    )
    shown = "".join(_model(model) for model in models)
    return f'<section id="models"><h2>Models</h2><p class="soft">{note}</p>{shown}</section>'


def _model(model: Experiment) -> str:
    said = [f"as of {text(model.date)}", f"on {text(model.device)}", f"run <code>{text(model.run[:12])}</code>"]
    said += [
        f"{text(words.metric(name))} <strong>{_figure(name, model.metrics[name])}</strong>"
        for name in METRICS
        if name in model.metrics
    ]
    curves = "".join(_curve(name, values) for name, values in model.curves.items())
    body = f'<div class="curves">{curves}</div>' if curves else ""
    return block(words.family(model.family), body + _slices(model.slices), ", ".join(said) + ".")


def _curve(name: str, values: Sequence[float]) -> str:
    word = words.metric(name)
    chart = line(values, f"{word} by epoch: {', '.join(f'{value:.3g}' for value in values)}")
    return f'<div>{chart}<p class="soft small">{text(word)} by epoch</p></div>'


def _figure(name: str, value: float) -> str:
    return share(value, 1.0) if name.startswith("recall") else f"{value:.3f}"


def _slices(slices: Mapping[str, Mapping[str, float]]) -> str:
    if not slices:
        return ""
    most = max(row[BY_SLICE[-1]] for row in slices.values()) or 1.0
    rows = [
        [
            text(words.part(name)),
            f"{row['contexts']:,.0f}",
            *(share(row[metric], 1.0) for metric in BY_SLICE),
            bar(row[BY_SLICE[-1]] / most),
        ]
        for name, row in sorted(slices.items(), key=lambda pair: words.place_of(pair[0]))
    ]
    heads = ("Part", "Listens #", *(f"{words.metric(name)} #" for name in BY_SLICE), "")
    return table(heads, rows, "Figures by part of the held-out listens")
