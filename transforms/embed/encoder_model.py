"""The encoder as a family of models: fit on interactions, score contexts by an inner product.

Memory: that of training (`transforms/embed/training.py`); a fitted model holds its weights, the content of the catalogue
and one vector per item.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping

import numpy as np
import torch

from transforms.devices import CPU, GPU
from transforms.embed.encoder import Encoder, EncoderConfig, TokenRows, content_of, vocabulary
from transforms.embed.interactions import Interactions
from transforms.embed.text import ItemFeatures
from transforms.embed.training import all_vectors, train
from transforms.embed.training_terms import FULL_SOFTMAX_ITEMS, Examples, Surroundings, TrainingSettings, Validation


@dataclasses.dataclass(frozen=True, slots=True)
class EncoderSettings:
    """Shape and training of an encoder; see `EncoderConfig` and `TrainingSettings` for what each means."""

    dim: int = 64
    layers: int = 2
    heads: int = 2
    max_length: int = 50
    dropout: float = 0.5
    scale: float = 0.0
    training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)


_OWN = ("vectors", "item_vectors", "known", "buckets")


@dataclasses.dataclass(frozen=True)
class EncoderModel:
    """A fitted encoder.

    Attributes:
      encoder: its weights.
      vectors: `(num_items, dim) float32`, what contexts are encoded from.
      item_vectors: `(num_items, dim) float32`, what they are scored against.
      known: `(num_items,) bool`, items with an identity.
      buckets: `(num_tokens,) int32`, the vocabulary, ascending.
      epochs: passes over the rows it was trained for.
      log: one line per pass.
    """

    encoder: Encoder
    vectors: np.ndarray
    item_vectors: np.ndarray
    known: np.ndarray
    buckets: np.ndarray
    epochs: int
    log: list[dict]
    device: str = CPU

    def on(self, device: str) -> "EncoderModel":
        """Return the model on a device.

        Raises:
          RuntimeError: it is a GPU, and there is none.
        """
        if device == GPU and not torch.cuda.is_available():
            raise RuntimeError(
                f"device is {device!r}, but torch finds no CUDA device on this machine; ask for one, or for cpu"
            )
        return dataclasses.replace(self, encoder=self.encoder.to(device), device=device)

    @functools.cached_property
    def _inputs(self) -> torch.Tensor:
        return torch.from_numpy(self.vectors).to(self.device)

    def encode(self, contexts: Interactions) -> np.ndarray:
        """Return the vector of each context, `(num_contexts, dim) float32`; an empty one has zeros."""
        return self.encoder.encode_contexts(self._inputs, contexts).cpu().numpy()

    def score(self, contexts: Interactions) -> np.ndarray:
        """Return the score of every item for each context, `(num_contexts, num_items) float32`."""
        scores: np.ndarray = self.encode(contexts) @ self.item_vectors.T
        return scores

    @torch.no_grad()
    def embed_items(self, numbers: np.ndarray, features: ItemFeatures) -> np.ndarray:
        """Return vectors to score items by, `(n, dim) float32`.

        Args:
          numbers: `(n,) int64` numbers of items in fitting; -1 for others, whose vectors come from content alone.
          features: tokens of the same n items.
        """
        rows = np.where((numbers >= 0) & self.known[numbers], numbers, -1)
        content = content_of(features, self.buckets).to(self.device)
        vectors = self.encoder.item_vectors(torch.from_numpy(rows).to(self.device), content)
        return self.encoder.scored(vectors).cpu().numpy()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the model as named arrays."""
        about = {"config": dataclasses.asdict(self.encoder.config), "epochs": self.epochs, "log": self.log}
        text = json.dumps(about, sort_keys=True)
        weights = {f"encoder.{name}": value for name, value in self.encoder.to_arrays().items()}
        own = {name: getattr(self, name) for name in _OWN}
        return weights | own | {"about": np.frombuffer(text.encode(), np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "EncoderModel":
        """Return the model `to_arrays` gave."""
        about = json.loads(arrays["about"].tobytes())
        weights = {n.removeprefix("encoder."): value for n, value in arrays.items() if n.startswith("encoder.")}
        encoder = Encoder.from_arrays(EncoderConfig(**about["config"]), weights)
        vectors, item_vectors, known, buckets = (np.array(arrays[name]) for name in _OWN)
        return cls(encoder, vectors, item_vectors, known, buckets, about["epochs"], about["log"])


def fit_encoder(
    examples: Examples,
    features: ItemFeatures | None,
    settings: EncoderSettings,
    seed: int,
    validation: Validation | None = None,
    surroundings: Surroundings | None = None,
) -> EncoderModel:
    """Fit an encoder. Skips say what led to what, and are never what should have come; an item only ever skipped is left
    to its content.

    Args:
      examples: rows of users or sessions; their content is that of `features`.
      features: tokens of all items, those never interacted with too; None: identities only.
      settings: shape and training.
      seed: of all that is random.
      validation: what training stops by; None: it makes all its passes.
      surroundings: device, checkpoint and progress.
    """
    played = examples.interactions
    known = np.bincount(played.items[played.weights > 0], minlength=played.num_items) > 0
    interactions = played.where(known[played.items])
    buckets = vocabulary(features, known) if features else np.empty(0, np.int32)
    content = content_of(features, buckets) if features else None
    sentence_dim = features.sentences.shape[1] if features and features.sentences is not None else 0
    config = _config(settings, interactions.num_items, len(buckets), sentence_dim)
    with_content = dataclasses.replace(examples, interactions=interactions, content=content)
    trained = train(config, with_content, settings.training, seed, validation, surroundings)
    return finished(trained.encoder, content, trained.known, buckets, (trained.epochs, trained.log))


def _config(settings: EncoderSettings, num_items: int, num_tokens: int, sentence_dim: int) -> EncoderConfig:
    """Return the shape for a catalogue."""
    shape = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings) if f.name != "training"}
    sparse = num_items > FULL_SOFTMAX_ITEMS
    return EncoderConfig(num_items, num_tokens, **shape, sparse=sparse, sentence_dim=sentence_dim)


def finished(
    encoder: Encoder, content: TokenRows | None, known: np.ndarray, buckets: np.ndarray, history: tuple[int, list[dict]]
) -> EncoderModel:
    """Return the model of a trained encoder."""
    vectors = all_vectors(encoder, content, known)
    with torch.no_grad():
        scored = encoder.scored(vectors)
    return EncoderModel(encoder, vectors.numpy(), scored.numpy(), known, buckets, *history)
