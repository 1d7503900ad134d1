import datetime

import numpy as np
import pytest
from toy_road import DATE, NOW, days_ago, facts, instant, item, offer_in, policy, proposals, quota, record

from transforms.blend import offer
from transforms.filters import HARD_FILTERS, Instant, Judged, anybody, hard_filters, personal_pairs, until

POLICY = policy(quota("near", discovery=True), quota("own"), quota("chart", personal=False))
END = NOW + datetime.timedelta(hours=36)
ONE_US = datetime.timedelta(microseconds=1)


def judge(told, source: str = "near", item_id: str = "i", surface=POLICY) -> tuple[str | None, float | None]:
    """Return the rule one proposal fails for the first record, and the number it was decided on."""
    own, _ = offer(proposals({source: [item_id]}), told, surface)
    judged = hard_filters(own, told, surface, instant(surface))
    rule = HARD_FILTERS[judged.rule[0] - 1] if judged.rule[0] else None
    return rule, None if np.isnan(judged.detail[0]) else float(judged.detail[0])


def test_validity_begins_at_the_end_of_the_logical_date():
    assert Instant.of(DATE, POLICY) == Instant(NOW, END, "home|2026-01-31")


BREAKS = {
    "unknown_item": {"known": False},
    "tombstone": {"gone": ["i"]},
    "ineligible": {"rec_eligible": False},
    "market": {"availability": [offer_in("NO")]},
    "tier": {"availability": [offer_in("SE", ["premium"])]},
    "explicit": {"explicit": True},
    "age": {"age_rating": 18},
    "unreleased": {"release_ts": NOW + ONE_US},
    "trailer": {"is_trailer": True},
    "video": {"is_video": True, "may_video": False},
    "seed": {"seed_canonical_id": "i"},
    "in_session": {"in_session": [(0, "i")]},
    "blocked": {"blocked": [(0, "artist-i")]},
    "hidden": {"hidden": [(0, "i")]},
    "opted_out": {"opted_out": True},
    "completed": {"played": [(0, "i", days_ago(2), True)]},
    "out_of_order": {"item_type": "chapter"},
    "book_unfinished": {"item_type": "audiobook", "other_books": False},
    "recent_skip": {"skipped": [(0, "i", days_ago(1.5))]},
    "recently_played": {"played": [(0, "i", days_ago(2), False)]},
    "language": {"languages": ["de"]},
}
DETAILS = {"age": 18.0, "recent_skip": 1.5, "recently_played": 2.0}
_TABLES = ("gone", "in_session", "blocked", "hidden", "played", "skipped")
_RECORD = ("opted_out", "seed_canonical_id", "other_books", "may_video")


def broken(rules) -> object:
    """Return facts under which an episode breaks the given rules."""
    changes = {}
    for rule in reversed(list(rules)):  # of two changes of one column, the earlier rule's
        changes |= BREAKS[rule]
    episode = item("i", item_type="episode", languages=["sv"]) | {
        name: value for name, value in changes.items() if name not in (*_TABLES, *_RECORD, "known")
    }
    who = record(
        explicit_allowed=False,
        max_age=16,
        languages=["sv", "en"],
        **{"opted_out": False, "other_books": True} | {n: changes[n] for n in _RECORD if n in changes},
    )
    return facts(
        [episode] if changes.get("known", True) else [], [who], **{n: changes[n] for n in _TABLES if n in changes}
    )


def test_every_rule_has_a_case():
    assert tuple(BREAKS) == HARD_FILTERS


def test_an_item_that_breaks_no_rule_passes():
    assert judge(broken([])) == (None, None)


@pytest.mark.parametrize("rule", HARD_FILTERS)
def test_each_rule_alone(rule):
    assert judge(broken([rule])) == (rule, DETAILS.get(rule))


@pytest.mark.parametrize("rule", HARD_FILTERS)
def test_the_first_rule_of_those_broken_is_named(rule):
    later = HARD_FILTERS[HARD_FILTERS.index(rule) :]
    assert judge(broken(later)) == (rule, DETAILS.get(rule))


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"availability": None}, None),
        ({"availability": []}, "market"),
        ({"availability": [offer_in("*")]}, None),
        ({"availability": [offer_in("SE", ["free", "premium"], NOW, END)]}, None),
        ({"availability": [offer_in("SE", None, NOW + ONE_US, None)]}, "market"),
        ({"availability": [offer_in("SE", None, None, END - ONE_US)]}, "market"),
        ({"availability": [offer_in("SE", None, None, NOW), offer_in("SE", None, NOW, None)]}, None),
        ({"availability": [offer_in("SE", until=NOW + ONE_US), offer_in("SE", since=NOW + ONE_US)]}, "market"),
        ({"availability": [offer_in("SE", []), offer_in("NO", ["free"])]}, "tier"),
        ({"availability": [offer_in("SE", ["premium"]), offer_in("*", ["free"])]}, None),
        ({"rec_eligible": None}, "ineligible"),
        ({"deleted_at": NOW}, "ineligible"),
        ({"deleted_at": NOW + ONE_US}, None),
        ({"release_ts": NOW}, None),
        ({"age_rating": 21}, None),
        ({"item_type": "episode", "languages": None}, None),
        ({"item_type": "track", "languages": ["xx"]}, None),
        ({"item_type": "audiobook", "languages": ["xx", "sv"]}, None),
        ({"item_type": "audiobook", "languages": ["xx"]}, "language"),
        ({"item_type": "video", "is_video": None}, None),
    ],
)  # fmt: skip
def test_limits_of_items(columns, rule):
    assert judge(facts([item("i", **columns)], [record(languages=["sv"])]))[0] == rule


def test_every_market_and_tier_of_a_record_counts():
    needs = [("*|*", market, tier) for market in ("SE", "NO") for tier in ("free", "kids")]

    def named(*availability):
        return judge(facts([item("i", availability=list(availability))], [record(needs="*|*")], needs=needs))[0]

    assert named(offer_in("SE"), offer_in("NO")) is None
    assert named(offer_in("SE")) == "market"
    assert named(offer_in("SE"), offer_in("NO", ["free"])) == "tier"
    assert named(offer_in("SE", ["free"]), offer_in("SE", ["kids"]), offer_in("NO")) is None


def test_available_until_is_the_latest_end_of_the_market_that_ends_first():
    ends = [END + datetime.timedelta(days=n) for n in range(4)]
    offers = [offer_in("SE", until=ends[1]), offer_in("SE", until=ends[2]), offer_in("SE", ["kids"])]
    offers.append(offer_in("NO", until=ends[3]))
    items = [item("i", availability=offers), item("j"), item("k", availability=[offer_in("*")])]
    told = facts(items, [record(needs="*|*")], needs=[("*|*", "SE", "free"), ("*|*", "NO", "free")])
    own, _ = offer(proposals({"near": ["i", "j", "k"]}), told, POLICY)
    judged = hard_filters(own, told, POLICY, instant(POLICY))
    assert judged.rule.tolist() == [0, 0, 0]
    assert until(own, told, POLICY, instant(POLICY)).tolist() == [round(ends[2].timestamp() * 1e6), -1, -1]


def test_who_blocks_an_artist_sees_none_of_its_items():
    guest = [{"artist_id": "a", "name": None, "role": None}, {"artist_id": "b", "name": None, "role": None}]
    told = facts([item("i", artists=guest), item("j", show_id="b"), item("k", "a")], blocked=[(0, "b")])
    assert [judge(told, item_id=one)[0] for one in "ijk"] == ["blocked", "blocked", None]


@pytest.mark.parametrize(("title", "artist", "rule"), [
    ("Slow Tide", "a", "seed"), ("Slow Tide - Remastered 2011", "a", "seed"), ("Slow Tide (Live)", "b", None), ("Low Tide", "a", None),
])  # fmt: skip
def test_another_version_of_the_seed_does_not_follow_it(title, artist, rule):
    items = [item("s", "a", title="Slow Tide"), item("i", artist, title=title)]
    told = facts(items, [record(seed_item_id="s", seed_canonical_id="s")])
    assert judge(told)[0] == rule
    pair = np.array([0]), told.item_codes.ids.find(told.items["item_id"])[:1]
    assert anybody(*pair, told, POLICY, instant(POLICY)).all(), "a pool is made for records of any seed"
    assert len(personal_pairs(told, np.arange(2))[0]) == (2 if rule else 1), "and drawn from without versions of it"


def test_what_one_user_did_is_another_users_nothing():
    told = facts(
        [item("i")], [record("u0"), record("u1")],
        blocked=[(0, "artist-i")], hidden=[(0, "i")],
        skipped=[(0, "i", days_ago(1))], played=[(0, "i", days_ago(1), True)],
    )  # fmt: skip
    assert judge(told) == (None, None)


@pytest.mark.parametrize(("source", "rule"), [("near", "recently_played"), ("own", None), ("chart", None)])
def test_recent_plays_concern_sources_of_discovery_only(source, rule):
    assert judge(facts([item("i")], played=[(0, "i", days_ago(5), True)]), source)[0] == rule


@pytest.mark.parametrize(("source", "rule"), [("near", "opted_out"), ("own", "opted_out"), ("chart", None)])
def test_who_opted_out_gets_nothing_personal(source, rule):
    assert judge(facts([item("i")], [record(opted_out=True)]), source)[0] == rule


@pytest.mark.parametrize(("days", "rule"), [(7.0, "recent_skip"), (7.0001, None)])
def test_the_last_day_of_a_skip_still_counts(days, rule):
    assert judge(facts([item("i")], skipped=[(0, "i", days_ago(days))]))[0] == rule


def test_music_is_never_completed():
    assert judge(facts([item("i")], played=[(0, "i", days_ago(40), True)])) == (None, None)


def test_unknown_explicitness_counts_as_explicit():
    assert judge(facts([item("i", explicit=None)], [record(explicit_allowed=False)]))[0] == "explicit"


def test_no_proposals_are_judged_to_nothing():
    told = facts([])
    own, shared = offer(proposals({}), told, POLICY)
    judged = Judged.joined(
        hard_filters(own, told, POLICY, instant(POLICY)), hard_filters(shared, told, POLICY, instant(POLICY))
    )
    assert len(judged.rule) == len(judged.detail) == len(judged.tired) == 0
