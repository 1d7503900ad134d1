import datetime
import zlib

import polars as pl
import pytest
import tally_oracle as oracle
from toy_road import item, table

from schemas.tallies import CO_LISTEN, CO_LISTEN_PARTIAL, POPULARITY, POPULARITY_PARTIAL, TRANSITION, TRANSITION_PARTIAL
from transforms import tallies

SEEDS = (1, 2, 3)
TIERS = {"u0": "premium", "u1": "free", "u2": None}
USERS = pl.DataFrame(
    {"user_id": list(TIERS), "tier": list(TIERS.values())}, schema={"user_id": pl.String, "tier": pl.String}
)
SHARDS = 3
HALF_LIFE = 2.0


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    return tallies.to_shards(frame, "item_id", 1).drop("__target")


def rows(frame: pl.DataFrame, *keys: str) -> dict:
    """Return the other columns by key; a key may be there once only."""
    others = [name for name in frame.columns if name not in keys]
    found = {row[: len(keys)]: row[len(keys) :] for row in frame.select(*keys, *others).rows()}
    assert len(found) == frame.height
    return {key: value[0] if len(value) == 1 else value for key, value in found.items()}


def merged(count, events: pl.DataFrame, contract) -> pl.DataFrame:
    """Count user by user, as shards do, and add the counts up."""
    parts = [plain(count(part)) for part in events.partition_by("user_id")]
    keys = [name for name in contract.schema.names if name not in ("weight", "plays", "returns")]
    return tallies.add_up(pl.concat(parts), keys).select(contract.schema.names)


def emitted(kind: str, emit, partials: pl.DataFrame, *more) -> dict[str, pl.DataFrame]:
    """Emit item shard by item shard, and bring the parts of each target together in any order."""
    shards = tallies.to_shards(partials, "item_id", SHARDS).partition_by("__target", as_dict=True, include_key=False)
    sent = [emit(part, *more, oracle.DAY, HALF_LIFE, SHARDS)[kind] for part in shards.values()]
    parts = pl.concat(reversed(sent)).partition_by("__target", as_dict=True, include_key=False)
    return {target: oracle.shuffled(part) for (target,), part in parts.items()}


@pytest.mark.parametrize("count", ["popularity", "pairs", "transitions"])
def test_a_machine_that_plays_all_day_is_in_no_tally(count, monkeypatch):
    """One key plays more than a person can on one day: that day of its own is left out, the day before counts."""
    monkeypatch.setattr(tallies, "MOST_PLAYS", 40)
    counts = {"popularity": lambda part: tallies.popularity_by_day(part, USERS), "pairs": tallies.pairs_by_day,
              "transitions": tallies.transitions_by_day}  # fmt: skip
    people = oracle.random_events(1)
    liked = people.filter(pl.col("label") > 0, pl.col("campaign_id").is_null())
    assert liked.group_by("event_date", "user_id").len()["len"].max() <= 40, "no person is a machine"
    one = liked.filter(pl.col("user_id") == "u1").sort("event_ts")
    day = one["event_date"].max()
    own = one.filter(pl.col("event_date") == day)
    swarm = pl.concat([own.with_columns((pl.col("event_id") + f"-{n}").alias("event_id")) for n in range(50)])
    polluted = oracle.shuffled(pl.concat([people, swarm]))
    clean = people.filter((pl.col("user_id") != "u1") | (pl.col("event_date") != day))
    found, expected = (plain(counts[count](part)) for part in (polluted, clean))
    assert found.sort(pl.all()).equals(expected.sort(pl.all()))
    plays = own.height * 51
    assert tallies.machine_plays(polluted) == {"machine_days": 1, "machine_plays": plays}
    assert tallies.machine_plays(people) == {"machine_days": 0, "machine_plays": 0}


@pytest.mark.parametrize("plays", [tallies.MOST_PLAYS, tallies.MOST_PLAYS + 1])
def test_as_many_plays_as_a_day_holds_are_a_persons(plays):
    day = pl.DataFrame({"event_date": [datetime.date(2026, 1, 31)] * plays, "user_id": ["u"] * plays})
    others = pl.DataFrame({"event_date": [datetime.date(2026, 1, 31)] * 2, "user_id": ["v", "w"]})
    kept = tallies.without_machines(pl.concat([day, others]))
    assert kept.height == (plays + 2 if plays == 2_000 else 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_popularity_equals_the_oracle(seed):
    events = oracle.random_events(seed)
    counted = merged(lambda part: tallies.popularity_by_day(part, USERS), events, POPULARITY_PARTIAL)
    expected = oracle.popularity(events, TIERS)
    assert rows(counted, "event_date", "item_id", "item_type", "market", "tier") == expected
    assert len({key[4] for key in expected}) == 2, "tiers must differ to prove anything"


def test_an_item_played_as_two_types_is_counted_as_both():
    counted = merged(lambda part: tallies.popularity_by_day(part, USERS), oracle.random_events(1), POPULARITY_PARTIAL)
    twice = counted.group_by("item_id").agg(pl.col("item_type").n_unique())["item_type"].max()
    assert twice > 1
    assert not counted.select(POPULARITY_PARTIAL.key).is_duplicated().any()


@pytest.mark.parametrize("seed", SEEDS)
def test_pairs_equal_the_oracle(seed):
    events = oracle.random_events(seed, items=25)
    expected = oracle.pairs(events)
    assert rows(plain(tallies.pairs_by_day(events)), *CO_LISTEN_PARTIAL.key) == expected
    assert rows(merged(tallies.pairs_by_day, events, CO_LISTEN_PARTIAL), *CO_LISTEN_PARTIAL.key) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_transitions_equal_the_oracle(seed):
    events = oracle.random_events(seed)
    expected = oracle.transitions(events)
    assert rows(plain(tallies.transitions_by_day(events)), *TRANSITION_PARTIAL.key) == expected
    assert rows(merged(tallies.transitions_by_day, events, TRANSITION_PARTIAL), *TRANSITION_PARTIAL.key) == expected


@pytest.mark.parametrize("count", [tallies.pairs_by_day, tallies.transitions_by_day], ids=["pairs", "transitions"])
def test_days_counted_apart_add_up_to_days_counted_together_in_any_order(count):
    events = oracle.random_events(4, count=500)
    together = plain(count(events))
    apart = pl.concat(plain(count(oracle.shuffled(day))) for day in events.partition_by("event_date"))
    keys = [name for name in together.columns if name not in ("weight", "returns")]
    assert together.height > 30
    assert together.sort(keys).equals(apart.select(together.columns).sort(keys))
    assert plain(count(oracle.shuffled(events))).sort(keys).equals(together.sort(keys))


def test_items_further_apart_than_the_window_are_no_pair():
    at = [oracle.START + datetime.timedelta(minutes=n) for n in range(12)]
    listens = [
        {"event_id": f"e{n}", "user_id": "u", "session_id": "s", "item_id": f"i{n:02d}", "event_ts": t,
         "event_date": t.date(), "label": 1.0}
        for n, t in enumerate(at)
    ]  # fmt: skip
    found = rows(plain(tallies.pairs_by_day(table("event", listens))), *CO_LISTEN_PARTIAL.key)
    assert (at[0].date(), "i00", "i10") in found
    assert (at[0].date(), "i00", "i11") not in found


@pytest.mark.parametrize("count", [tallies.pairs_by_day, tallies.transitions_by_day], ids=["pairs", "transitions"])
def test_no_events_are_no_counts(count):
    assert count(table("event", [])).is_empty()
    assert tallies.popularity_by_day(table("event", []), USERS).is_empty()


def test_adding_up_sums_by_key_in_the_order_of_the_keys():
    day = datetime.date(2026, 1, 1)
    counts = pl.DataFrame({"event_date": [day] * 3, "a": ["y", "x", "y"], "b": ["p", "q", "p"], "weight": [1, 2, 4]})
    assert tallies.add_up(counts, ["event_date", "a", "b"]).rows() == [(day, "x", "q", 2), (day, "y", "p", 5)]


def test_keys_that_do_not_fit_a_number_are_refused():
    wide = pl.DataFrame({f"k{n}": [str(i) for i in range(3000)] for n in range(6)}).with_columns(weight=1)
    with pytest.raises(ValueError, match="more than 2\\^63 keys to count by: use more shards"):
        tallies.add_up(wide, [f"k{n}" for n in range(6)])


def test_decay_halves_per_half_life_and_drops_what_is_nothing():
    dates = [oracle.DAY, oracle.DAY - datetime.timedelta(days=4), oracle.DAY - datetime.timedelta(days=40)]
    partials = pl.DataFrame({"event_date": dates, "item_id": ["a", "a", "b"], "weight": [1024, 1024, 1024]})
    assert tallies.add_days(partials, ["item_id"], oracle.DAY, HALF_LIFE).rows() == [("a", 1024 + 256)]


def test_ties_rank_by_id_whatever_the_order_of_rows():
    frame = pl.DataFrame({"g": ["x", "x", "x", "y"], "id": ["c", "a", "b", "d"], "w": [5, 5, 9, 1]})
    assert tallies.top(frame, ["g"], "w", "id", 2).rows() == [("x", "a", 5, 1), ("x", "b", 9, 0), ("y", "d", 1, 0)]


@pytest.mark.parametrize("seed", SEEDS)
def test_co_listens_equal_the_oracle(seed):
    events = oracle.random_events(seed, items=25)
    partials = merged(tallies.pairs_by_day, events, CO_LISTEN_PARTIAL)
    parts, own = (emitted(kind, tallies.emit_pairs, partials) for kind in ("parts", "own"))
    assert list(own) == ["*"], "totals go to every shard"
    found = pl.concat(tallies.co_listens(part, own["*"]) for part in parts.values())
    expected = oracle.co_listens(events, HALF_LIFE)
    ranks = oracle.ranked(
        {key: pl.Series([score], dtype=pl.Float32)[0] for key, (_, score, _) in expected.items()}, 100
    )
    got = rows(found.select(CO_LISTEN.schema.names), *CO_LISTEN.key)
    assert {key: value[0] for key, value in got.items()} == {key: value[0] for key, value in expected.items()}
    assert {key: value[2] for key, value in got.items()} == ranks
    for key, (_, score, _, rate) in got.items():
        assert (score, rate) == pytest.approx(expected[key][1:], rel=1e-6)
    assert all(
        frame.equals(frame.sort(CO_LISTEN.key)) for frame in (tallies.co_listens(p, own["*"]) for p in parts.values())
    )


def test_co_listens_are_cut_to_the_best_neighbours(monkeypatch):
    monkeypatch.setattr(tallies, "TOP_NEIGHBOURS", 2)
    pairs = pl.DataFrame({"item_id": ["a"] * 3, "other_item_id": ["b", "c", "d"], "weight": [1024, 4096, 2048]})
    own = pl.DataFrame({"item_id": ["d", "c", "b", "a"], "weight": [4096] * 4, "return_rate": [0.0] * 4})
    assert tallies.co_listens(pairs, own)["other_item_id"].to_list() == ["c", "d"]


ITEMS = table(
    "item",
    [
        item(f"i{n:02d}", f"artist{n % 3}", canonical_id=f"i{n - n % 2:02d}", genres=["rock", "pop"] if n % 4 else None)
        for n in range(10)
    ],
)
CONTEXTS = {
    f"i{n:02d}": {
        "canonical": f"i{n - 1:02d}" if n % 2 else None, "artist": f"artist{n % 3}", "genre": "rock" if n % 4 else None,
    }
    for n in range(10)
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_transitions_of_every_level_equal_the_oracle(seed):
    events = oracle.random_events(seed)
    partials = merged(tallies.transitions_by_day, events, TRANSITION_PARTIAL)
    parts = emitted("parts", lambda part, *more: tallies.emit_transitions(part, ITEMS, *more), partials)
    found = pl.concat(tallies.transitions(part) for part in parts.values())
    expected = oracle.followers(events, CONTEXTS, HALF_LIFE)
    got = rows(found, *TRANSITION.key)
    assert {level for level, *_ in expected} == {"item", "canonical", "artist", "genre"}
    assert {key: value[0] for key, value in got.items()} == expected
    assert {key: value[2] for key, value in got.items()} == oracle.ranked(expected, 200)
    sums = found.group_by("level", "context_id").agg(pl.col("probability").sum())
    assert sums["probability"].to_list() == pytest.approx([1.0] * sums.height, abs=1e-5)


def test_an_item_keeps_fewer_followers_than_a_genre(monkeypatch):
    monkeypatch.setattr(tallies, "TOP_FOLLOWERS", 1)
    monkeypatch.setattr(tallies, "TOP_BACKOFF", 2)
    parts = pl.DataFrame(
        [(level, "c", f"n{n}", 10 - n) for level in ("item", "genre") for n in range(4)],
        schema=["level", "context_id", "next_item_id", "weight"],
        orient="row",
    )
    kept = tallies.transitions(parts)
    assert kept["level"].to_list() == ["genre", "genre", "item"]
    assert kept["probability"][0] == pytest.approx(10 / 34), "the share is of all that followed, kept or not"


@pytest.mark.parametrize("seed", SEEDS)
def test_popularity_per_market_and_tier_equals_the_oracle(seed):
    events = oracle.random_events(seed)
    partials = merged(lambda part: tallies.popularity_by_day(part, USERS), events, POPULARITY_PARTIAL)
    parts = emitted("parts", tallies.emit_popular, partials)
    found = pl.concat(tallies.popularity(part) for part in parts.values())
    daily = {(d, m, t, k, i): w for (d, i, k, m, t), (w, _) in oracle.popularity(events, TIERS).items()}
    fine = oracle.decayed(daily, HALF_LIFE)
    expected: dict = {}
    for (market, tier, kind, one), weight in fine.items():
        for key in {(market, tier, kind, one), (market, "*", kind, one)} if market != "*" else ():
            expected[key] = expected.get(key, 0) + weight
        expected["*", "*", kind, one] = expected.get(("*", "*", kind, one), 0) + weight
    got = rows(found, *POPULARITY.key)
    assert {key: value[0] for key, value in got.items()} == expected
    assert {key: value[1] for key, value in got.items()} == oracle.ranked(expected, 1000)


def test_an_artist_s_items_are_ranked_and_those_nobody_played_count_nothing():
    partials = table(
        "popularity_partial",
        [
            {"event_date": oracle.DAY, "item_id": f"i{n:02d}", "item_type": "track", "market": "SE", "tier": "free",
             "weight": 1024 * n, "plays": n}
            for n in range(5)
        ],
    )  # fmt: skip
    sent = tallies.emit_artist_items(partials, ITEMS, oracle.DAY, HALF_LIFE, 1)["parts"]
    best = tallies.top(sent, ["artist_id"], "weight", "item_id", 2)
    assert best.filter(pl.col("artist_id") == "artist0").select("item_id", "weight", "rank").rows() == [
        ("i00", 0, 1),
        ("i03", 3072, 0),
    ]


def test_targets_are_the_stable_hash_of_the_id_and_enumerations_become_strings():
    ids = pl.DataFrame({"item_id": ["b", "a", "b"]})
    sent = tallies.to_shards(ids, "item_id", 7, "day-")
    assert sent.equals(tallies.to_shards(tallies.coded(ids, ["item_id"]), "item_id", 7, "day-"))
    assert sent.schema["item_id"] == pl.String
    assert sent["__target"].to_list() == [f"day-{zlib.crc32(one) % 7:05d}" for one in (b"b", b"a", b"b")]
