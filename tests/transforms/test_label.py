import polars as pl
import pytest
from toy_road import table

from transforms.label import label_strength

PLAY = {
    "event_type": "play",
    "item_type": "track",
    "item_duration_ms": 200_000,
    "ms_played": 40_000,
    "is_organic": True,
}
# columns that differ from PLAY, label; domain reference, section 2
CASES = [
    ({"ms_played": 29_999}, 0.0),
    ({"ms_played": 30_000}, 0.5),
    ({"ms_played": 30_000, "item_duration_ms": None}, 0.5),
    ({"ms_played": None}, 0.0),
    ({"ms_played": 20_000, "item_duration_ms": 40_000}, 0.5),
    ({"ms_played": 19_999, "item_duration_ms": 40_000}, 0.0),
    ({"ms_played": 29_999, "item_duration_ms": 59_998}, 0.5),
    ({"ms_played": 29_999, "item_duration_ms": 60_000}, 0.0),
    ({"ms_played": 180_000}, 1.0),
    ({"ms_played": 179_999}, 0.5),
    ({"ms_played": 180_000, "is_organic": None}, 1.0),
    ({"ms_played": 180_000, "is_organic": False}, 0.5),
    ({"ms_played": 180_000, "context_type": "autoplay"}, 0.25),
    ({"ms_played": 180_000, "reason_start": "autoplay"}, 0.25),
    ({"ms_played": 10_000, "context_type": "autoplay"}, 0.0),
    ({"item_type": "episode", "item_duration_ms": 1_000_000, "ms_played": 59_999}, 0.0),
    ({"item_type": "episode", "item_duration_ms": 1_000_000, "ms_played": 60_000}, 0.5),
    ({"item_type": "episode", "item_duration_ms": 1_000_000, "ms_played": 800_000}, 1.0),
    ({"item_type": "episode", "item_duration_ms": 1_000_000, "ms_played": 799_999}, 0.5),
    ({"item_type": "episode", "item_duration_ms": 1_000_000, "ms_played": 800_000, "is_organic": False}, 1.0),
    ({"item_type": "chapter", "item_duration_ms": 1_000_000, "ms_played": 899_999, "is_organic": False}, 0.5),
    ({"item_type": "episode", "item_duration_ms": 1_000_000, "ms_played": 900_000, "context_type": "autoplay"}, 0.25),
    ({"item_type": "audiobook", "item_duration_ms": 10_000_000, "ms_played": 299_999}, 0.0),
    ({"item_type": "audiobook", "item_duration_ms": 10_000_000, "ms_played": 300_000}, 0.5),
    ({"item_type": "chapter", "item_duration_ms": 1_000_000, "ms_played": 900_000}, 1.0),
    ({"item_type": "video", "ms_played": 29_999}, 0.0),
    ({"item_type": "video", "ms_played": 30_000}, 0.5),
    ({"item_type": "video", "item_duration_ms": 50_000, "ms_played": 29_999}, 0.0),
    ({"event_type": "skip", "ms_played": 9_999}, -0.5),
    ({"event_type": "skip", "ms_played": 9_999, "shuffle": True}, -0.25),
    ({"event_type": "skip", "ms_played": 9_999, "offline": True}, -0.25),
    ({"event_type": "skip", "ms_played": 10_000}, 0.0),
    ({"event_type": "skip", "ms_played": 40_000}, 0.5),
    ({"event_type": "skip", "ms_played": None}, 0.0),
    ({"event_type": "like", "ms_played": None}, 1.0),
    ({"event_type": "add"}, 1.0),
    ({"event_type": "playlist_add"}, 1.0),
    ({"event_type": "follow"}, 0.5),
    ({"event_type": "share"}, 0.8),
    ({"event_type": "dislike"}, -1.0),
    ({"event_type": "hide"}, -1.0),
    ({"event_type": "promo_dismiss"}, -0.5),
    ({"event_type": "unlike"}, -0.5),
    ({"event_type": "remove"}, -0.5),
    ({"event_type": "unfollow"}, -0.25),
    ({"event_type": "search"}, 0.0),
    ({"event_type": "search_click"}, 0.0),
    ({"event_type": "impression"}, 0.0),
]


@pytest.mark.parametrize(
    ("changed", "label"), CASES, ids=[" ".join(f"{k}={v}" for k, v in c.items()) for c, _ in CASES]
)
def test_label_of_one_event(changed, label):
    found = table("event", [PLAY | changed]).select(label_strength().alias("label"))["label"]
    assert found.dtype == pl.Float32
    assert found.to_list() == pytest.approx([label])


def test_a_label_does_not_depend_on_the_other_rows():
    together = table("event", [PLAY | changed for changed, _ in CASES]).select(label_strength().alias("label"))["label"]
    assert together.to_list() == pytest.approx([label for _, label in CASES])
