"""Rank everything for many contexts, block by block: each family alone, and the fusion of all of them.

Memory: `AT_ONCE` contexts times all items, 4 bytes each, per family; and the `DEPTH` best items of every context.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from benchmarks.protocols import Protocol
from transforms.embed.families import HeldOut, Model
from transforms.embed.fuse import Fusion, FusionSettings, fit_fusion
from transforms.embed.interactions import Interactions
from transforms.embed.pool import Describer, Pool, build_pool
from transforms.evaluate import hits, top_items, without

AT_ONCE = 128
DEPTH = 300
PROPOSED = 300
"""Candidates each family gives to the fusion: what a ranker would be handed by one source."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fused:
    """A fusion, the families it is of, and which of them alone proposes; None: all do."""

    fusion: Fusion
    names: tuple[str, ...]
    proposer: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A block of contexts, with what every family says of every item."""

    contexts: Interactions
    targets: Interactions
    scores: dict[str, np.ndarray]

    def pool(self, describers: Mapping[str, Describer], names: tuple[str, ...], proposer: str | None = None) -> Pool:
        """Return the candidates of some families, or of one of them, described by all of these."""
        found = build_pool(self.contexts, {name: self.scores[name] for name in names}, PROPOSED, describers)
        if proposer is None:
            return found
        return found.keep(found.features[:, found.names.index(f"{proposer}.share")] > 0)


def score_blocks(models: Mapping[str, Model], examples: HeldOut, protocol: Protocol) -> Iterator[Block]:
    """Yield the contexts in blocks, scored by every model; what must not be ranked is -inf."""
    for span, contexts in examples.contexts.blocks(AT_ONCE):
        scores = {name: np.asarray(model.score(contexts), np.float32) for name, model in models.items()}
        if protocol.seen_removed:
            scores = {name: without(found, contexts) for name, found in scores.items()}
        targets = examples.targets.take(np.arange(span.start, span.stop))
        yield Block(contexts, targets, scores)


def rank_alone(model: Model, examples: HeldOut, protocol: Protocol, depth: int = DEPTH) -> np.ndarray:
    """Return one family's ranking, `(num_contexts, depth) int32`."""
    blocks = score_blocks({"alone": model}, examples, protocol)
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
    for block in score_blocks(models, examples, protocol):
        for name, scores in block.scores.items():
            found[name].append(top_items(scores, DEPTH))
        for name, one in fusions.items():
            pool = block.pool(describers if one.fusion.trees else {}, one.names, one.proposer)
            found[name].append(pool.ranking(one.fusion.score(pool), DEPTH))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def fit_on(
    models: Mapping[str, Model], describers: Mapping[str, Describer], examples: HeldOut, protocol: Protocol,
    settings: FusionSettings, names: tuple[str, ...],
) -> Fused:  # fmt: skip
    """Fit a fusion of some families on examples that none of them has seen."""
    blocks = score_blocks({name: models[name] for name in names}, examples, protocol)
    return Fused(fit_fusion(((block.pool(describers, names), block.targets) for block in blocks), settings), names)


def figures(ranked: np.ndarray, targets: Interactions, protocol: Protocol) -> dict[str, float]:
    """Return the published metrics of a ranking, and its recall at 100 and 300."""
    found = hits(ranked, targets)
    named = {name: float(getattr(found, metric)(k).mean()) for name, metric, k in protocol.headline}
    return named | {f"R@{k}": float(found.recall(k).mean()) for k in (100, 300)}
