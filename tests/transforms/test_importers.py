import datetime as dt
import hashlib
import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.inputs import EVENT, ITEM, USER
from transforms import importers
from transforms.decode import decode
from transforms.importers import SHAPES, ImportSummary, import_folder
from transforms.ingest import check_rows

END = dt.date(2026, 1, 31)
START = dt.date(2026, 1, 4)
INT_LIST = pl.List(pl.Int32)
SESSION = {"session": pl.Int32, "items": INT_LIST}
SEQUENCE = {"user": pl.Int32, "items": INT_LIST}
DERIVED = {"canonical_id"}  # ingest fills it in


def run(shape: str, source: Path, out: Path, said: list[str] | None = None) -> ImportSummary:
    return import_folder(shape, source, out, END, (said if said is not None else []).append)


def read(out: Path, dataset: str) -> pl.DataFrame:
    return pl.read_parquet(out / dataset / "*.parquet")


def played(out: Path, user: str) -> list[str]:
    return read(out, "events").filter(pl.col("user_id") == user).sort("event_ts")["item_id"].to_list()


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_sessions(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    train = {"session": [0, 1, 2], "items": [[5, 3], [3, 3, 1], [9]]}
    pl.DataFrame(train, schema=SESSION).write_parquet(folder / "train_sessions.parquet")
    pl.DataFrame({"session": [0], "items": [[1, 5]]}, schema=SESSION).write_parquet(folder / "test_sessions.parquet")
    return folder


def write_sequences(folder: Path, items: pl.DataFrame | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    lists = {"user": [4, 2], "items": [list(range(25)), [7, 1]]}
    pl.DataFrame(lists, schema=SEQUENCE).write_parquet(folder / "sequences.parquet")
    items = pl.DataFrame({"item": range(25)}) if items is None else items
    items.write_parquet(folder / "items.parquet")
    return folder


def write_pairs(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    pl.DataFrame({"user": [1, 0, 1], "item": [8, 6, 2]}).write_parquet(folder / "train.parquet")
    pl.DataFrame({"user": [1], "item": [4]}).write_parquet(folder / "valid.parquet")
    pl.DataFrame({"user": [0, 1], "item": [1, 9]}).write_parquet(folder / "test.parquet")
    return folder


def write_artists(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    plays = {"user": [1, 1, 1, 2], "artist": [10, 20, 30, 20], "plays": [9, 1000, 10, 1]}
    pl.DataFrame(plays).write_parquet(folder / "interactions.parquet")
    pl.DataFrame({"artist": [10, 20, 40], "name": ["Ada", " ", "Solo"]}).write_parquet(folder / "artists.parquet")
    tags = {"artist": [10] * 12, "tag": list("lkjihgfedcba"), "count": [1] * 11 + [7]}
    pl.DataFrame(tags).write_parquet(folder / "artist_tags.parquet")
    return folder


def test_sessions_become_anonymous_users_in_play_order(tmp_path):
    summary = run("sessions", write_sessions(tmp_path / "in"), tmp_path / "out")
    assert (summary.events, summary.items, summary.users, summary.sessions) == (8, 4, 4, 4)
    assert played(tmp_path / "out", "train-1") == ["track-3", "track-3", "track-1"]
    events = read(tmp_path / "out", "events")
    first = events.group_by("user_id").agg(pl.col("event_ts").min()).sort("event_ts")
    assert first["user_id"].to_list() == ["train-0", "train-1", "train-2", "test-0"]
    assert first["event_ts"].dt.date().to_list() == [START + dt.timedelta(days) for days in (0, 7, 14, 21)]
    assert events["session_id"].to_list() == events["user_id"].to_list()
    assert read(tmp_path / "out", "items").sort("item_id")["title"].to_list() == [
        "Track 1",
        "Track 3",
        "Track 5",
        "Track 9",
    ]
    users = read(tmp_path / "out", "users")
    assert users.select("market", "tier").unique().rows() == [("ZZ", "premium")]


def test_sessions_read_train_first_and_test_last(tmp_path):
    for name in ("test", "a", "train", "z"):
        frame = pl.DataFrame({"session": [0], "items": [[1]]}, schema=SESSION)
        frame.write_parquet(tmp_path / f"{name}_sessions.parquet")
    files = SHAPES["sessions"](tmp_path).files
    assert [path.stem for path in files] == ["train_sessions", "a_sessions", "z_sessions", "test_sessions"]


@pytest.mark.parametrize(("shape", "write"), [("sessions", write_sessions), ("sequences", write_sequences),
                                              ("pairs", write_pairs), ("pairs", write_artists)])  # fmt: skip
def test_output_is_in_the_types_of_the_contracts(tmp_path, shape, write):
    run(shape, write(tmp_path / "in"), tmp_path / "out")
    for dataset, contract in (("events", EVENT), ("items", ITEM), ("users", USER)):
        for path in (tmp_path / "out" / dataset).iterdir():
            schema = pq.read_schema(path)
            given = contract.given_columns()
            assert schema.names == [name for name in given if name in schema.names]
            assert {f.name: f.type for f in schema} == {n: contract.schema.field(n).type for n in schema.names}
            nulls = pl.read_parquet(path).null_count().row(0, named=True)
            required = [f.name for f in contract.schema if not f.nullable and f.name in given and f.name not in DERIVED]
            assert {name: nulls[name] for name in required} == dict.fromkeys(required, 0)
            assert check_rows(decode(str(path), contract), contract, "raw", "1").rejected.is_empty()
    events = read(tmp_path / "out", "events")
    assert events["event_id"].is_unique().all()
    assert events["event_ts"].dt.date().is_between(START, END).all()
    assert set(events["item_id"]) <= set(read(tmp_path / "out", "items")["item_id"])
    assert set(events["user_id"]) == set(read(tmp_path / "out", "users")["user_id"])


def test_sequences_keep_order_in_chunks_of_ten(tmp_path):
    summary = run("sequences", write_sequences(tmp_path / "in"), tmp_path / "out")
    assert (summary.events, summary.users, summary.sessions) == (27, 2, 4)
    assert played(tmp_path / "out", "user-4") == [f"track-{i}" for i in range(25)]
    assert played(tmp_path / "out", "user-2") == ["track-7", "track-1"]
    assert read(tmp_path / "out", "events").filter(user_id="user-4")["session_id"].n_unique() == 3


def test_sequences_take_titles_and_genres_from_the_items(tmp_path):
    catalogue = {
        "item": [1, 0, 99],
        "text": ["One", None, ""],
        "attributes": [[3, 2], None, []],
        "asin": ["x", "y", "z"],
    }
    run("sequences", write_sequences(tmp_path / "in", pl.DataFrame(catalogue)), tmp_path / "out")
    rows = {row["item_id"]: row for row in read(tmp_path / "out", "items").to_dicts()}
    assert len(rows) == 26
    assert (rows["track-1"]["title"], rows["track-1"]["genres"]) == ("One", ["attribute-3", "attribute-2"])
    assert [rows[f"track-{i}"]["title"] for i in (0, 99, 24)] == ["Track 0", "Track 99", "Track 24"]
    assert [rows[f"track-{i}"]["genres"] for i in (0, 99, 24)] == [None, [], None]


def test_pairs_are_played_in_file_order(tmp_path):
    summary = run("pairs", write_pairs(tmp_path / "in"), tmp_path / "out")
    assert (summary.events, summary.items, summary.users, summary.sessions) == (6, 6, 2, 2)
    assert played(tmp_path / "out", "user-1") == ["track-8", "track-2", "track-4", "track-9"]
    assert played(tmp_path / "out", "user-0") == ["track-6", "track-1"]


def test_pairs_need_no_validation_or_test_split(tmp_path):
    source = write_pairs(tmp_path / "in")
    (source / "valid.parquet").unlink()
    (source / "test.parquet").unlink()
    assert run("pairs", source, tmp_path / "out").events == 3


def test_play_counts_become_passes_of_listens(tmp_path):
    run("pairs", write_artists(tmp_path / "in"), tmp_path / "out")
    order = [20, 30, 10, 20, 30, 20, 20]
    assert played(tmp_path / "out", "user-1") == [f"artist-{i}" for i in order]
    assert played(tmp_path / "out", "user-2") == ["artist-20"]


def test_artists_have_names_and_their_ten_strongest_tags(tmp_path):
    run("pairs", write_artists(tmp_path / "in"), tmp_path / "out")
    rows = {row["item_id"]: row for row in read(tmp_path / "out", "items").to_dicts()}
    assert {key: row["title"] for key, row in rows.items()} == {
        "artist-10": "Ada", "artist-20": "Artist 20", "artist-30": "Artist 30", "artist-40": "Solo",
    }  # fmt: skip
    assert rows["artist-10"]["genres"] == list("abcdefghij")
    assert rows["artist-10"]["artists"] == [{"artist_id": "artist-10", "name": "Ada", "role": None}]
    assert {(row["item_type"], row["explicit"], row["rec_eligible"]) for row in rows.values()} == {
        ("artist", False, True)
    }


def test_artists_need_no_names_or_tags(tmp_path):
    source = write_artists(tmp_path / "in")
    (source / "artists.parquet").unlink()
    (source / "artist_tags.parquet").unlink()
    run("pairs", source, tmp_path / "out")
    assert "Artist 10" in read(tmp_path / "out", "items")["title"].to_list()


def test_interactions_may_name_items(tmp_path):
    pl.DataFrame({"user": [3], "item": [5]}).write_parquet(tmp_path / "interactions.parquet")
    run("pairs", tmp_path, tmp_path / "out")
    assert played(tmp_path / "out", "user-3") == ["track-5"]


def test_parts_hold_whole_users_and_together_everything(tmp_path, monkeypatch):
    source = write_sequences(tmp_path / "in")
    run("sequences", source, tmp_path / "whole")
    monkeypatch.setattr("transforms.import_shapes.PART_EVENTS", 5)
    monkeypatch.setattr("transforms.import_files.BATCH_ROWS", 1)
    said: list[str] = []
    run("sequences", source, tmp_path / "parts", said)
    assert said[:2] == ["25 events written", "27 events written"]
    assert len(list((tmp_path / "parts" / "events").iterdir())) == 2
    for dataset, key in (("events", "event_id"), ("users", "user_id"), ("items", "item_id")):
        assert read(tmp_path / "parts", dataset).sort(key).equals(read(tmp_path / "whole", dataset).sort(key))


def test_the_same_input_gives_the_same_bytes(tmp_path):
    source = write_artists(tmp_path / "in")
    run("pairs", source, tmp_path / "one")
    run("pairs", source, tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    record = json.loads((tmp_path / "one" / "import.json").read_text())
    assert record["inputs"]["shape"] == "pairs"
    assert record["inputs"]["end"] == "2026-01-31"
    assert record["inputs"]["sources"][0] == {
        "name": "interactions.parquet",
        "sha256": hashlib.sha256((source / "interactions.parquet").read_bytes()).hexdigest(),
    }
    assert record["summary"]["rule"] == record["inputs"]["rule"]
    assert "passes" in record["inputs"]["rule"]


def test_importing_again_does_nothing_and_says_so(tmp_path, monkeypatch):
    source, out, said = write_sessions(tmp_path / "in"), tmp_path / "out", []
    first = run("sessions", source, out)
    monkeypatch.setattr(importers, "_write", lambda *_: pytest.fail("wrote again"))
    assert run("sessions", source, out, said) == first
    assert said == [f"{out} already holds this import of {source}: nothing to do"]


def test_a_changed_source_another_day_or_a_lost_file_imports_again(tmp_path):
    source, out = write_sessions(tmp_path / "in"), tmp_path / "out"
    run("sessions", source, out)
    before = digests(out)
    (out / "events" / "part-00001.parquet").unlink()
    run("sessions", source, out)
    assert digests(out) == before
    import_folder("sessions", source, out, END + dt.timedelta(1), [].append)
    assert read(out, "events")["event_ts"].dt.date().min() == START + dt.timedelta(1)
    (source / "test_sessions.parquet").unlink()
    assert run("sessions", source, out).events == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_failed_import_leaves_the_earlier_one(tmp_path):
    source, out = write_sessions(tmp_path / "in"), tmp_path / "out"
    run("sessions", source, out)
    before = digests(out)
    pl.DataFrame({"session": [0], "items": [[-1]]}, schema=SESSION).write_parquet(source / "test_sessions.parquet")
    with pytest.raises(ValueError, match="items holds -1 in row 0"):
        run("sessions", source, out)
    assert digests(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("content", [None, "{}", "[]", "not json"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, content):
    source, out = write_sessions(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    if content is not None:
        (out / "import.json").write_text(content)
    with pytest.raises(
        FileExistsError, match=r"is there but holds no import.json of an earlier import, so it is left alone"
    ):
        run("sessions", source, out)
    assert (out / "thesis.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert run("sessions", write_sessions(tmp_path / "in"), tmp_path / "out").events == 8


def test_an_unknown_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown shape 'graph'; expected one of sessions, sequences, pairs"):
        run("graph", tmp_path, tmp_path / "out")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a folder of Parquet files at .*nowhere, found no folder"):
        run("pairs", tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(("shape", "expected"), [
    ("sessions", "train_sessions.parquet or another"), ("sequences", "sequences.parquet and items.parquet"),
    ("pairs", "train.parquet .*or interactions.parquet"),
])  # fmt: skip
def test_missing_files_are_named_with_what_is_there(tmp_path, shape, expected):
    with pytest.raises(FileNotFoundError, match=f"{shape} expects {expected}.* in .*; there is nothing; pass the"):
        run(shape, tmp_path, tmp_path / "out")
    (tmp_path / "cf_split").mkdir()
    for i in range(21):
        (tmp_path / f"notes-{i:02d}.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"there is cf_split/, notes-00.txt, .*notes-18.txt and 2 more; pass"):
        run(shape, tmp_path, tmp_path / "out")


def fault(tmp_path: Path, shape: str, files: dict[str, pl.DataFrame]) -> str:
    for name, frame in files.items():
        frame.write_parquet(tmp_path / name)
    with pytest.raises(ValueError, match=r"; .+") as error:
        run(shape, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    return str(error.value)


@pytest.mark.parametrize(("frame", "message"), [
    (pl.DataFrame({"sid": [1], "items": [[1]]}), "lacks the columns ['session']; it has ['sid', 'items']"),
    (pl.DataFrame({"session": ["a"], "items": [[1]]}), "column session must be an integer, but is large_string"),
    (pl.DataFrame({"session": [1], "items": [7]}), "column items must be a list of integers, but is int64"),
    (pl.DataFrame({"session": [1], "items": [["x"]]}), "column items must be a list of integers"),
    (pl.DataFrame(schema=SESSION), "has no rows; expected at least one"),
    (pl.DataFrame({"session": [1, None], "items": [[1], [2]]}), "session holds None in row 1; expected 0 or more"),
    (pl.DataFrame({"session": [1, -2], "items": [[1], [2]]}), "session holds -2 in row 1; expected 0 or more"),
    (pl.DataFrame({"session": [1, 1], "items": [[1], [2]]}), "session 1 occurs in several rows; expected one"),
    (pl.DataFrame({"session": [1, 2], "items": [[1], None]}), "items is null or empty in row 1; expected at least one"),
    (pl.DataFrame({"session": [1, 2], "items": [[1], []]}, schema=SESSION), "items is null or empty in row 1"),
    (pl.DataFrame({"session": [1, 2], "items": [[1, 2], [3, None]]}), "items holds None in row 1"),
    (pl.DataFrame({"session": [1, 2, 3], "items": [[1, 2], [3], [4, -4]]}), "items holds -4 in row 2"),
])  # fmt: skip
def test_broken_sessions_are_named(tmp_path, frame, message):
    assert message in fault(tmp_path, "sessions", {"train_sessions.parquet": frame})


def test_rows_are_counted_across_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("transforms.import_files.BATCH_ROWS", 2)
    frame = pl.DataFrame({"session": [1, 2, 3, 4], "items": [[1], [2], [3], []]}, schema=SESSION)
    assert "items is null or empty in row 3" in fault(tmp_path, "sessions", {"train_sessions.parquet": frame})


@pytest.mark.parametrize(("items", "message"), [
    (pl.DataFrame({"id": [1]}), "lacks the columns ['item']"),
    (pl.DataFrame({"item": [1], "text": [3]}), "column text must be a string, but is int64"),
    (pl.DataFrame({"item": [1], "attributes": ["a"]}), "column attributes must be a list of integers"),
    (pl.DataFrame({"item": [1, 1]}), "item 1 occurs in several rows"),
    (pl.DataFrame({"item": [1, -1]}), "item holds -1 in row 1"),
])  # fmt: skip
def test_broken_items_are_named(tmp_path, items, message):
    lists = pl.DataFrame({"user": [1], "items": [[1]]}, schema=SEQUENCE)
    assert message in fault(tmp_path, "sequences", {"sequences.parquet": lists, "items.parquet": items})


def test_a_repeated_user_of_sequences_is_named(tmp_path):
    lists = pl.DataFrame({"user": [1, 1], "items": [[1], [2]]}, schema=SEQUENCE)
    files = {"sequences.parquet": lists, "items.parquet": pl.DataFrame({"item": [1]})}
    assert "user 1 occurs in several rows" in fault(tmp_path, "sequences", files)


@pytest.mark.parametrize(("frame", "message"), [
    (pl.DataFrame({"user": [1], "track": [1]}), "must have one of the columns item and artist; it has ['user'"),
    (pl.DataFrame({"user": [1], "item": [1], "artist": [1]}), "must have one of the columns item and artist"),
    (pl.DataFrame({"user": [1, 1], "item": [1, 2], "plays": [3, 0]}), "plays holds 0 in row 1; expected 1 or more"),
    (pl.DataFrame({"user": [1], "item": [1], "plays": [-3]}), "plays holds -3 in row 0; expected 0 or more"),
    (pl.DataFrame({"user": [1], "item": [1], "plays": [0.5]}), "column plays must be an integer, but is double"),
    (pl.DataFrame({"user": [-1], "item": [1]}), "user holds -1 in row 0"),
])  # fmt: skip
def test_broken_interactions_are_named(tmp_path, frame, message):
    assert message in fault(tmp_path, "pairs", {"interactions.parquet": frame})


def test_two_kinds_of_pairs_in_one_folder_are_refused(tmp_path):
    frame = pl.DataFrame({"user": [1], "item": [1]})
    files = {"interactions.parquet": frame, "train.parquet": frame}
    assert "holds both interactions.parquet and train.parquet; keep one" in fault(tmp_path, "pairs", files)


def test_a_truncated_file_is_named(tmp_path):
    path = write_sessions(tmp_path) / "train_sessions.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert "train_sessions.parquet cannot be read as Parquet (" in fault(tmp_path, "sessions", {})


def test_a_damaged_page_is_named(tmp_path):
    path = write_sessions(tmp_path) / "train_sessions.parquet"
    chunk = pq.read_metadata(path).row_group(0).column(1)
    data = bytearray(path.read_bytes())
    offset = chunk.dictionary_page_offset or chunk.data_page_offset
    data[offset : offset + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    assert "train_sessions.parquet cannot be read as Parquet (" in fault(tmp_path, "sessions", {})


def test_a_plain_list_type_is_read_too(tmp_path):
    table = pa.table({"session": pa.array([1], pa.int64()), "items": pa.array([[4, 2]], pa.list_(pa.int64()))})
    pq.write_table(table, tmp_path / "train_sessions.parquet")
    run("sessions", tmp_path, tmp_path / "out")
    assert played(tmp_path / "out", "train-1") == ["track-4", "track-2"]


def per_day(out: Path, *columns: str) -> pl.Series:
    day = pl.col("event_ts").dt.date()
    return read(out, "events").group_by(day).agg(pl.len(), pl.col("session_id").n_unique()).sort("event_ts")[columns[0]]


@pytest.mark.data
def test_all_real_sessions_are_imported_in_order(data_dir, tmp_path):
    source = data_dir / "nowplaying-sessions"
    summary = run("sessions", source, tmp_path / "out")
    assert (summary.sessions, summary.events, summary.items, summary.users) == (142_556, 1_057_684, 60_416, 142_556)
    events = read(tmp_path / "out", "events")
    lists = events.sort("event_ts", maintain_order=True).group_by("user_id").agg("item_id").sort("user_id")
    item = pl.col("items").list.eval(pl.format("track-{}", pl.element())).alias("item_id")
    given = pl.concat(
        pl.read_parquet(source / f"{stem}_sessions.parquet").select(
            pl.format(stem + "-{}", "session").alias("user_id"), item
        )
        for stem in ("train", "test")
    )
    assert lists.equals(given.sort("user_id"))
    days = events.group_by("session_id").agg(pl.col("event_ts").dt.date().n_unique())
    assert days["event_ts"].max() == 1
    assert events["ingest_ts"].max() <= dt.datetime(2026, 1, 31, 23, 59, 59, tzinfo=dt.UTC)


@pytest.mark.data
def test_every_day_has_the_same_number_of_real_sessions(data_dir, tmp_path):
    run("sessions", data_dir / "nowplaying-sessions", tmp_path / "out")
    sessions, events = per_day(tmp_path / "out", "session_id"), per_day(tmp_path / "out", "len")
    assert len(sessions) == 28
    assert sessions.max() - sessions.min() <= 1
    assert (events / events.mean() - 1).abs().max() < 0.08  # real sessions are longer in some weeks


@pytest.mark.data
def test_a_real_import_gives_the_same_bytes_twice(data_dir, tmp_path):
    for name in ("one", "two"):
        run("pairs", data_dir / "lastfm-2k", tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.data
@pytest.mark.parametrize(("shape", "folder", "counts", "uneven"), [
    ("sequences", "amazon-beauty", (198_502, 12_101, 22_363), 0.10),
    ("pairs", "gowalla", (1_027_370, 40_981, 29_858), 0.10),
    ("pairs", "lastfm-2k", (268_273, 17_632, 1_892), 0.15),
    ("pairs", "lastfm-2k/cf_split", (91_779, 17_388, 1_885), 0.25),
])  # fmt: skip
def test_real_sets_are_imported_whole_and_spread_evenly(data_dir, tmp_path, shape, folder, counts, uneven):
    summary = run(shape, data_dir / folder, tmp_path / "out")
    assert (summary.events, summary.items, summary.users) == counts
    events = per_day(tmp_path / "out", "len")
    assert len(events) == 28
    assert (events / events.mean() - 1).abs().max() < uneven


@pytest.mark.data
def test_real_artists_are_readable(data_dir, tmp_path):
    run("pairs", data_dir / "lastfm-2k", tmp_path / "out")
    items = read(tmp_path / "out", "items")
    row = items.filter(item_id="artist-1").to_dicts()[0]
    assert row["title"] == "MALICE MIZER"
    assert row["genres"][:2] == ["j-rock", "visual kei"]
    assert not items["title"].str.starts_with("Artist ").all()
