import numpy as np
import polars as pl
import pytest

from transforms.embed.text import ItemFeatures, item_features

ITEMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "title": ["Blue Café night", "blue cafe", None, "night"],
        "description": [None, "The NIGHT", None, None],
        "genres": [["rock", "pop"], ["rock"], None, []],
        "artists": [[{"artist_id": "x", "name": "X", "role": "main"}], None, [], [{"artist_id": "x", "name": "Y", "role": "by"}]],
        "item_type": ["track", "track", "track", None],
        "languages": [["en"], None, None, None],
    },
    schema_overrides={"artists": pl.List(pl.Struct({"artist_id": pl.String, "name": pl.String, "role": pl.String}))},
)  # fmt: skip


def tokens(features, item):
    return set(features.tokens[features.starts[item] : features.starts[item + 1]].tolist())


def test_spelling_case_and_field_do_not_change_words():
    features = item_features(ITEMS.select("title", "description"), subword_lengths=())
    assert [len(tokens(features, item)) for item in range(4)] == [3, 4, 0, 1]
    assert tokens(features, 0) < tokens(features, 1)
    assert tokens(features, 3) < tokens(features, 0)


def test_attributes_have_namespaces_of_their_own():
    same = pl.DataFrame({"title": ["rock"], "genres": [["rock"]], "item_type": ["rock"], "languages": [["rock"]]})
    assert len(tokens(item_features(same, subword_lengths=()), 0)) == 4


def test_each_part_of_an_item_has_length_one():
    features = item_features(ITEMS)
    for item, parts in enumerate((3, 3, 1, 3)):
        squares = features.weights[features.starts[item] : features.starts[item + 1]] ** 2
        assert squares.sum() == pytest.approx(parts, rel=1e-4)


def test_subwords_carry_over_to_spellings_never_seen():
    frame = pl.DataFrame({"title": ["Metallica", "Metalica", "Beethoven"]})
    features = item_features(frame)
    alike, unlike = tokens(features, 0) & tokens(features, 1), tokens(features, 0) & tokens(features, 2)
    assert len(alike) >= 8
    assert unlike == set()


@pytest.mark.parametrize("missing", [[], ["title"], ["title", "description"], ["artists", "genres", "item_type"]])
def test_columns_may_be_missing_or_null(missing):
    nulls = ITEMS.with_columns(pl.lit(None).alias(name) for name in missing)
    dropped, nulled = item_features(ITEMS.drop(missing)), item_features(nulls)
    np.testing.assert_array_equal(dropped.tokens, nulled.tokens)
    np.testing.assert_array_equal(dropped.starts, nulled.starts)


def test_an_item_alone_has_the_tokens_it_has_among_others():
    together, alone = item_features(ITEMS), item_features(ITEMS[1:2])
    taken = together.take(np.array([1]))
    np.testing.assert_array_equal(taken.tokens, alone.tokens)
    np.testing.assert_array_equal(taken.weights, alone.weights)


def test_tokens_lie_in_their_buckets_in_order():
    features = item_features(ITEMS, num_buckets=50)
    assert features.tokens.max() < 50
    for item in range(4):
        row = features.tokens[features.starts[item] : features.starts[item + 1]]
        assert (np.diff(row) > 0).all()


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="items end at 3, but there are 2 tokens and 2 weights"):
        ItemFeatures(np.array([0, 3]), np.zeros(2, np.int32), np.zeros(2, np.float32), 8)
