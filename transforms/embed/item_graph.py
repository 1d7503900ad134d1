"""Directed transitions between items: what follows what, near and less near, ahead and a little behind.

The order-aware item-to-item neighbourhood of Ludewig and Jannach, "Evaluation of session-based recommendation algorithms"
(2018), "sequential rules", with back-off from the last item to earlier ones.
Memory: 12 bytes per pair of items seen within `reach` of each other, three times that while fitting; a fit sums the pairs
part by part, so that it holds `_PAIRS_AT_ONCE` raw pairs at most besides.
"""

import dataclasses

import numpy as np
import scipy.sparse as sp

from transforms.embed.interactions import Interactions

_PAIRS_AT_ONCE = 4_000_000
_CONTEXT = 50  # latest items of a context that are read


@dataclasses.dataclass(frozen=True, slots=True)
class ItemGraphSettings:
    """How transitions are counted and followed.

    Attributes:
      reach: how many positions apart two items still make a transition.
      gap_decay: factor per further position.
      reverse: share of a transition that also counts backwards.
      from_popularity, to_popularity: powers of the number of plays a transition's count is divided by, at each end.
      back: factor per step back in the context.
      repeats: factor of items the context already has.
    """

    reach: int = 8
    gap_decay: float = 0.8
    reverse: float = 0.5
    from_popularity: float = 0.5
    to_popularity: float = 0.15
    back: float = 0.6
    repeats: float = 1.0


ITEM_GRAPH_GRID = (
    ItemGraphSettings(),
    ItemGraphSettings(reverse=0.3),
    ItemGraphSettings(back=0.8),
    ItemGraphSettings(reach=12, gap_decay=0.85, reverse=0.8, back=0.8),
)


@dataclasses.dataclass(frozen=True, slots=True)
class ItemGraph:
    """Strengths of transitions, `(num_items, num_items) float32` sparse, from rows to columns."""

    settings: ItemGraphSettings
    transitions: sp.csr_matrix

    def score(self, contexts: Interactions) -> np.ndarray:
        """Return `(num_contexts, num_items) float32`, what the items of a context lead to, the later ones most."""
        scores = (recency(contexts, self.settings.back) @ self.transitions).toarray()
        scores[contexts.rows, contexts.items] *= np.float32(self.settings.repeats)
        return scores

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the settings and the three arrays of the transitions."""
        return {
            "settings": np.array(dataclasses.astuple(self.settings), np.float64),
            "starts": self.transitions.indptr,
            "items": self.transitions.indices,
            "strengths": self.transitions.data,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "ItemGraph":
        """Return the model that `to_arrays` wrote."""
        reach, *others = arrays["settings"].tolist()
        num_items = len(arrays["starts"]) - 1
        parts = (arrays["strengths"], arrays["items"], arrays["starts"])
        return cls(ItemGraphSettings(int(reach), *others), sp.csr_matrix(parts, shape=(num_items, num_items)))


def fit_item_graph(interactions: Interactions, settings: ItemGraphSettings, seed: int = 0) -> ItemGraph:
    """Return the transitions within the rows; `seed` is not used, as nothing is drawn."""
    ahead = count_transitions(interactions, settings.reach, settings.gap_decay)
    both = (ahead + settings.reverse * ahead.T).tocsr() if settings.reverse else ahead
    plays = np.maximum(np.bincount(interactions.items, minlength=interactions.num_items), 1.0)
    both.data *= np.repeat(plays**-settings.from_popularity, np.diff(both.indptr))
    both.data *= (plays**-settings.to_popularity)[both.indices]
    both.sort_indices()
    return ItemGraph(settings, both.astype(np.float32))


def count_transitions(interactions: Interactions, reach: int, gap_decay: float) -> sp.csr_matrix:
    """Return `(num_items, num_items) float64` counts of ordered pairs in a row, `gap_decay ** (gap - 1)` each; a repeat counts too."""
    num_items = interactions.num_items
    counts = sp.csr_matrix((num_items, num_items), dtype=np.float64)
    rows_at_once = max(1, _PAIRS_AT_ONCE * len(interactions) // max(1, reach * len(interactions.items)))
    for _, part in interactions.blocks(rows_at_once):
        rows = part.rows
        for gap in range(1, reach + 1):
            together = rows[gap:] == rows[:-gap]
            pair = (part.items[:-gap][together], part.items[gap:][together])
            weights = np.full(len(pair[0]), gap_decay ** (gap - 1))
            counts += sp.csr_matrix((weights, pair), shape=(num_items, num_items))
    return counts


def recency(contexts: Interactions, back: float) -> sp.csr_matrix:
    """Return `(num_contexts, num_items) float32` weights: `back ** steps` from the end; of a repeated item, the latest."""
    read = contexts.last(_CONTEXT)
    steps = np.repeat(read.starts[1:], read.lengths) - 1 - np.arange(len(read.items))
    rows, items = read.rows[::-1], read.items[::-1]
    _, latest = np.unique(rows * np.int64(read.num_items) + items, return_index=True)
    weights = (back ** steps[::-1]).astype(np.float32)
    kept = (weights[latest], (rows[latest], items[latest]))
    return sp.csr_matrix(kept, shape=(len(contexts), read.num_items))
