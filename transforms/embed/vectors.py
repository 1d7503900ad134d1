"""Embed: items and users of a shard to vectors, a whole shard of changed rows at a time, on a GPU where one is asked for.

A Beam element is a shard's rows, never a row: per-row elements cost 75 to 100 times the model itself. Rows whose content
and model are those of an earlier run keep their vectors.
Memory: a shard's rows with their vectors (`4 * dim` bytes each), one model per worker process, and `ROWS_AT_ONCE` rows
at work in the model.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.ml.inference.base import ModelHandler, RunInference

from schemas.hashing import hash64
from schemas.models import Space, demand_same_space
from transforms.embed.encoder_model import EncoderModel
from transforms.embed.interactions import from_listens
from transforms.embed.text import item_features
from transforms.embed.weights import unpack
from transforms.io.store import open_store
from transforms.shards import Output, Shard, Task, Workspace, process_shard, shard_done

ROWS_AT_ONCE = 4_096
UNIT_TOLERANCE = 1e-3
ITEM_COLUMNS = ["item_id", "item_type", "title", "description", "genres", "artists", "languages"]
CPU, GPU = "cpu", "cuda"
GPU_HINTS = {"accelerator": "type:nvidia-l4;count:1;install-nvidia-driver", "min_ram": "32GB"}


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A model with its vocabulary, where the work is done.

    Attributes:
      item_ids: the vocabulary, sorted.
    """

    model: EncoderModel
    item_ids: pl.Series

    def items(self, rows: pl.DataFrame) -> np.ndarray:
        """Return the vectors of items, `(num_rows, dim) float32` of length 1; of an unknown one from its content."""
        numbers = pl.DataFrame({"item_id": self.item_ids, "number": pl.int_range(len(self.item_ids), eager=True)})
        known = rows.select("item_id").join(numbers, on="item_id", how="left", maintain_order="left")["number"]
        return unit(self.model.embed_items(known.fill_null(-1).to_numpy(), item_features(rows)))

    def users(self, rows: pl.DataFrame) -> np.ndarray:
        """Return the vectors of histories, `(num_rows, dim) float32` of length 1, or 0 where nothing in it is known."""
        listens = rows.explode("positives").drop_nulls("positives").unnest("positives")
        return self.plays(listens.select(pl.col("user_id").alias("key"), "item_id", "label"), rows["user_id"])

    def plays(self, listens: pl.DataFrame, keys: pl.Series) -> np.ndarray:
        """Return the vectors of plays in order, `(num_keys, dim) float32`, of length 1 or 0; see `from_listens`."""
        return unit(self.model.encode(from_listens(listens, keys, self.item_ids)))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1; what has no length keeps none."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: np.ndarray = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return scaled


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """What to embed of one entity: which input, which columns, and by which method of the embedder."""

    dataset: str
    embedding: str
    key: str
    columns: tuple[str, ...]
    where: pl.Expr
    vectors: Callable[[Embedder, pl.DataFrame], np.ndarray]


ITEMS = Rows(
    "item", "item_embedding", "item_id", tuple(ITEM_COLUMNS),
    pl.col("deleted_at").is_null() & pl.col("rec_eligible"), Embedder.items,
)  # fmt: skip
USERS = Rows(
    "history", "user_embedding", "user_id", ("user_id", "positives"), pl.col("positives").list.len() > 0, Embedder.users
)


@dataclasses.dataclass(frozen=True)
class Batch:
    """A Beam element: the rows of one shard that need a vector, and those that keep theirs."""

    task: Task
    rows: pl.DataFrame
    kept: pl.DataFrame


def read_batch(shard: Shard, what: Rows, space: Space) -> Batch:
    """Return a shard's rows, those apart whose vector of the same space was made from the same content."""
    found = shard.read(what.dataset, list(what.columns), what.where).sort(what.key)
    content = found.select(pl.struct(pl.exclude(what.key)).struct.json_encode()).to_series()
    rows = found.with_columns(pl.Series("made_from", hash64(content.to_arrow()).view(np.int64)))
    before = shard.read(what.embedding).filter(pl.col("space_id") == space.id)
    same = rows.select(what.key, "made_from").join(before, on=[what.key, "made_from"], maintain_order="left")
    return Batch(shard.task, rows.join(same, on=what.key, how="anti", maintain_order="left"), same)


def finish_batch(batch: Batch, vectors: np.ndarray, what: Rows, space: Space) -> Output:
    """Return a shard's rows with their vectors, sorted; what nothing is known of has none.

    Counters: `computed` and `kept` vectors, rows `without` one, and vectors that are `not_finite` or `not_unit` long.

    Raises:
      SpaceMismatch: the vectors are not of the dimension of the space.
    """
    demand_same_space(space, dataclasses.replace(space, dim=vectors.shape[1]), f"what {what.dataset} rows became")
    new = batch.rows.select(what.key, "made_from").with_columns(
        pl.lit(space.id).alias("space_id"), pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, space.dim))
    )
    lengths = np.linalg.norm(vectors, axis=1)
    columns = [what.key, "space_id", "made_from", "vector"]
    frame = pl.concat([new.filter(lengths != 0).select(columns), batch.kept.select(columns)]).sort(what.key)
    counters = {
        "computed": new.height,
        "kept": batch.kept.height,
        "without": int((lengths == 0).sum()),
        "not_finite": int((~np.isfinite(lengths)).sum()),
        "not_unit": int((np.isfinite(lengths) & (lengths != 0) & (np.abs(lengths - 1) > UNIT_TOLERANCE)).sum()),
    }
    return Output(frame, rows_in=new.height + batch.kept.height, counters=counters)


class EmbedBatches(ModelHandler[Batch, tuple[Batch, np.ndarray], Embedder]):
    """How RunInference loads the model and embeds an element, which is a batch already."""

    def __init__(self, root: str, weights: str, vocabulary: Sequence[str], what: Rows, device: str) -> None:
        super().__init__(max_batch_size=1)
        self._root, self._weights, self._vocabulary = root, weights, tuple(vocabulary)
        self._what, self._device = what, device

    def load_model(self) -> Embedder:
        """Read weights and vocabulary.

        Raises:
          RuntimeError: a GPU was asked for and there is none.
        """
        store = open_store(self._root)
        shard = Shard(Task("model", 0, {"vocabulary": self._vocabulary}), store)
        arrays, _ = unpack(store.read_bytes(self._weights), self._weights)
        return Embedder(
            EncoderModel.from_arrays(arrays).on(self._device), shard.read("vocabulary", ["item_id"])["item_id"]
        )

    def run_inference(
        self, batch: Sequence[Batch], model: Embedder, inference_args: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yield each element with its vectors, `(num_rows, dim) float32`."""
        for one in batch:
            parts = [self._what.vectors(model, rows) for rows in one.rows.iter_slices(ROWS_AT_ONCE)]
            yield one, np.concatenate(parts) if parts else np.empty((0, model.model.item_vectors.shape[1]), np.float32)

    def get_num_bytes(self, batch: Sequence[Batch]) -> int:
        """Return the bytes of the rows."""
        return sum(int(one.rows.estimated_size()) for one in batch)

    def get_metrics_namespace(self) -> str:
        """Return where Beam counts."""
        return "embed"


@dataclasses.dataclass
class EmbedShards(beam.PTransform):
    """Embed every shard: read, infer, write. All three on the same machine: vectors are not shuffled.

    Attributes:
      weights: path of the artifact. `vocabulary`: paths of the vocabulary's files.
      device: `cpu` or `cuda`; with the latter the step asks for a machine with a GPU, and fails on one without.
    """

    workspace: Workspace
    what: Rows
    space: Space
    weights: str
    vocabulary: Sequence[str]
    device: str

    def expand(self, tasks: beam.PCollection[Task]) -> beam.PCollection[str]:
        """Return the names of the tasks done."""
        handler = EmbedBatches(self.workspace.root, self.weights, self.vocabulary, self.what, self.device)
        return (
            tasks
            | "SpreadTasks" >> beam.Reshuffle()
            | "ReadBatch" >> beam.FlatMap(self._read)
            | "EmbedBatch" >> RunInference(handler)
            | "WriteShard" >> beam.Map(self._write)
        )

    def _read(self, task: Task) -> Iterable[Batch]:
        if not shard_done(task, self.workspace):
            yield read_batch(Shard(task, self.workspace.store), self.what, self.space)

    def _write(self, embedded: tuple[Batch, np.ndarray]) -> str:
        batch, vectors = embedded
        return process_shard(batch.task, self.workspace, lambda _: finish_batch(batch, vectors, self.what, self.space))
