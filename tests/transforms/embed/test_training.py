import dataclasses

import numpy as np
import pytest
import torch

from transforms.embed import training as module
from transforms.embed import training_step as step
from transforms.embed.encoder import EncoderConfig, TokenRows
from transforms.embed.interactions import Interactions, from_lists
from transforms.embed.training import train
from transforms.embed.training_terms import Examples, Surroundings, TrainingSettings, Validation

ITEMS = 30
SETTINGS = TrainingSettings(epochs=3, batch_targets=128, rate=0.01, draws=20, id_drop=0.1)
CONFIG = EncoderConfig(ITEMS, dim=16, layers=1, dropout=0.1, max_length=8, scale=10.0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def chain(rows=120, length=8, seed=0):
    """Rows in which a fixed next item follows nine times of ten."""
    rng = np.random.default_rng(seed)
    follows, found = np.random.default_rng(7).permutation(ITEMS), []
    for _ in range(rows):
        row = [int(rng.integers(ITEMS))]
        while len(row) < length:
            row.append(int(follows[row[-1]] if rng.random() < 0.9 else rng.integers(ITEMS)))
        found.append(row)
    return from_lists(found, ITEMS), follows


def hits(trained, follows):
    """Share of items whose follower is ranked first."""
    vectors = module.all_vectors(trained.encoder, None, trained.known)
    contexts = from_lists([[item] for item in range(ITEMS)], ITEMS)
    scores = trained.encoder.encode_contexts(vectors, contexts) @ trained.encoder.scored(vectors).T
    return (scores.argmax(1).numpy() == follows).mean()


def followers(follows):
    """What follows each item, as validation."""
    return Validation(from_lists([[item] for item in range(ITEMS)], ITEMS), follows)


def arrays(trained):
    return {name: value.tobytes() for name, value in trained.encoder.to_arrays().items()}


class Kept:
    """A checkpoint that lets a run be killed after some saves."""

    def __init__(self, kill_at=None):
        self.state, self.saves, self.kill_at = None, 0, kill_at

    def save(self, state):
        self.state, self.saves = state, self.saves + 1
        if self.saves == self.kill_at:
            raise KeyboardInterrupt

    def load(self):
        return self.state


def sparse(monkeypatch):
    monkeypatch.setattr(module, "FULL_SOFTMAX_ITEMS", 10)
    return dataclasses.replace(CONFIG, sparse=True)


@pytest.mark.parametrize("sampled", [False, True])
def test_the_chain_is_learnt(monkeypatch, sampled):
    config = sparse(monkeypatch) if sampled else CONFIG
    rows, follows = chain()
    trained = train(config, Examples(rows), dataclasses.replace(SETTINGS, epochs=8), 0)
    assert hits(trained, follows) > 0.8


@pytest.mark.parametrize("sampled", [False, True])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(monkeypatch, sampled):
    config = sparse(monkeypatch) if sampled else CONFIG
    rows, _ = chain()
    one, same, other = (arrays(train(config, Examples(rows), SETTINGS, seed)) for seed in (0, 0, 1))
    assert one == same
    assert one != other


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("kill_at", [1, 5])
def test_a_killed_run_goes_on_to_the_same_bytes(monkeypatch, sampled, kill_at):
    config = sparse(monkeypatch) if sampled else CONFIG
    rows, follows = chain(rows=60)
    given = config, Examples(rows), SETTINGS, 3, followers(follows)
    ticks = iter(range(10**6))
    kept = Kept(kill_at)
    around = Surroundings(checkpoint=kept, clock=lambda: float(next(ticks)), checkpoint_seconds=2.0)
    with pytest.raises(KeyboardInterrupt):
        train(*given, around)
    resumed = train(*given, around)
    straight = train(*given)
    assert kept.saves > kill_at
    assert arrays(resumed) == arrays(straight)
    assert resumed.epochs == straight.epochs


def test_a_state_of_other_settings_or_rows_is_not_gone_on_from():
    rows, _ = chain(rows=60)
    kept = Kept()
    around = Surroundings(checkpoint=kept)
    train(CONFIG, Examples(rows), SETTINGS, 0, surroundings=around)
    for examples, settings, seed in (
        (Examples(rows), SETTINGS, 1),
        (Examples(rows), dataclasses.replace(SETTINGS, rate=0.02), 0),
        (Examples(chain(rows=60, seed=1)[0]), SETTINGS, 0),
    ):
        found = train(CONFIG, examples, settings, seed, surroundings=Surroundings(checkpoint=kept))
        assert arrays(found) == arrays(train(CONFIG, examples, settings, seed))


def test_a_loss_that_blows_up_goes_back_and_lowers_the_rate(monkeypatch):
    rows, follows = chain()
    real, calls = step.softmax_loss, iter(range(10**6))
    spoil = lambda *given: real(*given) * (float("nan") if next(calls) == 12 else 1.0)  # noqa: E731
    monkeypatch.setattr(step, "softmax_loss", spoil)
    trained = train(CONFIG, Examples(rows), dataclasses.replace(SETTINGS, epochs=8), 0)
    assert hits(trained, follows) > 0.8
    assert all(np.isfinite(line["loss"]) for line in trained.log)


def test_a_loss_that_stays_undefined_fails_and_says_where(monkeypatch):
    rows, _ = chain()
    monkeypatch.setattr(step, "softmax_loss", lambda *given: given[0].sum() * float("inf"))
    with pytest.raises(ArithmeticError, match=r"not finite at epoch 1, step 1 after 3 restarts.*\(first 0\.01\)"):
        train(CONFIG, Examples(rows), SETTINGS, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is present")
def test_cuda_that_is_absent_is_said_to_be():
    with pytest.raises(RuntimeError, match="device is 'cuda', but torch finds no CUDA device here"):
        train(CONFIG, Examples(chain()[0]), SETTINGS, 0, surroundings=Surroundings(device="cuda"))


def test_rows_nothing_follows_in_are_refused():
    with pytest.raises(ValueError, match="no row has two items"):
        train(CONFIG, Examples(from_lists([[1], [], [2]], ITEMS)), SETTINGS, 0)


def test_training_stops_when_validation_no_longer_improves_and_gives_the_best_epoch():
    rows, follows = chain()
    settings = dataclasses.replace(SETTINGS, epochs=30, patience=1)
    trained = train(CONFIG, Examples(rows), settings, 0, followers(follows))
    figures = [line["validation"] for line in trained.log]
    assert len(figures) < 30
    assert trained.epochs == 1 + int(np.argmax(figures))
    assert max(figures) > 0.9
    stopped = train(CONFIG, Examples(rows), dataclasses.replace(settings, stop_at=trained.epochs), 0)
    assert arrays(stopped) == arrays(trained)


def test_skipped_items_are_not_learnt_as_what_follows():
    """Item 0 is followed by 1, skipped each time, then by 2."""
    some = from_lists([[0, 1, 2]] * 60, ITEMS)
    skipping = dataclasses.replace(some, weights=np.tile(np.array([1.0, -0.5, 1.0], np.float32), 60))
    trained = train(CONFIG, Examples(skipping), dataclasses.replace(SETTINGS, epochs=10), 0)
    vectors = module.all_vectors(trained.encoder, None, trained.known)
    contexts = dataclasses.replace(from_lists([[0], [0, 1]], ITEMS), weights=np.array([1.0, 1.0, -0.5], np.float32))
    scores = trained.encoder.encode_contexts(vectors, contexts) @ trained.encoder.scored(vectors).T
    assert scores[1].argmax() == 2
    assert scores[0, 1] < scores[1, 2]


def test_an_unknown_item_lands_near_its_twin():
    """Tokens say which third of the items follows which; items 27 to 29 are never played."""
    rng = np.random.default_rng(0)
    group = np.arange(ITEMS) % 3
    lists = [[int(rng.integers(9) * 3 + (first + at) % 3) for at in range(6)] for first in range(3) for _ in range(40)]
    content = TokenRows(torch.arange(ITEMS + 1), torch.from_numpy(group), torch.ones(ITEMS))
    config = dataclasses.replace(CONFIG, num_tokens=3)
    trained = train(config, Examples(from_lists(lists, ITEMS), content), dataclasses.replace(SETTINGS, epochs=10), 0)
    assert not trained.known[27:].any()
    vectors = module.all_vectors(trained.encoder, content, trained.known).numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = vectors[27:] @ vectors[:27].T
    for number, item in enumerate(range(27, 30)):
        same = group[:27] == group[item]
        assert alike[number, same].mean() > alike[number, ~same].mean() + 0.2


def test_start_vectors_are_where_identities_begin():
    rows, _ = chain(rows=20)
    start = np.eye(ITEMS, 16, dtype=np.float32)
    slow = dataclasses.replace(SETTINGS, epochs=1, rate=1e-9)
    trained = train(CONFIG, Examples(rows, start=start), slow, 0)
    np.testing.assert_allclose(trained.encoder.to_arrays()["ids.weight"], start * trained.known[:, None], atol=1e-5)


def test_progress_tells_speed_and_time_left_and_changes_nothing():
    rows, _ = chain()
    seen, ticks = [], iter(range(10**6))
    around = Surroundings(progress=seen.append, clock=lambda: float(next(ticks)))
    told = train(CONFIG, Examples(rows), SETTINGS, 0, surroundings=around)
    assert arrays(told) == arrays(train(CONFIG, Examples(rows), SETTINGS, 0))
    assert [p.epoch for p in seen] == sorted(p.epoch for p in seen)
    assert seen[-1].seconds_left == 0
    assert all(p.samples_per_s > 0 for p in seen)


def test_strong_interactions_count_for_more():
    lists = [[0, 1], [0, 2]] * 60
    plain = from_lists(lists, ITEMS)
    weights = np.where(plain.items == 2, 20.0, 1.0).astype(np.float32)
    strong = Interactions(plain.starts, plain.items, weights, ITEMS)
    trained = train(CONFIG, Examples(strong), dataclasses.replace(SETTINGS, epochs=8), 0)
    vectors = module.all_vectors(trained.encoder, None, trained.known)
    scores = trained.encoder.encode_contexts(vectors, from_lists([[0]], ITEMS)) @ trained.encoder.scored(vectors).T
    assert scores[0, 2] > scores[0, 1] + 1.0
