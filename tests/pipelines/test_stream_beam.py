"""The streaming job as a service would be given it."""

import pytest
from apache_beam.io.gcp.pubsub import WriteToPubSub
from apache_beam.pipeline import PipelineVisitor
from apache_beam.portability.api import beam_runner_api_pb2

from jobs import stream
from pipelines.stream_beam import stream_pipeline

DATAFLOW = ["--runner=DataflowRunner", "--dry_run=True", "--project=test-proj", "--region=europe-west1",
            "--temp_location=gs://bucket/tmp", "--sdk_location=container", "--no_auth"]  # fmt: skip


@pytest.fixture(scope="module")
def steps():
    """Every step of the graph that has work of its own, by name."""
    graph = stream_pipeline("gs://bucket/root", "segue", DATAFLOW).to_runner_api()
    return {one.unique_name: one.spec for one in graph.components.transforms.values() if not one.subtransforms}


def par_dos(steps) -> dict[str, beam_runner_api_pb2.ParDoPayload]:
    payloads = {name: spec for name, spec in steps.items() if spec.urn == "beam:transform:pardo:v1"}
    return {name: beam_runner_api_pb2.ParDoPayload.FromString(spec.payload) for name, spec in payloads.items()}


def reads(steps) -> dict[str, beam_runner_api_pb2.PubSubReadPayload]:
    payloads = [spec.payload for spec in steps.values() if spec.urn == "beam:transform:pubsub_read:v1"]
    found = [beam_runner_api_pb2.PubSubReadPayload.FromString(payload) for payload in payloads]
    return {one.subscription: one for one in found}


def test_events_are_known_again_by_their_id_and_placed_by_their_own_time(steps):
    payload = reads(steps)["projects/test-proj/subscriptions/segue-events"]
    assert (payload.id_attribute, payload.timestamp_attribute) == ("event_id", "event_ts")
    assert payload.with_attributes


def test_what_must_disappear_is_read_told_to_every_group_and_kept(steps):
    assert set(reads(steps)) == {f"projects/test-proj/subscriptions/segue-{name}" for name in ("events", "control")}
    serve = par_dos(steps)["SessionSets/Sets/ParDo(ServeWindows)"]
    assert sorted(serve.state_specs) == ["count", "gone"]
    assert "gone" in par_dos(steps)["SessionSets/Windows/ParDo(KeepWindows)"].state_specs
    assert not any(one.side_inputs for name, one in par_dos(steps).items() if name.startswith("SessionSets/"))


def test_windows_are_state_with_a_timer_for_the_pause_and_one_for_silence(steps):
    keep = par_dos(steps)["SessionSets/Windows/ParDo(KeepWindows)"]
    assert sorted(keep.state_specs) == ["gone", "published", "window"]
    domains = {name: spec.time_domain for name, spec in keep.timer_family_specs.items()}
    enum = beam_runner_api_pb2.TimeDomain
    assert domains == {"ts-idle": enum.EVENT_TIME, "ts-pause": enum.PROCESSING_TIME}


def test_a_minute_of_sets_is_held_until_it_is_checked(steps):
    (hold,) = [one for name, one in par_dos(steps).items() if name.startswith("Verdicts/Minutes")]
    enum = beam_runner_api_pb2.TimeDomain
    assert enum.PROCESSING_TIME in {spec.time_domain for spec in hold.timer_family_specs.values()}


class Topics(PipelineVisitor):
    """The topics a pipeline writes to."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def enter_composite_transform(self, node) -> None:
        if isinstance(node.transform, WriteToPubSub):
            self.written.append(node.transform.full_topic)


def test_sets_verdicts_and_dead_letters_go_to_their_topics():
    found = Topics()
    stream_pipeline("gs://bucket/root", "segue", DATAFLOW).visit(found)
    assert sorted(found.written) == [
        "projects/test-proj/topics/segue-dead-letters",
        "projects/test-proj/topics/segue-sets",
        "projects/test-proj/topics/segue-verdicts",
    ]


@pytest.mark.parametrize(
    ("root", "arguments", "message"),
    [
        ("gs://b/r", ["--project=p-roject"], "acknowledges messages before it has worked on them"),
        ("gs://b/r", ["--project=p-roject", "--runner=DirectRunner"], "DirectRunner acknowledges messages before"),
        ("gs://b/r", ["--runner=DataflowRunner"], "needs --project="),
        ("local/root", DATAFLOW, r"workers cannot read ROOT=local/root: name a gs:// address"),
    ],
)
def test_what_would_lose_messages_or_cannot_work_is_refused(root, arguments, message):
    with pytest.raises(ValueError, match=message):
        stream_pipeline(root, "segue", arguments)


def test_the_command_says_so_in_a_line(capsys):
    assert stream.main(["--root", "gs://b/r", "--runner=DirectRunner"]) == 1
    assert "leave --runner out to run on this machine" in capsys.readouterr().err
