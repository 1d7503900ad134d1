"""Implicit alternating least squares: factors whose products are near 1 where there was a listen and near 0 elsewhere.

The loss is `sum over listens of (1 - x.y)^2 + unheard * sum over all pairs of (x.y)^2 + ridges`, a vector's ridge being
`regularization * (its listens + unheard * those it could have had)` times its square: Rendle et al., Revisiting the
Performance of iALS on Item Recommendation Benchmarks (RecSys 2022), eq. 1 with nu = 1. Half-sweeps are a few steps of
conjugate gradients from where the vectors stand (Takacs, Pilaszy and Tikk, RecSys 2011); the start is the spectral space.

A context is folded in by the same solve as a row in fitting, so a row needs no vector of its own.

Memory: four dense `(max(num_rows, num_items), dim) float32` and two of `(CHUNK, dim)`.
"""

import dataclasses

import numpy as np
import scipy.sparse as sp

from transforms.embed.interactions import Interactions
from transforms.embed.spectral import SpectralSettings, fit_spectral

CHUNK = 65_536


@dataclasses.dataclass(frozen=True, slots=True)
class AlsSettings:
    """How the factors are fitted.

    Attributes:
      dim: length of the vectors.
      unheard: weight of a pair without a listen, beside 1 for a listen.
      regularization: see the module.
      sweeps: times the items' vectors are solved for; the rows' are solved for before each.
      steps: conjugate gradients in a half-sweep of fitting; a context takes `FOLD_IN` times as many, from zero.
    """

    dim: int = 512
    unheard: float = 0.1
    regularization: float = 0.0005
    sweeps: int = 1
    steps: int = 3


FOLD_IN = 3
# large catalogues want many directions and an early stop, small ones a heavy ridge and time to settle
ALS_GRID = (
    AlsSettings(),
    AlsSettings(unheard=0.02, regularization=0.002),
    AlsSettings(dim=256, unheard=0.05, regularization=0.01, sweeps=8),
)


@dataclasses.dataclass(frozen=True, slots=True)
class ImplicitAls:
    """Fitted factors.

    Attributes:
      item_vectors: `(num_items, dim) float32`.
      products: `(dim, dim) float32`, of the item vectors with themselves, which every fold-in needs.
      settings: what they were fitted with; a context is folded in with the same weights.
    """

    item_vectors: np.ndarray
    products: np.ndarray
    settings: AlsSettings

    def encode(self, contexts: Interactions) -> np.ndarray:
        """Return `(num_contexts, dim) float32`; an empty context is zeros."""
        start = np.zeros((len(contexts), self.item_vectors.shape[1]), np.float32)
        longer = dataclasses.replace(self.settings, steps=FOLD_IN * self.settings.steps)
        return solved(contexts.matrix(), self.item_vectors, self.products, start, longer)

    def score(self, contexts: Interactions) -> np.ndarray:
        """Return `(num_contexts, num_items) float32`, higher is better."""
        return self.encode(contexts) @ self.item_vectors.T

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything as arrays."""
        numbers = np.array(dataclasses.astuple(self.settings), np.float64)
        return {"item_vectors": self.item_vectors, "products": self.products, "settings": numbers}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "ImplicitAls":
        """Return what `to_arrays` was given."""
        dim, unheard, regularization, sweeps, steps = arrays["settings"].tolist()
        settings = AlsSettings(int(dim), unheard, regularization, int(sweeps), int(steps))
        return cls(arrays["item_vectors"], arrays["products"], settings)


def fit_implicit_als(interactions: Interactions, settings: AlsSettings, seed: int) -> ImplicitAls:
    """Return factors of the rows; repeats within a row do not count, an item never heard has zeros."""
    matrix = interactions.matrix()
    turned = matrix.T.tocsr()
    start = fit_spectral(interactions, SpectralSettings(dim=settings.dim), seed)
    items = scaled_to_ones(matrix, start.encode(interactions), start.item_vectors)
    rows = np.zeros((len(interactions), items.shape[1]), np.float32)
    for _ in range(settings.sweeps):
        rows = solved(matrix, items, items.T @ items, rows, settings)
        items = solved(turned, rows, rows.T @ rows, items, settings)
    items[np.diff(turned.indptr) == 0] = 0
    return ImplicitAls(items, items.T @ items, settings)


def scaled_to_ones(matrix: sp.csr_matrix, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return the items' vectors scaled so that rows of the same length fit the listens best."""
    products = products_at(matrix, rows, items)
    scale = products.sum() / max(float(products @ products), 1e-12)
    return (items * np.sqrt(max(float(scale), 1e-12))).astype(np.float32)


def solved(
    matrix: sp.csr_matrix, others: np.ndarray, products: np.ndarray, start: np.ndarray, settings: AlsSettings
) -> np.ndarray:
    """Return the vectors of the rows that fit `others` best, `(num_rows, dim) float32`, by conjugate gradients.

    Args:
      matrix: `(num_rows, num_others) float32` of ones.
      others: `(num_others, dim) float32`, held fixed.
      products: `others.T @ others`.
      start: `(num_rows, dim) float32`.
      settings: the weights, and the steps.
    """
    counts = np.diff(matrix.indptr).astype(np.float32)[:, None]
    ridges = settings.regularization * (counts + settings.unheard * len(others))

    def applied(vectors: np.ndarray) -> np.ndarray:
        at_listens = sp.csr_matrix((products_at(matrix, vectors, others), matrix.indices, matrix.indptr), matrix.shape)
        return at_listens @ others + settings.unheard * (vectors @ products) + ridges * vectors

    residual = matrix @ others - (applied(start) if start.any() else 0)
    vectors, direction = start.copy(), residual.copy()
    squares = np.einsum("nd,nd->n", residual, residual)
    for _ in range(settings.steps):
        image = applied(direction)
        step = squares / np.maximum(np.einsum("nd,nd->n", direction, image), 1e-20)
        vectors += step[:, None] * direction
        residual -= step[:, None] * image
        before, squares = squares, np.einsum("nd,nd->n", residual, residual)
        direction = residual + (squares / np.maximum(before, 1e-20))[:, None] * direction
    return vectors


def products_at(matrix: sp.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the product of the row's and the column's vector at every entry, `(num_entries,) float32`."""
    at = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    products = np.empty(matrix.nnz, np.float32)
    for first in range(0, matrix.nnz, CHUNK):
        span = slice(first, first + CHUNK)
        products[span] = np.einsum("nd,nd->n", rows[at[span]], columns[matrix.indices[span]])
    return products
