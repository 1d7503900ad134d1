"""Google Cloud Pub/Sub, or its emulator where `PUBSUB_EMULATOR_HOST` is set. The one module that imports its client."""

import contextlib
import datetime
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError
from google.pubsub_v1 import PublisherClient, SchemaServiceClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.schema_service.transports import SchemaServiceGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import PublishRequest, PubsubMessage, PullResponse, Schema

from schemas.avro import avro_schema
from schemas.candidates import CANDIDATE_SET
from schemas.inputs import TOMBSTONE
from schemas.stream import DEAD_LETTER, VERDICT
from transforms.io.broker import (
    CONTROL,
    DEAD_LETTERS,
    EVENTS,
    SETS,
    TOPICS,
    VERDICTS,
    BrokerDown,
    BrokerError,
    Message,
    Received,
)
from transforms.io.intake import Intake
from transforms.stream.messages import EVENT_AVRO

EMULATOR = "PUBSUB_EMULATOR_HOST"
LOCAL_PROJECT = "segue-local"
PREFIX = "segue"
ACK_S = 60
KEPT_S = {EVENTS: 7 * 86_400, SETS: 86_400, DEAD_LETTERS: 14 * 86_400, CONTROL: 7 * 86_400, VERDICTS: 7 * 86_400}
"""How long an unacknowledged message is kept: dead letters 14 days, which is also when erasure has reached them."""
SCHEMAS = {
    EVENTS: EVENT_AVRO, SETS: avro_schema(CANDIDATE_SET), DEAD_LETTERS: avro_schema(DEAD_LETTER),
    CONTROL: avro_schema(TOMBSTONE), VERDICTS: avro_schema(VERDICT),
}  # fmt: skip
_MESSAGE, _REQUEST = PubsubMessage.pb(), PublishRequest.pb()
_EMULATOR_KEPT_S = 7 * 86_400
_CALL_S, _PULL_S = 20.0, 20.0
_WATCHED, _CLOSED_S = 20, 2.0
_PUBLISH_MESSAGES, _PUBLISH_BYTES = 1_000, 8_000_000  # a request holds 1,000 messages and 10 MB at most
_OPTIONS = (
    ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 2_000),
)  # fmt: skip
_TRANSIENT = (
    exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, exceptions.InternalServerError, exceptions.Aborted,
    exceptions.Cancelled, exceptions.Unknown, exceptions.ResourceExhausted, exceptions.BadGateway,
)  # fmt: skip


class PubSub:
    """Topics `<prefix>-events` and so on of one project, each with one subscription of its name.

    Pulls are unary, and go on between calls, one at a time for each topic: the emulator's streaming pull is capped at 2,000
    messages a second, and a pull that is given up takes its messages along until they are delivered again.

    Memory: two batches for each topic that is pulled.
    """

    def __init__(self, project: str = LOCAL_PROJECT, prefix: str = PREFIX) -> None:
        """Connect.

        Raises:
          BrokerError: no credentials, and no emulator either.
        """
        self.project, self.prefix = project, prefix
        host = os.environ.get(EMULATOR)
        self._channel = grpc.insecure_channel(host, _OPTIONS) if host else None
        try:
            self._publisher = PublisherClient(transport=self._through(PublisherGrpcTransport))
            self._subscriber = SubscriberClient(transport=self._through(SubscriberGrpcTransport))
            self._schemas = SchemaServiceClient(transport=self._through(SchemaServiceGrpcTransport))
        except DefaultCredentialsError as error:
            raise BrokerError(
                f"no credentials for project {project}: run `gcloud auth application-default login`, or leave PROJECT= out to"
                " use the emulator"
            ) from error
        self._intakes: dict[str, Intake] = {}

    def _through(self, transport: Callable[..., Any]) -> Any:
        return transport(channel=self._channel) if self._channel else None

    def topic(self, topic: str) -> str:
        """Return a topic's full name."""
        return f"projects/{self.project}/topics/{self.prefix}-{topic}"

    def subscription(self, topic: str) -> str:
        """Return the full name of a topic's subscription."""
        return f"projects/{self.project}/subscriptions/{self.prefix}-{topic}"

    def create(self) -> None:
        """Create the schemas, topics and subscriptions that are not there; nothing else changes.

        Who may not create uses what is there; where something is not, the first call that needs it says so.

        Schemas are registered for producers and readers to check against, and not attached to the topics: an attached
        one allows one encoding only, and refuses a bad message where nobody keeps it.
        """
        for topic in TOPICS:
            schema = Schema(type_=Schema.Type.AVRO, definition=json.dumps(SCHEMAS[topic]))
            name = {"parent": f"projects/{self.project}", "schema_id": f"{self.prefix}-{topic}"}
            self._make(self._schemas.create_schema, request={**name, "schema": schema})
            self._make(self._publisher.create_topic, request={"name": self.topic(topic)})
            subscription = {
                "name": self.subscription(topic), "topic": self.topic(topic), "ack_deadline_seconds": ACK_S,
                "message_retention_duration": {"seconds": self._kept_s(topic)}, "expiration_policy": {},
                "retain_acked_messages": topic == CONTROL,  # whoever starts anew asks for them again
            }  # fmt: skip
            self._make(self._subscriber.create_subscription, request=subscription)

    def _kept_s(self, topic: str) -> int:
        """The emulator knows seven days at the most, and forgets everything when it ends."""
        return min(KEPT_S[topic], _EMULATOR_KEPT_S) if self._channel else KEPT_S[topic]

    def _make(self, call: Callable[..., Any], **arguments: Any) -> None:
        with self._explained("create"), contextlib.suppress(exceptions.AlreadyExists, exceptions.Forbidden):
            call(**arguments, timeout=_CALL_S)

    def pull(self, topic: str, most: int, wait_s: float) -> list[Received]:
        if topic == DEAD_LETTERS:  # a command reads these and ends: no pull that stays underway may take some along
            return self._pull(self.subscription(topic), most, wait_s)
        if topic not in self._intakes:
            self._intakes[topic] = Intake(lambda: self._pull(self.subscription(topic), most), most, f"pull-{topic}")
        return self._intakes[topic].take(most, wait_s)

    def _pull(self, subscription: str, most: int, wait_s: float = _PULL_S) -> list[Received]:
        request = {"subscription": subscription, "max_messages": most}
        with self._explained(f"pull from {subscription}"):
            try:
                found = self._subscriber.pull(request=request, timeout=wait_s, retry=None)
            except exceptions.DeadlineExceeded:  # there was nothing all the while
                return []
        # The bare messages: their wrappers cost more than all decoding.
        return [
            Received(
                one.message.data, dict(one.message.attributes), one.message.message_id,
                one.message.publish_time.seconds + one.message.publish_time.nanos / 1e9, one.ack_id,
            )
            for one in PullResponse.pb(found).received_messages
        ]  # fmt: skip

    def publish(self, topic: str, messages: Sequence[Message]) -> None:
        for batch in _batches(messages):
            bare = [_MESSAGE(data=one.data, attributes=dict(one.attributes)) for one in batch]
            request = PublishRequest.wrap(_REQUEST(topic=self.topic(topic), messages=bare))
            with self._explained(f"publish to {self.topic(topic)}"):
                self._publisher.publish(request=request, timeout=_CALL_S, retry=None)

    def acknowledge(self, topic: str, ack_ids: Sequence[str]) -> None:
        with self._explained(f"acknowledge on {self.subscription(topic)}"):
            self._subscriber.acknowledge(
                subscription=self.subscription(topic), ack_ids=list(ack_ids), timeout=_CALL_S, retry=None
            )

    def extend(self, topic: str, ack_ids: Sequence[str], seconds: int) -> None:
        with self._explained(f"extend on {self.subscription(topic)}"):
            self._subscriber.modify_ack_deadline(
                subscription=self.subscription(topic), ack_ids=list(ack_ids), ack_deadline_seconds=seconds,
                timeout=_CALL_S, retry=None,
            )  # fmt: skip

    def deliver_again(self, topic: str) -> None:
        """Have everything that is still kept delivered once more; of `CONTROL` also what was acknowledged."""
        with self._explained(f"seek on {self.subscription(topic)}"):
            since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=self._kept_s(topic))
            request = {"subscription": self.subscription(topic), "time": since}
            self._subscriber.seek(request=request, timeout=_CALL_S, retry=None)

    @contextlib.contextmanager
    def watching(self, user: str) -> Iterator[Callable[[float], list[Received]]]:
        """Have a copy of one user's sets as they are published, while the context is open.

        Yields:
          A function that waits for some seconds at most and returns what came, acknowledged.
        """
        name = f"{self.subscription(SETS)}-watch-{os.getpid()}"
        subscription = {
            "name": name, "topic": self.topic(SETS), "ack_deadline_seconds": ACK_S,
            "filter": f"attributes.user_id = {json.dumps(user)}", "expiration_policy": {"ttl": {"seconds": 86_400}},
        }  # fmt: skip
        self._make(self._subscriber.create_subscription, request=subscription)

        def received(wait_s: float) -> list[Received]:
            found = self._pull(name, _WATCHED, wait_s)
            if found:
                with self._explained(f"acknowledge on {name}"):
                    ids = [one.ack_id for one in found]
                    self._subscriber.acknowledge(subscription=name, ack_ids=ids, timeout=_CALL_S, retry=None)
            return [one for one in found if one.attributes.get("user_id") == user]  # the emulator passes filters over

        try:
            yield received
        finally:
            with contextlib.suppress(exceptions.GoogleAPICallError):  # it expires by itself after a day
                self._subscriber.delete_subscription(subscription=name, timeout=_CALL_S, retry=None)

    def close(self) -> None:
        for topic, intake in self._intakes.items():
            if left := intake.close():
                with contextlib.suppress(BrokerDown, BrokerError):  # they come again by themselves, only later
                    self.extend(topic, [message.ack_id for message in left], 0)
        for client in (self._publisher, self._subscriber, self._schemas):
            client.transport.close()
        for intake in self._intakes.values():
            intake.join(_CLOSED_S)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Tell what will pass from what will not, in words."""
        try:
            yield
        except exceptions.NotFound as error:
            if self._channel is None:
                raise BrokerError(
                    f"could not {what}: there is no such topic or subscription. `make stream PROJECT={self.project}` creates them"
                    " when it starts, run by an account with roles/pubsub.editor."
                ) from error
            self.create()
            raise BrokerDown("the emulator began anew; topics and subscriptions were created again") from error
        except (exceptions.Forbidden, exceptions.Unauthorized) as error:
            raise BrokerError(
                f"could not {what}: {error.message}. Grant this account roles/pubsub.editor on project {self.project}, or"
                " publisher and subscriber where somebody else has created the topics."
            ) from error
        except (*_TRANSIENT, exceptions.RetryError) as error:
            raise BrokerDown(f"could not {what}: {error.message}") from error
        except exceptions.GoogleAPICallError as error:
            raise BrokerError(f"could not {what}: {error.message}") from error


def _batches(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    start, size = 0, 0
    for end, one in enumerate(messages):
        cost = len(one.data) + sum(len(key) + len(value) for key, value in one.attributes.items())
        if end > start and (end - start == _PUBLISH_MESSAGES or size + cost > _PUBLISH_BYTES):
            yield messages[start:end]
            start, size = end, 0
        size += cost
    if messages:
        yield messages[start:]
