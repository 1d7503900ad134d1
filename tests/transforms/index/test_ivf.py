import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_index import CENTRES, indexed, unit

from transforms.index import ivf
from transforms.index.exact import NOTHING, ExactIndex, Found, Limits
from transforms.index.factors import FLOAT32
from transforms.index.ivf import IvfIndex

NUM = 6_000
VECTORS = unit(np.random.default_rng(0), NUM)
QUERIES = unit(np.random.default_rng(1), 60)
EXACT = ExactIndex.of(VECTORS, FLOAT32)


@pytest.fixture(scope="module")
def index() -> IvfIndex:
    return indexed(VECTORS, 60, 3)


@pytest.fixture(autouse=True)
def _lists_are_asked(monkeypatch):
    """Few items are looked at one by one, which would hide what lists do; of few lists, more are to be asked."""
    for name, value in (("EXACT_BELOW", 20), ("EXACT_SHARE", 0), ("PROBED_SHARE", 0.25)):
        monkeypatch.setattr(ivf, name, value)


def limits(mask: np.ndarray, num: int = len(QUERIES), without: int = 0) -> Limits:
    """Return limits to a mask that leave out the best few of all items."""
    best = EXACT.search(QUERIES[:num], max(without, 1)).rows[:, :without].astype(np.int64)
    pairs = np.unique(np.arange(num)[:, None] << 32 | best)
    return Limits(mask[None], np.zeros(num, np.int64), pairs if without else np.empty(0, np.int64))


def recall(found: Found, best: Found) -> float:
    return float((found.scores >= best.scores[:, -1:]).mean())


def test_lists_find_nearly_what_exact_search_finds(index):
    for k in (1, 20, 100):
        assert recall(index.search(QUERIES, k), EXACT.search(QUERIES, k)) > 0.95


def test_scores_are_exact_and_in_order_whatever_the_codes_say(index):
    found = index.search(QUERIES, 50)
    scores = EXACT.scores(QUERIES, found.rows.astype(np.int64))
    assert found.scores.tobytes() == scores.tobytes()
    ahead = (np.diff(scores, axis=1) < 0) | ((np.diff(scores, axis=1) == 0) & (np.diff(found.rows, axis=1) > 0))
    assert ahead.all()


def test_where_few_may_be_found_the_very_best_are(index, monkeypatch):
    monkeypatch.setattr(ivf, "EXACT_BELOW", NUM)
    for own in (None, limits(VECTORS @ CENTRES[0] > 0, without=30)):
        found, best = index.search(QUERIES, 40, own), EXACT.search(QUERIES, 40, own)
        assert found.rows.tobytes() == best.rows.tobytes() == index.scan(QUERIES, 40, own).rows.tobytes()
        assert found.scores.tobytes() == best.scores.tobytes()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("without", [0, 40])
def test_every_query_finds_as_many_as_there_are_where_the_filter_goes_with_taste(index, share, without):
    """What is open to the queries is what they point away from."""
    towards = VECTORS @ QUERIES.mean(axis=0)
    mask = towards <= np.quantile(towards, share)
    own = limits(mask, without=without)
    found, best = index.search(QUERIES, 100, own), EXACT.search(QUERIES, 100, own)
    np.testing.assert_array_equal(found.rows != NOTHING, best.rows != NOTHING)
    there = found.rows != NOTHING
    assert mask[found.rows[there]].all()
    pairs = (np.arange(len(QUERIES))[:, None] << 32 | found.rows)[there]
    assert not np.isin(pairs, own.without).any()
    assert np.mean(found.scores[there] >= np.broadcast_to(best.scores.min(axis=1)[:, None], there.shape)[there]) > 0.9


@given(
    k=st.integers(1, 300), share=st.sampled_from([0.004, 0.05, 0.6, 1.0]), without=st.integers(0, 300),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_nobody_is_short_whatever_is_asked_for(index, k, share, without, seed):
    rng = np.random.default_rng(seed)
    masks = np.stack([rng.random(NUM) < share, VECTORS @ CENTRES[seed] > 0.5])
    heard = np.unique(rng.integers(0, 10, without) << 32 | rng.integers(0, NUM, without))
    own = Limits(masks, rng.integers(0, 2, 10), heard)
    found, best = index.search(QUERIES[:10], k, own), EXACT.search(QUERIES[:10], k, own)
    np.testing.assert_array_equal((found.rows != NOTHING).sum(axis=1), (best.rows != NOTHING).sum(axis=1))


@pytest.mark.parametrize(("exact_below", "exact_share"), [(3_000, 0), (20, 0.5)])
def test_all_are_looked_at_where_few_may_be_found_and_lists_where_many_may(
    index, monkeypatch, exact_below, exact_share
):
    monkeypatch.setattr(ivf, "EXACT_BELOW", exact_below)
    monkeypatch.setattr(ivf, "EXACT_SHARE", exact_share)
    monkeypatch.setattr(index._lists, "search", lambda *_, **__: pytest.fail("lists were asked"))
    mask = np.arange(NUM) < 3_000
    assert (
        index.search(QUERIES, 5, limits(mask)).rows.tobytes() == EXACT.search(QUERIES, 5, limits(mask)).rows.tobytes()
    )
    mask[3_000] = True
    with pytest.raises(pytest.fail.Exception, match="lists were asked"):
        index.search(QUERIES, 5, limits(mask))


def test_lists_that_give_nothing_are_made_up_for(index, monkeypatch):
    """As if no code were told from the worst there is."""
    rows = np.full((len(QUERIES), NUM), NOTHING, np.int64)
    monkeypatch.setattr(
        index._lists, "search", lambda asked, k, params: (rows[: len(asked), :k], rows[: len(asked), :k])
    )
    assert index.search(QUERIES, 30).rows.tobytes() == EXACT.search(QUERIES, 30).rows.tobytes()


def test_no_batch_no_thread_and_no_segment_changes_a_bit(index, monkeypatch):
    whole = index.search(QUERIES, 80)
    assert indexed(VECTORS, 60).search(QUERIES, 80).rows.tobytes() == whole.rows.tobytes()
    for size in (1, 7):
        parts = [index.search(QUERIES[n : n + size], 80) for n in range(0, len(QUERIES), size)]
        assert np.concatenate([one.scores for one in parts]).tobytes() == whole.scores.tobytes()
    threads = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(2)
        assert index.search(QUERIES, 80).rows.tobytes() == whole.rows.tobytes()
    finally:
        faiss.omp_set_num_threads(threads)
    monkeypatch.setattr(ivf, "QUERIES_AT_ONCE", 7)
    assert index.search(QUERIES, 80).scores.tobytes() == whole.scores.tobytes()


def test_what_a_query_finds_does_not_rest_on_how_much_others_go_without(index):
    heard = [np.arange(NUM)[:: 1 + query] for query in range(10)]
    pairs = np.unique(np.concatenate([query << 32 | rows for query, rows in enumerate(heard)]))
    own = Limits(VECTORS[:, :1].T > -0.3, np.zeros(10, np.int64), pairs)
    whole = index.search(QUERIES[:10], 30, own)
    for query in range(10):
        alone = index.search(QUERIES[query : query + 1], 30, own.take(np.array([query])))
        assert alone.rows.tobytes() == whole.rows[query].tobytes()
        assert not np.isin(alone.rows, heard[query]).any()


def test_vectors_of_rows_are_given_out_of_all_segments(index):
    rows = np.array([0, 1_999, 2_000, 4_500, 5_999])
    np.testing.assert_array_equal(index.take(rows), VECTORS[rows])
    assert len(index) == NUM


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_query_is_refused(index, bad):
    broken = QUERIES[:3].copy()
    broken[1, 1] = bad
    with pytest.raises(ValueError, match="query vector 1 is not finite; 1 of 3 are not"):
        index.search(broken, 5)
    with pytest.raises(ValueError, match="k must be 1 or more, got 0"):
        index.search(QUERIES, 0)


def test_of_no_query_nothing_is_found(index):
    assert index.search(QUERIES[:0], 3).rows.shape == (0, 3)
