"""The index stage on the small road, and sets that are retrieved through it."""

import dataclasses
import json

import polars as pl
import pytest
from small_road import served

from pipelines import recommend
from pipelines.index import index, pays
from pipelines.recommend import HOME, SURFACES
from pipelines.road import Road
from pipelines.runner import Runner, StageFailed, input_ref
from schemas.candidates import CANDIDATE_SET
from schemas.manifest import Manifest
from schemas.models import Space, SpaceMismatch
from transforms.index import ivf
from transforms.io.store import Store
from transforms.vector_sources import VECTOR_SIGNALS
from validation.gates import judge

OTHER = Space("encoder", "other", 64, "cosine")


def build(runner: Runner, road: Road, made: dict[str, Manifest]) -> Manifest:
    return runner.run(index(road, made["item_embedding/item"], made["user_embedding/history"], made["item/"]))


def near(store: Store, proposals: Manifest) -> pl.DataFrame:
    read = pl.read_parquet([store.local(file.path) for file in proposals.files])
    return read.filter(pl.col("source_id") == "home.two_tower")


def test_a_road_with_an_index_finds_nearly_what_exact_search_finds(store, runner, road, made, monkeypatch):
    """Of few items all are looked at, which would hide what lists do."""
    for name, value in (("EXACT_BELOW", 100), ("EXACT_SHARE", 0), ("PROBED_SHARE", 0.6)):
        monkeypatch.setattr(ivf, name, value)
    built = build(runner, road, made)
    with_index, without = served(road, made, built), served(road, made, None)
    assert with_index.parts["index"] == with_index.shared["index"] == built
    found = near(store, runner.run(recommend.retrieve(SURFACES[HOME], with_index)))
    best = near(store, runner.run(recommend.retrieve(SURFACES[HOME], without)))
    assert set(found["key"]) == set(best["key"])
    both = best.join(found, on=["key", "item_id"])
    assert 0.9 < both.height / best.height < 1
    assert both["raw_score"].equals(both["raw_score_right"])


def test_sources_that_search_by_vectors_name_the_index_where_one_is_built(road, made):
    built = dataclasses.replace(made["item_embedding/item"], dataset="index", run="9")
    for searched, named in ((built, ("index", "9")), (None, (None, None))):
        rests = recommend.rests_on(served(road, made, searched).parts, "space")
        told = {signal: (one.index_id, one.index_version) for signal, one in rests.items()}
        by_vectors = dict.fromkeys(VECTOR_SIGNALS, named)
        assert told == dict.fromkeys(rests, (None, None)) | by_vectors


def test_the_index_is_of_all_items_once_of_their_space_and_skipped_the_second_time(runner, road, made):
    built = build(runner, road, made)
    assert built.counters["listed"] == made["item_embedding/item"].rows_out
    assert {check.outcome for check in built.checks} <= {"passed", "waived"}
    assert [path.path.rpartition("/")[2] for path in built.artifacts] == ["00000.codes", "00000.vectors"]
    assert build(runner, road, made) == built
    assert [one.skipped for one in runner.records] == [False, True]
    other = dataclasses.replace(built, config=built.config | {"space": dataclasses.asdict(OTHER)})
    with pytest.raises(SpaceMismatch, match=r"data/index/.* is in the space encoder other"):
        served(road, made, other)


def test_an_index_that_finds_too_little_stops_the_road_and_says_what_to_do(runner, road, made, monkeypatch):
    for name, value in (("EXACT_BELOW", 100), ("EXACT_SHARE", 0), ("PROBED_SHARE", 0.001)):
        monkeypatch.setattr(ivf, name, value)
    with pytest.raises(StageFailed, match=r'(?s)index of .* stopped.*recall@100 is .*set index = "exact" in \[road\]'):
        build(runner, road, made)
    assert not [path for path in runner.store.list("data/index") if path.endswith("manifest.json")]


@pytest.mark.parametrize(
    ("choice", "items", "users", "yes"),
    [("ivf", 10, 10, True), ("exact", 10**8, 10**9, False), ("auto", 10_000, 300, False),
     ("auto", 10**8, 6 * 10**8, True)],
)  # fmt: skip
def test_the_policy_or_the_plan_chooses(road, made, choice, items, users, yes):
    policy = dataclasses.replace(road.policy.road, index=choice)
    vectors = [dataclasses.replace(made["item_embedding/item"], rows_out=rows) for rows in (items, users)]
    assert pays(policy, *vectors) is yes


def test_sets_blended_on_vectors_of_days_before_are_stopped(road, made):
    """Vectors of the date are made from a catalogue of three days before: the same files, another day."""
    own, sets = served(road, made, None), made["candidate_set/home"]
    item = made["item/"]
    old = dataclasses.replace(item, date="2026-01-28", files=item.files[:1])
    vectors = made["item_embedding/item"]
    refs = tuple(input_ref(old) if ref.name == "item" else ref for ref in vectors.inputs)
    models = dataclasses.replace(own.models, items=dataclasses.replace(vectors, inputs=refs))
    for of, failing in ((own, set()), (dataclasses.replace(own, models=models), {"vectors_age"})):
        of = dataclasses.replace(of, calibrations={HOME: made["calibration/home"]})
        counted = recommend.blend(SURFACES[HOME], of, made["proposal/home"]).figures(())
        judged = judge(CANDIDATE_SET, dataclasses.replace(sets, counters=sets.counters | dict(counted)), None)
        assert {one.name for one in judged if one.outcome != "passed" and one.severity == "critical"} == failing


def test_no_other_choice_is_known(road):
    with pytest.raises(ValueError, match="index is one of auto, exact, ivf, came 'hnsw'"):
        dataclasses.replace(road.policy.road, index="hnsw")


def test_a_large_catalogue_is_split_into_segments(road, made):
    vectors = dataclasses.replace(made["item_embedding/item"], rows_out=5_000_000)
    stage = index(road, vectors, made["user_embedding/history"], made["item/"])
    assert stage.config["segments"] == stage.num_shards == 3
    assert json.dumps(stage.config)
    assert 0.1 < stage.config["sampled"] < 0.2
