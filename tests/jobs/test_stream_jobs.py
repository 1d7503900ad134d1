"""The commands of the stream: together over the emulator, and each with what may be wrong with its arguments."""

import argparse
import contextlib
import json
import os
import signal
import threading
import time
import types
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import apache_beam as beam
import pytest
from memory_broker import Clock, MemoryBroker
from toy_stream import ToyStep, event

from jobs import replay, replay_dlq, stream, watch
from jobs.broker import LINK, own_broker, same_broker, state_folder
from jobs.replay import Pace
from pipelines.delta import DeltaError
from pipelines.inputs import raw_files, raw_tasks
from pipelines.live import FIRST_PAUSE_S, Following
from pipelines.publish import pointer_path
from pipelines.stream_alerts import WINDOW_S, Alerts
from pipelines.stream_metrics import Metrics
from schemas.inputs import EVENT
from transforms.io import emulator as emulators
from transforms.io.broker import DEAD_LETTERS, EVENTS, BrokerError, Message
from transforms.io.pubsub import EMULATOR
from transforms.io.store import LocalStore, StoreError
from transforms.stream.dead_letters import encode_letters, letter
from transforms.stream.messages import Cause
from transforms.stream.rehearse import Mishaps


@pytest.fixture
def raw(tmp_path) -> Path:
    """A raw folder of 40 events of four users, one of which is poison."""
    folder = tmp_path / "raw" / "events"
    folder.mkdir(parents=True)
    events = [event(number, f"u{number % 4}") for number in range(40)] + [event(50, "u1", item_id="poison")]
    (folder / "part.jsonl").write_text("\n".join(json.dumps(one) for one in events))
    return tmp_path / "raw"


@pytest.fixture
def root(tmp_path) -> str:
    store = LocalStore(str(tmp_path / "root"))
    store.write_bytes(pointer_path("now_playing"), b"1")
    return store.root


@pytest.fixture
def no_emulator(monkeypatch):
    monkeypatch.delenv(EMULATOR, raising=False)


@pytest.mark.service
def test_the_commands_work_together(raw, root, no_emulator, capfd, monkeypatch):
    """Stream in this process, which alone may take signals; replay, watch and replay-dlq beside it."""
    try:
        emulators.find_emulator()
    except BrokerError as error:
        pytest.skip(f"NO EMULATOR: {error}")
    ended: dict[str, int] = {}
    monkeypatch.setattr(replay_dlq, "_QUIET_S", 0.5)
    monkeypatch.setattr(watch, "titles", lambda root: lambda ids: {})

    def beside() -> None:
        while not Path(root, "stream", LINK).exists():
            time.sleep(0.05)
        watching = threading.Thread(
            target=lambda: ended.update(watch=watch.main(["--root", root, "--user", "u2", "--sets", "1"])), daemon=True
        )
        watching.start()
        time.sleep(1.0)
        ended["replay"] = replay.main(["--raw", str(raw), "--root", root, "--duplicates", "0.2"])
        watching.join(20)
        ended["first"] = replay_dlq.main(["--root", root])
        time.sleep(0.5)
        ended["second"] = replay_dlq.main(["--root", root])
        os.kill(os.getpid(), signal.SIGTERM)

    def on_broken_deltas(root: str, deltas: tuple | None = None) -> ToyStep:
        if deltas is None:
            raise DeltaError("delta d: its items are gone")
        return ToyStep()

    thread = threading.Thread(target=beside, daemon=True)
    thread.start()
    options = argparse.Namespace(root=root, project=None, state=None, port=0)
    assert stream.run(options, on_broken_deltas) == 0
    thread.join()
    assert ended == {"watch": 0, "replay": 0, "first": 0, "second": 0}
    said = capfd.readouterr()
    assert "serves without what changed in its catalogue since: delta d: its items are gone" in said.err
    assert "applied 40" in said.err.splitlines()[-1]
    assert "u2  after" in said.out
    assert "1  sent again\n" in said.out
    assert "sent again by this version before, in vain; kept" in said.out
    assert not Path(root, "stream", LINK).exists()


@pytest.mark.parametrize(
    ("more", "expected"), [([], ["create", "control", "run"]), (["--update", "--job_name=segue"], ["create", "run"])]
)
def test_a_job_on_dataflow_is_told_of_tombstones_again_unless_it_has_the_state_of_the_one_before(
    monkeypatch, more, expected
):
    done: list[str] = []
    monkeypatch.setattr(beam.Pipeline, "run", lambda self: done.append("run"))
    broker = types.SimpleNamespace(
        create=lambda: done.append("create"), deliver_again=done.append, close=lambda: done.append("close")
    )
    monkeypatch.setattr(stream, "PubSub", lambda project: {"test-proj": broker}[project])
    given = ["--root=gs://bucket/root", "--project=test-proj", "--runner=DataflowRunner", "--region=europe-west1",
             "--temp_location=gs://bucket/tmp", "--no_auth", "--sdk_location=container", "--dry_run=True"]  # fmt: skip
    assert stream.main([*given, *more]) == 0
    assert [call for call in done if call != "close"] == expected
    assert done.index("close") < done.index("run")


def test_without_a_live_bundle_it_says_what_to_run(tmp_path, capsys):
    assert stream.main(["--root", str(tmp_path), "--port", "0"]) == 1
    assert "nothing is live on now_playing under" in capsys.readouterr().err


def test_a_port_that_is_no_number_is_a_bad_argument(capsys):
    with pytest.raises(SystemExit, match="2"):
        stream.main(["--port", "http"])


def test_an_argument_nobody_knows_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        stream.main(["--prot", "9"])
    assert "unknown arguments: --prot 9; those of a Beam runner go with --runner=" in capsys.readouterr().err


def test_the_pointer_is_followed_and_a_refused_bundle_is_not_tried_twice(root):
    opened = []

    def opens(address: str) -> ToyStep:
        opened.append(address)
        if len(opened) == 2:
            raise ValueError("broken bundle")
        return ToyStep(f"b{len(opened)}")

    following = Following(LocalStore(root), opens)
    assert following().bundle == "b1"
    assert following() is None
    LocalStore(root).write_bytes(pointer_path("now_playing"), b"2")
    with pytest.raises(ValueError, match="broken bundle"):
        following()
    assert following() is None
    LocalStore(root).write_bytes(pointer_path("now_playing"), b"3")
    assert following().bundle == "b3"


def passing(how: str) -> Exception:
    if how == "no room for a delta":
        error = DeltaError("delta d: item")
        error.__cause__ = OSError(28, "No space left on device")
        return error
    return {
        "no memory": MemoryError(),
        "no answer": StoreError("gs://b/x did not answer"),
        "killed": BrokenProcessPool(),
    }[how]


@pytest.mark.parametrize("how", ["no memory", "no answer", "killed", "no room for a delta"])
def test_what_may_pass_is_tried_again_after_longer_and_longer_pauses(root, how):
    clock, opened, metrics = Clock(), [], Metrics()

    def opens(address: str) -> ToyStep:
        opened.append(clock.now)
        if len(opened) in (2, 3, 4):
            raise passing(how)
        return ToyStep(f"b{len(opened)}")

    following = Following(LocalStore(root), opens, clock)
    follow = stream._told(following, metrics)
    assert follow().bundle == "b1"
    assert metrics.gauge("bundle_behind") == 0
    LocalStore(root).write_bytes(pointer_path("now_playing"), b"2")
    served = []
    for _ in range(60):
        with contextlib.suppress(DeltaError, MemoryError, StoreError, BrokenProcessPool):
            served.append(follow())
        assert metrics.gauge("bundle_behind") == (len(opened) < 5)
        clock.now += 1
    assert [at - opened[1] for at in opened[1:]] == [0, FIRST_PAUSE_S, 3 * FIRST_PAUSE_S, 7 * FIRST_PAUSE_S]
    assert [step.bundle for step in served if step] == ["b5"]


def test_an_alert_stands_until_what_is_live_is_served(root):
    metrics, alerts, clock = Metrics(), Alerts(), Clock()
    metrics.set("broker_up", 1)

    def opens(address: str) -> ToyStep:
        if LocalStore(root).read_bytes(pointer_path("now_playing")) == b"2":
            raise FileNotFoundError("part-0.parquet")
        return ToyStep()

    following = Following(LocalStore(root), opens, clock)
    follow = stream._told(following, metrics)
    follow()
    LocalStore(root).write_bytes(pointer_path("now_playing"), b"2")
    with pytest.raises(FileNotFoundError):
        follow()
    for _ in range(2):
        assert [one.name for one in alerts.look(metrics, clock.now)] == ["bundle_refused"]
        clock.now += 2 * WINDOW_S
        assert follow() is None, "what is missing stays missing"
    LocalStore(root).write_bytes(pointer_path("now_playing"), b"1")
    assert follow() is None, "it is served already"
    assert alerts.look(metrics, clock.now) == []


def test_a_start_without_its_deltas_tries_them_again_if_that_may_help(root):
    clock, faults = Clock(), [passing("no room for a delta")]

    def opens(address: str, deltas: tuple | None = None) -> ToyStep:
        if deltas is None and faults:
            raise faults.pop()
        return ToyStep("without" if deltas == () else "whole")

    following = Following(LocalStore(root), opens, clock)
    assert following().bundle == "without"
    assert (following.refused, following.behind, following()) == ("delta d: item", True, None)
    clock.now += FIRST_PAUSE_S
    assert following().bundle == "whole"
    assert (following.refused, following.behind, following()) == ("", False, None)


def test_a_bundle_that_cannot_make_a_set_is_refused_before_it_is_in_use(root):
    class Unable(ToyStep):
        def sets(self, states):
            raise LookupError("the index is of another day")

    following = Following(LocalStore(root), lambda _: Unable())
    with pytest.raises(LookupError, match="another day"):
        following()
    assert following() is None


def test_the_checks_end_when_the_stream_does(tmp_path):
    validation = stream.validation_of(str(tmp_path), tmp_path, Metrics(), print)
    process = validation.start()
    (validation.folder / "1-0.tries").write_text("1")
    process.stdin.close()
    assert process.wait(60) == 0
    assert not list(validation.folder.glob("*.tries")), "no minute is blamed for it"


def test_where_state_lies(tmp_path):
    assert state_folder(str(tmp_path)) == tmp_path / "stream"
    assert state_folder("gs://bucket/x", str(tmp_path)) == tmp_path
    with pytest.raises(ValueError, match="name a folder with STATE="):
        state_folder("gs://bucket/x")


def test_without_a_stream_at_work_the_others_say_how_to_start_one(tmp_path, no_emulator):
    with pytest.raises(ValueError, match="start one with `make stream`"), same_broker(str(tmp_path), None):
        pass


def test_without_an_emulator_the_stream_says_how_to_get_one(tmp_path, no_emulator, monkeypatch):
    monkeypatch.setattr(emulators, "_FOLDERS", ())
    monkeypatch.setattr(emulators.shutil, "which", lambda name: None)
    with pytest.raises(BrokerError, match="gcloud components install"), own_broker(tmp_path, None):
        pass


@pytest.mark.parametrize(
    "wrong",
    [["--speed", "fast"], ["--speed", "0x"], ["--rate", "-1"], ["--speed", "1", "--rate", "1"], ["--limit", "-1"]],
)
def test_a_speed_is_a_multiple_and_excludes_a_rate(wrong):
    with pytest.raises(SystemExit, match="2"):
        replay.main(["--raw", "x", *wrong])


def test_a_replay_without_events_says_what_is_missing(root, tmp_path, capsys):
    assert replay.main(["--raw", str(tmp_path / "empty"), "--root", root, "--project", "p"]) == 1
    assert "events" in capsys.readouterr().err


def sent_at(pace: Pace, clock: Clock, at_us: list[int]) -> list[float]:
    times, began = [], clock.now
    while at_us:
        due = pace.due(at_us)
        times += [clock.now - began] * due
        at_us = at_us[due:]
    return times


def test_events_are_due_at_a_multiple_of_the_speed_they_happened_at():
    clock = Clock()
    pace = Pace(20.0, None, clock, clock.wait)
    assert sent_at(pace, clock, [0, 10_000_000, 10_000_000, 60_000_000]) == pytest.approx([0.0, 0.5, 0.5, 3.0])


def test_events_are_due_at_a_rate():
    clock = Clock()
    times = sent_at(Pace(None, 200.0, clock, clock.wait), clock, [0] * 401)
    assert times[-1] == pytest.approx(2.0, abs=0.02)
    assert times == sorted(times)


def test_all_are_due_at_once_where_no_pace_is_asked_for():
    clock = Clock()
    assert sent_at(Pace(None, None, clock, clock.wait), clock, [5, 1_000_000_000]) == [0.0, 0.0]


def test_blocks_of_a_replay_end_with_the_limit(raw):
    store = LocalStore(str(raw))
    tasks = raw_tasks(store, raw_files(store, EVENT, "2026-12-31", required=True), EVENT)
    blocks = list(replay.rehearsals(store, tasks, Mishaps(), 7, 15))
    assert sum(len(block.messages) for block in blocks) == 15


def put_letters(broker: MemoryBroker, count: int) -> None:
    for number in range(count):
        broker.publish(EVENTS, [Message(json.dumps(event(number)).encode(), {})])
    letters = [letter(one, Cause("merge", "ArithmeticError", "why", 3), "v") for one in broker.pull(EVENTS, 100, 0.0)]
    broker.publish(DEAD_LETTERS, [*encode_letters(letters), Message(b"no letter", {})])
    broker.topics[EVENTS].clear()


def test_dead_letters_killed_between_sending_and_acknowledging_are_sent_once(tmp_path):
    clock = Clock()
    broker, store = MemoryBroker(clock), LocalStore(str(tmp_path))
    put_letters(broker, 3)

    def dies(call: str) -> None:
        if call == f"acknowledge {DEAD_LETTERS}":
            raise KeyboardInterrupt

    broker.before = dies
    with pytest.raises(KeyboardInterrupt):
        replay_dlq.repost(broker, store, set())
    broker.before = lambda call: None
    clock.now += 3_600
    assert replay_dlq.repost(broker, store, set()) == {"done": 3, "foreign": 1}
    assert len(broker.topics[EVENTS]) == 3
    assert replay_dlq.repost(broker, store, set()) == {"foreign": 1}
    assert [kept.message.data for kept in broker.topics[DEAD_LETTERS]] == [b"no letter"]


def test_letters_of_erased_users_are_deleted(tmp_path):
    broker = MemoryBroker(Clock())
    put_letters(broker, 2)
    assert replay_dlq.repost(broker, LocalStore(str(tmp_path)), {"u1"}) == {"erased": 2, "foreign": 1}
    assert broker.topics[EVENTS] == []
    assert len(broker.topics[DEAD_LETTERS]) == 1


@pytest.mark.parametrize("remote", [False, True])
def test_letters_of_users_whom_only_the_root_knows_to_be_erased_are_deleted(root, remote, monkeypatch, capsys):
    broker = MemoryBroker(Clock())
    put_letters(broker, 2)
    monkeypatch.setattr(replay_dlq, "same_broker", lambda *_: contextlib.nullcontext(broker))
    monkeypatch.setattr(replay_dlq, "open_store", lambda _: LocalStore(root))
    monkeypatch.setattr(replay_dlq, "erased_users", lambda store: {"u1"} if store.root == root else set())
    assert replay_dlq.main(["--root", "gs://bucket/root" if remote else root]) == 0
    assert "2  of erased users, deleted" in capsys.readouterr().out
    assert broker.topics[EVENTS] == []


def test_a_ledger_that_was_cut_off_is_read_up_to_there(tmp_path):
    store = LocalStore(str(tmp_path))
    store.append_line(replay_dlq.LEDGER, '["a", "b"]')
    store.write_bytes(replay_dlq.LEDGER, store.read_bytes(replay_dlq.LEDGER) + b'["c", "')
    assert replay_dlq._ledger(store, 9.0) == {"a", "b"}
    store.append_line(replay_dlq.LEDGER, '["d", "e", 9]')
    assert replay_dlq._ledger(store, 9.0) == {"a", "b", "d", "e"}, "what was cut off is no part of the next line"


def test_what_was_sent_again_is_forgotten_when_no_letter_of_it_can_be_left(tmp_path):
    clock = Clock()
    broker, store, day = MemoryBroker(clock), LocalStore(str(tmp_path)), 86_400
    store.append_line(replay_dlq.LEDGER, '["of a version before", "x"]')
    put_letters(broker, 3)
    assert replay_dlq.repost(broker, store, set(), clock) == {"again": 3, "foreign": 1}
    marks = replay_dlq._ledger(store, clock() + 27 * day)
    assert len(marks) == 8
    before = store.read_bytes(replay_dlq.LEDGER)
    assert replay_dlq._ledger(store, clock() + 27 * day) == marks
    assert store.read_bytes(replay_dlq.LEDGER) == before
    assert replay_dlq._ledger(store, clock() + 28 * day + 1) == set()
    assert store.read_bytes(replay_dlq.LEDGER) == b""


def test_a_set_is_shown_with_names_and_marks():
    (first,) = ToyStep().sets({"u1": b'{"e": [1769774400000000, "i1"]}'}).to_pylist()
    (second,) = ToyStep().sets({"u1": b'{"e": [1769774400000000, "i1"], "f": [1769774401000000, "i2"]}'}).to_pylist()
    names = {"i2": {"title": "Slow Tide", "artist": "Marlow"}}
    shown = "\n".join(watch.lines(second, first, lambda ids: names, time.time()))
    assert "u1  after Slow Tide by Marlow" in shown
    assert " +  0  Slow Tide by Marlow" in shown
    assert "   1  i1" in shown
    assert "fallback level 0, bundle b1" in shown
