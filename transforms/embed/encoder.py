"""One space for items, histories and sessions: item vectors from identity and content, a causal transformer over them.

A block mixes positions half by attention (Kang and McAuley, 2018, "SASRec") and half by an average of the last `TAPS`
positions with a learnt share of what the average leaves out (after Shin et al., 2024, "BSARec", whose filter looks at
the whole row; this one looks back only). Scores are inner products of `encode`'s rows and `item_vectors`' rows.
Memory: 4 bytes times `dim` times the items and distinct tokens; while training, four times that.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from transforms.embed.batches import Packed, pack
from transforms.embed.interactions import Interactions
from transforms.embed.text import ItemFeatures

# Sums in another number of threads have other last bits, and equal inputs must give equal bytes on any machine. Shards
# and stages use the other cores.
torch.set_num_threads(1)

TAPS = 10


@dataclasses.dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Shape of an encoder.

    Attributes:
      num_items: items with an identity of their own.
      num_tokens: tokens of content with a vector.
      sentence_dim: length of a language model's vectors; 0 without one.
      dim: length of vectors, a multiple of `heads`.
      layers: blocks.
      heads: attention heads.
      max_length: positions of a history that count, the newest.
      dropout: share of the values dropped in training.
      scale: scores are `scale` times the cosine; 0: the plain inner product.
      sparse: gradients of tables hold only the rows of the batch.
    """

    num_items: int
    num_tokens: int = 0
    dim: int = 64
    layers: int = 2
    heads: int = 2
    max_length: int = 50
    dropout: float = 0.5
    scale: float = 0.0
    sparse: bool = False
    sentence_dim: int = 0

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of {self.heads} heads")
        if not 0 <= self.dropout <= 0.9:
            raise ValueError(f"dropout {self.dropout} is not from 0 to 0.9")


@dataclasses.dataclass(frozen=True, slots=True)
class TokenRows:
    """Tokens of items as rows of the token table, in compressed rows of tensors.

    Attributes:
      starts: `(num_items + 1,) int64`.
      tokens: `(num_tokens,) int64`.
      weights: `(num_tokens,) float32`.
      sentences: `(num_items, sentence_dim) float32`; None without a language model.
    """

    starts: torch.Tensor
    tokens: torch.Tensor
    weights: torch.Tensor
    sentences: torch.Tensor | None = None

    def take(self, items: torch.Tensor) -> "TokenRows":
        """Return some items, in the order given."""
        lengths = (self.starts[1:] - self.starts[:-1])[items]
        ends = lengths.cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends])
        shift = torch.repeat_interleave(self.starts[items] - starts[:-1], lengths)
        at = torch.arange(len(shift), device=items.device) + shift
        sentences = None if self.sentences is None else self.sentences[items]
        return TokenRows(starts, self.tokens[at], self.weights[at], sentences)

    def to(self, device: str) -> "TokenRows":
        sentences = None if self.sentences is None else self.sentences.to(device)
        return TokenRows(self.starts.to(device), self.tokens.to(device), self.weights.to(device), sentences)


def vocabulary(features: ItemFeatures, known: np.ndarray) -> np.ndarray:
    """Return the buckets that at least two of the `known (num_items,) bool` items have, ascending, `int32`.

    What a single item has says nothing that its identity does not.
    """
    of_known = np.repeat(known, np.diff(features.starts))
    buckets, counts = np.unique(features.tokens[of_known], return_counts=True)
    return buckets[counts > 1]


def content_of(features: ItemFeatures, buckets: np.ndarray) -> TokenRows:
    """Return the tokens of items that are in the vocabulary, as rows of its table."""
    places = np.searchsorted(buckets, features.tokens)
    kept = buckets[np.minimum(places, len(buckets) - 1)] == features.tokens if len(buckets) else places < 0
    ends = np.concatenate([[0], np.cumsum(kept)])[features.starts]
    return TokenRows(
        torch.from_numpy(ends),
        torch.from_numpy(places[kept]),
        torch.from_numpy(features.weights[kept].copy()),
        None if features.sentences is None else torch.from_numpy(features.sentences),
    )


class Encoder(nn.Module):
    """Vectors of items, histories and sessions."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config, self.dropout = config, config.dropout
        self.ids = nn.Embedding(config.num_items, config.dim, sparse=config.sparse)
        self.tokens = nn.Embedding(max(config.num_tokens, 1), config.dim, sparse=config.sparse)
        self.positions = nn.Embedding(config.max_length, config.dim)
        self.skips = nn.Embedding(2, config.dim)
        self.enter, self.leave = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.blocks = nn.ModuleList([_Block(config) for _ in range(config.layers)])
        for table in (self.ids, self.tokens, self.positions, self.skips):
            nn.init.normal_(table.weight, std=config.dim**-0.5 / 4)
        nn.init.zeros_(self.skips.weight)
        self.read = nn.Linear(config.sentence_dim, config.dim, bias=False) if config.sentence_dim else None
        # Turned at random, a history does not begin as a vote for its own last item, which is often what comes least.
        self.turn = nn.Linear(config.dim, config.dim, bias=False)
        nn.init.orthogonal_(self.turn.weight)

    def item_vectors(self, rows: torch.Tensor, content: TokenRows | None, drop: float = 0.0) -> torch.Tensor:
        """Return `(n, dim) float32` item vectors, before any norm.

        Args:
          rows: `(n,) int64` rows of the identities; -1 for an item without one, which its content alone places.
          content: tokens of the same n items.
          drop: share of the identities left out, so that content alone comes to mean something; none without content.
        """
        kept = rows >= 0
        told = content is not None and self.config.num_tokens + self.config.sentence_dim > 0
        if drop and told:
            kept = kept & (torch.rand(len(rows), device=rows.device) >= drop)
        vectors = self.ids(rows.clamp(min=0)) * kept[:, None]
        if content is None or not told:
            return vectors
        if self.read is not None:
            vectors = vectors + self.read(content.sentences)
        return vectors + F.embedding_bag(
            content.tokens,
            self.tokens.weight,
            content.starts,
            mode="sum",
            per_sample_weights=content.weights,
            include_last_offset=True,
            sparse=self.config.sparse,
        )

    def scored(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return item vectors as they stand in scores: of length 1 if those are cosines."""
        return F.normalize(vectors, dim=-1) if self.config.scale else vectors

    def encode(self, inputs: torch.Tensor, packed: Packed) -> torch.Tensor:
        """Return a vector for every position that knows that position and those before it, `(num_positions, dim)`.

        Args:
          inputs: `(num_positions, dim) float32`, unscored vectors of the positions' items.
          packed: where the positions lie; no window longer than `max_length`.
        """
        columns, skipped = _tensor(packed.columns, inputs), _tensor(packed.skipped, inputs)
        slots = _tensor(packed.rows * packed.width + packed.columns, inputs)
        x = self.enter(inputs) + self.positions(columns) + self.skips(skipped)
        x = _dropped(x, self)
        for block in self.blocks:
            x = block(x, slots, columns, (packed.num_rows, packed.width))
        x = self.turn(self.leave(x))
        return self.config.scale * F.normalize(x, dim=-1) if self.config.scale else x

    @torch.no_grad()
    def encode_contexts(self, vectors: torch.Tensor, contexts: Interactions) -> torch.Tensor:
        """Return the vector of each context after its last item, `(num_contexts, dim) float32`; an empty one has zeros.

        Args:
          vectors: `(num_items, dim) float32`, unscored.
          contexts: oldest first.
        """
        found = vectors.new_zeros(len(contexts), self.config.dim)
        filled = np.flatnonzero(contexts.lengths)
        if len(filled):
            packed = pack(_with_longest(contexts.take(filled).last(self.config.max_length), self.config.max_length))
            encoded = self.encode(vectors[_tensor(packed.items, vectors)], packed)
            lasts = _tensor(packed.lasts[: len(filled)], vectors)
            found[torch.from_numpy(filled).to(found.device)] = encoded[lasts].float()
        return found

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the weights by name."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.state_dict().items()}

    @classmethod
    def from_arrays(cls, config: EncoderConfig, arrays: Mapping[str, np.ndarray]) -> "Encoder":
        """Return an encoder with the weights `to_arrays` gave."""
        encoder = cls(config)
        encoder.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
        return encoder.eval()


def _with_longest(contexts: Interactions, length: int) -> Interactions:
    """Return the contexts and one of full length: small shapes are computed by other kernels, whose last bits differ, and
    the vector of a context must not depend on what it is encoded beside.
    """
    longest = np.full(length, contexts.items[0], contexts.items.dtype)
    starts = np.append(contexts.starts, contexts.starts[-1] + length)
    weights = np.append(contexts.weights, np.ones(length, contexts.weights.dtype))
    return Interactions(starts, np.append(contexts.items, longest), weights, contexts.num_items)


class _Block(nn.Module):
    """Half attention, half average; then two dense layers at each position."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.before_mixing, self.before_dense = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.split, self.join = nn.Linear(config.dim, 3 * config.dim), nn.Linear(config.dim, config.dim)
        self.sharpness = nn.Parameter(torch.zeros(config.dim))
        self.widen, self.narrow = nn.Linear(config.dim, 4 * config.dim), nn.Linear(4 * config.dim, config.dim)

    def forward(self, x: torch.Tensor, slots: torch.Tensor, columns: torch.Tensor, shape: tuple[int, int]):
        h = self.before_mixing(x)
        mixed = 0.5 * (self._attend(h, slots, shape) + self._average(h, slots, columns, shape))
        x = x + _dropped(mixed, self)
        dense = self.narrow(_dropped(F.gelu(self.widen(self.before_dense(x))), self))
        return x + _dropped(dense, self)

    def _attend(self, h: torch.Tensor, slots: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        """Return what each position finds at itself and before; positions past a window's end come after all of it."""
        padded = _padded(self.split(h), slots, shape).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(padded[0], padded[1], padded[2], is_causal=True)
        return self.join(found.transpose(1, 2).reshape(shape[0] * shape[1], -1)[slots])

    def _average(
        self, h: torch.Tensor, slots: torch.Tensor, columns: torch.Tensor, shape: tuple[int, int]
    ) -> torch.Tensor:
        """Return the average of up to `TAPS` positions and a share of the difference to it."""
        sums = _padded(h, slots, shape).cumsum(1)
        sums = sums - F.pad(sums, (0, 0, TAPS, 0))[:, : shape[1]]
        average = sums.flatten(0, 1)[slots] / (columns + 1).clamp(max=TAPS)[:, None]
        return average + self.sharpness * (h - average)


def _dropped(values: torch.Tensor, module: "Encoder | _Block") -> torch.Tensor:
    """Return values of which, in training, a share is 0 and the rest so much larger.

    On a CPU the share is a multiple of 1/256, and a byte decides: five times as fast as torch's own.
    """
    if not module.training or values.is_cuda:
        return F.dropout(values, module.dropout, module.training)
    dropped = round(module.dropout * 256)
    words = torch.empty(-(-values.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.uint8)[: values.numel()].view(values.shape) >= dropped
    return values * kept * (256 / (256 - dropped))


def _padded(values: torch.Tensor, slots: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Return packed positions as `(num_rows, width, size)`, zeros past the end of a window."""
    flat = values.new_zeros(shape[0] * shape[1], values.shape[1])
    return flat.index_copy(0, slots, values).view(*shape, -1)


def _tensor(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Return an array where another tensor is."""
    return torch.from_numpy(array).to(like.device)
