"""Build an IVF-PQ index: train on a sample, number the list and the code of each vector, put codes into their lists.

`Jegou et al. 2011 <https://doi.org/10.1109/TPAMI.2010.57>`_. A code has four bits for every two components, so that FAISS
scans it in registers (Andre et al. 2015). What a vector becomes rests on itself and the training alone: parts that were
encoded by themselves and are brought into one order give the bytes of an index that was built in one go.
"""

import itertools
from typing import Any

import faiss
import numpy as np

from transforms.index.exact import ExactIndex, demand_finite
from transforms.index.factors import FLOAT32

LISTS_OF_ROOT = 4
"""Lists per square root of the items (FAISS, guidelines to choose an index)."""
SAMPLED_PER_LIST, LEAST_PER_LIST = 64, 39
"""Vectors per list that training sees, and the least it asks for (FAISS, `ClusteringParameters`)."""
_PAIR, _BITS = 2, 4
NEVER, _ALWAYS = 2**31 - 1, 1

# Below this many products FAISS looks at one query at a time, from it on it multiplies matrices, which rounds otherwise:
# what a query finds would rest on how many others are asked with it.
faiss.cvar.distance_compute_blas_threshold = NEVER


def num_lists(num_items: int) -> int:
    """Return how many lists an index has."""
    return max(1, min(int(LISTS_OF_ROOT * np.sqrt(num_items)), num_items // LEAST_PER_LIST))


def factory(dim: int, lists: int) -> str:
    """Return what FAISS calls such an index.

    Raises:
      ValueError: an odd dimension.
    """
    if dim % _PAIR:
        raise ValueError(
            f"an index codes vectors two components at a time, their dimension is {dim}: train an even one"
        )
    return f"IVF{lists},PQ{dim // _PAIR}x{_BITS}"


def train(sample: np.ndarray, lists: int, seed: int) -> faiss.IndexIVFPQ:
    """Return an index of nothing that knows its lists and codes.

    Args:
      sample: `(num_sampled, dim) float32`; the same rows in another order give another index.

    Raises:
      ValueError: there is nothing to train on, or a vector is not finite.
    """
    if not len(sample):
        raise ValueError("an index is trained on vectors, there are none: embed items first")
    demand_finite(sample, "sampled item")
    index: Any = faiss.index_factory(sample.shape[1], factory(sample.shape[1], lists), faiss.METRIC_INNER_PRODUCT)
    index.do_polysemous_training = False  # an order of codes that only Hamming distances are of use with
    for clustering in (index.cp, index.pq.cp):
        clustering.seed, clustering.min_points_per_centroid = seed, 1
    enough = max(len(sample), lists, 2**_BITS)
    threads = faiss.omp_get_max_threads()
    faiss.cvar.distance_compute_blas_threshold = _ALWAYS
    try:
        faiss.omp_set_num_threads(1)
        index.train(np.resize(sample, (enough, sample.shape[1])))
    finally:
        faiss.omp_set_num_threads(threads)
        faiss.cvar.distance_compute_blas_threshold = NEVER
    return index


def encode(trained: Any, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the list of every vector, `(num_items,) int64`, and its code, `(num_items, code_size) uint8`.

    Args:
      trained: see `train`. vectors: `(num_items, dim) float32`.

    Raises:
      ValueError: a vector is not finite.
    """
    demand_finite(vectors, "item")
    vectors = np.ascontiguousarray(vectors, np.float32)
    nearest = ExactIndex.of(trained.quantizer.reconstruct_n(0, trained.nlist), FLOAT32).search(vectors, 1)
    lists, codes = nearest.rows[:, 0].astype(np.int64), np.empty((len(vectors), trained.code_size), np.uint8)
    if len(vectors):
        pointers = (faiss.swig_ptr(one) for one in (vectors, lists, codes))
        trained.encode_vectors(len(vectors), *pointers, False)
    return lists, codes


def assemble(trained: faiss.IndexIVFPQ, lists: np.ndarray, codes: np.ndarray) -> faiss.IndexIVFPQ:
    """Return an index of coded vectors, numbered by their places. Memory: `code_size + 8` bytes per item."""
    index: Any = faiss.clone_index(trained)
    order = np.argsort(lists, kind="stable")
    codes, starts = np.ascontiguousarray(codes[order]), np.searchsorted(lists[order], np.arange(index.nlist + 1))
    for number, (first, last) in enumerate(itertools.pairwise(starts.tolist())):
        if first < last:
            rows, own = order[first:last], codes[first:last]
            index.invlists.add_entries(number, last - first, faiss.swig_ptr(rows), faiss.swig_ptr(own))
    index.ntotal = len(lists)
    return index


def listed(index: faiss.IndexIVFPQ) -> np.ndarray:
    """Return what is in the lists, by number, `(n,) int64`."""
    lists: Any = index.invlists
    found = [
        faiss.rev_swig_ptr(lists.get_ids(n), lists.list_size(n)).copy()
        for n in range(index.nlist)
        if lists.list_size(n)
    ]
    return np.concatenate([np.empty(0, np.int64), *found])


def flat(vectors: np.ndarray) -> faiss.IndexFlatIP:
    """Return the vectors as a flat index, whose file can be mapped."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, np.float32))
    return index
