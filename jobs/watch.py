"""Show the current set of one user as they listen: `python -m jobs.watch --user USER`."""

import argparse
import datetime
import sys
from collections.abc import Callable, Mapping, Sequence

from jobs.batch import guarded
from jobs.broker import add_broker, same_broker
from jobs.options import leave, now
from pipelines.publish import read_pointer
from pipelines.recommend import NOW_PLAYING, SURFACES
from pipelines.records import Catalogue
from pipelines.runner import load_manifest
from transforms.io.store import open_store
from transforms.stream.messages import decode_set, supersedes

_SHOWN, _WAIT_S = 15, 30.0
Names = Callable[[Sequence[str]], Mapping[str, Mapping]]


def main(argv: Sequence[str] | None = None) -> int:
    """Print each set as it is published; 0 when interrupted or when enough came, 1 when it could not, 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="jobs.watch", description=(__doc__ or "").split(":")[0])
    add_broker(parser)
    parser.add_argument("--user", required=True, help="whose set")
    parser.add_argument(
        "--surface", default=NOW_PLAYING, choices=sorted(SURFACES), help=f"of which surface ({NOW_PLAYING})"
    )
    parser.add_argument("--sets", type=int, help="end after so many sets")
    options = parser.parse_args(argv)
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    names = titles(options.root)
    before: Mapping = {}
    with same_broker(options.root, options.project) as broker, broker.watching(options.user) as received:
        print(f"  waiting for a set of {options.user}; Ctrl-C ends it", file=sys.stderr, flush=True)
        left = options.sets
        try:
            while left is None or left > 0:
                mine = (one for one in received(_WAIT_S) if one.attributes.get("surface") == options.surface)
                for message in sorted(mine, key=lambda one: int(one.attributes["sequence"])):
                    found = decode_set(message.data)
                    if before and not supersedes(found, before):
                        continue
                    print("\n".join(lines(found, before, names, message.published_s)), flush=True)
                    before, left = found, None if left is None else left - 1
        except KeyboardInterrupt:
            return 0
    return 0


def titles(root: str) -> Names:
    """Return how to name items: by the catalogue of what is live; by nothing where that is not at hand."""
    store = open_store(root)
    pointer = read_pointer(store, NOW_PLAYING)
    if pointer is None:
        return lambda ids: {}
    items = [ref for ref in load_manifest(store, pointer.manifest).inputs if ref.name == "item"]
    return Catalogue(store, load_manifest(store, items[0].path)).named if items else lambda ids: {}


def lines(found: Mapping, before: Mapping, names: Names, published_s: float) -> list[str]:
    """Return a set as a person reads it; `+` marks what was not in the set before."""
    context, candidates = found["context"], found["candidates"]
    shown = candidates[:_SHOWN]
    named = names([one["item_id"] for one in shown] + [context["seed_item_id"]])
    known = {one["item_id"] for one in before.get("candidates", ())}
    age = now().timestamp() - published_s
    rows = [
        "",
        f"{found['user_id']}  after {_name(named, context['seed_item_id'])}  {context['last_event_ts']}",
        f"  {len(candidates)} candidates, fallback level {found['fallback_level']}, bundle {found['bundle_id']}, sequence"
        f" {found['sequence']}, published {datetime.timedelta(seconds=round(age))} ago"
        + "".join(f", {reason}" for reason in found["degraded_reasons"]),
    ]
    for one in shown:
        mark = " " if one["item_id"] in known or not before else "+"
        sources = ", ".join(source["source_id"].split(".", 1)[-1] for source in one["sources"])
        name = _name(named, one["item_id"])
        rows.append(
            f" {mark}{one['position']:>3}  {name[:60]:<60} {one['item_type']:<9} {one['reason_code']:<18} {sources}"
        )
    return rows


def _name(named: Mapping[str, Mapping], item_id: str | None) -> str:
    known = named.get(item_id or "", {})
    by = f" by {known['artist']}" if known.get("artist") else ""
    return f"{known.get('title') or item_id or 'nothing'}{by}"


if __name__ == "__main__":
    leave(main())
