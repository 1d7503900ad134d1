"""The checks of each minute's sets as part of a Beam graph: where there is no process beside the stream, workers run them."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.metrics import Metrics

from pipelines.stream_checks import judge
from pipelines.stream_validation import encode_verdicts
from transforms.stream.beam_messages import pubsub
from transforms.stream.spool import MINUTE_S, unpacked

AMONG, MOST = 4, 200
"""Groups that are checked by themselves, at the same time; batches of sets of one group that are judged together, 370 MB packed at the most."""


@beam.typehints.with_output_types(PubsubMessage)
class Judge(beam.DoFn):
    """Turn the packed sets of a group and a minute into the message of a verdict. Memory: these, and a batch of sets at work."""

    def __init__(self, code_version: str, clock: Callable[[], float]) -> None:
        self.code_version, self.clock = code_version, clock

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[PubsubMessage]:
        """Yield the verdict, which names the minute it was asked for in; its part tells groups and moments apart."""
        group, packs = element[0], list(element[1])
        minute, seconds = divmod(self.clock(), MINUTE_S)
        name = f"{int(minute):09d}-{int(1e3 * seconds) * AMONG + group:04d}"
        one = judge(name, lambda: unpacked(packs), self.code_version)
        Metrics.counter("stream", f"minutes_{one['outcome']}").inc()
        yield from (pubsub(message) for message in encode_verdicts({name: one}))


@dataclasses.dataclass
class VerdictsOf(beam.PTransform):
    """Judge packed sets, `(group, pack)`, by the suite of their contract: messages, one for each group and minute, or `MOST` packs.

    Attributes:
      clock: seconds since 1970, as the runner's timers count them.
    """

    code_version: str
    clock: Callable[[], float] = time.time

    def expand(self, tables: beam.PCollection) -> beam.PCollection:
        """Return messages of verdicts."""
        return (
            tables
            | "Groups" >> beam.MapTuple(_regrouped).with_output_types(tuple[int, bytes])
            | "Minutes" >> beam.GroupIntoBatches(MOST, MINUTE_S, self.clock)
            | "Judge" >> beam.ParDo(Judge(self.code_version, self.clock))
        )


def _regrouped(group: int, pack: bytes) -> tuple[int, bytes]:
    return group % AMONG, pack
