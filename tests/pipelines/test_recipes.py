"""Which model a source's calibration is of, and what becomes of it when another one ranks."""

import dataclasses

import polars as pl
import pytest
from small_road import served

from pipelines.calibrate import calibrate
from pipelines.recipes import recipes, strangers
from pipelines.recommend import HOME, NOW_PLAYING, SURFACES
from pipelines.runner import Runner
from schemas.manifest import Manifest

DAY = "2026-01-25"
"""Proposals of the small road are taken for those of this day: what was played since has come of them."""
OF_THE_ENCODER = {
    HOME: {"home.fresh_content", "home.fresh_market", "home.sequence", "home.two_tower"},
    NOW_PLAYING: {"np.session", "np.similar"},
}


@pytest.fixture
def families(made) -> dict[str, Manifest]:
    return {name: made[f"training/{name}"] for name in ("encoder", "session_knn")}


def changed(made: Manifest, **config: object) -> Manifest:
    return dataclasses.replace(made, config=made.config | config)


@pytest.mark.parametrize("surface", [HOME, NOW_PLAYING])
def test_a_source_is_of_another_model_where_it_is_trained_otherwise(families, surface):
    sources, neighbours = SURFACES[surface].sources, {"np.session_knn"} & SURFACES[surface].sources.keys()
    own = recipes(sources, families)
    assert set(own) == OF_THE_ENCODER[surface] | neighbours
    again = families | {"encoder": changed(families["encoder"], share=0.5, device="cuda")}
    retrained = again | {"encoder": dataclasses.replace(again["encoder"], run="later", date="2026-02-07")}
    assert recipes(sources, retrained) == own, "of a week more of listening, on another machine"
    settings = families["encoder"].config["settings"] | {"layers": 9}
    for different in ({"settings": settings}, {"text_model": "other"}, {"seed": 1}):
        other = recipes(sources, families | {"encoder": changed(families["encoder"], **different)})
        assert {name for name in own if other[name] != own[name]} == OF_THE_ENCODER[surface]
    name = min(own)
    rescored = {**sources, name: dataclasses.replace(sources[name], score_kind="other")}
    assert {one for one, recipe in recipes(rescored, families).items() if recipe != own[one]} == {name}


def test_who_does_not_say_its_model_is_of_another(families):
    own = recipes(SURFACES[HOME].sources, families)
    told = changed(families["encoder"], models=own)
    assert strangers(own, told) == strangers(own, None) == ()
    assert strangers(own, families["encoder"]) == tuple(sorted(own))
    assert strangers({}, families["encoder"]) == ()


def calibrated(runner: Runner, road, made, proposals: Manifest) -> Manifest:
    """Calibrate Home by some proposals and what was played after them."""
    of = served(road, made, None)
    runner.previous = {"proposal/home": dataclasses.replace(proposals, date=DAY)}
    tables = of.tables.histories, of.tables.transition_partial
    return runner.run(calibrate(runner, road, SURFACES[HOME], of.models, of.ingested, *tables))


def trials(runner: Runner, calibration: Manifest) -> dict[str, float]:
    read = pl.read_parquet([runner.store.local(file.path) for file in calibration.files])
    return dict(read.group_by("source_id").agg(pl.col("trials").sum()).rows())


def test_a_calibration_of_another_model_is_not_used_for_the_new_one(runner, road, made, families):
    proposals = made["proposal/home"]
    own = recipes(SURFACES[HOME].sources, families)
    assert proposals.config["models"] == made["calibration/home"].config["models"] == own
    before = calibrated(runner, road, made, proposals)
    assert {check.outcome for check in before.checks} == {"passed"}
    counted = trials(runner, before)
    new = {"home.fresh_market"}  # for who is new; of these proposals nobody is new who listened since
    assert {name for name in own if counted[name]} == own.keys() - new
    older = changed(proposals, models=own | {"home.sequence": "another recipe"})
    after = calibrated(runner, road, made, older)
    assert trials(runner, after) == counted | {"home.sequence": 0.0}
    told = [check for check in after.checks if check.outcome != "passed"]
    assert [(check.name, check.severity) for check in told] == [("calibration_of_model:home.sequence", "warning")]
    assert told[0].observed == counted["home.sequence"]


def test_a_calibration_that_counted_something_else_is_not_gone_on_from(runner, road, made):
    def over(before: Manifest) -> dict[str, float]:
        of = served(road, made, None)
        runner.previous = {
            "calibration/home": before,
            "proposal/home": dataclasses.replace(made["proposal/home"], date=DAY),
        }
        tables = of.tables.histories, of.tables.transition_partial
        return trials(runner, runner.run(calibrate(runner, road, SURFACES[HOME], of.models, of.ingested, *tables)))

    first = calibrated(runner, road, made, made["proposal/home"])
    anew = trials(runner, first)
    assert over(first)["home.two_tower"] > anew["home.two_tower"] > 0
    assert over(dataclasses.replace(first, fingerprint="of another contract")) == anew
