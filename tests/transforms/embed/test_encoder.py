import dataclasses

import numpy as np
import pytest
import torch

from transforms.embed import encoder as module
from transforms.embed.batches import pack
from transforms.embed.encoder import Encoder, EncoderConfig, content_of, vocabulary
from transforms.embed.interactions import from_lists
from transforms.embed.text import ItemFeatures

CONFIG = EncoderConfig(num_items=9, num_tokens=3, dim=8, layers=2, heads=2, max_length=12)
ROWS = [[1, 2, 3, 4, 5], [6], [7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2]]


def encoder(config=CONFIG):
    torch.manual_seed(0)
    return Encoder(config).eval()


def features(lists, num_buckets=100):
    starts = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
    tokens = np.array([token for one in lists for token in one], np.int32)
    return ItemFeatures(starts, tokens, np.ones(len(tokens), np.float32), num_buckets)


def encoded(model, rows, skipped=()):
    some = from_lists(rows, 9)
    some = dataclasses.replace(some, weights=np.where(np.isin(some.items, skipped), -0.5, 1.0))
    with torch.no_grad():
        vectors = model.item_vectors(torch.arange(9), None)
        return model.encode(vectors[torch.from_numpy(some.items.astype(np.int64))], pack(some)).numpy()


def test_later_items_do_not_change_earlier_vectors():
    whole = encoded(encoder(), [ROWS[2]])
    changed = encoded(encoder(), [ROWS[2][:5] + [3] * 7])
    np.testing.assert_allclose(whole[:5], changed[:5], atol=1e-6)
    assert np.abs(whole[5:] - changed[5:]).max(axis=1).min() > 1e-3


def test_rows_do_not_see_each_other():
    together = encoded(encoder(), ROWS)
    alone = np.concatenate([encoded(encoder(), [row]) for row in ROWS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_the_vector_of_a_context_is_the_same_to_the_last_bit_whatever_it_is_encoded_beside():
    model, dice = (
        encoder(EncoderConfig(num_items=9, dim=64, layers=2, heads=2, max_length=50)),
        np.random.default_rng(3),
    )
    vectors = model.item_vectors(torch.arange(9), None).detach()

    def some(number, longest):
        return [dice.integers(0, 9, dice.integers(1, longest + 1)) for _ in range(number)]

    for length in (1, 2, 5, 13, 49, 50):
        one = dice.integers(0, 9, length)
        alone = model.encode_contexts(vectors, from_lists([one], 9)).numpy()[0]
        for number, longest in ((1, 2), (3, 50), (30, 7), (90, 50)):
            among = model.encode_contexts(vectors, from_lists([*some(number, longest), one], 9)).numpy()[-1]
            np.testing.assert_array_equal(among, alone)


def test_order_matters():
    assert np.abs(encoded(encoder(), [[1, 2, 3]])[-1] - encoded(encoder(), [[2, 1, 3]])[-1]).max() > 1e-3


def test_skips_are_seen_once_their_vector_is_learnt():
    model = encoder()
    with torch.no_grad():
        model.skips.weight[1] = 1.0
        model.skips.weight[1, 0] = -3.0
    played, skipped = (encoded(model, [[1, 2, 3]], those) for those in ([], [2]))
    np.testing.assert_array_equal(played[0], skipped[0])
    assert np.abs(played[1:] - skipped[1:]).max() > 1e-3


def test_contexts_end_in_the_vector_of_their_newest_position():
    model = encoder()
    contexts = from_lists([ROWS[0], [], ROWS[2] + ROWS[0]], 9)
    vectors = model.item_vectors(torch.arange(9), None).detach()
    found = model.encode_contexts(vectors, contexts).numpy()
    np.testing.assert_allclose(found[0], encoded(model, [ROWS[0]])[-1], atol=1e-6)
    np.testing.assert_array_equal(found[1], 0.0)
    np.testing.assert_allclose(found[2], encoded(model, [(ROWS[2] + ROWS[0])[-12:]])[-1], atol=1e-6)


def test_an_item_is_the_sum_of_its_identity_and_its_tokens():
    model = encoder()
    content = content_of(features([[10, 30], [20], [99]]), np.array([10, 20, 30], np.int32))
    found = model.item_vectors(torch.tensor([4, -1, 5]), content).detach().numpy()
    ids, tokens = model.ids.weight.detach().numpy(), model.tokens.weight.detach().numpy()
    np.testing.assert_allclose(found, [ids[4] + tokens[0] + tokens[2], tokens[1], ids[5]], atol=1e-6)


def test_taken_content_is_that_of_the_items():
    content = content_of(features([[1, 2], [], [3], [2, 3]]), np.array([1, 2, 3], np.int32))
    taken = content.take(torch.tensor([3, 1, 0]))
    assert taken.starts.tolist() == [0, 2, 2, 4]
    assert taken.tokens.tolist() == [1, 2, 0, 1]


def test_the_vocabulary_is_what_two_known_items_share():
    known = np.array([True, True, False])
    assert vocabulary(features([[1, 2, 3], [2, 4], [3, 4]]), known).tolist() == [2]


def test_identities_are_left_out_at_the_rate_asked_for_where_there_is_content():
    model = encoder(EncoderConfig(num_items=2_000, num_tokens=1, dim=2))
    content = content_of(features([[5]] * 2_000), np.array([5], np.int32))
    found = model.item_vectors(torch.arange(2_000), content, drop=0.3).detach()
    assert (found == model.tokens.weight[0]).all(dim=1).float().mean() == pytest.approx(0.3, abs=0.04)
    alone = model.item_vectors(torch.arange(2_000), None, drop=0.3)
    assert torch.equal(alone, model.ids.weight)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_values_are_dropped_at_the_rate_asked_for_and_keep_their_mean(share):
    model = encoder(dataclasses.replace(CONFIG, dropout=share)).train()
    found = module._dropped(torch.ones(301, 203), model).numpy()
    assert (found == 0).mean() == pytest.approx(share, abs=0.01)
    assert found.mean() == pytest.approx(1.0, abs=0.02)
    assert len(np.unique(found)) == 1 + (share > 0)
    np.testing.assert_array_equal(module._dropped(torch.ones(3, 3), model.eval()), 1.0)


def test_scores_are_scaled_cosines():
    model = encoder(EncoderConfig(num_items=9, dim=8, scale=14.0))
    lengths = np.linalg.norm(encoded(model, ROWS), axis=1)
    np.testing.assert_allclose(lengths, 14.0, rtol=1e-5)
    items = model.scored(model.item_vectors(torch.arange(9), None)).detach().numpy()
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1.0, rtol=1e-5)


def test_weights_are_the_whole_encoder():
    model = encoder()
    loaded = Encoder.from_arrays(CONFIG, model.to_arrays())
    np.testing.assert_array_equal(encoded(loaded, ROWS), encoded(model, ROWS))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="dim 8 is not a multiple of 3 heads"):
        EncoderConfig(num_items=2, dim=8, heads=3)


def test_dropping_all_is_refused():
    with pytest.raises(ValueError, match=r"dropout 1\.5 is not from 0 to"):
        EncoderConfig(num_items=2, dropout=1.5)
