"""The driver and the checks beside it, without a process: what is handed over, what comes back, and what goes wrong."""

import json

import pytest
from memory_broker import Clock, MemoryBroker
from toy_stream import BEGIN, ToyStep, event, send

from pipelines import stream_validation
from pipelines.stream import Stream
from pipelines.stream_metrics import Metrics
from pipelines.stream_validation import DAY, STUCK_S, Validation, read_ledger, verdict
from schemas.stream import VERDICT
from transforms.io.broker import DEAD_LETTERS, SETS, VERDICTS
from transforms.io.state_store import StateStore
from transforms.stream.spool import waiting, write_verdict


class Beside:
    """A process that ends when told to."""

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.code = -9


class Watched:
    """A stream with checks beside it."""

    def __init__(self, folder) -> None:
        self.clock, self.said, self.started = Clock(BEGIN.timestamp() + 3600), [], []
        self.broker, self.metrics, self.folder = MemoryBroker(self.clock), Metrics(), folder / "checks"
        self.validation = Validation(self.folder, self.start, self.metrics, "v", self.said.append)
        self.stream = Stream(
            broker=self.broker, store=StateStore(folder), step=ToyStep(), metrics=self.metrics, code_version="v",
            reload=lambda: None, clock=self.clock, stop=self.clock, say=self.said.append, validation=self.validation,
        )  # fmt: skip

    def start(self) -> Beside:
        self.started.append(Beside())
        return self.started[-1]

    def run(self, seconds: float = 1.0) -> None:
        for _ in range(2):
            self.clock.now += seconds / 2
            self.stream.tick()

    def minutes(self) -> dict[tuple[str, ...], int]:
        return self.metrics.by_label("validation_minutes")


@pytest.fixture
def watched(tmp_path):
    made = Watched(tmp_path)
    yield made
    made.stream.store.close()


def test_every_set_of_a_minute_is_handed_over_and_the_verdict_is_published_once(watched):
    send(watched.broker, event(1), event(2, "u2"))
    watched.run()
    assert watched.started == []
    watched.run(60)
    (name,) = waiting(watched.folder)
    assert len(watched.started) == 1
    done = verdict(name, "failed", "v", severity="critical", sets=2, checks=9, failed=["a:b"], bundles=["b1"])
    write_verdict(watched.folder, name, done, keep=False)
    watched.run()
    watched.run()
    (message,) = watched.broker.published[VERDICTS]
    found = json.loads(message.data)
    assert found == done
    assert found.keys() == set(VERDICT.schema.names)
    assert watched.minutes() == {("failed",): 1}
    assert watched.metrics.total("validation_sets") == 2
    assert watched.metrics.total("validation_failures", "a:b", "critical") == 1
    assert read_ledger(watched.folder) == [done]
    assert any("failed, a:b" in line for line in watched.said)
    assert watched.metrics.gauge("validation_lag_seconds") == 0


def test_a_verdict_that_was_not_published_comes_again(watched):
    send(watched.broker, event(1))
    watched.run(120)
    (name,) = waiting(watched.folder)
    write_verdict(watched.folder, name, verdict(name, "passed", "v"), keep=False)

    def dies(call: str) -> None:
        if call == f"publish {VERDICTS}":
            raise KeyboardInterrupt

    watched.broker.before = dies
    with pytest.raises(KeyboardInterrupt):
        watched.run()
    watched.broker.before = lambda call: None
    watched.run()
    assert len(watched.broker.published[VERDICTS]) == 1


@pytest.mark.parametrize("left", [b"", b'{"minute": "2026', b"[]", b"\xff"])
def test_a_verdict_that_cannot_be_read_is_of_checks_that_could_not_run(watched, left):
    send(watched.broker, event(1))
    watched.run(120)
    (name,) = waiting(watched.folder)
    write_verdict(watched.folder, name, verdict(name, "passed", "v"), keep=False)
    (watched.folder / f"{name}.json").write_bytes(left)
    watched.run()
    watched.run()
    (found,) = (json.loads(one.data) for one in watched.broker.published[VERDICTS])
    assert found.keys() == set(VERDICT.schema.names)
    assert (found["outcome"], found["severity"]) == ("broken", "critical")
    assert f"{name}.json cannot be read" in found["detail"]
    assert watched.minutes() == {("broken",): 1}
    assert any("broken, " in line and "cannot be read" in line for line in watched.said)
    assert not list(watched.folder.glob("*.json"))


def test_lines_of_the_ledger_that_cannot_be_read_are_left_out_and_said(watched, caplog):
    done = verdict("000000001-0000", "passed", "v")
    (watched.folder / "verdicts.jsonl").write_bytes(
        b'{"minute": "20\n' + json.dumps(done).encode() + b'\n\x00\x00\n{"sets":'
    )
    watched.validation.settle({"000000002-0000": verdict("000000002-0000", "passed", "v")})
    assert "3 lines cannot be read" in caplog.text
    assert [one["minute"] for one in read_ledger(watched.folder)] == [
        "1970-01-01T00:01:00+00:00",
        "1970-01-01T00:02:00+00:00",
    ]


def test_checks_that_end_are_started_again_after_longer_and_longer_pauses(watched):
    send(watched.broker, event(1))
    watched.run(120)

    def look(after: float) -> int:
        watched.clock.now += after
        watched.validation.look(watched.clock.now)
        return len(watched.started)

    for number, pause in enumerate((1, 2, 4), 1):
        watched.started[-1].code = 1
        assert look(0) == number
        assert look(pause - 0.1) == number
        assert look(0.2) == number + 1
    assert watched.metrics.total("validation_restarts") == 3
    assert any("the checks ended with 1, see" in line for line in watched.said)


def test_checks_that_are_stuck_are_ended(watched):
    send(watched.broker, event(1))
    watched.run(120)
    watched.run(STUCK_S + 2)
    assert watched.started[0].code == -9
    assert any("at one minute for 600 s" in line for line in watched.said)


def test_more_minutes_than_may_wait_are_unchecked_and_said(watched, monkeypatch):
    monkeypatch.setattr(stream_validation, "MOST_WAITING", 4)
    first = ""
    for minute in range(4 + 3):
        send(watched.broker, event(minute, f"u{minute}"))
        watched.run(60)
        first = first or next(iter(waiting(watched.folder)), "")
    watched.run(60)
    assert len(waiting(watched.folder)) == 4
    assert waiting(watched.folder)[0] == first, "the oldest may be at work"
    assert watched.minutes()[("unchecked",)] >= 1
    assert watched.metrics.gauge("validation_lag_seconds") > 180
    assert any("5 minutes wait" in line for line in watched.said)
    found = json.loads(watched.broker.published[VERDICTS][0].data)
    assert (found["outcome"], found["severity"], found["sets"]) == ("unchecked", "critical", 0)


def test_a_disk_that_is_full_stops_no_set(watched, monkeypatch):
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watched.validation._spool, "add", full)
    send(watched.broker, event(1))
    watched.run()
    send(watched.broker, event(2, "u2"))
    watched.run(3)
    assert len(watched.broker.published[SETS]) == 2
    assert watched.minutes() == {("unchecked",): 1}
    assert any("No space left on device" in line for line in watched.said)


def test_a_minute_that_cannot_be_handed_over_is_unchecked(watched, monkeypatch):
    send(watched.broker, event(1))
    watched.run()

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watched.validation._spool, "close", full)
    watched.run(120)
    assert watched.minutes() == {("unchecked",): 1}
    assert any("could not be handed over" in line for line in watched.said)


def test_the_ledger_holds_a_day(watched):
    done = [verdict(f"{minute:09d}-0000", "passed", "v") for minute in range(DAY + 5)]
    for start in range(0, len(done), 500):
        watched.validation.settle({str(n): one for n, one in enumerate(done[start : start + 500])})
    found = read_ledger(watched.folder)
    assert found[-1] == done[-1]
    assert DAY <= len(found) <= DAY + 500


def test_a_ledger_that_cannot_be_written_is_said(watched):
    (watched.folder / "verdicts.jsonl").mkdir()
    watched.validation.settle({"000000001-0000": verdict("000000001-0000", "passed", "v")})
    assert any("verdicts could not be written" in line for line in watched.said)


class Careless(ToyStep):
    """Offers one item twice."""

    def _set(self, user: str, state: dict) -> dict:
        made = super()._set(user, state)
        twice = [made["candidates"][0], {**made["candidates"][0], "position": 1}]
        return made | {"candidates": twice, "counts": made["counts"] | {"out": 2}}


def test_a_set_that_breaks_a_rule_is_a_dead_letter_and_not_published(watched):
    watched.stream.step = Careless()
    send(watched.broker, event(1))
    watched.run()
    assert watched.broker.published[SETS] == []
    (letter,) = (json.loads(one.data) for one in watched.broker.published[DEAD_LETTERS])
    assert (letter["stage"], letter["error_class"]) == ("sets", "candidates:items_once")
    assert watched.metrics.total("dead_letters", "sets", "candidates:items_once") == 1
