import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.index import exact, factors
from transforms.index.exact import LEAST_SAMPLE, NOTHING, ExactIndex, Limits, to_keys, to_scores
from transforms.index.factors import BFLOAT16, FLOAT32, ON_GPU, OnGpu, OnProcessor
from transforms.index.inner_product import score
from transforms.index.survivors import Pool, floors

EVERY = [FLOAT32, BFLOAT16, ON_GPU]
PRECISIONS = pytest.mark.parametrize("precision", EVERY)


@pytest.fixture(scope="module", autouse=True)
def another_device():
    """What a GPU does is done by the processor, as if it were another device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factors, "GPU", "cpu:0")
        yield


def best(index: ExactIndex, queries: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Return the best rows by sorting all scores, equal ones by row."""
    scores = index.scores(queries, np.broadcast_to(rows.astype(np.int64), (len(queries), len(rows))).copy())
    ranked = [rows[np.lexsort((rows, -one))][:k] for one in scores]
    return np.array([[*one, *[NOTHING] * (k - len(one))] for one in ranked], np.int64).reshape(len(queries), k)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


@given(
    num_items=st.integers(1, 4_000), num_queries=st.integers(0, 40), dim=st.sampled_from([1, 3, 16, 64]), k=st.integers(1, 600),
    kind=st.sampled_from(["normal", "few", "short", "below 0"]), precision=st.sampled_from(EVERY), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_what_is_found_is_the_best_whatever_the_vectors(num_items, num_queries, dim, k, kind, precision, seed):
    rng = np.random.default_rng(seed)
    items, queries = normal(rng, num_items, dim), normal(rng, num_queries, dim)
    if kind == "few":  # of three vectors, all others their copies
        items = items[:3][rng.integers(0, min(3, num_items), num_items)]
    if kind == "short":
        items *= np.exp(2 * normal(rng, num_items, 1))
        queries[::3] = 0
    if kind == "below 0":
        items, queries = np.abs(items), -np.abs(queries)
    index = ExactIndex.of(items, precision)
    found = index.search(queries, k)
    np.testing.assert_array_equal(found.rows, best(index, queries, np.arange(num_items), k))
    there = found.rows != NOTHING
    assert (there.sum(axis=1) == min(k, num_items)).all()
    assert np.isneginf(found.scores[~there]).all()
    products = np.einsum("qd,qkd->qk", queries.astype(float), items[found.rows].astype(float))
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(items, axis=1)[found.rows]
    assert (np.abs(found.scores - products)[there] <= 1e-6 * norms[there]).all()


@PRECISIONS
def test_no_batch_and_no_number_of_threads_changes_a_bit(precision):
    rng = np.random.default_rng(0)
    index, queries = ExactIndex.of(normal(rng, 20_000, 32), precision), normal(rng, 300, 32)
    whole = index.search(queries, 100)
    for size in (1, 7, 128):
        parts = [index.search(queries[n : n + size], 100) for n in range(0, 300, size)]
        for name in ("rows", "scores"):
            assert np.concatenate([getattr(p, name) for p in parts]).tobytes() == getattr(whole, name).tobytes()
    threads = faiss.omp_get_max_threads()
    try:
        for number in (1, 2):
            faiss.omp_set_num_threads(number)
            assert index.search(queries, 100).scores.tobytes() == whole.scores.tobytes()
    finally:
        faiss.omp_set_num_threads(threads)


def test_the_precision_of_the_first_step_changes_nothing():
    rng = np.random.default_rng(1)
    items, queries = normal(rng, 8_000, 48), normal(rng, 60, 48)
    for size in (1.0, 1e-3, 1e3):
        found = [ExactIndex.of(items * np.float32(size), one).search(queries, 50) for one in EVERY]
        for one in found[1:]:
            assert one.rows.tobytes() == found[0].rows.tobytes()
            assert one.scores.tobytes() == found[0].scores.tobytes()


def test_each_precision_is_taken_where_it_is_asked_for():
    """Without this the test above would compare float32 with itself."""
    rng = np.random.default_rng(1)
    taken = ((FLOAT32, np.int32, OnProcessor), (BFLOAT16, np.int16, OnProcessor), (ON_GPU, np.int16, OnGpu))
    for precision, bits, kind in taken:
        product = ExactIndex.of(normal(rng, 50, 8), precision)._factors.product(normal(rng, 5, 8))
        assert (product.bits, type(product)) == (bits, kind)


def test_a_gpu_is_taken_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert factors.fastest() == ON_GPU


@pytest.mark.parametrize(("narrow", "wide", "taken"), [(1.0, 2.0, BFLOAT16), (2.0, 1.0, FLOAT32)])
def test_a_processor_is_taken_by_how_fast_it_is(monkeypatch, narrow, wide, taken):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(factors, "_seconds", {torch.bfloat16: narrow, torch.float32: wide}.get)
    assert factors._faster.__wrapped__() == taken
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert factors._faster.__wrapped__() == FLOAT32, "what it cannot do is not tried"


def test_scores_are_the_same_where_vectors_are_mapped_at_an_odd_address():
    rng = np.random.default_rng(8)
    items, queries = normal(rng, 300, 50), normal(rng, 20, 50)
    odd = np.frombuffer(b"x" * 45 + items.tobytes(), np.float32, offset=45).reshape(items.shape)
    assert not odd.flags.aligned
    rows, found = np.tile(np.arange(300), (20, 1)), np.empty((2, 20, 300), np.uint64)
    for keys, vectors in zip(found, (items, odd), strict=True):
        score(queries, vectors, rows, 64, keys)
    assert found[0].tobytes() == found[1].tobytes()
    np.testing.assert_array_equal(found[0], to_keys(to_scores(found[0]), rows))
    exact = queries.astype(float) @ items.T.astype(float)
    np.testing.assert_allclose(to_scores(found[0]), exact, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 7, 100, 1_000])
def test_pairs_are_scored_whatever_their_order_and_how_many_vectors_are_worked_on_at_once(at_once):
    rng = np.random.default_rng(9)
    items, queries, rows = normal(rng, 100, 24), normal(rng, 5, 24), rng.integers(-1, 100, (5, 60))
    found = np.zeros((2, *rows.shape), np.uint64)
    score(queries, items, np.sort(rows, axis=1), at_once, found[0])
    score(queries, items, rows, at_once, found[1])
    assert np.sort(found[0], axis=1).tobytes() == np.sort(found[1], axis=1).tobytes()
    scores = np.where(rows < 0, -np.inf, np.take_along_axis(queries @ items.T, np.maximum(rows, 0), axis=1))
    np.testing.assert_allclose(to_scores(found[1]), scores, atol=1e-5)


@pytest.mark.parametrize("bits", [np.int16, np.int32])
@given(bounds=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=300), k=st.integers(1, 310))
@settings(deadline=None)
def test_a_floor_is_reached_by_k_bounds(bits, bounds, k):
    given_, found = np.array([bounds], bits) * bits(1 if bits is np.int16 else 2**14), np.empty(1, bits)
    floors(Pool(np.empty((1, 0), np.int32), given_, np.array([len(bounds)]), np.zeros(1, int)), k, found)
    if len(bounds) <= k:
        assert found[0] == np.iinfo(bits).min
        return
    last = int(np.sort(given_[0])[-k])
    assert 0 <= last - int(found[0]) <= (int(given_.max()) - int(given_.min())) / 2**9


@PRECISIONS
def test_a_part_finds_its_own_items_and_all_it_was_asked_for(precision):
    rng = np.random.default_rng(2)
    index, queries = ExactIndex.of(normal(rng, 6_000, 16), precision), normal(rng, 50, 16)
    for rows in (np.flatnonzero(index.vectors[:, 0] > 1), np.arange(0, 6_000, 100), np.arange(3), np.arange(0)):
        found = index.part(rows).search(queries, 80)
        np.testing.assert_array_equal(found.rows, best(index, queries, rows, 80))


@given(
    num_items=st.integers(1, 3_000), num_queries=st.integers(1, 30), k=st.integers(1, 300), seed=st.integers(0, 99),
    heard=st.integers(0, 400), share=st.sampled_from([0.0, 0.01, 0.3, 1.0]), precision=st.sampled_from(EVERY),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_every_query_finds_the_best_of_what_it_may_find(num_items, num_queries, k, seed, heard, share, precision):
    """Among others where the mask is open to what the query points away from, and what was heard is the best there is."""
    rng = np.random.default_rng(seed)
    items, queries = normal(rng, num_items, 8), normal(rng, num_queries, 8)
    masks = np.stack([rng.random(num_items) < share, items[:, 0] < np.quantile(items[:, 0], share)])
    mask_of = rng.integers(0, 2, num_queries)
    queries[mask_of == 1, 0] = 3
    index, rows = ExactIndex.of(items, precision), np.flatnonzero(rng.random(num_items) < 0.8)
    liked = best(index, queries, np.arange(num_items), min(heard, num_items))
    pairs = np.unique(np.arange(num_queries)[:, None] << 32 | liked)
    found = index.part(rows).search(queries, k, Limits(masks[:, rows], mask_of, pairs))
    masks[:, np.setdiff1d(np.arange(num_items), rows)] = False
    of_all = index.search(queries, k, Limits(masks, mask_of, pairs))
    assert of_all.rows.tobytes() == found.rows.tobytes()
    assert of_all.scores.tobytes() == found.scores.tobytes()
    for query in range(num_queries):
        open_to = np.setdiff1d(rows[masks[mask_of[query], rows]], liked[query])
        np.testing.assert_array_equal(found.rows[query], best(index, queries[[query]], open_to, k)[0])


def test_limits_of_more_queries_than_are_asked_at_once_are_each_ones_own(monkeypatch):
    monkeypatch.setattr(exact, "QUERIES_AT_ONCE", 7)
    rng = np.random.default_rng(6)
    index, queries = ExactIndex.of(normal(rng, 500, 4)), normal(rng, 30, 4)
    best_one = index.search(queries, 1).rows[:, 0].astype(np.int64)
    limits = Limits(np.ones((1, 500), bool), np.zeros(30, int), np.arange(30) << 32 | best_one)
    np.testing.assert_array_equal(index.search(queries, 3, limits).rows, index.search(queries, 4).rows[:, 1:])


@PRECISIONS
@pytest.mark.parametrize("better", [2.0, 0.5])
def test_a_sample_that_misleads_changes_nothing(precision, better):
    """The sampled items are all better, or all worse, than any other."""
    rng = np.random.default_rng(3)
    items, queries = np.abs(normal(rng, 5_000, 8)), np.abs(normal(rng, 20, 8))
    items[np.random.default_rng(0).permutation(5_000)[:LEAST_SAMPLE]] *= better
    index = ExactIndex.of(items, precision)
    np.testing.assert_array_equal(index.search(queries, 1_500).rows, best(index, queries, np.arange(5_000), 1_500))


@PRECISIONS
def test_where_everything_is_equal_the_first_rows_are_found_in_little_memory(precision, monkeypatch):
    """Each of the queries reaches all items: scored at once are no more than three of the limits allow."""
    for name, size in (("ROOM", 1), ("LEAST_ROOM", 1_000), ("PADDED_AT_ONCE", 2_000)):
        monkeypatch.setattr(exact, name, size)
    for kind in (OnProcessor, OnGpu):
        monkeypatch.setattr(kind, "bounds_at_once", 2**12)
    index, scored = ExactIndex.of(np.ones((30_000, 4), np.float32), precision), []
    keys = index.keys
    monkeypatch.setattr(index, "keys", lambda queries, rows: scored.append(rows.size) or keys(queries, rows))
    found = index.search(np.ones((3, 4), np.float32), 20)
    np.testing.assert_array_equal(found.rows, np.tile(np.arange(20), (3, 1)))
    assert max(scored) <= 3 * 1_020 + 2**12
    assert sum(scored) == 3 * 30_000


def test_what_float32_and_bfloat16_lose_is_allowed_for():
    """Sums that cancel, and small parts that a sum in order drops: the bound of the best must not fall below the others'."""
    tiny = np.float32(2**-12.5)
    close = np.full((2_000, 256), 0, np.float32)
    close[:, 0] = 1
    close[700, 1:] = tiny
    close[:100, 1] = 5e-6
    query = np.full((1, 256), tiny, np.float32)
    query[0, 0] = 1
    large = np.array([[2.0**24, -(2.0**24), 1]], np.float32)
    cancel = np.tile(np.array([[1, 1, 13]], np.float32), (2_000, 1))
    cancel[5] = 1, 1, 14
    for items, asked in ((close, query), (cancel, large)):
        found = [ExactIndex.of(items, one).search(asked, 3) for one in EVERY]
        wanted = best(ExactIndex.of(items, FLOAT32), asked, np.arange(2_000), 3)
        for one in found:
            np.testing.assert_array_equal(one.rows, wanted)


def test_no_less_than_one_item_can_be_asked_for():
    with pytest.raises(ValueError, match="k must be 1 or more, got 0"):
        ExactIndex.of(np.ones((2, 2), np.float32)).search(np.ones((1, 2), np.float32), 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e20])
def test_what_is_no_number_is_refused(bad):
    items = np.ones((5, 2), np.float32)
    index = ExactIndex.of(items, FLOAT32)
    items[3, 1] = bad
    with pytest.raises(ValueError, match="item vector 3 is not finite; 1 of 5 are not"):
        ExactIndex.of(items)
    with pytest.raises(ValueError, match="query vector 3 is not finite; 1 of 5 are not"):
        index.search(items, 1)


@pytest.mark.parametrize("most", [0, 1 << 20])
def test_a_file_is_mapped_and_finds_the_same(tmp_path, monkeypatch, most):
    monkeypatch.setattr("transforms.index.exact._ALIGNED_BYTES", most)
    rng = np.random.default_rng(4)
    items, queries = normal(rng, 2_000, 16), normal(rng, 30, 16)
    flat = faiss.IndexFlatIP(16)
    flat.add(items)
    faiss.write_index(flat, str(tmp_path / "items.faiss"))
    index = ExactIndex.open(tmp_path / "items.faiss")
    assert index.vectors.tobytes() == items.tobytes()
    assert not index.vectors.flags.writeable
    assert index.vectors.flags.aligned == bool(most)  # FAISS writes them behind a header of odd length
    assert index.search(queries, 9).rows.tobytes() == ExactIndex.of(items).search(queries, 9).rows.tobytes()


def test_an_index_of_nothing_finds_nothing():
    found = ExactIndex.of(np.empty((0, 4), np.float32)).search(np.ones((2, 4), np.float32), 3)
    assert (found.rows == NOTHING).all()
    assert np.isneginf(found.scores).all()
