"""The road on a bucket: the same bytes as in a folder."""

import hashlib
import json
import re

import pytest
from road_folders import YESTERDAY, arguments, published

from jobs import batch
from transforms.io.store import Store, open_store


@pytest.mark.service
@pytest.mark.slow
def test_on_a_bucket_the_road_publishes_the_bytes_it_publishes_in_a_folder(
    yesterday, bucket, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    options = arguments(yesterday.raw, f"{bucket}/road", yesterday.policy, YESTERDAY)
    assert batch.main(options) == 0
    store = open_store(f"{bucket}/road")
    assert live_in(store) == published(yesterday.root)
    assert not store.list("staging")
    assert not store.exists("lock.json")
    capsys.readouterr()
    assert batch.main(options) == 0
    assert re.search(r"0 of (\d+) stages ran, \1 unchanged", capsys.readouterr().out)


def live_in(store: Store) -> dict[str, str]:
    """Return the sha256 of every pointer and of every data file that its manifest names."""
    found = {}
    for pointer in store.list("live"):
        content = store.read_bytes(pointer)
        manifest = json.loads(store.read_bytes(json.loads(content)["manifest"]))
        for path in (pointer, *(file["path"] for file in manifest["files"])):
            found[path] = hashlib.sha256(store.read_bytes(path)).hexdigest()
    return found
