"""Judge an index by what its stage measured. Thresholds are in `thresholds.toml`, section `index`."""

import re
from collections.abc import Iterator, Mapping

from schemas.manifest import CheckResult, Manifest
from validation.checks import graded, percent, skipped
from validation.thresholds import IndexThresholds

_OF_SLICE = re.compile(r"wanted\[(.*)\]")


def judge_index(manifest: Manifest, limits: IndexThresholds) -> Iterator[CheckResult]:
    """Yield that all items are in it, once, and that it finds what an exact search finds, everywhere."""
    counters = manifest.counters
    yield _ids(manifest)
    recall, wanted = _recall(counters, ""), counters.get("wanted", 0)
    message = f"recall@100 is {percent(recall)} of {wanted:,} neighbours: {_INSTEAD}"
    threshold, block = f"B < {percent(limits.recall)}", recall < limits.recall
    yield graded("recall", recall, threshold, wanted, block=block, message=message)
    yield _slices(counters, limits)
    padded = sum(count for name, count in counters.items() if name.startswith("padded"))
    message = f"{padded:,} neighbours were not found though there are as many: {_INSTEAD}"
    yield graded("padding", padded, "0", wanted, block=padded > 0, message=message)
    asked = counters.get("asked_itself", 0)
    share = counters.get("itself", 0) / max(asked, 1)
    message = f"only {percent(share)} of {asked:,} items find themselves first: {_INSTEAD}"
    threshold, block = f"B < {percent(limits.self_retrieval)}", share < limits.self_retrieval
    yield graded("self_retrieval", share, threshold, asked, block=block, message=message)


_INSTEAD = 'set index = "exact" in [road] of the policy and run again; then look at how the vectors are spread'


def _ids(manifest: Manifest) -> CheckResult:
    counters, rows = manifest.counters, manifest.rows_in
    differ = (counters.get("ids", 0) - counters.get("ids_given", 0)) % 2**64 != 0
    repeated, listed = counters.get("repeated", 0), counters.get("listed", 0)
    message = (
        f"{listed:,} of {rows:,} items are in the index, {repeated:,} of them repeated, and their ids are"
        f" {'others than' if differ else 'those that'} were embedded: delete the item vectors of this date and run again"
    )
    bad = differ or repeated > 0 or listed != rows or not rows
    return graded("index_ids", listed, "all embedded items, each once", rows, block=bad, message=message)


def _slices(counters: Mapping[str, int], limits: IndexThresholds) -> CheckResult:
    found = {name[1]: _recall(counters, f"[{name[1]}]") for name in map(_OF_SLICE.fullmatch, counters) if name}
    if not found:
        return skipped("slice_recall", f"no market has {limits.slice_items:,} items of a type")
    worst = min(found, key=lambda name: (found[name], name))
    message = f"recall@100 among {worst} is {percent(found[worst])}: {_INSTEAD}"
    threshold, block = f"B < {percent(limits.slice_recall)}", found[worst] < limits.slice_recall
    return graded("slice_recall", found[worst], threshold, len(found), block=block, message=message)


def _recall(counters: Mapping[str, int], of: str) -> float:
    return counters.get(f"hits{of}", 0) / max(counters.get(f"wanted{of}", 0), 1)
