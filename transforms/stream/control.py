"""What must disappear, as a Beam graph knows it: tombstones from a topic, told to every group of listeners and to each erased one.

They are broadcast as elements and kept in state. A side input would do nothing until its first pane, and a runner on one
machine shows it no other than the last.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import polars as pl
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.metrics import Metrics

from schemas.inputs import TOMBSTONE
from transforms.stream.beam_messages import pubsub, received
from transforms.stream.dead_letters import encode_letters, letter
from transforms.stream.messages import decode_control
from transforms.stream.step import Step
from validation.rows import polars_schema

LETTERS = "dead_letters"
NAMESPACE, TOMBSTONES = "stream", "tombstones"
Row = tuple[Any, ...]
"""A tombstone, in the order of its contract."""
_NAMES = TOMBSTONE.schema.names
_MOST_STEPS = 2


class Gone(NamedTuple):
    """Says that something must disappear."""

    row: Row


@beam.typehints.with_output_types(tuple)
class DecodeTombstones(beam.DoFn):
    """Decode messages into rows of tombstones; `LETTERS`: what is none."""

    def __init__(self, code_version: str) -> None:
        self.code_version = code_version

    def process(self, message: PubsubMessage) -> Iterator:
        """Yield a row."""
        came = received(message)
        found = decode_control([came], self.code_version)
        Metrics.counter(NAMESPACE, TOMBSTONES).inc(found.rows.height)
        Metrics.counter(NAMESPACE, LETTERS).inc(len(found.causes))
        for cause in found.causes.values():
            (dead,) = encode_letters([letter(came, cause, self.code_version)])
            yield beam.pvalue.TaggedOutput(LETTERS, pubsub(dead))
        yield from found.rows.select(_NAMES).iter_rows()


def everywhere(row: Row, among: int) -> Iterator[tuple[int, Gone]]:
    """Yield what tells every group of listeners."""
    yield from ((group, Gone(row)) for group in range(among))


def erased(row: Row) -> Iterator[tuple[str, Gone]]:
    """Yield what tells the state of an erased listener; nothing for anything else."""
    named = dict(zip(_NAMES, row))
    if named["entity"] == "user":
        yield named["id"], Gone(row)


def tombstones(rows: Iterable[Row]) -> pl.DataFrame:
    """Return rows in their contract, one of each thing and sorted; the order in which they came makes no difference."""
    known: dict[Row, Row] = {}
    for row in rows:
        key = tuple(row[_NAMES.index(name)] for name in TOMBSTONE.key)
        known[key] = min(known.get(key, row), row, key=repr)
    return pl.DataFrame([known[key] for key in sorted(known)], schema=polars_schema(TOMBSTONE), orient="row")


class StepsWithout:
    """The live step without what is gone, which all groups of a process share: it is made once for the same tombstones.

    Memory: two steps beside the live one, for groups that know of a tombstone and groups that do not yet.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[int, bytes], tuple[Step, Step]] = {}

    def of(self, live: Step, gone: pl.DataFrame) -> Step:
        """Return the step without `gone`."""
        if not gone.height:
            return live
        key = (id(live), repr(gone.rows()).encode())
        found = self._made.pop(key, None) or (live, live.without(gone))
        self._made[key] = found
        while len(self._made) > _MOST_STEPS:
            self._made.pop(next(iter(self._made)))
        return found[1]
