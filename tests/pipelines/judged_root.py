"""A root whose sets were judged by what was played after them."""

import datetime
import functools
import json
import shutil
from pathlib import Path

import polars as pl

from pipelines.batch import record_path
from pipelines.runner import load_manifest
from schemas.manifest import Manifest
from transforms.io.store import LocalStore

DAY = "2026-01-23"
"""The sets of the last day of the small road are judged as if they were of this one: a week of events lies after it."""


def pretend(root: Path, folder: Path, last: datetime.date, day: str = DAY) -> LocalStore:
    """Return a copy of a root whose run of the last day is entered as one of another day, too."""
    shutil.copytree(root, folder)
    store = LocalStore(str(folder))
    store.write_bytes(record_path(day), store.read_bytes(record_path(last.isoformat())))
    return store


def manifest_of(store: LocalStore, name: str) -> Manifest:
    return load_manifest(store, json.loads(store.read_bytes(record_path(DAY)))["manifests"][name])


NEEDED = {
    "event/": ["event_id", "event_ts", "event_type", "user_id", "session_id", "item_id", "label", "market", "is_organic",
               "campaign_id", "private_session", "consent_personalization"],
    "item/": ["item_id", "canonical_id"],
    "proposal/home": ["key", "item_id", "source_id", "source_rank"],
}  # fmt: skip
"""Columns that the loops look at; of sets, the canonical ids of the candidates."""


@functools.cache
def rows_of(store: LocalStore, name: str) -> list[dict]:
    paths = [store.local(file.path) for file in manifest_of(store, name).files]
    rows = pl.concat([pl.read_parquet(path, hive_partitioning=False) for path in paths])
    if name in NEEDED:
        return rows.select(NEEDED[name]).to_dicts()
    ids = pl.col("candidates").list.eval(pl.element().struct.field("canonical_id"))
    return rows.select("record_key", "market", "tier", ids).to_dicts()
