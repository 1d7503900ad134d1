"""Fuse: fit one ranking out of several trained families', on examples that none of them has seen.

One task. Memory: the families; `AT_ONCE` contexts times all items, 4 bytes each, per family; and the best `depth`
candidates of at most `most` examples, 4 bytes per feature, twice.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from schemas.hashing import hash64
from schemas.models import EXAMPLE, TRAINING
from transforms.embed.families import FAMILIES, HeldOut, Model
from transforms.embed.fuse import FusionSettings, fit_fusion
from transforms.embed.interactions import Interactions, from_listens, from_lists
from transforms.embed.pool import Describer, Pool, build_pool
from transforms.embed.weights import unpack
from transforms.evaluate import without
from transforms.id_index import IdIndex
from transforms.shards import Output, Shard
from transforms.train import FINISHED, read_listens, read_vocabulary, sampled

AT_ONCE = 128
PROPOSED = 300
"""Candidates each family gives to the fusion: what a ranker would be handed by one source."""
FUSION = "fusion"
FUSION_FILE = "fusion.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A block of contexts, with what every family says of every item."""

    contexts: Interactions
    targets: Interactions
    scores: dict[str, np.ndarray]

    def pool(self, describers: Mapping[str, Describer], names: tuple[str, ...], proposer: str | None = None) -> Pool:
        """Return the candidates of some families, or of one of them, described by all of these."""
        found = build_pool(self.contexts, {name: self.scores[name] for name in names}, PROPOSED, describers)
        if proposer is None:
            return found
        return found.keep(found.features[:, found.names.index(f"{proposer}.share")] > 0)


def score_blocks(models: Mapping[str, Model], examples: HeldOut, seen_removed: bool) -> Iterator[Block]:
    """Yield the contexts in blocks, scored by every model.

    Args:
      seen_removed: whether what a context holds is left out of its ranking.
    """
    for span, contexts in examples.contexts.blocks(AT_ONCE):
        scores = {name: np.asarray(model.score(contexts), np.float32) for name, model in models.items()}
        if seen_removed:
            scores = {name: without(found, contexts) for name, found in scores.items()}
        targets = examples.targets.take(np.arange(span.start, span.stop))
        yield Block(contexts, targets, scores)


def apart(models: Mapping[str, Any]) -> tuple[dict[str, Model], dict[str, Describer]]:
    """Return what scores every item, and what only describes candidates of others."""
    scored = {name: model for name, model in models.items() if hasattr(model, "score")}
    return scored, {name: model for name, model in models.items() if hasattr(model, "features")}


def load_family(name: str, body: bytes, where: str) -> tuple[Any, dict[str, Any]]:
    """Return a family as it was trained, and the settings that were settled on the way.

    Raises:
      ValueError: not such a file; `where` names it.
    """
    arrays, about = unpack(body, where)
    return FAMILIES[name]().load(arrays), about["settings"]


def held_out(examples: pl.DataFrame, shard: Shard, item_ids: pl.Series) -> HeldOut:
    """Return contexts and targets by number; a target that cannot be ranked counts as missed.

    Args:
      examples: in the example contract, all with a context or all without.
      shard: its `history` is read where there is no context.
    """
    unknown = len(item_ids)
    targets = from_lists(numbers(examples["target"], item_ids, unknown), unknown + 1)
    if examples["context"].null_count() < examples.height:
        return HeldOut(from_lists(numbers(examples["context"], item_ids), unknown), targets)
    keys = examples["key"].unique().sort()
    listens = read_listens(shard).filter(pl.col("key").is_in(keys.implode()))
    rows = keys.search_sorted(examples["key"]).to_numpy()
    return HeldOut(from_listens(listens, keys, IdIndex.of(item_ids)).take(rows), targets)


def numbers(lists: pl.Series, item_ids: pl.Series, unknown: int | None = None) -> list[np.ndarray]:
    """Return lists of item ids as lists of numbers, int32.

    Args:
      unknown: the number of what is not in the vocabulary; None: it is left out.
    """
    frame = lists.rename("item_id").to_frame().with_row_index("row").explode("item_id").drop_nulls("item_id")
    known = pl.DataFrame({"item_id": item_ids, "number": pl.int_range(len(item_ids), dtype=pl.Int32, eager=True)})
    found = frame.join(known, on="item_id", how="left", maintain_order="left")
    number = pl.col("number") if unknown is None else pl.col("number").fill_null(unknown)
    found = found.with_columns(number.cast(pl.Int32)).drop_nulls("number")
    ends = np.cumsum(np.bincount(found["row"].to_numpy(), minlength=len(lists)))
    return np.split(found["number"].to_numpy(), ends[:-1]) if len(lists) else []


def shuffled(examples: pl.DataFrame, most: int) -> pl.DataFrame:
    """Return about `most` examples, by the hash of their keys and in its order: no key is in two halves."""
    few = examples.filter(pl.Series(sampled(examples["key"], most)))
    return few.sort(pl.Series(hash64(few["key"].to_arrow())), "example_id")


@dataclasses.dataclass(frozen=True)
class Fuse:
    """Fit the fusion of families on examples; it is the artifact `fusion.json`.

    The task's inputs are `vocabulary`, `history`, `example`, and the weights of each family under its name.

    Attributes:
      most: examples it is fitted on, about; chosen by the hash of their keys.
    """

    families: tuple[str, ...]
    settings: FusionSettings
    seen_removed: bool
    most: int

    def __call__(self, shard: Shard) -> Output:
        item_ids = read_vocabulary(shard)
        scored, describers = apart({name: _family(shard, name) for name in self.families})
        examples = shuffled(shard.read(EXAMPLE.name), self.most)
        if not examples.height:
            raise ValueError("no examples to fit a fusion on: give some of a time after the histories")
        blocks = score_blocks(scored, held_out(examples, shard, item_ids), self.seen_removed)
        pools = ((block.pool(describers, tuple(scored)), block.targets) for block in blocks)
        fusion = fit_fusion(pools, self.settings)
        weights = np.array(list(fusion.blend.weights.values()))
        figures = {f"nDCG@{self.settings.cutoff} of {form}": value for form, value in fusion.figures.items()}
        frame = pl.DataFrame(
            {"name": list(figures), "value": list(figures.values())}, {"name": pl.String, "value": pl.Float64}
        )
        frame = frame.with_columns(pl.lit(FUSION).alias("family"), pl.lit(FINISHED, pl.Int32).alias("epoch"))
        return Output(
            frame.select(TRAINING.schema.names).sort("name"),
            rows_in=examples.height,
            counters={"weights": len(weights), "not_finite": int((~np.isfinite(weights)).sum())}
            | {name: round(1e6 * value) for name, value in figures.items()},
            artifacts={FUSION_FILE: fusion.to_bytes()},
        )


def _family(shard: Shard, name: str) -> Any:
    (path,) = shard.paths(name)
    return load_family(name, Path(path).read_bytes(), path)[0]
