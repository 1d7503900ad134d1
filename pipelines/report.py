"""What the report page of a date says, gathered from the run record, the manifests and a bounded read of the data.

`report_sets` counts and picks, `report_examples` names, this module puts together, `report_page` renders. Nothing that
grows with users, items or events is held: manifests, counts by name, and the few rows that are shown.
"""

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from pipelines.batch import record_path
from pipelines.evaluation_summary import Summary, evaluations_of, summarise
from pipelines.experiments import Experiment, experiments
from pipelines.overlay import OVERLAY, live_overlays
from pipelines.recommend import HOME
from pipelines.report_examples import Example, Named, examples, name_items
from pipelines.report_sets import Curve, Survey, exposure_curve, survey, talk_items, talk_listeners
from pipelines.runner import load_manifest
from schemas.manifest import DataFile, Manifest
from transforms.decode import redact
from transforms.io.store import Store

EXAMPLES_PER_RULE = 3
REJECTIONS_READ = 200_000
_SLOTS_BY_SOURCE, _REMOVED = "slots_by_source:", "removed:"
_PAYLOAD_SHOWN = 400
_NO_PAYLOAD = ("proposal", "candidate_set", "history")  # their keys are ids of people


@dataclasses.dataclass(frozen=True, slots=True)
class StageView:
    """A stage of the road: what it did in this run, and the manifest of what it wrote."""

    label: str
    skipped: bool
    seconds: float
    peak_bytes: int
    manifest: Manifest


@dataclasses.dataclass(frozen=True, slots=True)
class RejectedRow:
    """An example of a rejected row, without private fields."""

    source: str
    position: int
    detail: str
    payload: str


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """Rows of one dataset kept out by one rule, with up to three examples."""

    dataset: str
    rule: str
    rows: int
    of: int
    shown: tuple[RejectedRow, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SurfaceView:
    """What was published on a surface.

    Attributes:
      released: what publishing did; of overlays, which one is shown of how many. by_user: sets are for users; else for items
        that play.
      policy: as the blend was configured: `size`, `flow`, `sources` and so on.
      slots: candidates by source. removed: proposals by the rule that took them out.
      exposure: counters of the exposure dataset; empty where it is missing.
      eligible: items that may be recommended at all; None where it was not counted.
      top: `(item, sets, sets_chosen)` of the items chosen most often.
    """

    name: str
    released: str
    by_user: bool
    policy: Mapping[str, Any]
    sets: Manifest
    proposals: int
    slots: Mapping[str, int]
    removed: Mapping[str, int]
    survey: Survey
    exposure: Mapping[str, int]
    eligible: int | None
    curve: Curve
    top: tuple[tuple[Named, int, int], ...]
    examples: tuple[Example, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """Everything the page of a date says."""

    day: str
    code_version: str
    policy_version: str
    run_mode: str
    num_shards: int
    stages: tuple[StageView, ...]
    models: tuple[Experiment, ...]
    rejections: tuple[Rejected, ...]
    surfaces: tuple[SurfaceView, ...]
    evaluations: tuple[Summary, ...]


def gather(store: Store, day: str) -> Report:
    """Gather the report of a date whose road finished.

    Raises:
      ValueError: no road of that date finished under this root.
      PublishError: what names the overlays cannot be read.
    """
    record = _record(store, day)
    ran = [
        StageView(s["stage"], s["skipped"], s["seconds"], s["peak_bytes"], load_manifest(store, s["manifest"]))
        for s in record["stages"]
    ]
    overlays = live_overlays(store, record["manifests"].get(f"candidate_set/{HOME}", ""))
    released = {**record["released"], OVERLAY: f"overlay: {len(overlays)}"}
    stages = (*ran, *_of_other_surfaces(store, record, ran), *_of_the_last(store, overlays))
    # Of a dataset of two dates, that of the road's own was made first; the other is what a model was trained on.
    datasets = {(stage.manifest.dataset, stage.manifest.qualifier): stage.manifest for stage in reversed(stages)}
    kept = {key for key, manifest in datasets.items() if is_kept(store, manifest)}
    made = [stage.manifest.qualifier for stage in stages if stage.manifest.dataset == "candidate_set"]
    surfaces = [name for name in dict.fromkeys(made) if ("candidate_set", name) in kept]
    return Report(
        day=day,
        code_version=record["code_version"],
        policy_version=record["policy_version"],
        run_mode=record["run_mode"],
        num_shards=record["num_shards"],
        stages=stages,
        models=tuple(experiments(store, [m for (dataset, _), m in datasets.items() if dataset == "training"])),
        rejections=tuple(
            rejected
            for key, manifest in datasets.items()
            if key in kept
            for rejected in read_rejections(store, manifest)
        ),
        surfaces=tuple(_surface(store, name, datasets, released.get(name, "")) for name in surfaces),
        evaluations=tuple(summarise(store, name, [day]) for name in sorted(evaluations_of(store, day))),
    )


def is_kept(store: Store, manifest: Manifest) -> bool:
    """Tell whether a dataset's files are there: those of a retired set are not."""
    return all(store.exists(file.path) for file in (*manifest.files, *manifest.rejection_files)[:1])


def _record(store: Store, day: str) -> dict[str, Any]:
    try:
        return json.loads(store.read_bytes(record_path(day)))
    except FileNotFoundError:
        raise ValueError(
            f"no finished run of {day} under {store.root}: expected {record_path(day)}, which is not there. Run the"
            " road for that date first; a run that stopped leaves its checks under validation/."
        ) from None


def _of_other_surfaces(store: Store, record: Mapping[str, Any], ran: Sequence[StageView]) -> list[StageView]:
    """Return the stages of surfaces that are live from this date's data but were not asked for in its last run."""
    order = {stage.manifest.dataset: place for place, stage in enumerate(ran)}
    present = {stage.manifest.path for stage in ran}
    wanted = [
        path for name, path in record["manifests"].items() if name.partition("/")[2] in record.get("surfaces", ())
    ]
    others = [load_manifest(store, path) for path in wanted if path not in present]
    others.sort(key=lambda manifest: (manifest.qualifier, order.get(manifest.dataset, len(order)), manifest.dataset))
    return [StageView(f"{one.stage} {one.qualifier}".strip(), True, 0.0, 0, one) for one in others]


def _of_the_last(store: Store, overlays: Sequence[str]) -> list[StageView]:
    return [StageView(OVERLAY, True, 0.0, 0, load_manifest(store, path)) for path in overlays[-1:]]


def read_rejections(store: Store, manifest: Manifest) -> list[Rejected]:
    """Return what a stage kept out, by rule, the most frequent first, with the first examples of each rule.

    At most `REJECTIONS_READ` rows are looked at for examples; the counts are the manifest's.
    """
    shown = _example_rows(store, manifest.rejection_files, manifest.rejected)
    return [
        Rejected(manifest.dataset, rule, rows, manifest.rows_in, tuple(_shown(row, manifest) for row in shown[rule]))
        for rule, rows in sorted(manifest.rejected.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def _example_rows(
    store: Store, files: Sequence[DataFile], wanted: Mapping[str, int]
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {rule: [] for rule in wanted}
    columns, read = ["rule", "source", "position", "detail", "payload"], 0
    for file in sorted(files, key=lambda f: f.path):
        for batch in pq.ParquetFile(store.local(file.path)).iter_batches(batch_size=4_096, columns=columns):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            for row in frame.group_by("rule", maintain_order=True).head(EXAMPLES_PER_RULE).rows(named=True):
                if len(found.setdefault(row["rule"], [])) < EXAMPLES_PER_RULE:
                    found[row["rule"]].append(row)
            read += batch.num_rows
            if read >= REJECTIONS_READ or all(len(found[r]) >= min(n, EXAMPLES_PER_RULE) for r, n in wanted.items()):
                return found
    return found


def _shown(row: Mapping[str, Any], manifest: Manifest) -> RejectedRow:
    payload = "" if manifest.dataset in _NO_PAYLOAD else redact((row["payload"] or "").encode())
    cut = payload if len(payload) <= _PAYLOAD_SHOWN else payload[:_PAYLOAD_SHOWN] + "…"
    return RejectedRow(row["source"], row["position"], row["detail"] or "", cut)


def _surface(store: Store, name: str, datasets: Mapping[tuple[str, str], Manifest], released: str) -> SurfaceView:
    sets, items = datasets["candidate_set", name], datasets["item", ""]
    policy = sets.config["policy"]
    exposed = datasets.get(("exposure", name))
    curve = exposure_curve(store, exposed) if exposed else Curve((), ())
    names = name_items(store, items, [item_id for item_id, _, _ in curve.top])
    proposals = datasets.get(("proposal", name))
    by_user = any(ref.name == "history" for ref in sets.inputs)
    histories = datasets.get(("history", "")) if by_user else None
    surveyed = survey(store, sets, talk_listeners(store, histories) if histories else talk_items(store, items))
    end = datetime.datetime.fromisoformat(sets.date).replace(tzinfo=datetime.UTC) + datetime.timedelta(days=1)
    return SurfaceView(
        name=name,
        released=released,
        by_user=by_user,
        policy=policy,
        sets=sets,
        proposals=proposals.rows_out if proposals else 0,
        slots=_counters(sets, _SLOTS_BY_SOURCE),
        removed=_counters(sets, _REMOVED),
        survey=surveyed,
        exposure=exposed.counters if exposed else {},
        eligible=exposed.counters.get("eligible_items") if exposed else None,
        curve=curve,
        top=tuple((names.get(i) or Named(i, i, "", ""), sets_, chosen) for i, sets_, chosen in curve.top if chosen),
        examples=examples(store, surveyed.picks, items, histories, end),
    )


def _counters(manifest: Manifest, prefix: str) -> dict[str, int]:
    counted = {k.removeprefix(prefix): n for k, n in manifest.counters.items() if k.startswith(prefix)}
    return dict(sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])))
