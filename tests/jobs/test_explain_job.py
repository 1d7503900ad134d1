import json
from pathlib import Path

import jsonschema
import polars as pl
import pytest
from small_road import SmallRoad

from jobs import explain

ANYBODY = ["--surface", "home", "--user", "nobody", "--market", "US", "--tier", "free"]
SCHEMA = json.loads(Path("schemas/explanation.schema.json").read_text())


def run(road: SmallRoad, *arguments: str) -> int:
    return explain.main(["--root", str(road.root), *arguments])


@pytest.fixture
def answer(small_road: SmallRoad, capsys: pytest.CaptureFixture) -> dict:
    assert run(small_road, *ANYBODY, "--format", "json") == 0
    return json.loads(capsys.readouterr().out)


def test_json_is_by_its_schema(answer: dict) -> None:
    jsonschema.validate(answer, SCHEMA)
    assert answer["schema_version"] == SCHEMA["properties"]["schema_version"]["const"]


def test_a_set_in_text_names_every_candidate(
    answer: dict, small_road: SmallRoad, capsys: pytest.CaptureFixture
) -> None:
    assert run(small_road, *ANYBODY) == 0
    out = capsys.readouterr().out
    assert out.startswith("home * market=US|tier=free, 2026-01-31 (live), market US, tier free\n")
    assert all(one["title"][:43] in out for one in answer["set"]["candidates"])
    assert "raw_event" in out


def test_an_item_in_text_says_why_and_what_would_change_it(
    answer: dict, small_road: SmallRoad, capsys: pytest.CaptureFixture
) -> None:
    first = answer["set"]["candidates"][0]
    assert run(small_road, *ANYBODY, "--item", first["item_id"]) == 0
    out = capsys.readouterr().out
    assert "IN, at position 0" in out
    assert "source   home.popular_market: rank" in out
    assert "rests on popularity" in out
    assert "check    reproduced" in out


def test_an_absent_item_in_text_says_what_would_change_it(
    answer: dict, small_road: SmallRoad, capsys: pytest.CaptureFixture
) -> None:
    taken = {one["item_id"] for one in answer["set"]["candidates"]}
    proposals = next(node["manifest"] for node in answer["lineage"] if node["dataset"] == "proposal")
    groups = pl.read_parquet(small_road.root / Path(proposals).parent / "part-groups.parquet")
    offered = groups.filter(key="*|US|free").sort("source_rank")["item_id"]
    absent = next(item for item in offered if item not in taken)
    assert run(small_road, *ANYBODY, "--item", absent) == 0
    out = capsys.readouterr().out
    assert "NOT IN: it was proposed and removed" in out
    assert "would take: " in out
    never = next(f"tr{n:07}" for n in range(2_000) if f"tr{n:07}" not in set(offered))
    assert run(small_road, *ANYBODY, "--item", never) == 0
    out = capsys.readouterr().out
    assert "NOT IN: no source proposed it" in out
    assert "home.popular_market" in out


def test_now_playing_is_asked_by_seed(small_road: SmallRoad, capsys: pytest.CaptureFixture) -> None:
    assert run(small_road, "--surface", "now_playing", "--seed", "nothing-like-it", "--market", "US") == 0
    out = capsys.readouterr().out
    assert "seed item 'nothing-like-it' has no set of its own" in out
    assert "now_playing * market=US|tier=*" in out


@pytest.mark.parametrize(("given", "wanted"), [(["home", "--seed"], "--user"), (["now_playing", "--user"], "--seed")])
def test_the_key_must_be_the_surfaces_own(given: list[str], wanted: str, small_road: SmallRoad, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        run(small_road, "--surface", *given, "x")
    assert caught.value.code == 2
    assert f"{given[0]} is asked about by {wanted}" in capsys.readouterr().err


def test_nothing_published_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert explain.main(["--root", str(tmp_path), "--surface", "home", "--user", "u"]) == 1
    assert "STOPPED  nothing is published on home" in capsys.readouterr().err
