import dataclasses

import pytest

from schemas.models import Space, SpaceMismatch, demand_same_space

SPACE = Space("encoder", "abc", 64, "cosine")


def test_two_spaces_never_meet_and_both_are_named():
    other = dataclasses.replace(SPACE, version="def")
    demand_same_space(SPACE, SPACE, "vectors")
    with pytest.raises(SpaceMismatch, match=r"vectors is in the space encoder def .*space encoder abc"):
        demand_same_space(SPACE, other, "vectors")


@pytest.mark.parametrize("change", [{"family": "x"}, {"version": "x"}, {"dim": 32}, {"metric": "inner_product"}])
def test_everything_about_a_space_decides_its_id(change):
    assert dataclasses.replace(SPACE, **change).id != SPACE.id


@pytest.mark.parametrize("change", [{"metric": "euclidean"}, {"dim": 0}])
def test_a_space_that_cannot_be_is_refused(change):
    with pytest.raises(ValueError, match="metrics"):
        dataclasses.replace(SPACE, **change)
