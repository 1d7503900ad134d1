import json
import random

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.inputs import EVENT, ITEM
from transforms.decode import DETAIL, POSITION, RULE, UnreadableFile, decode, decode_lines, redact
from transforms.ingest import check_rows

GOOD = {"event_id": "e", "schema_version": 1, "event_type": "play", "event_ts": "2026-01-01T00:00:00Z",
        "ingest_ts": "2026-01-01T00:00:01Z", "user_id": "u", "item_id": "i", "item_type": "track", "ms_played": 5}  # fmt: skip


def lines(*events) -> list[bytes]:
    return [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]


def test_every_line_is_a_row_or_a_rejection_with_its_position():
    decoded = decode_lines(lines(GOOD, b"not json", b"", b"[1]", GOOD | {"ms_played": "x"}, b'{"a": NaN}', GOOD), EVENT)
    assert decoded.total == 6
    assert decoded.rows[POSITION].to_list() == [0, 6]
    found = decoded.rejected.sort(POSITION).select(POSITION, RULE).rows()
    assert found == [(1, "decode:malformed"), (3, "decode:malformed"), (4, "ms_played:type"), (5, "decode:malformed")]


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2026-01-01T00:00:00Z", 1767225600_000000),
        ("2026-01-01T01:00:00.5+01:00", 1767225600_500000),
        ("2026-01-01T00:00:00", 1767225600_000000),
        ("2026-01-01 00:00:00.000001", 1767225600_000001),
        (" 2026-01-01T00:00:00z ", 1767225600_000000),
        ("2026-01-01T00:00:00-0130", 1767231000_000000),
        ("2026-01-01 00:00:00+00:00", 1767225600_000000),
        ("2026-01-01T00:00:00\u221201:00", None),
        ("2026-01-01T00:00:00+01", None),
        ("2026-01-01T24:00:00Z", None),
        (1767225600, 1767225600_000000),
        (1767225600123, 1767225600_123000),
        (1767225600123456, 1767225600_123456),
    ],
)
def test_timestamps(text, micros):
    """Whatever stands in other lines, which are read faster where all of them are written as they should be."""
    for others in ([], [GOOD], [GOOD | {"event_ts": "2026-01-01 00:00:00"}], [GOOD | {"event_ts": "soon"}]):
        rows = decode_lines(lines(GOOD | {"event_ts": text}, *others), EVENT).rows
        found = dict(rows.select(POSITION, pl.col("event_ts").dt.epoch("us")).iter_rows())
        assert found.get(0) == micros


@pytest.mark.parametrize(
    ("given", "typed"),
    [(True, True), ("TRUE", True), ("1", True), (1, True), (False, False), ("false", False), (0, False), (None, None)],
)
def test_booleans(given, typed):
    rows = decode_lines(lines(GOOD | {"private_session": given}, GOOD | {"private_session": "?"}), EVENT).rows
    assert dict(rows.select(POSITION, "private_session").iter_rows()) == {0: typed}


NO_CLOCK = [
    "0000-01-01T00:00:00Z", "-0044-03-15T00:00:00Z", "+12000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z",
    "2100-01-01T00:00:00Z", "9999-12-31T23:59:59Z", 10**17 - 1,
]  # fmt: skip


@pytest.mark.parametrize("given", NO_CLOCK)
def test_a_time_that_no_clock_shows_rejects_its_row_whatever_else_is_wrong_with_it(given):
    odd = GOOD | {"event_ts": given}
    checked = check_rows(decode_lines(lines(odd, odd | {"event_type": "sing"}, GOOD), EVENT), EVENT, "a.jsonl", "v")
    assert checked.rejected.sort("position").select("position", RULE).rows() == [
        (0, "event_ts:type"),
        (1, "event_ts:type"),
    ]
    assert checked.rejected[DETAIL].str.contains(f"expected timestamp[us, tz=UTC], came '{given}'", literal=True).all()
    assert checked.rows[POSITION].to_list() == [2]


@pytest.mark.parametrize("given", ["1970-01-01T00:00:00Z", "2099-12-31T23:59:59Z"])
def test_a_clock_may_show_the_first_and_the_last_day(given):
    assert decode_lines(lines(GOOD | {"event_ts": given}), EVENT).rows.height == 1


@pytest.mark.parametrize("given", ["0001-01-01T00:00:00Z", "1902-11-11T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_the_catalogue_knows_releases_before_any_clock_and_rights_without_an_end(given):
    rights = [{"market": "SE", "tiers": None, "from_ts": None, "to_ts": given}]
    item = {"item_id": "i", "item_type": "track", "release_ts": given, "availability": rights}
    assert decode_lines(lines(item), ITEM).rows["release_ts"].null_count() == 0


@pytest.mark.parametrize("given", ["0000-01-01T00:00:00Z", "+12000-01-01T00:00:00Z"])
def test_the_catalogue_knows_no_time_that_no_calendar_has(given):
    rights = [{"market": "SE", "tiers": None, "from_ts": None, "to_ts": given}]
    items = [
        {"item_id": "i", "item_type": "x", "release_ts": given},
        {"item_id": "j", "item_type": "x", "availability": rights},
    ]
    checked = check_rows(decode_lines(lines(*items), ITEM), ITEM, "a.jsonl", "v")
    assert sorted(checked.rejected[RULE]) == ["availability:type", "release_ts:type"]


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_a_time_in_parquet_that_no_clock_shows_rejects_its_row(unit, tmp_path):
    far = {"s": 10**12, "ms": 2**61, "us": 2**62}[unit]
    columns = {name: pa.array([GOOD[name]] * 2) for name in GOOD if name not in ("event_ts", "ingest_ts")}
    stamps = {"event_ts": pa.array([far, 1], pa.timestamp(unit)), "ingest_ts": pa.array([1, far], pa.timestamp(unit))}
    pq.write_table(pa.table(columns | stamps), tmp_path / "a.parquet", coerce_timestamps=None)
    found = decode(str(tmp_path / "a.parquet"), EVENT).rejected.select(POSITION, RULE).rows()
    assert found == [(0, "event_ts:type"), (1, "ingest_ts:type")]


@pytest.mark.parametrize(("given", "typed"), [(5, 5), (5.0, 5), ("5", 5), (None, None)])
def test_integers(given, typed):
    assert decode_lines(lines(GOOD | {"ms_played": given}), EVENT).rows["ms_played"].to_list() == [typed]


@pytest.mark.parametrize("given", [5.5, "five", [5], {"a": 5}, True, 10**30])
def test_what_is_no_integer_is_rejected_and_says_what_came(given):
    (row,) = decode_lines(lines(GOOD | {"ms_played": given}), EVENT).rejected.rows(named=True)
    assert row[RULE] == "ms_played:type"
    assert row[DETAIL].startswith("expected int64, came ")


def test_payloads_hold_no_private_field():
    decoded = decode_lines(
        lines(GOOD | {"user_id": "secret", "ms_played": "x"}, b'{"user_id": "secret", "mail": "a@b.org", '), EVENT
    )
    assert "secret" not in "".join(decoded.rejected["payload"])
    assert "a@b.org" not in "".join(decoded.rejected["payload"])
    assert redact(b'{"email": "x", "item_id": "i"') == '{"email": "[removed]", "item_id": "i"'


def test_formats_agree(tmp_path):
    events = [GOOD | {"event_id": f"e{n}", "ms_played": n * 1000} for n in range(5)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines(*events)))
    pl.DataFrame(events).write_csv(tmp_path / "a.csv")
    pl.DataFrame(events).with_columns(
        pl.col("event_ts", "ingest_ts").str.to_datetime("%+", time_zone="UTC")
    ).write_parquet(tmp_path / "a.parquet")
    first, *others = (decode(str(tmp_path / name), EVENT).rows for name in ("a.jsonl", "a.csv", "a.parquet"))
    assert all(other.equals(first) for other in others)


@pytest.mark.parametrize("step", [97, 333, 10_000])
def test_spans_cover_every_line_once(step, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines(*(GOOD | {"event_id": f"e{n}"} for n in range(12)))) + b"\n")
    size = path.stat().st_size
    spans = [(start, min(start + step, size)) for start in range(0, size, step)]
    assert [i for span in spans for i in decode(str(path), EVENT, span).rows["event_id"]] == [
        f"e{n}" for n in range(12)
    ]


def test_nested_columns():
    item = {"item_id": "i", "item_type": "track", "genres": ["pop"], "artists": [{"artist_id": "a", "name": "A"}]}
    decoded = decode_lines(lines(item, item | {"genres": "pop"}), ITEM)
    assert decoded.rows["artists"].to_list() == [[{"artist_id": "a", "name": "A", "role": None}]]
    assert decoded.rejected[RULE].to_list() == ["genres:type"]


def test_a_file_that_is_cut_off_says_so(tmp_path):
    pq.write_table(pa.table({"event_id": ["a"] * 1000}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableFile, match=r"not readable Parquet.*copy it again"):
        decode(str(tmp_path / "a.parquet"), EVENT)
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UnreadableFile, match="no header line"):
        decode(str(tmp_path / "a.csv"), EVENT)


def fuzzed(count: int, seed: int) -> list[bytes]:
    """Return lines broken in every way a byte can be: cut, flipped, repeated, retyped, nested, not UTF-8."""
    rng, sound = random.Random(seed), json.dumps(GOOD).encode()
    kinds = [
        lambda: sound[: rng.randrange(1, len(sound))],
        lambda: bytes(b if rng.random() > 0.03 else rng.randrange(32, 256) for b in sound),
        lambda: rng.randbytes(rng.randrange(1, 60)).replace(b"\n", b"?").replace(b"\r", b"?"),
        lambda: json.dumps(
            GOOD | {rng.choice(list(GOOD)): rng.choice([[], {}, -1, 1e300, "\ud800", None, True, ""])}
        ).encode(),
        lambda: b"[" * rng.randrange(1, 3000),
        lambda: sound + sound,
    ]
    return [rng.choice(kinds)() for _ in range(count)]


def accounted(count: int, seed: int) -> tuple[int, int]:
    decoded = decode_lines(fuzzed(count, seed), EVENT)
    checked = check_rows(decoded, EVENT, "fuzz.jsonl", "test")
    blank = sum(not line.strip() for line in fuzzed(count, seed)) if count <= 10_000 else count - decoded.total
    return checked.rows.height + checked.rejected.height, count - blank


def test_fuzzed_lines_are_all_accounted_for():
    found, lines_seen = accounted(5_000, 1)
    assert found == lines_seen


@pytest.mark.slow
def test_a_million_fuzzed_lines_are_all_accounted_for():
    total = 0
    for seed in range(20):
        decoded = decode_lines(fuzzed(50_000, seed), EVENT)
        checked = check_rows(decoded, EVENT, "fuzz.jsonl", "test")
        assert checked.rows.height + checked.rejected.height == decoded.total
        total += decoded.total
    assert total > 990_000
