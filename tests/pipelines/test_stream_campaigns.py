"""Campaigns that are over: what is promoted for them is in no set from the next second on, through the driver and the graph."""

import functools
import json

import apache_beam as beam
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from memory_broker import Clock, MemoryBroker
from toy_stream import BEGIN, WindowStep, event, published, send

from pipelines.stream import Stream
from pipelines.stream_metrics import Metrics
from transforms.io.broker import CONTROL, Message
from transforms.io.state_store import StateStore
from transforms.stream.graph import SessionSetsOf
from transforms.stream.messages import decode_set

CAMPAIGNS = {"i1": "over", "i2": "goes-on"}


class Promoting(WindowStep):
    """Promotes two items for a campaign each."""

    def _set(self, user: str, state: bytes) -> dict:
        made = super()._set(user, state)
        for one in made["candidates"]:
            if campaign := CAMPAIGNS.get(one["item_id"]):
                one["promo"] = {
                    "campaign_id": campaign,
                    "disclosure_key": "ad",
                    "shadow_price": 0.1,
                    "freq_remaining": 1,
                }
        return made


def over(campaign: str) -> bytes:
    told = {"entity": "campaign", "id": campaign, "reason": "exhausted", "effective_ts": BEGIN.isoformat()}
    return json.dumps(told).encode()


def offered(found: dict) -> list[str]:
    return [one["item_id"] for one in found["candidates"]]


@pytest.fixture
def clock() -> Clock:
    return Clock(BEGIN.timestamp() + 3600)


def begin(broker: MemoryBroker, clock: Clock, folder) -> Stream:
    return Stream(
        broker=broker, store=StateStore(folder), step=Promoting(), metrics=Metrics(), code_version="v",
        reload=lambda: None, clock=clock, stop=clock, say=print,
    )  # fmt: skip


def test_a_campaign_that_is_over_is_in_no_set_from_the_next_second_on_and_after_a_restart(clock, tmp_path):
    broker = MemoryBroker(clock)
    stream = begin(broker, clock, tmp_path)
    send(broker, event(1), event(2), event(3))
    stream.tick()
    assert offered(published(broker)[-1]) == ["i3", "i2", "i1"]
    broker.publish(CONTROL, [Message(over("over"), {})])
    clock.now += 2
    send(broker, event(4))
    stream.tick()
    found = published(broker)[-1]
    assert offered(found) == ["i4", "i3", "i2"]
    assert [one["position"] for one in found["candidates"]] == [0, 1, 2]
    assert found["counts"]["out"] == 3
    assert [one["rule"] for one in found["counts"]["filtered_by_rule"]] == ["campaign"]
    assert stream.metrics.by_label("tombstones") == {("campaign",): 1}
    assert 'segue_stream_tombstones_total{entity="campaign"} 1' in stream.metrics.render()
    assert stream.step.gone == {"over"}, "whoever makes sets knows it too"
    assert (broker.topics[CONTROL], stream.metrics.total("dead_letters")) == ([], 0)
    stream.store.close()
    stream = begin(broker, clock, tmp_path)
    clock.now += 2
    send(broker, event(5))
    stream.tick()
    assert offered(published(broker)[-1]) == ["i5", "i4", "i3", "i2"]


def holds(found) -> None:
    last = max(found, key=lambda one: int(one.attributes["sequence"]))
    assert offered(decode_set(last.data)) == ["i4", "i3", "i2"]


def test_the_graph_leaves_it_out_too():
    at = BEGIN.timestamp()
    heard = [PubsubMessage(json.dumps(event(n)).encode(), {}, f"m{n}", BEGIN.replace(day=31)) for n in (1, 2, 3, 4)]
    told = (
        TestStream().advance_watermark_to(at - 1, tag="events").advance_watermark_to(at - 1, tag="control")
        .add_elements(heard[:3], tag="events").advance_processing_time(5)
        .add_elements([PubsubMessage(over("over"), {}, "c", BEGIN)], tag="control").advance_processing_time(5)
        .add_elements(heard[3:], tag="events").advance_processing_time(5).advance_processing_time(5)
        .advance_watermark_to_infinity(tag="control").advance_watermark_to_infinity(tag="events")
    )  # fmt: skip
    options = PipelineOptions(streaming=True, runner="BundleBasedDirectRunner", allow_unsafe_triggers=True)
    with beam.Pipeline(options=options) as pipeline:
        came = pipeline | told
        made = (came["events"], came["control"]) | SessionSetsOf(Promoting, "1", spread=2, clock=lambda: 0.0)
        assert_that(made["sets"], functools.partial(holds))
