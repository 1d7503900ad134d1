"""Vectors in clusters, and an index of them as its files would give it."""

import numpy as np

from transforms.index.build import assemble, encode, flat, train
from transforms.index.exact import ExactIndex
from transforms.index.factors import FLOAT32
from transforms.index.ivf import IvfIndex

DIM = 16
CENTRES = np.random.default_rng(99).standard_normal((100, DIM), dtype=np.float32)


def unit(rng: np.random.Generator, num: int) -> np.ndarray:
    """Return vectors around `CENTRES`, of length 1, `(num, DIM) float32`."""
    found = CENTRES[rng.integers(0, len(CENTRES), num)] + 0.7 * rng.standard_normal((num, DIM), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def indexed(vectors: np.ndarray, lists: int, segments: int = 1) -> IvfIndex:
    """Return an index of vectors in segments."""
    trained = train(vectors, lists, 7)
    runs = np.array_split(vectors, segments)
    codes = [assemble(trained, *encode(trained, run)) for run in runs]
    return IvfIndex.join(codes, [ExactIndex(flat(run), FLOAT32) for run in runs])
