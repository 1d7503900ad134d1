"""The spectral space of listening: leading singular vectors of the normalised rows, in closed form.

A context is its normalised row seen through the leading right singular vectors, so a row never seen in fitting is encoded
as one that was (Shen et al., How Powerful is Graph Convolution for Recommendation?, CIKM 2021, eq. 14, with other powers).

Memory: three dense blocks of `(max(num_rows, num_items), dim + OVERSAMPLING) float32`; deterministic for one seed.
"""

import dataclasses

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from transforms.embed.interactions import Interactions

OVERSAMPLING = 32
POWER_ITERATIONS = 6


@dataclasses.dataclass(frozen=True, slots=True)
class SpectralSettings:
    """How rows are normalised and how much each direction counts.

    Attributes:
      dim: directions kept; fewer where the rows or the items are fewer.
      row_power: a row of n items is divided by n to this power.
      item_power: an item of n rows is divided by n to this power.
      value_power: power of a direction's singular value in a score; 0 is the ideal low-pass filter.
      capped: so many of the largest values are lowered to the one that follows them: they say little but popularity.
      popularity_power: a score is multiplied by the item's rows to this power.
    """

    dim: int = 256
    row_power: float = 0.3
    item_power: float = 0.4
    value_power: float = 1.0
    capped: int = 2
    popularity_power: float = 0.25


SPECTRAL_GRID = (
    SpectralSettings(),
    SpectralSettings(row_power=0.1, item_power=0.3, value_power=0.5, popularity_power=0.0),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Spectral:
    """A fitted space.

    Attributes:
      input_vectors: `(num_items, dim) float32`, what an item adds to a context.
      item_vectors: `(num_items, dim) float32`, what a context is compared with.
      row_power: see `SpectralSettings`.
    """

    input_vectors: np.ndarray
    item_vectors: np.ndarray
    row_power: float

    def encode(self, contexts: Interactions) -> np.ndarray:
        """Return `(num_contexts, dim) float32`; an empty context is zeros."""
        heard = contexts.matrix()
        return scaled_rows(heard, self.row_power) @ self.input_vectors

    def score(self, contexts: Interactions) -> np.ndarray:
        """Return `(num_contexts, num_items) float32`, higher is better."""
        return self.encode(contexts) @ self.item_vectors.T

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything as arrays."""
        return {
            "input_vectors": self.input_vectors,
            "item_vectors": self.item_vectors,
            "row_power": np.array([self.row_power], np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Spectral":
        """Return what `to_arrays` was given."""
        return cls(arrays["input_vectors"], arrays["item_vectors"], float(arrays["row_power"][0]))


def fit_spectral(interactions: Interactions, settings: SpectralSettings, seed: int) -> Spectral:
    """Return the space of the rows; repeats within a row do not count."""
    matrix = interactions.matrix()
    inward = degree_power(matrix, -settings.item_power)
    values, directions = leading_directions(
        scaled_rows(matrix, settings.row_power) @ sp.diags_array(inward), settings.dim, seed
    )
    values = np.minimum(values, values[min(settings.capped, len(values) - 1)])
    halves = directions * (values / values[0]) ** (settings.value_power / 2)
    outward = degree_power(matrix, settings.popularity_power)
    return Spectral(inward[:, None] * halves, outward[:, None] * halves, settings.row_power)


def scaled_rows(matrix: sp.csr_matrix, power: float) -> sp.csr_matrix:
    """Divide every row by its number of entries to a power."""
    lengths = np.diff(matrix.indptr)
    weights = np.repeat(np.maximum(lengths, 1).astype(np.float32) ** -np.float32(power), lengths)
    return sp.csr_matrix((matrix.data * weights, matrix.indices, matrix.indptr), shape=matrix.shape)


def degree_power(matrix: sp.csr_matrix, power: float) -> np.ndarray:
    """Return each column's number of entries to a power, `(num_items,) float32`; an empty column counts as one entry."""
    entries = np.bincount(matrix.indices, minlength=matrix.shape[1])
    return (np.maximum(entries, 1.0) ** power).astype(np.float32)


def leading_directions(matrix: sp.csr_matrix, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest singular values, falling, and their right singular vectors, `(dim,)` and `(num_items, dim)`.

    Randomized subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4); a vector's largest entry is positive.
    """
    dim = min(dim, *matrix.shape)
    width = min(dim + OVERSAMPLING, *matrix.shape)
    basis = np.random.default_rng(seed).standard_normal((matrix.shape[1], width), dtype=np.float32)
    transposed = matrix.T.tocsr()
    for _ in range(POWER_ITERATIONS):
        basis = orthonormal(transposed @ (matrix @ basis))
    image = matrix @ basis
    squares, turns = scipy.linalg.eigh((image.T @ image).astype(np.float64))
    order = np.argsort(-squares, kind="stable")[:dim]
    directions = basis @ turns[:, order].astype(np.float32)
    signs = np.sign(directions[np.abs(directions).argmax(0), np.arange(dim)])
    return np.sqrt(np.maximum(squares[order], 0)).astype(np.float32), directions * signs


def orthonormal(columns: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the columns, `float32`."""
    return scipy.linalg.qr(columns, mode="economic", overwrite_a=True, check_finite=False)[0]
