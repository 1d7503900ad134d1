import datetime

import polars as pl
import pytest
from toy_road import NOW, history, item, listen, shard, table

from transforms.train import by_recency, number_items, time_split

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ITEMS = pl.Series("item_id", ["a", "b", "c", "d"])


def listens(*rows: tuple[str, str, int]) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "key": [key for key, _, _ in rows],
            "item_id": [item for _, item, _ in rows],
            "label": [1.0] * len(rows),
            "event_ts": [START + datetime.timedelta(hours=hour) for _, _, hour in rows],
        },
        schema_overrides={"event_ts": pl.Datetime("us", "UTC")},
    )
    return frame.sort("key", "event_ts")


def test_rows_are_in_the_order_of_their_last_listen():
    rows = by_recency(listens(("x", "a", 9), ("y", "b", 1), ("y", "c", 2), ("z", "d", 5)), ITEMS)
    assert [rows.row(number).tolist() for number in range(3)] == [[1, 2], [3], [0]]


def many(n: int = 100) -> pl.DataFrame:
    return listens(*[(f"u{number % 10}", "abcd"[number % 4], number) for number in range(n)])


def test_nothing_learnt_from_is_as_late_as_what_is_asked():
    split = time_split(many(), ITEMS)
    assert split.last_feature_us < split.first_label_us
    assert split.before["event_ts"].max() < START + datetime.timedelta(hours=94)
    assert len(split.held_out.contexts) == len(split.held_out.targets) == 6
    assert split.held_out.targets.lengths.tolist() == [1] * 6


def test_a_context_is_what_its_key_had_before_the_target():
    split = time_split(many(), ITEMS)
    asked = many().filter(pl.col("key") == "u4")
    assert split.held_out.contexts.row(0).tolist() == ["abcd".index(item) for item in asked["item_id"]][:-1]
    assert split.held_out.targets.row(0).tolist() == ["abcd".index(asked["item_id"][-1])]


def test_a_listen_of_the_same_instant_as_the_target_is_no_context():
    split = time_split(pl.concat([many(), listens(("u9", "b", 99))]).sort("key", "event_ts"), ITEMS)
    last = split.held_out.contexts.lengths[-1]
    assert last == 9


def test_where_nothing_can_be_held_out_all_is_learnt_from():
    rows = listens(("x", "a", 1), ("y", "b", 1))
    split = time_split(rows, ITEMS)
    assert split.held_out is None
    assert split.before.equals(rows)


def test_a_target_no_model_can_name_is_not_asked():
    split = time_split(many(), ITEMS.filter(ITEMS != "d"))
    assert all(number < 3 for number in split.held_out.targets.items)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_sample_of_users_is_by_their_hash(share):
    from transforms.train import _listens

    history = pl.DataFrame(
        {
            "user_id": ["u1", "u2"],
            "positives": [[{"item_id": "a", "label": 1.0, "event_ts": START, "session_id": "s"}]] * 2,
        }
    )
    assert _listens(history, share, "session", ["positives"]).height == 2 * share
    keys = _listens(history, 1.0, "session", ["positives"])["key"].to_list()
    assert keys == ["u1\x1fs", "u2\x1fs"]


def test_likes_of_items_that_the_catalogue_does_not_have_are_counted(tmp_path):
    """An item that was deleted, or may not be recommended, is known though it gets no number."""
    items = [item("a"), item("deleted", deleted_at=NOW), item("hidden", rec_eligible=False)]
    likes = [
        history("u1", [listen("a"), listen("lost")]),
        history("u2", [listen("deleted"), listen("hidden"), listen("lost")]),
    ]
    found = number_items(shard(tmp_path, {"item": table("item", items), "history": table("history", likes)}))
    assert found.counters == {"positives": 5, "positives_unknown": 2}
    assert found.frame["item_id"].to_list() == ["a"]
