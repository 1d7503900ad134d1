"""Calibrate: what came of the last run's proposals, from committed files alone."""

import datetime
import functools
from collections.abc import Mapping, Sequence

import apache_beam as beam

from pipelines.models import Models
from pipelines.recipes import recipes, strangers
from pipelines.recommend import Surface, own_and_groups
from pipelines.road import Ingested, Road, end_of, paths, shard_tasks, subset_ref
from pipelines.runner import Runner, Stage, input_ref, missing_files
from schemas.candidates import CALIBRATION
from schemas.manifest import DataFile, Manifest
from transforms.calibrate import CountTaken, FitCalibration
from transforms.shards import ExchangeShards, Task, Workspace

OLDEST_DAYS = 7
"""Proposals older than this were made for another time."""


def calibrate(
    runner: Runner, road: Road, surface: Surface, models: Models, ingested: Ingested, histories: Manifest, followed: Manifest
) -> Stage:  # fmt: skip
    """Return the stage that calibrates the sources of a surface, from nothing where no earlier proposals are left.

    What was counted of a source that ranks by another model now is left out.

    Args:
      histories, followed: of the date; the partials of transitions.
    """
    proposals = _judgeable(runner, road, surface)
    earlier = _of_this_contract(runner.previous.get(f"{CALIBRATION.name}/{surface.name}"))
    data = {"user": ingested.users, "history": histories, "transition_partial": followed}
    given = {name: _since(data[name], proposals) for name in surface.judged_by} if proposals else {}
    own = recipes(surface.sources, models.families)
    fit = FitCalibration(
        road.policy.surfaces[surface.name], _fade(road, earlier), strangers(own, proposals), strangers(own, earlier)
    )
    refs = [subset_ref(name, data[name], files) for name, files in given.items()]
    refs += [input_ref(proposals), input_ref(ingested.tombstones)] if proposals else []
    refs += [input_ref(earlier)] if earlier else []
    after = end_of(datetime.date.fromisoformat(proposals.date)) if proposals else road.end
    return Stage(
        name="calibrate",
        qualifier=surface.name,
        contract=CALIBRATION,
        date=road.day,
        inputs=tuple(refs),
        tasks=_tasks(road, proposals, ingested, given) if proposals else (),
        transform=functools.partial(
            _calibrate,
            count=CountTaken(surface.since, after, fit.policy.flow),
            fit=fit,
            before=paths(earlier.files) if earlier else (),
        ),
        num_emits=road.num_shards if proposals else 0,
        num_parts=1,
        num_shards=1,
        config=_config(fit) | {"models": own},
    )


def _of_this_contract(earlier: Manifest | None) -> Manifest | None:
    """Return an earlier calibration if it counts what this one does."""
    return earlier if earlier and earlier.fingerprint == CALIBRATION.fingerprint else None


def _fade(road: Road, earlier: Manifest | None) -> float:
    """Return what the counts of an earlier calibration are multiplied by."""
    days = (road.date - datetime.date.fromisoformat(earlier.date)).days if earlier else 0
    return 0.5 ** (days / road.policy.road.calibration_half_life_days)


def _config(fit: FitCalibration) -> dict[str, object]:
    """Return what decides a fit besides what was counted."""
    quotas = fit.policy.sources
    told = {"sources": [quota.source_id for quota in quotas], "targets": [quota.target for quota in quotas]}
    told |= {"flow": list(fit.policy.flow)}
    return told | {"fade": fit.fade, "left_out": [fit.strange, fit.strange_before]}


def _judgeable(runner: Runner, road: Road, surface: Surface) -> Manifest | None:
    """Return the proposals of the last good road, where they are young, of as many shards, and still there."""
    found = runner.previous.get(f"proposal/{surface.name}")
    if found is None or found.num_shards != road.num_shards:
        return None
    young = (road.date - datetime.date.fromisoformat(found.date)).days <= OLDEST_DAYS
    return found if young and not missing_files(runner.store, found) else None


def _since(data: Manifest, proposals: Manifest) -> list[DataFile]:
    """Return the files that hold what came after the proposals."""
    return [file for file in data.files if file.event_date is None or file.event_date > proposals.date]


def _tasks(
    road: Road, proposals: Manifest, ingested: Ingested, given: Mapping[str, Sequence[DataFile]]
) -> tuple[Task, ...]:
    own, groups = own_and_groups(proposals)
    return shard_tasks(
        road.num_shards, {**given, "proposal": own, "groups": groups, "tombstone": paths(ingested.tombstones.files)}
    )


def _calibrate(
    space: Workspace, tasks: Sequence[Task], count: CountTaken, fit: FitCalibration, before: tuple[str, ...]
) -> beam.PTransform:
    return ExchangeShards(space, count, fit, {"00000": Task("00000", 0, {"before": before})})
