"""A root whose sets were judged by what was played after them."""

import datetime
import json
import shutil
from pathlib import Path

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
