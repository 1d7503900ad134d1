"""Explain a published set, or one item: `python -m jobs.explain --surface home --user USER [--item ITEM]`."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence

from jobs.batch import guarded
from jobs.options import iso_date, leave
from pipelines.explain import explain
from pipelines.recommend import HOME, SURFACES
from pipelines.records import Question
from transforms.io.store import open_store

_RAW_FILES_SHOWN = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Print the explanation; 0 when there is one, 1 when there is nothing to explain, 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="jobs.explain", description="Why an item is in a published set, or is not.")
    parser.add_argument("--root", default=os.environ.get("ROOT", ".segue"), help="folder or gs:// address of the sets")
    parser.add_argument("--surface", required=True, choices=tuple(SURFACES), help="which sets")
    parser.add_argument("--user", help="whose Home set")
    parser.add_argument("--seed", "--item-seed", help="item whose Now Playing set: what follows it")
    parser.add_argument("--item", help="item to explain; the whole set where it is left out")
    parser.add_argument("--market", help="market of the seed's set, or of the default set of an unknown user")
    parser.add_argument("--tier", help="tier of the default set of an unknown user")
    parser.add_argument("--date", type=iso_date, help="logical date; what is live where it is left out")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(argv)
    key, wanted = (options.user, "--user") if options.surface == HOME else (options.seed, "--seed")
    if not key:
        parser.error(f"{options.surface} is asked about by {wanted}")
    date = options.date.isoformat() if options.date else None
    question = Question(options.surface, key, options.item, options.market, options.tier, date)
    return guarded(lambda: _run(options.root, question, options.format))


def _run(root: str, question: Question, shape: str) -> int:
    answer = explain(open_store(root), question)
    print(
        json.dumps(answer, indent=1, sort_keys=True, ensure_ascii=False)
        if shape == "json"
        else "\n".join(lines(answer))
    )
    return 0


def lines(answer: Mapping) -> list[str]:
    """Return an explanation as a person reads it."""
    published, shown = answer["published"], answer["set"]
    state = "live" if published["live"] else "not live"
    key = " ".join(filter(None, [shown["record_key"], shown["context_key"]]))
    valid_in = f"market {shown['market']}, tier {shown['tier']}"
    head = [f"{answer['surface']} {key}, {published['logical_date']} ({state}), {valid_in}"]
    head += [f"  {answer['note']}"] if answer["note"] else []
    counts = f"  {shown['counts']['in']:,} proposals, {shown['counts']['out']} candidates"
    head.append(", ".join([counts, f"fallback level {shown['fallback_level']}", *shown["degraded_reasons"]]))
    head.append(f"  valid {shown['effective_from']} to {shown['expires_at']}, set {shown['candidate_set_id']}")
    body = _item_lines(answer["item"]) if answer["item"] else _set_lines(shown)
    check = (
        [f"\n  check    {answer['verification']['outcome']}: {answer['verification']['message']}"]
        if answer["item"]
        else []
    )
    return [*head, "", *body, *check, *_lineage_lines(answer["lineage"])]


def _set_lines(shown: Mapping) -> list[str]:
    rows = [f"  {'#':>3}  {'title':<44} {'artist':<26} {'type':<9} {'reason':<21} sources"]
    for one in shown["candidates"]:
        title, artist = _cut(one["title"] or one["item_id"], 44), _cut(one["artist"] or "", 26)
        sources = ", ".join(source.split(".", 1)[-1] for source in one["sources"])
        rows.append(
            f"  {one['position']:>3}  {title:<44} {artist:<26} {one['item_type']:<9} {one['reason']:<21} {sources}"
        )
    counted = ", ".join(f"{row['rule']} {row['count']:,}" for row in shown["counts"]["filtered_by_rule"])
    return [*rows, "", f"  removed  {counted or 'nothing'}"]


def _item_lines(item: Mapping) -> list[str]:
    said = {
        "in": f"IN, at position {item['position']}",
        "removed": "NOT IN: it was proposed and removed",
        "not_proposed": "NOT IN: no source proposed it",
        "unknown": "NOT IN: why cannot be told any more",
    }[item["verdict"]]
    by = f" by {item['artist']}" if item["artist"] else ""
    rows = [f"  {item['item_id']}  {item['title'] or 'not in the catalogue'}{by}", f"  {said}", ""]
    rows += [line for source in item["sources"] for line in _source_lines(source)]
    if item.get("is_exploration"):
        rows.append(f"           drawn by lot with probability {item['propensity']:.4g} from {item['stratum']}")
    if item.get("fatigued"):
        rows.append("           shown or played too often lately: its chance counts half")
    title = "not by" if item["verdict"] == "in" else "because"
    for removal in item["removals"]:
        number = "" if removal["detail"] is None else f" [{removal['detail']:g}]"
        rows.append(f"  {title:<8} {removal['rule']}{number} ({removal['source_id']}): {removal['why']}")
        rows.append(f"           would take: {removal['to_change']}")
    return rows + [line for one in item["asked"] for line in _asked_lines(one)]


def _source_lines(source: Mapping) -> list[str]:
    score = f"{source['score_kind']} {source['raw_score']:.6g}, calibrated {source['calibrated_score']:.4f}"
    rows = [f"  source   {source['source_id']}: rank {source['source_rank']}, {score}"]
    rows += [f"           from {seed['item_id']}  {seed['title'] or ''}{_by(seed)}" for seed in source["seeds"]]
    rows += [f"           last played {source['seed_event_ts']}"] if source["seed_event_ts"] else []
    artifact = source["artifact"]
    where = (
        f"{artifact['dataset']} {artifact['run']} ({artifact['manifest']})"
        if artifact
        else "the catalogue and the user's follows"
    )
    return [*rows, f"           rests on {where}"]


def _asked_lines(one: Mapping) -> list[str]:
    if one["rank"] is None:
        found = f"finds {one['found']:,} items, this one is not among them"
    else:
        found = f"finds it at rank {one['rank']:,} of {one['found']:,} (score {one['raw_score']:.6g})"
    found += f"; proposed {one['proposed']:,}"
    scores = f", scores {one['best_score']:.6g} to {one['worst_score']:.6g}" if one["proposed"] else ""
    rows = [f"  {one['source_id']:<22} {found}{scores}", f"  {'':<22} {one['proposes']}"]
    barred = one["would_be_removed"]
    return rows + ([f"  {'':<22} it would be removed anyway: {barred['rule']}, {barred['why']}"] if barred else [])


def _lineage_lines(lineage: Sequence[Mapping]) -> list[str]:
    raw = {
        (ref["path"], ref["digest"]): ref["name"]
        for node in lineage
        for ref in node["inputs"]
        if ref["name"].startswith("raw_")
    }
    rows = ["\n  made from"]
    for node in lineage:
        name = " ".join(filter(None, [node["dataset"], node["qualifier"]]))
        rows.append(f"    {name:<24} {node['rows']:>12,} rows  {node['digest'][:12]}  {node['manifest']}")
    files = sorted(raw.items(), key=lambda entry: (entry[1], entry[0]))
    rows += [f"    {name:<24} {digest[:12]}  {path}" for (path, digest), name in files[:_RAW_FILES_SHOWN]]
    more = len(files) - _RAW_FILES_SHOWN
    return rows + ([f"    and {more:,} more raw files; --format json names them all"] if more > 0 else [])


def _by(item: Mapping) -> str:
    return f" by {item['artist']}" if item["artist"] else ""


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


if __name__ == "__main__":
    leave(main())
