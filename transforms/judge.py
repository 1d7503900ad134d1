"""What a fitted family is worth on held-out listens: over all of them, and by slices that fail on their own.

Memory: `SCORES_AT_ONCE` scores of 4 bytes, or those of one context over all items.
"""

from typing import Any

import numpy as np
import polars as pl

from transforms.embed.families import HeldOut
from transforms.embed.interactions import Interactions
from transforms.evaluate import hits, top_items, without

SCORES_AT_ONCE, CONTEXTS_AT_ONCE = 2**25, 256
DEPTH = 100
LENGTHS = (5, 20)
"""A history is short up to the first, long beyond the second."""
PLAYS = (0, 9, 99)
"""An item is new, rare, known or popular by its listens in what was learnt from."""


def judge(model: Any, held_out: HeldOut, items: pl.DataFrame, before: Interactions) -> dict[str, float]:
    """Return recall and MRR over all held-out listens, and `contexts` and recall by slice, `recall@100[plays=0]`.

    Args:
      items: `item_type` of the numbered items. `before`: what the model has learnt from.
    """
    size = max(1, min(CONTEXTS_AT_ONCE, SCORES_AT_ONCE // before.num_items))
    ranked = [
        top_items(without_seen(model, block, held_out, span), DEPTH) for span, block in held_out.contexts.blocks(size)
    ]
    found = hits(np.concatenate(ranked), held_out.targets)
    whole = {f"recall@{k}": found.recall(k) for k in (20, DEPTH)} | {"mrr@20": found.reciprocal_rank(20)}
    figures = {name: float(values.mean()) for name, values in whole.items()}
    for slice_, rows in slices(held_out, items, before).items():
        figures[f"contexts[{slice_}]"] = float(rows.sum())
        figures |= {f"recall@{k}[{slice_}]": float(whole[f"recall@{k}"][rows].mean()) for k in (20, DEPTH)}
    return figures


def slices(held_out: HeldOut, items: pl.DataFrame, before: Interactions) -> dict[str, np.ndarray]:
    """Return which contexts are in which slice, `(num_contexts,) bool`, each of at least one; targets are of one item."""
    targets = held_out.targets.items
    plays = np.bincount(before.items[before.weights > 0], minlength=before.num_items)[targets]
    types = items["item_type"].to_numpy()[targets]
    found = {f"type={kind}": types == kind for kind in np.unique(types)}
    found |= _steps("listens", held_out.contexts.lengths, (1, *LENGTHS)) | _steps("plays", plays, (0, *PLAYS))
    return {name: rows for name, rows in found.items() if rows.any()}


def _steps(name: str, values: np.ndarray, bounds: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the rows from the first bound up to the second, up to each further one, and those beyond the last."""
    first, *ends = bounds
    place, firsts = np.searchsorted(ends, values), (first, *(end + 1 for end in ends))
    said = [f"{low}" if low == high else f"{low}-{high}" for low, high in zip(firsts, ends)] + [f"{firsts[-1]}+"]
    return {f"{name}={one}": place == number for number, one in enumerate(said)}


def without_seen(model: Any, block: Interactions, held_out: HeldOut, span: slice) -> np.ndarray:
    """Return a block's scores without what its contexts hold, unless that is what came next."""
    scores = model.score(block)
    targets = held_out.targets.items[span]
    rows = np.arange(len(block))
    kept = scores[rows, targets]
    scores = without(scores, block)
    scores[rows, targets] = kept
    return scores
