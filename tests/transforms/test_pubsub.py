"""Pub/Sub's client against the official emulator; what needs none is judged without."""

import json
import os
import shutil
import subprocess
import time

import fastavro
import psutil
import pytest
from google.api_core import exceptions
from google.pubsub_v1.types import Schema

from transforms.io import emulator as emulators
from transforms.io.broker import (
    CONTROL,
    DEAD_LETTERS,
    EVENTS,
    SETS,
    TOPICS,
    BrokerDown,
    BrokerError,
    Message,
    Received,
)  # fmt: skip
from transforms.io.emulator import Emulator, adopt_emulator, find_emulator, start_emulator
from transforms.io.pubsub import EMULATOR, SCHEMAS, PubSub, _batches
from transforms.stream.dead_letters import MOST_BYTES, decode_letter, encode_letters, letter, original
from transforms.stream.messages import Cause


@pytest.fixture(scope="module")
def host():
    """The address of an emulator, started for this module."""
    try:
        find_emulator()
    except BrokerError as error:
        pytest.skip(f"NO EMULATOR: {error}")
    running = start_emulator()
    yield running.address
    running.stop()


@pytest.mark.service
def test_an_emulator_left_running_is_taken_over(host):
    (pid,) = [
        one.pid for one in psutil.process_iter(["cmdline"]) if f"--port={host.partition(':')[2]}" in one.info["cmdline"]
    ]
    assert adopt_emulator(host, pid) == Emulator(host, pid)


@pytest.fixture
def broker(host, monkeypatch, request):
    monkeypatch.setenv(EMULATOR, host)
    opened = PubSub(prefix=request.node.name.replace("[", "-").replace("]", "")[:60])
    opened.create()
    yield opened
    opened.close()


def receive(broker: PubSub, topic: str, count: int, seconds: float = 20.0) -> list:
    found, deadline = [], time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += broker.pull(topic, 500, 0.5)
    return found


@pytest.mark.service
def test_what_is_published_is_delivered_and_what_is_acknowledged_is_not_again(broker):
    broker.create()  # twice is as good as once
    messages = [Message(f"{number}".encode(), {"event_id": str(number)}) for number in range(1_200)]
    broker.publish(EVENTS, messages)
    found = receive(broker, EVENTS, 1_200)
    assert sorted(int(one.data) for one in found) == list(range(1_200))
    assert all(one.attributes == {"event_id": one.data.decode()} for one in found)
    assert all(abs(time.time() - one.published_s) < 60 for one in found)
    again = [one for one in found if int(one.data) < 3]
    broker.acknowledge(EVENTS, [one.ack_id for one in found if one not in again])
    broker.extend(EVENTS, [one.ack_id for one in again], 0)
    assert sorted(one.data for one in receive(broker, EVENTS, 3)) == [b"0", b"1", b"2"]


@pytest.mark.service
def test_what_was_taken_from_the_control_topic_is_delivered_again_to_who_asks(broker):
    broker.publish(CONTROL, [Message(b"tombstone", {})])
    (found,) = receive(broker, CONTROL, 1)
    broker.acknowledge(CONTROL, [found.ack_id])
    broker.deliver_again(CONTROL)
    (again,) = receive(broker, CONTROL, 1)
    assert again.message_id == found.message_id
    broker.acknowledge(CONTROL, [again.ack_id])


@pytest.mark.service
def test_the_largest_dead_letter_is_taken(broker):
    data = b'{"user_id": "' + b"u" * (MOST_BYTES - 15) + b'"}'
    one = Received(data, {}, "m", 0.0, "a")
    broker.publish(DEAD_LETTERS, encode_letters([letter(one, Cause("decode", "event_id:required", "x" * 9_000), "v")]))
    (found,) = receive(broker, DEAD_LETTERS, 1)
    assert len(found.data) < 10_000_000
    assert original(decode_letter(found)).data == data


@pytest.mark.service
def test_nothing_to_pull_is_waited_for_and_no_longer(broker):
    began = time.monotonic()
    assert broker.pull(CONTROL, 10, 0.3) == []
    assert broker.pull(DEAD_LETTERS, 10, 0.3) == []
    assert 0.3 < time.monotonic() - began < 3


@pytest.mark.service
def test_who_watches_gets_one_users_sets_and_takes_none_away(broker):
    with broker.watching('a"b') as received:
        broker.publish(SETS, [Message(b"1", {"user_id": 'a"b'}), Message(b"2", {"user_id": "c"})])
        assert [one.data for one in received(20.0)] == [b"1"]
    assert len(receive(broker, SETS, 2)) == 2


@pytest.mark.service
def test_an_emulator_that_begins_anew_is_set_up_again(broker):
    broker._publisher.delete_topic(topic=broker.topic(EVENTS))
    with pytest.raises(BrokerDown, match="began anew"):
        broker.publish(EVENTS, [Message(b"1", {})])
    broker.publish(EVENTS, [Message(b"1", {})])


@pytest.mark.service
def test_the_schemas_of_all_topics_are_registered(broker):
    for topic in TOPICS:
        name = f"projects/{broker.project}/schemas/{broker.prefix}-{topic}"
        found = broker._schemas.get_schema(name=name)
        assert found.type_ == Schema.Type.AVRO
        fastavro.parse_schema(json.loads(found.definition))


def test_what_there_is_no_schema_of_is_created_with_one(monkeypatch):
    monkeypatch.setenv(EMULATOR, "127.0.0.1:9")
    broker, registered = PubSub(), {}

    def register(request, timeout):
        assert request["schema"].type_ == Schema.Type.AVRO
        registered[request["schema_id"]] = json.loads(request["schema"].definition)

    monkeypatch.setattr(broker._schemas, "create_schema", register)
    for client, call in ((broker._publisher, "create_topic"), (broker._subscriber, "create_subscription")):
        monkeypatch.setattr(client, call, lambda request, timeout: None)
    broker.create()
    broker.close()
    assert registered == {f"segue-{topic}": SCHEMAS[topic] for topic in TOPICS}
    for one in registered.values():
        fastavro.parse_schema(one)


def test_a_broker_out_of_reach_is_down(monkeypatch):
    monkeypatch.setenv(EMULATOR, "127.0.0.1:9")
    broker = PubSub()
    with pytest.raises(BrokerDown, match="could not publish to projects/segue-local/topics/segue-events"):
        broker.publish(EVENTS, [Message(b"1", {})])
    with pytest.raises(BrokerDown):
        broker.pull(EVENTS, 10, 5.0)
    broker.close()


@pytest.mark.parametrize(
    ("met", "raised", "said"),
    [
        (exceptions.PermissionDenied("no"), BrokerError, "Grant this account roles/pubsub.editor on project p"),
        (exceptions.NotFound("no"), BrokerError, "`make stream PROJECT=p` creates them"),
        (exceptions.InvalidArgument("odd"), BrokerError, "could not pull: odd"),
        (exceptions.ServiceUnavailable("later"), BrokerDown, "could not pull: later"),
        (exceptions.ResourceExhausted("later"), BrokerDown, "could not pull: later"),
    ],
)
def test_refusals_are_told_from_outages(monkeypatch, met, raised, said):
    monkeypatch.setenv(EMULATOR, "127.0.0.1:9")
    broker = PubSub("p")
    broker._channel = None  # as if it were no emulator
    with pytest.raises(raised, match=said), broker._explained("pull"):
        raise met
    broker.close()


def test_who_may_not_create_uses_what_is_there(monkeypatch):
    monkeypatch.setenv(EMULATOR, "127.0.0.1:9")
    broker = PubSub()

    def refused(**request):
        raise exceptions.PermissionDenied("no")

    for client, call in ((broker._schemas, "create_schema"), (broker._publisher, "create_topic"),
                         (broker._subscriber, "create_subscription")):  # fmt: skip
        monkeypatch.setattr(client, call, refused)
    broker.create()
    broker.close()


def test_without_credentials_it_says_how_to_get_some(monkeypatch, tmp_path):
    monkeypatch.delenv(EMULATOR, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(BrokerError, match="gcloud auth application-default login"):
        PubSub("some-project")


def test_requests_hold_as_much_as_pub_sub_takes():
    small, large = Message(b"x", {}), Message(bytes(5_000_000), {})
    assert [len(batch) for batch in _batches([small] * 2_001)] == [1_000, 1_000, 1]
    assert [len(batch) for batch in _batches([large, large, small, large])] == [1, 2, 1]
    assert list(_batches([])) == []


def test_a_missing_emulator_is_said_with_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(emulators, "_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BrokerError, match=r"gcloud components install pubsub-emulator.*PROJECT="):
        find_emulator()
    jar = tmp_path / "platform/pubsub-emulator/lib/cloud-pubsub-emulator-1-all.jar"
    jar.parent.mkdir(parents=True)
    jar.touch()
    with pytest.raises(BrokerError, match="needs java"):
        find_emulator()


def test_an_emulator_that_does_not_come_up_is_stopped_and_quoted(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho the port is cursed\n")
    os.chmod(java, 0o755)
    monkeypatch.setattr(emulators, "find_emulator", lambda: (str(java), "x.jar"))
    with pytest.raises(BrokerError, match="the port is cursed"):
        start_emulator()


def test_only_an_emulator_that_runs_is_taken_over(monkeypatch):
    assert adopt_emulator("127.0.0.1:9", os.getpid()) is None
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert adopt_emulator("127.0.0.1:9", ended.pid) is None
    Emulator("127.0.0.1:9", ended.pid).stop()
