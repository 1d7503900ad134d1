"""Linear filter over the graph of rows and items: what those who heard the same heard too, less what everybody hears.

With `x` the context divided by item degrees and `P` the normalised item-item products, of largest eigenvalue 1, a score is
`x (P - sharpening P P)`: the blurring and sharpening of Choi et al., Blurring-Sharpening Process Models for Collaborative
Filtering (SIGIR 2023), one Euler step each. No matrix of items by items is formed and nothing is trained.

Memory: the normalised rows twice, 8 bytes per interaction each, and dense blocks of `(num_rows + 2 num_items, num_contexts)`.
"""

import dataclasses

import numpy as np
import scipy.sparse as sp

from transforms.embed.interactions import Interactions
from transforms.embed.spectral import degree_power, leading_directions, scaled_rows


@dataclasses.dataclass(frozen=True, slots=True)
class GraphFilterSettings:
    """How the graph is normalised and how much of the second step is taken away.

    Attributes:
      row_power: a row of n items is divided by n to this power.
      item_power: an item of n rows is divided by n to this power in the graph.
      context_power: the same, in the context.
      sharpening: weight of the second step, subtracted; 0 is the plain linear neighbourhood.
      popularity_power: a score is multiplied by the item's rows to this power.
    """

    row_power: float = 0.3
    item_power: float = 0.4
    context_power: float = 0.4
    sharpening: float = 1.0
    popularity_power: float = 0.25


GRAPH_FILTER_GRID = (
    GraphFilterSettings(),
    GraphFilterSettings(row_power=0.1, item_power=0.3, context_power=0.3, sharpening=0.7, popularity_power=0.0),
    GraphFilterSettings(sharpening=0.0),
    # the linear filter as published
    GraphFilterSettings(row_power=0.5, item_power=0.5, context_power=0.0, sharpening=0.0, popularity_power=0.0),
)


@dataclasses.dataclass(frozen=True, slots=True)
class GraphFilter:
    """A filter over the rows it was fitted on.

    Attributes:
      graph: `(num_rows, num_items) float32`, normalised, of largest singular value 1.
      transposed: the same, turned.
      inward: `(num_items,) float32`, weight of an item in a context.
      outward: `(num_items,) float32`, factor of an item's score.
      sharpening: see `GraphFilterSettings`.
    """

    graph: sp.csr_matrix
    transposed: sp.csr_matrix
    inward: np.ndarray
    outward: np.ndarray
    sharpening: float

    def score(self, contexts: Interactions) -> np.ndarray:
        """Return `(num_contexts, num_items) float32`, higher is better; an empty context is zeros."""
        weighted = contexts.matrix() @ sp.diags_array(self.inward)
        rows = np.ascontiguousarray((self.graph @ weighted.T.tocsr()).toarray(order="C"))
        if self.sharpening:
            rows -= self.sharpening * (self.graph @ (self.transposed @ rows))
        return np.ascontiguousarray((self.transposed @ rows).T) * self.outward

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything as arrays."""
        return {
            "data": self.graph.data,
            "indices": self.graph.indices,
            "indptr": self.graph.indptr,
            "inward": self.inward,
            "outward": self.outward,
            "sharpening": np.array([self.sharpening], np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "GraphFilter":
        """Return what `to_arrays` was given."""
        shape = (len(arrays["indptr"]) - 1, len(arrays["inward"]))
        graph = sp.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
        return cls(graph, graph.T.tocsr(), arrays["inward"], arrays["outward"], float(arrays["sharpening"][0]))


def fit_graph_filter(interactions: Interactions, settings: GraphFilterSettings, seed: int) -> GraphFilter:
    """Return the filter over the rows; repeats within a row do not count."""
    matrix = interactions.matrix()
    balanced = sp.diags_array(degree_power(matrix, -settings.item_power))
    graph = sp.csr_matrix(scaled_rows(matrix, settings.row_power) @ balanced)
    largest = leading_directions(graph, 1, seed)[0][0]
    graph.data /= largest if largest else 1
    inward = degree_power(matrix, -settings.context_power)
    outward = degree_power(matrix, settings.popularity_power)
    return GraphFilter(graph, graph.T.tocsr(), inward, outward, settings.sharpening)
