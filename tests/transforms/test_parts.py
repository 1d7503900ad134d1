"""What comes next in shows and books: by hand, against brute force, and the same before the search as after it."""

import random

import numpy as np
import polars as pl
import pytest
from toy_road import (
    NOW,
    audience,
    days_ago,
    facts,
    history,
    instant,
    item,
    listen,
    policy,
    proposals,
    quota,
    table,
    user,
)

from transforms.blend import blend, offer
from transforms.conformance import MemoryBundle
from transforms.explain import Reblended, removals, would_be_removed
from transforms.facts import SEED_COLUMNS, group_facts, seed_facts, user_facts
from transforms.filters import HARD_FILTERS, Facts, hard_filters
from transforms.part_sources import next_for_seeds, next_for_users
from transforms.reach import Reach, World, read_world
from transforms.retrieve import seed_audience, user_audience, user_table

HOME = policy(quota("any"))
PLAYING = policy(quota("any"), name="now_playing")


def episode(show: str, number: int | None, serial: bool | None = True, **columns) -> dict:
    told = {"item_type": "episode", "show_id": show, "episode_no": number, "is_serial": serial, "artists": None}
    return item(columns.pop("item_id", f"{show}-{number}"), **told | columns)


def chapter(book: str, number: int | None, **columns) -> dict:
    return episode(book, number, None, item_type="chapter", **columns)


BOOK = [item("book", item_type="audiobook", series_id="saga"), *(chapter("book", n) for n in (1, 2, 3))]
OTHER = item("other", item_type="audiobook", series_id="saga")
SAGA = [episode("saga", n, season=1) for n in (1, 2)] + [episode("saga", 1, season=2, item_id="saga-21")]
NEWS = [episode("news", n, False, release_ts=days_ago(9 - n)) for n in range(5)]
TEASER = episode("saga", 0, is_trailer=True)
CATALOGUE = [*BOOK, OTHER, *SAGA, *NEWS, TEASER, item("song")]


def bundle(items: list[dict], histories=(), users=(), gone=()) -> MemoryBundle:
    tombstones = [{"entity": "item", "id": one, "reason": "takedown", "effective_ts": NOW} for one in gone]
    rows = {"item": items, "tombstone": tombstones, "history": histories, "user": users, "popularity": []}
    return MemoryBundle({name: table(name, some) for name, some in rows.items()})


def heard(*parts: str, out: bool = True) -> list[dict]:
    """Return listens of parts one after the other; of the last one, `out` says whether to its end."""
    done = [1.0] * (len(parts) - 1) + [1.0 if out else 0.5]
    return [listen(one, 9 - 0.1 * n, label, "episode") for n, (one, label) in enumerate(zip(parts, done, strict=True))]


def told_of(listens: list[dict], items: list[dict] = CATALOGUE, gone=()) -> Facts:
    """Return the facts of one listener to whom everything is offered."""
    given = bundle(items, [history("u1", listens)] if listens else [], [user("u1")], gone)
    offered = proposals({"any": sorted(one["item_id"] for one in items)})
    return user_facts(user_table(given), offered, read_world(given), given, HOME, instant(HOME))


def after(seed: str, items: list[dict] = CATALOGUE) -> Facts:
    """Return the facts of what may follow a seed."""
    given = bundle(items)
    offered = proposals({"any": sorted(one["item_id"] for one in items)}, seed)
    known = given.lookup("item", "item_id", pl.Series([seed]), list(SEED_COLUMNS))
    seeds = pl.DataFrame({"item_id": [seed], "market": ["SE"]})
    return seed_facts(seeds, known, offered, World(["SE"], pl.Series([], dtype=pl.String)), given, instant(PLAYING))


def rules(told: Facts, surface=HOME) -> dict[str, str]:
    """Return the rule that keeps each item out of the only record, for those that one keeps out."""
    ids = told.items["item_id"].to_list()
    own, _ = offer(proposals({"any": ids}, told.records["record_key"][0]), told, surface)
    judged = hard_filters(own, told, surface, instant(surface))
    return {ids[i]: HARD_FILTERS[rule - 1] for i, rule in zip(own.i, judged.rule, strict=True) if rule}


def open_parts(told: Facts, *shows: str) -> list[str]:
    """Return the parts of shows that no rule keeps out."""
    parts = told.items.filter(pl.col("show_id").is_in(shows))["item_id"]
    return [one for one in parts if one not in rules(told)]


# By hand.


@pytest.mark.parametrize(
    ("listens", "book", "saga"),
    [
        ([], ["book-1"], ["saga-1"]),
        (heard("book-1"), ["book-2"], ["saga-1"]),
        (heard("book-1", out=False), ["book-1"], ["saga-1"]),
        (heard("book-2", "book-1"), ["book-3"], ["saga-1"]),
        (heard("book-3"), [], ["saga-1"]),
        (heard("saga-2"), ["book-1"], ["saga-21"]),
        (heard("saga-0"), ["book-1"], ["saga-1"]),
        (heard("news-3", "song"), ["book-1"], ["saga-1"]),
    ],
)  # fmt: skip
def test_on_home_the_next_part_is_open_and_no_other(listens, book, saga):
    told = told_of(listens)
    assert (open_parts(told, "book"), open_parts(told, "saga")) == (book, saga)


def test_episodes_that_need_no_order_are_all_open_but_what_was_heard_out():
    assert open_parts(told_of(heard("news-2")), "news") == ["news-0", "news-1", "news-3", "news-4"]


def test_trailers_are_in_no_set():
    assert rules(told_of([]))["saga-0"] == "trailer"
    assert rules(after("saga-1"), PLAYING)["saga-0"] == "trailer"


@pytest.mark.parametrize(
    ("seed", "follows", "books"),
    [
        ("book-1", ["book-2"], []), ("book-3", [], ["book", "other"]), ("book", ["book-1"], []),
        ("other", [], ["book"]), ("saga-2", ["saga-21"], ["book", "other"]), ("saga-21", [], ["book", "other"]),
        ("saga-0", ["saga-1"], ["book", "other"]), ("song", [], ["book", "other"]), ("news-1", [], ["book", "other"]),
    ],
)  # fmt: skip
def test_on_now_playing_the_part_after_the_seed_is_open_and_other_books_at_the_end(seed, follows, books):
    told = after(seed)
    shut = rules(told, PLAYING)
    assert [
        one["item_id"] for one in [*BOOK[1:], *SAGA] if one["item_id"] not in shut and one["item_id"] != seed
    ] == follows
    assert [one for one in ("book", "other") if one not in shut] == books
    assert {shut[one] for one in ("book", "other") if one in shut and one != seed} <= {"book_unfinished"}


def test_what_cannot_be_played_is_passed_over_and_what_is_not_out_is_waited_for():
    items = [chapter("book", 1), chapter("book", 2, rec_eligible=False), chapter("book", 3), chapter("book", 4)]
    items += [chapter("book", 5, release_ts=NOW.replace(year=2027))]
    assert open_parts(told_of(heard("book-1"), items), "book") == ["book-3"]
    assert open_parts(told_of(heard("book-1"), items, gone=["book-3"]), "book") == ["book-4"]
    assert open_parts(told_of(heard("book-4"), items), "book") == []
    assert open_parts(told_of([], items, gone=["book-1"]), "book") == ["book-3"]


def test_for_whom_nobody_knows_home_begins_and_now_playing_does_not():
    given = bundle(CATALOGUE)
    offered = proposals({}, group={"any": sorted(one["item_id"] for one in CATALOGUE)})
    for surface, opened in ((HOME, ["book-1", "saga-1"]), (PLAYING, [])):
        told = group_facts(offered, World(["SE"], pl.Series([], dtype=pl.String)), given, surface, instant(surface))
        _, shared = offer(offered, told, surface)
        judged = hard_filters(shared, told, surface, instant(surface))
        passed = told.items["item_id"].gather(shared.i[judged.rule == 0])
        assert sorted(set(passed) & {one["item_id"] for one in [*BOOK[1:], *SAGA]}) == opened


def test_of_a_series_one_book_is_enough_however_short_the_set():
    surface = policy(quota("any"), minimum_size=5)
    told = facts([BOOK[0], OTHER, item("third", item_type="audiobook"), item("song", series_id="saga")])
    blended = blend(proposals({"any": ["other", "book", "third", "song"]}), told, surface, instant(surface))
    assert blended.candidates["item_id"].to_list() == ["other", "third", "song"]
    assert blended.removed.select("item_id", "rule").rows() == [("book", "series")]


# Explained.


def explained(told: Facts, surface=HOME) -> Reblended:
    own = proposals({"any": told.items["item_id"].to_list()}, told.records["record_key"][0])
    return Reblended(0, own, told, blend(own, told, surface, instant(surface)), surface, instant(surface))


def test_explain_names_the_rule_and_the_part_that_comes_next():
    (found,) = removals(explained(told_of(heard("saga-1"))), "saga-21")
    assert found["rule"] == "out_of_order"
    assert found["why"].startswith("parts of saga are heard in order, and this is not the one that comes next")
    assert found["why"].endswith("that is saga-2")
    (found,) = removals(explained(after("book-2"), PLAYING), "other")
    assert found["why"].startswith("the book of book-2 goes on with book-3")
    (found,) = removals(explained(told_of([])), "saga-0")
    assert found["why"] == "it is a trailer"
    (found,) = removals(explained(told_of([])), "other")
    assert found["why"].startswith("a book of the series saga comes before it")


def test_explain_says_in_what_a_duplicate_is_like_its_twin():
    told = facts(
        [
            item("a", "x", canonical_id="r", title="Rain"),
            item("b", "x", canonical_id="r"),
            item("c", "x", title="Rain (Live)"),
        ]
    )
    assert removals(explained(told), "a") == []
    recording, version = (removals(explained(told), one)[0] for one in "bc")
    assert recording["rule"] == version["rule"] == "duplicate"
    assert recording["why"] == "a was ranked better, and is the same recording (r)"
    assert version["why"] == "a was ranked better, and is another version of the same, by title and first artist"


def test_explain_says_what_would_keep_out_what_nobody_proposed():
    told = told_of(heard("saga-1"))
    apart = told.items.filter(pl.col("item_id") == "saga-21")
    found = would_be_removed(explained(told), "saga-21", "any", apart)
    assert found is not None
    assert (found["rule"], "that is saga-2" in found["why"]) == ("out_of_order", True)


# Against brute force, and before the search as after it.


def random_parts(dice: random.Random) -> list[dict]:
    found = []
    for n in range(120):
        show, kind = f"s{dice.randrange(7)}", dice.choice(["episode", "episode", "chapter"])
        number = dice.choice([None, *range(8)])
        found.append(
            episode(
                show, number, dice.choice([True, True, False, None]), item_id=f"i{n:03d}", item_type=kind,
                season=dice.choice([None, 1, 2]), is_trailer=dice.choice([None, False, False, dice.random() < 0.3]),
                rec_eligible=dice.random() < 0.9, deleted_at=dice.choice([None, None, None, days_ago(1)]),
                release_ts=dice.choice([None, days_ago(9), days_ago(dice.randrange(3)), NOW.replace(year=2027)]),
            ) | ({"show_id": None} if n % 40 == 0 else {})
        )  # fmt: skip
    return found


def ordered(one: dict) -> bool:
    serial = one["item_type"] == "episode" and one["is_serial"] and not one["is_trailer"]
    return bool(one["item_type"] == "chapter" or serial)


def places(items: list[dict], show: str) -> list[list[dict]]:
    """Return the parts in order of a show, those of one place together."""
    by_number: dict[tuple, list[dict]] = {}
    for one in items:
        if one["show_id"] == show and ordered(one):
            numbered, out = one["episode_no"] is not None, one["release_ts"]
            own = () if numbered else (out is None, out or NOW, one["item_id"])
            by_number.setdefault((one["season"] or 0, not numbered, one["episode_no"] or 0, own), []).append(one)
    return [by_number[number] for number in sorted(by_number)]


def brute_force(items: list[dict], labels: dict[str, float], gone: set[str]) -> set[str]:
    """Return the parts in order that are open to a listener."""
    found: set[str] = set()
    for show in {one["show_id"] for one in items} - {None}:
        line = places(items, show)
        at = 0
        for place, parts in enumerate(line):
            if mine := [labels[one["item_id"]] for one in parts if one["item_id"] in labels]:
                at = place + (max(mine) >= 1)
        fit = [[one["item_id"] for one in parts if servable(one, gone)] for parts in line[at:]]
        found |= set(next((parts for parts in fit if parts), []))
    return found


def servable(one: dict, gone: set[str]) -> bool:
    released = one["release_ts"] is None or one["release_ts"] <= NOW
    return bool(
        one["rec_eligible"]
        and not one["deleted_at"]
        and not one["is_trailer"]
        and released
        and one["item_id"] not in gone
    )


@pytest.mark.parametrize("seed", range(12))
def test_parts_are_open_as_brute_force_says_and_searched_for_or_proposed(seed):
    dice = random.Random(seed)
    items, gone = random_parts(dice), {"i003", "i050"}
    ids = [one["item_id"] for one in items]
    labels = {one: dice.choice([0.5, 1.0]) for one in dice.sample(ids, 12)}
    given = bundle(
        items, [history("u1", [listen(one, 60, label, "episode") for one, label in labels.items()])], [user("u1")], gone
    )
    told = user_facts(user_table(given), proposals({"any": ids}), read_world(given), given, HOME, instant(HOME))
    passed = set(ids) - set(rules(told))
    in_order = {one["item_id"] for one in items if ordered(one)}
    finished = {one for one, label in labels.items() if label >= 1}
    assert passed & in_order == brute_force(items, labels, gone) - finished
    rows = given.tables["item"].sort("item_id")
    reach = Reach.of([rows[:50], rows[50:]], rows["item_id"], instant(HOME), World([], pl.Series(sorted(gone))))
    asking = user_audience(user_table(given), given, HOME, instant(HOME))
    mask = set(rows["item_id"].filter(pl.Series(reach.mask(**asking.rights.drop("key").row(0, named=True)))))
    searched = mask - set(asking.unwanted["item_id"])
    nexts = set(told.nexts["item_id"])
    assert (searched - nexts) == (passed - nexts)
    assert passed & nexts <= set(next_for_users(asking, given)["item_id"])


@pytest.mark.parametrize("seed", range(12))
def test_what_may_follow_a_seed_is_searched_for_or_proposed(seed):
    dice = random.Random(seed)
    items = [*random_parts(dice), *(item(f"s{n}", item_type="audiobook", artists=None, show_id=None) for n in range(3))]
    key = dice.choice([one["item_id"] for one in items if one["show_id"] if ordered(one)] + ["s0", "s1"])
    told, given = after(key, items), bundle(items)
    passed = set(told.items["item_id"]) - set(rules(told, PLAYING))
    seed_row = next(one for one in items if one["item_id"] == key)
    line = places(items, seed_row["show_id"] or key)
    place = next((n + 1 for n, parts in enumerate(line) if seed_row in parts), 0)
    fit = [[one["item_id"] for one in parts if servable(one, set())] for parts in line[place:]]
    nexts = set(next((parts for parts in fit if parts), []))
    assert passed & {one["item_id"] for one in items if ordered(one)} == nexts
    rows = given.tables["item"].sort("item_id")
    asking = seed_audience(pl.DataFrame({"item_id": [key], "market": ["SE"]}), given, PLAYING, instant(PLAYING))
    reach = Reach.of([rows], rows["item_id"], instant(PLAYING), World(["SE"], pl.Series([], dtype=pl.String)))
    mask = set(rows["item_id"].filter(pl.Series(reach.mask(**asking.rights.drop("key").row(0, named=True)))))
    assert mask - {key} == passed - nexts
    assert nexts <= set(next_for_seeds(asking, given)["item_id"])


# The sources.


def scores(found: pl.DataFrame, key: str) -> dict[str, float]:
    rows = found.filter(pl.col("key") == key).sort("raw_score", "item_id", descending=[True, False])
    return dict(rows.select("item_id", "raw_score").rows())


def test_home_proposes_what_comes_next_where_most_is_heard_first():
    listens = [
        {**one, "key": "u1"} for one in (listen("saga-1", 14, 1.0), listen("book-1", 28, 1.0), listen("news-3", 0, 0.5))
    ]
    found = next_for_users(audience([{"key": "u1", "follows": ["news"]}], listens), bundle(CATALOGUE))
    assert scores(found, "u1") == pytest.approx({"news-4": 1.5, "news-2": 0.75, "saga-2": 0.5, "book-2": 0.25})
    seeds = dict(found.select("item_id", "seed_item_ids").rows())
    assert seeds == {"news-4": ["news-3"], "news-2": ["news-3"], "saga-2": ["saga-1"], "book-2": ["book-1"]}


def test_a_show_that_is_followed_begins_at_its_beginning():
    found = next_for_users(audience([{"key": "u1", "follows": ["saga", "nobody"]}]), bundle(CATALOGUE))
    assert found.select("item_id", "raw_score", "seed_item_ids").rows() == [("saga-1", 1.0, [])]


def test_now_playing_proposes_the_next_part_or_the_newest_others():
    found = next_for_seeds(
        audience([{"key": one} for one in ("book-2", "news-3", "song", "saga-21")]), bundle(CATALOGUE)
    )
    assert scores(found, "book-2") == {"book-3": 1.0}
    assert list(scores(found, "news-3")) == ["news-4", "news-2", "news-1", "news-0"]
    assert found["key"].n_unique() == 2


def test_the_sources_ask_nothing_of_an_empty_catalogue():
    nobody = audience([{"key": "u1", "follows": ["saga"]}], [{**one, "key": "u1"} for one in heard("saga-1")])
    assert next_for_users(nobody, bundle([])).height == next_for_seeds(nobody, bundle([])).height == 0
    assert np.array_equal(
        Reach.of([], pl.Series(["a"]), instant(HOME), World([], pl.Series([], dtype=pl.String))).opening, [False]
    )
