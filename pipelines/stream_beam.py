"""The streaming job on a Beam runner that lasts, Dataflow for one: Pub/Sub to Pub/Sub.

For one machine there is `pipelines.stream`: Beam's own local reader acknowledges messages before it has worked on them.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.io.gcp.pubsub import ReadFromPubSub, WriteToPubSub
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions

from pipelines.live import Serving
from pipelines.stream_verdicts import VerdictsOf
from pipelines.version import code_version
from transforms.io.broker import CONTROL, DEAD_LETTERS, EVENTS, SETS, VERDICTS
from transforms.stream.graph import LETTERS, TABLES, SessionSetsOf

EVENT_ID, EVENT_TS = "event_id", "event_ts"
"""Attributes of an event message: what the runner knows it again by, and when it happened, ms since 1970."""
LOCAL_RUNNERS = ("DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "PrismRunner")


def is_update(pipeline: beam.Pipeline) -> bool:
    """Tell whether a pipeline takes the place of one that runs, with its state."""
    return bool(pipeline.options.view_as(GoogleCloudOptions).update)


def stream_pipeline(root: str, prefix: str, beam_args: Sequence[str]) -> beam.Pipeline:
    """Return the pipeline, to be run.

    Args:
      root: what is live; workers read it, so that it must be an address they can reach.
      prefix: of topics and subscriptions, `<prefix>-events` and so on.
      beam_args: `--runner`, `--project` and what else the runner asks for.

    Raises:
      ValueError: the runner loses messages, no project is named, or the root is local.
    """
    options = PipelineOptions(list(beam_args), streaming=True, save_main_session=False)
    runner, project = options.view_as(StandardOptions).runner, options.view_as(GoogleCloudOptions).project
    if runner is None or runner in LOCAL_RUNNERS:
        raise ValueError(
            f"{runner} acknowledges messages before it has worked on them and loses them when it is killed: leave --runner"
            " out to run on this machine"
        )
    if not project:
        raise ValueError("Pub/Sub on a runner needs --project=")
    if not root.startswith("gs://"):
        raise ValueError(f"workers cannot read ROOT={root}: name a gs:// address that holds what is live")
    pipeline = beam.Pipeline(options=options)
    tables = str(Path(tempfile.gettempdir()) / "segue-live")
    topics, subscriptions = (f"projects/{project}/{kind}/{prefix}" for kind in ("topics", "subscriptions"))
    events = pipeline | "ReadEvents" >> ReadFromPubSub(
        subscription=f"{subscriptions}-{EVENTS}", with_attributes=True, id_label=EVENT_ID, timestamp_attribute=EVENT_TS
    )
    control = pipeline | "ReadControl" >> ReadFromPubSub(
        subscription=f"{subscriptions}-{CONTROL}", with_attributes=True
    )
    made = (events, control) | "SessionSets" >> SessionSetsOf(Serving(root, tables), code_version())
    _ = made["sets"] | "WriteSets" >> WriteToPubSub(f"{topics}-{SETS}", with_attributes=True)
    verdicts = made[TABLES] | "Verdicts" >> VerdictsOf(code_version())
    _ = verdicts | "WriteVerdicts" >> WriteToPubSub(f"{topics}-{VERDICTS}", with_attributes=True)
    _ = made[LETTERS] | "WriteLetters" >> WriteToPubSub(f"{topics}-{DEAD_LETTERS}", with_attributes=True)
    return pipeline
