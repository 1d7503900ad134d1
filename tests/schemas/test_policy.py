import dataclasses

import pytest
from toy_road import policy, quota

from schemas.policy import RoadPolicy

DRAWN = {"explore": "pool", "fallback": "chart", "flow": ("own", "chart")}


def explored(*slots: int, **figures):
    return policy(quota("own"), quota("chart"), quota("pool", *slots), **(DRAWN | figures))


def test_a_surface_knows_how_many_slots_are_drawn():
    assert explored(9, 9, 9).explore_slots == 9
    assert policy(quota("own"), quota("chart")).explore_slots == 0


@pytest.mark.parametrize(
    ("slots", "figures", "came"),
    [
        ((1, 9, 9), {}, "came 1/9/9"),
        ((100, 100, 100), {}, "below the size of 100; came 100/100/100"),
        ((9, 9, 9), {"explore": "nobody", "flow": ("own", "chart", "pool"), "fallback": "pool"}, "came no quota"),
    ],
)
def test_slots_to_explore_are_fixed_and_leave_room(slots, figures, came):
    with pytest.raises(ValueError, match=f'surface home: explore .*minimum = target = maximum.*{came}.*explore = ""'):
        explored(*slots, **figures)


def test_what_is_drawn_takes_no_part_in_the_flow():
    with pytest.raises(
        ValueError, match=r"flow must name each source once, but not explore 'pool'; sources .*'own', 'chart'"
    ):
        dataclasses.replace(explored(9, 9, 9), flow=("own", "pool", "chart"))


def test_what_is_for_newcomers_is_not_personal():
    with pytest.raises(ValueError, match=r"company: expected personal = false of what is for newcomers, came true"):
        quota("company", newcomers=True)


def test_a_surface_knows_what_is_the_same_for_all():
    company = quota("company", personal=False, newcomers=True)
    surface = policy(
        quota("own"), company, quota("pool", 9, 9, 9, personal=False), quota("chart", personal=False), explore="pool"
    )
    assert surface.common == ("company", "chart")


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_what_may_be_embedded_anew_is_a_share(share):
    figures = dict.fromkeys(("window_days", "popularity_half_life_days", "co_listen_half_life_days",
                             "transition_half_life_days", "retrain_days", "encoder_epochs",
                             "calibration_half_life_days"), 1)  # fmt: skip
    with pytest.raises(ValueError, match=f"most_anew is a share above 0 and up to 1, came {share}"):
        RoadPolicy(**figures, most_anew=share, index="auto")
