"""What is fitted on never holds what is asked."""

from pathlib import Path

import polars as pl
import pytest

from benchmarks.protocols import cut, named

SEQUENCES = {1: [1, 2, 3, 4, 5], 2: [3, 1, 2], 3: [4, 5]}


def sequences(folder: Path) -> Path:
    pl.DataFrame({"user": list(SEQUENCES), "items": list(SEQUENCES.values())}).write_parquet(
        folder / "sequences.parquet"
    )
    pl.DataFrame({"item": [1, 2, 3, 4, 5]}).write_parquet(folder / "items.parquet")
    return folder


def sessions(folder: Path) -> Path:
    for name, first, count in (("train", 0, 20), ("test", 100, 2)):
        rows = {"session": range(first, first + count), "items": [[n, n + 1, n + 2] for n in range(count)]}
        pl.DataFrame(rows).write_parquet(folder / f"{name}_sessions.parquet")
    return folder


def pairs(folder: Path, *, valid: bool) -> Path:
    rows = pl.DataFrame({"user": [n // 10 for n in range(400)], "item": [n % 40 for n in range(400)]})
    rows.head(300).write_parquet(folder / "train.parquet")
    rows.slice(330).write_parquet(folder / "test.parquet")
    if valid:
        rows.slice(300).head(30).write_parquet(folder / "valid.parquet")
    return folder


def asked(frame: pl.DataFrame) -> dict[str, list[int]]:
    return dict(frame.select("key", "target").rows())


def test_of_sequences_the_last_two_items_are_asked_one_after_the_other(tmp_path):
    fit, final = cut("sequences", sequences(tmp_path), tmp_path / "work")
    assert asked(fit.asked) == {"user-1": [4], "user-2": [1]}  # who has two items cannot be asked twice
    assert asked(final.asked) == {"user-1": [5], "user-2": [2]}
    kept = [dict(pl.read_parquet(phase.folder / "sequences.parquet").rows()) for phase in (fit, final)]
    assert kept == [{1: [1, 2, 3], 2: [3]}, {1: [1, 2, 3, 4], 2: [3, 1]}]


def test_of_sessions_the_last_tenth_is_validation_and_every_prefix_is_asked(tmp_path):
    fit, final = cut("sessions", sessions(tmp_path), tmp_path / "work")
    held = fit.asked.filter(pl.col("key") == "session-18")
    assert held.select("context", "target").rows() == [([18], [19]), ([18, 19], [20])]
    assert sorted(fit.asked["key"].unique()) == ["session-18", "session-19"]
    assert sorted(final.asked["key"].unique()) == ["session-100", "session-101"]
    heights = [pl.read_parquet(phase.folder / "train_sessions.parquet").height for phase in (fit, final)]
    assert heights == [18, 20]
    assert not (final.folder / "test_sessions.parquet").exists()


@pytest.mark.parametrize("valid", [True, False])
def test_of_pairs_the_end_of_each_row_is_validation_and_nothing_asked_is_fitted_on(tmp_path, valid):
    fit, final = cut("pairs", pairs(tmp_path, valid=valid), tmp_path / "work")
    for phase in (fit, final):
        train = set(pl.read_parquet(phase.folder / "train.parquet").rows())
        wanted = {(int(key[5:]), item) for key, items in asked(phase.asked).items() for item in items}
        assert wanted
        assert not wanted & train
    assert asked(fit.asked)["user-0"] == [8, 9]  # the last fifth of ten, in file order
    trained = pl.read_parquet(fit.folder / "train.parquet")
    assert trained.height == 240 + 30 * valid


def test_what_is_asked_names_items_and_tells_examples_of_one_key_apart():
    asked = pl.DataFrame({"key": ["b", "a", "b"], "context": [[7], [8], [7, 9]], "target": [[1], [2], [3]]})
    found = named(asked, "track")
    assert found["example_id"].to_list() == ["b#000000000", "a#000000000", "b#000000001"]
    assert found["context"].to_list() == [["track-7"], ["track-8"], ["track-7", "track-9"]]
    assert named(asked.drop("context"), "track")["context"].to_list() == [None] * 3
