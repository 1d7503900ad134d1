"""Cross-entropy over many candidates without keeping their logits: gradients are made together with the loss.

Memory: `ROWS` rows of logits at a time, whatever the number of targets.
"""

import numpy as np
import torch

ROWS = {"cpu": 128, "cuda": 8192}


def softmax_loss(
    hidden: torch.Tensor,
    candidates: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    log_chances: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the weighted mean cross-entropy of picking each row's target among the candidates.

    With `log_chances` the candidates are a sample without repeats, and every candidate other than the target stands for
    the `1 / chance` items it was drawn from: the sum over the sample is then an unbiased estimate of the sum over all
    (Horvitz and Thompson, 1952). A target is always in its own sum, so its logit is left as it is.

    Args:
      hidden: `(num_targets, dim) float32`.
      candidates: `(num_candidates, dim) float32`.
      targets: `(num_targets,) int64`, places among the candidates.
      weights: `(num_targets,) float32`, at least 0, not all 0.
      log_chances: `(num_candidates,) float32`, log of the chance that a candidate is in the sample; None: it holds all.
    """
    loss: torch.Tensor = _SoftmaxLoss.apply(hidden, candidates, targets, weights / weights.sum(), log_chances)
    return loss


def log_chances(in_batch: np.ndarray, num_targets: int, drawn: np.ndarray, num_draws: int) -> np.ndarray:
    """Return the log of the chance that an item is among a batch's targets or its draws, `(num_candidates,) float32`.

    Args:
      in_batch: `(num_candidates,) float64`, the chance of one target of the batch to be the item.
      num_targets: targets of the batch.
      drawn: `(num_candidates,) float64`, the chance of one draw to be the item.
      num_draws: draws, made with replacement.
    """
    expected = num_targets * in_batch + num_draws * drawn
    return np.log(-np.expm1(-np.maximum(expected, 1e-12))).astype(np.float32)


class _SoftmaxLoss(torch.autograd.Function):
    """Loss whose gradients are ready when its value is."""

    @staticmethod
    def forward(ctx, hidden, candidates, targets, weights, log_chances):
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient, candidate_gradient = torch.empty_like(hidden), torch.zeros_like(candidates)
        for first in range(0, len(hidden), ROWS[hidden.device.type]):
            rows = slice(first, first + ROWS[hidden.device.type])
            target, weight = targets[rows, None], weights[rows, None]
            logits = (hidden[rows] @ candidates.T).float()
            own = logits.gather(1, target)
            if log_chances is not None:
                logits.sub_(log_chances).scatter_(1, target, own)
            top = logits.amax(1, keepdim=True)
            shares = logits.sub_(top).exp_()
            sums = shares.sum(1, keepdim=True)
            total += (weight * (sums.log() + top - own)).sum()
            shares.mul_(weight / sums).scatter_add_(1, target, -weight)
            hidden_gradient[rows] = (shares @ candidates).to(hidden.dtype)
            candidate_gradient += (shares.T @ hidden[rows]).to(candidates.dtype)
        ctx.save_for_backward(hidden_gradient, candidate_gradient)
        return total

    @staticmethod
    def backward(ctx, *upstream):
        hidden_gradient, candidate_gradient = ctx.saved_tensors
        return hidden_gradient * upstream[0], candidate_gradient * upstream[0], None, None, None
