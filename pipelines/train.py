"""Train: from histories to fitted model families, one stage each; and from those to one fusion of them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam

from pipelines.road import Road, paths, process
from pipelines.runner import Stage, input_ref
from schemas.manifest import Manifest
from schemas.models import TRAINING, VOCABULARY
from transforms.devices import CPU, GPU, GPU_HINTS
from transforms.embed.fuse import FusionSettings
from transforms.embed.language import TEXT_MODEL, LanguageModel, digest_of
from transforms.fuse import FUSION, Fuse
from transforms.shards import ProcessShards, Task, Workspace
from transforms.train import MAX_INTERACTIONS, Train, number_items

SEED = 20_260_101
TRAIN, ENCODER = "train", "encoder"


def vocabulary(road: Road, histories: Manifest, items: Manifest) -> Stage:
    """Return the stage that numbers the items models are about."""
    inputs = {"history": paths(histories.files), "item": paths(items.files)}
    return Stage(
        name="vocabulary",
        contract=VOCABULARY,
        date=road.day,
        inputs=(input_ref(histories), input_ref(items)),
        tasks=(Task("00000", 0, inputs),),
        transform=functools.partial(process, work=number_items),
        num_parts=1,
        num_shards=1,
    )


def train(
    road: Road,
    family: str,
    histories: Manifest,
    items: Manifest,
    numbered: Manifest,
    settings: Mapping[str, Any] | None = None,
    refit: bool | None = None,
) -> Stage:
    """Return the stage that fits one family, a single task: on a service, one worker with a GPU where it is of use.

    Args:
      numbered: the vocabulary.
      settings: of the family, where they are not its defaults.
      refit: whether a model that was judged on held-out data is fitted on all data then; None: nothing is held out.
    """
    data = {"history": histories, "item": items, "vocabulary": numbered}
    share = min(1.0, MAX_INTERACTIONS / max(histories.counters["positives"], 1))
    given = training_config(road, family, settings or {}, refit) | {"share": share}
    language = road.language if given[TEXT_MODEL] else None
    return Stage(
        name=TRAIN,
        qualifier=family,
        contract=TRAINING,
        date=road.day,
        inputs=tuple(input_ref(manifest) for manifest in data.values()),
        tasks=(Task(family, 0, {name: paths(manifest.files) for name, manifest in data.items()}),),
        transform=functools.partial(_train, family=family, config=given, language=language),
        num_parts=1,
        num_shards=1,
        config=given,
    )


def fuse(
    road: Road,
    trained: Mapping[str, Manifest],
    data: Sequence[Manifest],
    settings: FusionSettings,
    *,
    seen_removed: bool,
    most: int,
) -> Stage:
    """Return the stage that fits the fusion of trained families, a single task.

    Args:
      trained: families by name, fitted on what came before the examples.
      data: the histories, the vocabulary and the examples.
      seen_removed, most: see `Fuse`.
    """
    families = tuple(trained)
    weights = {name: (manifest.artifact(f"{name}.safetensors").path,) for name, manifest in trained.items()}
    inputs = weights | {manifest.dataset: paths(manifest.files) for manifest in data}
    work = Fuse(families, settings, seen_removed, most)
    config = {"families": families, "fusion": dataclasses.asdict(settings), "seen_removed": seen_removed, "most": most}
    return Stage(
        name="fuse",
        qualifier=FUSION,
        contract=TRAINING,
        date=road.day,
        inputs=(
            *(input_ref(manifest, name) for name, manifest in trained.items()),
            *(input_ref(manifest) for manifest in data),
        ),
        tasks=(Task(FUSION, 0, inputs),),
        transform=functools.partial(process, work=work),
        num_parts=1,
        num_shards=1,
        config=config,
    )


def training_config(road: Road, family: str, settings: Mapping[str, Any], refit: bool | None) -> dict[str, Any]:
    """Return how a family is trained, whatever it is trained on; only the encoder is of use on a GPU and reads words."""
    return {
        "settings": dict(settings),
        "seed": SEED,
        "hold_out": refit is not None,
        "refit": refit is not False,
        "device": road.device if family == ENCODER else CPU,
        TEXT_MODEL: digest_of(road.language) if family == ENCODER else "",
    }


def _train(
    space: Workspace, tasks: Sequence[Task], family: str, config: Mapping[str, Any], language: LanguageModel | None
) -> beam.PTransform:
    settings = {name: value for name, value in config.items() if name != TEXT_MODEL}
    fitting = ProcessShards(space, Train(space, family, language=language, **settings))
    return fitting.with_resource_hints(**GPU_HINTS) if config["device"] == GPU else fitting
