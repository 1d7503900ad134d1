import random

from transforms.stream.debounce import PAUSE_S, Debounce, Owed


def test_the_first_change_is_due_at_once_and_the_next_after_the_pause():
    debounce = Debounce()
    debounce.add("u", 10.0, "e1")
    assert debounce.due(10.0, 9) == {"u": Owed(10.0, "e1")}
    debounce.settle(["u"], 10.0)
    debounce.add("u", 10.5, "e2")
    debounce.add("u", 10.2, "e3")
    assert debounce.due(11.9, 9) == {}
    assert debounce.wait_s(11.5) == 0.5
    assert debounce.due(12.0, 9) == {"u": Owed(10.2, "e3")}


def test_the_longest_owed_comes_first():
    debounce = Debounce(["before"])
    for user, since in (("b", 3.0), ("a", 3.0), ("c", 1.0)):
        debounce.add(user, since, "e")
    assert list(debounce.due(5.0, 9)) == ["before", "c", "a", "b"]
    assert list(debounce.due(5.0, 2)) == ["before", "c"]


def test_nothing_owed_is_nothing_to_wait_for():
    debounce = Debounce(["u"])
    assert debounce.wait_s(0.0) == 0.0
    debounce.forget(["u"])
    assert debounce.wait_s(0.0) is None
    assert debounce.owed() == []


def test_a_clock_set_back_holds_nobody_up():
    debounce = Debounce()
    debounce.settle(["u"], 1_000.0)
    debounce.add("u", 10.0, "e")
    assert list(debounce.due(10.0, 9)) == ["u"]


def test_no_user_has_more_than_30_sets_a_minute_and_none_waits_longer_than_the_pause():
    rng, debounce, now, last, times = random.Random(7), Debounce(), 0.0, None, []
    for number in range(20_000):
        debounce.add("u", now, str(number))
        last = now if last is None else last
        if debounce.due(now, 9):
            debounce.settle(["u"], now)
            times.append(now)
            assert now - last <= PAUSE_S + 0.1
            last = None
        now += rng.random() * 0.1
    assert len(times) > 400
    assert max(sum(start <= at < start + 60 for at in times[i : i + 40]) for i, start in enumerate(times)) <= 30
