import tomllib

import polars as pl
import pytest
from toy_road import policy, quota

from jobs.options import POLICY_FILE
from schemas.policy import Policy
from transforms.holdout import held_out

USERS = pl.Series([f"u{n}" for n in range(20_000)])


def held(share: float, surface: str = "home") -> set[str]:
    return set(USERS.filter(held_out(USERS, policy(quota("any"), name=surface, holdout=share))))


def test_the_share_of_the_policy_is_held_out_by_id_alone():
    assert held(0.0) == set()
    assert 0.008 < len(held(0.01)) / len(USERS) < 0.012
    assert held(0.01) < held(0.02), "who is held out stays so where the share grows"
    assert held(1.0) == set(USERS)
    assert held(0.01, "now_playing") == held(0.01), "on every surface the same"


def test_one_in_a_hundred_is_held_out_of_both_surfaces():
    surfaces = Policy.from_dict(tomllib.loads(POLICY_FILE.read_text(encoding="utf-8")), "surfaces.toml").surfaces
    assert {name: one.holdout for name, one in surfaces.items()} == {"home": 0.01, "now_playing": 0.01}


def test_a_share_above_one_is_refused():
    with pytest.raises(ValueError, match=r"holdout is a share from 0 to 1, came 1.5"):
        policy(quota("any"), holdout=1.5)
