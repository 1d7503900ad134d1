"""Exact search in bulk beside what else there is, one core each: `python -m benchmarks.retrieval --items 1000000`.

Ours also through lists of codes, as `[road] index = "ivf"` has it; that has codes of `dim / 4 + 8` bytes on disk besides the
vectors. Others: flat FAISS as it comes and with its threshold for BLAS set to 1 (below it, it looks at one query at a time), an
IVF-PQ index with refinement, and hnswlib, Voyager and ScaNN where they are installed. Figures are CPU time; what is
compared was measured in turns, and a ratio is the median of those of the turns.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl

from benchmarks.retrieve_stage import stage
from transforms.embed.weights import unpack
from transforms.index.build import SAMPLED_PER_LIST, assemble, encode, flat, num_lists, train
from transforms.index.exact import NOTHING, QUERIES_AT_ONCE, ExactIndex, Found, Limits
from transforms.index.factors import FLOAT32, fastest
from transforms.index.ivf import IvfIndex

BATCHES = (1, 4, 16, 64, 256, 999, 1_024, 4_096)
SHARES = (0.9, 0.5, 0.1, 0.01)
FEW = 32
"""Queries of what looks at one at a time."""
CLUSTERS = 1_000
DEFAULT_THRESHOLD = 128_000
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def clusters(num: int, dim: int, seed: int) -> np.ndarray:
    """Return vectors around `CLUSTERS` centres, their norms log-normal, `(num, dim) float32`."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, dim), dtype=np.float32)
    found = centres[rng.integers(0, CLUSTERS, num)] + rng.standard_normal((num, dim), dtype=np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found * np.exp(0.2 * rng.standard_normal((num, 1), dtype=np.float32))


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of the process that some work takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def in_turns(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each work in each round, after one that does not count."""
    for work in works.values():
        work()
    spent = [{name: seconds(work) for name, work in works.items()} for _ in range(rounds)]
    return {name: [one[name] for one in spent] for name in works}


def ratio(own: list[float], other: list[float]) -> float:
    """Return how many times as fast the first is, the median over the turns."""
    return statistics.median(b / a for a, b in zip(own, other, strict=True))


def flat_faiss(index: faiss.IndexFlatIP, threshold: int) -> Search:
    """Return the search of a flat index that uses BLAS from `threshold` products on."""

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        faiss.cvar.distance_compute_blas_threshold = threshold
        scores, rows = index.search(queries, k)
        return rows, scores

    return search


def others(items: np.ndarray, k: int) -> dict[str, tuple[Search, float]]:
    """Return approximate searches with the CPU seconds of building them; of those not installed, says so."""
    found = {}
    for name, build in OTHERS.items():
        started = time.process_time()
        try:
            found[name] = build(items, k), time.process_time() - started
        except ImportError as error:
            print(f"  {name}: {error}; pip install it to see it here", flush=True)
    return found


def _ivf_pq(items: np.ndarray, k: int) -> Search:
    lists, dim = int(4 * np.sqrt(len(items))), items.shape[1]
    index = faiss.index_factory(dim, f"IVF{lists},PQ{dim // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
    index.train(items[np.random.default_rng(0).permutation(len(items))[: 40 * lists]])
    index.add(items)
    index.k_factor = 4
    faiss.extract_index_ivf(index.base_index).nprobe = max(1, lists // 16)
    return lambda queries, k: index.search(queries, k)[::-1]


def _hnswlib(items: np.ndarray, k: int) -> Search:
    import hnswlib

    index = hnswlib.Index("ip", items.shape[1])
    index.init_index(len(items), M=32, ef_construction=200, random_seed=0)
    index.add_items(items, num_threads=1)
    index.set_ef(4 * k)
    return lambda queries, k: index.knn_query(queries, k, num_threads=1)


def _voyager(items: np.ndarray, k: int) -> Search:
    import voyager

    index = voyager.Index(voyager.Space.InnerProduct, items.shape[1], M=32, ef_construction=200)
    index.add_items(items, num_threads=1)
    return lambda queries, k: index.query(queries, k, num_threads=1, query_ef=4 * k)


def _scann(items: np.ndarray, k: int) -> Search:
    import scann

    leaves = int(np.sqrt(len(items)))
    index = (
        scann.scann_ops_pybind.builder(items, k, "dot_product")
        .tree(leaves, max(1, leaves // 5), training_sample_size=250_000)
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(4 * k)
        .build()
    )
    return lambda queries, k: index.search_batched(queries, k)


def _own_index(items: np.ndarray, k: int) -> Search:
    lists = num_lists(len(items))
    sample = np.random.default_rng(0).permutation(len(items))[: SAMPLED_PER_LIST * lists]
    trained = train(items[np.sort(sample)], lists, 0)
    codes = assemble(trained, *encode(trained, items))
    print(f"  codes: {len(faiss.serialize_index(codes)) / len(items):.1f} bytes an item on disk", flush=True)
    index = IvfIndex(codes, [ExactIndex(flat(items), FLOAT32)])
    return lambda queries, k: rows_and_scores(index.search(queries, k))


OTHERS = {
    "ours, lists of codes": _own_index, "IVF-PQ, refined": _ivf_pq, "hnswlib": _hnswlib, "Voyager": _voyager, "ScaNN": _scann,
}  # fmt: skip


def table(items: np.ndarray, queries: np.ndarray, k: int, rounds: int, approximate: bool) -> dict[str, Any]:
    """Return queries a second, recall and ratio of every search, in batches of `QUERIES_AT_ONCE`."""
    exact, index = faiss.IndexFlatIP(items.shape[1]), ExactIndex.of(items)
    exact.add(items)
    searches: dict[str, tuple[Search, float]] = {
        "ours": (lambda asked, k: rows_and_scores(index.search(asked, k)), 0.0),
        "flat FAISS, BLAS": (flat_faiss(exact, 1), 0.0),
    }
    if approximate:
        searches |= others(items, k)
    batch = queries[:QUERIES_AT_ONCE]
    spent = in_turns({name: (lambda one=one: one(batch, k)) for name, (one, _) in searches.items()}, rounds)
    best, best_scores = searches["flat FAISS, BLAS"][0](batch, k)
    found: dict[str, Any] = {}
    for name, (search, built) in searches.items():
        rows, _ = search(batch, k)
        found[name] = {
            "queries a second": len(batch) / statistics.median(spent[name]),
            "times flat FAISS": ratio(spent[name], spent["flat FAISS, BLAS"]),
            f"recall@{k}": recall(rows, best, k), "recall@100": recall(rows, best, 100), "build s": built,
        }  # fmt: skip
    own = np.sort(searches["ours"][0](batch, k)[1], axis=1)
    found["ours"]["score error"] = float(np.abs(own - np.sort(best_scores, axis=1)).max())
    return found


def rows_and_scores(found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Return what ours found as the others do: rows and scores."""
    return found.rows, found.scores


def recall(rows: np.ndarray, best: np.ndarray, k: int) -> float:
    """Return the share of the best k that is among the first k found."""
    return float(np.mean([len(np.intersect1d(a[:k], b[:k])) / k for a, b in zip(rows, best, strict=True)]))


def batches(items: np.ndarray, queries: np.ndarray, k: int, rounds: int) -> dict[int, float]:
    """Return, by batch size, how many times as fast ours is as the faster way of flat FAISS."""
    exact, index = faiss.IndexFlatIP(items.shape[1]), ExactIndex.of(items)
    exact.add(items)
    found = {}
    for size in BATCHES:
        some = queries[:size]
        ways = {"as it comes": flat_faiss(exact, DEFAULT_THRESHOLD), "BLAS": flat_faiss(exact, 1)}
        if size > 64:
            ways.pop("as it comes" if size * items.shape[1] < DEFAULT_THRESHOLD else "BLAS")
        works = {name: (lambda way=way, some=some: way(some, k)) for name, way in ways.items()}
        spent = in_turns(works | {"ours": lambda some=some: index.search(some, k)}, rounds)
        found[size] = min(ratio(spent["ours"], spent[name]) for name in ways)
        print(f"  {size:>5} at once: {found[size]:.2f} times the faster flat FAISS", flush=True)
    return found


def filtered(items: np.ndarray, queries: np.ndarray, k: int, rounds: int) -> dict[float, dict[str, float]]:
    """Return, by share of the items that may be found, throughput per such item beside that of all, and of just them.

    What may be found goes with taste: what a direction points to. Short is the share of queries that got fewer than
    they could, of 100,000 items asked for k of them and then filtered (`k / share` of them, twice over) beside ours.
    """
    index, batch = ExactIndex.of(items), queries[:QUERIES_AT_ONCE]
    towards = items @ items[0]
    found = {}
    for share in SHARES:
        mask = towards <= np.quantile(towards, share)
        limits = Limits(mask[None], np.zeros(len(batch), np.int64), np.empty(0, np.int64))
        own = ExactIndex.of(items[mask])
        spent = in_turns(
            {"all": lambda: index.search(batch, k), "some": lambda limits=limits: index.search(batch, k, limits),
             "own": lambda own=own: own.search(batch, k)},
            rounds,
        )  # fmt: skip
        wide = min(int(2 * k / share), len(items))
        after = mask[np.maximum(index.search(batch[:64], wide).rows, 0)].sum(axis=1)
        faiss_spent = in_turns(faiss_filtered(items, mask, batch, k), 1)
        got = (index.search(batch, k, limits).rows != NOTHING).sum(axis=1)
        there = min(k, int(mask.sum()))
        found[share] = {
            "per item": ratio(spent["some"], spent["all"]) * float(mask.mean()),
            "of an index of them alone": ratio(spent["some"], spent["own"]),
            "us a query": 1e6 * min(spent["some"]) / len(batch),
            "us a query, flat FAISS with a selector": 1e6 * min(faiss_spent["selector"]) / FEW,
            "us a query, flat FAISS of them alone": 1e6 * min(faiss_spent["own"]) / len(batch),
            "short": float((got < there).mean()), "short, filtered afterwards": float((after < there).mean()),
        }  # fmt: skip
        print(f"  {share:.0%} may be found: {found[share]}", flush=True)
    return found


def faiss_filtered(items: np.ndarray, mask: np.ndarray, batch: np.ndarray, k: int) -> dict[str, Callable[[], object]]:
    """Return what FAISS offers where some items may be found: a selector, for `FEW` queries, or a flat index of just them."""
    every, own = faiss.IndexFlatIP(items.shape[1]), faiss.IndexFlatIP(items.shape[1])
    every.add(items)
    own.add(items[mask])
    bits = np.packbits(mask, bitorder="little")
    given: Any = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(bits)))
    alone = flat_faiss(own, 1)
    return {"selector": lambda bits=bits: every.search(batch[:FEW], k, params=given), "own": lambda: alone(batch, k)}


def growth(items: np.ndarray, queries: np.ndarray, k: int, rounds: int) -> dict[str, float]:
    """Return how many times as long ten times the queries and ten times the items take."""
    index, few = ExactIndex.of(items[: len(items) // 10]), queries[: len(queries) // 10]
    whole, batch = ExactIndex.of(items), queries[:QUERIES_AT_ONCE]
    users = in_turns({"1": lambda: index.search(few, k), "10": lambda: index.search(queries, k)}, rounds)
    rows = in_turns({"1": lambda: index.search(batch, k), "10": lambda: whole.search(batch, k)}, rounds)
    return {"queries": ratio(users["1"], users["10"]), "items": ratio(rows["1"], rows["10"])}


def trained(path: Path) -> np.ndarray:
    """Return the item vectors of a trained model, `(num_items, dim) float32`: of its weights, or what it embedded."""
    if path.is_dir():
        return pl.read_parquet(sorted(path.glob("*.parquet")), columns=["vector"])["vector"].to_numpy()
    return unpack(path.read_bytes(), str(path))[0]["item_vectors"].astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_240)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--k", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--vectors",
        type=Path,
        help="of items, in place of synthetic ones: a model's .safetensors, or a folder of item embeddings",
    )
    parser.add_argument("--only", choices=("table", "batches", "filtered", "growth", "stage"), help="one part")
    parser.add_argument("--exact", action="store_true", help="leave approximate indices out")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    if given.vectors:
        items = trained(given.vectors)
        queries = items[np.random.default_rng(1).integers(0, len(items), given.queries)]
    else:
        items, queries = clusters(given.items, given.dim, 1), clusters(given.queries, given.dim, 2)
    print(f"{len(items):,} items of {items.shape[1]} dimensions, k = {given.k}, product in {fastest()}", flush=True)
    asked = items, queries, given.k, given.rounds
    parts: dict[str, Callable[[], Any]] = {
        "table": lambda: table(*asked, approximate=not given.exact), "batches": lambda: batches(*asked),
        "filtered": lambda: filtered(*asked), "growth": lambda: growth(*asked),
        "stage": lambda: stage(given.items, given.queries, items.shape[1], given.rounds),
    }  # fmt: skip
    found: dict[str, Any] = {"items": len(items), "dim": items.shape[1], "k": given.k, "product": fastest()}
    for name, part in parts.items():
        if given.only in (None, name):
            found[name] = part()
            print(json.dumps({name: found[name]}, indent=1), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
