import numpy as np
import polars as pl
import pytest

from transforms.embed.content import Content, ContentSettings, fit_content
from transforms.embed.interactions import from_lists
from transforms.embed.text import ItemFeatures, item_features

SETTINGS = ContentSettings(rarity=1.5, back=0.5, repeats=0.2)


def drawn_features(num_items: int, num_buckets: int, seed: int) -> tuple[ItemFeatures, np.ndarray]:
    """Return features, and the same as a dense matrix; the last item has no tokens."""
    draw = np.random.default_rng(seed)
    dense = draw.random((num_items, num_buckets)) * (draw.random((num_items, num_buckets)) < 0.2)
    dense[-1] = 0
    items, tokens = np.nonzero(dense)
    starts = np.concatenate([[0], np.cumsum(np.bincount(items, minlength=num_items))])
    weights = dense[items, tokens].astype(np.float32)
    return ItemFeatures(starts, tokens.astype(np.int32), weights, num_buckets), dense


def oracle(dense: np.ndarray, contexts: list[list[int]], s: ContentSettings) -> np.ndarray:
    counts = (dense > 0).sum(axis=0)
    weights = dense * np.where(counts > 1, np.log(len(dense) / np.maximum(counts, 1)), 0) ** s.rarity
    weights /= np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-12)
    scores = np.zeros((len(contexts), len(dense)))
    for number, context in enumerate(contexts):
        for item in set(context):
            scores[number] += s.back ** context[::-1].index(item) * (weights @ weights[item])
        scores[number, list(set(context))] *= s.repeats
    return scores


def test_scores_are_the_cosines_of_the_formula():
    features, dense = drawn_features(20, 30, seed=3)
    contexts = [[1, 2, 3], [5, 5, 6], [], [19]]
    scores = fit_content(features, SETTINGS).score(from_lists(contexts, 20))
    np.testing.assert_allclose(scores, oracle(dense, contexts, SETTINGS), rtol=1e-4, atol=1e-6)
    assert scores[:2].any(axis=1).all()
    assert not scores[2:].any()


def test_an_item_nobody_played_is_found_by_its_words():
    titles = ["blue night train", "blue night ferry", "green morning", "loud green day", "morning ferry"]
    content = fit_content(item_features(pl.DataFrame({"title": titles})), ContentSettings())
    assert content.score(from_lists([[0]], 5)).argmax() == 1


@pytest.mark.parametrize("titles", [["one", "one"], [None, None]])
def test_where_nothing_tells_items_apart_all_scores_are_nothing(titles):
    frame = pl.DataFrame({"title": titles}, schema={"title": pl.String})
    assert not fit_content(item_features(frame), ContentSettings()).score(from_lists([[0]], 2)).any()


def test_arrays_give_the_model_back():
    content = fit_content(drawn_features(20, 30, seed=3)[0], SETTINGS)
    again, contexts = Content.from_arrays(content.to_arrays()), from_lists([[1, 2, 3], []], 20)
    assert again.settings == SETTINGS
    np.testing.assert_array_equal(again.score(contexts), content.score(contexts))
