"""What a step of training ranks, and its loss."""

import numpy as np
import torch

from transforms.embed.batches import Batch
from transforms.embed.encoder import Encoder
from transforms.embed.softmax_loss import log_chances, softmax_loss
from transforms.embed.training_terms import Examples

DRAW_POWER = 0.5  # draws follow the root of popularity: between uniform draws and those the batch makes anyway


class Candidates:
    """Which items a step ranks: all that are known, or the batch's targets and some drawn by popularity."""

    def __init__(self, examples: Examples, spans: np.ndarray, draws: int, counts: np.ndarray, device: str):
        self.device = device
        self.draws = draws
        self.content = examples.content.to(device) if examples.content else None
        self.all = np.flatnonzero(counts)
        self.all_content = self.content.take(self._tensor(self.all)) if self.content else None
        firsts = np.bincount(examples.interactions.items[spans[:, 0]], minlength=len(counts))
        self.in_batch = np.maximum(counts - firsts, 0) / max(1, (counts - firsts).sum())
        smooth = counts**DRAW_POWER
        self.drawn, self.cumulated = smooth / smooth.sum(), np.cumsum(smooth / smooth.sum())

    def loss(self, encoder: Encoder, batch: Batch, id_drop: float, rng: np.random.Generator) -> torch.Tensor:
        """Return the loss of a batch."""
        ranked = self._ranked(batch, rng) if self.draws else self.all
        needed = np.unique(np.concatenate([ranked, batch.inputs.items])) if self.draws else ranked
        rows = self._tensor(needed)
        content = self.all_content
        if self.draws and self.content:
            content = self.content.take(rows)
        vectors = encoder.item_vectors(rows, content, id_drop)
        hidden = encoder.encode(vectors[self._places(needed, batch.inputs.items)], batch.inputs)
        chances, scored = None, encoder.scored(vectors)
        if self.draws:
            size = len(batch.targets)
            chances = self._tensor(log_chances(self.in_batch[ranked], size, self.drawn[ranked], self.draws))
            scored = scored[self._places(needed, ranked)]
        return softmax_loss(hidden, scored, self._places(ranked, batch.targets), self._tensor(batch.weights), chances)

    def _ranked(self, batch: Batch, rng: np.random.Generator) -> np.ndarray:
        """Return the batch's targets and the draws, ascending, each once."""
        drawn = np.searchsorted(self.cumulated, rng.random(self.draws)).clip(max=len(self.cumulated) - 1)
        return np.unique(np.concatenate([batch.targets, drawn]))

    def _places(self, among: np.ndarray, items: np.ndarray) -> torch.Tensor:
        return self._tensor(np.searchsorted(among, items))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)
