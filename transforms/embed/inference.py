"""Embed: a whole shard of changed rows at a time, on a GPU where one is asked for.

A Beam element is a shard's rows, never a row: per-row elements cost 75 to 100 times the model itself.
Memory: a shard's rows with their vectors (`4 * dim` bytes each), one model per worker process, and `ROWS_AT_ONCE` rows
at work in the model. Importing this takes seconds, torch does: only tasks that embed should.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.ml.inference.base import ModelHandler, RunInference

from schemas.models import Space
from transforms.embed.encoder_model import EncoderModel
from transforms.embed.interactions import from_listens
from transforms.embed.language import TEXT_MODEL, LanguageModel, digest_of
from transforms.embed.text import item_features
from transforms.embed.vectors import ITEMS, Batch, EncoderFiles, Rows, demand_as_planned, finish_batch, read_batch, unit
from transforms.embed.weights import unpack
from transforms.histories import exploded
from transforms.id_index import IdIndex
from transforms.io.store import Store, open_store
from transforms.shards import Shard, Task, Workspace, process_shard, shard_done
from transforms.train import read_vocabulary

ROWS_AT_ONCE = 4_096


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A model with its vocabulary, where the work is done.

    Attributes:
      item_ids: the vocabulary, sorted.
      text_model: digest of the language model it was trained with. `language`: the one that is given.
    """

    model: EncoderModel
    item_ids: pl.Series
    text_model: str = ""
    language: LanguageModel | None = None

    @functools.cached_property
    def numbers(self) -> IdIndex:
        """The vocabulary, to look numbers up by."""
        return IdIndex.of(self.item_ids)

    @classmethod
    def load(cls, store: Store, files: EncoderFiles) -> "Embedder":
        """Read what `train` committed.

        Raises:
          RuntimeError: a GPU is asked for and there is none.
        """
        arrays, about = unpack(store.read_bytes(files.weights), files.weights)
        shard = Shard(Task("model", 0, {"vocabulary": files.vocabulary}), store)
        model = EncoderModel.from_arrays(arrays).on(files.device)
        return cls(model, read_vocabulary(shard), about[TEXT_MODEL], files.language)

    def vectors(self, what: Rows, rows: pl.DataFrame) -> np.ndarray:
        """Return the vectors of rows, `(num_rows, dim) float32`."""
        return self.items(rows) if what.dataset == ITEMS.dataset else self.users(rows)

    def items(self, rows: pl.DataFrame) -> np.ndarray:
        """Return the vectors of items, `(num_rows, dim) float32` of length 1; of an unknown one from its content.

        Raises:
          ValueError: the encoder was trained with another language model than this one.
        """
        given = digest_of(self.language)
        if given != self.text_model:
            raise ValueError(
                f"the encoder was trained with the text model {self.text_model or '(none)'}, and is given"
                f" {given or '(none)'}: give TEXT_MODEL= as in training, or train anew"
            )
        numbers = pl.DataFrame({"item_id": self.item_ids, "number": pl.int_range(len(self.item_ids), eager=True)})
        known = rows.select("item_id").join(numbers, on="item_id", how="left", maintain_order="left")["number"]
        features = item_features(rows, sentences=self.language.encode(rows) if self.language else None)
        return unit(self.model.embed_items(known.fill_null(-1).to_numpy(), features))

    def users(self, rows: pl.DataFrame) -> np.ndarray:
        """Return the vectors of histories, `(num_rows, dim) float32` of length 1, or 0 where nothing in it is known."""
        listens = exploded(rows, "positives", "skips").rename({"user_id": "key"})
        return self.plays(listens, rows["user_id"])

    def plays(self, listens: pl.DataFrame, keys: pl.Series) -> np.ndarray:
        """Return the vectors of plays in order, `(num_keys, dim) float32`, of length 1 or 0; see `from_listens`."""
        return unit(self.model.encode(from_listens(listens, keys, self.numbers)))


class EmbedBatches(ModelHandler[Batch, tuple[Batch, np.ndarray], Embedder]):
    """How RunInference loads the model and embeds an element, which is a batch already."""

    def __init__(self, root: str, files: EncoderFiles, what: Rows) -> None:
        super().__init__(max_batch_size=1)
        self._root, self._files, self._what = root, files, what

    def load_model(self) -> Embedder:
        """Read weights and vocabulary.

        Raises:
          RuntimeError: a GPU was asked for and there is none.
        """
        return Embedder.load(open_store(self._root), self._files)

    def run_inference(
        self, batch: Sequence[Batch], model: Embedder, inference_args: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yield each element with its vectors, `(num_rows, dim) float32`."""
        for one in batch:
            parts = [model.vectors(self._what, rows) for rows in one.rows.iter_slices(ROWS_AT_ONCE)]
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
      files: their device says where; with a GPU the step asks for a machine that has one, and fails on any other.
      most_anew: see `demand_as_planned`.
    """

    workspace: Workspace
    what: Rows
    space: Space
    files: EncoderFiles
    most_anew: float = 1.0

    def expand(self, tasks: beam.PCollection[Task]) -> beam.PCollection[str]:
        """Return the names of the tasks done."""
        handler = EmbedBatches(self.workspace.root, self.files, self.what)
        return (
            tasks
            | "SpreadTasks" >> beam.Reshuffle()
            | "ReadBatch" >> beam.FlatMap(self._read)
            | "EmbedBatch" >> RunInference(handler)
            | "WriteShard" >> beam.Map(self._write)
        )

    def _read(self, task: Task) -> Iterable[Batch]:
        if not shard_done(task, self.workspace):
            batch = read_batch(Shard(task, self.workspace.store), self.what, self.space)
            yield demand_as_planned(batch, self.what, self.most_anew)

    def _write(self, embedded: tuple[Batch, np.ndarray]) -> str:
        batch, vectors = embedded
        return process_shard(batch.task, self.workspace, lambda _: finish_batch(batch, vectors, self.what, self.space))
