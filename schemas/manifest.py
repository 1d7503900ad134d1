"""A manifest: what a stage wrote. It is the commit mark of a dataset and its lineage record.

A manifest holds nothing that differs between two runs over the same input: no clock, no host, no durations. Those
are in the run record (`pipelines.runner`) and in the lineage events.
"""

import dataclasses
import hashlib
import json
from typing import Any

MANIFEST_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class DataFile:
    """One committed file.

    Attributes:
      path: relative to the root of the store.
      shard: number of the shard it belongs to.
      event_date: ISO date of the events in it, for datasets that are split by day.
    """

    path: str
    sha256: str
    rows: int
    bytes: int
    shard: int
    event_date: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class InputRef:
    """What a stage read: a dataset's manifest, or a raw file (then `digest` is of the file)."""

    name: str
    path: str
    digest: str
    rows: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check, with the figure it was decided on.

    Attributes:
      layer: `rows`, `statistics` or `expectations`.
      severity: `critical` stops the stage, `warning` is recorded.
      outcome: `passed`, `failed`, `broken` (the check itself could not run) or `waived`.
      observed: the figure, with its denominator in `of` where it is a share.
    """

    name: str
    layer: str
    severity: str
    outcome: str
    observed: float | str | None
    threshold: str
    of: int | None = None
    message: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """What a stage wrote, from what, and what the checks said of it.

    Attributes:
      dataset: name of the contract, the folder under `data/`.
      stage: stage that wrote it; `qualifier` tells two datasets of one contract apart (`home`, `now_playing`).
      run: the stage's key: a digest of its code, configuration, date and inputs.
      rows_in, rows_out: rows read and written. `rejected`: rows kept out, by rule.
      counters: further counts under constant names.
      statistics: per column, see `validation.statistics`.
      artifacts: files that are no tables, weights of a model for example; their `rows` is 0.
    """

    dataset: str
    contract_version: str
    fingerprint: str
    stage: str
    qualifier: str
    run: str
    date: str
    num_shards: int
    code_version: str
    config: dict[str, Any]
    inputs: tuple[InputRef, ...]
    files: tuple[DataFile, ...]
    rejection_files: tuple[DataFile, ...]
    rows_in: int
    rows_out: int
    rejected: dict[str, int]
    counters: dict[str, int]
    statistics: dict[str, Any]
    checks: tuple[CheckResult, ...]
    artifacts: tuple[DataFile, ...] = ()
    manifest_version: int = MANIFEST_VERSION

    @property
    def path(self) -> str:
        """Where it lies, relative to the root."""
        return f"{dataset_folder(self.dataset, self.date, self.run)}/manifest.json"

    @property
    def digest(self) -> str:
        """Digest of the data alone: equal data, however it came about, has equal digests."""
        lines = sorted(f"{f.path.rsplit('/', 1)[-1]} {f.sha256} {f.rows}" for f in (*self.files, *self.artifacts))
        return hashlib.sha256("\n".join([self.fingerprint, *lines]).encode()).hexdigest()[:32]

    def artifact(self, name: str) -> DataFile:
        """Return an artifact by its file name.

        Raises:
          ValueError: there is none of that name.
        """
        for file in self.artifacts:
            if file.path.rpartition("/")[2] == name:
                return file
        raise ValueError(f"{self.path} has no artifact {name!r}; it has {[file.path for file in self.artifacts]}")

    def to_json(self) -> str:
        """Serialise, canonically."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Manifest":
        """Read a manifest.

        Raises:
          ValueError: not a manifest, or one of a later version; `where` names it.
        """
        try:
            fields = json.loads(text)
            if fields["manifest_version"] > MANIFEST_VERSION:
                raise ValueError(
                    f"version {fields['manifest_version']}, this code reads up to {MANIFEST_VERSION}: upgrade it"
                )
            fields["inputs"] = tuple(InputRef(**x) for x in fields["inputs"])
            fields["files"] = tuple(DataFile(**x) for x in fields["files"])
            fields["rejection_files"] = tuple(DataFile(**x) for x in fields["rejection_files"])
            fields["checks"] = tuple(CheckResult(**x) for x in fields["checks"])
            fields["artifacts"] = tuple(DataFile(**x) for x in fields.get("artifacts", ()))
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where} is not a manifest this code can read: {error}") from error


def dataset_folder(dataset: str, date: str, run: str) -> str:
    """Return the folder of a dataset, relative to the root."""
    return f"data/{dataset}/date={date}/run={run}"


def dataset_date(path: str) -> str:
    """Return the logical date, ISO, of what lies in a dataset's folder."""
    return path.partition("/date=")[2].partition("/")[0]
