"""A folder of a public shape through the product's stages, up to fitted families and the examples they are asked."""

import dataclasses
import datetime
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.protocols import Phase, named
from jobs.options import POLICY_FILE, build_runner, read_policy
from pipelines.batch import ingest_all
from pipelines.ingest import ingest_snapshot
from pipelines.road import Ingested, Road, paths
from pipelines.runner import Runner
from pipelines.tallies import build_histories
from pipelines.train import fuse, train, vocabulary
from schemas.manifest import Manifest
from schemas.models import EXAMPLE
from transforms.embed.families import HeldOut
from transforms.embed.fuse import FusionSettings
from transforms.embed.interactions import Interactions
from transforms.embed.language import LanguageModel
from transforms.fuse import held_out, load_family
from transforms.importers import import_folder
from transforms.io.store import Store, open_store
from transforms.shards import Shard, Task
from transforms.train import by_recency, read_items, read_listens, read_vocabulary

END = datetime.date(2026, 1, 31)
SHARDS = 2


@dataclasses.dataclass
class Fitting:
    """One phase of a benchmark, gone through the stages up to the vocabulary."""

    runner: Runner
    road: Road
    ingested: Ingested
    histories: Manifest
    numbers: Manifest
    item_ids: pl.Series
    raw: Store

    @classmethod
    def of(cls, kind: str, phase: Phase, root: Path, language: LanguageModel | None = None) -> "Fitting":
        """Import a phase and run the stages under `root`, which other phases may share."""
        raw = phase.folder / "import"
        import_folder(kind, phase.folder, raw, END, say)
        store = open_store(str(root))
        runner = build_runner(store, END.isoformat(), [], None, {"benchmark": "quality"})
        road = Road(END, SHARDS, read_policy(POLICY_FILE), runner.code_version, "batch", language=language)
        ingested = ingest_all(runner, road, open_store(str(raw)))
        histories = runner.run(build_histories(road, ingested))
        numbers = runner.run(vocabulary(road, histories, ingested.items))
        ids = read_vocabulary(Shard(Task("00000", 0, {"vocabulary": paths(numbers.files)}), store))
        return cls(runner, road, ingested, histories, numbers, ids, open_store(str(phase.folder / "asked")))

    @property
    def item_type(self) -> str:
        """The type of all items."""
        return str(self.item_ids[0].rpartition("-")[0])

    def fit(self, family: str, settings: Mapping[str, Any], *, hold_out: bool) -> Manifest:
        """Train a family."""
        stage = train(
            self.road, family, self.histories, self.ingested.items, self.numbers, settings, False if hold_out else None
        )
        return self.runner.run(stage)

    def fuse(
        self, trained: Mapping[str, Manifest], asked: pl.DataFrame, settings: FusionSettings, most: int, *, seen_removed: bool
    ) -> Manifest:  # fmt: skip
        """Ingest what was asked on validation, and fit the fusion of families on about `most` examples of it."""
        folder = Path(self.raw.root) / f"{EXAMPLE.name}s"
        folder.mkdir(parents=True, exist_ok=True)
        named(asked, self.item_type).write_parquet(folder / "part-00000.parquet")
        examples = self.runner.run(ingest_snapshot(self.road, self.raw, EXAMPLE, required=True))
        data = (self.histories, self.numbers, examples)
        return self.runner.run(fuse(self.road, trained, data, settings, seen_removed=seen_removed, most=most))

    def load(self, family: str, trained: Manifest) -> tuple[Any, dict[str, Any]]:
        """Return a family as it was committed, with the settings that were settled on the way."""
        path = trained.artifact(f"{family}.safetensors").path
        return load_family(family, self.runner.store.read_bytes(path), path)

    def _shard(self, **inputs: Manifest) -> Shard:
        """Return what a task that reads whole datasets sees."""
        return Shard(Task("00000", 0, {name: paths(one.files) for name, one in inputs.items()}), self.runner.store)

    def items(self) -> pl.DataFrame:
        """Return what is known of the numbered items, in the order of their numbers."""
        return read_items(self._shard(item=self.ingested.items), self.item_ids)

    def everything(self) -> Interactions:
        """Return all histories."""
        return by_recency(read_listens(self._shard(history=self.histories)), self.item_ids)

    def examples(self, asked: pl.DataFrame) -> HeldOut:
        """Return contexts and targets by number."""
        return held_out(named(asked, self.item_type), self._shard(history=self.histories), self.item_ids)


def say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
