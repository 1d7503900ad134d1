"""The batch road as one sentence: raw folder and date to published candidate sets."""

import dataclasses
import datetime
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from pipelines import ingest, recommend, tallies
from pipelines.bundle import write_bundle
from pipelines.calibrate import calibrate
from pipelines.experiments import experiments, write_experiments
from pipelines.inputs import raw_names
from pipelines.models import Models, model_all
from pipelines.overlap import count_kept
from pipelines.publish import publish
from pipelines.recommend import SURFACES, Served, Tables
from pipelines.road import SNAPSHOTS, Ingested, Road
from pipelines.runner import Runner, load_manifest
from schemas.candidates import CANDIDATE_SET, EXPOSURE, PROPOSAL
from schemas.inputs import EVENT, ITEM, TOMBSTONE, USER
from schemas.manifest import InputRef, Manifest
from transforms.embed.language import digest_of
from transforms.io.store import Store

WEEK_DAYS = 7
TREND_DAYS = 42, 28
"""What changes by a little every day shows after weeks, and is compared with the same weekday."""
_STEP = re.compile(r" \[while running '[^']*'\]")


@dataclasses.dataclass(frozen=True, slots=True)
class RoadResult:
    """What a road led to.

    Attributes:
      manifests: by `dataset/qualifier`.
      released: per surface, what `publish` did.
    """

    manifests: Mapping[str, Manifest]
    released: Mapping[str, str]


def run_road(runner: Runner, road: Road, raw: Store, surfaces: tuple[str, ...]) -> RoadResult:
    """Run every stage that is not done yet, publish what passed, and leave the run record.

    Raises:
      StageFailed, InputError, UnreadableFile, StoreError, PublishError: nothing later ran; what was live stays live.
    """
    ingested = ingest_all(runner, road, raw)
    tables = tally_all(runner, road, ingested)
    models = model_all(runner, road, raw, ingested, tables.histories)
    calibrations = calibrate_all(runner, road, ingested, tables, models)
    served = Served(road, ingested, tables, models, calibrations)
    write_bundle(runner.store, served.bundle)
    manifests = {**manifests_by_name(ingested), **manifests_by_name(tables), **models.by_name}
    manifests |= {f"{m.dataset}/{name}": m for name, m in calibrations.items()}
    finished = {}
    for name in surfaces:
        surface = SURFACES[name]
        week = week_before(runner.store, road.date, f"{PROPOSAL.name}/{name}")
        proposals = runner.run(recommend.retrieve(surface, served, week))
        sets = runner.run(recommend.blend(surface, served, proposals))
        before = weeks_ago(runner.store, road.date, f"{EXPOSURE.name}/{name}")
        kept = functools.partial(count_kept, runner.store, sets, runner.previous.get(f"{CANDIDATE_SET.name}/{name}"))
        shown = runner.run(recommend.exposure(road, surface, sets, ingested.items, before, kept))
        finished[name] = (sets, shown)
        manifests |= {f"{m.dataset}/{name}": m for m in (proposals, sets, shown)}
    released = {name: publish(runner.store, name, *pair) for name, pair in finished.items()}
    write_record(runner, road, manifests, released)
    write_experiments(runner.store, road.day, experiments(runner.store, models.trainings))
    return RoadResult(manifests, released)


def ingest_all(runner: Runner, road: Road, raw: Store) -> Ingested:
    """Ingest snapshots first: events are checked against them.

    Raises:
      InputError: there are no items or no events; told before anything is read.
    """
    for contract in (ITEM, EVENT):
        raw_names(raw, contract, road.day, required=True)
    users = runner.run(ingest.ingest_snapshot(road, raw, USER, required=False))
    items = runner.run(ingest.ingest_items(road, raw, users))
    campaigns = runner.run(ingest.ingest_campaigns(road, raw, items))
    tombstones = runner.run(ingest.ingest_snapshot(road, raw, TOMBSTONE, required=False))
    events = runner.run(ingest.ingest_events(road, raw, users, tombstones))
    runner.admit(EVENT, events, road.day)
    return Ingested(events, items, users, campaigns, tombstones)


def calibrate_all(
    runner: Runner, road: Road, ingested: Ingested, tables: Tables, models: Models
) -> dict[str, Manifest]:
    """Calibrate the sources of every surface by what came of the last run's proposals, whatever is run today."""
    rest = models, ingested, tables.histories, tables.transition_partial
    return {name: runner.run(calibrate(runner, road, surface, *rest)) for name, surface in SURFACES.items()}


def tally_all(runner: Runner, road: Road, ingested: Ingested) -> Tables:
    """Count what happened up to the logical date."""
    histories = runner.run(tallies.build_histories(road, ingested))
    plays = runner.run(tallies.popularity_partial(road, ingested))
    pairs = runner.run(tallies.co_listen_partial(road, ingested))
    followers = runner.run(tallies.transition_partial(road, ingested))
    return Tables(
        histories=histories,
        popularity_partial=plays,
        popularity=runner.run(tallies.popularity(road, plays)),
        artist_top=runner.run(tallies.artist_top(road, plays, ingested.items)),
        co_listen=runner.run(tallies.co_listen(road, pairs)),
        transition_partial=followers,
        transition=runner.run(tallies.transition(road, followers, ingested.items)),
    )


def manifests_by_name(group: Ingested | Tables) -> dict[str, Manifest]:
    """Return the manifests of a group by `dataset/`."""
    manifests = [getattr(group, field.name) for field in dataclasses.fields(group)]
    return {f"{manifest.dataset}/": manifest for manifest in manifests}


def record_path(day: str) -> str:
    """Return where the record of a date's last good road lies."""
    return f"runs/date={day}/record.json"


def read_record(store: Store, day: str) -> dict | None:
    """Return the run record of a date; None before its first good road."""
    try:
        return json.loads(store.read_bytes(record_path(day)))
    except FileNotFoundError:
        return None


def raw_digest(refs: Iterable[InputRef]) -> str:
    """Digest of the content of the raw files among some inputs, whatever they are called and wherever they lie."""
    digests = sorted(ref.digest for ref in refs if ref.name.startswith("raw_"))
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def identity(
    code_version: str, policy_version: str, num_shards: int, text_model: str, raw: Mapping[str, str]
) -> dict[str, object]:
    """Return what decides the output of a date; equal identities and one encoder, equal published sets.

    Args:
      text_model: digest of the language model; empty without one.
      raw: `raw_digest` by dataset.
    """
    return {
        "code_version": code_version, "policy_version": policy_version, "num_shards": num_shards,
        "text_model": text_model, "raw": dict(raw),
    }  # fmt: skip


def write_record(runner: Runner, road: Road, manifests: Mapping[str, Manifest], released: Mapping[str, str]) -> None:
    """Leave what ran, at what cost, for later runs to compare with and for the report.

    What an earlier run of the date made for other surfaces stays in the record. A run that did nothing new leaves it.
    """
    store, path = runner.store, record_path(road.day)
    raw = {one.name: raw_digest(manifests[f"{one.name}/"].inputs) for one in (EVENT, *SNAPSHOTS)}
    own = identity(road.code_version, road.policy.version, road.num_shards, digest_of(road.language), raw)
    before = read_record(store, road.day) or {"surfaces": [], "manifests": {}, "released": {}}
    same = all(before.get(name) == value for name, value in own.items())
    made = {name: manifest.path for name, manifest in manifests.items()}
    record = own | {
        "date": road.day,
        "run_mode": road.run_mode,
        "surfaces": sorted({*released, *(before.get("surfaces", []) if same else ())}),
        "manifests": {**before["manifests"], **made},
        "released": {**before["released"], **released},
        "stages": [dataclasses.asdict(stage) for stage in runner.records],
    }
    known = same and all(before.get(name) == record[name] for name in ("surfaces", "manifests"))
    if not known or any(not stage.skipped for stage in runner.records):
        store.write_bytes(path, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())


def in_words(error: BaseException) -> str:
    """Return an error's message without what Beam appends to it: the step it came from."""
    return _STEP.sub("", str(error))


def dates_with(store: Store, name: str) -> list[str]:
    """Return the logical dates beside whose run a file of a name lies, in order."""
    found = {path.split("date=")[1].split("/")[0] for path in store.list("runs") if path.endswith(f"/{name}")}
    return sorted(found)


def weeks_ago(store: Store, date: datetime.date, name: str) -> Manifest | None:
    """Return what the latest good road of four to six weeks before a date made, by `dataset/qualifier`; None without one."""
    first, last = ((date - datetime.timedelta(days=days)).isoformat() for days in TREND_DAYS)
    for day in reversed([one for one in dates_with(store, "record.json") if first <= one <= last]):
        path = (read_record(store, day) or {"manifests": {}})["manifests"].get(name)
        if path:
            return load_manifest(store, path)
    return None


def week_before(store: Store, date: datetime.date, name: str) -> list[Manifest]:
    """Return what the good roads of the seven days before a date made, by `dataset/qualifier`, the earliest first."""
    first, day = (date - datetime.timedelta(days=WEEK_DAYS)).isoformat(), date.isoformat()
    records = [read_record(store, one) for one in dates_with(store, "record.json") if first <= one < day]
    paths = [record["manifests"].get(name) for record in records if record]
    return [load_manifest(store, path) for path in paths if path]


def last_good(store: Store, day: str) -> dict[str, Manifest]:
    """Return the manifests of the last good road before a date, by `dataset/qualifier`; empty where there was none."""
    earlier = [one for one in dates_with(store, "record.json") if one < day]
    if not earlier:
        return {}
    record = json.loads(store.read_bytes(record_path(max(earlier))))
    return {name: load_manifest(store, path) for name, path in record["manifests"].items()}
