"""Whom nothing may be kept of, as a root knows it."""

import polars as pl

from pipelines.batch import dates_with, read_record
from pipelines.runner import load_manifest
from schemas.catalogue import CONTRACTS
from transforms.io.store import Store
from transforms.shards import read_tables

_WHO = {
    "tombstone": ("id", pl.col("entity") == "user"),
    "user": ("user_id", pl.col("deletion_requested_at").is_not_null()),
}


def erased_users(store: Store) -> set[str]:
    """Return the users under a tombstone and those who asked to be deleted, by the latest date whose road was run.

    What a stream was told since is in its own state. Memory: their ids.
    """
    found = set[str]()
    for day in dates_with(store, "record.json")[-1:]:
        manifests = (read_record(store, day) or {"manifests": {}})["manifests"]
        for name, (column, where) in _WHO.items():
            if path := manifests.get(f"{name}/"):
                files = [store.local(file.path) for file in load_manifest(store, path).files]
                found |= set(read_tables(files, CONTRACTS[name], [column], where)[column])
    return found
