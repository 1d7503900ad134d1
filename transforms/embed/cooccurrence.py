"""Vectors of items from what is listened to close together: where an encoder's identities start from.

Positive pointwise mutual information of items at most `window` places apart, factorised (Levy and Goldberg, 2014, "Neural
Word Embedding as Implicit Matrix Factorization"). Memory: 12 bytes per pair of items seen together, four times, and
what `leading_directions` takes.
"""

import numpy as np
import scipy.sparse as sp

from transforms.embed.interactions import Interactions
from transforms.embed.spectral import leading_directions

SMOOTHING = 0.75  # power of an item's count as the other of a pair, against rare pairs (Levy et al., 2015)


def cooccurrence_factors(interactions: Interactions, window: int, dim: int, seed: int) -> np.ndarray:
    """Return `(num_items, dim) float32` vectors of length 1, or 0 for items never seen with another.

    Where there are fewer than `dim` directions the rest of a vector is 0.
    """
    values, directions = leading_directions(mutual_information(interactions, window), dim, seed)
    factors = np.zeros((interactions.num_items, dim), np.float32)
    factors[:, : len(values)] = directions * np.sqrt(values)
    lengths = np.linalg.norm(factors, axis=1, keepdims=True)
    # What is left of an item without neighbours is rounding.
    return np.divide(factors, lengths, out=np.zeros_like(factors), where=lengths > 1e-5)


def mutual_information(interactions: Interactions, window: int) -> sp.csr_matrix:
    """Return positive mutual information of items, symmetric up to `SMOOTHING`, made symmetric by the mean of both ways."""
    counts = _counts(interactions, window)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    others = np.maximum(totals, 1e-12) ** SMOOTHING
    others /= others[totals > 0].sum() if totals.any() else 1.0
    pairs = counts.tocoo()
    information = np.log(pairs.data / (totals[pairs.row] * others[pairs.col]))
    positive = sp.csr_matrix((np.maximum(information, 0).astype(np.float32), (pairs.row, pairs.col)), counts.shape)
    return ((positive + positive.T) * np.float32(0.5)).tocsr()


def _counts(interactions: Interactions, window: int) -> sp.csr_matrix:
    """Return how often items are at most `window` places apart in a row, a pair of places counting once over its gap."""
    shape = (interactions.num_items, interactions.num_items)
    found = sp.csr_matrix(shape, dtype=np.float64)
    for gap in range(1, window + 1):
        same = interactions.rows[:-gap] == interactions.rows[gap:]
        left, right = interactions.items[:-gap][same], interactions.items[gap:][same]
        other = left != right
        found = found + sp.csr_matrix((np.full(other.sum(), 1.0 / gap), (left[other], right[other])), shape)
    return (found + found.T).tocsr()
