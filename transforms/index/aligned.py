"""Matrices whose numbers begin at whole words."""

import numpy as np


def aligned(matrix: np.ndarray, most: float = np.inf) -> np.ndarray:
    """Return a matrix, if it is of up to `most` bytes, with numbers that begin at whole words: multiplied ten times as fast.

    In a file of FAISS they begin behind a header of 45 bytes.
    """
    return matrix if matrix.flags.aligned or matrix.nbytes > most else np.require(matrix, requirements="A")
