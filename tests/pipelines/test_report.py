"""What the report gathers: the right rows, names and counts, from a bounded read."""

import datetime
import json
import tracemalloc

import pytest
from report_root import ANN, BOB, DAY, END, EVIL, KID, TALKER, Root, a_set, blank, candidate, home_root, rejections

from pipelines import report, report_examples, report_sets
from pipelines.publish import retire
from pipelines.report import gather
from schemas.candidates import EXPOSURE, REJECTION
from schemas.manifest import DataFile


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    return gather(home_root(tmp_path_factory.mktemp("root")), DAY)


@pytest.fixture(scope="module")
def home(gathered):
    (view,) = gathered.surfaces
    return view


def example_of(home, user: str):
    (found,) = [example for example in home.examples if example.who == f"{user[:6]}…"]
    return found


def test_a_date_without_a_finished_road_is_refused(tmp_path):
    store = home_root(tmp_path)
    with pytest.raises(
        ValueError, match=r"no finished run of 2026-02-01 .*runs/date=2026-02-01/record.json.*Run the road"
    ):
        gather(store, "2026-02-01")


def test_stages_come_with_their_cost_in_the_order_they_ran(gathered):
    names = [(stage.manifest.dataset, stage.seconds, stage.peak_bytes) for stage in gathered.stages]
    assert [name for name, _, _ in names] == ["item", "event", "history", "candidate_set", "exposure"]
    assert {cost[1:] for cost in names} == {(1.25, 3 * 2**20)}


def test_slots_removals_and_levels_are_counted(home):
    assert home.slots == {"home.popular_market": 5, "home.co_listen": 3}
    assert home.removed == {"quota": 12, "market": 4}
    assert home.survey.levels == {0: 2, 1: 2, 3: 1}
    assert home.survey.degraded == {"no_history": 1}
    assert home.survey.mix == {"SE": {"episode": 1, "track": 5}, "US": {"track": 2}}
    assert home.survey.familiarity == {"known": 1, "new_artist": 7}


def test_examples_cover_levels_kids_talk_and_the_unseen(home):
    kinds = {example.who: example.why for example in home.examples}
    assert kinds == {
        f"{ANN[:6]}…": "personal",
        f"{BOB[:6]}…": "partly personal",
        f"{TALKER[:6]}…": "partly personal",
        f"{KID[:6]}…": "a child's account",
        "": "never seen",
    }


def test_a_talk_listener_is_found_among_many(tmp_path):
    others = [a_set(f"user-{i:04d}-x", 1, [candidate(0, "t3", "home.popular_market")]) for i in range(40)]
    talker = a_set(TALKER, 1, [candidate(0, "e1", "home.co_listen")])
    (view,) = gather(home_root(tmp_path, sets=[*others, talker]), DAY).surfaces
    assert [example.why for example in view.examples if example.who == f"{TALKER[:6]}…"] == ["about talk"]
    assert len(view.examples) == report_sets.MAX_PICKS


def test_candidates_are_named_with_sources_seed_and_reason(home):
    first, second = example_of(home, ANN).candidates
    assert (first.item.title, first.item.artist, first.seed.title) == (EVIL, "Bruno", "First Song")
    assert first.sources == ("home.co_listen", "home.popular_market")
    assert (second.item.title, second.reason_code, second.seed) == ("Third Song", "popular_in_market", None)


def test_an_episode_is_by_its_show_and_an_item_without_title_keeps_its_id(home):
    (talk, _), (untitled, _) = example_of(home, TALKER).candidates, example_of(home, BOB).candidates
    assert (talk.item.title, talk.item.artist, talk.seed) == ("Pilot", "The Evening Show", None)
    assert (untitled.item.title, untitled.item.artist) == ("t4", "")


def test_listens_are_the_latest_first_and_counted(home):
    listens = example_of(home, ANN).listens
    assert [(listen.item.title, listen.times, listen.days_ago) for listen in listens] == [
        ("First Song", 2, 2.5),
        ("Clara", 1, 5),
    ]
    assert listens[1].item.artist == ""  # an artist is not by itself


def test_a_user_id_is_never_shown_whole():
    end = datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)
    pick = report_sets.Pick("x", 0, "any")
    for user in ("u", "u12", "user-1", "user-12", "0123456789abcdef"):
        made = report_examples._example(pick, a_set(user, 0, []) | {"size": 0}, [], {}, end)
        assert made.who.endswith("…")
        assert len(made.who) - 1 <= min(6, max(len(user) - 3, 0))


def test_rejections_show_three_redacted_rows_of_each_rule(gathered):
    (rejected,) = gathered.rejections
    assert (rejected.dataset, rejected.rule, rejected.rows, rejected.of) == ("event", "event_ts:type", 5, 100)
    assert [row.position for row in rejected.shown] == [0, 1, 2]
    assert all("secret" not in row.payload and "[removed]" in row.payload for row in rejected.shown)


def test_coverage_and_concentration_come_from_exposure(home):
    assert (home.eligible, home.exposure["covered_items"]) == (7, 4)
    assert home.curve.points == ((0.0, 0.0), (0.75, 0.375), (1.0, 1.0))
    assert [(item.title, sets, chosen) for item, sets, chosen in home.top] == [
        ("Pilot", 1, 1),
        (EVIL, 1, 1),
        ("t4", 1, 1),
    ]


def test_a_surface_without_exposure_is_still_reported(tmp_path):
    (view,) = gather(home_root(tmp_path, exposure=False), DAY).surfaces
    assert (view.exposure, view.eligible, view.curve.points, view.top) == ({}, None, (), ())


def test_files_are_sampled_whole_until_they_hold_enough():
    files = [DataFile(f"part-{i}", "", rows, 0, i) for i, rows in enumerate((50, 3, 60, 70))]
    assert [file.path for file in report_sets.sampled(files, 100)] == ["part-1", "part-0", "part-2"]
    assert report_sets.sampled(files, 3) == [files[1]]


def test_mix_is_counted_over_sampled_files_and_levels_over_all(tmp_path, monkeypatch):
    monkeypatch.setattr(report_sets.sampled, "__defaults__", (1,))
    (view,) = gather(home_root(tmp_path), DAY).surfaces
    assert sum(view.survey.levels.values()) == 5
    assert 0 < view.survey.sets_read < 5
    assert view.survey.sets_read <= sum(sum(mix.values()) for mix in view.survey.mix.values()) < 8


def test_reading_rejections_stops_when_every_rule_is_shown_or_enough_was_read(tmp_path, monkeypatch):
    store = home_root(tmp_path)
    manifest = gather(store, DAY).stages[1].manifest
    read = []
    monkeypatch.setattr(report, "REJECTIONS_READ", 4_096)
    monkeypatch.setattr(report.pq, "ParquetFile", _counting(report.pq.ParquetFile, read))
    report.read_rejections(store, manifest)
    assert read == [5]
    files = report_root_files(store, manifest, 20_000)
    read.clear()
    report._example_rows(store, files, {"event_ts:type": 20_000, "never:seen": 1})
    assert read == [4_096]


def report_root_files(store, manifest, rows: int) -> list[DataFile]:
    return [file for file in Root(store).write(REJECTION, rejections(rows), "many", None) if file.rows]


def _counting(kind, read: list[int]):
    class Counting(kind):
        def iter_batches(self, *args, **kwargs):
            for batch in super().iter_batches(*args, **kwargs):
                read.append(batch.num_rows)
                yield batch

    return Counting


def test_memory_does_not_grow_with_the_sets(tmp_path):
    """Python objects only; frames are bounded by the batch, which the size of a batch shows."""

    def peak(count: int) -> int:
        sets = [a_set(f"user-{i:06d}-x", 1, [candidate(0, "t3", "home.popular_market")]) for i in range(count)]
        store = home_root(tmp_path / str(count), sets=sets)
        tracemalloc.start()
        gather(store, DAY)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    small, large = peak(300), peak(6_000)
    assert large < 2 * small + 2**20


def test_gathering_twice_gives_the_same(tmp_path):
    store = home_root(tmp_path)
    assert gather(store, DAY) == gather(store, DAY)


def test_the_end_of_the_day_is_what_listens_are_counted_from():
    assert datetime.datetime.fromisoformat(DAY).replace(tzinfo=datetime.UTC) + datetime.timedelta(days=1) == END


def test_the_ten_items_chosen_most_are_found_and_ids_break_ties(tmp_path):
    chosen = {"z": 9, "b": 7, **{f"tie-{i:02d}": 4 for i in range(30)}, "low": 1}
    rows = [blank(EXPOSURE, item_id=item, item_type="track", sets=n + 1, sets_chosen=n) for item, n in chosen.items()]
    root = Root(home_root(tmp_path))
    curve = report_sets.exposure_curve(root.store, root.add(EXPOSURE, rows, "other", "item_id"))
    assert curve.top == (("z", 10, 9), ("b", 8, 7), *((f"tie-{i:02d}", 5, 4) for i in range(8)))


def test_a_surface_of_an_earlier_run_of_the_date_is_reported_too(tmp_path):
    store = home_root(tmp_path)
    path = f"runs/date={DAY}/record.json"
    record = json.loads(store.read_bytes(path))
    record["stages"] = [stage for stage in record["stages"] if not stage["stage"].endswith("home")]
    store.write_bytes(path, json.dumps(record).encode())
    again = gather(store, DAY)
    assert [view.name for view in again.surfaces] == ["home"]
    assert [(s.manifest.dataset, s.skipped) for s in again.stages[-2:]] == [("candidate_set", True), ("exposure", True)]
    record["surfaces"] = []
    store.write_bytes(path, json.dumps(record).encode())
    assert gather(store, DAY).surfaces == ()


def test_an_empty_exposure_has_no_curve(tmp_path):
    root = Root(home_root(tmp_path))
    assert report_sets.exposure_curve(root.store, root.add(EXPOSURE, [], "other", "item_id")) == report_sets.Curve(
        (), ()
    )


def test_a_surface_whose_sets_were_retired_is_left_out(tmp_path):
    store = home_root(tmp_path)
    record = json.loads(store.read_bytes(f"runs/date={DAY}/record.json"))
    retire(store, record["manifests"]["candidate_set/home"])
    report_ = gather(store, DAY)
    assert report_.surfaces == ()
    assert "candidate_set" in [stage.manifest.dataset for stage in report_.stages]
