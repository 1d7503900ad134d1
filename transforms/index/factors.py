"""Vectors as factors of a matrix product, and what its results may be told from the scores by.

A result is compared as an integer in the order of its number, whatever the precision. On a processor one compiled loop does it while the
results lie in its cache; a GPU hands over what reached the threshold. What is found is scored again elsewhere, so that
precision and machine change nothing but the time it takes.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import faiss
import numpy as np
import torch

from transforms.devices import CPU, GPU
from transforms.index.aligned import aligned
from transforms.index.survivors import Barred, Pool, add, collect

FLOAT32, BFLOAT16, ON_GPU = "float32", "bfloat16", "bfloat16, GPU"
_ROUNDING = 2.0**-23  # of |u| |v|, per component: what two sums of float32 products may differ by, at the most
_OF_BFLOAT16 = 2.0**-8  # relative, of rounding a product to bfloat16: twice the most
_TILE = 32  # columns of a product that a matrix unit works on together
_OF_GPU_MEMORY = 0.5
"""Items beyond this share of what is free stay with the machine and are sent over block by block."""


def fastest() -> str:
    """Return the precision, and the device, whose matrix product is the fastest on this machine."""
    return ON_GPU if torch.cuda.is_available() else _faster()


@functools.cache
def _faster() -> str:
    """Return the precision in which this processor multiplies faster: tried out once, in turns, 50 ms.

    What it can do says nothing of that: products of bfloat16 take half the time of float32 or less with AMX, and twice as long on
    Intel's processors that have AVX-512 for it and no AMX.
    """
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return FLOAT32
    turns = [(_seconds(torch.bfloat16), _seconds(torch.float32)) for _ in range(7)]
    narrow, wide = (min(each) for each in zip(*turns, strict=True))
    return BFLOAT16 if narrow < wide else FLOAT32


def _seconds(number: torch.dtype) -> float:
    """Return the CPU seconds of one product, in this thread: others that are at work at the same time must not decide."""
    queries, items = torch.ones(256, 128, dtype=number), torch.ones(4 * 2**10 + _TILE, 128, dtype=number)
    began = time.thread_time()
    torch.mm(queries, items.T)
    return time.thread_time() - began


@dataclasses.dataclass(frozen=True, slots=True)
class Factors:
    """Items, rounded or as they are.

    Attributes:
      matrix: `(num_rows, dim)`, of NumPy in float32, of torch in bfloat16. device: where they are multiplied. longest: the greatest
        norm. furthest: the greatest norm of what rounding took from one. rows: `(num_items,) int32`, those of the matrix that count,
        gathered block by block, in the cache; None: all.
    """

    matrix: Any
    device: str
    longest: float
    furthest: float
    rows: np.ndarray | None = None

    @classmethod
    def of(cls, vectors: np.ndarray, precision: str) -> Self:
        """Return the factors of vectors, `(num_items, dim) float32`."""
        longest = max((float(norms(vectors[rows]).max()) for rows in blocks(vectors)), default=0.0)
        if precision == FLOAT32:
            return cls(vectors, CPU, longest, 0.0)
        matrix, furthest = torch.empty(vectors.shape, dtype=torch.bfloat16), 0.0
        for rows in blocks(vectors):
            matrix[rows], off = _rounded(vectors[rows])
            furthest = max(furthest, float(off.max()))
        return cls(*(_sent(matrix) if precision == ON_GPU else (matrix, CPU)), longest, furthest)

    def __len__(self) -> int:
        return len(self.matrix) if self.rows is None else len(self.rows)

    def take(self, rows: np.ndarray) -> Self:
        """Return those of some rows of the matrix, `(num_items,) int32`."""
        return dataclasses.replace(self, rows=rows)

    def product(self, queries: np.ndarray) -> "Product":
        """Return the product with queries, `(num_queries, dim) float32`."""
        length, rounding = norms(queries), _ROUNDING * queries.shape[1] * self.longest
        kind = OnProcessor if self.device == CPU else OnGpu
        if isinstance(self.matrix, np.ndarray):
            return kind(self, torch.from_numpy(np.array(queries)), np.int32, rounding * length, 0.0)
        asked, off = _rounded(queries)
        lost = (self.furthest + 2 * rounding) * length + 2 * off * self.longest
        return kind(self, asked.to(self.device), np.int16, lost, _OF_BFLOAT16)

    def block(self, first: int, size: int) -> torch.Tensor:
        """Return some items where they are multiplied."""
        rows = None if self.rows is None else self.rows[first : first + size]
        if isinstance(self.matrix, np.ndarray):
            some = self.matrix[first : first + size] if rows is None else np.take(self.matrix, rows, axis=0)
            return torch.from_numpy(aligned(some))
        if rows is None:
            return self.matrix[first : first + size].to(self.device)
        return self.matrix.index_select(0, torch.from_numpy(rows).to(self.matrix.device)).to(self.device)


def _sent(matrix: torch.Tensor) -> tuple[torch.Tensor, str]:
    """Return a matrix on the GPU, or, if it is too large for it, ready to be sent; sums there are of float32 as well."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    return (matrix.to(GPU) if matrix.nbytes <= _OF_GPU_MEMORY * free else matrix), GPU


@dataclasses.dataclass(frozen=True)  # without slots: the width is told once
class Product:
    """Products of queries with block after block of items, as integers in the order of the numbers.

    Attributes:
      bits: how wide an integer is. lost: `(num_queries,) float32`, what a product may be from the score; relative: and what rounding it
        adds to that.
    """

    bounds_at_once: ClassVar[int]
    rows_at_once: ClassVar[int]

    factors: Factors
    asked: torch.Tensor
    bits: type
    lost: np.ndarray
    relative: float

    @functools.cached_property
    def width(self) -> int:
        """How many items a block has: an odd multiple of 32 where there are so many.

        A row of products fills whole registers of the matrix unit then, and rows do not all fall on the same lines of the
        cache: on one core, 200 queries take half as long as with 5,242 items in a block, and 256 queries as with 4,096.
        """
        size = min(max(1, self.bounds_at_once // len(self.lost)), self.rows_at_once, len(self.factors))
        return size if size < _TILE else (size - _TILE) // (2 * _TILE) * (2 * _TILE) + _TILE

    def least(self, score: np.ndarray) -> np.ndarray:
        """Return what the product of an item with each query's score, or a greater one, is at the least."""
        reached = score - self.lost
        return self._ordered(reached * np.where(reached > 0, 1 - self.relative, 1 + self.relative))

    def rival(self, bound: np.ndarray) -> np.ndarray:
        """Return the least product of an item whose score may be as great as one's with each query's product."""
        number = _in_order(bound.astype(np.int32) << (32 - 8 * bound.itemsize)).view(np.float32)
        return self.least(number * np.where(number > 0, 1 - self.relative, 1 + self.relative) - self.lost)

    def collect(self, first: int, least: np.ndarray, barred: Barred, pool: Pool) -> None:
        """Add the items of the block that begins with `first` whose product is `least` or more; there must be room for all."""
        raise NotImplementedError

    def _ordered(self, number: np.ndarray) -> np.ndarray:
        """Return a number's integer, or one less: so are those of 0 and of -0."""
        wide = _in_order(number.astype(np.float32).view(np.int32))
        narrow: np.ndarray = (wide >> (32 - 8 * np.dtype(self.bits).itemsize)).astype(self.bits)
        return narrow - (narrow > np.iinfo(self.bits).min)


class OnProcessor(Product):
    """Compared while they lie in the cache: 4 MB. With fewer rows in a block, a query alone would wait for calls."""

    bounds_at_once, rows_at_once = 2**20, 2**17

    @functools.cached_property
    def _held(self) -> torch.Tensor:
        """What every block is written to: memory is cleared once, not for each."""
        return torch.empty(len(self.asked) * self.width, dtype=self.asked.dtype)

    def collect(self, first: int, least: np.ndarray, barred: Barred, pool: Pool) -> None:
        """See `Product.collect`."""
        block = self.factors.block(first, self.width)
        bounds = self._held[: len(self.asked) * len(block)].view(len(self.asked), len(block))
        _multiply(self.asked, block, bounds)
        collect(bounds.view(torch.int16 if self.bits is np.int16 else torch.int32).numpy(), least, first, barred, pool)


def _multiply(queries: torch.Tensor, block: torch.Tensor, found: torch.Tensor) -> None:
    """Write down the products, `(num_queries, num_items)`: those of one query in float32 as FAISS takes them, which reads memory faster."""
    if len(queries) > 1 or block.dtype != torch.float32:
        torch.mm(queries, block.T, out=found)
        return
    pointers = (faiss.swig_ptr(one.numpy()) for one in (found, queries, block))
    faiss.fvec_inner_products_ny(*pointers, block.shape[1], len(block))  # type: ignore[attr-defined]


class OnGpu(Product):
    """Where the items are, or are sent to; what reached the threshold comes back. On the GPU, 50 MB and the items."""

    bounds_at_once, rows_at_once = 2**23, 2**20

    def collect(self, first: int, least: np.ndarray, barred: Barred, pool: Pool) -> None:
        """See `Product.collect`."""
        found = torch.mm(self.asked, self.factors.block(first, self.width).T).view(torch.int16)
        if not (least > 0).all():
            found = found ^ ((found >> 15) & np.iinfo(np.int16).max)
        query, place = (found >= torch.from_numpy(least).to(found.device)[:, None]).nonzero(as_tuple=True)
        add(*(one.cpu().numpy() for one in (query, place, found[query, place])), first, barred, pool)


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
