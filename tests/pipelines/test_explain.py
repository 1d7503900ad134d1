import json
from pathlib import Path

import jsonschema
import polars as pl
import pytest
from small_road import SmallRoad

from jobs.explain import lines
from pipelines import explain as module
from pipelines.explain import ancestry, explain, verify
from pipelines.publish import read_pointer
from pipelines.reblend import one_record, published_again, reblend
from pipelines.records import ExplainError, Question
from pipelines.runner import load_manifest
from schemas.manifest import Manifest
from transforms.groups import KEEP
from transforms.io.store import LocalStore, Store, open_store

SCHEMA = json.loads(Path("schemas/explanation.schema.json").read_text())
WANTED = {"tombstone", "market", "tier", "explicit", "blocked", "hidden", "recent_skip", "cap:artist", "quota", "size"}


@pytest.fixture(scope="module")
def store(small_road: SmallRoad) -> Store:
    return open_store(str(small_road.root))


def live(store: Store, surface: str) -> Manifest:
    pointer = read_pointer(store, surface)
    assert pointer is not None
    return load_manifest(store, pointer.manifest)


def inputs(store: Store, sets: Manifest) -> dict[str, Manifest]:
    return {ref.name: load_manifest(store, ref.path) for ref in sets.inputs}


def frame(store: Store, manifest: Manifest) -> pl.DataFrame:
    return pl.read_parquet([store.local(file.path) for file in manifest.files], hive_partitioning=False)


@pytest.fixture(scope="module")
def home(store: Store) -> list[dict]:
    return frame(store, live(store, "home")).sort("record_key", "context_key").to_dicts()


@pytest.fixture(scope="module")
def examples(store: Store, home: list[dict]) -> dict[str, tuple[str, str]]:
    """A user and an item per rule, the rule being the only one that keeps the item out."""
    sets, found = live(store, "home"), dict[str, tuple[str, str]]()
    data = inputs(store, sets)
    for record in (one for one in home if one["record_key"] != "*"):
        if found.keys() >= WANTED:
            break
        with one_record(store, data, record["record_key"], sets.num_shards) as shard:
            again = reblend(shard, sets, record)
        taken = {candidate["item_id"] for candidate in record["candidates"]}
        removed = again.blended.removed.filter((pl.col("k") == again.k) & ~pl.col("item_id").is_in(list(taken)))
        rules = removed.group_by("item_id").agg(pl.col("rule").unique()).filter(pl.col("rule").list.len() == 1)
        for item, (rule,) in rules.sort("item_id").rows():
            found.setdefault(rule, (record["record_key"], item))
    return found


def personal(home: list[dict]) -> dict:
    """Return a record with a candidate of the user's own co-listens."""
    return next(r for r in home for c in r["candidates"] for s in c["sources"] if s["source_id"] == "home.co_listen")


def ask(store: Store, **question) -> dict:
    answer = explain(store, Question(**question))
    jsonschema.validate(json.loads(json.dumps(answer)), SCHEMA)
    return answer


def test_a_set_is_shown_in_order_with_names(store: Store, home: list[dict]) -> None:
    record = personal(home)
    answer = ask(store, surface="home", key=record["record_key"])
    shown = answer["set"]["candidates"]
    assert [one["item_id"] for one in shown] == [one["item_id"] for one in record["candidates"]]
    assert [one["position"] for one in shown] == list(range(len(shown)))
    titles = dict(frame(store, inputs(store, live(store, "home"))["item"]).select("item_id", "title").rows())
    assert [one["title"] for one in shown] == [titles[one["item_id"]] for one in shown]
    assert answer["published"]["live"]
    assert answer["item"] is None
    assert answer["note"] is None


def test_a_candidate_is_traced_to_its_sources_and_raw_files(
    store: Store, home: list[dict], small_road: SmallRoad
) -> None:
    record, candidate = next(
        (one, c)
        for one in home
        for c in one["candidates"]
        if any(s["source_id"] == "home.co_listen" for s in c["sources"])
    )
    answer = ask(store, surface="home", key=record["record_key"], item_id=candidate["item_id"])
    item = answer["item"]
    assert (item["verdict"], item["position"]) == ("in", candidate["position"])
    assert [one["raw_score"] for one in item["sources"]] == [one["raw_score"] for one in candidate["sources"]]
    source = next(one for one in item["sources"] if one["source_id"] == "home.co_listen")
    played = frame(store, inputs(store, live(store, "home"))["history"]).filter(user_id=record["record_key"])
    history = {listen["item_id"] for listen in played["positives"][0]}
    assert source["seeds"]
    assert {seed["item_id"] for seed in source["seeds"]} <= history
    assert all(seed["title"] for seed in source["seeds"])
    co_listen = load_manifest(store, source["artifact"]["manifest"])
    assert (co_listen.dataset, co_listen.run) == ("co_listen", source["artifact"]["run"])
    raw = {
        ref["path"]: ref["digest"] for node in answer["lineage"] for ref in node["inputs"] if ref["name"] == "raw_event"
    }
    files = list((small_road.raw / "events").iterdir())
    assert raw == {str(file): LocalStore("/").digest(str(file)) for file in files}
    assert answer["verification"]["outcome"] == "reproduced"


def test_every_rule_asked_for_occurs_in_the_small_world(examples: dict) -> None:
    assert examples.keys() >= WANTED


@pytest.mark.parametrize("rule", sorted(WANTED))
def test_an_item_removed_by_a_rule(rule: str, examples: dict, store: Store) -> None:
    user, item_id = examples[rule]
    answer = ask(store, surface="home", key=user, item_id=item_id)
    item = answer["item"]
    assert item["verdict"] == "removed"
    assert {one["rule"] for one in item["removals"]} == {rule}
    assert answer["verification"]["outcome"] == "reproduced"
    removal = item["removals"][0]
    assert "?" not in removal["why"] + removal["to_change"]
    assert holds(rule, user, item_id, removal, answer, store), removal


def holds(rule: str, user: str, item_id: str, removal: dict, answer: dict, store: Store) -> bool:
    """Tell from the tables themselves whether the reason is true and says its number."""
    data = inputs(store, live(store, "home"))
    item = frame(store, data["item"]).row(by_predicate=pl.col("item_id") == item_id, named=True)
    person = next(frame(store, data["user"]).filter(user_id=user).iter_rows(named=True), {})
    artists = [artist["artist_id"] for artist in item["artists"] or []]
    offers = [one for one in item["availability"] or [] if one["market"] in ("*", answer["set"]["market"])]
    why, detail = removal["why"], removal["detail"]
    match rule:
        case "tombstone":
            return item_id in frame(store, data["tombstone"])["id"].to_list()
        case "market":
            whole = [one for one in offers if one["from_ts"] is None and one["to_ts"] is None]
            return item["availability"] is not None and not whole and answer["set"]["market"] in why
        case "tier":
            return not any(answer["set"]["tier"] in (one["tiers"] or [answer["set"]["tier"]]) for one in offers)
        case "explicit":
            return item["explicit"]
        case "blocked":
            return bool({*artists, item["show_id"]} & set(person["blocked_artists"]))
        case "hidden":
            return item_id in person["hidden_items"]
        case "recent_skip":
            history = frame(store, data["history"]).filter(user_id=user)
            return (
                0 <= detail <= 7
                and item_id in {one["item_id"] for one in history["skips"][0]}
                and f"{detail:.1f}" in why
            )
        case "cap:artist":
            return why.startswith("8 candidates of")
        case "quota":
            return "slots" in why and removal["source_id"] in why
        case "size":
            limit = 40 if removal["source_id"] == "home.popular_market" else 51  # 60, of which it explores 9
            return detail >= limit and str(limit) in why
    return False


def test_an_item_that_was_drawn_says_how_likely_it_was(store: Store, home: list[dict]) -> None:
    record = next(one for one in home if one["record_key"] != "*")
    drawn = next(one for one in record["candidates"] if one["is_exploration"])
    item = explain(store, Question("home", record["record_key"], drawn["item_id"]))["item"]
    assert (item["verdict"], item["is_exploration"], item["reason_code"]) == ("in", True, "exploring")
    assert (item["propensity"], item["stratum"]) == (drawn["propensity"], drawn["stratum"])
    (source,) = item["sources"]
    assert (source["source_id"], source["artifact"]["dataset"]) == ("home.explore", "item")
    said = "\n".join(lines(explain(store, Question("home", record["record_key"], drawn["item_id"]))))
    assert f"drawn by lot with probability {drawn['propensity']:.4g} from {drawn['stratum']}" in said


def test_an_item_that_was_not_drawn_says_how_likely_it_was(store: Store, home: list[dict]) -> None:
    """Of a pool of thousands only what was drawn is listed; the others are told apart from what may not be drawn."""
    record = next(one for one in home if one["tier"] == "free" and not one["degraded_reasons"])
    sets = live(store, "home")
    with one_record(store, inputs(store, sets), record["record_key"], sets.num_shards) as shard:
        again = reblend(shard, sets, record)
    known = {one["item_id"] for one in record["candidates"]} | set(again.blended.removed["item_id"])
    pool = again.offered.filter((pl.col("source_id") == "home.explore") & ~pl.col("item_id").is_in(sorted(known)))
    found = [explain(store, Question("home", record["record_key"], one))["item"] for one in pool["item_id"][:12]]
    assert {item["verdict"] for item in found} == {"removed"}
    rules = {row["rule"]: row for item in found for row in item["removals"] if row["source_id"] == "home.explore"}
    size, drawn = int(again.blended.explored.sizes[0]), record["exploration_policy"]["slots"]
    assert (
        f"{drawn} of {size} items were drawn by lot, each with a chance of {drawn / size:.2%}"
        in rules["not_drawn"]["why"]
    )


def test_what_no_source_proposed_is_told_per_source(store: Store, home: list[dict]) -> None:
    record = personal(home)
    data = inputs(store, live(store, "home"))
    offered = frame(store, data["proposal"]).filter(
        pl.col("key").is_in([record["record_key"], f"*|{record['market']}|{record['tier']}"])
    )
    never = frame(store, data["item"]).filter(~pl.col("item_id").is_in(offered["item_id"].implode()))
    gone = frame(store, data["tombstone"]).filter(entity="item")["id"]
    plain, dead = (
        never.filter(~pl.col("item_id").is_in(gone.implode())),
        never.filter(pl.col("item_id").is_in(gone.implode())),
    )
    answer = ask(store, surface="home", key=record["record_key"], item_id=plain["item_id"].sort()[0])
    assert answer["item"]["verdict"] == "not_proposed"
    asked = {one["source_id"]: one for one in answer["item"]["asked"]}
    assert asked.keys() == {
        "home.co_listen", "home.follow_new", "home.next_part", "home.relisten", "home.popular_market", "home.two_tower",
        "home.sequence",
        "home.fresh_content", "home.explore",
    }  # fmt: skip
    mine = offered.filter(source_id="home.co_listen")
    assert asked["home.co_listen"]["proposed"] == mine.height
    assert asked["home.co_listen"]["best_score"] == mine["raw_score"].max()
    assert asked["home.co_listen"]["found"] >= mine.height
    assert asked["home.co_listen"]["proposes"].startswith("Propose what is listened to together")
    answer = ask(store, surface="home", key=record["record_key"], item_id=dead["item_id"].sort()[0])
    assert {one["would_be_removed"]["rule"] for one in answer["item"]["asked"]} == {"tombstone"}


def test_an_item_beyond_the_limit_of_a_source_has_its_rank(store: Store, home: list[dict]) -> None:
    record = next(one for one in home if one["record_key"] != "*" and one["market"] != "*")
    data = inputs(store, live(store, "home"))
    offered = frame(store, data["proposal"]).filter(
        pl.col("key").is_in([record["record_key"], f"*|{record['market']}|{record['tier']}"])
    )
    chart = frame(store, data["popularity"]).filter(market=record["market"], tier=record["tier"]).sort("weight")
    last = chart.filter(~pl.col("item_id").is_in(offered["item_id"].implode()))["item_id"][0]
    answer = ask(store, surface="home", key=record["record_key"], item_id=last)
    popular = next(one for one in answer["item"]["asked"] if one["source_id"] == "home.popular_market")
    assert 0 < popular["raw_score"] < popular["best_score"]
    assert KEEP <= popular["rank"] < popular["found"], "what is kept of a kind may be less popular"


def test_an_unknown_user_is_served_the_default_set(store: Store) -> None:
    answer = ask(store, surface="home", key="nobody-ever", market="US", tier="free")
    assert answer["set"]["record_key"] == "*"
    assert answer["set"]["context_key"] == "market=US|tier=free"
    assert "user 'nobody-ever' has no set of its own" in answer["note"]
    assert ask(store, surface="home", key="nobody-ever", market="XX")["set"]["context_key"] == "market=*|tier=*"
    first = answer["set"]["candidates"][0]["item_id"]
    about = ask(store, surface="home", key="nobody-ever", market="US", tier="free", item_id=first)
    assert about["item"]["verdict"] == "in"
    assert about["verification"]["outcome"] == "reproduced"


def test_what_follows_a_seed(store: Store) -> None:
    rows = (
        frame(store, live(store, "now_playing")).filter(pl.col("record_key") != "*").sort("record_key", "context_key")
    )
    anywhere = (pl.col("market") == "*").any().over("record_key")
    both = rows.filter(pl.len().over("record_key") == 2, anywhere).row(0, named=True)
    answer = ask(store, surface="now_playing", key=both["record_key"])
    played = next(m for m in rows.filter(record_key=both["record_key"])["market"] if m != "*")
    assert answer["set"]["market"] == played
    assert answer["note"] == "sets of other markets: *"
    item_id = both["candidates"][0]["item_id"]
    about = ask(store, surface="now_playing", key=both["record_key"], market=both["market"], item_id=item_id)
    assert about["item"]["verdict"] == "in"
    assert about["verification"]["outcome"] == "reproduced"
    elsewhere = ask(store, surface="now_playing", key=both["record_key"], market="XX")
    assert (both["market"], elsewhere["set"]["market"]) == ("*", "*")
    assert elsewhere["note"].startswith(
        "it was not played in XX: the first 80 of its set for everywhere else serve it, then"
    )
    chart = frame(store, live(store, "now_playing")).filter(record_key="*", market="*", tier="*").row(0, named=True)
    charted = chart["candidates"][3]["item_id"]
    beside = ask(store, surface="now_playing", key=both["record_key"], market="XX", item_id=charted)
    assert beside["note"].startswith(f"{elsewhere['note'].split(';')[0]}, where {charted} has position 3")
    alone = rows.filter(~anywhere).row(0, named=True)
    nowhere = ask(store, surface="now_playing", key=alone["record_key"], market="XX")
    assert f"in XX (it has sets in {alone['market']}" in nowhere["note"]


@pytest.mark.parametrize("surface", ["home", "now_playing"])
def test_records_are_reproduced_in_every_field(surface: str, store: Store) -> None:
    sets = live(store, surface)
    proposals = load_manifest(store, next(ref.path for ref in sets.inputs if ref.name == "proposal"))
    data = {**inputs(store, proposals), **inputs(store, sets)}
    records = frame(store, sets).sort("record_key", "context_key").to_dicts()
    for record in records[:: len(records) // 8]:
        with one_record(store, data, record["record_key"], sets.num_shards) as shard:
            assert published_again(shard, reblend(shard, sets, record), record) == record


def test_a_record_that_is_not_reproduced_is_said_to_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "code_version", lambda: "2.0")
    record = {"code_version": "1.0", "counts": 1, "candidates": [1]}
    found = verify({**record, "counts": 2}, record)
    assert found["outcome"] == "different"
    assert "counts differ: it was made by code 1.0, this is 2.0" in found["message"]
    monkeypatch.setattr(module, "code_version", lambda: "1.0")
    assert "changed by hand" in verify({**record, "counts": 2}, record)["message"]


def test_retired_inputs_leave_the_verdict_of_the_record(copy_road: SmallRoad, home: list[dict]) -> None:
    store = open_store(str(copy_road.root))
    proposals = inputs(store, live(store, "home"))["proposal"]
    for file in proposals.files:
        store.delete(file.path)
    record = next(one for one in home if one["record_key"] != "*")
    first = record["candidates"][0]["item_id"]
    answer = ask(store, surface="home", key=record["record_key"], item_id=first)
    assert answer["item"]["verdict"] == "in"
    assert answer["verification"]["outcome"] == "unavailable"
    assert "run its date again" in answer["verification"]["message"]
    taken = {one["item_id"] for one in record["candidates"]}
    absent = frame(store, inputs(store, live(store, "home"))["item"]).filter(~pl.col("item_id").is_in(list(taken)))[
        "item_id"
    ][0]
    assert ask(store, surface="home", key=record["record_key"], item_id=absent)["item"]["verdict"] == "unknown"


def test_retired_sets_are_refused(copy_road: SmallRoad) -> None:
    store = open_store(str(copy_road.root))
    for file in live(store, "home").files:
        store.delete(file.path)
    with pytest.raises(ExplainError, match="was retired: only the last few published sets are kept"):
        explain(store, Question("home", "anybody"))


def test_nothing_published_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ExplainError, match=r"nothing is published on home .* run `make batch"):
        explain(open_store(str(tmp_path)), Question("home", "anybody"))


def test_a_date_that_never_ran_names_those_that_did(store: Store) -> None:
    with pytest.raises(ExplainError, match=r"no run of 2025-01-01 .* dates that ran: 2026-01-31"):
        explain(store, Question("home", "anybody", date="2025-01-01"))
    assert explain(store, Question("home", "anybody", date="2026-01-31"))["published"]["live"]


def test_an_unknown_item_names_those_that_look_like_it(store: Store) -> None:
    title = frame(store, inputs(store, live(store, "home"))["item"]).drop_nulls("title").sort("item_id")["title"][0]
    with pytest.raises(ExplainError, match="Did you mean"):
        explain(store, Question("home", "anybody", item_id=title[1:-1].upper()))
    with pytest.raises(ExplainError, match=r"no item 'zzzz' among the 2,000 .* ITEM= takes an item_id"):
        explain(store, Question("home", "anybody", item_id="zzzz"))


def test_a_root_without_default_sets_is_refused(copy_road: SmallRoad) -> None:
    store = open_store(str(copy_road.root))
    sets = live(store, "home")
    path = next(store.local(file.path) for file in sets.files if file.path.endswith("part-groups.parquet"))
    pl.read_parquet(path).clear().write_parquet(path)
    with pytest.raises(ExplainError, match=r"no default set for market US"):
        explain(store, Question("home", "nobody", market="US"))


def test_ancestry_names_each_dataset_once_down_to_raw_files(store: Store) -> None:
    nodes = ancestry(store, live(store, "home"))
    assert nodes[0]["dataset"] == "candidate_set"
    paths = [node["manifest"] for node in nodes]
    assert len(paths) == len(set(paths))
    refs = {ref["name"] for node in nodes for ref in node["inputs"]}
    assert {"raw_event", "raw_item", "raw_user", "raw_tombstone", "raw_campaign", "co_listen_partial"} <= refs
