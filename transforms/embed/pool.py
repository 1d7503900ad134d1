"""Candidates of contexts with what is known of each: the united best of several families, and their scores as features.

Memory: 4 bytes per candidate and feature, 8 besides; a hundred contexts of five hundred candidates and fifty features
are 10 MB.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from transforms.embed.interactions import Interactions, join_rows


class Describer(Protocol):
    """What knows more of a candidate than its score."""

    def features(self, contexts: Interactions, candidates: Interactions) -> dict[str, np.ndarray]:
        """Return `(num_candidates,) float32` by name; row r of `candidates` belongs to row r of `contexts`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """Candidates of contexts.

    Attributes:
      candidates: a row per context, items ascending and each once.
      features: `(num_candidates, num_features) float32`.
      names: what the features are.

    Raises:
      ValueError: the parts do not fit together.
    """

    candidates: Interactions
    features: np.ndarray
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        expected = (len(self.candidates.items), len(self.names))
        if self.features.shape != expected:
            raise ValueError(f"features are of shape {self.features.shape}, candidates and names of {expected}")

    def __len__(self) -> int:
        return len(self.candidates)

    def keep(self, kept: np.ndarray) -> "Pool":
        """Return the pool of some candidates; `kept` is `(num_candidates,) bool`."""
        starts = np.concatenate([[0], np.cumsum(kept)])[self.candidates.starts]
        items, weights = self.candidates.items[kept], self.candidates.weights[kept]
        return Pool(Interactions(starts, items, weights, self.candidates.num_items), self.features[kept], self.names)

    def top(self, scores: np.ndarray, best: int) -> "Pool":
        """Return the pool of the best candidates of every context."""
        return self.keep(ranks(self.candidates, scores) < best)

    def ranking(self, scores: np.ndarray, best: int) -> np.ndarray:
        """Return `(num_contexts, best) int32` items, best first; places left over hold -1."""
        places = ranks(self.candidates, scores)
        chosen = places < best
        found = np.full((len(self), best), -1, np.int32)
        found[self.candidates.rows[chosen], places[chosen]] = self.candidates.items[chosen]
        return found

    def hits(self, targets: Interactions) -> np.ndarray:
        """Return `(num_candidates,) bool`, whether a candidate is a target of its context."""
        wanted = targets.rows * np.int64(targets.num_items) + targets.items
        return np.isin(self.candidates.rows * np.int64(targets.num_items) + self.candidates.items, wanted)


def build_pool(
    contexts: Interactions, scores: Mapping[str, np.ndarray], best: int, describers: Mapping[str, Describer]
) -> Pool:
    """Return the united candidates of families and all that is known of them.

    Args:
      contexts: a block of them; a hundred at a time stay in the cache and take half the time of five hundred.
      scores: `(num_contexts, num_items) float32` of every family; 0 proposes nothing, and what must not be proposed has -inf.
      best: candidates each family proposes.
      describers: what else to ask, by the name its features begin with.
    """
    lows = {name: floors(block, best) for name, block in scores.items()}
    candidates = unite(scores, lows)
    features: dict[str, np.ndarray] = {}
    for name, block in scores.items():
        features |= {f"{name}.{f}": v for f, v in score_features(block, lows[name], candidates).items()}
    for name, describer in describers.items():
        features |= {f"{name}.{f}": v for f, v in describer.features(contexts, candidates).items()}
    columns = np.empty((len(candidates.items), len(features)), np.float32)
    for at, values in enumerate(features.values()):
        columns[:, at] = values
    return Pool(candidates, columns, tuple(features))


def floors(scores: np.ndarray, best: int) -> np.ndarray:
    """Return `(num_contexts,) float32`, the score after the best ones; where there are fewer, what is below all of them."""
    return np.array([_floor(row[(row != 0) & (row > -np.inf)], best) for row in scores], np.float32)


def _floor(scores: np.ndarray, best: int) -> float:
    if len(scores) > best:
        return np.partition(scores, len(scores) - best - 1)[len(scores) - best - 1]
    low = scores.min(initial=0.0)
    return np.nextafter(low, -np.inf, dtype=np.float32) if low < 0 else 0.0


def unite(scores: Mapping[str, np.ndarray], lows: Mapping[str, np.ndarray]) -> Interactions:
    """Return the candidates of contexts that any family scores above its floor, and not 0."""
    found = []
    for name, block in scores.items():
        proposed = block > lows[name][:, None]
        if (lows[name] < 0).any():
            proposed &= block != 0
        found.append(np.nonzero(proposed))
    num_contexts, num_items = next(iter(scores.values())).shape
    keys = np.unique(np.concatenate([rows * np.int64(num_items) + items for rows, items in found]))
    starts = np.searchsorted(keys, np.arange(num_contexts + 1) * np.int64(num_items))
    items = (keys % num_items).astype(np.int32)
    return Interactions(starts, items, np.ones(len(items), np.float32), num_items)


def score_features(scores: np.ndarray, lows: np.ndarray, candidates: Interactions) -> dict[str, np.ndarray]:
    """Return the score of a family as it is, from 0 at the floor to 1 at the best of a context, and the rank's logarithm.

    Candidates at the floor or below it, which only other families propose, share one rank.
    """
    rows = candidates.rows
    raw = scores[rows, candidates.items]
    tops = np.maximum(scores.max(axis=1), lows)
    share = np.maximum(raw - lows[rows], 0) / np.maximum(tops - lows, 1e-12)[rows]
    low = share <= 0
    places = ranks(candidates, share)
    proposed = np.bincount(rows, ~low, minlength=len(candidates))
    return {"score": raw, "share": share, "rank": np.log1p(np.where(low, proposed[rows], places))}


def ranks(candidates: Interactions, scores: np.ndarray) -> np.ndarray:
    """Return `(num_candidates,) int64` ranks from 0 within each context; of equal scores, the lower item is first."""
    order = np.lexsort((-scores, candidates.rows))
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(len(order)) - np.repeat(candidates.starts[:-1], candidates.lengths)
    return found


def join_pools(pools: Sequence[Pool]) -> Pool:
    """Return the contexts of all pools, one after the other."""
    candidates = join_rows([pool.candidates for pool in pools])
    return Pool(candidates, np.concatenate([pool.features for pool in pools]), pools[0].names)
