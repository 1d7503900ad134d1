import faiss
import numpy as np
import pytest
from toy_index import unit

from transforms.index import build
from transforms.index.build import NEVER, assemble, encode, listed, num_lists, train


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return unit(np.random.default_rng(0), 3_000)


@pytest.fixture(scope="module")
def trained(vectors) -> faiss.IndexIVFPQ:
    return train(vectors[::2], 20, 7)


def bytes_of(index: faiss.Index) -> bytes:
    return faiss.serialize_index(index).tobytes()


@pytest.mark.parametrize("parts", [1, 4])
def test_parts_that_are_encoded_by_themselves_give_the_bytes_of_an_index_built_in_one_go(trained, vectors, parts):
    direct = faiss.clone_index(trained)
    direct.add(vectors)
    coded = [encode(trained, one) for one in np.array_split(vectors, parts)]
    lists, codes = (np.concatenate(one) for one in zip(*coded, strict=True))
    index = assemble(trained, lists, codes)
    assert bytes_of(index) == bytes_of(direct)
    np.testing.assert_array_equal(np.sort(listed(index)), np.arange(3_000))


@pytest.mark.parametrize("threads", [1, 2])
def test_training_is_the_same_whatever_the_threads_and_another_of_another_seed(trained, vectors, threads):
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(threads)
        assert bytes_of(train(vectors[::2], 20, 7)) == bytes_of(trained)
        assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    assert bytes_of(train(vectors[::2], 20, 8)) != bytes_of(trained)
    assert faiss.cvar.distance_compute_blas_threshold == NEVER


def test_fewer_vectors_than_lists_and_codes_make_an_index_too():
    few = unit(np.random.default_rng(1), 3)
    trained = train(few, 1, 7)
    np.testing.assert_array_equal(listed(assemble(trained, *encode(trained, few))), np.arange(3))


def test_an_index_of_nothing_holds_nothing(trained):
    lists, codes = encode(trained, np.empty((0, 16), np.float32))
    assert len(listed(assemble(trained, lists, codes))) == 0


def test_lists_grow_with_the_root_of_the_items_and_are_not_left_without():
    assert [num_lists(n) for n in (0, 10, 100, 10_000, 1_000_000)] == [1, 1, 2, 256, 4_000]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(trained, vectors, bad):
    broken = vectors[:100].copy()
    broken[3, 1] = bad
    with pytest.raises(ValueError, match="sampled item vector 3 is not finite; 1 of 100 are not"):
        train(broken, 2, 7)
    with pytest.raises(ValueError, match="item vector 3 is not finite; 1 of 100 are not"):
        encode(trained, broken)


def test_what_cannot_be_trained_on_is_refused():
    with pytest.raises(ValueError, match="there are none: embed items first"):
        train(np.empty((0, 16), np.float32), 1, 7)
    with pytest.raises(ValueError, match="their dimension is 5: train an even one"):
        build.factory(5, 1)
