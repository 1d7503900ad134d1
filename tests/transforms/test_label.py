import polars as pl
import pytest

from transforms.label import label_strength

_NEUTRAL = {
    "event_type": "play", "item_type": "track", "ms_played": 0, "item_duration_ms": 200_000, "is_organic": True,
    "context_type": None, "reason_start": None, "shuffle": False, "offline": False,
}  # fmt: skip
_SCHEMA = {"context_type": pl.String, "reason_start": pl.String, "ms_played": pl.Int64, "item_duration_ms": pl.Int64}


@pytest.mark.parametrize(
    ("event", "label"),
    [
        ({"ms_played": 29_999}, 0.0),
        ({"ms_played": 30_000}, 0.5),
        ({"ms_played": 20_000, "item_duration_ms": 40_000}, 0.5),
        ({"ms_played": 19_999, "item_duration_ms": 40_000}, 0.0),
        ({"ms_played": 180_000}, 1.0),
        ({"ms_played": 180_000, "is_organic": False}, 0.5),
        ({"ms_played": 180_000, "is_organic": None}, 1.0),
        ({"ms_played": 180_000, "context_type": "autoplay"}, 0.25),
        ({"ms_played": 180_000, "item_duration_ms": None}, 0.5),
        ({"ms_played": None}, 0.0),
        ({"item_type": "episode", "ms_played": 59_999, "item_duration_ms": 3_600_000}, 0.0),
        ({"item_type": "episode", "ms_played": 60_000, "item_duration_ms": 3_600_000}, 0.5),
        ({"item_type": "episode", "ms_played": 2_880_000, "item_duration_ms": 3_600_000}, 1.0),
        ({"item_type": "chapter", "ms_played": 299_999, "item_duration_ms": 3_600_000}, 0.0),
        ({"item_type": "chapter", "ms_played": 300_000, "item_duration_ms": 3_600_000}, 0.5),
        ({"item_type": "video", "ms_played": 30_000, "item_duration_ms": 300_000}, 0.5),
        ({"event_type": "skip", "ms_played": 9_999}, -0.5),
        ({"event_type": "skip", "ms_played": 9_999, "shuffle": True}, -0.25),
        ({"event_type": "skip", "ms_played": 9_999, "offline": True}, -0.25),
        ({"event_type": "skip", "ms_played": 10_000}, 0.0),
        ({"event_type": "skip", "ms_played": 40_000}, 0.5),
        ({"event_type": "like"}, 1.0),
        ({"event_type": "hide"}, -1.0),
        ({"event_type": "impression"}, 0.0),
        ({"event_type": "search"}, 0.0),
    ],
)
def test_label(event, label):
    frame = pl.DataFrame([_NEUTRAL | event], schema_overrides=_SCHEMA)
    found = frame.select(label_strength().alias("label"))["label"]
    assert found.dtype == pl.Float32
    assert found.to_list() == [label]
