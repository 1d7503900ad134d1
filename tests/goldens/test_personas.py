"""Personas: fifty people known by rule, and what their Home set must look like."""

import golden_sets
import golden_world
import polars as pl
import pytest
from golden_world import Raw

PERSONAS = golden_world.golden("personas")["persona"]


@pytest.fixture(scope="module")
def sets(golden_road):
    return golden_sets.published(golden_road.root, "home")


@pytest.fixture(scope="module")
def slots(golden_road, sets):
    return golden_sets.described(golden_sets.slots(sets), Raw(golden_road.raw))


def test_there_are_fifty_personas_of_different_names():
    assert len({golden_world.user_id(persona) for persona in PERSONAS}) == len(PERSONAS) == 50


@pytest.mark.parametrize("persona", PERSONAS, ids=golden_world.user_id)
def test_the_set_of_a_persona_is_as_expected(sets, slots, persona):
    mine = pl.col("record_key") == golden_world.user_id(persona)
    record = next(iter(sets.filter(mine).to_dicts()), None)
    assert golden_sets.findings(persona, record, slots.filter(mine)) == []
