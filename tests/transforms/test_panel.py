"""Sources that fail or dawdle cost their own proposals and nothing else, and it is told why."""

import dataclasses
import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import pytest
from toy_road import audience, policy, quota, table

from schemas.models import SpaceMismatch
from transforms.conformance import MemoryBundle
from transforms.io.store import StoreError, open_store
from transforms.panel import LEFT_OUT, Panel, reasons_of
from transforms.reach import World
from transforms.shards import Output, Shard, Task
from transforms.sources import Source, none_found
from transforms.stream import sets

BLOCKS = [audience([{"key": "ann"}, {"key": "bob"}]), audience([{"key": "cid"}])]
TASK = Task("00003", 3, {})


def of_item(item_id: str):
    def propose(audience, bundle):
        rows = audience.keys.select("key", pl.lit(item_id).alias("item_id"), pl.lit(1.0).alias("raw_score"))
        return pl.concat([none_found(), rows], how="diagonal").with_columns(pl.col("seed_item_ids").fill_null([]))

    return propose


def source(propose) -> Source:
    return Source(propose, "kind", "toy", "reason", 9)


def fails_for(key: str, error: Exception):
    def propose(audience, bundle):
        if key in audience.keys["key"].to_list():
            raise error
        return of_item("bad")(audience, bundle)

    return propose


def asked(sources, clock=lambda: 0.0, seconds=10.0) -> Output:
    shard = Shard(TASK, open_store("/nowhere"))
    return Panel(sources, seconds, clock).output(shard, BLOCKS, MemoryBundle({}), 3)


def rows(output: Output) -> list[tuple]:
    return pl.DataFrame(output.frame).select("key", "source_id", "item_id").rows()


ONE = 133
"""The bin of a score of 1."""
ALONE = {"asked": 3, "answered:good": 3, f"scores:good:{ONE}": 3}
GOOD = [(key, "good", "a") for key in ("ann", "bob", "cid")]


def test_sources_that_answer_are_not_spoken_of():
    found = asked({"good": source(of_item("a"))})
    assert rows(found) == GOOD
    assert (found.rows_in, found.counters, found.artifacts) == (3, ALONE, {})


def test_what_each_source_took_is_told_beside_what_is_committed():
    ticks = iter(range(100))
    found = asked({"good": source(of_item("a")), "other": source(of_item("b"))}, lambda: float(next(ticks)))
    assert found.spent == {"good": len(BLOCKS), "other": len(BLOCKS)}, "a tick for every block"
    assert (found.counters, found.artifacts) == (ALONE | {"answered:other": 3, f"scores:other:{ONE}": 3}, {})


def test_proposals_are_by_key_source_and_item_whatever_order_they_come_in():
    def backwards(audience, bundle):
        return pl.concat([of_item(one)(audience, bundle).reverse() for one in ("b", "a")])

    found = asked({"z": source(of_item("a")), "good": source(backwards)})
    assert rows(found) == [
        (key, name, one) for key in ("ann", "bob", "cid") for name, one in (("good", "a"), ("good", "b"), ("z", "a"))
    ]


def test_a_source_is_counted_for_whom_it_proposes_anything():
    def twice_for_bob(audience, bundle):
        found = [of_item(one)(audience, bundle) for one in ("a", "b")]
        return pl.concat(found).filter(pl.col("key") == "bob")

    found = asked({"good": source(of_item("a")), "some": source(twice_for_bob)})
    assert found.counters == ALONE | {"answered:some": 1, f"scores:some:{ONE}": 2}


@pytest.mark.parametrize("key", ["ann", "cid"], ids=["in the first block", "in the last block"])
def test_a_source_that_fails_is_left_out_of_the_whole_shard(key, tmp_path):
    found = asked({"good": source(of_item("a")), "bad": source(fails_for(key, KeyError("title")))})
    assert rows(found) == GOOD
    assert found.counters == ALONE | {"answered:bad": 0, "left_out:bad:failed": 3}
    (told,) = found.artifacts.values()
    detail = json.loads(told)["bad"]["detail"]
    assert detail.startswith("KeyError in test_panel.py, line ")
    assert detail.endswith(": 'title'")
    (tmp_path / "told.json").write_bytes(told)
    shard = Shard(dataclasses.replace(TASK, inputs={LEFT_OUT: ("told.json",)}), open_store(str(tmp_path)))
    assert reasons_of(shard) == ("source_failed:bad",)


def test_a_source_of_the_wrong_columns_is_one_that_fails():
    wrong = Source(lambda audience, bundle: pl.DataFrame({"who": ["ann"]}), "kind", "toy", "reason", 9)
    assert asked({"good": source(of_item("a")), "bad": wrong}).counters == ALONE | {
        "answered:bad": 0,
        "left_out:bad:failed": 3,
    }


@pytest.mark.parametrize("few", [0, 100])
def test_ranked_at_once_or_one_by_one_proposals_are_the_same(few, monkeypatch):
    monkeypatch.setattr("transforms.panel.FEW", few)

    def of_both(audience, bundle):
        return pl.concat([of_item(one)(audience, bundle) for one in ("b", "c")])

    half = Source(lambda *asked: of_both(*asked).with_columns(pl.col("raw_score").cast(pl.Float32)), "k", "toy", "r", 1)
    found = pl.DataFrame(asked({"good": source(of_both), "a half": half}).frame)
    assert found.columns == table("proposal", []).columns
    assert found.filter(key="cid").select("source_id", "item_id", "source_rank", "score_kind").rows() == [
        ("a half", "b", 0, "k"), ("good", "b", 0, "kind"), ("good", "c", 1, "kind"),
    ]  # fmt: skip


def test_a_source_that_takes_too_long_is_left_out_and_not_asked_again():
    seconds, calls = iter([0, 1, 1, 20, 20, 21]), []

    def slow(audience, bundle):
        calls.append(audience)
        return of_item("b")(audience, bundle)

    found = asked({"good": source(of_item("a")), "slow": source(slow)}, lambda: float(next(seconds)))
    assert rows(found) == GOOD
    assert found.counters == ALONE | {"answered:slow": 0, "left_out:slow:slow": 3}
    assert b"more than 10 s for a shard" in next(iter(found.artifacts.values()))
    assert len(calls) == 1


class Hanging:
    """A source that answers only when it is released."""

    def __init__(self):
        self.asked, self.released, self.threads = 0, threading.Event(), []

    def __call__(self, audience, bundle):
        self.asked += 1
        self.threads.append(threading.current_thread())
        assert self.released.wait(60)
        return of_item("late")(audience, bundle)

    def release(self):
        self.released.set()
        for thread in self.threads:
            thread.join(60)


@pytest.fixture
def hanging():
    one = Hanging()
    yield one
    one.release()


def test_a_source_that_hangs_is_not_waited_for_and_its_late_answer_changes_nothing(hanging):
    sources = {"good": source(of_item("a")), "hangs": source(hanging)}
    panel = Panel(sources, 2.0, lambda: 0.0)
    shard = Shard(TASK, open_store("/nowhere"))
    found = panel.output(shard, BLOCKS, MemoryBundle({}), 3)
    assert not hanging.released.is_set()
    assert rows(found) == GOOD
    assert found.counters == ALONE | {"answered:hangs": 0, "left_out:hangs:slow": 3}
    again = asked(sources)  # by another panel, while it hangs
    assert (rows(again), again.counters, hanging.asked) == (GOOD, found.counters, 1)
    hanging.release()
    assert rows(found) == GOOD
    assert panel.ask(BLOCKS[0], MemoryBundle({}))["source_id"].to_list() == ["good", "good"]
    assert asked(sources).counters == ALONE | {"answered:hangs": 3, f"scores:hangs:{ONE}": 3}
    assert hanging.asked == 3


def test_one_thread_answers_for_all_sources_of_a_block_but_those_it_hangs_at(hanging):
    answered = dict[str, threading.Thread]()

    def noted(name):
        def propose(audience, bundle):
            answered[name] = threading.current_thread()
            return of_item("a")(audience, bundle)

        return source(propose)

    sources = {"a": noted("a"), "b": noted("b"), "hangs": source(hanging), "c": noted("c"), "d": noted("d")}
    found = Panel(sources, 2.0).ask(BLOCKS[0], MemoryBundle({}))
    assert found["source_id"].unique().sort().to_list() == ["a", "b", "c", "d"]
    assert answered["a"] is answered["b"] is hanging.threads[0]
    assert answered["c"] is answered["d"]
    assert answered["c"] is not answered["a"]
    hanging.release()
    for thread in answered.values():
        thread.join(60)
        assert not thread.is_alive()


_HANGS = """
import threading
from test_panel import BLOCKS, of_item, source
from transforms.conformance import MemoryBundle
from transforms.panel import Panel
never = threading.Event()
sources = {"good": source(of_item("a")), "hangs": source(lambda audience, bundle: never.wait())}
print(Panel(sources, 2.0).ask(BLOCKS[0], MemoryBundle({})).height)
"""


def test_a_source_that_hangs_does_not_hold_up_the_end_of_the_process():
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), str(here.parent.parent)]
    run = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}\n{_HANGS}"]
    assert subprocess.run(run, capture_output=True, text=True, check=True, timeout=300).stdout == "2\n"


@dataclasses.dataclass
class LiveToy(MemoryBundle):
    world: World

    def shared(self, groups, explored):
        return self.lookup("groups", "key", groups), None


def test_in_the_stream_sets_do_not_wait_for_a_source_either(hanging):
    """`bad` fails at once, `hangs` has what the policy grants."""
    sources = {"good": source(of_item("a")), "hangs": source(hanging), "bad": source(fails_for("ann", KeyError("x")))}
    who = dataclasses.replace(BLOCKS[0], policy=policy(quota("any"), live_seconds=2.0))
    users = pl.DataFrame({"market": ["SE"], "tier": ["free"]})
    bundle = LiveToy({"groups": table("proposal", [])}, World(["SE"], pl.Series(dtype=pl.String)))
    found, _, reasons = sets.asked(sources, who, users, bundle)
    assert not hanging.released.is_set()
    assert found["source_id"].unique().to_list() == ["good"]
    assert reasons == ("source_failed:bad", "source_slow:hangs")


@pytest.mark.parametrize("seconds", [0.0, math.inf])
@pytest.mark.parametrize("name", ["source_seconds", "live_seconds"])
def test_no_source_may_take_for_ever(name, seconds):
    with pytest.raises(ValueError, match=f"{name} must be above 0 and finite, came {seconds}"):
        policy(quota("any"), **{name: seconds})


@pytest.mark.parametrize(
    "error", [SpaceMismatch("two spaces"), StoreError("no root"), FileNotFoundError("gone"), MemoryError()]
)
def test_what_is_wrong_for_every_source_stops_the_run(error):
    with pytest.raises(type(error)):
        asked({"bad": source(fails_for("ann", error))})


def test_nobody_to_ask_for_gives_no_proposals():
    shard = Shard(TASK, open_store("/nowhere"))
    found = Panel({"good": source(of_item("a"))}, 1.0).output(shard, [], MemoryBundle({}), 0)
    assert pl.DataFrame(found.frame).columns == table("proposal", []).columns
