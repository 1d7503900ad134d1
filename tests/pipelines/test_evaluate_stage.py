"""The evaluation of a published road against plain loops over its files, and what cannot be judged."""

import collections
import dataclasses
import datetime
import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from judged_root import DAY, manifest_of, pretend, rows_of

from jobs import evaluate as job
from pipelines import evaluate
from pipelines.batch import record_path
from pipelines.evaluate import EvaluationError, demand_judgeable, latest_events, window_of
from pipelines.evaluation_arms import compare_arms
from pipelines.evaluation_summary import evaluation_path, gather_sums, source_figures, summarise
from pipelines.runner import load_manifest
from schemas.evaluation import AGED, SETS, UNIT
from transforms.evaluation import Cell, Sums, from_frame
from transforms.evaluation_shards import EmitSums
from transforms.holdout import held_out
from transforms.io.store import LocalStore
from transforms.shards import Shard

EARLIER = "2026-01-19"
UTC = datetime.UTC


@pytest.fixture(scope="module")
def store(judged_root: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """A copy of the judged root, to be judged again."""
    return LocalStore(str(shutil.copytree(judged_root.root, tmp_path_factory.mktemp("evaluated") / "root")))


@pytest.fixture(scope="module")
def judged_figures(store: LocalStore) -> Callable[[str], pl.DataFrame]:
    def read(surface: str) -> pl.DataFrame:
        manifest = load_manifest(store, json.loads(store.read_bytes(evaluation_path(DAY)))[surface])
        assert all(check.outcome == "passed" for check in manifest.checks)
        return pl.concat([pl.read_parquet(store.local(file.path)) for file in manifest.files])

    return read


@pytest.fixture(scope="module")
def figures(judged_figures) -> pl.DataFrame:
    return judged_figures("home")


def wanted_by_hand(store: LocalStore, target: str, day: str = DAY) -> dict[str, set[str]]:
    """Return what each user wanted."""
    start = datetime.datetime.fromisoformat(f"{day}T00:00:00Z") + datetime.timedelta(days=2)
    canonical = {row["item_id"]: row["canonical_id"] for row in rows_of(store, "item/")}
    wanted: dict[str, set[str]] = {}
    played = set()
    for event in rows_of(store, "event/"):
        pair = event["user_id"], canonical.get(event["item_id"], event["item_id"])
        if event["private_session"] or event["consent_personalization"] is False:
            continue
        if event["event_ts"] < start - datetime.timedelta(days=1) and (
            event["event_type"] == "play" or event["label"] > 0
        ):
            played.add(pair)
        during = start <= event["event_ts"] < start + datetime.timedelta(days=7)
        organic = event["is_organic"] is not False and event["campaign_id"] is None
        if during and event["label"] > 0 and (target != "organic" or organic):
            wanted.setdefault(pair[0], set()).add(pair[1])
    if target == "discovery":
        wanted = {user: {one for one in items if (user, one) not in played} for user, items in wanted.items()}
    return {user: items for user, items in wanted.items() if items}


def lists_by_hand(store: LocalStore, ranking: str) -> dict[str, list[str]]:
    """Return the canonical ids that each user is given, the best first."""
    if ranking == SETS:
        return {row["record_key"]: row["candidates"] for row in rows_of(store, "candidate_set/home")}
    canonical = {row["item_id"]: row["canonical_id"] for row in rows_of(store, "item/")}
    found: dict[str, list[str]] = {}
    for row in sorted(rows_of(store, "proposal/home"), key=lambda row: row["source_rank"]):
        if row["source_id"] == ranking:
            found.setdefault(row["key"], []).append(canonical[row["item_id"]])
    return found


@pytest.mark.parametrize("ranking", [SETS, "home.co_listen"])
@pytest.mark.parametrize("target", ["all", "discovery", "organic"])
def test_the_stage_says_what_plain_loops_say(store, figures, target, ranking):
    wanted, lists = wanted_by_hand(store, target), lists_by_hand(store, ranking)
    assert ranking != SETS or wanted.keys() <= lists.keys(), "every user of this road has a set of their own"
    recalls, gains = [], []
    for user, items in wanted.items():
        given = lists.get(user, [])
        places = [given.index(one) for one in items if one in given]
        recalls.append(sum(place < 50 for place in places) / len(items))
        ideal = sum(1 / math.log2(place + 2) for place in range(min(10, len(items))))
        gains.append(sum(1 / math.log2(place + 2) for place in places if place < 10) / ideal)
    own = figures.filter(pl.col("slice") == "all", pl.col("target") == target, pl.col("ranking") == ranking)
    for metric, k, expected in (("recall", 50, recalls), ("ndcg", 10, gains)):
        (row,) = own.filter(pl.col("metric") == metric, pl.col("k") == k).to_dicts()
        assert row["units"] == len(wanted) > 100
        assert row["value"] == pytest.approx(sum(expected) / len(expected), abs=1e-6)
        assert row["low"] < row["value"] < row["high"]


def sessions_by_hand(store: LocalStore) -> list[list[dict]]:
    """Return what was liked on the day that Now Playing is judged by, session by session."""
    start = datetime.datetime(2026, 1, 24, 0, 30, tzinfo=UTC)
    sessions: dict[tuple[str, str], list[dict]] = {}
    for event in sorted(rows_of(store, "event/"), key=lambda event: (event["event_ts"], event["event_id"])):
        open_ = not event["private_session"] and event["consent_personalization"] is not False
        during = start <= event["event_ts"] < start + datetime.timedelta(days=1)
        if open_ and during and event["event_type"] in ("play", "skip") and event["label"] > 0:
            sessions.setdefault((event["user_id"], event["session_id"]), []).append(event)
    return list(sessions.values())


def sets_by_hand(store: LocalStore) -> dict[tuple[str, str, str], list[str]]:
    """Return the canonical ids of Now Playing's sets, by seed, market and tier."""
    rows = rows_of(store, "candidate_set/now_playing")
    return {(row["record_key"], row["market"], row["tier"]): row["candidates"] for row in rows}


def test_what_came_next_is_what_plain_loops_say(store, judged_figures):
    """Next item hit@10 and recall of sessions@100, after the play of a seed in its market."""
    canonical = {row["item_id"]: row["canonical_id"] for row in rows_of(store, "item/")}
    lists = sets_by_hand(store)
    hits, recalls, by_age = [], [], {age: [] for age in AGED}
    for heard in sessions_by_hand(store):
        for seed, event in itertools.pairwise(heard):
            if seed["item_id"] != event["item_id"]:
                given = served(lists, seed["item_id"], event["market"])
                wanted = canonical.get(event["item_id"], event["item_id"])
                hits.append(wanted in given[:10])
                hours = (event["event_ts"] - datetime.datetime(2026, 1, 24, tzinfo=UTC)).total_seconds() / 3_600
                by_age["0-6h" if hours <= 6 else "6-12h" if hours <= 12 else "12-18h" if hours <= 18 else
                       "18-24h" if hours <= 24 else "24h+"].append(wanted in given[:100])  # fmt: skip
        rest = [event for event in heard[1:] if event["item_id"] != heard[0]["item_id"]]
        wanted = {canonical.get(event["item_id"], event["item_id"]) for event in rest}
        if wanted:
            given = served(lists, heard[0]["item_id"], rest[0]["market"])[:100]
            recalls.append(len(wanted & set(given)) / len(wanted))
    own = judged_figures("now_playing").filter(pl.col("slice") == "all", pl.col("ranking") == SETS)
    whole = dict(own.filter(pl.col("k") == 0, pl.col("target") == "all").select("metric", "value").rows())
    assert 20 <= whole["size"] <= 40, "as the policy of the small road says"
    assert 0 <= whole["fresh"] <= 1 > whole["tail"]
    for target, metric, k, expected in (("all", "hit", 10, hits), ("session", "recall", 100, recalls)):
        (row,) = own.filter(pl.col("target") == target, pl.col("metric") == metric, pl.col("k") == k).to_dicts()
        assert row["units"] == len(expected) > 50
        assert 0 < row["value"] == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    fresh = summarise(store, "now_playing", [DAY]).freshness()
    assert {age: one[0] for age, one in fresh.items()} == pytest.approx(
        {age: sum(held) / len(held) for age, held in by_age.items() if held}
    )
    assert len(fresh) >= 4


def served(lists: dict[tuple[str, str, str], list[str]], seed: str, market: str | None) -> list[str]:
    """Return the set of a seed in a market, else that for everywhere with the chart at its end, else the chart."""
    chart = next(lists[name] for name in [("*", market, "*"), ("*", "*", "*")] if name in lists)
    if (seed, market, "*") in lists and market:
        return lists[seed, market, "*"]
    return list(dict.fromkeys([*lists[seed, "*", "*"][:80], *chart[:20]])) if (seed, "*", "*") in lists else chart


def positives_by_hand(store: LocalStore) -> dict[str, list[str]]:
    """Return what each user liked before, an item once."""
    histories = pl.concat([pl.read_parquet(store.local(file.path)) for file in manifest_of(store, "history/").files])
    return {row["user_id"]: sorted({one["item_id"] for one in row["positives"]}) for row in histories.to_dicts()}


def test_popularity_lift_is_what_plain_loops_say(store):
    """Of users who played before and after: positives of what they are offered, over those of what they had liked."""
    rows = [pl.read_parquet(store.local(file.path)) for file in manifest_of(store, "vocabulary/").files]
    positives = dict(pl.concat(rows).select("item_id", "positives").rows())
    liked, wanted = positives_by_hand(store), wanted_by_hand(store, "all")
    ids = pl.col("candidates").list.eval(pl.element().struct.field("item_id"))
    sets = pl.concat(
        [pl.read_parquet(store.local(file.path)) for file in manifest_of(store, "candidate_set/home").files]
    )
    offered = dict(sets.filter(pl.col("record_key") != "*").select("record_key", ids).rows())

    def mean(items: list[str]) -> float:
        return sum(positives.get(one, 0) for one in items) / len(items)

    of_whom = [user for user in wanted if liked.get(user)]
    lift = sum(mean(offered[user]) for user in of_whom) / sum(mean(liked[user]) for user in of_whom)
    found = summarise(store, "home", [DAY]).lift()
    assert len(of_whom) > 50
    assert found[0] == pytest.approx(lift, rel=1e-5)
    assert found[1] < found[0] < found[2]
    assert summarise(store, "now_playing", [DAY]).lift() is None


def test_artists_and_leanings_are_what_plain_loops_say(store):
    """Entropy of the artists of sets; divergence of the types of sets from those of what users had liked, in bits."""
    items = pl.concat([pl.read_parquet(store.local(file.path)) for file in manifest_of(store, "item/").files])
    known = {row["item_id"]: row for row in items.select("item_id", "item_type", "artists", "show_id").to_dicts()}
    liked, wanted = positives_by_hand(store), wanted_by_hand(store, "all")
    ids = pl.col("candidates").list.eval(pl.element().struct.field("item_id"))
    sets = pl.concat(
        [pl.read_parquet(store.local(file.path)) for file in manifest_of(store, "candidate_set/home").files]
    )
    offered = dict(sets.filter(pl.col("record_key") != "*").select("record_key", ids).rows())

    def shares(names: list[str | None]) -> dict[str, float]:
        there = [name for name in names if name]
        return {name: there.count(name) / len(there) for name in there}

    def artist(one: dict) -> str | None:
        return one["artists"][0]["artist_id"] if one["artists"] else one["show_id"]

    bits = [
        -sum(p * math.log2(p) for p in shares([artist(known[one]) for one in offered[user]]).values())
        for user in wanted
    ]
    summary = summarise(store, "home", [DAY])
    assert summary.of("all", SETS, "artist_entropy", 0)[0] == pytest.approx(sum(bits) / len(bits), abs=1e-5)
    gaps = []
    for user in (user for user in wanted if liked.get(user)):
        given = shares([known[one]["item_type"] for one in offered[user]])
        played = shares([known[one]["item_type"] for one in liked[user] if one in known])
        gaps.append(sum(p * math.log2(p / (0.99 * given.get(kind, 0) + 0.01 * p)) for kind, p in played.items()))
    assert len(gaps) > 50
    assert summary.calibration("type")[0] == pytest.approx(sum(gaps) / len(gaps), abs=1e-5)
    assert summary.calibration("genre")[0] > 0
    assert summarise(store, "now_playing", [DAY]).calibration("type") is None, "no user stands behind a set"
    firsts = {one for items in sets.select(ids.list.head(10))["candidates"] for one in items}
    eligible = items["rec_eligible"].sum()
    assert summary.catalogue[DAY]["covered@10"] == pytest.approx(len(firsts) / eligible)


def test_sources_cost_what_the_run_recorded(store):
    record = json.loads(store.read_bytes(record_path(DAY)))
    (asked,) = [stage for stage in record["stages"] if stage["stage"] == "retrieve home"]
    summary = summarise(store, "home", [DAY])
    assert summary.spent == asked["spent"]
    assert "home.two_tower" in asked["spent"]
    found = summary.of("all", "within:home.two_tower", "hits", 0)[0] * summary.users()
    cost = source_figures(summary, "home.two_tower")["s/1k hits"]
    assert cost == pytest.approx(1_000 * asked["spent"]["home.two_tower"] / found)
    assert not [path for path in store.list("data") if "spent" in path]


def test_sets_blended_again_are_the_committed_ones_and_others_fill_up_what_a_source_held(store):
    """Everybody is drawn here."""
    summary = summarise(store, "home", [DAY])
    cells, all_ = summary.sums.cells, ("all", "all")
    units = cells[Cell("all", SETS, *all_, "left_out_units", 0)]
    assert (units == cells[Cell("discovery", "", *all_, "units", 0)]).all()
    wanted, lists = wanted_by_hand(store, "discovery"), lists_by_hand(store, SETS)
    recalls = [len(items & set(lists[user])) / len(items) for user, items in wanted.items()]
    assert units[0] == len(recalls) * UNIT
    again = cells[Cell("all", SETS, *all_, "left_out_recall", 0)][0] / units[0]
    assert again == pytest.approx(sum(recalls) / len(recalls), abs=1e-6), "with all sources sets are what was committed"
    lost = {name: summary.marginal(name) for name in summary.sources}
    assert all(lost.values())
    only = {name: cells[Cell("discovery", f"only:{name}", *all_, "recall", 300)][0] / units[0] for name in lost}
    assert all(lost[name][0] != value for name, value in only.items() if value > 0.001), "freed slots are filled up"
    assert max(lost, key=lambda name: lost[name][0]) == "home.relisten"
    assert all(found[1] <= found[0] <= found[2] for found in lost.values())


def test_sets_of_seeds_blended_again_are_the_committed_ones(store):
    """Every play after a seed that has a set is looked at here; what a chart adds to a set does not count."""
    canonical = {row["item_id"]: row["canonical_id"] for row in rows_of(store, "item/")}
    lists, hits = sets_by_hand(store), []
    for heard in sessions_by_hand(store):
        for seed, event in itertools.pairwise(heard):
            names = [(seed["item_id"], market, "*") for market in (event["market"] or "*", "*")]
            own = next((lists[name] for name in names if name in lists), None)
            if own is not None and seed["item_id"] != event["item_id"]:
                hits.append(canonical.get(event["item_id"], event["item_id"]) in own)
    summary = summarise(store, "now_playing", [DAY])
    cells = summary.sums.cells
    units, again = (cells[Cell("all", SETS, "all", "all", f"left_out_{name}", 0)][0] for name in ("units", "recall"))
    assert units == len(hits) * UNIT > 50 * UNIT
    assert again / units == pytest.approx(sum(hits) / len(hits), abs=1e-6)
    lost = {name: summary.marginal(name) for name in summary.sources}
    assert all(found and found[1] <= found[0] <= found[2] for found in lost.values())
    assert max(lost.values())[0] > 0.005


def test_two_dates_are_the_sum_of_both(store, tmp_path):
    """Recall of two windows is the mean over the users of both, each counted once in each window."""
    both = pretend(Path(store.root), tmp_path / "root", datetime.date.fromisoformat(DAY), EARLIER)
    for day in (EARLIER, DAY):
        assert job.main(["run", "--from", day, "--to", day, "--root", both.root]) == 0
    lists = lists_by_hand(store, SETS)
    recalls = {
        day: [len(items & set(lists[user])) / len(items) for user, items in wanted_by_hand(store, "all", day).items()]
        for day in (EARLIER, DAY)
    }
    assert all(len(own) > 50 for own in recalls.values())
    assert recalls[EARLIER] != recalls[DAY]
    together = [one for own in recalls.values() for one in own]
    found = summarise(both, "home", [EARLIER, DAY])
    assert found.users() == len(together)
    assert found.of("all", SETS, "recall", 300)[0] == pytest.approx(sum(together) / len(together), abs=1e-6)
    for day, own in recalls.items():
        alone = summarise(both, "home", [day])
        assert alone.of("all", SETS, "recall", 300)[0] == pytest.approx(sum(own) / len(own), abs=1e-6)
    assert found.dates == (EARLIER, DAY)
    assert found.spent == {name: 2 * seconds for name, seconds in summarise(both, "home", [DAY]).spent.items()}


def test_the_ladder_has_a_matrix_factorisation_that_knows_something(store):
    summary = summarise(store, "home", [DAY])
    found = summary.of("discovery", "implicit_als", "recall", 300)
    assert 0 < found[0] < summary.of("discovery", "oracle", "recall", 300)[0]
    assert "implicit_als" in summary.rankings
    assert summary.contest().best != "implicit_als", "it is no source"


def test_what_was_explored_says_what_other_policies_are_worth(store, capsys):
    """The policy that ran is worth what its slots earned, counted by hand; a proper policy has a mean weight of 1."""
    assert job.main(["off-policy", "--from", DAY, "--to", DAY, "--root", store.root]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    sets = pl.concat(
        [pl.read_parquet(store.local(file.path)) for file in manifest_of(store, "candidate_set/home").files]
    )
    wanted = wanted_by_hand(store, "all")
    outcomes = [
        one["canonical_id"] in wanted[row["record_key"]]
        for row in sets.select("record_key", "candidates").to_dicts() if row["record_key"] in wanted
        for one in row["candidates"] if one["is_exploration"]
    ]  # fmt: skip
    assert f"{sum(outcomes) / len(outcomes):.4f}" == lines["uniform"][1]
    assert f"{len(outcomes):,}" == lines["uniform"][-2]
    assert lines["uniform"][-1] == "1.000"
    assert all(0.95 < float(lines[name][-1]) < 1.05 for name in ("popularity", "unpopularity", "catalogue"))
    assert job.main(["off-policy", "--from", "2026-01-22", "--to", DAY, "--root", store.root]) == 1
    assert "home has no finished run of 2026-01-22" in capsys.readouterr().err


def test_slices_add_up_to_the_whole(figures):
    counted = (
        figures.filter(pl.col("metric") == "units", pl.col("target") == "all")
        .group_by("slice")
        .agg(pl.col("units").sum())
    )
    by_slice = dict(counted.rows())
    assert by_slice["market"] == by_slice["tier"] == by_slice["tenure"] == by_slice["all"]
    assert by_slice["type"] >= by_slice["all"]
    assert by_slice["language"] >= by_slice["all"]


def test_sets_hold_no_more_than_the_oracle(figures):
    own = figures.filter(pl.col("metric") == "recall", pl.col("k") == 300, pl.col("slice") == "all")
    for target, rows in own.group_by("target"):
        values = dict(rows.select("ranking", "value").rows())
        assert 0 < values[SETS] < values["oracle"] < 1, target
        assert values["oracle"] > 0.9  # few items are new after a date, or not for everybody


def test_the_summary_tells_of_every_source(store):
    """What the figures must be is worked out in `test_evaluation_summary.py`."""
    summary = summarise(store, "home", [DAY])
    within = summary.of("all", "within:home.relisten", "recall", 300)
    only = summary.of("all", "only:home.relisten", "recall", 300)
    whole = summary.of("all", SETS, "recall", 300)
    assert 0 < only[0] < within[0] < whole[0]
    contest = summary.contest()
    assert contest.difference[0] == pytest.approx(contest.sets[0] - contest.source[0])
    assert summary.catalogue[DAY]["covered"] > 0.1


def test_one_task_for_two_shards_gives_the_same_sums(store, monkeypatch):
    monkeypatch.setattr(evaluate, "TASKS", 1)
    events = latest_events(store)
    data = demand_judgeable(store, DAY, "home", events)
    (made,) = [path for path in store.list("data/training") if path.endswith("manifest.json") and f"date={DAY}" in path]
    stage = evaluate.evaluate(DAY, "home", data, events, load_manifest(store, made))
    emit = EmitSums(window_of(DAY, "home", 36), tuple(stage.config["rankings"]), evaluate.left_out(data))
    sums = Sums()
    for task in stage.tasks:
        sums.merge(from_frame(emit(Shard(task, store))["sums"]))
    committed = gather_sums(store, "home", [DAY])
    assert len(stage.tasks) == 1
    assert all((sums.cells[cell] == own).all() for cell, own in committed.cells.items())


def test_the_held_out_beside_the_others_are_what_plain_loops_say(store):
    """Nobody of this road is held out: they are told apart by the id as if a third had been."""
    events = latest_events(store)
    data = demand_judgeable(store, DAY, "home", events)
    leave_out = evaluate.left_out(data)
    policy = dataclasses.replace(leave_out.policy, holdout=1 / 3)
    emit = EmitSums(window_of(DAY, "home", 36), (SETS,), dataclasses.replace(leave_out, policy=policy, most=0))
    sums = Sums()
    for task in evaluate.evaluate(DAY, "home", data, events).tasks:
        sums.merge(from_frame(emit(Shard(task, store))["sums"]))
    wanted, new, lists = wanted_by_hand(store, "all"), wanted_by_hand(store, "discovery"), lists_by_hand(store, SETS)
    users = pl.Series(sorted(wanted))
    held = dict(zip(users, held_out(users, policy), strict=True))
    compared = compare_arms(sums)
    for arm in ("held_out", "others"):
        mine = [user for user in users if held[user] == (arm == "held_out")]
        liked = [likes_by_hand(store)[user] for user in mine]
        recalls = [len(new[user] & set(lists[user])) / len(new[user]) for user in mine if user in new]
        for kind, expected in (("positives", liked), ("recall", recalls)):
            assert compared[kind].units[arm] == len(expected) > 50
            mean, low, high = compared[kind].means[arm]
            assert mean == pytest.approx(sum(expected) / len(expected), abs=1e-6)
            assert low < mean < high
    for one in compared.values():
        assert one.difference[0] == pytest.approx(one.means["others"][0] - one.means["held_out"][0])
        assert one.difference[1] < one.difference[0] < one.difference[2]


def likes_by_hand(store: LocalStore) -> collections.Counter:
    """Return how often each user liked something in the days that count."""
    start = datetime.datetime.fromisoformat(f"{DAY}T00:00:00Z") + datetime.timedelta(days=2)
    return collections.Counter(
        event["user_id"]
        for event in rows_of(store, "event/")
        if not event["private_session"] and event["consent_personalization"] is not False
        and event["label"] > 0 and start <= event["event_ts"] < start + datetime.timedelta(days=7)
    )  # fmt: skip


def test_judging_again_does_nothing(store, capsys):
    before = store.read_bytes(evaluation_path(DAY))
    assert job.main(["run", "--from", DAY, "--to", DAY, "--root", store.root]) == 0
    shown = capsys.readouterr()
    assert "unchanged, skipped" in shown.err + shown.out
    assert "the protocol asks for 4 at the least" in shown.err
    assert "the blend " in shown.out
    assert "nan" not in shown.out
    assert store.read_bytes(evaluation_path(DAY)) == before


def test_events_of_a_raw_folder_are_ingested_as_the_road_does(store, small_road, capsys):
    before = store.read_bytes(evaluation_path(DAY))
    assert job.main(["run", "--from", DAY, "--to", DAY, "--root", store.root, "--raw", str(small_road.raw)]) == 0
    assert store.read_bytes(evaluation_path(DAY)) == before, "equal events, equal evaluation"
    assert "ingest_event" in capsys.readouterr().err


def test_the_page_of_the_date_shows_it(store):
    content = store.read_bytes(f"reports/{DAY}/index.html").decode()
    for shown in (
        'id="evaluation"',
        "Home: found afterwards",
        "Now Playing: found afterwards",
        "Best possible",
        "Skips in between",
    ):
        assert shown in content


def test_what_cannot_be_judged_is_said_with_the_next_step(store, small_road, tmp_path):
    events = latest_events(store)
    with pytest.raises(EvaluationError, match=r"home has no finished run of 2026-01-22: run `make backfill` for it"):
        demand_judgeable(store, "2026-01-22", "home", events)
    with pytest.raises(
        EvaluationError, match=r"2026-01-31 is judged by events up to 2026-02-08, the last ones there are of 2026-01-31"
    ):
        demand_judgeable(store, "2026-01-31", "home", events)
    with pytest.raises(EvaluationError, match=r"the sets of 2026-01-23 are in 2 shards, events in 3: .* SHARDS=3"):
        demand_judgeable(store, DAY, "home", dataclasses.replace(events, num_shards=3))
    retired = pretend(small_road.root, tmp_path / "retired", small_road.date)
    retired.delete(manifest_of(retired, "candidate_set/home").files[0].path)
    with pytest.raises(
        EvaluationError, match=r"the sets of 2026-01-23 were retired .* run `make backfill` for that date"
    ):
        demand_judgeable(retired, DAY, "home", events)


def test_commands_that_cannot_do_anything_say_so(tmp_path, capsys, store):
    root = str(tmp_path)
    assert job.main(["run", "--from", DAY, "--to", DAY, "--root", root]) == 1
    assert "no road has finished under" in capsys.readouterr().err
    assert job.main(["diff", "--base", root, "--head", store.root]) == 1
    assert "have no judged date in common: run `make evaluate` on both" in capsys.readouterr().err
    assert job.main(["run", "--from", "2026-01-20", "--to", "2026-01-21", "--root", store.root]) == 1
    assert "none of the 2 date(s) can be judged; the reasons are above" in capsys.readouterr().err
    with pytest.raises(
        EvaluationError, match=r"home of 2026-01-20 was not judged under .*: run `make evaluate` for it"
    ):
        gather_sums(store, "home", ["2026-01-20"])
    with pytest.raises(SystemExit):
        job.main(["run", "--from", "2026-01-21", "--to", "2026-01-20"])
    assert "expected --from <= --to, came 2026-01-21 and 2026-01-20" in capsys.readouterr().err
