import dataclasses

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load, save

from transforms.embed.encoder_model import EncoderModel, EncoderSettings, fit_encoder
from transforms.embed.interactions import from_lists
from transforms.embed.text import item_features
from transforms.embed.training_terms import Examples, TrainingSettings

SETTINGS = EncoderSettings(
    dim=16, layers=1, dropout=0.1, training=TrainingSettings(epochs=10, batch_targets=128, rate=0.01)
)
KINDS = ("harp", "drum", "flute")


@pytest.fixture(scope="module")
def items():
    return pl.DataFrame({"title": [f"{KINDS[item % 3]} song" for item in range(30)]})


@pytest.fixture(scope="module")
def model(items):
    """Harps are followed by drums, drums by flutes, flutes by harps; the last three items are never played."""
    rng = np.random.default_rng(0)
    lists = [[int(rng.integers(9) * 3 + (first + at) % 3) for at in range(6)] for first in range(3) for _ in range(40)]
    return fit_encoder(Examples(from_lists(lists, 30)), item_features(items, subword_lengths=()), SETTINGS, 0)


def test_scores_are_inner_products_of_the_two_sides(model):
    contexts = from_lists([[0, 1], [2], []], 30)
    expected = model.encode(contexts) @ model.item_vectors.T
    np.testing.assert_allclose(model.score(contexts), expected, rtol=1e-5)
    assert model.score(contexts).dtype == np.float32
    np.testing.assert_array_equal(model.score(contexts)[2], 0.0)


def test_items_never_played_are_scored_as_what_they_are(model):
    scores = model.score(from_lists([[0, 4, 8], [3, 7]], 30))
    assert scores[0, 27:].argmax() == 0
    assert scores[1, 27:].argmax() == 2
    assert scores[0, 27] > np.delete(scores[0, :27], np.s_[0:27:3]).max()


def test_items_are_placed_as_in_the_catalogue(model, items):
    numbers = np.array([-1, -1, 29, 4])
    found = model.embed_items(numbers, item_features(items[[27, 28, 29, 4]], subword_lengths=()))
    np.testing.assert_allclose(found, model.item_vectors[[27, 28, 29, 4]], atol=1e-6)


def test_arrays_hold_the_whole_model(model):
    again = EncoderModel.from_arrays(load(save(model.to_arrays())))
    contexts = from_lists([[0, 1], [2, 3, 4]], 30)
    np.testing.assert_array_equal(again.score(contexts), model.score(contexts))
    assert (again.epochs, again.log) == (model.epochs, model.log)


def test_the_same_seed_gives_the_same_arrays():
    rows = from_lists([[1, 2, 3]] * 20, 30)
    settings = dataclasses.replace(SETTINGS, training=TrainingSettings(epochs=2))
    one, other = (fit_encoder(Examples(rows), None, settings, 5).to_arrays() for _ in range(2))
    assert {name: value.tobytes() for name, value in one.items()} == {n: v.tobytes() for n, v in other.items()}


def test_cosines_are_learnt_as_inner_products_are(items):
    """Without a turn between what goes in and what comes out, all vectors collapse into one here."""
    rng = np.random.default_rng(0)
    lists = [[int(rng.integers(9) * 3 + (first + at) % 3) for at in range(6)] for first in range(3) for _ in range(40)]
    few = TrainingSettings(epochs=8, batch_targets=128, rate=0.01)
    settings = dataclasses.replace(SETTINGS, scale=14.0, training=few)
    found = fit_encoder(Examples(from_lists(lists, 30)), item_features(items, subword_lengths=()), settings, 0)
    scores = found.score(from_lists([[0, 4, 8]], 30))[0]
    assert scores[0::3].min() > scores[1::3].max() + 1.0
    assert scores[0::3].min() > scores[2::3].max() + 1.0
