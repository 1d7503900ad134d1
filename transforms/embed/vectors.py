"""What there is to embed: the rows of a shard that changed, and their vectors as rows again.

Rows whose content and model are those of an earlier run keep their vectors.
Memory: a shard's rows with their vectors, `4 * dim` bytes each.
"""

import dataclasses

import numpy as np
import polars as pl

from schemas.hashing import hash64
from schemas.models import Space, demand_same_space
from transforms.devices import CPU
from transforms.embed.language import LanguageModel
from transforms.embed.text import ITEM_COLUMNS
from transforms.shards import Output, Shard, Task

UNIT_TOLERANCE = 1e-3
LEAST_PLANNED = 1_000
"""Rows of a shard that are computed in seconds, whatever their share is."""


class MoreThanPlanned(ValueError):
    """A run would cost many times what it is planned to; the message says what changed."""


@dataclasses.dataclass(frozen=True, slots=True)
class EncoderFiles:
    """What a worker loads an encoder from.

    Attributes:
      weights: path of the artifact. `vocabulary`: paths of the files it was trained with.
      language: what it was trained with; plays alone can be embedded without.
    """

    weights: str
    vocabulary: tuple[str, ...]
    device: str = CPU
    language: LanguageModel | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """What to embed of one entity: which input and which columns."""

    dataset: str
    embedding: str
    key: str
    columns: tuple[str, ...]
    where: pl.Expr


ITEMS = Rows("item", "item_embedding", "item_id", ITEM_COLUMNS, pl.col("deleted_at").is_null() & pl.col("rec_eligible"))
USERS = Rows(
    "history", "user_embedding", "user_id", ("user_id", "positives", "skips"), pl.col("positives").list.len() > 0
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


def demand_as_planned(batch: Batch, what: Rows, most: float) -> Batch:
    """Return the batch, unless more of its rows are to be computed than the plan of a date between two trainings says.

    Args:
      most: share of the rows that may be; up to `LEAST_PLANNED` may be in any case, and all where no vectors were kept.

    Raises:
      MoreThanPlanned: before anything is computed.
    """
    anew, rows = batch.rows.height, batch.rows.height + batch.kept.height
    if batch.task.inputs.get(what.embedding) and anew > max(LEAST_PLANNED, most * rows):
        raise MoreThanPlanned(
            f"{anew:,} of {rows:,} rows of {what.dataset} shard {batch.task.name} changed and would be embedded anew, where at"
            f" most {most:.0%} are planned while the encoder stays: see what changed in the delivery; if it is meant, raise"
            " most_anew in the policy for this date"
        )
    return batch


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


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1; what has no length keeps none."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: np.ndarray = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return scaled
