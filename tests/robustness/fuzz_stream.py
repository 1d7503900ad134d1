"""Send fuzzed messages through the stream, and account for every one of them.

    python tests/robustness/fuzz_stream.py --messages 200000

The driver over a broker in memory, with the merge of the real step and the sets of the toy one. Ends with 1 where a message that
is broken by construction has not exactly one dead letter of its cause, a good one is missing in its listener's window, a
message of whichever kind is not counted in one outcome or not acknowledged, or the code fails on one.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import functools
import io
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import fastavro

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE.parent / "transforms")]

from fuzzed_lines import DEEP, ODD_VALUES, fuzzed_line  # noqa: E402
from memory_broker import Clock, MemoryBroker  # noqa: E402
from toy_stream import BEGIN, WindowStep, event  # noqa: E402

from jobs.options import leave  # noqa: E402
from pipelines.stream import ERASED, PARKED, Stream  # noqa: E402
from pipelines.stream_metrics import Metrics  # noqa: E402
from transforms.io.broker import CONTROL, DEAD_LETTERS, EVENTS, SETS, Message, Received  # noqa: E402
from transforms.io.state_store import StateStore  # noqa: E402
from transforms.stream.dead_letters import MOST_BYTES, decode_letter, original  # noqa: E402
from transforms.stream.messages import ENCODING, EVENT_AVRO  # noqa: E402
from transforms.stream.session import TOO_LATE, Window  # noqa: E402

GOOD, ANY = "good", "any"
BATCH, TOMBSTONES, HUGE_EVERY = 500, 5, 10_000
NO_YEARS = (
    "0000-01-01T00:00:00Z",
    "+12000-01-01T00:00:00Z",
    "-0044-03-15T00:00:00Z",
    "9999-12-31T23:59:59Z",
    10**17 - 1,
)
BINARY = {ENCODING: "BINARY"}
_SCHEMA = fastavro.parse_schema(EVENT_AVRO)


class Sent(NamedTuple):
    """A message and its fate: `GOOD`, `ERASED`, the cause of its dead letter, or `ANY`, which nobody knows beforehand."""

    data: bytes
    attributes: dict[str, str]
    fate: str


@dataclasses.dataclass
class Found:
    """What was sent, what became of it, and what is wrong with that."""

    fates: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    causes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    windows: dict[str, set[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(set))
    buried: list[str] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)


def sound(number: int, users: int) -> dict:
    """Return a good event: of one listener, all within ten hours."""
    at = BEGIN + datetime.timedelta(seconds=number % 36_000)
    stamps = {"event_ts": at.isoformat(), "ingest_ts": (at + datetime.timedelta(seconds=1)).isoformat()}
    return event(number, f"u{number % users}", **stamps)


def line(row: dict) -> bytes:
    return json.dumps(row).encode()


def avro(row: dict, **columns) -> bytes:
    stamps = {name: datetime.datetime.fromisoformat(row[name]) for name in ("event_ts", "ingest_ts")}
    micros = {name: int(at.timestamp() * 1e6) for name, at in stamps.items()}
    buffer = io.BytesIO()
    empty = {field["name"]: None for field in EVENT_AVRO["fields"]}
    fastavro.schemaless_writer(buffer, _SCHEMA, empty | row | micros | columns)
    return buffer.getvalue()


def good(rng: random.Random, row: dict) -> Sent:
    """Return a good event in one of the forms it may have."""
    forms: list[Callable[[], tuple[bytes, dict[str, str]]]] = [
        lambda: (line(row), {}), lambda: (line(row), {ENCODING: "\x00", "event_id": "other"}), lambda: (avro(row), BINARY),
        lambda: (json.dumps(row, indent=1).replace("\n", "\r\n").encode(), {}), lambda: (line(row | {"unknown": DEEP}), {}),
        lambda: (line(dict(rng.sample(sorted(row.items()), len(row)))), {}),
    ]  # fmt: skip
    data, attributes = rng.choice(forms)()
    return Sent(data, attributes, GOOD)


def broken(rng: random.Random, row: dict) -> Sent:
    """Return an event broken in a way whose cause is known."""
    column, year = rng.choice(["event_ts", "ingest_ts"]), rng.choice(NO_YEARS)
    more = rng.choice([{}, {"event_type": "teleport"}, {"item_id": ""}])
    received = (BEGIN + datetime.timedelta(days=40)).isoformat()
    long_id, ending = rng.choice(["event_id", "user_id", "session_id"]), rng.choice([b"", b"\xff", b"{}"])
    cut = rng.randrange(1, len(line(row)))
    kinds: list[tuple[str, bytes, dict[str, str]]] = [
        (f"{column}:type", line(row | {column: year} | more), {}),
        ("event_ts:type", avro(row, event_ts=rng.choice([2**62, -(2**62), 2**55, -1]), **more), BINARY),
        ("ms_played:type", line(row | {"ms_played": rng.choice(["long", [1], DEEP, True])}), {}),
        ("event_id:required", line({name: value for name, value in row.items() if name != "event_id"}), {}),
        (f"{long_id}:max_length", line(row | {long_id: "é\x00" * rng.randrange(100, 20_000)}), {}),
        ("event_type:one_of", line(row | {"event_type": "teleport"}), {}),
        (TOO_LATE, line(row | {"ingest_ts": received}), {}),
        ("decode:malformed", line(row)[:cut], {}),
        ("decode:malformed", line(row)[:-1] + b', "rank": NaN}', {}),
        ("decode:malformed", rng.choice([b"", b" \r\n", b"\x00", b"[" * 100_000, b'{"a":' * 5_000, b"[1]"]), {}),
        ("decode:malformed", avro(row)[: -rng.randrange(1, 9)] + ending, BINARY),
        ("decode:malformed", line(row), BINARY),
    ]
    cause, data, attributes = rng.choice(kinds)
    return Sent(data, attributes, cause)


def huge(rng: random.Random, row: dict) -> Sent:
    """Return one of the largest messages that a broker takes."""
    size = rng.choice([4_900_000, MOST_BYTES, 9_900_000])
    column = rng.choice(["event_id", "user_id", "session_id"])
    data = line(row | {column: rng.choice("A\x01") * (size // 6 - 1_000)})
    return rng.choice([Sent(data, {}, f"{column}:max_length"), Sent(b"\xff" * size, {}, "decode:malformed")])


def by_chance(rng: random.Random, number: int) -> Sent:
    """Return what may be anything: lines and bytes fuzzed, odd values in a record, under any encoding."""
    odd = line(event(number, "odd") | {rng.choice(list(event(0))): rng.choice(ODD_VALUES) for _ in range(2)})
    data = rng.choice([fuzzed_line(rng, number), rng.randbytes(rng.randrange(200)), odd])
    if rng.random() < 0.3:
        flipped = bytearray(avro(event(number, "odd")))
        flipped[rng.randrange(len(flipped))] = rng.randrange(256)
        return Sent(bytes(flipped), BINARY, ANY)
    return Sent(data, rng.choice([{}, {}, BINARY, {ENCODING: "JSON"}]), ANY)


def dealt(rng: random.Random, count: int, found: Found) -> Iterator[Sent]:
    """Yield messages: about half of them good, a quarter broken, and some of users who were erased."""
    users = max(20, count // 100)
    for number in range(count):
        row, kind = sound(number, users), rng.random()
        if number % HUGE_EVERY == 7:
            yield huge(rng, row)
        elif kind < 0.5:
            found.windows[row["user_id"]].add(row["event_id"])
            yield good(rng, row)
        elif kind < 0.52 and found.buried:
            yield Sent(
                line(row | {"user_id": rng.choice(found.buried)} | rng.choice([{}, {"item_id": ""}])), {}, ERASED
            )
        else:
            yield broken(rng, row) if kind < 0.77 else by_chance(rng, number)


def tombstone(rng: random.Random, number: int) -> Sent:
    """Return a message of the control topic."""
    row = {"entity": "user", "id": f"gone{number}", "reason": "erasure", "effective_ts": BEGIN.isoformat()}
    odd = row | {rng.choice(list(row)): rng.choice(ODD_VALUES)} | {"id": f"odd{number}"}
    cases = [
        Sent(line(row), {}, GOOD), Sent(line(row), {}, GOOD), Sent(line(odd), {}, ANY), Sent(fuzzed_line(rng, number), {}, ANY),
        Sent(line(row | {"effective_ts": rng.choice(NO_YEARS), "entity": "planet"}), {}, "effective_ts:type"),
        Sent(line(row | {"id": "i" * 201}), {}, "id:max_length"), Sent(line(row)[:-1], {}, "decode:malformed"),
        Sent(line(row | {"reason": "mood"}), {}, "reason:one_of"), Sent(b"\xff\x00", BINARY, "decode:malformed"),
    ]  # fmt: skip
    return rng.choice(cases)


def check_letters(sent: dict[str, Sent], letters: list[Message], found: Found) -> None:
    """Hold the dead letters of some messages to what was sent."""
    told: dict[str, list[dict]] = collections.defaultdict(list)
    for message in letters:
        letter = decode_letter(Received(message.data, message.attributes, "letter", 0.0, ""))
        if letter is None or not letter["error_class"] or letter["stage"] == "sets":
            found.wrong.append(f"no dead letter of a message: {message.data[:200]!r}")
            continue
        found.causes[letter["error_class"]] += 1
        told[letter["message_id"]].append(letter)
    for name in told.keys() - sent.keys():
        if not name.startswith("event-"):
            found.wrong.append(f"a dead letter of {name}, which was not sent")
    for name, one in sent.items():
        causes = [letter["error_class"] for letter in told[name]]
        expected = [] if one.fate in (GOOD, ERASED) else causes[:1] if one.fate == ANY else [one.fate]
        if causes != expected:
            found.wrong.append(f"dead letters {causes} instead of {expected} of {one.data[:200]!r}")
        for letter in told[name]:
            again = original(letter)
            if (again.data if again else None) != (one.data if len(one.data) <= MOST_BYTES else None):
                found.wrong.append(f"not as it came: {one.data[:200]!r}")


def publish(broker: MemoryBroker, topic: str, sent: list[Sent]) -> dict[str, Sent]:
    """Publish, and return what was sent by the id it was given."""
    broker.publish(topic, [Message(one.data, one.attributes) for one in sent])
    return {kept.message_id: one for kept, one in zip(broker.topics[topic], sent, strict=True)}


def run(count: int, seed: int, folder: Path) -> Found:
    """Send so many messages through a driver, and say what is wrong."""
    rng, clock, found = random.Random(seed), Clock(BEGIN.timestamp() + 90 * 86_400), Found()
    broker = MemoryBroker(clock)
    with contextlib.closing(StateStore(folder / "stream")) as store:
        stream = Stream(
            broker=broker, store=store, step=WindowStep(), metrics=Metrics(), code_version="v", reload=lambda: None,
            clock=clock, stop=clock, say=lambda line: None,
        )  # fmt: skip
        messages = dealt(rng, count, found)
        while batch := [one for _, one in zip(range(BATCH), messages)]:
            _one_batch(stream, broker, clock, rng, batch, found)
        clock.stopped = True
        stream.run()
        found.wrong += _unlike(store, found)
    counts = {labels[0]: number for labels, number in stream.metrics.by_label("outcomes").items()}
    if sum(counts.values()) != count or counts[PARKED] or counts[ERASED] < found.fates[ERASED]:
        found.wrong.append(f"{count} messages of which {found.fates[ERASED]} of erased users came to {counts}")
    return found


def _one_batch(
    stream: Stream, broker: MemoryBroker, clock: Clock, rng: random.Random, batch: list[Sent], found: Found
) -> None:
    control = [tombstone(rng, stream.metrics.total("messages") * TOMBSTONES + n) for n in range(TOMBSTONES)]
    sent = publish(broker, CONTROL, control) | publish(broker, EVENTS, batch)
    stream.tick()
    clock.now += 5.0
    if left := len(broker.topics[EVENTS]) + len(broker.topics[CONTROL]):
        found.wrong.append(f"{left} messages were not acknowledged")
        broker.topics[EVENTS], broker.topics[CONTROL] = [], []
    check_letters(sent, broker.published[DEAD_LETTERS], found)
    for topic in (SETS, DEAD_LETTERS):
        broker.topics[topic], broker.published[topic] = [], []
    found.fates.update(one.fate for one in batch)
    found.buried += [json.loads(one.data)["id"] for one in control if one.fate == GOOD]


def _unlike(store: StateStore, found: Found) -> list[str]:
    """Say whose window is not made of the good events, and which tombstones are not kept."""
    kept = store.states(found.windows)
    heard = {
        user: {one.event_id for one in Window.from_bytes(state).heard} if state else set()
        for user, state in kept.items()
    }
    odd = [
        f"the window of {user} is not that of what was sent"
        for user, ids in found.windows.items()
        if heard[user] != ids
    ]
    return odd + [f"{one} is not buried" for one in set(found.buried) - set(store.tombstones()["id"])]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(options.messages, options.seed, Path(folder))
    known = functools.reduce(lambda left, fate: left - found.fates[fate], (GOOD, ANY, ERASED), options.messages)
    told = f"{found.fates[GOOD]:,} good, {known:,} broken, {found.fates[ANY]:,} fuzzed by chance, {found.fates[ERASED]:,} of erased users"
    print(f"  {options.messages:,} messages: {told}")
    print(f"  {found.causes.total():,} dead letters of {len(found.causes)} causes")
    print("\n".join(f"  {line}" for line in found.wrong[:20]) or "  every one is accounted for")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    leave(main())
