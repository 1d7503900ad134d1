"""Messages as Beam's Pub/Sub connectors have them, and as the stream does."""

from apache_beam.io.gcp.pubsub import PubsubMessage

from transforms.io.broker import Message, Received


def received(message: PubsubMessage) -> Received:
    """Return what a connector read; the runner acknowledges it."""
    at = message.publish_time.timestamp() if message.publish_time else 0.0
    return Received(message.data, message.attributes or {}, message.message_id or "", at, "")


def pubsub(message: Message) -> PubsubMessage:
    """Return what a connector writes."""
    return PubsubMessage(message.data, dict(message.attributes))
