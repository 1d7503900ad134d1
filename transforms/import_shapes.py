"""The shapes of public data sets that can be imported: which files they are, and the raw rows these become.

Named for the shape they read, never for a data set. Each function checks that its files are there and of the right
columns, and returns a `Reading`; nothing is read in full before its `parts` are asked for.
"""

import dataclasses
import datetime as dt
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from transforms import import_stamps as stamps
from transforms.import_files import (
    INTEGER,
    INTEGERS,
    TEXT,
    check_columns,
    column_names,
    missing_files,
    read_columns,
    read_lists,
)

PART_EVENTS = 262_144
SEQUENCE_CHUNK = 10
PAIR_CHUNK = 20
TOP_TAGS = 10
_WINDOW = f"the {stamps.WINDOW_DAYS} UTC days up to and with the end day"
_CHUNK_RULE = (
    f"chunks of at most {{}} plays: chunk c of m starts at (c + u) / m of {_WINDOW}, u in [0, 1) by the hash of the "
    f"user id; plays {stamps.STEP_S} s apart, moved back where they would pass midnight"
)
_ARTIST_STRUCT = pl.Struct({"artist_id": pl.String, "name": pl.String, "role": pl.String})

Parts = Iterator[tuple[str, pl.DataFrame]]


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """A folder recognised as one shape.

    Attributes:
      files: what is read, in order.
      rule: how times are made up, for people.
      parts: from the first day of the window to `(dataset, frame)` pairs, dataset one of events, users, items;
        a user's rows lie in one part.
    """

    files: tuple[Path, ...]
    rule: str
    parts: Callable[[dt.date], Parts]


def sessions(source: Path) -> Reading:
    """Recognise `*_sessions.parquet` with `session` and `items`: anonymous sessions in time order.

    Raises:
      FileNotFoundError, ValueError: no such file, or one with the wrong columns.
    """
    found = sorted(source.glob("?*_sessions.parquet"), key=_by_split)
    if not found:
        raise missing_files("sessions", source, "train_sessions.parquet or another *_sessions.parquet")
    for path in found:
        check_columns(path, {"session": INTEGER, "items": INTEGERS})
    rule = (
        f"session i of n, in row order, starts at i / n of {_WINDOW}; plays {stamps.STEP_S} s apart, "
        "moved back where they would pass midnight"
    )
    return Reading(tuple(found), rule, functools.partial(_session_parts, found))


def sequences(source: Path) -> Reading:
    """Recognise sequences.parquet (`user`, `items`) and items.parquet (`item`, optional `text`, `attributes`).

    Raises:
      FileNotFoundError, ValueError: one is missing, or has the wrong columns.
    """
    lists, catalogue = source / "sequences.parquet", source / "items.parquet"
    if not (lists.is_file() and catalogue.is_file()):
        raise missing_files("sequences", source, "sequences.parquet and items.parquet")
    check_columns(lists, {"user": INTEGER, "items": INTEGERS})
    check_columns(catalogue, {"item": INTEGER, **_present(catalogue, {"text": TEXT, "attributes": INTEGERS})})
    return Reading(
        (lists, catalogue), _CHUNK_RULE.format(SEQUENCE_CHUNK), functools.partial(_sequence_parts, lists, catalogue)
    )


def pairs(source: Path) -> Reading:
    """Recognise interactions.parquet (`user`, `item` or `artist`, optional `plays`), or train, valid and test.parquet.

    Raises:
      FileNotFoundError, ValueError: neither or both are there, or the columns are wrong.
    """
    played, splits = (
        source / "interactions.parquet",
        [source / f"{name}.parquet" for name in ("train", "valid", "test")],
    )
    if played.is_file() and splits[0].is_file():
        raise ValueError(f"{source} holds both interactions.parquet and train.parquet; keep one of them in a folder")
    if not (played.is_file() or splits[0].is_file()):
        raise missing_files(
            "pairs", source, "train.parquet (valid.parquet and test.parquet if any) or interactions.parquet"
        )
    read = [played] if played.is_file() else [path for path in splits if path.is_file()]
    item = _item_column(played) if played.is_file() else "item"
    for path in read:
        check_columns(path, {"user": INTEGER, item: INTEGER, **_present(path, {"plays": INTEGER})})
    names = [path for path in (source / "artists.parquet", source / "artist_tags.parquet") if path.is_file()]
    names = names if item == "artist" else []
    rule = (
        "a user's pairs in file order, or with play counts in passes (pass p holds what has at least p listens, the "
        "most played first; listens are 1 + floor(log10(plays))); " + _CHUNK_RULE.format(PAIR_CHUNK)
    )
    return Reading((*read, *names), rule, functools.partial(_pair_parts, read, item, source))


def _by_split(path: Path) -> tuple[int, str]:
    """Order train before every other split, and test after."""
    return {"train_sessions": 0, "test_sessions": 2}.get(path.stem, 1), path.name


def _present(path: Path, optional: dict[str, str]) -> dict[str, str]:
    names = column_names(path)
    return {name: kind for name, kind in optional.items() if name in names}


def _item_column(path: Path) -> str:
    names = column_names(path)
    found = [name for name in ("item", "artist") if name in names]
    if len(found) != 1:
        raise ValueError(f"{path} must have one of the columns item and artist; it has {names}; rename or drop one")
    return found[0]


def _session_parts(files: list[Path], start: dt.date) -> Parts:
    """Hold the session ids of one file, one batch of lists, one part of events, and the distinct items."""
    sizes = [len(read_columns(path, {"session": INTEGER}, unique="session")) for path in files]
    seen, first_row = np.empty(0, np.int64), 0
    for path in files:
        stem = path.stem.removesuffix("_sessions")
        for batch in read_lists(path, "session"):
            rows = np.arange(first_row, first_row + len(batch.ids))
            at = stamps.session_starts(rows, batch.lengths, sum(sizes))
            user_ids = _user_ids(stem, batch.ids)
            for part, rows_of, plays_of in _parts(batch.lengths):
                row, position = stamps.positions(part)
                times = at[rows_of][row] + position * stamps.STEP_S
                plays = _plays(user_ids[rows_of], part, batch.items[plays_of], times)
                yield "events", stamps.play_events(plays, "track", start)
                yield "users", stamps.users(user_ids[rows_of])
            seen = np.union1d(seen, batch.items)
            first_row += len(batch.ids)
    yield "items", _catalogue(pl.DataFrame({"item": seen}), "track")


def _sequence_parts(lists: Path, catalogue: Path, start: dt.date) -> Parts:
    """Hold the user ids, one batch of lists, one part of events, and the catalogue."""
    read_columns(lists, {"user": INTEGER}, unique="user")
    seen = np.empty(0, np.int64)
    for batch in read_lists(lists, "user"):
        yield from _chunked(_user_ids("user", batch.ids), batch.lengths, batch.items, SEQUENCE_CHUNK, "track", start)
        seen = np.union1d(seen, batch.items)
    yield "items", _catalogue(_sequence_items(catalogue, seen), "track")


def _pair_parts(files: list[Path], item: str, source: Path, start: dt.date) -> Parts:
    """Hold all pairs (24 bytes each, times listens), their sort, and one part of events."""
    plays = _listens(pl.concat([_read_pairs(path, item) for path in files]))
    runs = plays["user"].rle().struct.unnest()
    lengths = runs["len"].to_numpy().astype(np.int64)
    users = _user_ids("user", runs["value"].to_numpy())
    item_type = "artist" if item == "artist" else "track"
    yield from _chunked(users, lengths, plays["item"].to_numpy(), PAIR_CHUNK, item_type, start)
    items = plays.select(pl.col("item").unique().sort())
    yield "items", _catalogue(_with_names(items, source) if item == "artist" else items, item_type)


def _chunked(
    user_ids: pl.Series, lengths: np.ndarray, items: np.ndarray, size: int, item_type: str, start: dt.date
) -> Parts:
    for part, users_of, plays_of in _parts(lengths):
        users = user_ids[users_of]
        chunk, times = stamps.chunk_times(users, part, size)
        plays = _plays(users, part, items[plays_of], times)
        plays = plays.with_columns(pl.format("{}-s{}", "user_id", pl.Series(chunk)).alias("session_id"))
        yield "events", stamps.play_events(plays, item_type, start)
        yield "users", stamps.users(users)


def _parts(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, slice, slice]]:
    """Yield `lengths`, rows and plays of parts of whole rows, of `PART_EVENTS` plays and less than one row more."""
    ends = np.cumsum(lengths)
    part = (ends - lengths) // PART_EVENTS
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(lengths)]
    for low, high in itertools.pairwise(edges):
        yield lengths[low:high], slice(low, high), slice(int(ends[low] - lengths[low]), int(ends[high - 1]))


def _plays(user_ids: pl.Series, lengths: np.ndarray, items: np.ndarray, times: np.ndarray) -> pl.DataFrame:
    """Return one row per play, each user one session."""
    row, position = stamps.positions(lengths)
    users = user_ids[row]
    return pl.DataFrame({"user_id": users, "session_id": users, "item": items, "position": position, "at_s": times})


def _user_ids(prefix: str, numbers: np.ndarray) -> pl.Series:
    return pl.DataFrame({"n": numbers}).select(pl.format(prefix + "-{}", "n").alias("user_id")).to_series()


def _read_pairs(path: Path, item: str) -> pl.DataFrame:
    counts = _present(path, {"plays": INTEGER})
    frame = read_columns(path, {"user": INTEGER, item: INTEGER, **counts}).rename({item: "item"})
    if not counts:
        return frame.with_columns(plays=pl.lit(1, pl.Int64))
    if (frame["plays"] == 0).any():
        row = frame["plays"].index_of(0)
        raise ValueError(f"{path}: plays holds 0 in row {row}; expected 1 or more; drop such rows")
    return frame


def _listens(frame: pl.DataFrame) -> pl.DataFrame:
    """Repeat every pair `1 + floor(log10(plays))` times and order each user's rows by pass, then plays, then file."""
    digits = pl.col("plays").cast(pl.String).str.len_bytes().cast(pl.Int64)
    rows = frame.with_row_index("row").with_columns(pl.int_ranges(1, digits + 1).alias("pass")).explode("pass")
    return rows.sort("user", "pass", -pl.col("plays"), "row").select("user", "item")


def _sequence_items(path: Path, seen: np.ndarray) -> pl.DataFrame:
    """Return `item`, and `title` and `genres` where the file has them; played items it lacks get a row too."""
    known = _present(path, {"text": TEXT, "attributes": INTEGERS})
    frame = read_columns(path, {"item": INTEGER, **known}, unique="item").rename({"text": "title"}, strict=False)
    if "attributes" in known:
        names = pl.col("attributes").list.eval(pl.format("attribute-{}", pl.element()))
        frame = frame.with_columns(names.alias("genres")).drop("attributes")
    return frame.join(pl.DataFrame({"item": seen}), on="item", how="full", coalesce=True).sort("item")


def _with_names(items: pl.DataFrame, source: Path) -> pl.DataFrame:
    """Add `title` and `genres` to items, where artists.parquet and artist_tags.parquet are there."""
    names, tags = source / "artists.parquet", source / "artist_tags.parquet"
    if names.is_file():
        titles = read_columns(names, {"artist": INTEGER, "name": TEXT}, unique="artist")
        titles = titles.rename({"artist": "item", "name": "title"})
        items = items.join(titles, on="item", how="full", coalesce=True).sort("item")
    if tags.is_file():
        counted = read_columns(tags, {"artist": INTEGER, "tag": TEXT, "count": INTEGER})
        counted = counted.drop_nulls("tag")  # a row without a tag names no genre
        top = counted.sort("artist", -pl.col("count"), "tag").group_by("artist", maintain_order=True).head(TOP_TAGS)
        genres = top.group_by(pl.col("artist").alias("item"), maintain_order=True).agg(pl.col("tag").alias("genres"))
        items = items.join(genres, on="item", how="left", maintain_order="left")
    return items


def _catalogue(items: pl.DataFrame, item_type: str) -> pl.DataFrame:
    """Return raw items from `item` and optional `title` and `genres`; an artist is its own artist."""
    title = pl.format(item_type.title() + " {}", "item")
    if "title" in items.columns:
        given = pl.col("title").str.strip_chars()
        title = pl.when(given.str.len_bytes() > 0).then(given).otherwise(title)
    frame = items.select(
        stamps.item_id(item_type, "item"),
        pl.lit(item_type).alias("item_type"),
        title.alias("title"),
        *(["genres"] if "genres" in items.columns else []),
        # Unknown would count as explicit, and then no set for a child or for anybody could hold anything.
        pl.lit(False).alias("explicit"),
        pl.lit(True).alias("rec_eligible"),
        pl.lit(stamps.STEP_S * 1000, pl.Int64).alias("duration_ms"),
    )
    if item_type != "artist":
        return frame
    itself = pl.struct(
        pl.col("item_id").alias("artist_id"), pl.col("title").alias("name"), pl.lit(None, pl.String).alias("role")
    )
    return frame.with_columns(pl.concat_list(itself).cast(pl.List(_ARTIST_STRUCT)).alias("artists"))
