"""What training is given and gives: settings, examples, validation, surroundings and the trained encoder."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from transforms.devices import CPU
from transforms.embed.encoder import Encoder, TokenRows
from transforms.embed.interactions import Interactions

FULL_SOFTMAX_ITEMS = 20_000  # larger catalogues are ranked by a sample, and their tables updated row by row


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How an encoder is trained.

    Attributes:
      epochs: passes over the rows at most; the rate falls in a straight line over all of them.
      stop_at: pass after which training ends, the rate falling as if it went on; 0: the last.
      patience: epochs without a better validation figure after which training stops, where there is validation; 0: it
        never does.
      batch_targets: targets of a step.
      rate: rate of Adam at the start.
      draws: items drawn in a step beside the batch's targets, where the catalogue is too large for all.
      always_draw: draw however small the catalogue is: a fraction of the work, for figures that are not quite as good.
      id_drop: share of the identities left out of a step where items have content.
    """

    epochs: int = 12
    stop_at: int = 0
    patience: int = 2
    batch_targets: int = 1024
    rate: float = 1e-3
    draws: int = 1024
    always_draw: bool = False
    id_drop: float = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Examples:
    """What is learnt from.

    Attributes:
      interactions: rows of users or sessions.
      content: tokens of all items, None without any.
      start: `(num_items, dim) float32` vectors identities start from; None: at random.
    """

    interactions: Interactions
    content: TokenRows | None = None
    start: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Validation:
    """Contexts and what followed.

    Attributes:
      contexts: none of them in the examples as it is here.
      targets: `(num_contexts,) int64`, the item that followed each.
    """

    contexts: Interactions
    targets: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far training is; `validation` is that of the last whole epoch, NaN before."""

    epoch: int
    step: int
    loss: float
    validation: float
    samples_per_s: float
    seconds_left: float


class Checkpoint(Protocol):
    """Where the state of a run is kept."""

    def save(self, state: bytes) -> None:
        """Keep a state in place of the one before, all of it or none."""

    def load(self) -> bytes | None:
        """Return the state kept last; None if there is none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What training meets outside of itself; none of it changes the result.

    Attributes:
      device: `cpu` or `cuda`.
      checkpoint: where states are kept; None: nowhere.
      progress: told after every step.
      clock: seconds, monotonic; None: no speeds are reported and states are kept at ends of epochs only.
      checkpoint_seconds: seconds after which a state is kept within an epoch.
    """

    device: str = CPU
    checkpoint: Checkpoint | None = None
    progress: Callable[[Progress], None] | None = None
    clock: Callable[[], float] | None = None
    checkpoint_seconds: float = 300.0


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """An encoder and how it came about.

    Attributes:
      encoder: on the CPU, in evaluation mode.
      known: `(num_items,) bool`, items that were learnt from.
      epochs: passes that gave the encoder.
      log: one `{"epoch", "loss", "validation"}` per pass.
    """

    encoder: Encoder
    known: np.ndarray
    epochs: int
    log: list[dict[str, Any]]
