"""Backfill: the road for each date of a range as of that date, in order, leaving out what is there."""

import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from pipelines.batch import RoadResult, identity, in_words, raw_digest, read_record
from pipelines.inputs import InputError, raw_files, raw_refs
from pipelines.road import SNAPSHOTS
from pipelines.runner import load_manifest
from schemas.contract import Contract
from schemas.inputs import EVENT, ITEM
from transforms.io.store import Store, StoreError

RUN, THERE, MISSING = "run", "there", "missing"
DONE, FAILED = "done", "failed"
_NAMES = {"code_version": "code", "policy_version": "policy", "num_shards": "shards", "text_model": "text model"}


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What the sets of every date shall be made by."""

    code_version: str
    policy_version: str
    num_shards: int
    surfaces: tuple[str, ...]
    text_model: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class DatePlan:
    """What a backfill will do about one date.

    Attributes:
      state: `run`, `there` (nothing to do) or `missing` (it cannot run).
      why: the reason in words; where the date is there, with the digests of its sets.
    """

    day: str
    state: str
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class DateResult:
    """What became of one date.

    Attributes:
      state: `done`, `there`, `missing` or `failed`.
      sets: number of sets by surface. released: what `publish` did, by surface.
    """

    day: str
    state: str
    seconds: float
    sets: Mapping[str, int]
    released: Mapping[str, str]
    error: str = ""

    @property
    def good(self) -> bool:
        """Whether the date's sets are there."""
        return self.state in (DONE, THERE)


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """A raw folder as it was when it was looked at: every file is hashed once, not once per date."""

    root: str
    digests: Mapping[str, str]

    @classmethod
    def of(cls, raw: Store) -> "Listing":
        """Look at every file of the datasets."""
        names = [name for contract in (EVENT, *SNAPSHOTS) for name in raw.list(f"{contract.name}s")]
        return cls(raw.root, {name: raw.digest(name) for name in names})

    def list(self, prefix: str) -> list[str]:
        """Return the paths below a folder."""
        return [name for name in self.digests if name.startswith(f"{prefix}/")]

    def digest(self, path: str) -> str:
        """Return a file's digest."""
        return self.digests[path]


def dates(first: datetime.date, last: datetime.date) -> list[str]:
    """Return every date from the first to the last, ISO.

    Raises:
      ValueError: the last comes before the first.
    """
    if last < first:
        raise ValueError(f"expected FROM <= TO, came FROM={first} TO={last}: swap them")
    return [(first + datetime.timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def plan(store: Store, raw: Store, days: Sequence[str], wanted: Wanted) -> list[DatePlan]:
    """Decide for every date whether it must run; reads run records, manifests and the raw files' digests."""
    listing = Listing.of(raw)
    return [_plan_date(store, listing, day, wanted) for day in days]


def _plan_date(store: Store, listing: Listing, day: str, wanted: Wanted) -> DatePlan:
    try:
        raw = {contract.name: _raw_digest(listing, contract, day) for contract in (EVENT, *SNAPSHOTS)}
    except InputError as error:
        return DatePlan(day, MISSING, str(error))
    record = read_record(store, day)
    if record is None:
        return DatePlan(day, RUN, "never run")
    own = identity(wanted.code_version, wanted.policy_version, wanted.num_shards, wanted.text_model, raw)
    changes = _changes(record, own)
    changes += [f"no sets for {name}" for name in wanted.surfaces if name not in record.get("surfaces", [])]
    changes += [f"{path} is gone" for path in record["manifests"].values() if not store.exists(path)][:1]
    if changes:
        return DatePlan(day, RUN, "; ".join(changes))
    digests = [f"{name} {load_manifest(store, _sets(record, name)).digest[:12]}" for name in wanted.surfaces]
    return DatePlan(day, THERE, f"made by the same code, policy and input: {', '.join(digests)}")


def _raw_digest(listing: Listing, contract: Contract, day: str) -> str:
    # a listing answers the two questions raw_files asks
    files = raw_files(cast(Store, listing), contract, day, required=contract in (EVENT, ITEM))
    return raw_digest(raw_refs(files, contract))


def _changes(record: Mapping, now: Mapping) -> list[str]:
    """Name what has changed since a record was written."""
    found = [
        f"other {word}: made by {record.get(name)}, now {now[name]}"
        for name, word in _NAMES.items()
        if record.get(name) != now[name]
    ]
    before = record.get("raw", {})
    return found + [f"raw {name}s changed" for name, digest in now["raw"].items() if before.get(name) != digest]


def _sets(record: Mapping, surface: str) -> str:
    return record["manifests"][f"candidate_set/{surface}"]


def run(
    store: Store, plans: Sequence[DatePlan], run_date: Callable[[str], RoadResult], say: Callable[[str], None]
) -> Iterator[DateResult]:
    """Do what the plan says, date after date, and yield what became of each; a date that fails stops no other.

    Raises:
      StoreError: the root itself cannot be used, so no later date could run either.
    """
    left, spent = sum(one.state == RUN for one in plans), list[float]()
    for one in plans:
        if one.state == THERE:
            record = read_record(store, one.day) or {}
            sets = {name: load_manifest(store, _sets(record, name)).rows_out for name in record["surfaces"]}
            yield DateResult(one.day, THERE, 0.0, sets, record["released"])
        elif one.state == MISSING:
            yield DateResult(one.day, MISSING, 0.0, {}, {}, one.why)
        else:
            eta = f", about {_duration(sum(spent) / len(spent) * left)} left" if spent else ""
            say(f"\n{one.day}: {left} date(s) to run{eta}")
            result = _run_date(one.day, run_date)
            left, spent = left - 1, [*spent, result.seconds]
            yield result


def _run_date(day: str, run_date: Callable[[str], RoadResult]) -> DateResult:
    started = time.monotonic()
    try:
        result = run_date(day)
    except StoreError:
        raise
    except Exception as error:
        # settled here: the date is reported as failed, and the later ones do not depend on it
        expected = isinstance(error, ValueError | RuntimeError | FileNotFoundError)
        words = in_words(error) if expected else f"{type(error).__name__}: {in_words(error)}"
        return DateResult(day, FAILED, time.monotonic() - started, {}, {}, words)
    sets = {name: result.manifests[f"candidate_set/{name}"].rows_out for name in result.released}
    return DateResult(day, DONE, time.monotonic() - started, sets, result.released)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
