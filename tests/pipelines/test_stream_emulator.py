"""The streaming driver over an emulator that ends while it is at work, and begins anew."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from toy_stream import ToyStep, event

from pipelines.stream import Stream
from pipelines.stream_metrics import Metrics
from transforms.io.broker import EVENTS, SETS, BrokerDown, BrokerError, Message
from transforms.io.emulator import find_emulator, start_emulator
from transforms.io.pubsub import EMULATOR, PubSub
from transforms.io.state_store import StateStore
from transforms.stream.session import APPLIED

PATIENCE_S = 120.0


def until(told: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not told():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S:.0f} s"
        time.sleep(0.05)


def insist(call: Callable[[], None]) -> None:
    """Do as a producer does: try again while the broker is down."""

    def done() -> bool:
        with contextlib.suppress(BrokerDown):
            call()
            return True
        return False

    until(done, "the broker takes what is published")


@contextlib.contextmanager
def at_work(stream: Stream, stop: threading.Event) -> Iterator[None]:
    worker = threading.Thread(target=stream.run)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join(PATIENCE_S)
    assert not worker.is_alive()


@pytest.mark.service
def test_an_emulator_that_is_started_again_is_waited_for_and_nothing_sent_to_it_is_lost(tmp_path, monkeypatch):
    try:
        find_emulator()
    except BrokerError as error:
        pytest.skip(f"NO EMULATOR: {error}")
    said, stop, metrics = list[str](), threading.Event(), Metrics()
    with contextlib.ExitStack() as held:
        first = start_emulator()
        held.callback(first.stop)
        monkeypatch.setenv(EMULATOR, first.address)
        broker, producer = (held.enter_context(contextlib.closing(PubSub(prefix="again"))) for _ in range(2))
        broker.create()
        store = held.enter_context(contextlib.closing(StateStore(tmp_path / "state")))
        stream = Stream(
            broker=broker, store=store, step=ToyStep(), metrics=metrics, code_version="v", reload=lambda: None,
            clock=time.time, stop=stop, say=said.append,
        )  # fmt: skip
        sent = [event(number, f"u{number % 3}") for number in range(60)]
        messages = [Message(json.dumps(one).encode(), {}) for one in sent]
        with at_work(stream, stop):
            producer.publish(EVENTS, messages[:10])
            until(lambda: metrics.total("outcomes", APPLIED) == 10, "what was sent before is applied")
            first.stop()
            until(lambda: any("cannot be reached" in line for line in said), "it says that the broker is gone")
            held.callback(start_emulator(first.address).stop)
            insist(producer.create)  # whoever comes first makes the topics anew
            for start in range(10, 60, 5):
                insist(lambda start=start: producer.publish(EVENTS, messages[start : start + 5]))
            last = dict[str, int]()

            def answered() -> bool:
                for one in producer.pull(SETS, 500, 0.5):
                    user, sequence = one.attributes["user_id"], int(one.attributes["sequence"])
                    last[user] = max(sequence, last.get(user, 0))
                return sorted(sequence % 1_000 for sequence in last.values()) == [20, 20, 20]  # events of each user

            until(answered, "the set of all events of everybody is read")
        users = {one["user_id"] for one in sent}
        states = store.states(users)
        assert last == store.sequences(users)
    assert {id_ for state in states.values() for id_ in json.loads(state)} == {one["event_id"] for one in sent}
    assert metrics.total("outcomes", APPLIED) == 60
    assert metrics.gauge("owed") == 0
    assert metrics.gauge("broker_up") == 1
    told = [line for line in said if line.startswith("the broker ")]
    assert told[0].startswith("the broker cannot be reached, trying again")
    assert told[-1] == "the broker is back"
