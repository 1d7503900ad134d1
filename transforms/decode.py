"""Raw files to typed rows: JSON lines, CSV and Parquet, with every line accounted for.

A line is decoded to one row, or rejected with its position. Text formats are read as strings first and typed column by
column, so that one bad value rejects one row and names its column.
"""

import csv
import dataclasses
import functools
import io
import json
import re
from collections.abc import Callable
from typing import Any

import orjson
import polars as pl
import polars.exceptions
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.contract import TIMESTAMP, Contract

POSITION = "__position"
RULE = "rule"
DETAIL = "detail"
PRIVATE_FIELDS = ("user_id", "session_id", "query_hash", "query", "email", "ip", "ip_address", "birthdate", "birth_date",
                  "phone", "name", "device_id")  # fmt: skip
CLOCKS = ("event_ts", "ingest_ts", "effective_ts")
"""Columns that say what a clock showed when something happened."""
CLOCK_US = (0, 4_102_444_800_000_000)
"""What a clock can show, 1970 to 2100, us since 1970, the end excluded: before, none counted; later, somebody mistook the
unit, and from 2112 on the sequence of a set, `us << 11`, does not fit an int64."""
_CALENDAR_US = (-62_135_596_800_000_000, 253_402_300_800_000_000)
"""Of any other time, a release of 1902 or a right without end: the years 1 to 9999, which Python and SQL know."""
_PAYLOAD_BYTES = 4_000
_PRIVATE_VALUE = re.compile(
    rb'("(?:' + "|".join(PRIVATE_FIELDS).encode() + rb')"\s*:\s*)("(?:[^"\\]|\\.)*"?|[^,}\]]*)', re.IGNORECASE
)
# Where a number may begin, so that ids of hexadecimal digits do not pass for exponents.
_LONG_NUMBER = re.compile(rb"[:,\[]\s*-?[\d.]*(?:\d{19}|\d[eE][+-]?\d{3})")
_EMAIL = re.compile(rb"[\w.+-]+@[\w-]+\.[\w.]+")


class UnreadableFile(ValueError):
    """A raw file cannot be read at all; the message says which and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """Rows of one raw file or a part of it.

    Attributes:
      rows: the contract's given columns, typed, and `__position`: row of the file or part, from 0.
      rejected: `__position`, `rule`, `detail`, `payload`.
      total: lines or rows seen; `rows` and `rejected` add up to it.
    """

    rows: pl.DataFrame
    rejected: pl.DataFrame
    total: int


def decode(path: str, contract: Contract, span: tuple[int, int] | None = None) -> Decoded:
    """Decode one raw file by its suffix: `.jsonl`, `.json`, `.ndjson`, `.csv` or `.parquet`.

    Args:
      span: bytes of a JSON-lines file (lines that start within), or row groups of a Parquet file.

    Memory: the part of the file asked for, about five times over.

    Raises:
      UnreadableFile: not Parquet, or no header line in a CSV file.
    """
    if path.endswith(".parquet"):
        return _typed(read_parquet(path, contract, span), contract)
    if path.endswith(".csv"):
        return _csv(path, contract)
    return decode_lines(_lines(path, span), contract)


def decode_lines(lines: list[bytes], contract: Contract) -> Decoded:
    """Decode JSON lines; blank lines do not count as lines."""
    numbered = [(i, line) for i, line in enumerate(lines) if line.strip()]
    frame, broken = _parse([n for n, _ in numbered], [line for _, line in numbered], contract)
    decoded = _typed(frame, contract)
    return dataclasses.replace(decoded, rejected=pl.concat([decoded.rejected, _unparsed(broken)]), total=len(numbered))


def read_parquet(path: str, contract: Contract, span: tuple[int, int] | None = None) -> pl.DataFrame:
    """Read the given columns a Parquet file has, as they are typed there, and `__position`.

    Raises:
      UnreadableFile: truncated or not Parquet.
    """
    try:
        file = pq.ParquetFile(path)
        groups = list(range(file.num_row_groups))[slice(*span) if span else slice(None)]
        names = [name for name in file.schema_arrow.names if name in contract.given_columns()]
        before = sum(file.metadata.row_group(i).num_rows for i in range(groups[0] if groups else 0))
        table = file.read_row_groups(groups, columns=names)
    except (pa.ArrowInvalid, OSError) as error:
        raise UnreadableFile(
            f"{path} is not readable Parquet ({error}). It may have been cut off while it was copied: copy it again, or move"
            " it out of the input folder."
        ) from error
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.with_row_index(POSITION, offset=before)


def redact(line: bytes) -> str:
    """Return a raw line without the values of private fields and without e-mail addresses, cut at 4,000 bytes."""
    cleaned = _EMAIL.sub(b"[removed]", _PRIVATE_VALUE.sub(rb'\1"[removed]"', line[: 4 * _PAYLOAD_BYTES]))
    return cleaned[:_PAYLOAD_BYTES].decode("utf-8", "replace").replace("\0", "\ufffd")


def _lines(path: str, span: tuple[int, int] | None) -> list[bytes]:
    with open(path, "rb") as file:
        if span is None:
            return file.read().splitlines()
        start, stop = span
        if start:
            file.seek(start - 1)
            file.readline()
        content = file.read(max(0, stop - file.tell()))
        if content and not content.endswith(b"\n"):
            content += file.readline()
    return content.splitlines()


def _parse(
    positions: list[int], lines: list[bytes], contract: Contract
) -> tuple[pl.DataFrame, list[tuple[int, bytes]]]:
    """Parse lines to string columns; whether a line is taken depends on nothing but that line."""
    numbered = [(n, line, _object(line)) for n, line in zip(positions, lines, strict=True)]
    sound = [(n, found) for n, _, found in numbered if found is not None]
    frame, refused = _bisect(sound, contract.given_columns())
    return frame, [(n, line) for n, line, found in numbered if found is None] + refused


def _bisect(numbered: list[tuple[int, bytes]], names: list[str]) -> tuple[pl.DataFrame, list[tuple[int, bytes]]]:
    """Parse lines; halve what the parser refuses until the refused lines stand alone."""
    try:
        return _parse_all(numbered, names), []
    except (polars.exceptions.PolarsError, ValueError):
        if len(numbered) == 1:
            return _parse_all([], names), numbered
    middle = len(numbered) // 2
    left, left_refused = _bisect(numbered[:middle], names)
    right, right_refused = _bisect(numbered[middle:], names)
    return pl.concat([left, right]), left_refused + right_refused


def _parse_all(numbered: list[tuple[int, bytes]], names: list[str]) -> pl.DataFrame:
    strings = dict.fromkeys(names, pl.String)
    if not numbered:
        return pl.DataFrame(schema={**strings, POSITION: pl.Int64})
    frame = pl.read_ndjson(io.BytesIO(b"\n".join(line for _, line in numbered)), schema=strings)
    if frame.height != len(numbered):
        raise ValueError(f"{len(numbered)} lines gave {frame.height} rows")
    return frame.with_columns(pl.Series(POSITION, [n for n, _ in numbered], pl.Int64))


def _object(line: bytes) -> bytes | None:
    """Return a line that holds one JSON object, None for any other; a number too long for polars becomes a string."""
    try:
        if not isinstance(orjson.loads(line), dict):
            return None
        return _quoted_numbers(line) if _LONG_NUMBER.search(line) else line
    except (orjson.JSONDecodeError, RecursionError):
        return None


def _quoted_numbers(line: bytes) -> bytes:
    return json.dumps(json.loads(line, parse_int=str, parse_float=str), ensure_ascii=False).encode()


def _csv(path: str, contract: Contract) -> Decoded:
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.reader(line.replace("\0", "\ufffd") for line in file)
        header = next(reader, None)
        if not header:
            raise UnreadableFile(f"{path} has no header line; the first line must name the columns")
        rows, broken = _csv_rows(reader, len(header))
    names = [name for name in contract.given_columns() if name in header]
    columns = {name: [row[header.index(name)] or None for _, row in rows] for name in names}
    frame = pl.DataFrame(
        {**columns, POSITION: [n for n, _ in rows]}, schema={**dict.fromkeys(names, pl.String), POSITION: pl.Int64}
    )
    decoded = _typed(frame, contract)
    rejected = pl.concat([decoded.rejected, _unparsed(broken)])
    return dataclasses.replace(decoded, rejected=rejected, total=len(rows) + len(broken))


def _csv_rows(reader, width: int) -> tuple[list[tuple[int, list[str]]], list[tuple[int, bytes]]]:
    rows: list[tuple[int, list[str]]] = []
    broken: list[tuple[int, bytes]] = []
    position = 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return rows, broken
        except csv.Error as error:
            broken.append((position, str(error).encode()))
        else:
            if len(row) == width:
                rows.append((position, row))
            elif row:
                broken.append((position, ",".join(row).encode()))
        position += 1


def _unparsed(broken: list[tuple[int, bytes]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            POSITION: [n for n, _ in broken],
            RULE: ["decode:malformed"] * len(broken),
            DETAIL: [f"{len(line)} bytes that are not one record" for _, line in broken],
            "payload": [redact(line) for _, line in broken],
        },
        schema=_REJECTED,
    )


_REJECTED = {POSITION: pl.Int64, RULE: pl.String, DETAIL: pl.String, "payload": pl.String}


def _typed(frame: pl.DataFrame, contract: Contract) -> Decoded:
    """Give every column its type; a value that does not fit rejects its row as `<column>:type`."""
    typed, misfit = {}, {}
    for name in contract.given_columns():
        wanted = contract.schema.field(name).type
        given = frame[name] if name in frame.columns else pl.Series(name, [None] * frame.height, pl.String)
        typed[name] = _in_range(_cast(given, wanted))
        if given.null_count() != typed[name].null_count():
            misfit[name] = given.is_not_null() & typed[name].is_null()
    rows = pl.DataFrame(typed).with_columns(frame[POSITION].cast(pl.Int64))
    if not misfit:
        return Decoded(rows, pl.DataFrame(schema=_REJECTED), frame.height)
    first = pl.coalesce(pl.when(mask).then(pl.lit(name)) for name, mask in misfit.items()).alias(RULE)
    named = frame.select(first).to_series()
    bad = named.is_not_null()
    rejected = pl.DataFrame({POSITION: rows[POSITION], RULE: named}).filter(bad)
    came = frame.filter(bad).with_columns(_held(column) for column in frame.filter(bad).iter_columns())
    detail = _misfits(came, rejected[RULE], contract)
    rejected = rejected.with_columns(
        pl.col(RULE) + ":type",
        pl.Series(DETAIL, detail, pl.String),
        pl.Series("payload", payloads(came), pl.String),
    )
    return Decoded(rows.filter(~bad), rejected, frame.height)


def _in_range(typed: pl.Series) -> pl.Series:
    """Return values without those that are, or hold, a time out of range."""
    low, end = CLOCK_US if typed.name in CLOCKS else _CALENDAR_US
    if isinstance(typed.dtype, pl.Datetime):  # first without an expression, which costs ten times as much
        stamps = typed.to_physical()
        if stamps.null_count() == len(stamps) or (low <= stamps.min() and stamps.max() < end):  # type: ignore[operator]
            return typed
    odd = _out_of_range(pl.col(typed.name), typed.dtype, low, end)
    return (
        typed if odd is None else typed.to_frame().select(pl.when(~odd.fill_null(False)).then(typed.name)).to_series()
    )


def _out_of_range(value: pl.Expr, type_: Any, low: int, end: int) -> pl.Expr | None:
    """Return where a time lies elsewhere, however deep; None for a type without times."""
    if isinstance(type_, pl.Datetime):
        return ~value.to_physical().is_between(low, end, closed="left")
    if isinstance(type_, pl.List):
        inner = _out_of_range(pl.element(), type_.inner, low, end)
        return None if inner is None else value.list.eval(inner).list.any()
    fields = type_.fields if isinstance(type_, pl.Struct) else ()
    within = [_out_of_range(value.struct.field(field.name), field.dtype, low, end) for field in fields]
    found = [one for one in within if one is not None]
    return pl.any_horizontal(found) if found else None


def _held(given: pl.Series) -> pl.Series:
    """Return values as Python can hold them: as numbers where there are times that no calendar has."""
    if not (given.dtype.is_temporal() or given.dtype.is_nested()):
        return given
    try:
        given.to_list()
    except (ValueError, OverflowError, polars.exceptions.PanicException):
        return given.to_physical()
    return given


def _misfits(frame: pl.DataFrame, names: pl.Series, contract: Contract) -> list[str]:
    def one(row: dict, name: str) -> str:
        came = "a private value" if name in PRIVATE_FIELDS else repr(row[name])[:100]
        return f"expected {contract.schema.field(name).type}, came {came}"

    return [one(row, name) for row, name in zip(frame.iter_rows(named=True), names, strict=True)]


def payloads(frame: pl.DataFrame) -> list[str]:
    """Return each row as JSON without nulls and private fields, at most 4,000 bytes."""
    kept = [name for name in frame.columns if name not in PRIVATE_FIELDS and not name.startswith("__")]
    rows = frame.select(kept).iter_rows(named=True)
    encoded = (orjson.dumps({k: v for k, v in row.items() if v is not None}, default=str) for row in rows)
    return [line[:_PAYLOAD_BYTES].decode("utf-8", "replace") for line in encoded]


def _cast(given: pl.Series, wanted: pa.DataType) -> pl.Series:
    if given.dtype == pl.Null or (given.null_count() == len(given) and given.dtype != pl.List):
        return pl.Series(given.name, [None] * len(given), polars_type(wanted))
    for is_kind, cast in _CASTS:
        if is_kind(wanted):
            return cast(given, polars_type(wanted))
    raise AssertionError(f"no cast to {wanted}")


@functools.cache
def polars_type(type_: pa.DataType) -> pl.DataType:
    """Return the polars type of an Arrow type."""
    return pl.Series(pl.from_arrow(pa.array([], type_))).dtype


def _to_string(given: pl.Series, wanted: pl.DataType) -> pl.Series:
    return (
        given.cast(pl.String, strict=False)
        if not given.dtype.is_nested()
        else given.is_null().replace_strict({True: None, False: None}, return_dtype=pl.String)
    )


def _to_bool(given: pl.Series, wanted: pl.DataType) -> pl.Series:
    if given.dtype == pl.Boolean:
        return given
    word = pl.col(given.name).str.to_lowercase()
    truth = pl.when((word == "true") | (word == "1")).then(True).when((word == "false") | (word == "0")).then(False)
    return _to_string(given, wanted).to_frame().select(truth.alias(given.name)).to_series()


def _to_integer(given: pl.Series, wanted: pl.DataType) -> pl.Series:
    if given.dtype.is_integer():
        return given.cast(wanted, strict=False)
    whole = _to_string(given, wanted).cast(wanted, strict=False)
    if whole.null_count() == given.null_count():
        return whole
    number = _to_string(given, wanted).cast(pl.Float64, strict=False)
    integral = number.is_finite() & (number == number.floor()) & (number.abs() < 2.0**53)
    exact = pl.select(pl.when(integral).then(number).otherwise(None)).to_series().cast(wanted, strict=False)
    return pl.select(pl.coalesce(whole, exact).alias(given.name)).to_series()


def _to_float(given: pl.Series, wanted: pl.DataType) -> pl.Series:
    return (
        given.cast(wanted, strict=False)
        if given.dtype.is_numeric()
        else _to_string(given, wanted).cast(wanted, strict=False)
    )


def _to_timestamp(given: pl.Series, wanted: pl.DataType) -> pl.Series:
    """Read ISO 8601 (no offset means UTC), or an integer of seconds, milliseconds or microseconds, told by its size."""
    if isinstance(given.dtype, pl.Datetime):
        naive = given.dtype.time_zone is None
        return (given.dt.replace_time_zone("UTC") if naive else given.dt.convert_time_zone("UTC")).cast(
            wanted, strict=False
        )
    if given.dtype == pl.String and given.str.contains(r"(?i)(z|[+-]\d\d:?\d\d)$").all():  # in a tenth of the time
        stamps = given.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
        if stamps.null_count() == given.null_count():
            return stamps
    text = _to_string(given, wanted).str.strip_chars()
    column = pl.col(given.name)
    zoned = column.str.replace(r"(?i)z$", "+00:00").str.replace(r"^(.{10}) ", "${1}T")
    zoned = pl.when(zoned.str.contains(r"[+-]\d\d:?\d\d$")).then(zoned).otherwise(zoned + "+00:00")
    number = pl.when(column.str.contains(r"^\d{9,17}$")).then(column.cast(pl.Int64, strict=False))
    micros = pl.when(number < 10**11).then(number * 10**6).when(number < 10**14).then(number * 1000).otherwise(number)
    return (
        text.to_frame()
        .select(
            pl.coalesce(
                zoned.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False), micros.cast(wanted)
            ).alias(given.name)
        )
        .to_series()
    )


def _to_nested(given: pl.Series, wanted: pl.DataType) -> pl.Series:
    """Read a list as it is, or from JSON text; one that does not fit becomes null."""
    if given.dtype != pl.String:
        try:
            return given.cast(wanted)
        except polars.exceptions.PolarsError:
            return pl.Series(given.name, [None] * len(given), wanted)
    try:
        return given.str.json_decode(wanted)
    except polars.exceptions.PolarsError:
        return pl.concat(
            [_one_nested(value, given.name, wanted) for value in given] or [pl.Series(given.name, [], wanted)]
        )


def _one_nested(value: str | None, name: str, wanted: pl.DataType) -> pl.Series:
    try:
        return pl.Series(name, [value], pl.String).str.json_decode(wanted)
    except polars.exceptions.PolarsError:
        return pl.Series(name, [None], wanted)


_CASTS: list[tuple[Callable[[pa.DataType], bool], Callable[[pl.Series, pl.DataType], pl.Series]]] = [
    (pa.types.is_string, _to_string),
    (pa.types.is_boolean, _to_bool),
    (pa.types.is_integer, _to_integer),
    (pa.types.is_floating, _to_float),
    (lambda type_: type_ == TIMESTAMP, _to_timestamp),
    (pa.types.is_list, _to_nested),
]
