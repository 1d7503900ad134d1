"""Items that read alike: cosine of idf-weighted words and attributes, from the latest items of a context.

Salton and Buckley, "Term-weighting approaches in automatic text retrieval" (1988). Nothing is learnt from plays, so an
item nobody played is scored as any other. No matrix of items by items is made: a context is added up to one profile.
Memory: 12 bytes per token of an item, twice; to score, 4 bytes per context and item of the block besides.
"""

import dataclasses

import numpy as np
import scipy.sparse as sp

from transforms.embed.interactions import Interactions
from transforms.embed.item_graph import recency
from transforms.embed.text import ItemFeatures


@dataclasses.dataclass(frozen=True, slots=True)
class ContentSettings:
    """How tokens and items of a context weigh.

    Attributes:
      rarity: power of the inverse document frequency.
      back: factor per step back in the context.
      repeats: factor of items the context already has, which are most like themselves.
    """

    rarity: float = 2.0
    back: float = 0.7
    repeats: float = 0.0


CONTENT_GRID = (ContentSettings(), ContentSettings(rarity=1.0), ContentSettings(back=0.85))


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """Weights of tokens, `(num_items, num_tokens) float32` sparse with rows of length 1, or 0 where nothing is known."""

    settings: ContentSettings
    weights: sp.csr_matrix

    def score(self, contexts: Interactions) -> np.ndarray:
        """Return `(num_contexts, num_items) float32`, how alike items are to those of a context, the later ones most."""
        profiles = recency(contexts, self.settings.back) @ self.weights
        scores = (profiles @ self.weights.T).toarray()
        scores[contexts.rows, contexts.items] *= np.float32(self.settings.repeats)
        return scores

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the settings and the parts of the weights."""
        return {
            "settings": np.array(dataclasses.astuple(self.settings), np.float64),
            "starts": self.weights.indptr,
            "tokens": self.weights.indices,
            "weights": self.weights.data,
            "num_tokens": np.array([self.weights.shape[1]], np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Content":
        """Return the model that `to_arrays` wrote."""
        shape = (len(arrays["starts"]) - 1, int(arrays["num_tokens"][0]))
        weights = sp.csr_matrix((arrays["weights"], arrays["tokens"], arrays["starts"]), shape=shape)
        return cls(ContentSettings(*arrays["settings"].tolist()), weights)


def fit_content(features: ItemFeatures, settings: ContentSettings, seed: int = 0) -> Content:
    """Return the weights of the tokens two items or more share; `seed` is not used, as nothing is drawn."""
    kept, places = np.unique(features.tokens, return_inverse=True)
    counts = np.bincount(places, minlength=len(kept))
    idf = np.where(counts > 1, np.log(len(features) / counts), 0.0) ** settings.rarity
    shape = (len(features), max(1, len(kept)))
    weights = sp.csr_matrix((features.weights * idf[places], places, features.starts), shape=shape, copy=True)
    weights.eliminate_zeros()
    lengths = np.sqrt(np.asarray(weights.multiply(weights).sum(axis=1)).ravel())
    weights.data /= np.repeat(lengths, np.diff(weights.indptr))
    return Content(settings, weights.astype(np.float32))
