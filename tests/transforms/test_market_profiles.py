"""The taste of a market: the mean of what it plays, by plays and by language."""

import numpy as np
import polars as pl
import pytest
from toy_road import item, table

from transforms.conformance import MemoryBundle
from transforms.id_index import IdIndex
from transforms.market_profiles import CHARTED, MarketProfiles

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
SPOKEN = {"a": ["sv"], "b": ["en"], "c": ["en", "fi"], "d": []}
CHARTS = [("SE", "a", 3.0), ("SE", "b", 1.0), ("NO", "c", 2.0), ("NO", "gone", 9.0), ("*", "a", 3.0), ("*", "d", 3.0)]
VECTORS = {"a": EAST, "b": NORTH, "c": WEST, "d": NORTH}


def profiles(charts=CHARTS, vectors=VECTORS, tier="*", shuffled=False) -> MarketProfiles:
    rows = [
        {"market": market, "tier": tier, "item_type": "track", "item_id": one, "weight": weight, "rank": 0}
        for market, one, weight in charts
    ]
    known = table("item", [item(one, languages=spoken) for one, spoken in SPOKEN.items()])
    played = table("popularity", rows)
    if shuffled:
        known, played = (frame.sample(fraction=1.0, shuffle=True, seed=4) for frame in (known, played))
    matrix = np.array(list(vectors.values()), np.float32)
    return MarketProfiles.of(
        MemoryBundle({"popularity": played, "item": known}),
        IdIndex.of(pl.Series(list(vectors))),
        lambda rows: matrix[rows],
    )


@pytest.mark.parametrize(
    ("market", "languages", "expected"),
    [
        ("SE", None, [3, 1]), ("SE", [], [3, 1]), ("SE", ["en"], NORTH), ("SE", ["sv", "en"], [3, 1]), ("SE", ["sv", "sv"], EAST),
        ("SE", ["fi"], [3, 1]), ("NO", ["fi"], WEST), ("FI", ["sv"], EAST), ("FI", None, [1, 1]),
    ],
)  # fmt: skip
def test_a_profile_is_of_what_the_market_plays_in_these_languages_by_plays(market, languages, expected):
    found = profiles().of_listener(market, languages)
    assert found.dtype == np.float32
    assert found == pytest.approx(np.array(expected) / np.linalg.norm(expected), abs=1e-6)


def test_where_nothing_is_played_there_is_no_profile():
    assert profiles([]).of_listener("SE", None) is None
    assert profiles(tier="free").of_listener("SE", None) is None, "a tier's chart is a part of the market's"
    assert profiles([("SE", "gone", 1.0)]).of_listener("SE", None) is None
    assert profiles([("SE", "a", 1.0), ("SE", "c", 1.0)]).of_listener("SE", None) is None, "east and west are nowhere"


def test_no_order_of_rows_changes_a_bit():
    for market, language in (("SE", None), ("NO", ["en"])):
        first, again = (profiles(shuffled=one).of_listener(market, language) for one in (False, True))
        assert first.tobytes() == again.tobytes()


def test_so_much_of_a_chart_counts_and_no_more():
    names = [f"i{n:03d}" for n in range(CHARTED + 1)]
    vectors = dict.fromkeys(names, EAST) | {names[-1]: NORTH}
    charts = [("SE", one, 9.0 - n / 100) for n, one in enumerate(names)]
    assert profiles(charts, vectors).of_listener("SE", None).tolist() == EAST
