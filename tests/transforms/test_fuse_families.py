"""The fusion's examples: by number, in an order that keeps keys together, and refused where there are none."""

import dataclasses

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from schemas.models import EXAMPLE, VOCABULARY
from transforms.embed.fuse import FusionSettings
from transforms.fuse import Fuse, held_out, numbers, score_blocks, shuffled
from transforms.io.store import open_store
from transforms.shards import Shard, Task

IDS = pl.Series("item_id", ["a", "b", "c"])


def examples(*rows: tuple[str, list[str] | None, list[str]]) -> pl.DataFrame:
    named = [(f"{key}#{place}", key, context, target) for place, (key, context, target) in enumerate(rows)]
    types = {name: pl.List(pl.String) if name in ("context", "target") else pl.String for name in EXAMPLE.schema.names}
    return pl.DataFrame(named, schema=types, orient="row")


def no_files() -> Shard:
    return Shard(Task("00000", 0, {}), open_store("/nowhere"))


def test_items_nobody_numbered_are_left_out_of_contexts_and_missed_as_targets():
    lists = pl.Series([["c", "x"], ["b"], [], ["a", "a"]])
    assert [one.tolist() for one in numbers(lists, IDS)] == [[2], [1], [], [0, 0]]
    assert [one.tolist() for one in numbers(lists, IDS, unknown=3)] == [[2, 3], [1], [], [0, 0]]
    assert numbers(lists.clear(), IDS) == []
    found = held_out(examples(("s", ["x", "b"], ["x", "c"]), ("t", [], ["a"])), no_files(), IDS)
    assert [found.contexts.row(n).tolist() for n in range(2)] == [[1], []]
    assert [found.targets.row(n).tolist() for n in range(2)] == [[3, 2], [0]]
    assert found.contexts.num_items == 3


def test_a_sample_keeps_keys_whole_and_their_examples_in_order():
    many = examples(*((f"key{n % 50}", ["a"], ["b"]) for n in range(500)))
    few = shuffled(many, 100)
    keys = few["key"].unique().to_list()
    assert 0 < len(keys) < 50
    assert few.height == 10 * len(keys)
    assert few["key"].rle_id().n_unique() == len(keys)
    assert shuffled(many.reverse(), 100).equals(few)
    assert shuffled(many, 10_000).height == 500
    assert shuffled(many, 10_000)["key"].to_list() != sorted(many["key"].to_list())


@dataclasses.dataclass(frozen=True)
class OneToThree:
    def score(self, contexts):
        return np.tile(np.arange(1, 4, dtype=np.float32), (len(contexts), 1))


def test_what_a_context_holds_is_left_out_only_where_it_is_to_be():
    asked = held_out(examples(("s", ["c"], ["a"])), no_files(), IDS)
    (kept,) = score_blocks({"m": OneToThree()}, asked, seen_removed=False)
    (removed,) = score_blocks({"m": OneToThree()}, asked, seen_removed=True)
    assert kept.scores["m"].tolist() == [[1, 2, 3]]
    assert removed.scores["m"].tolist() == [[1, 2, -np.inf]]


def test_a_fusion_without_examples_is_refused(tmp_path):
    pq.write_table(VOCABULARY.schema.empty_table(), tmp_path / "vocabulary.parquet")
    shard = Shard(Task("fusion", 0, {"vocabulary": ("vocabulary.parquet",)}), open_store(str(tmp_path)))
    with pytest.raises(ValueError, match="no examples to fit a fusion on"):
        Fuse((), FusionSettings(), seen_removed=True, most=10)(shard)
