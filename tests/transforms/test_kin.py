import collections

import numpy as np
import polars as pl
import pytest
from toy_road import item, policy, quota, table

from transforms.kin import CAPS, FURTHER, Kin, looked_at

CATALOGUE = [
    item("a", artist="x", album_id="l1"), item("b", artist="x", album_id="l1"), item("c", artist="x", album_id="l2"),
    item("d", artist="y"), item("e", artist="y"), item("f", artists=None, show_id="s"), item("g", artists=None, show_id="s"),
]  # fmt: skip
IDS = pl.Series("item_id", list("abcdefgh"))


def kin(rows=CATALOGUE) -> Kin:
    frame = table("item", rows)
    return Kin.read([frame[:3], frame[3:]], IDS)


def spread(rows: list[int], limit: int, **caps: int) -> list[int]:
    """Return the rows that stay of one query's."""
    given = np.array([rows], np.int32)
    return given[0, kin().spread(given, limit, policy(quota("any"), **caps))[0]].tolist()


def test_what_exceeds_a_cap_makes_way_for_what_does_not():
    everything = [0, 1, 2, 3, 4, 5, 6, 7]
    assert spread(everything, 4) == [0, 1, 2, 3]
    assert spread(everything, 4, album=1) == [0, 2, 3, 4]
    assert spread(everything, 4, artist=1) == [0, 3, 5, 6]
    assert spread(everything, 4, artist=1, show=1) == [0, 3, 5, 7]


def test_what_an_album_gives_away_does_not_use_up_its_artists_room():
    assert spread([0, 1, 2, 3], 3, album=1, artist=2) == [0, 2, 3]


def test_where_there_is_no_item_there_is_nothing_to_spread():
    assert Kin.read([], IDS[:0]).spread(np.full((2, 3), -1, np.int32), 2, policy(quota("any"), album=1)).shape == (2, 2)


def test_where_there_is_nothing_else_what_exceeds_a_cap_fills_up():
    assert spread([0, 1, 2], 3, album=1) == [0, 1, 2]
    assert spread([2, 1, 0, -1, -1], 4, artist=1) == [2, 1, 0, -1]


def test_what_an_item_lacks_it_has_in_common_with_none():
    assert spread([7, 3, 5, 6], 4, artist=1, album=1) == [7, 3, 5, 6]


def test_rows_do_not_mix():
    rows = np.array([[0, 1, 3], [1, 3, 0]], np.int32)
    at = kin().spread(rows, 2, policy(quota("any"), album=1))
    assert np.take_along_axis(rows, at, axis=1).tolist() == [[0, 3], [1, 3]]


def test_more_is_looked_at_only_where_a_cap_can_bind():
    assert looked_at(100, policy(quota("any"))) == 100
    assert looked_at(100, policy(quota("any"), album=99)) == 100 * FURTHER


@pytest.mark.parametrize("seed", range(20))
def test_it_is_as_counted_one_cap_after_the_other(seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 12, (80, len(CAPS))).astype(np.uint64) << np.uint64(rng.integers(0, 60))
    rows = np.stack([rng.permutation(80) for _ in range(5)]).astype(np.int32)[:, : rng.integers(1, 80)]
    rows[:, rng.integers(0, rows.shape[1]) :] *= rng.choice([-1, 1])
    caps = dict(zip(CAPS, rng.integers(1, 6, len(CAPS)).tolist(), strict=True))
    limit = int(rng.integers(1, 60))
    found = Kin(codes).spread(rows, limit, policy(quota("any"), **caps))
    for own, places in zip(rows.tolist(), found.tolist(), strict=True):
        late = [2 * (row < 0) for row in own]
        for cap, name in enumerate(CAPS):
            before = collections.Counter()
            for place, row in enumerate(own):
                if not late[place] and codes[row, cap]:
                    before[codes[row, cap]] += 1
                    late[place] = int(before[codes[row, cap]] > caps[name])
        assert places == sorted(sorted(range(len(own)), key=lambda place, late=late: late[place])[:limit])
