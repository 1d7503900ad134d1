"""Events of files as a producer on a bad day would send them: twice, out of order, late or broken; seeded."""

import dataclasses
from typing import Any

import numpy as np
import orjson
import polars as pl

from schemas.inputs import EVENT
from transforms.io.broker import Message
from transforms.stream.messages import encode_events
from transforms.world_dirt import BREAKS, MALFORMED

_US = 1_000_000
DISORDER_S, REPEAT_S = 60, 30
LATE_S = (11 * 60, 40 * 86_400)
"""From past what a set still takes in to past what anything does."""
SENT, DUPLICATES, DISORDERED, LATE, BROKEN = "sent", "duplicates", "disordered", "late", "malformed"


@dataclasses.dataclass(frozen=True, slots=True)
class Mishaps:
    """Share of the events that each thing happens to.

    Raises:
      ValueError: a share is not within 0 and 1.
    """

    duplicates: float = 0.0
    disorder: float = 0.0
    late: float = 0.0
    malformed: float = 0.0

    def __post_init__(self) -> None:
        for name, share in dataclasses.asdict(self).items():
            if not 0 <= share <= 1:
                raise ValueError(f"the share of {name} is from 0 to 1, came {share:g}")


@dataclasses.dataclass(frozen=True, slots=True)
class Rehearsal:
    """Messages in order of sending, when each is sent (us since 1970, by the clock of the events), and how many of what."""

    messages: list[Message]
    at_us: np.ndarray
    counts: dict[str, int]


def rehearse(rows: pl.DataFrame, mishaps: Mishaps, seed: int, part: int) -> Rehearsal:
    """Return the messages of decoded raw events, in the order in which they are to be sent.

    A late event is one from before: its own time moves back, that of its sending stays. A broken one is sent beside the
    event it is made from, under an id of its own.

    Args:
      part: number of the file or block; every one has a random sequence of its own.
    """
    rng = np.random.default_rng([seed, part])
    rows = rows.select(EVENT.given_columns()).sort("ingest_ts", "event_id")
    draw = {name: rng.random(rows.height) < share for name, share in dataclasses.asdict(mishaps).items()}
    rows = _belated(rows, draw["late"], rng)
    at = rows["ingest_ts"].dt.epoch("us").to_numpy() + draw["disorder"] * rng.integers(0, DISORDER_S * _US, rows.height)
    sent = encode_events(rows)
    twice, broken = np.flatnonzero(draw["duplicates"]), np.flatnonzero(draw["malformed"])
    messages = [*sent, *(sent[i] for i in twice), *(_broken(sent[i], i, part) for i in broken)]
    at = np.concatenate([at, at[twice] + rng.integers(0, REPEAT_S * _US, len(twice)), at[broken]])
    order = np.argsort(at, kind="stable")
    happened = {DUPLICATES: twice, DISORDERED: np.flatnonzero(draw["disorder"]), LATE: np.flatnonzero(draw["late"]),
                BROKEN: broken}  # fmt: skip
    counts = {SENT: len(messages)} | {name: len(which) for name, which in happened.items()}
    return Rehearsal([messages[i] for i in order], at[order], counts)


def _belated(rows: pl.DataFrame, late: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    back = late * np.exp(rng.uniform(np.log(LATE_S[0]), np.log(LATE_S[1]), rows.height)) * _US
    return rows.with_columns(pl.col("event_ts") - pl.Series(back.astype(np.int64)).cast(pl.Duration("us")))


def _broken(message: Message, row: Any, part: int) -> Message:
    event = orjson.loads(message.data) | {"event_id": f"malformed-{part:06d}-{row:07d}"}
    return Message(BREAKS[MALFORMED[row % len(MALFORMED)]](event), {})
