"""Train: number the items, read the histories, hold the latest part out, fit one family and say how good it is.

One task trains one family. Memory: at most `MAX_INTERACTIONS` positives of 60 bytes (3 GB) and their users' skips, of a
sample of users by the hash of their ids where there are more; at most `MAX_ITEMS` items of the vocabulary, with
`4 * dim` bytes each where a text model reads them; and the model itself.
"""

import dataclasses
import datetime
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from schemas.hashing import hash64, unit_interval
from schemas.models import TRAINING, VOCABULARY
from schemas.tallies import HISTORY
from transforms.devices import CPU
from transforms.embed.families import FAMILIES, SESSION, USER, HeldOut, TrainingData
from transforms.embed.interactions import Interactions, from_listens, from_lists
from transforms.embed.language import TEXT_MODEL, LanguageModel, digest_of
from transforms.embed.text import ITEM_COLUMNS
from transforms.embed.weights import pack
from transforms.histories import exploded
from transforms.id_index import IdIndex
from transforms.judge import judge
from transforms.shards import SAID, Output, Shard, Workspace, read_tables

MAX_INTERACTIONS = 50_000_000
MAX_ITEMS = 5_000_000
HELD_OUT_SHARE = 0.05
"""Of the positives, the latest; what a model is judged on before it is fitted on all of them."""
HELD_OUT_CONTEXTS = 2_000
FINISHED = -1


def number_items(shard: Shard) -> Output:
    """Number what may be recommended, in the vocabulary contract: the most listened to where there are too many."""
    every = shard.read("item", ["item_id", "deleted_at", "rec_eligible"])
    known = every.filter(pl.col("deleted_at").is_null() & pl.col("rec_eligible")).select("item_id")
    counts = [
        read_tables([path], HISTORY, ["positives"])
        .explode("positives")
        .select(pl.col("positives").struct.field("item_id"))
        .drop_nulls()
        .group_by("item_id")
        .len("positives")
        for path in shard.paths("history")
    ]
    played = pl.concat(counts).group_by("item_id").agg(pl.col("positives").sum().cast(pl.Int64))
    unknown = played.join(every, on="item_id", how="anti")
    told = {"positives": int(played["positives"].sum()), "positives_unknown": int(unknown["positives"].sum())}
    items = known.join(played, on="item_id", how="left").with_columns(pl.col("positives").fill_null(0))
    kept = items.sort("positives", "item_id", descending=[True, False]).head(MAX_ITEMS).sort("item_id")
    numbered = kept.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias("number"))
    return Output(numbered.select(VOCABULARY.schema.names), rows_in=known.height, counters=told)


def read_vocabulary(shard: Shard) -> pl.Series:
    """Return the ids of numbered items; an item's number is its place."""
    return shard.read("vocabulary", ["item_id"])["item_id"]


def read_items(shard: Shard, item_ids: pl.Series) -> pl.DataFrame:
    """Return what is known of the numbered items, in the order of their numbers."""
    known = shard.read("item", list(ITEM_COLUMNS), pl.col("item_id").is_in(item_ids.implode()))
    return item_ids.to_frame("item_id").join(known, on="item_id", how="left", maintain_order="left")


def read_listens(
    shard: Shard, share: float = 1.0, unit: str = USER, columns: Sequence[str] = ("positives",)
) -> pl.DataFrame:
    """Return the listens of a sample of users: `key`, `item_id`, `label`, `event_ts`, by key and time.

    Args:
      share: of the users, by the hash of their ids.
      unit: `user`, or `session` for a key per session of a user.
      columns: of the histories, see `exploded`.
    """
    return pl.concat(
        [
            _listens(read_tables([path], HISTORY, ["user_id", *columns]), share, unit, columns)
            for path in shard.paths("history")
        ]
    ).sort("key", "event_ts", maintain_order=True)


def _listens(histories: pl.DataFrame, share: float, unit: str, columns: Sequence[str]) -> pl.DataFrame:
    of_sample = histories.filter(pl.Series(unit_interval(hash64(histories["user_id"].to_arrow())) < share))
    listens = exploded(of_sample, *columns)
    session = pl.concat_str("user_id", pl.lit("\x1f"), pl.col("session_id").fill_null(""))
    key = session if unit == SESSION else pl.col("user_id")
    return listens.select(key.alias("key"), "item_id", "label", "event_ts")


def by_recency(listens: pl.DataFrame, item_ids: pl.Series) -> Interactions:
    """Return a row per key, the key of the oldest last listen first: models may trust recent rows more."""
    last = listens.group_by("key").agg(pl.col("event_ts").max()).sort("key")
    rows = from_listens(listens, last["key"], IdIndex.of(item_ids))
    return rows.take(np.argsort(last["event_ts"].to_numpy(), kind="stable"))


@dataclasses.dataclass(frozen=True, slots=True)
class TimeSplit:
    """Listens before an instant, and examples of what came after.

    Attributes:
      before: the listens before it.
      held_out: contexts and the one item that came next in each; None where nothing did.
      last_feature_us, first_label_us: the latest listen in `before`, the earliest target. Every context ends before its target.
    """

    before: pl.DataFrame
    held_out: HeldOut | None
    last_feature_us: int
    first_label_us: int


def time_split(listens: pl.DataFrame, item_ids: pl.Series) -> TimeSplit:
    """Hold out the last positive of each key in the latest `HELD_OUT_SHARE` of all listens, at most `HELD_OUT_CONTEXTS`.

    One instant for everybody: no model that learns from `before` has seen anything of the time it is judged on.
    """
    instant = listens["event_ts"].quantile(1 - HELD_OUT_SHARE, "lower")
    before, after = listens.filter(pl.col("event_ts") < instant), listens.filter(pl.col("event_ts") >= instant)
    liked = after.filter((pl.col("label") > 0) & pl.col("item_id").is_in(item_ids.implode()))
    targets = liked.group_by("key", maintain_order=True).last()
    chosen = targets.filter(pl.Series(sampled(targets["key"], HELD_OUT_CONTEXTS)))
    label = chosen.select("key", pl.col("event_ts").alias("label_ts"))
    earlier = listens.join(label, on="key", maintain_order="left").filter(pl.col("event_ts") < pl.col("label_ts"))
    chosen = chosen.join(earlier.select("key").unique(), on="key", how="semi", maintain_order="left")
    earlier = earlier.filter(pl.col("key").is_in(chosen["key"].implode()))
    if not (chosen.height and before.height):
        return TimeSplit(listens, None, 0, 0)
    contexts = from_listens(earlier, chosen["key"], IdIndex.of(item_ids))
    numbers = item_ids.search_sorted(chosen["item_id"]).to_numpy()
    held_out = HeldOut(contexts, from_lists([[int(number)] for number in numbers], len(item_ids)))
    return TimeSplit(before, held_out, _micros(before["event_ts"].max()), _micros(chosen["event_ts"].min()))


def sampled(keys: pl.Series, limit: int) -> np.ndarray:
    """Return which keys are in a sample of about `limit`, `(num_keys,) bool`, by their hashes."""
    share = min(1.0, limit / max(len(keys), 1))
    return unit_interval(hash64(keys.to_arrow())) < share


def _micros(instant: Any) -> int:
    assert isinstance(instant, datetime.datetime)
    return int(instant.timestamp() * 1e6)


@dataclasses.dataclass(frozen=True, slots=True)
class StageWatch:
    """Keeps the state of a long fit in the staging folder of its stage, and says there how far it is.

    Attributes:
      what: which of several fits of one task. `device`: what to fit on.
    """

    workspace: Workspace
    what: str
    device: str

    def clock(self) -> float:
        """Return the seconds of the monotonic clock."""
        return time.monotonic()

    def progress(self, line: str) -> None:
        """Replace what was said before."""
        self.workspace.store.write_bytes(f"{self.workspace.staging}/{SAID}", line.encode())

    def save(self, state: bytes) -> None:
        """Replace the state."""
        self.workspace.store.write_bytes(self._state, state)

    def load(self) -> bytes | None:
        """Return the state of a fit that was killed."""
        try:
            return self.workspace.store.read_bytes(self._state)
        except FileNotFoundError:
            return None

    @property
    def _state(self) -> str:
        return f"{self.workspace.staging}/state/{self.what}"


@dataclasses.dataclass(frozen=True)
class Train:
    """Fit one family on the histories; its weights are the artifact `<family>.safetensors`.

    Attributes:
      settings: of the family, JSON; what is left out has its default.
      share: of the users, see `read_listens`.
      workspace: where a long fit says how far it is and keeps its state.
      hold_out: judge the family on the latest part before it is fitted on everything, and settle there what only data
        can settle, when to stop for example. `refit`: fit on everything afterwards.
      language: reads the words of items; None: the family does without.
    """

    workspace: Workspace
    family: str
    settings: Mapping[str, Any]
    seed: int
    share: float
    hold_out: bool
    refit: bool = True
    device: str = CPU
    language: LanguageModel | None = None

    def __call__(self, shard: Shard) -> Output:
        family, item_ids = FAMILIES[self.family](), read_vocabulary(shard)
        items = read_items(shard, item_ids)
        listens = read_listens(shard, self.share, family.unit, family.listens)
        settings, figures, counters = family.settings(**self.settings), [], dict[str, int]()
        whole = StageWatch(self.workspace, "whole", self.device)
        sentences = self.language.read(items, whole.progress) if self.language else None
        model = None
        split = time_split(listens, item_ids) if self.hold_out else None
        if split is not None and split.held_out is not None:
            before = by_recency(split.before, item_ids)
            data = TrainingData(before, items, split.held_out, sentences)
            fitted = family.fit(data, settings, self.seed, StageWatch(self.workspace, "held-out", self.device))
            model, settings = fitted.model, fitted.settings
            judged = judge(model, split.held_out, items, before)
            figures = [*fitted.figures, *((FINISHED, name, value) for name, value in judged.items())]
            counters = {"last_feature_us": split.last_feature_us, "first_label_us": split.first_label_us}
        if model is None or self.refit:
            data = TrainingData(by_recency(listens, item_ids), items, None, sentences)
            model = family.fit(data, settings, self.seed, whole).model
        frame = pl.DataFrame(figures, schema=["epoch", "name", "value"], orient="row").with_columns(
            pl.lit(self.family).alias("family"), pl.col("epoch").cast(pl.Int32), pl.col("value").cast(pl.Float64)
        )
        about = {"family": self.family, "settings": dataclasses.asdict(settings), "seed": self.seed}
        about[TEXT_MODEL] = digest_of(self.language)
        counters |= {
            name: round(1e6 * value) for epoch, name, value in figures if epoch == FINISHED and "[" not in name
        }
        arrays = model.to_arrays()
        floats = [array for array in arrays.values() if array.dtype.kind == "f"]
        counters["weights"] = sum(array.size for array in floats)
        counters["not_finite"] = sum(int((~np.isfinite(array)).sum()) for array in floats)
        return Output(
            frame.select(TRAINING.schema.names).sort("family", "epoch", "name"),
            rows_in=listens.height,
            counters=counters,
            artifacts={f"{self.family}.safetensors": pack(arrays, about)},
        )
