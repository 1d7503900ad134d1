"""A folder of a public shape through the product's stages, up to fitted families and the examples they are asked."""

import dataclasses
import datetime
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.protocols import Phase, numbered
from jobs.options import POLICY_FILE, build_runner, read_policy
from pipelines.batch import ingest_all
from pipelines.road import Ingested, Road, paths
from pipelines.runner import Runner
from pipelines.tallies import build_histories
from pipelines.train import train, vocabulary
from schemas.manifest import Manifest
from transforms.embed.families import FAMILIES, HeldOut, Model
from transforms.embed.interactions import Interactions, from_listens, from_lists
from transforms.embed.language import LanguageModel
from transforms.embed.weights import unpack
from transforms.importers import import_folder
from transforms.io.store import open_store
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

    @classmethod
    def of(cls, kind: str, phase: Phase, root: Path, language: LanguageModel | None = None) -> "Fitting":
        """Import a phase and run the stages."""
        raw = root / "import"
        import_folder(kind, phase.folder, raw, END, say)
        store = open_store(str(root / "root"))
        runner = build_runner(store, END.isoformat(), [], None, {"benchmark": "quality"})
        road = Road(END, SHARDS, read_policy(POLICY_FILE), runner.code_version, "batch", language=language)
        ingested = ingest_all(runner, road, open_store(str(raw)))
        histories = runner.run(build_histories(road, ingested))
        numbers = runner.run(vocabulary(road, histories, ingested.items))
        ids = read_vocabulary(Shard(Task("00000", 0, {"vocabulary": paths(numbers.files)}), store))
        return cls(runner, road, ingested, histories, numbers, ids)

    def fit(self, family: str, settings: Mapping[str, Any], *, hold_out: bool) -> tuple[Model, dict[str, Any]]:
        """Train a family and return it as it was committed, with the settings that were settled on the way."""
        stage = train(
            self.road, family, self.histories, self.ingested.items, self.numbers, settings, False if hold_out else None
        )
        file = self.runner.run(stage).artifact(f"{family}.safetensors")
        arrays, about = unpack(self.runner.store.read_bytes(file.path), file.path)
        return FAMILIES[family]().load(arrays), about["settings"]

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
        """Return contexts and targets by number; contexts without a target that can be ranked count as misses."""
        item_type = self.item_ids[0].rpartition("-")[0]
        unknown = len(self.item_ids)  # never ranked, and so a miss
        targets = from_lists(numbered(asked["target"], self.item_ids, item_type, unknown), unknown + 1)
        if "context" in asked.columns:
            contexts = from_lists(numbered(asked["context"], self.item_ids, item_type), len(self.item_ids))
            return HeldOut(contexts, targets)
        listens = read_listens(self._shard(history=self.histories)).join(
            asked, on="key", how="semi", maintain_order="left"
        )
        keys = asked["key"].sort()
        return HeldOut(
            from_listens(listens, keys, self.item_ids).take(keys.search_sorted(asked["key"]).to_numpy()), targets
        )


def say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
