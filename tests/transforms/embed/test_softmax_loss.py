import numpy as np
import pytest
import torch

from transforms.embed import softmax_loss as module
from transforms.embed.softmax_loss import log_chances, softmax_loss


def world(seed=0, rows=70, items=40, dim=5):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, dim, generator=generator, requires_grad=True)
    candidates = torch.randn(items, dim, generator=generator, requires_grad=True)
    targets = torch.randint(items, (rows,), generator=generator)
    return hidden, candidates, targets, torch.rand(rows, generator=generator)


def gradients(loss, *of):
    return [value.detach().numpy() for value in (loss, *torch.autograd.grad(loss, of))]


def test_equals_the_cross_entropy_of_torch(monkeypatch):
    monkeypatch.setitem(module.ROWS, "cpu", 16)
    hidden, candidates, targets, weights = world()
    plain = torch.nn.functional.cross_entropy(hidden @ candidates.T, targets, reduction="none")
    expected = gradients((plain * weights).sum() / weights.sum(), hidden, candidates)
    found = gradients(softmax_loss(hidden, candidates, targets, weights), hidden, candidates)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_large_scores_do_not_overflow():
    hidden, candidates, targets, weights = world()
    assert torch.isfinite(softmax_loss(hidden * 1e4, candidates, targets, weights))


def sampled(world_, popularity, power, seed, draws=12, corrected=True):
    """The gradient of one batch over its targets and draws, spread back over all items."""
    hidden, candidates, targets, weights = world_
    smooth = popularity**power / (popularity**power).sum()
    drawn = np.random.default_rng(seed).choice(len(popularity), draws, p=smooth)
    some = np.unique(np.concatenate([targets.numpy(), drawn]))
    chances = torch.from_numpy(log_chances(popularity[some], 0, smooth[some], draws)) if corrected else None
    places = torch.from_numpy(np.searchsorted(some, targets.numpy()))
    loss = softmax_loss(hidden, candidates[torch.from_numpy(some)], places, weights, chances)
    return gradients(loss, hidden)[1]


def test_the_corrected_sample_comes_near_the_full_gradient():
    rng = np.random.default_rng(1)
    popularity = rng.dirichlet(np.full(400, 0.3)) + 1e-4
    popularity /= popularity.sum()
    hidden, candidates, _, weights = world(rows=4, items=400)
    # One target only, so that the sample is the draws and the chance of a draw is known exactly.
    one = hidden, candidates, torch.full((4,), 7), weights
    full = gradients(softmax_loss(one[0], one[1], one[2], one[3]), hidden)[1]
    runs = range(200)
    mean = np.mean([sampled(one, popularity, 0.5, seed, draws=200) for seed in runs], axis=0)
    plain = np.mean([sampled(one, popularity, 0.5, seed, draws=200, corrected=False) for seed in runs], axis=0)
    assert np.abs(mean - full).max() < 0.1 * np.abs(full).max()
    assert np.abs(plain - full).max() > 2 * np.abs(mean - full).max()


def test_chances_are_those_of_being_seen_at_least_once():
    rng = np.random.default_rng(0)
    targets, draws = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])
    seen = [
        np.isin([0, 1, 2], np.concatenate([rng.choice(3, 2, p=targets), rng.choice(3, 3, p=draws)]))
        for _ in range(4000)
    ]
    # The formula takes counts for Poisson, which is a little low for chances as large as these.
    np.testing.assert_allclose(np.exp(log_chances(targets, 2, draws, 3)), np.mean(seen, axis=0), atol=0.12)


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_weight_zero_is_as_if_absent(weight):
    hidden, candidates, targets, _ = world(rows=3)
    weights = torch.tensor([1.0, 1.0, weight])
    alone = softmax_loss(hidden[:2], candidates, targets[:2], weights[:2]).item()
    together = softmax_loss(hidden, candidates, targets, weights).item()
    assert (together == pytest.approx(alone)) == (weight == 0)
