import dataclasses
import datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from toy_road import (
    END,
    FIELDS,
    NOW,
    PROVENANCE,
    days_ago,
    facts,
    instant,
    item,
    offer_in,
    policy,
    proposals,
    quota,
    record,
)

from schemas.candidates import CANDIDATE_SET
from schemas.hashing import hash64_one
from transforms.audit import audit
from transforms.blend import blend
from transforms.calibrate import Calibration
from transforms.candidate_sets import Provenance, Rests, assemble
from transforms.sources import Source
from transforms.stream.messages import encode_sets
from validation.freshness_gates import RELEASED

REASONED = {
    name: Source(lambda audience, bundle: None, "toy", "toy", f"because of {name}", 9)
    for name in ("own", "company", "chart")
}


def assembled(offered, told, surface, group=None, provenance=PROVENANCE) -> list[dict]:
    made = blend(proposals(offered, group=group), told, surface, instant(surface))
    return assemble(made, told, surface, instant(surface), REASONED, provenance).to_pylist()


@pytest.mark.parametrize(
    ("own", "market", "seen", "level", "reasons"),
    [
        (4, "SE", True, 0, []), (2, "SE", True, 0, []), (1, "SE", True, 1, []), (0, "SE", True, 3, []),
        (0, "*", True, 4, ["unknown_market"]), (1, "*", False, 1, ["no_history", "unknown_market"]),
        (0, "SE", False, 3, ["no_history"]),
    ],
)  # fmt: skip
def test_the_fallback_level_says_how_personal_a_set_is(own, market, seen, level, reasons):
    surface = policy(quota("own", 0, 4, 4), quota("chart", 4, 4, 4, personal=False), size=4, fill_to=4, minimum_size=4)
    mine, charts = [f"o{n}" for n in range(own)], [f"c{n}" for n in range(4 - own)]
    who = record(needs=f"{market}|free", group="*|SE|free", seen=seen)
    told = facts([item(one) for one in (*mine, *charts)], [who])
    (row,) = assembled({"own": mine}, told, surface, {"chart": charts})
    assert (row["fallback_level"], row["degraded_reasons"]) == (level, reasons)


def test_a_set_one_short_of_the_minimum_says_so():
    surface = policy(quota("own"), quota("chart", personal=False), minimum_size=3)
    told = facts([item("a"), item("b"), item("c")])
    assert assembled({"own": ["a", "b"]}, told, surface)[0]["degraded_reasons"] == ["below_minimum_size"]
    assert assembled({"own": ["a", "b", "c"]}, told, surface)[0]["degraded_reasons"] == []


def test_a_candidate_says_how_familiar_and_fresh_it_is_and_why_it_is_there():
    items = [
        item("played", "x", release_ts=days_ago(31)), item("other", "x", release_ts=days_ago(30)), item("new", "y"),
        item("nobody", artists=None, release_ts=days_ago(1)),
    ]  # fmt: skip
    told = facts(items, [record(artists_known=["x"])], played=[(0, "played", days_ago(2), False)])
    surface = policy(quota("own"), quota("chart", personal=False))
    (row,) = assembled({"own": ["played", "other", "new"]}, told, surface, {"chart": ["nobody"]})
    shown = {c["item_id"]: (c["familiarity"], c["is_fresh"], c["reason_code"]) for c in row["candidates"]}
    assert shown == {
        "played": ("known", False, "because of own"), "other": ("discovery", True, "because of own"),
        "new": ("new_artist", False, "because of own"), "nobody": ("discovery", True, "because of chart"),
    }  # fmt: skip


def test_a_source_names_the_artifact_its_score_rests_on():
    surface = policy(quota("own", 0, 4, 9), quota("chart"))
    (row,) = assembled({"own": ["a", "b", "c"]}, facts([item("a"), item("b"), item("c")]), surface)
    sources = [c["sources"][0] for c in row["candidates"]]
    assert [(s["model_id"], s["model_version"]) for s in sources] == [("model", "7")] * 3


@pytest.mark.parametrize("index", [(None, None), ("index", "9")])
def test_a_source_names_the_index_it_searched(index):
    surface = policy(quota("own", 0, 4, 9), quota("chart"))
    known = Provenance(FIELDS, {"toy": Rests("model", "7", "space", *index)})
    (row,) = assembled({"own": ["a"]}, facts([item("a")]), surface, provenance=known)
    (source,) = row["candidates"][0]["sources"]
    assert (source["embedding_space_id"], source["index_id"], source["index_version"]) == ("space", *index)


def test_a_source_says_how_likely_its_proposal_is_taken_up():
    surface, told = policy(quota("own", 0, 4, 9), quota("chart")), facts([item("a"), item("b"), item("c")])
    unseen = [0.02, 0.02 / 1.25, 0.02 / 1.5]
    for calibration, expected in (({}, unseen), ({"own": np.array([0.5, 0.25])}, [0.5, 0.25, 0.25])):
        known = dataclasses.replace(PROVENANCE, calibration=Calibration(calibration))
        (row,) = assembled({"own": ["a", "b", "c"]}, told, surface, provenance=known)
        found = [c["sources"][0]["calibrated_score"] for c in row["candidates"]]
        assert found == pytest.approx(expected)


def test_a_record_without_candidates_is_left_out():
    surface = policy(quota("own"), quota("chart"))
    told = facts([item("a")], [record("u0"), record("u1"), record("u2")])
    assert [row["record_key"] for row in assembled({"own": ["a"]}, told, surface)] == ["u1"]
    assert assembled({}, told, surface) == []


def test_ids_differ_by_record_context_surface_and_run():
    surface = policy(quota("own"), quota("chart"))
    told = facts([item("a")], [record("u1"), record("u1", context_key="market=NO")])
    made = blend(proposals({"own": ["a"]}), told, surface, instant(surface))
    found = set()
    for place in (surface, dataclasses.replace(surface, name="now_playing")):
        for run in ("run", "other"):
            provenance = Provenance(FIELDS | {"run_id": run}, {})
            sets = assemble(made, told, place, instant(surface), REASONED, provenance)
            found |= set(sets["candidate_set_id"].to_pylist())
    assert len(found) == 8


def test_the_largest_record_is_below_256_kib():
    """500 candidates (the most of any surface) of two sources each with three seeds, ids of 22 characters.

    In memory and as it is sent. Its JSON is 540 kB before it is compressed, that of 300 candidates 325 kB.
    """
    ids = [f"{hash64_one(str(n)):022d}" for n in range(500)]
    surface = policy(quota("own", 0, 10, 500), quota("chart", 0, 10, 500), size=500, fill_to=500)
    told = facts([item(one, availability=[offer_in("*", until=END)]) for one in ids])
    seeded = proposals({"own": ids, "chart": ids[::-1]}).with_columns(
        pl.lit(ids[:3]).alias("seed_item_ids"), pl.lit(NOW).alias("seed_event_ts")
    )
    made = blend(seeded, told, surface, instant(surface))
    sets = assemble(made, told, surface, instant(surface), REASONED, PROVENANCE)
    assert len(sets["candidates"][0]) == 500
    assert all(len(c["sources"]) == 2 for c in sets["candidates"][0].as_py())
    assert sets.nbytes <= 256 * 1024
    (message,) = encode_sets(sets, {})
    assert len(message.data) <= 256 * 1024


# The audit, on sets somebody tampered with.


AUDITED = policy(quota("own"), quota("chart", personal=False), minimum_size=2)
TALK = {"item_type": "episode", "show_id": "show"}
LEAKS = {
    "market_violations": {"availability": [offer_in("NO")]},
    "tier_violations": {"availability": [offer_in("SE", ["premium"])]},
    "explicit_violations": {"explicit": True},
    "age_violations": {"age_rating": 18},
    "ineligible_violations": {"rec_eligible": False},
    "unreleased_violations": {"release_ts": NOW + datetime.timedelta(microseconds=1)},
    "video_violations": TALK | {"is_video": True},
    "language_violations": TALK | {"languages": ["no"]},
}
SKIP_DAYS = datetime.timedelta(days=AUDITED.recent_skip_days)
PERSONAL_LEAKS = {
    "blocked_violations": ({}, {"blocked": [(0, "artist-bad")]}),
    "hidden_violations": ({}, {"hidden": [(0, "bad")]}),
    "completed_violations": (TALK, {"played": [(0, "bad", days_ago(90), True)]}),
    "recent_skip_violations": ({}, {"skipped": [(0, "bad", NOW - SKIP_DAYS)]}),
}
VIOLATIONS = (*LEAKS, *PERSONAL_LEAKS, "tombstone_violations", "duplicate_items")


def audited(told, tamper=lambda rows: rows) -> dict[str, int]:
    """Blend two items for `u1` without a look at `bad`, tamper with the rows, and audit them with all facts."""
    surface, at = AUDITED, instant(AUDITED)
    kinds = dict(told.items.select("item_id", "item_type").rows())
    plain = [item(one, item_type=kinds.get(one, "track")) for one in ("a", "b", "bad")]
    innocent = facts(plain, [record(one["record_key"]) for one in told.records.to_dicts()])
    made = assemble(
        blend(proposals({"own": ["a", "b", "bad"]}), innocent, surface, at), innocent, surface, at, REASONED, PROVENANCE
    )
    tampered = pa.Table.from_pylist(tamper(made.to_pylist()), schema=CANDIDATE_SET.schema)
    found = audit(tampered, told, surface, at)
    return {name: found[name] for name in (*VIOLATIONS, "empty_sets", "sets_below_minimum", "slots", "sets")}


def clean(**found: int) -> dict[str, int]:
    return dict.fromkeys(VIOLATIONS, 0) | {"empty_sets": 0, "sets_below_minimum": 0, "slots": 3, "sets": 1} | found


def told_of(bad=(), **of_the_record) -> object:
    """Return facts of a listener of twelve who speaks Swedish, and of three items."""
    kid = record(explicit_allowed=False, max_age=12, languages=["sv"], may_video=False)
    return facts([item("a"), item("b"), item("bad", **dict(bad))], [kid], **of_the_record)


def test_a_good_set_has_no_violations():
    assert audited(told_of()) == clean()


@pytest.mark.parametrize("violation", LEAKS)
def test_a_leak_is_counted_though_no_filter_ran(violation):
    also = {"tier_violations": 1} if violation == "market_violations" else {}
    assert audited(told_of(LEAKS[violation])) == clean(**{violation: 1} | also)


@pytest.mark.parametrize("violation", PERSONAL_LEAKS)
def test_what_its_own_listener_must_not_be_given_is_counted(violation):
    bad, of_the_record = PERSONAL_LEAKS[violation]
    assert audited(told_of(bad, **of_the_record)) == clean(**{violation: 1})


def test_whoever_blocks_a_show_is_given_none_of_it():
    assert audited(told_of(TALK, blocked=[(0, "show")])) == clean(blocked_violations=1)


def test_what_was_deleted_is_counted():
    for when, counted in ((NOW, 1), (NOW + datetime.timedelta(microseconds=1), 0)):
        assert audited(told_of({"deleted_at": when}))["ineligible_violations"] == counted


@pytest.mark.parametrize(
    ("bad", "of_the_record"),
    [
        ({"age_rating": 12}, {}), ({"release_ts": NOW}, {}), ({"languages": ["no"]}, {}), (TALK, {}),
        (TALK | {"languages": ["no", "sv"]}, {}), (TALK | {"languages": []}, {}),
        ({}, {"blocked": [(0, "artist-other")], "hidden": [(0, "other")]}),
        ({}, {"played": [(0, "bad", days_ago(90), True)]}), (TALK, {"played": [(0, "bad", days_ago(90), False)]}),
        ({}, {"skipped": [(0, "bad", NOW - SKIP_DAYS - datetime.timedelta(microseconds=1))]}),
    ],
)  # fmt: skip
def test_what_is_just_allowed_is_no_leak(bad, of_the_record):
    assert audited(told_of(bad, **of_the_record)) == clean()


def test_what_one_listener_hides_another_may_have():
    told = facts([item("a"), item("b"), item("bad")], [record(), record("u2")], hidden=[(1, "bad"), (1, "a")])
    both = audited(told, lambda rows: [*rows, rows[0] | {"record_key": "u2", "candidate_set_id": "2"}])
    assert both == clean(slots=6, sets=2, hidden_violations=2)


@pytest.mark.parametrize("until", [NOW, END - datetime.timedelta(microseconds=1)])
def test_what_ends_before_the_set_expires_is_a_leak(until):
    found = audited(told_of({"availability": [offer_in("SE", until=until)]}))
    assert found["market_violations"] == found["tier_violations"] == 1
    assert audited(told_of({"availability": [offer_in("SE", until=END)]})) == clean()


def test_an_item_of_no_market_is_a_leak():
    assert audited(told_of({"availability": []}))["market_violations"] == 1


def test_what_was_taken_down_is_counted():
    told = dataclasses.replace(told_of(), gone=pl.Series("id", ["bad"]))
    assert audited(told) == clean(tombstone_violations=1)


def test_an_item_the_catalogue_does_not_know_is_a_leak():
    told = facts([item("a"), item("b")], [record(explicit_allowed=False)])
    assert audited(told)["market_violations"] == 1


def repeated(rows: list[dict], **changes) -> list[dict]:
    first = rows[0]["candidates"][0]
    rows[0]["candidates"].append(first | changes)
    return rows


def test_an_item_twice_in_a_set_is_counted_as_item_and_as_recording():
    assert audited(told_of(), repeated) == clean(duplicate_items=3, slots=4)
    assert audited(told_of(), lambda rows: repeated(rows, item_id="b2"))["duplicate_items"] == 1


def test_another_version_of_a_work_in_a_set_is_counted():
    told = facts([item("a", "x", title="Rain"), item("b"), item("bad", "x", title="Rain (Live)")])
    assert audited(told) == clean(duplicate_items=1)
    assert audited(facts([item("a", "x", title="Rain"), item("b"), item("bad", "y", title="Rain (Live)")])) == clean()


def test_the_same_item_in_two_sets_is_no_duplicate():
    told = facts([item("a"), item("b"), item("bad")], [record(), record("u2")])
    assert audited(told, lambda rows: [*rows, rows[0] | {"record_key": "u2", "candidate_set_id": "2"}]) == clean(
        slots=6, sets=2
    )


def test_slots_are_counted_by_the_age_of_what_they_hold():
    """Ages are whole days before the sets are valid; what is a week old, or not dated, is in no counter."""
    day = datetime.timedelta(days=1)
    just, later = datetime.timedelta(microseconds=1), {"a": day - datetime.timedelta(microseconds=1), "bad": 7 * day}
    for ages, counted in ((later, {0: 1}), (later | {"bad": 7 * day - just}, {0: 1, 6: 1}), ({"b": day}, {1: 1})):
        given = [item(one, release_ts=NOW - ages[one] if one in ages else None) for one in ("a", "b", "bad")]
        assert released_in(facts(given)) == {f"slots_released_days_ago:{age}": counted.get(age, 0) for age in range(7)}


def released_in(told) -> dict[str, int]:
    at = instant(AUDITED)
    made = assemble(
        blend(proposals({"own": ["a", "b", "bad"]}), told, AUDITED, at), told, AUDITED, at, REASONED, PROVENANCE
    )
    return {name: n for name, n in audit(made, told, AUDITED, at).items() if name.startswith(RELEASED)}


def test_missing_and_short_sets_are_counted():
    assert audited(told_of(), lambda rows: [])["empty_sets"] == 1
    assert audited(told_of(), lambda rows: [rows[0] | {"candidates": rows[0]["candidates"][:1]}]) == clean(
        sets_below_minimum=1, slots=1
    )
    assert audited(told_of(), lambda rows: [rows[0] | {"candidates": []}])["empty_sets"] == 1


def test_charts_are_counted_and_those_of_listeners_besides():
    """Newcomers, and whoever opted out, can have nothing but charts."""
    surface = policy(quota("own", 0, 4, 4), quota("chart", 4, 4, 4, personal=False), size=4, fill_to=4)
    who = [record("listener"), record("other"), record("new", seen=False), record("closed", opted_out=True)]
    told = facts([item("mine"), item("chart")], who)
    offered, at = proposals({"own": ["mine"]}, "listener", {"chart": ["chart"]}), instant(surface)
    made = assemble(blend(offered, told, surface, at), told, surface, at, REASONED, PROVENANCE)
    found = audit(made, told, surface, at)
    names = ("sets", "fallback_level_3_or_more", "listeners", "fallback_of_listeners")
    assert [found[name] for name in names] == [4, 3, 2, 1]


def test_overlap_is_counted_over_what_is_not_the_same_for_all():
    told = facts([item(one) for one in "abcyz"], [record("u1", newcomer=True), record("u2", newcomer=True)])
    offered = [proposals({"own": own}, key) for key, own in (("u1", ["a", "b"]), ("u2", ["b", "c"]))]
    shared = proposals({}, group={"company": ["y"], "chart": ["z"]})
    company = quota("company", 0, 1, 1, personal=False, newcomers=True)
    surface = policy(quota("own"), company, quota("chart", personal=False), minimum_size=2)
    at = instant(surface)
    made = assemble(blend(pl.concat([*offered, shared]), told, surface, at), told, surface, at, REASONED, PROVENANCE)
    found = audit(made, told, surface, at)
    assert (found["jaccard_pairs"], found["jaccard_ppm_sum"]) == (1, 333_333)
    assert [found[f"slots_by_source:{name}"] for name in ("own", "company", "chart")] == [4, 2, 2]
