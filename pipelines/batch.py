"""The batch road as one sentence: raw folder and date to published candidate sets."""

import dataclasses
import json
from collections.abc import Mapping

from pipelines import ingest, recommend, tallies
from pipelines.publish import publish
from pipelines.recommend import SURFACES, Tables
from pipelines.road import Ingested, Road
from pipelines.runner import Runner, load_manifest
from schemas.inputs import CAMPAIGN, EVENT, ITEM, TOMBSTONE, USER
from schemas.manifest import Manifest
from transforms.io.store import Store


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
    manifests = {**manifests_by_name(ingested), **manifests_by_name(tables)}
    finished = {}
    for name in surfaces:
        surface = SURFACES[name]
        proposals = runner.run(recommend.retrieve(road, surface, ingested, tables))
        sets = runner.run(recommend.blend(road, surface, ingested, tables, proposals))
        shown = runner.run(recommend.exposure(road, surface, sets, ingested.items))
        finished[name] = (sets, shown)
        manifests |= {f"{m.dataset}/{name}": m for m in (proposals, sets, shown)}
    released = {name: publish(runner.store, name, *pair) for name, pair in finished.items()}
    write_record(runner, road, manifests, released)
    return RoadResult(manifests, released)


def ingest_all(runner: Runner, road: Road, raw: Store) -> Ingested:
    """Ingest snapshots first: events are checked against them."""
    items = runner.run(ingest.ingest_snapshot(road, raw, ITEM, required=True))
    users = runner.run(ingest.ingest_snapshot(road, raw, USER, required=False))
    campaigns = runner.run(ingest.ingest_snapshot(road, raw, CAMPAIGN, required=False))
    tombstones = runner.run(ingest.ingest_snapshot(road, raw, TOMBSTONE, required=False))
    events = runner.run(ingest.ingest_events(road, raw, users, tombstones))
    runner.admit(EVENT, events, road.day)
    return Ingested(events, items, users, campaigns, tombstones)


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
        transition=runner.run(tallies.transition(road, followers, ingested.items)),
    )


def manifests_by_name(group: Ingested | Tables) -> dict[str, Manifest]:
    """Return the manifests of a group by `dataset/`."""
    manifests = [getattr(group, field.name) for field in dataclasses.fields(group)]
    return {f"{manifest.dataset}/": manifest for manifest in manifests}


def record_path(day: str) -> str:
    """Return where the record of a date's last good road lies."""
    return f"runs/date={day}/record.json"


def write_record(runner: Runner, road: Road, manifests: Mapping[str, Manifest], released: Mapping[str, str]) -> None:
    """Leave what ran, at what cost, for later runs to compare with and for the report."""
    record = {
        "date": road.day,
        "code_version": road.code_version,
        "policy_version": road.policy.version,
        "run_mode": road.run_mode,
        "num_shards": road.num_shards,
        "manifests": {name: manifest.path for name, manifest in sorted(manifests.items())},
        "released": dict(released),
        "stages": [dataclasses.asdict(stage) for stage in runner.records],
    }
    if any(not stage.skipped for stage in runner.records) or not runner.store.exists(record_path(road.day)):
        runner.store.write_bytes(record_path(road.day), (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())


def last_good(store: Store, day: str) -> dict[str, Manifest]:
    """Return the manifests of the last good road before a date, by `dataset/qualifier`; empty where there was none."""
    days = [path.split("date=")[1].split("/")[0] for path in store.list("runs") if path.endswith("record.json")]
    earlier = [one for one in days if one < day]
    if not earlier:
        return {}
    record = json.loads(store.read_bytes(record_path(max(earlier))))
    return {name: load_manifest(store, path) for name, path in record["manifests"].items()}
