"""Send dead letters again that the code and the rules of today take: `python -m jobs.replay_dlq --root ROOT`.

Run twice, it sends nothing twice: what was sent is written down before it is acknowledged, and a copy that slips through a
kill in between is a duplicate to the stream. What cannot be mended stays until its 14 days are over.
"""

import argparse
import collections
import json
import time
from collections.abc import Callable, Sequence

import polars as pl

from jobs.batch import guarded
from jobs.broker import add_broker, same_broker, state_folder
from jobs.options import leave
from pipelines.erased import erased_users
from pipelines.version import code_version
from transforms.io.broker import DEAD_LETTERS, EVENTS, Broker
from transforms.io.pubsub import KEPT_S
from transforms.io.state_store import read_tombstones
from transforms.io.store import Store, open_store
from transforms.stream.repost import (
    AGAIN,
    DONE,
    ERASED,
    FOREIGN,
    NO_MESSAGE,
    STILL_BROKEN,
    TRIED,
    VERDICT,
    sort_letters,
)

LEDGER = "stream/reposted.jsonl"
REMEMBERED_S = 2 * KEPT_S[DEAD_LETTERS]
"""A letter may be sent again on its last day, and come back as another one that is kept as long."""
_FINISHED = (AGAIN, DONE, ERASED)
_BATCH, _QUIET_S, _HOLD_S = 500, 2.0, 600
_SAID = {
    AGAIN: "sent again", DONE: "sent again before", TRIED: "sent again by this version before, in vain; kept",
    ERASED: "of erased users, deleted",
    STILL_BROKEN: "still no event by the rules of today, kept", VERDICT: "decided for good (conflict, future, ...), kept",
    NO_MESSAGE: "about a set, or a message too large to be kept with them; kept", FOREIGN: "no dead letters, kept",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Send what can be mended; 0 when all were looked at, 1 when it could not, 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="jobs.replay_dlq", description=(__doc__ or "").split(":")[0])
    add_broker(parser)
    parser.add_argument("--state", help="local folder of the stream's state (default: stream under a local root)")
    options = parser.parse_args(argv)
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    store = open_store(options.root)
    erased = erased_users(store) | _buried(options)
    with same_broker(options.root, options.project) as broker:
        counts = repost(broker, store, erased)
    print(
        "\n".join(f"  {counts[fate]:>8,}  {said}" for fate, said in _SAID.items() if counts[fate])
        or "  no dead letters"
    )
    return 0


def _buried(options: argparse.Namespace) -> set[str]:
    """Return the users whose erasure a stream of this machine was told of; under a remote root only one that is named."""
    if options.root.startswith("gs://") and options.state is None:
        return set()
    buried = read_tombstones(state_folder(options.root, options.state))
    return set(buried.filter(pl.col("entity") == "user")["id"])


def repost(broker: Broker, store: Store, erased: set[str], clock: Callable[[], float] = time.time) -> dict[str, int]:
    """Look at every dead letter once and send again what can be mended; return how many came to what.

    Memory: an id of every dead letter of 14 days, two marks of each that was sent again in `REMEMBERED_S`.
    """
    counts: collections.Counter[str] = collections.Counter()
    marked = _ledger(store, clock())
    held: dict[str, str] = {}  # message id -> what releases it
    while received := broker.pull(DEAD_LETTERS, _BATCH, _QUIET_S):
        new = [one for one in received if one.message_id not in held]
        if not new:
            break
        broker.extend(DEAD_LETTERS, [one.ack_id for one in new], _HOLD_S)
        letters = sort_letters(new, erased, marked, code_version())
        broker.publish(EVENTS, list(letters.messages.values()))
        for marks in letters.marks.values():
            store.append_line(LEDGER, json.dumps([*marks, int(clock())]))
            marked |= set(marks)
        finished = [one.ack_id for one, fate in zip(new, letters.fate, strict=True) if fate in _FINISHED]
        if finished:
            broker.acknowledge(DEAD_LETTERS, finished)
        held |= {
            one.message_id: one.ack_id for one, fate in zip(new, letters.fate, strict=True) if fate not in _FINISHED
        }
        counts.update(letters.fate)
    if held:
        broker.extend(DEAD_LETTERS, list(held.values()), 0)
    return counts


def _ledger(store: Store, now_s: float) -> set[str]:
    """Return the marks of what was sent again in `REMEMBERED_S`, and forget the others."""
    content = store.read_bytes(LEDGER) if store.exists(LEDGER) else b""
    read = [line for line in map(_line, content.splitlines()) if line]
    known = [[*line[:2], line[2] if len(line) > 2 else int(now_s)] for line in read]  # earlier versions told no time
    kept = [line for line in known if now_s - line[2] <= REMEMBERED_S]
    lines = "".join(json.dumps(line) + "\n" for line in kept).encode()
    if lines != content:
        store.write_bytes(LEDGER, lines)
    return {mark for line in kept for mark in line[:2]}


def _line(line: bytes) -> list:
    """Return the marks of one letter and when it was sent, s since 1970; nothing of a line that was cut off."""
    try:
        return json.loads(line)
    except ValueError:
        return []


if __name__ == "__main__":
    leave(main())
