"""Event lines broken in every way that came to mind, and by chance."""

import functools
import json
import random

GOOD = {
    "event_id": "e", "schema_version": 1, "event_type": "play", "event_ts": "2026-01-30T12:00:00Z",
    "ingest_ts": "2026-01-30T12:00:05Z", "user_id": "u", "session_id": "s", "item_id": "i", "item_type": "track",
    "ms_played": 40000, "item_duration_ms": 200000, "is_organic": True, "rank": None, "market": "SE",
}  # fmt: skip
DEEP = functools.reduce(lambda inner, _: [inner], range(300), "x")
"""Deeper than some writers of JSON go, and no reader."""
ODD_VALUES = [
    None, "", " ", "\x00", "null", "NaN", True, False, 0, -1, 1.5, -0.0, 1e308, 2**31, 2**63, -(2**63) - 1, 10**40,
    [], {}, [1, [2]], {"a": {"b": []}}, "x" * 300, "åäö", "\U0001f3b5", "\u2028", "2026-13-45", "1e999", "0x10",
    "2026-01-30", "١٢٣", "-", "1,000", "9" * 30, DEEP, "0000-01-01T00:00:00Z", "+12000-01-01T00:00:00Z", "-0044-03-15T00:00:00Z",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1969-12-31T23:59:59Z", "2100-01-01T00:00:00Z", 10**17 - 1,
]  # fmt: skip
WHOLE_LINES = [
    b"{", b"}", b"[]", b"null", b"true", b"0", b'"text"', b"{}", b"[{}]", b"\xff\xfe", b"\xef\xbb\xbf{}", b"\x00",
    b"{'a': 1}", b'{"event_id": NaN}', b'{"event_id": "\\ud800"}', b'{"event_id": "a", "event_id": "b"}',
    b'{"a":' * 50 + b"1" + b"}" * 50, b"[" * 2000, b'{"event_id": "\x01"}', b'{"event_id": 1e400}', b'{"event_id"}',
    b'{"event_id": "e"} {"event_id": "f"}', b'{"event_id": "e"},', b"event_id,user_id", b"<event/>", b"\t \x0b",
]  # fmt: skip


def fuzzed_line(rng: random.Random, number: int) -> bytes:
    """Return one line without line breaks that is not blank; hardly any of them is a good event."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(WHOLE_LINES)
    event = GOOD | {"event_id": f"e{number}"}
    if kind <= 3:
        event[rng.choice(list(GOOD))] = rng.choice(ODD_VALUES)
    elif kind == 4:
        del event[rng.choice(["event_id", "event_ts", "user_id", "item_id", "item_type", "ms_played"])]
    line = json.dumps(event, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if kind <= 4:
        return line.replace(b"\n", b" ").replace(b"\r", b" ")
    cut = bytearray(line)
    for _ in range(rng.randrange(1, 4)):
        cut[rng.randrange(len(cut))] = rng.randrange(256)
    line = bytes(cut[: rng.randrange(1, len(cut))] if kind == 7 else cut)
    return line.replace(b"\n", b"{").replace(b"\r", b"{") if line.strip() else b"{"
