"""Steps whose answer is plain: a state is the events so far, a set its last items and a digest of all."""

import dataclasses
import datetime
import json
import zlib
from collections.abc import Mapping

import polars as pl
import pyarrow as pa
from memory_broker import MemoryBroker
from toy_road import FIELDS

from schemas.candidates import CANDIDATE_SET
from transforms.io.broker import EVENTS, SETS, Message
from transforms.stream.messages import decode_set, supersedes
from transforms.stream.session import APPLIED, CONFLICT, DUPLICATE, PRIVATE, Window
from transforms.stream.sessions import merge_events
from transforms.stream.step import REASON, Merged

BEGIN = datetime.datetime(2026, 1, 30, 12, tzinfo=datetime.UTC)


def event(number: int, user: str = "u1", **columns) -> dict:
    """Return a raw event, `number` seconds after `BEGIN`."""
    at = BEGIN + datetime.timedelta(seconds=number)
    return {
        "event_id": f"{user}-e{number}", "schema_version": 1, "event_type": "play", "event_ts": at.isoformat(),
        "ingest_ts": (at + datetime.timedelta(seconds=1)).isoformat(), "user_id": user, "session_id": "s",
        "item_id": f"i{number % 7}", "item_type": "track", "ms_played": 40_000, "item_duration_ms": 200_000, "market": "SE",
    } | columns  # fmt: skip


def send(broker: MemoryBroker, *events: dict | bytes) -> None:
    payloads = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in events]
    broker.publish(EVENTS, [Message(payload, {}) for payload in payloads])


def published(broker: MemoryBroker) -> list[dict]:
    """Return the sets published so far, in order."""
    return [decode_set(message.data) for message in broker.published[SETS]]


def final(broker: MemoryBroker) -> dict[str, bytes]:
    """Return what a consumer is left with: by user, the set of the highest sequence."""
    kept: dict[str, tuple[dict, bytes]] = {}
    for message in broker.published[SETS]:
        found = decode_set(message.data)
        known = kept.get(found["user_id"])
        if known and known[0]["sequence"] == found["sequence"]:
            assert known[1] == message.data, "one sequence, two sets"
        if not known or supersedes(found, known[0]):
            kept[found["user_id"]] = found, message.data
    return {user: data for user, (_, data) in kept.items()}


@dataclasses.dataclass
class ToyStep:
    """Raises on the item `poison`, and on making the set of a user `broken`."""

    bundle: str = "b1"
    merges: int = 0
    gone: frozenset = frozenset()

    def merge(self, states: Mapping[str, bytes | None], events: pl.DataFrame) -> Merged:
        self.merges += 1
        known = {user: json.loads(state or b"{}") for user, state in states.items()}
        before = {user: json.dumps(state, sort_keys=True) for user, state in known.items()}
        counts, dead, counted = {}, [], []
        for row in events.sort("event_id").iter_rows(named=True):
            if row["item_id"] == "poison":
                raise ArithmeticError("the item is poison")
            outcome = self._apply(known[row["user_id"]], row)
            counts[outcome] = counts.get(outcome, 0) + 1
            dead += [row["__position"]] if outcome == CONFLICT else []
            counted += [row["__position"]] if outcome == APPLIED else []
        after = {user: json.dumps(state, sort_keys=True) for user, state in known.items()}
        changed = {user: state.encode() for user, state in after.items() if state != before[user]}
        lost = events.filter(pl.col("__position").is_in(dead)).with_columns(pl.lit(CONFLICT).alias(REASON))
        return Merged(changed, counts, lost, sorted(changed), frozenset(counted))

    def _apply(self, state: dict, row: dict) -> str:
        if row["private_session"]:
            return PRIVATE
        told = [int(row["event_ts"].timestamp() * 1e6), row["item_id"]]
        if (known := state.get(row["event_id"])) is not None:
            return DUPLICATE if known == told else CONFLICT
        state[row["event_id"]] = told
        return APPLIED

    def without(self, tombstones: pl.DataFrame) -> "ToyStep":
        return dataclasses.replace(self, gone=self.gone | set(tombstones["id"]))

    def sets(self, states: Mapping[str, bytes]) -> pa.Table:
        if "broken" in states:
            raise LookupError("no set for this one")
        return pa.Table.from_pylist([self._set(user, state) for user, state in states.items()], CANDIDATE_SET.schema)

    def heard(self, state: bytes) -> list[list]:
        """Return time, us since 1970, and item of what a state knows of, in order."""
        return sorted(json.loads(state).values())

    def _set(self, user: str, state: bytes) -> dict:
        told = self.heard(state)
        last = datetime.datetime.fromtimestamp(told[-1][0] / 1e6, datetime.UTC)
        items = [item for item in dict.fromkeys(item for _, item in reversed(told)) if item not in self.gone][:5]
        sequence = told[-1][0] * 1000 + len(told)
        return FIELDS | {
            "candidate_set_id": f"{user}-{sequence}-{zlib.crc32(state)}", "contract_version": "1.0.0", "record_key": user,
            "user_id": user,
            "surface": "now_playing", "context_key": "", "market": "SE", "tier": "*", "run_mode": "stream",
            "context": {"seed_item_id": items[0], "last_event_ts": last}, "generated_at": last, "effective_from": last,
            "expires_at": last + datetime.timedelta(minutes=30), "sequence": sequence, "source_watermark": last,
            "bundle_id": self.bundle, "exploration_policy": {"id": "none", "slots": 0, "seed": 0},
            "fallback_level": 0, "degraded_reasons": [],
            "counts": {"in": len(items), "filtered_by_rule": [], "out": len(items)},
            "candidates": [_candidate(item, position) for position, item in enumerate(items)],
        }  # fmt: skip


class WindowStep(ToyStep):
    """Keeps windows, as sessions do."""

    def merge(self, states: Mapping[str, bytes | None], events: pl.DataFrame) -> Merged:
        return merge_events(states, events)

    def heard(self, state: bytes) -> list[list]:
        return [[one.event_ts, one.item_id] for one in Window.from_bytes(state).heard]


def _candidate(item: str, position: int) -> dict:
    return {
        "item_id": item, "item_type": "track", "canonical_id": item, "position": position, "blend_score": 0.5,
        "sources": [], "is_exploration": False, "propensity": 1.0, "familiarity": "known", "is_fresh": False,
        "reason_code": "toy",
    }  # fmt: skip


def sets(*users: str) -> pa.Table:
    """Return a set of each user."""
    told = json.dumps({"e": [int(BEGIN.timestamp() * 1e6), "i1"]}).encode()
    return ToyStep().sets(dict.fromkeys(users, told))
