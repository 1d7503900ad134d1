"""Rank everything for many contexts, block by block: each family alone, and the fusion of all of them.

Memory: that of `score_blocks`, and the `DEPTH` best items of every context.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from benchmarks.protocols import Protocol
from transforms.embed.families import HeldOut, Model
from transforms.embed.fuse import Fusion
from transforms.embed.interactions import Interactions
from transforms.embed.pool import Describer
from transforms.evaluate import hits, top_items
from transforms.fuse import score_blocks

DEPTH = 300


@dataclasses.dataclass(frozen=True, slots=True)
class Fused:
    """A fusion, the families it is of, and which of them alone proposes; None: all do."""

    fusion: Fusion
    names: tuple[str, ...]
    proposer: str | None = None


def rank_alone(model: Model, examples: HeldOut, protocol: Protocol, depth: int = DEPTH) -> np.ndarray:
    """Return one family's ranking, `(num_contexts, depth) int32`."""
    blocks = score_blocks({"alone": model}, examples, protocol.seen_removed)
    return np.concatenate([top_items(block.scores["alone"], depth) for block in blocks])


def rank_all(
    models: Mapping[str, Model],
    describers: Mapping[str, Describer],
    fusions: Mapping[str, Fused],
    examples: HeldOut,
    protocol: Protocol,
) -> dict[str, np.ndarray]:
    """Return the rankings of every family and of every fusion, by name."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*models, *fusions)}
    for block in score_blocks(models, examples, protocol.seen_removed):
        for name, scores in block.scores.items():
            found[name].append(top_items(scores, DEPTH))
        for name, one in fusions.items():
            pool = block.pool(describers if one.fusion.trees else {}, one.names, one.proposer)
            found[name].append(pool.ranking(one.fusion.score(pool), DEPTH))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def figures(ranked: np.ndarray, targets: Interactions, protocol: Protocol) -> dict[str, float]:
    """Return the published metrics of a ranking, and its recall at 100 and 300."""
    found = hits(ranked, targets)
    named = {name: float(getattr(found, metric)(k).mean()) for name, metric, k in protocol.headline}
    return named | {f"R@{k}": float(found.recall(k).mean()) for k in (100, 300)}
