"""How good a ranking is: recall, hit rate, nDCG and MRR of ranked items against what was listened to next.

Full ranking: every item there is competes. Ties go to the item with the lower number, so that a figure does not depend
on how scores were computed.
"""

import dataclasses

import numpy as np

from transforms.embed.interactions import Interactions

NOBODY = -1
"""Fills a ranking up where fewer items were scored."""


@dataclasses.dataclass(frozen=True, slots=True)
class Hits:
    """Which places of each ranking are hits.

    Attributes:
      at: `(num_contexts, depth) bool`, the best place first.
      wanted: `(num_contexts,) int64`, targets of each context, at least 1.
    """

    at: np.ndarray
    wanted: np.ndarray

    def recall(self, k: int) -> np.ndarray:
        """Return the share of a context's targets among its first k, `(num_contexts,) float64`."""
        return np.asarray(self.at[:, :k].sum(axis=1) / self.wanted)

    def precision(self, k: int) -> np.ndarray:
        """Return the share of targets among a context's first k places; a place that nothing was found for is none."""
        return np.asarray(self.at[:, :k].sum(axis=1) / k)

    def hit_rate(self, k: int) -> np.ndarray:
        """Return whether any target is among the first k."""
        return np.asarray(self.at[:, :k].any(axis=1), np.float64)

    def reciprocal_rank(self, k: int) -> np.ndarray:
        """Return 1 / place of the first hit, counted from 1; 0 where none is among the first k."""
        found = self.at[:, :k]
        return np.where(found.any(axis=1), 1.0 / (1 + found.argmax(axis=1)), 0.0)

    def ndcg(self, k: int) -> np.ndarray:
        """Return the gain of the hits among the first k, hit at place p worth 1 / log2(p + 1), over the best possible.

        The best possible has its `min(k, targets)` first places hit (Jarvelin and Kekalainen 2002).
        """
        gains = 1.0 / np.log2(np.arange(2, k + 2))
        found = self.at[:, :k] @ gains[: self.at.shape[1]]
        return np.asarray(found / np.cumsum(gains)[np.minimum(self.wanted, k) - 1])


def top_items(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the numbers of the k best items of each row, `(num_rows, k) int32`; `NOBODY` where a score is -inf.

    Args:
      scores: `(num_rows, num_items) float32`.
    """
    k = min(k, scores.shape[1])
    best = np.sort(np.argpartition(scores, -k, axis=1)[:, -k:], axis=1)
    found = np.take_along_axis(scores, best, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    items = np.take_along_axis(best, order, axis=1).astype(np.int32)
    items[np.take_along_axis(found, order, axis=1) == -np.inf] = NOBODY
    return items


def hits(ranked: np.ndarray, targets: Interactions) -> Hits:
    """Compare rankings with targets.

    Args:
      ranked: `(num_contexts, depth) int32`, item numbers, the best first.
      targets: one row per context, each of at least one item, none twice.

    Raises:
      ValueError: there are not as many contexts as targets, or one has none.
    """
    if len(ranked) != len(targets) or not (targets.lengths > 0).all():
        raise ValueError(f"{len(ranked)} rankings of {len(targets)} contexts, shortest targets {targets.lengths.min()}")
    wanted = np.sort(targets.rows * targets.num_items + targets.items)
    asked = np.arange(len(ranked))[:, None] * targets.num_items + ranked
    at = np.searchsorted(wanted, asked)
    found = (wanted[np.minimum(at, len(wanted) - 1)] == asked) & (ranked != NOBODY)
    return Hits(found, targets.lengths)


def without(scores: np.ndarray, seen: Interactions) -> np.ndarray:
    """Put -inf in place, where a context holds the item already; return the scores."""
    scores[seen.rows, seen.items] = -np.inf
    return scores
