import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.hashing import hash64_one
from transforms.import_stamps import DAY_S, STEP_S, WINDOW_S, chunk_times, play_events, positions, session_starts


def test_positions():
    row, position = positions(np.array([2, 3]))
    assert row.tolist() == [0, 0, 1, 1, 1]
    assert position.tolist() == [0, 1, 0, 1, 2]


def test_sessions_start_at_equal_shares_of_the_window():
    starts = session_starts(np.arange(4), np.array([2, 2, 2, 2]), 4)
    assert starts.tolist() == [0, 7 * DAY_S, 14 * DAY_S, 21 * DAY_S]


def test_a_session_that_would_pass_midnight_is_moved_back():
    total = WINDOW_S // 100  # one session each 100 s: the last of a day starts 100 s before midnight
    start = session_starts(np.array([863]), np.array([10]), total)[0]
    assert start == DAY_S - 2 - 9 * STEP_S


@pytest.mark.parametrize(("row", "start"), [(0, 0), (14, 14 * DAY_S), (27, WINDOW_S - 2 - 599 * STEP_S)])
def test_a_session_longer_than_a_day_starts_with_one_and_ends_in_the_window(row, start):
    assert session_starts(np.array([row]), np.array([600]), 28).tolist() == [start]


def test_a_session_longer_than_the_window_is_refused():
    with pytest.raises(
        ValueError, match=r"a session has 12097 plays; 28 days hold 12096 of them, 200 s apart; split it"
    ):
        session_starts(np.array([0]), np.array([12_097]), 1)
    assert session_starts(np.array([0]), np.array([12_096]), 1).tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=5), st.sampled_from([10, 20]), st.integers(0, 10**6))
def test_chunks_keep_order_stay_within_a_day_and_are_of_equal_size(lengths, size, first_user):
    users = pl.Series([f"user-{first_user + i}" for i in range(len(lengths))])
    chunk, at = chunk_times(users, np.array(lengths), size)
    row, _ = positions(np.array(lengths))
    for user, length in enumerate(lengths):
        chunks, times = chunk[row == user], at[row == user]
        sizes = np.bincount(chunks)
        assert len(sizes) == -(-length // size)
        assert sizes.max() <= size
        assert sizes.max() - sizes.min() <= 1
        assert (np.diff(times) > 0).all()
        assert times[0] >= 0
        assert times[-1] < WINDOW_S - 1
        assert all(len(set((times[chunks == c] // DAY_S).tolist())) == 1 for c in range(len(sizes)))


def test_a_chunk_falls_on_the_day_of_its_share_by_the_users_hash():
    lengths = np.array([35])
    chunk, at = chunk_times(pl.Series(["user-7"]), lengths, 10)
    u = (hash64_one("user-7") >> 11) / 2**53
    for c in range(4):
        assert at[chunk == c][0] // DAY_S == int((c + u) / 4 * 28)
        assert set(np.diff(at[chunk == c]).tolist()) <= {STEP_S}


def test_every_day_expects_the_same_volume():
    lengths = np.resize(np.array([5, 11, 21, 34]), 40_000)
    _, at = chunk_times(pl.Series([f"user-{i}" for i in range(40_000)]), lengths, 10)
    per_day = np.bincount(at // DAY_S, minlength=28)
    assert np.abs(per_day / per_day.mean() - 1).max() < 0.05
    weeks = per_day.reshape(4, 7).sum(axis=1)
    assert np.abs(weeks / weeks.mean() - 1).max() < 0.01


def test_a_users_times_do_not_depend_on_the_other_users():
    alone = chunk_times(pl.Series(["user-3"]), np.array([25]), 10)[1]
    among = chunk_times(pl.Series(["user-1", "user-3"]), np.array([4, 25]), 10)[1]
    assert among[4:].tolist() == alone.tolist()


def test_plays_move_closer_where_chunks_would_overlap():
    chunk, at = chunk_times(pl.Series(["user-1"]), np.array([100_000]), 20)
    assert (np.diff(at) > 0).all()
    assert np.diff(at)[chunk[1:] == chunk[:-1]].max() < STEP_S


def test_more_plays_than_the_window_holds_are_refused():
    with pytest.raises(
        ValueError, match=r"user user-1 has 2000000 plays, more than 28 days hold in order; split or sample"
    ):
        chunk_times(pl.Series(["user-1"]), np.array([2_000_000]), 20)


def test_play_events_are_full_listens():
    plays = pl.DataFrame({"user_id": ["u"], "session_id": ["s"], "item": [4], "position": [2], "at_s": [DAY_S + 5]})
    (row,) = play_events(plays, "artist", dt.date(2026, 1, 4)).to_dicts()
    assert row["event_id"] == "u-2"
    assert row["event_ts"] == dt.datetime(2026, 1, 5, 0, 0, 5, tzinfo=dt.UTC)
    assert row["ingest_ts"] - row["event_ts"] == dt.timedelta(seconds=1)
    assert (row["item_id"], row["item_type"], row["event_type"], row["reason_end"]) == (
        "artist-4", "artist", "play", "track_done",
    )  # fmt: skip
    assert row["ms_played"] == row["item_duration_ms"] == 200_000
    assert (row["is_organic"], row["private_session"], row["consent_personalization"]) == (True, False, True)
    assert (row["market"], row["surface"]) == ("ZZ", "other")
