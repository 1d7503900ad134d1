"""The training loop: every position of every row predicts the next item, against all items or a corrected sample of them.

What is random in a step depends on the seed, the epoch and the step only; a run that goes on from a checkpoint
therefore ends in the same bytes as one that was never stopped. Memory: the encoder four times over (weights, gradients,
two moments), its best state, and twice that while a state is kept or written.
"""

import contextlib
import itertools
import zlib
from typing import Any

import numpy as np
import torch

from schemas.hashing import hash64_one
from transforms.devices import GPU
from transforms.embed.batches import Batch, batches, num_batches, windows
from transforms.embed.encoder import Encoder, EncoderConfig, TokenRows
from transforms.embed.training_state import from_bytes, part, restore, snapshot, to_bytes
from transforms.embed.training_step import Candidates
from transforms.embed.training_terms import (
    FULL_SOFTMAX_ITEMS,
    Examples,
    Progress,
    Surroundings,
    Trained,
    TrainingSettings,
    Validation,
)

GRADIENT_LIMIT = 5.0
FINAL_RATE = 0.05
MAX_FAILURES = 3
VALIDATION_DEPTH = 20


def train(
    config: EncoderConfig,
    examples: Examples,
    settings: TrainingSettings,
    seed: int,
    validation: Validation | None = None,
    surroundings: Surroundings | None = None,
) -> Trained:
    """Return an encoder trained on rows of interactions.

    With `validation`, the encoder is that of the best epoch, and training stops when epochs no longer become better.

    Raises:
      RuntimeError: CUDA is asked for and absent.
      ArithmeticError: losses stay infinite or undefined however low the rate.
    """
    around = surroundings or Surroundings()
    if around.device == GPU and not torch.cuda.is_available():
        raise RuntimeError("device is 'cuda', but torch finds no CUDA device here; take device='cpu'")
    return _Run(config, examples, settings, seed, validation, around).finished()


class _Run:
    """One training from its start or from a checkpoint to its end."""

    def __init__(
        self,
        config: EncoderConfig,
        examples: Examples,
        settings: TrainingSettings,
        seed: int,
        validation: Validation | None,
        around: Surroundings,
    ):
        self.examples, self.settings, self.seed = examples, settings, seed
        self.validation, self.around, self.epochs = validation, around, settings.stop_at or settings.epochs
        self.spans = windows(examples.interactions, config.max_length)
        if not len(self.spans):
            raise ValueError("no row has two items, and an encoder learns from what follows what; give longer rows")
        counts = np.bincount(examples.interactions.items, minlength=config.num_items)
        self.known = counts > 0
        draws = settings.draws if settings.always_draw or len(counts) > FULL_SOFTMAX_ITEMS else 0
        self.candidates = Candidates(examples, self.spans, draws, counts, around.device)
        self.mark = _mark(config, examples, settings, seed, validation)
        self.encoder = self._new(config)
        self.optimisers = _optimisers(self.encoder, settings.rate)
        self.epoch, self.step, self.loss, self.failures, self.stale = 0, 0, 0.0, 0, 0
        self.best: dict[str, torch.Tensor] = {}
        self.best_figure, self.best_epochs = -1.0, 0
        self.log: list[dict[str, Any]] = []
        self.kept_at = self.begun_at = self._now()
        self.done = 0

    def _new(self, config: EncoderConfig) -> Encoder:
        """Return an encoder before its first step."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_number(self.seed, 0, 0))
            encoder = Encoder(config)
        with torch.no_grad():
            if self.examples.start is not None:
                encoder.ids.weight.copy_(torch.from_numpy(self.examples.start))
                torch.nn.init.eye_(encoder.turn.weight)
            encoder.ids.weight[torch.from_numpy(~self.known)] = 0.0
        return encoder.to(self.around.device)

    def _resume(self) -> None:
        """Go on from the checkpoint, if it is of these settings and these rows."""
        state = self.around.checkpoint.load() if self.around.checkpoint else None
        if state is None:
            return
        tensors, journal = from_bytes(state)
        if journal["mark"] == self.mark:
            self._restore(tensors, journal)

    def finished(self) -> Trained:
        """Train to the end."""
        self._resume()
        self.good = self._state()
        while self.epoch < self.epochs and not self._stopped():
            if self._pass():
                self._end_epoch()
                self._keep()
        if self.best:
            self.encoder.load_state_dict(self.best)
        return Trained(self.encoder.cpu().eval(), self.known, self.best_epochs or self.epoch, self.log)

    def _stopped(self) -> bool:
        """Whether validation has not improved for long enough."""
        return bool(self.validation and self.settings.patience and self.stale >= self.settings.patience)

    def _pass(self) -> bool:
        """Train for an epoch, or what is left of it; return False where it failed and the last good state is back."""
        self.encoder.train()
        order = np.random.default_rng([self.seed, 1, self.epoch])
        rows = self.examples.interactions
        drawn = batches(rows, self.spans, self.settings.batch_targets, order)
        for batch in itertools.islice(drawn, self.step, None):
            loss = self._learn(batch)
            if not np.isfinite(loss):
                self._lower()
                return False
            self.loss, self.step, self.done = self.loss + loss, self.step + 1, self.done + len(batch.targets)
            self._report()
            if self.around.clock and self._now() - self.kept_at >= self.around.checkpoint_seconds:
                self._keep()
        return True

    def _learn(self, batch: Batch) -> float:
        """Take one step and return its loss; no step is taken if that is infinite or undefined."""
        cuda = self.around.device == GPU
        with torch.random.fork_rng(devices=[GPU] if cuda else []):
            torch.manual_seed(_number(self.seed, self.epoch + 1, self.step))
            draw = np.random.default_rng([self.seed, 2, self.epoch, self.step])
            with torch.autocast(GPU, torch.bfloat16) if cuda else contextlib.nullcontext():
                loss = self.candidates.loss(self.encoder, batch, self.settings.id_drop, draw)
            loss.backward()
        figure = float(loss.detach())
        if not np.isfinite(figure) or not _clip(self.encoder, GRADIENT_LIMIT):
            return float("nan")
        self._set_rate()
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return figure

    def _set_rate(self) -> None:
        """Let the rate fall in a straight line over all epochs."""
        past = (self.epoch + self.step / self._steps()) / self.settings.epochs
        rate = self.settings.rate * 0.5**self.failures * max(FINAL_RATE, 1.0 - past)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate

    def _lower(self) -> None:
        """Go back to the last good state with half the rate."""
        failures = self.failures + 1
        where = f"epoch {self.epoch + 1}, step {self.step + 1}"
        if failures > MAX_FAILURES:
            raise ArithmeticError(
                f"the loss or its gradient is not finite at {where} after {MAX_FAILURES} restarts, each with half the "
                f"rate (first {self.settings.rate}); look for values that are not finite in weights or start vectors"
            )
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        self._restore(*self.good)
        self.failures = failures

    def _end_epoch(self) -> None:
        """Note the epoch, and its state if it is the best so far."""
        figure = next_item_ndcg(self.encoder, self.candidates.content, self.known, self.validation)
        steps = max(self.step, 1)
        self.epoch, self.step = self.epoch + 1, 0
        line = {"epoch": self.epoch, "loss": self.loss / steps, "validation": figure}
        self.log, self.loss = [*self.log, line], 0.0
        self.stale += 1
        if self.validation and figure is not None and figure > self.best_figure:
            self.best = {name: value.detach().cpu().clone() for name, value in self.encoder.state_dict().items()}
            self.best_figure, self.best_epochs, self.stale = figure, self.epoch, 0

    def _keep(self) -> None:
        """Remember the state, and keep it where a killed run finds it."""
        self.good, self.kept_at = self._state(), self._now()
        if self.around.checkpoint:
            self.around.checkpoint.save(to_bytes(*self.good))

    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return all that the rest of the run depends on."""
        best = {f"best.{name}": value for name, value in self.best.items()}
        return snapshot(self.encoder, self.optimisers) | best, {name: getattr(self, name) for name in _JOURNALLED}

    def _restore(self, tensors: dict[str, torch.Tensor], journal: dict[str, Any]) -> None:
        """Go back to a state."""
        restore(self.encoder, self.optimisers, tensors)
        self.best = part(tensors, "best.")
        for name in _JOURNALLED:
            setattr(self, name, journal[name])

    def _report(self) -> None:
        """Tell how far training is."""
        if not self.around.progress:
            return
        validation = self.log[-1]["validation"] if self.log else None
        seconds = max(self._now() - self.begun_at, 1e-9)
        speed = self.done / seconds if self.around.clock else float("nan")
        targets = int((self.spans[:, 1] - self.spans[:, 0] - 1).sum())
        left = targets * (self.epochs - self.epoch - self.step / self._steps())
        figure = float("nan") if validation is None else validation
        self.around.progress(
            Progress(self.epoch + 1, self.step, self.loss / self.step, figure, speed, max(0.0, left) / speed)
        )

    def _steps(self) -> int:
        """Return the steps of an epoch."""
        return num_batches(self.spans, self.settings.batch_targets)

    def _now(self) -> float:
        return self.around.clock() if self.around.clock else 0.0


_JOURNALLED = ("mark", "epoch", "step", "loss", "failures", "stale", "best_figure", "best_epochs", "log")


def _optimisers(encoder: Encoder, rate: float) -> list[torch.optim.Optimizer]:
    """Return Adam for what every step changes, and one that moves only the rows of the batch for sparse tables."""
    tables = [encoder.ids.weight, encoder.tokens.weight] if encoder.config.sparse else []
    dense = [value for value in encoder.parameters() if all(value is not table for table in tables)]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(dense, lr=rate, weight_decay=0.0)]
    return [*found, torch.optim.SparseAdam(tables, lr=rate)] if tables else found


def _clip(encoder: Encoder, limit: float) -> bool:
    """Shorten the gradient to `limit`; return whether it is finite."""
    gradients = [value.grad for value in encoder.parameters() if value.grad is not None]
    values = [grad.coalesce().values() if grad.is_sparse else grad for grad in gradients]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(value) for value in values]))
    if not bool(torch.isfinite(norm)):
        return False
    if norm > limit:
        for gradient in gradients:
            gradient.mul_(limit / norm)
    return True


@torch.no_grad()
def next_item_ndcg(
    encoder: Encoder, content: TokenRows | None, known: np.ndarray, validation: Validation | None
) -> float | None:
    """Return the nDCG of the next items among all items, cut at `VALIDATION_DEPTH`; None without validation."""
    if validation is None:
        return None
    encoder.eval()
    vectors = all_vectors(encoder, content, known)
    scored, gains = encoder.scored(vectors), []
    for span, block in validation.contexts.blocks(256):
        scores = encoder.encode_contexts(vectors, block) @ scored.T
        own = scores.gather(1, torch.from_numpy(validation.targets[span]).to(scores.device)[:, None])
        ranks = (scores > own).sum(1).double()
        gains.append(torch.where(ranks < VALIDATION_DEPTH, 1.0 / torch.log2(ranks + 2.0), 0.0))
    return float(torch.cat(gains).mean())


@torch.no_grad()
def all_vectors(encoder: Encoder, content: TokenRows | None, known: np.ndarray) -> torch.Tensor:
    """Return unscored vectors of the whole catalogue; those of unknown items come from their content alone."""
    rows = np.where(known, np.arange(len(known)), -1)
    return encoder.item_vectors(torch.from_numpy(rows).to(encoder.ids.weight.device), content)


def _mark(
    config: EncoderConfig, examples: Examples, settings: TrainingSettings, seed: int, validation: Validation | None
) -> str:
    """Return what tells a run from others: a state of another is none of its own."""
    targets = np.empty(0) if validation is None else validation.targets
    rows = (examples.interactions.starts, examples.interactions.items, examples.interactions.weights, targets)
    data = [zlib.crc32(np.ascontiguousarray(array).tobytes()) for array in rows]
    return f"{hash64_one(repr((config, settings, seed, data))):016x}"


def _number(*parts: int) -> int:
    """Return one number that depends on all of several."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
