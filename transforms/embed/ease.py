"""Item-item regression in closed form (Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019).

The ridge grows with an item's rows, as training with items dropped out does in the limit (Steck, Autoencoders that don't
overfit towards the Identity, NeurIPS 2020). With `R` the normalised rows, `L` the items' ridges and `P = (R'R + L)^-1`,
a context `x` scores `x - (x P) / diag(P)`, its own items apart. `P` is never formed: by Woodbury's identity the only
inverse is as wide as the rows, so this family is for sets of few rows.

Memory: two dense `(num_rows, num_rows)`, one float64, and one dense `(num_rows, num_items) float32` while fitting.
"""

import dataclasses

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from transforms.embed.interactions import Interactions
from transforms.embed.spectral import degree_power, scaled_rows

MOST_ROWS = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class EaseSettings:
    """How much the regression is held back.

    Attributes:
      ridge: added to every item's square, in squares of an average row's entry.
      dropout: share of a row's items dropped out in training, 0 up to below 1.
      row_power: a row of n items is divided by n to this power.
      popularity_power: a score is multiplied by the item's rows to this power.
    """

    ridge: float = 100.0
    dropout: float = 0.6
    row_power: float = 0.25
    popularity_power: float = -0.2


EASE_GRID = (EaseSettings(), EaseSettings(dropout=0.0, popularity_power=0.0))


@dataclasses.dataclass(frozen=True, slots=True)
class Ease:
    """A fitted regression.

    Attributes:
      rows: `(num_rows, num_items) float32`, the rows divided by the roots of the ridges.
      core: `(num_rows, num_rows) float32`, inverse of one plus the products of `rows`.
      roots: `(num_items,) float32`, roots of the ridges.
      diagonal: `(num_items,) float32`, the diagonal of `P` times the ridges, in 0 to 1.
      outward: `(num_items,) float32`, factor of an item's score.
      row_power: see `EaseSettings`.
    """

    rows: sp.csr_matrix
    core: np.ndarray
    roots: np.ndarray
    diagonal: np.ndarray
    outward: np.ndarray
    row_power: float

    def score(self, contexts: Interactions) -> np.ndarray:
        """Return `(num_contexts, num_items) float32`, higher is better; an empty context is zeros."""
        heard = scaled_rows(contexts.matrix(), self.row_power)
        inside = sp.csr_matrix(heard @ sp.diags_array(1 / self.roots))
        through = ((inside @ self.rows.T) @ self.core).astype(np.float32)
        explained = np.ascontiguousarray((self.rows.T @ through.T).T)
        # x - (x P) / diag(P) with the diagonal of the weights left at zero: an item says nothing of itself
        own = inside.multiply(1 - self.diagonal).tocoo()
        explained[own.row, own.col] -= own.data
        return explained / self.diagonal * (self.roots * self.outward)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything as arrays."""
        return {
            "data": self.rows.data,
            "indices": self.rows.indices,
            "indptr": self.rows.indptr,
            "core": self.core,
            "roots": self.roots,
            "diagonal": self.diagonal,
            "outward": self.outward,
            "row_power": np.array([self.row_power], np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Ease":
        """Return what `to_arrays` was given."""
        shape = (len(arrays["indptr"]) - 1, len(arrays["roots"]))
        rows = sp.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
        core, roots, diagonal, outward = (arrays[name] for name in ("core", "roots", "diagonal", "outward"))
        return cls(rows, core, roots, diagonal, outward, float(arrays["row_power"][0]))


def fit_ease(interactions: Interactions, settings: EaseSettings, seed: int = 0) -> Ease:
    """Return the regression on the rows; repeats within a row do not count, and nothing is left to the seed.

    Raises:
      ValueError: there are more than `MOST_ROWS` rows.
    """
    if len(interactions) > MOST_ROWS:
        raise ValueError(
            f"regression in closed form is for at most {MOST_ROWS} rows, but there are {len(interactions)}: use a graph filter"
        )
    matrix = interactions.matrix()
    rows = scaled_rows(matrix, settings.row_power)
    rows.data /= np.sqrt(np.mean(rows.data**2)) if rows.nnz else 1.0
    squares = np.bincount(rows.indices, rows.data**2, minlength=rows.shape[1])
    roots = np.sqrt(settings.ridge + settings.dropout / (1 - settings.dropout) * squares).astype(np.float32)
    rows = sp.csr_matrix(rows @ sp.diags_array(1 / roots))
    core = inverse_products(rows)
    return Ease(
        rows,
        core,
        roots,
        1 - explained_share(rows, core),
        degree_power(matrix, settings.popularity_power),
        settings.row_power,
    )


def inverse_products(rows: sp.csr_matrix) -> np.ndarray:
    """Return `(1 + rows rows')^-1`, `(num_rows, num_rows) float32`."""
    products = (rows @ rows.T).toarray().astype(np.float64)
    products[np.diag_indices_from(products)] += 1
    return scipy.linalg.inv(products, overwrite_a=True, check_finite=False, assume_a="pos").astype(np.float32)


def explained_share(rows: sp.csr_matrix, core: np.ndarray) -> np.ndarray:
    """Return the diagonal of `rows' core rows`, `(num_items,) float32`."""
    return np.asarray(rows.multiply(core @ rows).sum(0), np.float32).ravel()
