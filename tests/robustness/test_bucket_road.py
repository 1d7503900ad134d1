"""The road on a bucket, of events in another order: the same bytes as in a folder."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from road_folders import YESTERDAY, arguments, contents, published

from jobs import batch
from transforms.io.store import Store, open_store


@pytest.mark.service
@pytest.mark.slow
def test_on_a_bucket_and_in_another_order_of_events_the_road_publishes_the_same_bytes(
    yesterday, bucket, monkeypatch, tmp_path, capsys
):
    raw = tmp_path / "raw"
    shutil.copytree(yesterday.raw, raw)
    shuffle(raw / f"events/date={YESTERDAY}", seed=11)
    assert contents(raw, ("events",)) != contents(yesterday.raw, ("events",))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    options = arguments(raw, f"{bucket}/road", yesterday.policy, YESTERDAY)
    assert batch.main(options) == 0
    store = open_store(f"{bucket}/road")
    assert live_in(store) == published(yesterday.root)
    assert not store.list("staging")
    assert not store.exists("lock.json")
    capsys.readouterr()
    assert batch.main(options) == 0
    assert re.search(r"0 of (\d+) stages ran, \1 unchanged", capsys.readouterr().out)


def shuffle(folder: Path, seed: int) -> None:
    """Deal the events out over three files, in random order."""
    files = sorted(folder.glob("*.parquet"))
    events = pl.concat([pl.read_parquet(file) for file in files]).sample(fraction=1.0, shuffle=True, seed=seed)
    for file in files:
        file.unlink()
    for number in range(3):
        events[number::3].write_parquet(folder / f"dealt-{number}.parquet")


def live_in(store: Store) -> dict[str, str]:
    """Return the sha256 of every pointer and of every data file that its manifest names."""
    found = {}
    for pointer in store.list("live"):
        content = store.read_bytes(pointer)
        manifest = json.loads(store.read_bytes(json.loads(content)["manifest"]))
        for path in (pointer, *(file["path"] for file in manifest["files"])):
            found[path] = hashlib.sha256(store.read_bytes(path)).hexdigest()
    return found
