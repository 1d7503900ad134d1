"""Home overlays over a published root: what a set is made of, and what becomes of a run."""

import dataclasses
import functools
import html
import json
from pathlib import Path

import jsonschema
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from memory_broker import Clock, MemoryBroker
from toy_heard import NOON, heard, skip
from toy_road import days_ago, table

from jobs.explain import lines
from jobs.options import build_runner
from pipelines.explain import explain
from pipelines.live import live_on, open_home
from pipelines.overlay import overlay_home, overlays_path, read_overlays, release
from pipelines.publish import Pointer, PublishError, pointer_path
from pipelines.records import Question
from pipelines.report import gather
from pipelines.report_page import render
from pipelines.runner import load_manifest
from pipelines.tombstone_scan import reached
from schemas.candidates import CANDIDATE_SET, sequence_of
from schemas.manifest import CheckResult, Manifest
from transforms.embed.inference import Embedder
from transforms.embed.vectors import EncoderFiles
from transforms.io.broker import SETS, BrokerDown
from transforms.io.state_store import Commit, StateStore
from transforms.io.store import LocalStore, Store, StoreError, open_store
from transforms.model_bundle import ModelBundle
from transforms.recommend import Recommend
from transforms.retrieve import retrieve_users
from transforms.shards import Shard, Task
from transforms.stream.messages import decode_set, supersedes
from transforms.stream.overlay import LEFT_TO_BASE
from transforms.stream.session import MOST, Window
from transforms.stream.sets import HOUR_US
from validation.rows import split_rows

HOURS = 60
TOMORROW = 12 * HOURS + 30
"""Minutes from the noon of the last day to half past midnight: the batch knows nothing of it."""


@pytest.fixture(scope="module")
def home(small_road, tmp_path_factory):
    store = open_store(str(small_road.root))
    return open_home(store, tmp_path_factory.mktemp("home"), live_on(store, "home"))


@pytest.fixture(scope="module")
def tracks(home) -> list[str]:
    plain = (pl.col("item_type") == "track") & pl.col("availability").is_null() & ~pl.col("explicit")
    return sorted(home.bundle.read("item", ["item_id"], plain)["item_id"])[:20]


@pytest.fixture(scope="module")
def listeners(home) -> list[str]:
    users = home.bundle.read("user").filter(
        pl.col("deletion_requested_at").is_null() & ~pl.col("personalization_opt_out").fill_null(False)
    )
    gone = home.bundle.held["tombstone"]["id"]
    return users.filter(~pl.col("user_id").is_in(gone.implode()))["user_id"].sort().head(12).to_list()


@pytest.fixture(scope="module")
def windows(listeners, tracks) -> dict[str, Window]:
    """Return windows of all: listener n heard three tracks and skipped one, in hour n % 3 of the next day."""
    return {
        user: Window.of(
            [
                *(heard(TOMORROW + HOURS * (n % 3) + m, f"{user}-{m}", item_id=tracks[(n + m) % 20]) for m in range(3)),
                skip(TOMORROW + HOURS * (n % 3) + 3, event_id=f"{user}-s", item_id=tracks[(n + 7) % 20]),
            ]
        )
        for n, user in enumerate([*listeners, "nobody-knows-me"])
    }


def records(sets: pa.Table) -> dict[str, dict]:
    return {row["record_key"]: row for row in sets.to_pylist()}


def offered(row: dict) -> list[str]:
    return [one["item_id"] for one in row["candidates"]]


@pytest.fixture(scope="module")
def made(home, windows):
    return home(windows)


def test_a_set_says_what_it_knows_and_ends_with_the_set_it_lies_on(home, windows, made, small_road):
    assert made.sets.schema.equals(CANDIDATE_SET.schema)
    assert split_rows(pl.from_arrow(made.sets), CANDIDATE_SET)[1].height == 0
    assert set(records(made.sets)) == set(windows)
    base = json.loads((small_road.root / pointer_path("home")).read_bytes())
    for user, row in records(made.sets).items():
        assert (row["surface"], row["run_mode"], row["base_run_id"]) == ("home", "stream", base["run"])
        assert row["sequence"] == windows[user].sequence > home.base_sequence
        assert row["expires_at"] == home.bundle.instant.expires_at
        assert row["effective_from"] <= row["source_watermark"] < row["expires_at"]
        assert len(row["candidates"]) >= home.policy.minimum_size
    assert len(set(made.sets["candidate_set_id"].to_pylist())) == made.sets.num_rows


def test_who_is_beside_a_listener_changes_nothing(home, windows, made):
    alone = [home({user: window}).sets for user, window in sorted(windows.items())]
    assert pa.concat_tables(alone).equals(made.sets)


def test_a_set_is_what_the_batch_road_makes_of_the_longer_history(home, windows, made, small_road, tmp_path):
    """The oracle: the history with the day's events, embedded as a batch embeds it, through the batch road's two functions."""
    known = home.bundle.lookup("history", "user_id", pl.Series(sorted(windows)))
    user = known["user_id"][0]
    history, market = lengthened(known.head(1), windows[user]), pl.lit("SE").alias("market")
    given = dict(home.bundle.shard.task.inputs)
    files = EncoderFiles(given["encoder"][0], given["encoder_vocabulary"])
    vectors = Embedder.load(home.bundle.shard.store, files).users(history)
    told = {"user_id": user, "space_id": home.bundle.space.id, "made_from": 0, "vector": vectors[0].tolist()}
    frames = {
        "user": home.bundle.lookup("user", "user_id", pl.Series([user])).with_columns(market),
        "history": history.with_columns(market),
        "user_embedding": table("user_embedding", [told]),
    }

    def shard(**more: pl.DataFrame) -> Shard:
        for name, frame in more.items():
            frame.write_parquet(tmp_path / f"{name}.parquet")
            given[name] = (str(tmp_path / f"{name}.parquet"),)
        return Shard(Task("oracle", 0, given), home.bundle.shard.store)

    bundle, instant = home.bundle, home._instant(windows[user].heard[-1].event_ts // HOUR_US)
    opened = functools.partial(
        ModelBundle, space=bundle.space, instant=bundle.instant, code_version=bundle.code_version
    )
    given["calibration"] = given["calibration_home"]
    proposed = retrieve_users(shard(**frames), home.sources, home.policy, instant, opened)
    every = dict(home.sources) | dict(home.group_sources)
    recommend = Recommend(home.policy, instant, every, home.provenance)
    (batch,) = recommend.users(shard(proposal=proposed.frame)).frame.to_pylist()
    row = records(made.sets)[user]
    assert row["candidates"] == batch["candidates"]
    assert {"home.two_tower", "home.sequence"} <= {one["source_id"] for c in row["candidates"] for one in c["sources"]}


def lengthened(history: pl.DataFrame, window: Window) -> pl.DataFrame:
    """Return one history with the events of a window at its end."""

    def column(name: str, sign: int) -> pl.Series:
        rows = [one for one in window.events if one.label * sign > 0]
        listens = [(one.item_id, one.item_type, one.event_ts, one.label, one.session_id) for one in rows]
        before = history.select(pl.col(name).explode()).drop_nulls().unnest(name)
        after = pl.DataFrame(listens, schema=before.schema, orient="row") if listens else before.clear()
        return pl.concat([before, after]).to_struct(name).implode()

    return history.with_columns(column("positives", 1), column("skips", -1))


def test_the_history_goes_on_and_so_does_what_is_made_of_it(home, windows, made):
    user = home.bundle.lookup("history", "user_id", pl.Series(sorted(windows)))["user_id"][0]
    row, window = records(made.sets)[user], windows[user]
    discovered = [c["item_id"] for c in row["candidates"] if c["familiarity"] != "known"]
    assert not {one.item_id for one in window.events} & set(discovered), "what was just heard is no discovery"
    assert window.events[-1].item_id not in offered(row), "what was just skipped is not offered"
    more = Window.of([*window.heard, heard(TOMORROW + 3 * HOURS, "more", item_id=offered(row)[0])])
    (later,) = home({user: more}).sets.to_pylist()
    assert later["sequence"] > row["sequence"]
    assert offered(later) != offered(row)


def test_who_is_left_to_the_batch_set(home, windows, tracks):
    yesterday = Window.of([heard(0, item_id=tracks[0])])
    flood = Window.of(heard(TOMORROW + n / 100, item_id=tracks[n % 20]) for n in range(MOST + 1))
    too_late = Window.of([heard(TOMORROW + 36 * HOURS, item_id=tracks[0])])
    unknown = Window.of([heard(TOMORROW, item_id="never-heard-of")])
    users = home.bundle.read("user").filter(pl.col("deletion_requested_at").is_null())
    silent = users.filter(pl.col("personalization_opt_out"))["user_id"][0]
    asked = {
        "knows": yesterday,
        "machine": flood,
        "expired": too_late,
        "nobody": unknown,
        silent: windows["nobody-knows-me"],
    }
    made = home(asked)
    assert made.sets.num_rows == 0
    assert made.counters[LEFT_TO_BASE] == 1, "charts are what the batch has for whoever is unknown too"


def test_what_is_taken_down_is_in_no_set_and_who_is_erased_has_none(home, windows, made):
    user, other = sorted(windows)[:2]
    item = offered(records(made.sets)[user])[0]
    gone = [{"entity": "item", "id": item, "reason": "licence", "effective_ts": days_ago(0)},
            {"entity": "user", "id": other, "reason": "erasure", "effective_ts": days_ago(0)}]  # fmt: skip
    left = home.without(table("tombstone", gone))(windows)
    assert set(records(left.sets)) == set(windows) - {other}
    assert all(item not in offered(row) for row in left.sets.to_pylist())


@dataclasses.dataclass
class Hour:
    """A published root with a stream's state beside it."""

    store: Store
    state: Path
    tables: Path
    broker: MemoryBroker

    def hear(self, windows: dict[str, Window]) -> None:
        states = StateStore(self.state)
        touched = {user: window.heard[-1].event_ts for user, window in windows.items()}
        states.commit(Commit({user: one.to_bytes() for user, one in windows.items()}, touched, {}, frozenset(), 0))
        states.close()

    def run(self):
        runner = build_runner(self.store, "2026-01-31", [], None, {})
        return overlay_home(runner, self.state, self.tables, self.broker)

    @property
    def sent(self) -> list[dict]:
        return [decode_set(message.data) for message in self.broker.published[SETS]]


@pytest.fixture
def hour(copy_road, tmp_path) -> Hour:
    return Hour(open_store(str(copy_road.root)), tmp_path / "state", tmp_path / "tables", MemoryBroker(Clock()))


def kept(store: Store) -> list[dict]:
    """Return what overlays hold, in order."""
    named = read_overlays(store, "home")
    files = [file for path in named.manifests for file in load_manifest(store, path).files] if named else []
    return [row for file in files for row in pq.read_table(store.local(file.path)).to_pylist()]


def test_a_run_commits_sends_and_names_what_is_news_and_a_second_one_does_nothing(hour, windows, made):
    hour.hear(windows)
    done = hour.run()
    assert (done.asked, done.sets.rows_out) == (13, 13)
    assert {check.outcome for check in done.sets.checks if check.severity == "critical"} <= {"passed", "skipped"}
    assert sorted(kept(hour.store), key=lambda row: row["record_key"]) == made.sets.to_pylist()
    assert {one["record_key"]: one["sequence"] for one in hour.sent} == {u: w.sequence for u, w in windows.items()}
    assert {message.attributes["surface"] for message in hour.broker.published[SETS]} == {"home"}
    assert reached(hour.store)[done.sets.path].how == "live", "an audit looks at it"
    _explained(hour.store, done.sets, hour.sent[0])
    _reported(hour.store, done.sets)
    before = hour.store.read_bytes(overlays_path("home"))
    assert (hour.run().asked, len(hour.sent), hour.store.read_bytes(overlays_path("home"))) == (0, 13, before)
    user = sorted(windows)[0]
    hour.hear({user: Window.of([*windows[user].heard, heard(TOMORROW + 4 * HOURS, "new", item_id="t")])})
    assert hour.run().asked == 1, "only who listened since"
    assert [one["record_key"] for one in hour.sent[13:]] == [user]
    newest = max((row for row in kept(hour.store) if row["record_key"] == user), key=lambda row: row["sequence"])
    assert newest["sequence"] == hour.sent[-1]["sequence"]


def test_windows_that_cannot_be_read_cost_only_their_listeners_a_set(hour, windows):
    user, other, third = sorted(windows)[:3]
    hour.hear({user: windows[user]})
    states = StateStore(hour.state)
    touched = dict.fromkeys((other, third), windows[user].heard[-1].event_ts)
    states.commit(Commit({other: b"[0]", third: b"\x00"}, touched, {}, frozenset(), 0))
    states.close()
    done = hour.run()
    assert (done.asked, done.unreadable.windows) == (1, 2)
    assert f"of {other}: expected a window of format 2, came b'[0]'" in done.unreadable.why
    assert [one["record_key"] for one in hour.sent] == [user]
    assert hour.run().unreadable.windows == 2, "it is said again until somebody sees to it"


def _explained(store: Store, sets: Manifest, record: dict) -> None:
    """What serves is explained, unless the date of the batch is named."""
    question = Question("home", record["record_key"])
    answer = explain(store, question)
    assert (answer["published"]["manifest"], answer["published"]["live"]) == (sets.path, True)
    assert [one["item_id"] for one in answer["set"]["candidates"]] == offered(record)
    assert "overlay" in "\n".join(lines(answer))
    there, missing = offered(record)[0], sorted(set(_items(store)) - set(offered(record)))[0]
    for item, verdict in ((there, "in"), (missing, "unknown")):
        about = explain(store, dataclasses.replace(question, item_id=item))
        jsonschema.validate(
            json.loads(json.dumps(about)), json.loads(Path("schemas/explanation.schema.json").read_text())
        )
        assert (about["item"]["verdict"], about["verification"]["outcome"]) == (verdict, "unavailable")
    batch = explain(store, dataclasses.replace(question, date="2026-01-31"))
    assert batch["published"]["manifest"] != sets.path


def _reported(store: Store, sets: Manifest) -> None:
    """The page of the batch's date shows them beside its own."""
    report = gather(store, sets.date)
    view = report.surfaces[-1]
    assert (view.name, view.sets.path, len(view.examples)) == ("home_overlay", sets.path, 12)
    said = html.unescape(render(report))
    assert "live beside the batch's, the last of 1 made since" in said
    assert "whoever listened since the batch, in blend order" in said


def _items(store: Store) -> list[str]:
    files = live_on(store, "home").parts["item"].files
    return [item for file in files for item in pq.read_table(store.local(file.path))["item_id"].to_pylist()]


def test_a_run_that_is_cut_off_anywhere_is_made_good_with_the_same_bytes(hour, windows, monkeypatch):
    some = {user: windows[user] for user in sorted(windows)[:2]}
    hour.hear(some)
    hour.broker.down_until = hour.broker.clock.now + 5
    with pytest.raises(BrokerDown):
        hour.run()
    assert read_overlays(hour.store, "home") is None, "what was not sent is not named"
    hour.broker.clock.now += 10
    monkeypatch.setattr(LocalStore, "write_bytes", _fails_on(overlays_path("home")))
    with pytest.raises(OSError, match="cut off"):
        hour.run()
    monkeypatch.undo()
    hour.run()
    messages = [message.data for message in hour.broker.published[SETS]]
    assert (len(messages), len(set(messages))) == (4, 2), "sent twice, with the same bytes"
    assert len(kept(hour.store)) == 2


def _fails_on(path: str):
    real = LocalStore.write_bytes

    def write(self, name: str, content: bytes) -> None:
        if name == path:
            raise OSError("cut off")
        real(self, name, content)

    return write


def test_readers_keep_an_overlay_over_an_older_batch_and_a_newer_batch_over_it(home, windows):
    overlay = {"sequence": windows["nobody-knows-me"].sequence, "expires_at": "2026-02-02"}
    older = {"sequence": home.base_sequence, "expires_at": "2026-02-02"}
    newer = {"sequence": sequence_of(NOON + 36 * HOUR_US - 1, 0), "expires_at": "2026-02-01"}  # knows the whole day
    assert supersedes(overlay, older)
    assert not supersedes(older, overlay)
    assert supersedes(newer, overlay)
    assert not supersedes(overlay, newer)


def test_a_new_base_retires_the_overlays_of_the_one_before(hour, windows):
    user = sorted(windows)[0]
    hour.hear({user: windows[user]})
    old = hour.run().sets
    live = json.loads(hour.store.read_bytes(pointer_path("home")))
    sets = load_manifest(hour.store, live["manifest"])
    newer = dataclasses.replace(sets, run="0" * 16)
    hour.store.write_bytes(newer.path, newer.to_json().encode())
    told = json.dumps(live | {"manifest": newer.path, "run": newer.run}).encode()
    hour.store.write_bytes(pointer_path("home"), told)
    with pytest.raises(PublishError, match=r"named .* when the overlay was begun .* run it again"):
        release(hour.store, Pointer(**live), old, hour.broker)
    assert hour.store.exists(old.path)
    again = hour.run()
    assert again.asked == 1, "what was heard since the new base's watermark counts over the new base"
    assert read_overlays(hour.store, "home").manifests == (again.sets.path,)
    assert kept(hour.store)[0]["base_run_id"] == newer.run
    assert not hour.store.list(old.path.removesuffix("/manifest.json"))


def test_an_hour_in_which_everybody_is_left_to_the_batch_is_a_good_one(hour):
    hour.hear({"nobody": Window.of([heard(TOMORROW, item_id="never-heard-of")])})
    done = hour.run()
    assert (done.asked, done.sets.rows_out, hour.sent) == (1, 0, [])
    assert hour.run().asked == 0, "and is not asked about again"


def test_what_did_not_pass_its_checks_is_not_published(hour):
    live = live_on(hour.store, "home")
    bad = dataclasses.replace(
        live.sets, checks=(CheckResult("empty_sets", "statistics", "critical", "failed", 1.0, "0"),)
    )
    with pytest.raises(PublishError, match="critical checks did not pass: empty_sets"):
        release(hour.store, live.pointer, bad, hour.broker)
    with pytest.raises(PublishError, match="none is recorded"):
        release(hour.store, live.pointer, dataclasses.replace(bad, checks=()), hour.broker)
    assert hour.sent == []


def test_no_state_and_a_damaged_pointer_are_said(hour):
    with pytest.raises(StoreError, match=r"no stream has kept its state in .* start one with `make stream`"):
        hour.run()
    hour.store.write_bytes(overlays_path("home"), b"{")
    with pytest.raises(PublishError, match=r"home-overlays.json names no overlays .* make overlay makes them again"):
        hour.run()
