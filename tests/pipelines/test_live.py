"""Sessions served from a published root."""

import collections
import dataclasses
import datetime
import gc
import itertools
import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from toy_heard import heard, skip, windows
from toy_road import days_ago, table

from pipelines.bundle import BundleError
from pipelines.erased import erased_users
from pipelines.live import open_live, open_sessions
from schemas.candidates import CANDIDATE_SET
from transforms.calibrate import Calibration
from transforms.candidate_sets import Provenance
from transforms.io.store import LocalStore, open_store
from transforms.stream import sets
from transforms.stream.live import LiveBundle
from transforms.stream.session import MOST, Window, session
from transforms.stream.sessions import Sessions
from transforms.stream.sets import QUARANTINED
from transforms.works import work
from validation.rows import split_rows


@pytest.fixture(scope="module")
def live(small_road, tmp_path_factory):
    return open_live(open_store(str(small_road.root)), tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def tracks(live) -> list[str]:
    items = live.bundle.read("item", ["item_id"], (pl.col("item_type") == "track") & pl.col("availability").is_null())
    return sorted(items["item_id"])[:12]


@pytest.fixture(scope="module")
def users(live) -> pl.DataFrame:
    return live.bundle.read("user").filter(pl.col("deletion_requested_at").is_null()).sort("user_id")


def records(table: pa.Table) -> dict[str, dict]:
    return {row["record_key"]: row for row in table.to_pylist()}


def one_set(live, window: Window, user="nobody-knows-me") -> dict:
    (row,) = live({user: window}).to_pylist()
    return row


def offered(row) -> list[str]:
    return [one["item_id"] for one in row["candidates"]]


def test_a_set_says_what_it_knows_and_what_it_is_made_from(live, users, tracks):
    everybody = windows(users, tracks)
    table = live(everybody)
    assert table.schema.equals(CANDIDATE_SET.schema)
    frame = pl.from_arrow(table)
    assert split_rows(frame, CANDIDATE_SET)[1].height == 0
    for user, row in records(table).items():
        window = everybody[user]
        assert (row["run_mode"], row["surface"], row["sequence"]) == ("stream", "now_playing", window.sequence)
        assert row["context"]["seed_item_id"] == window.heard[-1].item_id
        assert row["source_watermark"].timestamp() * 1e6 == window.heard[-1].event_ts
        assert row["effective_from"] <= row["source_watermark"] < row["effective_from"] + datetime.timedelta(hours=1)
        assert row["expires_at"] == row["effective_from"] + datetime.timedelta(hours=2)
        assert row["bundle_id"] == live.provenance.fields["bundle_id"]
        assert len(row["candidates"]) == live.policy.size
    assert len({row["candidate_set_id"] for row in table.to_pylist()}) == table.num_rows


def test_who_is_served_beside_a_listener_changes_nothing(live, users, tracks):
    everybody = windows(users, tracks)
    together = live(everybody)
    alone = [live({user: everybody[user]}) for user in sorted(everybody)]
    assert pa.concat_tables(alone).equals(together)
    halves = [live(dict(itertools.islice(reversed(everybody.items()), at, at + 7))) for at in (0, 7, 14)]
    assert pa.concat_tables(halves).sort_by("record_key").equals(together)


def test_what_was_played_in_the_session_or_skipped_in_a_day_is_not_offered_again(live, tracks):
    first = offered(one_set(live, Window.of([heard(0, item_id=tracks[0])])))
    turned_away = [skip(-300, "s1", item_id=first[0])]
    played = [heard(m, item_id=item) for m, item in enumerate(first[1:4], start=1)]
    again = offered(one_set(live, Window.of([*turned_away, heard(0, item_id=tracks[0]), *played])))
    assert not {tracks[0], *first[:4]} & set(again)
    a_day_later = offered(one_set(live, Window.of([*turned_away, heard(24 * 60 - 10, item_id=tracks[0])])))
    assert first[0] in a_day_later, "a skip of the day before has passed"


@pytest.mark.parametrize("ms", [15_000, 45_000])
def test_a_skip_keeps_an_item_out_for_a_day_however_much_was_heard_before_it(live, tracks, ms):
    first = offered(one_set(live, Window.of([heard(0, item_id=tracks[0])])))[0]
    early = skip(-300, ms=ms, item_id=first)
    later = Window.of([early, heard(0, item_id=tracks[0])])
    assert first not in {one.item_id for one in session(later.events)}, "another session"
    row = one_set(live, later)
    assert first not in offered(row)
    stored = Window.from_bytes(later.to_bytes())
    assert one_set(live, stored) == row, "and so does one in a state on disk"
    assert first in offered(one_set(live, Window.of([early, heard(24 * 60 - 10, item_id=tracks[0])])))


def test_a_late_skip_is_removed_by_name_where_a_source_proposes_it_all_the_same(live, tracks, monkeypatch):
    monkeypatch.setattr(sets, "_out", lambda one: set[str]())
    first = offered(one_set(live, Window.of([heard(0, item_id=tracks[0])])))[0]
    row = one_set(live, Window.of([skip(-300, ms=15_000, item_id=first), heard(0, item_id=tracks[0])]))
    assert first not in offered(row)
    assert "recent_skip" in {one["rule"] for one in row["counts"]["filtered_by_rule"]}


def test_a_skip_changes_the_set_of_whoever_skipped(live, tracks):
    before = one_set(live, Window.of([heard(0, item_id=tracks[0])]))
    after = one_set(live, Window.of([heard(0, item_id=tracks[0]), skip(1, item_id=offered(before)[0])]))
    assert after["sequence"] > before["sequence"]
    assert offered(after) != offered(before)
    assert after["context"]["seed_item_id"] == tracks[0], "what plays is what was not turned away"


def test_what_is_taken_down_is_not_offered_from_then_on(live, tracks):
    window = Window.of([heard(0, item_id=tracks[0])])
    before = one_set(live, window)
    first, drawn = offered(before)[0], next(one["item_id"] for one in before["candidates"] if one["is_exploration"])
    gone = [{"entity": "item", "id": one, "reason": "licence", "effective_ts": days_ago(0)} for one in (first, drawn)]
    step = Sessions(live).without(table("tombstone", gone))
    (row,) = step.sets({"nobody-knows-me": window.to_bytes()}).to_pylist()
    assert not {first, drawn} & set(offered(row))
    assert one_set(live, window) == before, "the bundle itself is as it was"


def test_tombstones_change_a_bundle_as_coding_it_anew_does_without_doing_it(live, users, tracks, monkeypatch):
    bundle, everybody = live.bundle, windows(users, tracks)
    ordered, before = bundle.catalogue.ordered, bundle.catalogue.codes.arrays.items.copy()
    parts = ordered.filter("servable").unique("show_id", keep="first", maintain_order=True)["item_id"]
    assert len(parts), "there are shows whose second part is the first one then"
    gone = [("item", one) for one in [*parts.head(3), *offered(one_set(live, everybody["nobody-knows-me"]))[:3], "?"]]
    rows = [{"entity": kind, "id": one, "reason": "licence", "effective_ts": days_ago(0)} for kind, one in gone]
    some = table("tombstone", [*rows, {**rows[0], "entity": "user", "id": users["user_id"][0]}])
    with monkeypatch.context() as patched:
        patched.setattr(LiveBundle, "coded", lambda self: pytest.fail("the whole catalogue is coded again"))
        after = bundle.without(some)
        again = [one.without(some) for one in (after, after.without(some.clear()))]
        only_user = bundle.without(some.tail(1))
    assert [one is after for one in again] == [True, True]
    assert only_user.catalogue is bundle.catalogue
    anew = after.coded()
    assert after.catalogue.ordered.equals(anew.catalogue.ordered)
    mine, theirs = after.catalogue.codes, anew.catalogue.codes
    assert all(np.array_equal(a, b) for a, b in zip(mine.arrays, theirs.arrays, strict=True))
    assert mine.items.equals(theirs.items)
    assert mine.shown.equals(theirs.shown)
    assert np.array_equal(bundle.catalogue.codes.arrays.items, before), "the bundle itself is as it was"
    assert not np.array_equal(mine.arrays.items, before)
    sets, expected = (dataclasses.replace(live, bundle=one)(everybody) for one in (after, anew))
    assert sets.equals(expected)
    assert not sets.equals(live(everybody))


def test_who_opted_out_or_asked_to_be_forgotten_has_no_set(live, users, tracks):
    silent = users.filter(pl.col("personalization_opt_out"))["user_id"]
    everybody = live.bundle.read("user")
    forgotten = everybody.filter(pl.col("deletion_requested_at").is_not_null())["user_id"]
    gone = live.bundle.held["tombstone"].filter(pl.col("entity") == "user")["id"]
    assert len(silent)
    asked = [*silent.head(2), *forgotten.head(2), *gone.head(2)]
    assert live({user: Window.of([heard(0, item_id=tracks[0])]) for user in asked}).num_rows == 0


def test_a_root_knows_who_is_erased(small_road, live, users):
    known, store = erased_users(open_store(str(small_road.root))), open_store(str(small_road.root))
    gone = live.bundle.held["tombstone"].filter(pl.col("entity") == "user")["id"]
    asked = live.bundle.read("user", ["user_id"], pl.col("deletion_requested_at").is_not_null())["user_id"]
    assert len(gone)
    assert len(asked)
    assert known == {*gone, *asked}
    assert not known & set(users.filter(~pl.col("user_id").is_in(gone.implode()))["user_id"])
    assert erased_users(LocalStore(f"{store.root}/live")) == set(), "no road was run there"


def counting(source, asked: list[int]):
    """Return a source that notes for how many it is asked."""

    def propose(audience, bundle):
        asked.append(audience.keys.height)
        return source.propose(audience, bundle)

    return dataclasses.replace(source, propose=propose)


def test_whoever_hears_more_than_anybody_can_is_given_charts(live, tracks):
    flood = Window.of(heard(n / 100, item_id=tracks[n % 12]) for n in range(MOST + 50))
    asked: list[int] = []
    sources = {name: counting(source, asked) for name, source in live.sources.items()}
    row = one_set(dataclasses.replace(live, sources=sources), flood)
    assert asked == [0] * len(sources), "nothing is searched for them"
    assert QUARANTINED in row["degraded_reasons"]
    assert {source["source_id"] for one in row["candidates"] for source in one["sources"]} <= {
        "np.popular_market", "np.explore",
    }  # fmt: skip
    assert row["sequence"] == flood.sequence


def counted(live) -> Provenance:
    """Return what sets rest on where chances are known: best those of what follows and of what neighbours heard."""
    rates = {"np.transition": 0.3, "np.session_knn": 0.3, "np.session": 0.1}
    ranks = 1 + np.arange(100) / 10
    tables = {quota.source_id: rates.get(quota.source_id, 0.01) / ranks for quota in live.policy.sources}
    return dataclasses.replace(live.provenance, calibration=Calibration(tables, counted=True))


@pytest.mark.parametrize("known", [False, True], ids=["by targets", "by chances"])
def test_three_fast_skips_bring_more_of_what_is_alike_and_known_and_less_of_what_follows(live, tracks, known):
    policy = dataclasses.replace(live.policy, size=100)  # as the repository's: quotas say little of a set of 40
    full = dataclasses.replace(live, policy=policy, provenance=counted(live) if known else live.provenance)

    def slots(seed: str, slowest_ms: int) -> collections.Counter:
        turned = [skip(m, ms=slowest_ms if m == 2 else 3_000, item_id=tracks[m]) for m in (1, 2, 3)]
        row = one_set(full, Window.of([heard(0, item_id=seed), *turned]))
        return collections.Counter(one["sources"][0]["source_id"] for one in row["candidates"])

    usual, lost = (sum((slots(seed, ms) for seed in tracks), collections.Counter()) for ms in (12_000, 3_000))
    assert lost["np.transition"] < 0.7 * usual["np.transition"]
    assert lost["np.similar"] > 1.5 * usual["np.similar"]
    assert lost["np.familiar"] > 1.3 * usual["np.familiar"]


def test_another_version_of_what_was_heard_is_not_offered(live):
    """A work is told by title and first artist; none of its versions shares a recording with another."""
    every = live.bundle.read("item", ["item_id", "item_type", "canonical_id", "title", "artists", "availability"])
    told = every.filter(pl.col("item_type") == "track", pl.col("availability").is_null()).with_columns(work())
    alike = told.join(told, on="work").filter(pl.col("canonical_id") != pl.col("canonical_id_right"))
    assert alike.height
    kept_out = 0
    for heard_, other in alike.sort("item_id", "item_id_right").select("item_id", "item_id_right").rows()[:6]:
        row = one_set(live, Window.of([heard(0, item_id=heard_), heard(1, item_id=told["item_id"][0])]))
        assert other not in offered(row)
        kept_out += sum(one["count"] for one in row["counts"]["filtered_by_rule"] if one["rule"] == "in_session")
    assert kept_out, "sources propose them all the same"


def test_a_video_is_for_whoever_is_at_a_screen(live, tracks):
    videos = set(live.bundle.read("item", ["item_id"], pl.col("item_type") == "video")["item_id"])
    listened = live.bundle.read("co_listen", ["item_id"])["item_id"].unique().sort()
    seeds = [one for one in listened if one in videos][:6]

    def sets(**last) -> list[dict]:
        return [one_set(live, Window.of([heard(0, item_id=tracks[5]), heard(1, item_id=one, **last)])) for one in seeds]

    shown, heard_only, unsaid = sets(device_type="tv"), sets(device_type="speaker"), sets()
    assert videos & {one for row in shown for one in offered(row)}
    assert not videos & {one for row in (*heard_only, *unsaid) for one in offered(row)}
    rules = [one["rule"] for row in heard_only for one in row["counts"]["filtered_by_rule"]]
    assert "video" in rules, "what is proposed all the same is counted"


def test_whoever_is_held_out_is_given_charts_and_what_is_drawn(live, users, tracks):
    everybody = windows(users, tracks)
    half = dataclasses.replace(live, policy=dataclasses.replace(live.policy, holdout=0.5))
    usual, held = records(live(everybody)), records(half(everybody))
    out = {user for user, row in held.items() if "holdout" in row["degraded_reasons"]}
    assert 0 < len(out) < len(held)
    for user, row in held.items():
        if user not in out:
            assert row["candidates"] == usual[user]["candidates"], "nobody else minds"
            continue
        sources = {source["source_id"] for one in row["candidates"] for source in one["sources"]}
        assert sources == {"np.popular_market", "np.explore"}
        assert row["fallback_level"] == 3
        drawn = [one["propensity"] for one in row["candidates"] if one["is_exploration"]]
        not_drawn = sum(one["count"] for one in row["counts"]["filtered_by_rule"] if one["rule"] == "not_drawn")
        assert sum(drawn) * (len(drawn) + not_drawn) == pytest.approx(len(drawn) ** 2)


def longest_run(live, row) -> int:
    items = live.bundle.read("item", ["item_id", "artists"]).select("item_id", pl.col("artists").list.first())
    artist = dict(items.unnest("artists").select("item_id", "artist_id").iter_rows())
    return max(len(list(run)) for who, run in itertools.groupby(artist[one] for one in offered(row)) if who)


def test_an_artist_may_go_on_for_whoever_is_with_one(live):
    """With the artist of most tracks, so that there is something to go on with."""
    items = live.bundle.read(
        "item", ["item_id", "artists"], (pl.col("item_type") == "track") & pl.col("availability").is_null()
    )
    told = items.select("item_id", pl.col("artists").list.first().struct.field("artist_id")).drop_nulls()
    of_one = told.sort("item_id").group_by("artist_id").agg("item_id").sort(pl.col("item_id").list.len(), "artist_id")
    artist, own = of_one.row(-1)
    other = of_one["item_id"][0][0]
    assert len(own) > 5, artist
    # With chances that say nothing but who made it, its tracks stand together until they are spread.
    alone = {"np.artist_radio": np.full(100, 0.9)}
    chances = {quota.source_id: np.full(100, 0.1) for quota in live.policy.sources} | alone
    served = dataclasses.replace(live, provenance=dataclasses.replace(
        live.provenance, calibration=Calibration(chances, counted=True)))  # fmt: skip
    some = [heard(n, item_id=one) for n, one in enumerate(own[:3])]
    mixed = [some[0], heard(1, item_id=other), some[2]]
    from_album = [heard(0, item_id=own[0], context_type="album")]
    runs = [longest_run(live, one_set(served, Window.of(told))) for told in (mixed, [some[0]], some, from_album)]
    assert runs[:2] == [2, 2]
    assert min(runs[2:]) > 2


def test_what_a_listener_comes_back_to_is_offered_where_it_suits_the_session(live, users):
    """Of all listeners the first one with a track heard on several days, and another that is listened to with it."""
    told = live.bundle.read("history", ["user_id", "positives"]).explode("positives").unnest("positives")
    days = (
        told.filter(pl.col("item_type") == "track")
        .group_by("user_id", "item_id")
        .agg(pl.col("event_ts").dt.date().n_unique())
    )
    known = days.filter(pl.col("event_ts") > 1).join(
        users.filter(~pl.col("personalization_opt_out")), on="user_id", how="semi"
    )
    near = live.bundle.read("co_listen", ["item_id", "other_item_id"]).rename(
        {"item_id": "seed", "other_item_id": "item_id"}
    )
    heard_too = told.select("user_id", seed="item_id").unique()
    found = known.join(near, on="item_id").join(heard_too, on=["user_id", "seed"], how="anti")
    user, favourite, seed = found.sort("user_id", "item_id", "seed").select("user_id", "item_id", "seed").row(0)
    familiar = {
        who: sourced(one_set(live, Window.of([heard(0, item_id=seed)]), who)) for who in (user, "nobody-knows-me")
    }
    assert familiar[user][favourite]["raw_score"] > 1
    assert familiar[user][favourite]["seed_item_ids"] == [favourite, seed]
    assert all(one["raw_score"] <= 1 for one in familiar["nobody-knows-me"].values())
    away = Window.of([skip(-1, item_id=favourite), heard(0, item_id=seed)])
    assert favourite not in offered(one_set(live, away, user))


def sourced(row, name="np.familiar") -> dict[str, dict]:
    """Return by item what a source says of the candidates it proposed."""
    told = [(one["item_id"], source) for one in row["candidates"] for source in one["sources"]]
    return {item_id: source for item_id, source in told if source["source_id"] == name}


def test_who_turns_to_something_else_begins_a_session_that_knows_nothing_of_the_one_before(live, tracks):
    turned = heard(6, item_id=tracks[5], context_uri="album:2", reason_start="click")
    alone = offered(one_set(live, Window.of([turned])))
    before = heard(0, item_id=alone[0], context_uri="album:1")
    assert offered(one_set(live, Window.of([before, turned]))) == alone
    went_on = offered(one_set(live, Window.of([before, turned._replace(reason_start="trackdone")])))
    assert alone[0] not in went_on
    assert set(went_on) != set(alone) - {alone[0]}, "its vector is of both"


def parts(live, kind: str, **columns) -> list[list[str]]:
    """Return the parts of each show or book in order."""
    names = ["item_id", "show_id", "season", "episode_no"]
    every = live.bundle.read("item", [*names, "is_trailer", *columns], pl.col("item_type") == kind)
    mine = every.filter(~pl.col("is_trailer").fill_null(False), *(pl.col(name) == one for name, one in columns.items()))
    ordered = mine.sort("show_id", "season", "episode_no").group_by("show_id", maintain_order=True).agg("item_id")
    return ordered["item_id"].to_list()


def test_an_episode_of_a_serial_show_is_followed_by_the_next_one_and_no_other(live):
    for show in parts(live, "episode", is_serial=True)[:2]:
        for n in (0, 3):
            told = heard(0, item_id=show[n], item_type="episode", label=1.0)
            found = offered(one_set(live, Window.of([told])))
            assert found[0] == show[n + 1]
            assert [one for one in found if one in show] == [show[n + 1]]


def test_a_chapter_is_followed_by_the_next_one_and_no_other_book(live, users):
    user = users.filter(pl.col("tier") == "premium", ~pl.col("personalization_opt_out"))["user_id"][0]
    known = live.bundle.read("history", ["positives"], pl.col("user_id") == user)["positives"]
    begun = {one["item_id"] for listens in known for one in listens}
    fresh = [book for book in parts(live, "chapter") if not begun & set(book)]
    for book in fresh[:2]:
        for n in (0, 2):
            told = [heard(m, item_id=book[m], item_type="chapter", label=1.0) for m in range(n + 1)]
            found = offered(one_set(live, Window.of(told), user))
            assert found[0] == book[n + 1]
            assert [one for one in found if one.startswith(("ch", "ab"))] == [book[n + 1]]
    told = [heard(m, item_id=one, item_type="chapter", label=1.0) for m, one in enumerate(fresh[0])]
    others = [one for one in offered(one_set(live, Window.of(told), user)) if one.startswith(("ch", "ab"))]
    assert others, "at its end there is room for another one"
    assert not set(others) & set(fresh[0])


def test_another_recording_of_what_was_heard_is_not_offered(live, tracks):
    every = live.bundle.read("item", ["item_id", "canonical_id"], pl.col("item_type") == "track")
    alike = every.join(every, on="canonical_id").filter(pl.col("item_id") != pl.col("item_id_right"))
    twin_of = dict(alike.select("item_id", "item_id_right").sort("item_id", "item_id_right").iter_rows())
    seed = heard(3, item_id=tracks[0])
    wanted = [one for one in offered(one_set(live, Window.of([heard(0, item_id=tracks[1]), seed]))) if one in twin_of]
    assert wanted
    for one in wanted:
        assert one not in offered(one_set(live, Window.of([heard(0, item_id=twin_of[one]), seed])))


def test_nothing_live_is_said(tmp_path):
    with pytest.raises(BundleError, match=r"nothing is live on now_playing .* run `make demo`"):
        open_live(open_store(str(tmp_path)), tmp_path)


def test_a_bundle_with_a_part_gone_is_refused(copy_road, tmp_path):
    store = open_store(str(copy_road.root))
    item = next(copy_road.root.glob("data/item/*/*/manifest.json"))
    item.unlink()
    with pytest.raises(BundleError, match=r"manifest.json \(item\) is gone; run its date again"):
        open_live(store, tmp_path)


def altered(file: Path) -> None:
    """Change one byte of a Parquet file, which reads as well as before: the name of what wrote it."""
    content = file.read_bytes()
    at = content.rindex(b"parquet-cpp")
    file.write_bytes(content[:at] + b"P" + content[at + 1 :])
    assert pl.read_parquet(file).equals(pl.read_parquet(content))


@pytest.mark.parametrize("name", ["history", "proposal", "item", "popularity", "item_embedding"])
def test_a_bundle_with_one_byte_changed_is_refused(copy_road, tmp_path, name):
    files = copy_road.root.glob(f"data/{name}/*/*/*.parquet")
    for file in files:
        altered(file)
    with pytest.raises(
        BundleError, match=rf"bundle \w+: .*{name}.* has sha256 \w+, committed was \w+; run its date again"
    ):
        open_sessions(str(copy_road.root), tmp_path / "tables")


def test_tables_of_bundles_that_are_served_no_more_are_deleted(copy_road, tmp_path):
    root, folder = str(copy_road.root), tmp_path / "tables"

    def names() -> set[str]:
        gc.collect()
        return {path.name for path in folder.iterdir()}

    first = open_sessions(root, folder)
    before = names()
    for file in copy_road.root.glob("data/history/*/*/*.parquet"):
        os.utime(file)  # as another bundle would have others
    second = open_sessions(root, folder)
    assert len(names()) == len(before) + 1, "the first is served until the second is in use"
    del first
    third = open_sessions(root, folder)
    assert len(names()) == len(before)
    assert second.bundle == third.bundle
    assert names() != before


def test_another_process_makes_the_same_sets(small_road, live, users, tracks, tmp_path, monkeypatch):
    monkeypatch.setattr("transforms.stream.crew.LEAST", 2)
    states = {user: window.to_bytes() for user, window in windows(users, tracks).items()}
    crew = open_sessions(str(small_road.root), tmp_path, processes=2)
    asked = []
    crew.others[0].ask = lambda part, ask=crew.others[0].ask: asked.append(len(part)) or ask(part)
    assert crew.sets(states).equals(Sessions(live).sets(states))
    assert asked == [len(states) - len(states) // 2]


def test_what_few_groups_share_is_looked_up_once_and_changes_no_set(live, users, tracks, monkeypatch):
    asked, fresh = windows(users, tracks), lambda: dataclasses.replace(live, bundle=dataclasses.replace(live.bundle))
    given, named = LiveBundle.lookup, []
    monkeypatch.setattr(LiveBundle, "lookup", lambda self, *told: named.append(told[0]) or given(self, *told))
    held = fresh()
    first = held(asked)
    named.clear()
    assert held(asked).equals(first)
    assert "groups" not in named
    monkeypatch.setattr("transforms.stream.live.FEW_GROUPS", 0)
    assert fresh()(asked).equals(first)
    assert "groups" in named


def test_of_what_groups_share_a_bounded_part_is_held(live, monkeypatch):
    monkeypatch.setattr("transforms.stream.live.HELD_GROUPS", 1)
    bundle, explored = dataclasses.replace(live.bundle), live.policy.explore
    groups = bundle.read("proposal", ["key"])["key"]
    groups = pl.Series("key", ["*|*|*", *groups.filter(groups.str.starts_with("*|"))]).unique().sort().head(2)
    for group in (groups[:1], groups[1:], groups[:1]):
        assert bundle.shared(group, explored)[0].equals(bundle.lookup("groups", "key", group))
        assert len(bundle._shared) == 1


def test_a_set_of_one_listener_takes_few_queries(live, users, tracks, monkeypatch):
    user, window = next(iter(windows(users, tracks).items()))
    live({user: window})
    given, asked = pl.LazyFrame.collect, []
    monkeypatch.setattr(
        pl.LazyFrame, "collect", lambda self, *told, **named: asked.append(1) or given(self, *told, **named)
    )
    live({user: window})
    assert 0 < len(asked) < 150
