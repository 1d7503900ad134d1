import contextlib
import queue
import threading
import time

import pytest

from transforms.io.broker import BrokerDown, Received
from transforms.io.intake import Intake


def message(number):
    return Received(b"", {}, str(number), 0.0, f"ack-{number}")


class Source:
    """A subscription whose pulls end with the first messages there are."""

    def __init__(self, most):
        self.waiting, self.most, self.pulls, self.up = queue.SimpleQueue(), most, 0, True

    def pull(self):
        self.pulls += 1
        if not self.up:
            raise BrokerDown("out of reach")
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self.waiting.get(timeout=0.1))
            while len(found) < self.most:
                found.append(self.waiting.get_nowait())
        return found


def until(happened):
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < 20
        time.sleep(0.005)


@pytest.fixture
def opened():
    intakes = []

    def open_(source, most):
        intakes.append(Intake(source.pull, most, "test"))
        return intakes[-1]

    yield open_
    for one in intakes:
        one.close()
        one.join(5.0)
        assert not one._thread.is_alive()


def test_what_came_while_nobody_asked_is_there_at_once(opened):
    source = Source(40)
    intake = opened(source, 40)
    for number in range(30):
        source.waiting.put(message(number))
        time.sleep(0.002)
    until(lambda: len(intake._held) == 30)
    assert [one.message_id for one in intake.take(40, 0.0)] == [str(number) for number in range(30)]
    assert source.pulls < 15  # not one for each
    assert intake.take(40, 0.0) == []


def test_who_waits_gets_the_first_that_comes(opened):
    source = Source(40)
    intake = opened(source, 40)
    threading.Timer(0.05, lambda: source.waiting.put(message(1))).start()
    assert [one.message_id for one in intake.take(40, 20.0)] == ["1"]


def test_it_fetches_no_more_than_two_batches_ahead(opened):
    source = Source(10)
    for number in range(100):
        source.waiting.put(message(number))
    intake = opened(source, 10)
    until(lambda: len(intake._held) >= 10)
    time.sleep(0.1)
    assert len(intake._held) < 20
    taken = []
    until(lambda: taken.extend(intake.take(10, 0.0)) or len(taken) == 100)
    assert [one.message_id for one in taken] == [str(number) for number in range(100)]


def test_an_outage_is_told_after_what_came_before_it_and_forgotten_when_it_is_over(opened):
    source = Source(10)
    source.waiting.put(message(1))
    intake = opened(source, 10)
    until(lambda: intake._held)
    source.up = False
    until(lambda: intake._failed)
    assert len(intake.take(10, 0.0)) == 1
    with pytest.raises(BrokerDown, match="out of reach"):
        intake.take(10, 20.0)
    pulls, source.up = source.pulls, True
    until(lambda: source.pulls > pulls + 1)
    assert intake.take(10, 0.0) == []
    source.waiting.put(message(2))
    assert [one.message_id for one in intake.take(10, 20.0)] == ["2"]


def test_an_outage_that_nobody_asked_about_is_tried_again(opened):
    source = Source(10)
    source.up = False
    intake = opened(source, 10)
    until(lambda: source.pulls > 2)
    source.up = True
    source.waiting.put(message(1))
    until(lambda: intake._held)
    assert len(intake.take(10, 0.0)) == 1


def test_what_nobody_took_is_given_back(opened):
    source = Source(10)
    source.waiting.put(message(1))
    intake = opened(source, 10)
    until(lambda: intake._held)
    assert [one.message_id for one in intake.close()] == ["1"]
    assert intake.close() == []
