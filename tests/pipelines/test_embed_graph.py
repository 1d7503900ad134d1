"""The graph that a service would be given: which steps ask for a GPU, and which spaces meet in it."""

import dataclasses
import datetime
from collections.abc import Callable

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from jobs.options import POLICY_FILE, read_policy
from pipelines.embed import Encoder, _embed, embed
from pipelines.models import Models
from pipelines.recommend import _ask
from pipelines.road import Road
from schemas.manifest import DataFile, Manifest
from schemas.models import EMBEDDING_DIM, Space, SpaceMismatch
from transforms.devices import CPU, GPU
from transforms.embed.vectors import ITEMS, EncoderFiles
from transforms.shards import Output, Task, Workspace

SPACE = Space("encoder", "one", EMBEDDING_DIM, "cosine")
WEIGHTS = DataFile("data/training/date=d/run=r/artifacts/encoder.safetensors", "ab", 0, 10, 0)
EMPTY = Manifest("training", "1.0.0", "f", "train", "m", "r", "d", 1, "c", {}, (), (), (), 0, 0, {}, {}, {}, ())
ENCODER = Encoder(dataclasses.replace(EMPTY, artifacts=(WEIGHTS,)), EMPTY)
ROAD = Road(datetime.date(2026, 1, 31), 2, read_policy(POLICY_FILE), "code", "batch")
ACCELERATOR = "beam:resources:accelerator:v1"


def accelerators(transform: Callable[[Workspace], beam.PTransform]) -> set[bytes]:
    """Return what the steps of a stage ask for, in the graph a service would be given."""
    options = PipelineOptions(
        ["--runner=DataflowRunner", "--dry_run=True", "--project=test-proj", "--region=europe-west1",
         "--temp_location=gs://bucket/tmp", "--sdk_location=container", "--no_auth"],
        save_main_session=False,
    )  # fmt: skip
    space = Workspace("/nowhere", "staging/x", "x", "item_embedding", "embed", "code")
    pipeline = beam.Pipeline(options=options)
    tasks = pipeline | "CreateTasks" >> beam.Create([Task("00000", 0, {})])
    _ = tasks | "DoStage" >> transform(space)
    components = pipeline.to_runner_api().components
    used = {one.environment_id for one in components.transforms.values() if one.unique_name.startswith("DoStage")}
    return {components.environments[name].resource_hints.get(ACCELERATOR, b"") for name in used if name}


@pytest.mark.parametrize(("device", "asked"), [(CPU, b""), (GPU, b"type:nvidia-l4;count:1;install-nvidia-driver")])
def test_a_stage_asks_for_a_gpu_where_it_is_told_to_and_only_then(device, asked):
    files = EncoderFiles("w", (), device)
    assert accelerators(lambda space: _embed(space, [], ITEMS, SPACE, files, 1.0)) == {asked}
    assert accelerators(lambda space: _ask(space, [], Output, device == GPU)) == {asked}


def test_another_device_is_refused():
    with pytest.raises(ValueError, match="device is one of cpu and cuda, came 'tpu'"):
        embed(dataclasses.replace(ROAD, device="tpu"), None, ITEMS, EMPTY, ENCODER, None)


def vectors(space: Space) -> Manifest:
    return dataclasses.replace(EMPTY, config={"space": dataclasses.asdict(space)})


def test_vectors_of_another_space_are_refused_when_the_road_is_put_together():
    ours = vectors(ENCODER.space)
    assert Models(EMPTY, ENCODER, EMPTY, ours, ours)
    with pytest.raises(SpaceMismatch, match=r"space encoder one .* in the space encoder"):
        Models(EMPTY, ENCODER, EMPTY, ours, vectors(SPACE))
