"""The matrix factorisation of the ladder against the same products taken one by one."""

from pathlib import Path

import numpy as np
import polars as pl
from toy_road import listen, shard, table

from schemas.evaluation import FACTORS
from transforms.embed.families import FAMILIES
from transforms.embed.implicit_als import AlsSettings, fit_implicit_als
from transforms.embed.interactions import from_lists
from transforms.embed.weights import pack
from transforms.evaluation import DEPTH
from transforms.evaluation_factors import factored
from transforms.shards import Shard, Task

LIKED = {"u0": [0, 1, 2], "u1": [3, 4], "u2": [0, 5, 1], "u3": []}
NUM_ITEMS = 8
IDS = [f"i{n}" for n in range(NUM_ITEMS)]


def world(folder: Path) -> tuple[Shard, pl.DataFrame]:
    """Return a task with fitted factors, and users with their histories."""
    model = fit_implicit_als(from_lists(list(LIKED.values()), NUM_ITEMS), AlsSettings(dim=4), 1)
    numbered = [{"item_id": one, "number": n, "positives": 1} for n, one in enumerate(IDS)]
    made = shard(folder, {"vocabulary": table("vocabulary", numbered)})
    made.store.write_bytes("als.safetensors", pack(model.to_arrays(), {}))
    task = Task("toy", 0, dict(made.task.inputs) | {FACTORS: ("als.safetensors",)})
    users = [
        {"user_id": user, "positives": [listen(IDS[n], days=60 - at) for at, n in enumerate(own)]}
        for user, own in LIKED.items()
    ]
    return Shard(task, made.store), table("history", users).select("user_id", "positives")


def everything(users: list[str]) -> pl.DataFrame:
    """Want every item there is, under its own name."""
    units = pl.DataFrame({"key": users}).with_row_index("unit")
    return units.join(pl.DataFrame({"item_id": IDS, "canonical_id": IDS}), how="cross")


def test_places_are_those_of_products_taken_one_by_one(tmp_path):
    made, users = world(tmp_path)
    model = fit_implicit_als(from_lists(list(LIKED.values()), NUM_ITEMS), AlsSettings(dim=4), 1)
    scores = model.score(from_lists(list(LIKED.values()), NUM_ITEMS))
    found = factored(made, users, everything(["u0", "u1", "u2", "u3"]))
    for unit, liked in enumerate(list(LIKED.values())[:3]):
        left = [n for n in np.argsort(-scores[unit], kind="stable") if n not in liked]
        own = found.filter(pl.col("unit") == unit).sort("rank")
        assert own["canonical_id"].to_list() == [IDS[n] for n in left], "what was liked is left out"
        assert own["rank"].to_list() == list(range(len(left)))
    assert found.filter(pl.col("unit") == 3).is_empty(), "who liked nothing has no factors"
    assert set(found["ranking"]) == {FACTORS}
    assert found["rank"].max() < DEPTH


def test_it_is_a_family_that_can_be_trained():
    assert FACTORS in FAMILIES


def test_a_task_without_factors_finds_nothing(tmp_path):
    made, users = world(tmp_path)
    bare = Shard(Task("toy", 0, {"vocabulary": ("vocabulary.parquet",)}), made.store)
    assert factored(bare, users, everything(["u0"])).is_empty()
