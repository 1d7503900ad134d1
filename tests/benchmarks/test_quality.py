"""The whole benchmark on a folder with a pattern in it, by its own command."""

import json

import numpy as np
import polars as pl

from benchmarks.quality import main
from pipelines.bundle import demand_servable
from pipelines.runner import load_manifest
from transforms.embed.fuse import Fusion
from transforms.io.store import open_store


def test_a_folder_with_tastes_in_it_is_ranked_far_above_chance(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = [(user, int(item)) for user in range(200) for item in rng.choice(30, 14, replace=False) + 30 * (user % 4)]
    frame = pl.DataFrame(rows, schema=["user", "item"], orient="row")
    part = pl.Series(rng.permutation(frame.height) % 10)
    (tmp_path / "data").mkdir()
    frame.filter(part > 1).write_parquet(tmp_path / "data/train.parquet")
    frame.filter(part == 0).write_parquet(tmp_path / "data/test.parquet")
    given = ["--kind", "pairs", "--data", str(tmp_path / "data"), "--families", "spectral,graph_filter"]
    assert main([*given, "--work", str(tmp_path / "work"), "--json", str(tmp_path / "found.json")]) == 0
    (found,) = json.loads((tmp_path / "found.json").read_text()).values()
    chance = 20 / 120
    assert found["test"]["blend"]["R@20"] > 3 * chance
    assert found["apart"] < 1e-9
    assert set(found["test"]) == {"spectral", "graph_filter", "blend", "spectral, re-scored"}
    assert "what each adds" in capsys.readouterr().out
    store = open_store(str(tmp_path / "work/data/root"))
    bundle = demand_servable(store, found["bundle"])
    assert set(bundle.parts) == {"vocabulary", "fusion", "spectral", "graph_filter"}
    fused = load_manifest(store, bundle.parts["fusion"].manifest)
    fusion = Fusion.from_bytes(store.read_bytes(fused.artifact("fusion.json").path))
    assert bundle.metrics == {f"nDCG@20 of {form}": round(figure, 6) for form, figure in fusion.figures.items()}
