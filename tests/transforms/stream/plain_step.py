"""A step that another process opens in a second or two: what computes real sets is not imported."""

import dataclasses
import json
import os
from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from transforms.stream.step import Merged


@dataclasses.dataclass(frozen=True)
class PlainStep:
    """A state is the items so far, a set those that are not gone; raises on making the set of a user `broken`."""

    bundle: str = "b1"
    gone: frozenset[str] = frozenset()

    def merge(self, states: Mapping[str, bytes | None], events: pl.DataFrame) -> Merged:
        heard = {user: json.loads(state or b"[]") for user, state in states.items()}
        for user, item in events.select("user_id", "item_id").iter_rows():
            heard[user].append(item)
        return Merged({user: json.dumps(items).encode() for user, items in heard.items()}, {}, events.clear(), [*heard])

    def without(self, tombstones: pl.DataFrame) -> "PlainStep":
        return dataclasses.replace(self, gone=self.gone | set(tombstones["id"]))

    def sets(self, states: Mapping[str, bytes]) -> pa.Table:
        """Return `user_id`, `items`, and `made_by`, the process."""
        if "broken" in states:
            raise LookupError("no set for this one")
        items = [[item for item in json.loads(state) if item not in self.gone] for state in states.values()]
        return pa.table({"user_id": [*states], "items": items, "made_by": [os.getpid()] * len(states)})


class Unable(PlainStep):
    def sets(self, states: Mapping[str, bytes]) -> pa.Table:
        raise LookupError("the index is of another day")


class Forgetful(PlainStep):
    def without(self, tombstones: pl.DataFrame) -> PlainStep:
        raise MemoryError
