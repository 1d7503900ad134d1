"""Embed: items and users to vectors of the encoder's space. The only stages that ask for a GPU besides `train`."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import apache_beam as beam

from pipelines.road import Road, paths, shard_tasks
from pipelines.runner import Stage, input_ref
from pipelines.train import ENCODER
from schemas.catalogue import CONTRACTS
from schemas.manifest import DataFile, Manifest
from schemas.models import EMBEDDING_DIM, Space
from transforms.devices import GPU, GPU_HINTS
from transforms.embed.vectors import ITEMS, EncoderFiles, Rows
from transforms.io.store import Store
from transforms.shards import Task, Workspace
from validation.vectors import VectorSample


@dataclasses.dataclass(frozen=True, slots=True)
class Encoder:
    """A trained encoder and the vocabulary it was trained with, as committed."""

    training: Manifest
    vocabulary: Manifest

    @property
    def space(self) -> Space:
        """The space of its vectors: another training, another space."""
        return Space(ENCODER, self.training.digest, EMBEDDING_DIM, "cosine")

    @property
    def metrics(self) -> dict[str, float]:
        """Figures of the finished model on held-out data."""
        return {name: ppm / 1e6 for name, ppm in self.training.counters.items() if "@" in name}


def space_in(vectors: Manifest) -> Space:
    """Return the space committed vectors are in."""
    return Space(**vectors.config["space"])


def embed(road: Road, store: Store, what: Rows, rows: Manifest, model: Encoder, before: Manifest | None) -> Stage:
    """Return the stage that embeds the rows of a dataset, a map over its shards.

    Args:
      store: where a sample is read from once the vectors are there.
      before: vectors of an earlier run; those of the same space and content are taken over, so that what is computed is
        what changed. They do not change the result.
    """
    kept = _of_space(before, model.space, road.num_shards)
    weights = model.training.artifact(f"{ENCODER}.safetensors").path
    of_items = what.dataset == ITEMS.dataset  # what users do changes every day
    language, most_anew = (road.language, road.policy.road.most_anew) if of_items else (None, 1.0)
    files = EncoderFiles(weights, paths(model.vocabulary.files), road.device, language)
    inputs: dict[str, tuple[str, ...] | Sequence[DataFile]] = {what.dataset: rows.files, what.embedding: kept}
    plays = files.vocabulary if of_items else ()
    return Stage(
        name="embed",
        qualifier=what.dataset,
        contract=CONTRACTS[what.embedding],
        date=road.day,
        inputs=(input_ref(rows), input_ref(model.training), input_ref(model.vocabulary)),
        tasks=shard_tasks(road.num_shards, inputs),
        transform=functools.partial(_embed, what=what, space=model.space, files=files, most_anew=most_anew),
        num_parts=road.num_shards,
        num_shards=road.num_shards,
        config={"space": dataclasses.asdict(model.space), "device": road.device},
        figures=functools.partial(_sampled, store=store, key=what.key, before=paths(kept), plays=plays),
    )


def _of_space(before: Manifest | None, space: Space, num_shards: int) -> Sequence[DataFile]:
    if before is None or before.num_shards != num_shards or space_in(before) != space:
        return ()
    return before.files


def _embed(
    workspace: Workspace, tasks: Sequence[Task], what: Rows, space: Space, files: EncoderFiles, most_anew: float
) -> beam.PTransform:
    from transforms.embed.inference import EmbedShards  # torch: seconds, for runs that embed

    embedding = EmbedShards(workspace, what, space, files, most_anew)
    return embedding.with_resource_hints(**GPU_HINTS) if files.device == GPU else embedding


def _sampled(
    staged: Sequence[str], store: Store, key: str, before: Sequence[str], plays: Sequence[str]
) -> Mapping[str, int]:
    return VectorSample(key, [store.local(path) for path in before], [store.local(path) for path in plays])(staged)
