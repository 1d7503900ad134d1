"""Vectors as factors of a matrix product, and what its results may be told from the scores by.

A result is handed out as an integer in the order of its number: whatever the precision, one loop compares and keeps them.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch

from transforms.index.aligned import aligned

FLOAT32, BFLOAT16 = "float32", "bfloat16"
_ROUNDING = 2.0**-23  # of |u| |v|, per component: what two sums of float32 products may differ by, at the most
_OF_BFLOAT16 = 2.0**-8  # relative, of rounding a product to bfloat16: twice the most


def fastest() -> str:
    """Return the precision whose matrix product is the fastest on this processor."""
    return BFLOAT16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else FLOAT32


@dataclasses.dataclass(frozen=True, slots=True)
class Factors:
    """Items, rounded or as they are.

    Attributes:
      matrix: `(num_items, dim)`, of NumPy in float32, of torch in bfloat16. longest: the greatest norm. furthest: the greatest
        norm of what rounding took from one.
    """

    matrix: Any
    longest: float
    furthest: float

    @classmethod
    def of(cls, vectors: np.ndarray, precision: str) -> Self:
        """Return the factors of vectors, `(num_items, dim) float32`."""
        longest = max((float(norms(vectors[rows]).max()) for rows in blocks(vectors)), default=0.0)
        if precision == FLOAT32:
            return cls(vectors, longest, 0.0)
        matrix, furthest = torch.empty(vectors.shape, dtype=torch.bfloat16), 0.0
        for rows in blocks(vectors):
            matrix[rows], off = _rounded(vectors[rows])
            furthest = max(furthest, float(off.max()))
        return cls(matrix, longest, furthest)

    def take(self, rows: np.ndarray) -> Self:
        """Return those of some items."""
        at = rows if isinstance(self.matrix, np.ndarray) else torch.from_numpy(rows.astype(np.int64))
        return dataclasses.replace(self, matrix=self.matrix[at])

    def product(self, queries: np.ndarray, most: int) -> "Product":
        """Return the product with queries, `(num_queries, dim) float32`, of blocks of up to `most` items."""
        length, rounding = norms(queries), _ROUNDING * queries.shape[1] * self.longest
        if isinstance(self.matrix, np.ndarray):
            bounds = torch.empty(most * len(queries), dtype=torch.float32)
            return Product(self._exact, torch.from_numpy(queries), bounds, np.int32, rounding * length, 0.0)
        asked, off = _rounded(queries)
        lost = (self.furthest + 2 * rounding) * length + 2 * off * self.longest
        bounds = torch.empty(most * len(queries), dtype=torch.bfloat16)
        return Product(self._rounded_block, asked, bounds, np.int16, lost, _OF_BFLOAT16)

    def _exact(self, first: int, size: int) -> torch.Tensor:
        return torch.from_numpy(aligned(self.matrix[first : first + size]))

    def _rounded_block(self, first: int, size: int) -> torch.Tensor:
        return self.matrix[first : first + size]


@dataclasses.dataclass(frozen=True, slots=True)
class Product:
    """Products of queries with block after block of items, as integers in the order of the numbers.

    Attributes:
      block: gives items, `(first, size)`. asked: the queries. bounds: room for a block. bits: how wide an integer is. lost:
        `(num_queries,) float32`, what a product may be from the score; relative: and what rounding it adds to that.
    """

    block: Callable[[int, int], torch.Tensor]
    asked: torch.Tensor
    bounds: torch.Tensor
    bits: type
    lost: np.ndarray
    relative: float

    def least(self, score: np.ndarray, some: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return for some queries what the product of an item with such a score, or a greater one, is at the least."""
        reached = score - self.lost[some]
        return self._ordered(reached * np.where(reached > 0, 1 - self.relative, 1 + self.relative))

    def rival(self, bound: np.ndarray, some: np.ndarray) -> np.ndarray:
        """Return for some queries the least product of an item whose score may be as great as one's with this product."""
        number = _in_order(bound.astype(np.int32) << (32 - 8 * bound.itemsize)).view(np.float32)
        return self.least(number * np.where(number > 0, 1 - self.relative, 1 + self.relative) - self.lost[some], some)

    def __call__(self, first: int, size: int, *, positive: bool) -> np.ndarray:
        """Return the products with a block, `(num_queries, size)`; those below 0 in their order only where not `positive`."""
        num_queries = self.asked.shape[0]
        out = self.bounds[: num_queries * size].view(num_queries, size)
        if num_queries == 1:
            torch.mv(self.block(first, size), self.asked[0], out=out[0])
        else:
            torch.mm(self.asked, self.block(first, size).T, out=out)
        found = out.view(torch.int16 if self.bits is np.int16 else torch.int32).numpy()
        return found if positive else _in_order(found)

    def _ordered(self, number: np.ndarray) -> np.ndarray:
        """Return a number's integer, or one less: so are those of 0 and of -0."""
        wide = _in_order(number.astype(np.float32).view(np.int32))
        narrow: np.ndarray = (wide >> (32 - 8 * np.dtype(self.bits).itemsize)).astype(self.bits)
        return narrow - (narrow > np.iinfo(self.bits).min)


def _in_order(bits: np.ndarray) -> np.ndarray:
    """Return the bits of floats as integers in their order, and back."""
    top = np.array(np.iinfo(bits.dtype).max, bits.dtype)
    return bits ^ ((bits >> (8 * bits.itemsize - 1)) & top)


def _rounded(vectors: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """Return vectors in bfloat16, and the norms of what they lost, `(num_rows,) float32`."""
    exact = torch.from_numpy(np.array(vectors))
    matrix = exact.to(torch.bfloat16)
    return matrix, (exact - matrix.to(torch.float32)).norm(dim=1).numpy()


def norms(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths of vectors; of those too long for a float32, infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.linalg.norm(vectors, axis=1))


def blocks(vectors: np.ndarray) -> Iterator[slice]:
    """Yield runs of rows that a copy of is no matter."""
    return (slice(first, first + 2**14) for first in range(0, len(vectors), 2**14))
