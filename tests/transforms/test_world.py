"""The synthetic world: what it plants is what comes out, and nothing else."""

import collections
import datetime
import functools

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from schemas.inputs import CLOCK_SKEW_S, EVENT
from transforms.decode import decode_lines
from transforms.works import work
from transforms.world import Batch, World, build_world, event_batches, item_truth, snapshots, user_truth
from transforms.world_dirt import MALFORMED, encode_events
from transforms.world_setting import MARKETS, PRESETS, Dirt, Setting, hex_ids, zipf_rank
from validation.rows import row_rules

DIRT = Dirt(duplicates=0.02, conflicts=0.005, late=0.05, malformed=0.01, future=0.004)
CLEAN = Dirt.only(())
SMALL = Setting(users=800, items=3_000, events=40_000, markets=4, end=datetime.date(2026, 1, 31), days=14, dirt=DIRT)
PARTS = 4


@functools.cache
def world(dirt: Dirt = DIRT) -> World:
    return build_world(Setting(**{f: getattr(SMALL, f) for f in SMALL.__slots__} | {"dirt": dirt}))


@functools.cache
def batches(dirt: Dirt = DIRT) -> tuple[Batch, ...]:
    return tuple(event_batches(world(dirt), SMALL.events // PARTS))


def events(dirt: Dirt = DIRT) -> pl.DataFrame:
    return pl.concat([batch.events for batch in batches(dirt)])


def counts(dirt: Dirt = DIRT) -> collections.Counter:
    return sum((batch.counts for batch in batches(dirt)), collections.Counter())


def table(name: str) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(snapshots(world())[name]))


def plays() -> pl.DataFrame:
    """Clean plays and skips in the order they happened, with the truth about their items."""
    played = events(CLEAN).filter(pl.col("event_type").is_in(["play", "skip"])).sort("user_id", "event_ts", "event_id")
    return played.join(item_truth(world(CLEAN)), on="item_id", how="left", maintain_order="left")


def test_same_seed_gives_same_world_and_another_seed_another():
    again = Setting(**{f: getattr(SMALL, f) for f in SMALL.__slots__})
    other = Setting(**{f: getattr(SMALL, f) for f in SMALL.__slots__} | {"seed": 8})
    assert_frame_equal(
        pl.concat([b.events for b in event_batches(build_world(again), SMALL.events // PARTS)]), events()
    )
    assert snapshots(build_world(again)) == snapshots(world())
    assert not set(build_world(other).people.ids) & set(world().people.ids)


def test_counts_are_what_is_in_the_rows():
    rows, truth = events(), counts()
    sizes = rows.group_by("event_id").agg(pl.len(), pl.col("ms_played").n_unique().alias("payloads"))
    assert truth["events"] == SMALL.events == rows["event_id"].n_unique()
    assert rows.height == truth["events"] + truth["duplicates"] + truth["conflicts"]
    assert sizes.filter(len=2, payloads=1).height == truth["duplicates"] > 500
    assert sizes.filter(len=2, payloads=2).height == truth["conflicts"] > 50
    ahead = (pl.col("event_ts") - pl.col("ingest_ts")).dt.total_seconds() > CLOCK_SKEW_S
    assert rows.filter(ahead).height == truth["future"] > 80


def test_a_duplicate_differs_in_arrival_only():
    twice = events().filter(pl.len().over("event_id") > 1, pl.col("ms_played").n_unique().over("event_id") == 1)
    same = twice.drop("ingest_ts").unique()
    assert same.height == counts()["duplicates"]
    assert twice.group_by("event_id").agg(pl.col("ingest_ts").n_unique())["ingest_ts"].min() == 2


def test_late_events_are_counted_and_come_within_the_cutoff():
    dirt = Dirt.only(("late",))
    rows = events(dirt)
    late = rows.filter(pl.col("ingest_ts") - pl.col("event_ts") >= pl.duration(hours=1))
    assert late.height == counts(dirt)["late"]
    assert 0.005 < late.height / rows.height < 0.02
    assert late["offline"].all()
    assert rows["ingest_ts"].max() <= datetime.datetime(2026, 2, 1, 6, tzinfo=datetime.UTC)


def test_events_come_in_order_of_arrival_across_batches():
    assert len(batches()) == PARTS
    assert events()["ingest_ts"].is_sorted()
    assert not events()["event_ts"].is_sorted()


def test_clean_events_obey_every_rule_of_the_contract():
    given = set(EVENT.given_columns())
    rules = [(name, rule) for name, rule in row_rules(EVENT) if name.split(":")[0] in given]
    broken = events(CLEAN).select(rule.sum().alias(name) for name, rule in rules).row(0, named=True)
    assert {name for name, count in broken.items() if count} == {"session_id:required"}
    assert events(CLEAN).height == events(CLEAN)["event_id"].n_unique() == SMALL.events


def test_snapshots_obey_every_rule_of_their_contracts():
    from schemas.catalogue import CONTRACTS

    filled_in = {"canonical_id:required", "explicit:required", "rec_eligible:required"}
    for name in snapshots(world()):
        given = set(CONTRACTS[name].given_columns())
        rules = [(rule, expr) for rule, expr in row_rules(CONTRACTS[name]) if rule.split(":")[0] in given]
        broken = table(name).select(expr.sum().alias(rule) for rule, expr in rules).row(0, named=True)
        assert {rule for rule, count in broken.items() if count} <= filled_in, name
        assert table(name).select(CONTRACTS[name].key).is_unique().all(), name


def test_json_lines_decode_but_for_the_malformed_ones():
    rows = events(CLEAN)[:10_000]
    encoded, malformed = encode_events(rows, SMALL, 3)
    decoded = decode_lines(encoded.split(b"\n"), EVENT)
    types = decoded.rejected.group_by("rule").len().rows()
    good = decoded.rows.filter(~pl.col("event_id").fill_null("malformed").str.starts_with("malformed"))
    assert decoded.total == rows.height + sum(malformed.values())
    assert min(malformed.values()) > 5
    assert dict(types) == {"decode:malformed": malformed["truncated"], "event_ts:type": malformed["wrong_type"]}
    assert_frame_equal(good.select(rows.columns), rows)
    bad = decoded.rows.filter(pl.col("event_id").fill_null("malformed").str.starts_with("malformed"))
    assert bad["event_id"].null_count() == malformed["missing_id"]
    assert bad.filter(event_type="teleport").height == malformed["unknown_enum"]
    assert bad.filter(schema_version=99).height == malformed["future_version"]
    assert set(malformed) == set(MALFORMED)


def test_usual_dirt_stays_under_what_ingest_tolerates():
    usual = Dirt()
    assert usual.malformed + usual.future + 2 * usual.conflicts < 0.0008
    assert usual.duplicates < 0.005


def test_days_are_steady_and_complete():
    by_date = sum((batch.by_date for batch in batches(CLEAN)), collections.Counter())
    days = np.array([by_date[day] for day in sorted(by_date)])
    assert len(days) == SMALL.days
    assert days.sum() == SMALL.events
    assert np.abs(days / days.mean() - 1).max() < 0.08
    same_weekday = days[:7] / days[7:]
    assert np.abs(same_weekday[1:6] - 1).max() < 0.06
    assert max(by_date) == "2026-01-31"


def test_sessions_are_sessions():
    named = events(CLEAN).drop_nulls("session_id").sort("event_ts")
    sessions = named.group_by("session_id").agg(
        pl.len(), pl.col("user_id").n_unique(), (pl.col("event_ts").max() - pl.col("event_ts").min()).alias("span")
    )
    assert sessions["user_id"].max() == 1
    assert sessions["len"].max() == 25
    assert 5 < sessions["len"].mean() < 10
    assert sessions["span"].max() < datetime.timedelta(hours=6)


def test_listeners_stay_with_their_tastes_and_skip_what_is_off_them():
    music = plays().filter(pl.col("item_type") == "track")
    tastes = music.join(user_truth(world(CLEAN)), on="user_id").with_columns(
        liked=pl.col("cluster").is_in(pl.col("clusters")), skipped=pl.col("event_type") == "skip"
    )
    rates = dict(tastes.group_by("liked").agg(pl.col("skipped").mean()).rows())
    assert tastes["liked"].mean() > 0.9
    assert rates[False] > 3 * rates[True]


def test_successors_follow_at_the_planted_rate():
    music = plays().drop_nulls("session_id").filter(pl.col("item_type") == "track")
    pairs = music.with_columns(next=pl.col("item_id").shift(-1).over("session_id")).drop_nulls("next")
    assert 0.30 < (pairs["next"] == pairs["successor_id"]).mean() < 0.40
    assert counts(CLEAN)["choice:successor"] > 0.2 * music.height


def test_favourites_are_played_again():
    owned = plays().join(user_truth(world(CLEAN)), on="user_id")
    assert owned.select(pl.col("item_id").is_in(pl.col("favourites")).mean()).item() > 0.15


def test_talk_is_heard_in_order():
    parts = plays().filter(pl.col("item_type") == "episode").select("user_id", "event_ts", "item_id")
    numbers = parts.join(table("item").select("item_id", "show_id", "episode_no", "is_trailer"), on="item_id")
    steps = numbers.sort("event_ts").select(
        "is_trailer", step=pl.col("episode_no").diff().over("user_id", "show_id", mapping_strategy="group_to_rows")
    )
    assert not steps["is_trailer"].any()
    assert steps.drop_nulls("step").select((pl.col("step") == 1).mean()).item() > 0.7


def test_nobody_plays_what_they_may_not():
    users = table("user").select("user_id", "tier", "explicit_filter")
    items = table("item").select("item_id", "explicit", "availability")
    rows = plays().join(items, on="item_id").join(users, on="user_id")
    never_early = rows.filter(pl.col("event_ts") < pl.col("playable_from"))
    never_late = rows.filter(pl.col("event_ts") >= pl.col("playable_until"))
    assert never_early.is_empty()
    assert never_late.is_empty()
    assert rows.filter(pl.col("explicit") & pl.col("explicit_filter")).is_empty()
    offers = (
        rows.filter(pl.col("availability").is_not_null()).explode("availability").unnest("availability", separator=".")
    )
    here = pl.col("availability.market").is_in(["*"]) | (pl.col("availability.market") == pl.col("market"))
    tier = pl.col("availability.tiers").is_null() | pl.col("tier").is_in(pl.col("availability.tiers"))
    allowed = offers.group_by("event_id").agg((here & tier).any().alias("ok"))
    assert allowed.height > 10_000
    assert allowed["ok"].all()


def test_availability_has_every_shape():
    items = table("item")
    entries = items.explode("availability").unnest("availability", separator=".")
    end = datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)
    books = entries.filter(pl.col("item_type") == "audiobook")
    assert set(entries["availability.market"].unique()) == {None, "*", *MARKETS[:4]}
    assert books["availability.tiers"].null_count() == 0
    assert not books["availability.tiers"].list.contains("free").any()
    assert entries.filter(pl.col("availability.from_ts") >= end).height > 5
    assert entries.filter(pl.col("availability.to_ts") < end + datetime.timedelta(hours=36)).height > 2
    assert 0.2 < items.filter(pl.col("item_type") == "track")["availability"].is_null().mean() < 0.5


def test_catalogue_has_what_the_road_must_handle():
    items = table("item")
    versions = items.drop_nulls("canonical_id").group_by("canonical_id").len()
    start = datetime.datetime(2026, 1, 18, tzinfo=datetime.UTC)
    fresh = items.filter(pl.col("release_ts").is_between(start, start + datetime.timedelta(days=14)), item_type="track")
    artists = fresh["artists"].list.first().struct.field("artist_id").unique().to_list()
    follows = table("user").select(pl.col("follows").list.set_intersection(artists).list.len().gt(0).mean()).item()
    assert set(items["item_type"]) == {"artist", "track", "video", "show", "episode", "audiobook", "chapter"}
    assert versions["len"].unique().to_list() == [2]
    live = items.filter(pl.col("title").str.ends_with(" (Live)") | pl.col("title").str.ends_with(" - 2011 Remaster"))
    of_work = (
        items.with_columns(pl.coalesce("canonical_id", "item_id"), work())
        .group_by("work")
        .agg("item_id", "canonical_id")
    )
    both = live.explode("artists").join(
        of_work.filter(pl.col("canonical_id").list.n_unique() > 1).explode("item_id"), on="item_id"
    )
    assert live["canonical_id"].null_count() == live.height == both.height > 10
    assert items.filter(item_type="track", rec_eligible=False).height > 5
    assert items.group_by("item_type").agg(pl.col("description").is_not_null().mean())["description"].min() > 0.9
    assert follows > 0.3
    assert items.filter(item_type="artist")["title"].is_unique().all()


def test_people_have_what_the_road_must_handle():
    users, buried = table("user"), table("tombstone")
    assert users.height < SMALL.users + 1
    assert users["blocked_artists"].list.len().gt(0).any()
    assert users["hidden_items"].list.len().gt(0).any()
    assert users["personalization_opt_out"].any()
    assert (
        users.filter(tier="kids", age_band="0-12", explicit_filter=True).height == users.filter(tier="kids").height > 0
    )
    assert set(buried["entity"]) >= {"item", "campaign"}
    assert not events(CLEAN)["consent_personalization"].all()
    assert events(CLEAN)["private_session"].any()
    assert table("campaign")["item_ids"].explode().is_in(table("item")["item_id"].to_list()).all()


def test_some_users_are_never_seen():
    assert 0.9 < events(CLEAN)["user_id"].n_unique() / SMALL.users < 0.97


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_worlds(preset):
    assert len(Setting(**PRESETS[preset], end=SMALL.end).market_codes) == PRESETS[preset]["markets"]
    assert len(set(MARKETS)) == len(MARKETS) == 184


def test_too_small_a_world_is_refused():
    with pytest.raises(ValueError, match="world users: expected 100 to 100000000, got 5"):
        Setting(users=5, items=3_000, events=40_000, markets=4, end=SMALL.end)


def test_unknown_dirt_is_refused():
    with pytest.raises(ValueError, match="unknown dirt mud; this world knows duplicates, conflicts, late"):
        Dirt.only(("mud", "late"))


def test_a_share_of_dirt_beyond_reason_is_refused():
    with pytest.raises(ValueError, match=r"dirt late: expected a share from 0 to 0.2, got 0.5"):
        Dirt(late=0.5)


def test_zipf_rank_falls_and_stays_in_the_list():
    ranks = zipf_rank(np.linspace(0, 1, 10_001)[:-1], np.full(10_000, 50))
    histogram = np.bincount(ranks, minlength=50)
    assert len(histogram) == 50
    assert histogram[0] > 1.5 * histogram[5] > 2 * histogram[49] > 0


def test_hex_ids_spell_numbers():
    assert hex_ids("u", np.array([0, 255, 0xABCDE], np.uint64), 4).to_list() == ["u0000", "u00ff", "ubcde"]
