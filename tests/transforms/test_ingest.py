import collections
import dataclasses
import datetime
import json
import random
from pathlib import Path

import polars as pl
import pytest
from toy_road import table

from pipelines.inputs import raw_files, raw_tasks
from pipelines.runner import run_beam
from schemas.candidates import REJECTION
from schemas.catalogue import CONTRACTS
from schemas.contract import Contract
from schemas.hashing import shard_of
from schemas.inputs import EVENT, ITEM, USER
from transforms.ingest import (
    EmitEvents,
    EmitRows,
    IngestEvents,
    MergeEvents,
    MergeRows,
    Refuse,
    _id_task,
    deduplicate,
    find_repeats,
    label_events,
)
from transforms.io.store import LocalStore
from transforms.io.tables import conform, write_parquet
from transforms.shards import Task, Workspace, emit_parts, merge_parts, staged_entries

SHARDS = 3
NOON = datetime.datetime(2026, 1, 30, 12, tzinfo=datetime.UTC)
NAMES = {f"{shard:05d}" for shard in range(SHARDS)}


def raw_event(event_id: str, user: str = "u1", minute: float = 0, **columns) -> dict:
    at = NOON + datetime.timedelta(minutes=minute)
    return {
        "event_id": event_id, "schema_version": 1, "event_type": "play", "event_ts": at.isoformat(),
        "ingest_ts": (at + datetime.timedelta(seconds=5)).isoformat(), "user_id": user, "session_id": "s",
        "item_id": "i1", "item_type": "track", "ms_played": 40_000, "item_duration_ms": 200_000, "market": "SE",
    } | columns  # fmt: skip


def later(event: dict, seconds: float, **columns) -> dict:
    """Return a copy that was received later."""
    received = datetime.datetime.fromisoformat(event["ingest_ts"]) + datetime.timedelta(seconds=seconds)
    return event | {"ingest_ts": received.isoformat()} | columns


@dataclasses.dataclass
class Ingested:
    rows: pl.DataFrame
    rejected: pl.DataFrame
    entries: list[dict]
    files: dict[str, bytes]

    @property
    def counters(self) -> dict[str, int]:
        total: collections.Counter = collections.Counter()
        for entry in self.entries:
            total.update(entry["counters"])
        return dict(total)

    def account(self) -> dict[str, int]:
        """Return what became of the lines; the sum of all but `lines` must be `lines`."""
        given = {"lines": sum(entry["rows_in"] for entry in self.entries), "rows": self.rows.height}
        fates = {name: n for name, n in self.counters.items() if name in ("duplicates", "erased")}
        return given | {"rejected": self.rejected.height} | fates


class Folder:
    """A raw folder and a root beside it; the work of a stage without Beam around it."""

    def __init__(self, path: Path, contract: Contract = EVENT) -> None:
        self.raw, self.contract = LocalStore(str(path / "raw")), contract
        self.space = Workspace(str(path / "root"), "staging/x", "k", contract.name, f"ingest_{contract.name}", "v1")
        self.store = self.space.store
        self.known: dict[str, tuple[str, ...]] = {}

    def lines(self, name: str, lines: list[dict | bytes]) -> "Folder":
        encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        self.raw.write_bytes(f"{self.contract.name}s/{name}.jsonl", b"\n".join(encoded) + b"\n")
        return self

    def knows(self, dataset: str, rows: list[dict]) -> "Folder":
        frame = table(dataset, rows)
        self.store.put(write_parquet(conform(frame, CONTRACTS[dataset])), f"{dataset}.parquet")
        self.known[dataset] = (f"{dataset}.parquet",)
        return self

    def tasks(self) -> tuple[Task, ...]:
        files = raw_files(self.raw, self.contract, "2026-01-31", required=True)
        return raw_tasks(self.raw, files, self.contract)

    def targets(self) -> dict[str, Task]:
        return {name: Task(name, int(name), self.known) for name in sorted(NAMES)}

    def ingest(self, refuse: Refuse | None = None) -> Ingested:
        emit = EmitEvents(SHARDS, "v1") if self.contract is EVENT else EmitRows(self.contract, SHARDS, "v1")
        merge = MergeEvents("v1") if self.contract is EVENT else MergeRows(self.contract, "v1", refuse)
        parts = [part for task in self.tasks() for part in emit_parts(task, self.space, emit)]
        by_id: dict = collections.defaultdict(list)
        for target, (kind, path) in parts:
            by_id[target].extend([(kind, path)] if kind == "ids" else [])
        for target, ids in by_id.items():
            parts += emit_parts(_id_task(target, ids), self.space, find_repeats) if ids else []
        for name in sorted(NAMES):
            group = [part for target, part in parts if target == name and part[0] != "ids"]
            merge_parts((name, group), self.space, merge, self.targets())
        return self.result()

    def result(self) -> Ingested:
        entries = staged_entries(self.store, "staging/x")
        paths = {e["name"]: self.store.local(f"staging/x/part-{e['name']}.parquet") for e in entries}
        refused = [self.store.local(f"staging/x/rejected/part-{e['name']}.parquet") for e in entries if e["rejections"]]
        empty = pl.from_arrow(REJECTION.schema.empty_table())
        return Ingested(
            pl.concat([pl.read_parquet(path) for path in paths.values()]),
            pl.concat([empty, *(pl.read_parquet(path) for path in refused)]),
            entries,
            {name: Path(path).read_bytes() for name, path in paths.items()},
        )


def users_of_two_shards() -> tuple[str, str]:
    names = pl.Series([f"u{n}" for n in range(20)])
    shards = shard_of(names.to_arrow(), SHARDS)
    return names[0], next(name for name, shard in zip(names, shards) if shard != shards[0])


def test_a_copy_received_later_is_a_duplicate(tmp_path):
    event = raw_event("e1")
    found = Folder(tmp_path).lines("a", [later(event, 60), event]).lines("b", [later(event, 30)]).ingest()
    assert found.account() == {"lines": 3, "rows": 1, "rejected": 0, "duplicates": 2, "erased": 0}
    assert found.rows["ingest_ts"].to_list() == [NOON + datetime.timedelta(seconds=5)], "the first copy stays"


def test_another_payload_under_one_id_is_a_conflict_wherever_it_stands(tmp_path):
    event = raw_event("e1")
    found = Folder(tmp_path).lines("a", [later(event, 60, item_id="i2"), event]).ingest()
    assert found.rows["item_id"].to_list() == ["i1"]
    (refused,) = found.rejected.to_dicts()
    assert (refused["rule"], refused["source"], refused["position"]) == ("event_id:conflict", "events/a.jsonl", 0)
    assert "received earlier with another payload" in refused["detail"]
    assert '"item_id":"i2"' in refused["payload"]
    assert "user_id" not in refused["payload"]


def test_one_id_under_users_of_two_shards_is_a_conflict_for_all_but_the_first_received(tmp_path):
    one, other = users_of_two_shards()
    event = raw_event("e1", user=one)
    folder = Folder(tmp_path).lines("a", [later(event, 60, user_id=other), later(event, 90, user_id=other)])
    found = folder.lines("b", [event, raw_event("e2", user=other)]).ingest()
    assert sorted(found.rows.select("event_id", "user_id").rows()) == [("e1", one), ("e2", other)]
    assert found.account() == {"lines": 4, "rows": 2, "rejected": 1, "duplicates": 1, "erased": 0}
    assert found.rejected["rule"].to_list() == ["event_id:conflict"]


def test_users_who_asked_for_erasure_leave_no_event(tmp_path):
    folder = Folder(tmp_path).lines("a", [raw_event(f"e{n}", user=f"u{n}") for n in range(4)])
    folder.knows("user", [{"user_id": "u1", "deletion_requested_at": NOON}, {"user_id": "u2"}])
    folder.knows("tombstone", [
        {"entity": "user", "id": "u3", "reason": "erasure", "effective_ts": NOON},
        {"entity": "item", "id": "u0", "reason": "takedown", "effective_ts": NOON},
    ])  # fmt: skip
    found = folder.ingest()
    assert sorted(found.rows["user_id"]) == ["u0", "u2"]
    assert found.account() == {"lines": 4, "rows": 2, "rejected": 0, "duplicates": 0, "erased": 2}


def test_events_of_users_who_were_not_delivered_are_counted_by_date(tmp_path):
    """Whoever is erased leaves no event, and one that is delivered twice is one."""
    day = 24 * 60
    rows = [raw_event("e0", "u1"), raw_event("e1", "who"), raw_event("e2", "who", day), raw_event("e3", "else", day),
            raw_event("e4", "gone")]  # fmt: skip
    folder = Folder(tmp_path).lines("a", [*rows, rows[1]])
    folder.knows("user", [{"user_id": "u1"}, {"user_id": "gone", "deletion_requested_at": NOON}])
    counted = {name: n for name, n in folder.ingest().counters.items() if "user" in name}
    assert counted == {
        "users_known": 2 * SHARDS, "events_of_unknown_users:2026-01-30": 1, "events_of_unknown_users:2026-01-31": 2,
    }, "every shard is given the same two users here"  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"schema_version": 2}, "schema_version:between"),
        ({"event_type": "sing"}, "event_type:one_of"),
        ({"user_id": ""}, "user_id:required"),
        ({"item_id": None}, "item_id:required"),
        ({"event_ts": "2026-01-30T12:10:00Z", "ingest_ts": "2026-01-30T12:00:00Z"}, "event_ts:not_after:ingest_ts"),
        ({"ms_played": None}, "ms_played:required_when:event_type"),
        ({"ms_played": 1_000_000}, "ms_played:at_most:item_duration_ms"),
        ({"ms_played": "long"}, "ms_played:type"),
        ({"market": "Sweden"}, "market:max_length"),
        ({"session_id": "s" * 201}, "session_id:max_length"),
        ({"event_ts": "0000-01-01T00:00:00Z", "event_type": "sing"}, "event_ts:type"),
    ],
)
def test_a_broken_row_is_rejected_under_the_rule_it_broke(changed, rule, tmp_path):
    found = Folder(tmp_path).lines("a", [raw_event("good"), raw_event("bad", minute=1, **changed)]).ingest()
    assert found.rows["event_id"].to_list() == ["good"]
    assert found.rejected.select("dataset", "stage", "rule", "position", "code_version").rows() == [
        ("event", "ingest_event", rule, 1, "v1")
    ]
    assert sum(entry["rejected"].get(rule, 0) for entry in found.entries) == 1


def test_a_private_value_that_breaks_a_rule_is_not_shown(tmp_path):
    found = Folder(tmp_path).lines("a", [raw_event("e", user="x" * 201)]).ingest()
    (refused,) = found.rejected.to_dicts()
    assert "xxx" not in json.dumps(refused, default=str)
    assert refused["detail"] == "user_id=a private value"


def test_only_bad_lines_leave_an_empty_dataset_and_every_line_accounted_for(tmp_path):
    found = Folder(tmp_path).lines("a", [b"{", b"[]", b"null", b'{"event_id": 1']).ingest()
    assert (found.rows.height, found.account()["lines"], found.rejected.height) == (0, 4, 4)
    assert set(found.rejected["rule"]) == {"decode:malformed"}
    assert found.rows.columns == EVENT.schema.names


def dirty_lines(seed: int, count: int = 400) -> list[bytes]:
    """Return lines of a few users with duplicates, conflicts in and across shards, bad rows and bad lines."""
    rng = random.Random(seed)
    lines = []
    for number in range(count):
        event = raw_event(f"e{number}", f"u{rng.randrange(9)}", rng.randrange(3000), item_id=f"i{rng.randrange(20)}")
        if rng.random() < 0.3:
            event.pop("session_id")
        lines.append(event)
        kind = rng.randrange(10)
        lines += [later(event, rng.randrange(100))] * (kind == 0)
        lines += [later(event, rng.randrange(100), item_id="other")] * (kind == 1)
        lines += [later(event, rng.randrange(100), user_id=f"u{rng.randrange(9)}")] * (kind == 2)
        lines += [event | {"event_id": f"b{number}", "ms_played": -1}] * (kind == 3)
        lines += [b'{"event_id": "cut' + str(number).encode()] * (kind == 4)
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    rng.shuffle(encoded)
    return encoded


@pytest.mark.parametrize("seed", [1, 2])
def test_every_line_is_accounted_for_and_the_order_of_lines_and_files_changes_no_byte(seed, tmp_path):
    lines = dirty_lines(seed)
    one = Folder(tmp_path / "one").knows("user", [{"user_id": "u3", "deletion_requested_at": NOON}]).lines("a", lines)
    found = one.ingest()
    account = found.account()
    assert account["lines"] == len(lines) == sum(account.values()) - account["lines"]
    assert min(account["duplicates"], account["erased"]) > 0
    assert set(found.rejected["rule"]) == {"decode:malformed", "event_id:conflict", "ms_played:between"}
    assert found.rows["event_id"].is_unique().all()
    random.Random(seed + 100).shuffle(lines)
    other = Folder(tmp_path / "other").knows("user", [{"user_id": "u3", "deletion_requested_at": NOON}])
    for number in range(3):
        other.lines(f"part-{number}", lines[number::3])
    again = other.ingest()
    assert again.files == found.files
    assert again.account() == account


def test_each_file_holds_one_day_of_one_shard_in_order_of_user_and_time(tmp_path):
    found = Folder(tmp_path).lines("a", dirty_lines(3)).ingest()
    for entry in found.entries:
        rows = found.rows.filter(
            (pl.col("event_date").cast(pl.String) == entry["event_date"])
            & (pl.Series(shard_of(found.rows["user_id"].to_arrow(), SHARDS)) == entry["shard"])
        )
        assert entry["name"] == f"{entry['event_date']}-{entry['shard']:05d}"
        assert rows.height == entry["file"]["rows"] > 0
        assert rows.equals(rows.sort("user_id", "event_ts", "event_id"))


def test_the_pipeline_equals_the_same_work_without_beam(tmp_path):
    lines = dirty_lines(5, 100)
    alone = Folder(tmp_path / "alone").lines("a", lines[:60]).lines("b", lines[60:]).ingest()
    folder = Folder(tmp_path / "beam").lines("a", lines[:60]).lines("b", lines[60:])
    run_beam(folder.tasks(), IngestEvents(folder.space, folder.targets()), [])
    found = folder.result()
    assert found.files == alone.files
    assert [entry | {"file": None} for entry in found.entries] == [entry | {"file": None} for entry in alone.entries]


def test_sessions_are_derived_where_the_producer_gave_none(tmp_path):
    minutes = [0, 10, 41, 71, 101.5]
    lines = [raw_event(f"e{n}", minute=minute, session_id=None) for n, minute in enumerate(minutes)]
    named = raw_event("named", minute=5, session_id="mine")
    found = Folder(tmp_path).lines("a", [*lines, named, raw_event("x", user="u2", session_id=None)]).ingest()
    sessions = dict(found.rows.sort("event_ts").select("event_id", "session_id").rows())
    start = int(NOON.timestamp() * 1000)
    first, second, third = f"u1@{start}", f"u1@{start + 41 * 60_000}", f"u1@{start + 6_090_000}"
    assert sessions == {
        "e0": first, "e1": first, "named": "mine", "e2": second, "e3": second, "e4": third, "x": f"u2@{start}",
    }  # fmt: skip


def test_labelled_events_follow_date_user_and_time():
    rows = [("u2", 0), ("u1", 1500), ("u1", 0)]
    raw = [raw_event(f"e{n}", user, minute) for n, (user, minute) in enumerate(rows)]
    given = table(
        "event", [r | {k: datetime.datetime.fromisoformat(r[k]) for k in ("event_ts", "ingest_ts")} for r in raw]
    )
    labelled = label_events(given.select(EVENT.given_columns()))
    assert labelled["event_id"].to_list() == ["e2", "e0", "e1"]
    assert labelled["label"].to_list() == [0.5] * 3
    assert labelled.columns == EVENT.schema.names


def test_no_conflicts_elsewhere_change_nothing():
    events = pl.DataFrame({"event_id": ["a"], "ingest_ts": [NOON], "__source": ["f"], "__position": [0]})
    kept, lost = deduplicate(events, pl.DataFrame())
    assert (kept.height, lost.height) == (1, 0)


def test_of_two_rows_of_one_item_the_one_updated_last_stays(tmp_path):
    folder = Folder(tmp_path, ITEM)
    old = {"item_id": "i1", "item_type": "track", "title": "Old", "updated_at": "2026-01-01T00:00:00Z"}
    new = old | {"title": "New", "updated_at": "2026-01-02T00:00:00Z"}
    found = folder.lines("a", [new, old, new | {"title": "Clash"}, old]).ingest()
    (row,) = found.rows.to_dicts()
    (refused,) = found.rejected.to_dicts()
    assert {row["title"], json.loads(refused["payload"])["title"]} == {"New", "Clash"}
    assert refused["rule"] == "item_id:conflict"
    assert found.counters["duplicates"] == 2
    assert (row["canonical_id"], row["explicit"], row["rec_eligible"]) == ("i1", True, True)


def test_an_item_s_text_hash_changes_with_its_text_only(tmp_path):
    one = {"item_id": "a", "item_type": "track", "title": "T"}
    rows = [one, one | {"item_id": "b", "duration_ms": 5}, one | {"item_id": "c", "title": "U"}]
    found = Folder(tmp_path, ITEM).lines("a", rows).ingest().rows.sort("item_id")["text_hash"].to_list()
    assert found[0] == found[1] != found[2]


def test_a_snapshot_counts_what_its_checks_ask_for(tmp_path):
    one = {"item_id": "a", "item_type": "track", "description": "d", "availability": [{"market": "se"}]}
    found = Folder(tmp_path, ITEM).lines("a", [one]).ingest().counters
    assert (found["items_of_strange_markets"], found["items_of:track"], found["eligible_in:*"]) == (1, 1, 0)
    assert "refused" not in found


def test_what_another_dataset_forbids_is_rejected_with_its_rule_and_counted(tmp_path):
    folder = Folder(tmp_path, USER).lines("a", [{"user_id": f"u{n}"} for n in range(4)])

    def refuse(rows, shard):
        return rows.filter(user_id="u1").with_columns(rule=pl.lit("user_id:known"), detail=pl.lit("user_id=u1"))

    found = folder.ingest(refuse)
    assert sorted(found.rows["user_id"]) == ["u0", "u2", "u3"]
    assert found.rejected.select("rule", "detail", "source").rows() == [
        ("user_id:known", "user_id=u1", "users/a.jsonl")
    ]
    assert found.counters["refused"] == 1


def test_snapshot_lines_are_accounted_for(tmp_path):
    rows = [{"user_id": f"u{n % 5}", "tier": "gold" if n == 6 else "free"} for n in range(10)]
    found = Folder(tmp_path, USER).lines("a", [*rows, b"{"]).ingest()
    account = found.account()
    assert account == {"lines": 11, "rows": 5, "rejected": 2, "duplicates": 4}
    assert found.rows["user_id"].is_unique().all()
