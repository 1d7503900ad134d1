"""What every stage of one road shares, and how stages pick files of committed datasets."""

import dataclasses
import datetime
import hashlib
from collections.abc import Mapping, Sequence

import apache_beam as beam

from schemas.contract import Contract
from schemas.inputs import CAMPAIGN, ITEM, TOMBSTONE, USER
from schemas.manifest import DataFile, InputRef, Manifest
from schemas.policy import Policy
from transforms.devices import CPU, DEVICES
from transforms.embed.language import LanguageModel
from transforms.shards import ProcessShards, Task, Work, Workspace


@dataclasses.dataclass(frozen=True, slots=True)
class Road:
    """One run of the road.

    Attributes:
      date: logical date: everything is as of its end.
      num_shards: shards of every user-keyed and item-keyed dataset. One shard should hold about 20,000 users or a
        million events: some 2 GB at work.
      run_mode: `batch` or `backfill`.
      device: `cpu`, or `cuda`: training and embedding then ask for machines with a GPU, and fail on one without.
      language: reads the words of items for the encoder; None: their tokens alone do.
    """

    date: datetime.date
    num_shards: int
    policy: Policy
    code_version: str
    run_mode: str
    device: str = CPU
    language: LanguageModel | None = None

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ValueError(f"device is one of {' and '.join(DEVICES)}, came {self.device!r}")

    @property
    def day(self) -> str:
        """The logical date, ISO."""
        return self.date.isoformat()

    @property
    def end(self) -> datetime.datetime:
        """The end of the logical date."""
        return end_of(self.date)

    @property
    def first_day(self) -> str:
        """The first day that counts."""
        return (self.date - datetime.timedelta(days=self.policy.road.window_days - 1)).isoformat()


@dataclasses.dataclass(frozen=True, slots=True)
class Ingested:
    """The committed inputs of a road; `events` holds days after the logical date too, `window` leaves them out."""

    events: Manifest
    items: Manifest
    users: Manifest
    campaigns: Manifest
    tombstones: Manifest


def end_of(day: datetime.date) -> datetime.datetime:
    """Return the end of a day, UTC."""
    return datetime.datetime.combine(day, datetime.time(), datetime.UTC) + datetime.timedelta(days=1)


def paths(files: Sequence[DataFile], shard: int | None = None) -> tuple[str, ...]:
    """Return the paths of all files, or of one shard's."""
    return tuple(file.path for file in files if shard is None or file.shard == shard)


def window(events: Manifest, road: Road) -> list[DataFile]:
    """Return the event files from the first day that counts to the logical date."""
    return [file for file in events.files if file.event_date and road.first_day <= file.event_date <= road.day]


def subset_ref(name: str, manifest: Manifest, files: Sequence[DataFile]) -> InputRef:
    """Return what names some files of a dataset as an input: their digest, not the whole dataset's."""
    return InputRef(name, manifest.path, files_digest(files), sum(file.rows for file in files))


def files_digest(files: Sequence[DataFile]) -> str:
    """Digest of the content of some files."""
    lines = sorted(f"{file.path.rsplit('/', 1)[-1]} {file.sha256}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def shard_tasks(num_shards: int, inputs: Mapping[str, tuple[str, ...] | Sequence[DataFile]]) -> tuple[Task, ...]:
    """Return one task per shard; an input given as files brings the shard's own, one given as paths all of them."""
    return tuple(
        Task(
            f"{shard:05d}",
            shard,
            {name: _of_shard(value, shard) for name, value in inputs.items()},
        )
        for shard in range(num_shards)
    )


def _of_shard(value: tuple[str, ...] | Sequence[DataFile], shard: int) -> tuple[str, ...]:
    return tuple(v if isinstance(v, str) else v.path for v in value if isinstance(v, str) or v.shard == shard)


def process(space: Workspace, tasks: Sequence[Task], work: Work) -> beam.PTransform:
    """Return the transform of a stage that does the same to every task."""
    return ProcessShards(space, work)


SNAPSHOTS: tuple[Contract, ...] = (ITEM, USER, CAMPAIGN, TOMBSTONE)
