"""Send dead letters again that the code and the rules of today take: `python -m jobs.replay_dlq --root ROOT`.

Run twice, it sends nothing twice: what was sent is written down before it is acknowledged, and a copy that slips through a
kill in between is a duplicate to the stream. What cannot be mended stays until its 14 days are over.
"""

import argparse
import collections
import json
from collections.abc import Sequence

from jobs.batch import guarded
from jobs.broker import add_broker, same_broker, state_folder
from jobs.options import leave
from pipelines.version import code_version
from transforms.io.broker import DEAD_LETTERS, EVENTS, Broker
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
    parser.add_argument("--state", help="local folder of the stream's state (default: stream under the root)")
    options = parser.parse_args(argv)
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    buried = read_tombstones(state_folder(options.root, options.state))
    erased = {id_ for entity, id_ in buried.select("entity", "id").iter_rows() if entity == "user"}
    with same_broker(options.root, options.project) as broker:
        counts = repost(broker, open_store(options.root), erased)
    print(
        "\n".join(f"  {counts[fate]:>8,}  {said}" for fate, said in _SAID.items() if counts[fate])
        or "  no dead letters"
    )
    return 0


def repost(broker: Broker, store: Store, erased: set[str]) -> dict[str, int]:
    """Look at every dead letter once and send again what can be mended; return how many came to what.

    Memory: an id of every dead letter of 14 days.
    """
    counts: collections.Counter[str] = collections.Counter()
    marked = _ledger(store)
    held: dict[str, str] = {}  # message id -> what releases it
    while received := broker.pull(DEAD_LETTERS, _BATCH, _QUIET_S):
        new = [one for one in received if one.message_id not in held]
        if not new:
            break
        broker.extend(DEAD_LETTERS, [one.ack_id for one in new], _HOLD_S)
        letters = sort_letters(new, erased, marked, code_version())
        broker.publish(EVENTS, list(letters.messages.values()))
        for marks in letters.marks.values():
            store.append_line(LEDGER, json.dumps(marks))
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


def _ledger(store: Store) -> set[str]:
    if not store.exists(LEDGER):
        return set()
    lines = store.read_bytes(LEDGER).decode().splitlines()
    return {mark for line in lines if line.endswith("]") for mark in json.loads(line)}  # the last line may be cut off


if __name__ == "__main__":
    leave(main())
