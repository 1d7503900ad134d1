"""What goes wrong on the way from client to folder: redelivery, conflicts, wrong clocks and broken lines."""

import io
from collections.abc import Callable

import numpy as np
import orjson
import polars as pl

from transforms.world_setting import ARRIVAL_CUTOFF_US, DAY_US, HOUR_US, Setting

_UTC = "%Y-%m-%dT%H:%M:%S%.6fZ"
BREAKS: dict[str, Callable[[dict], bytes]] = {
    "truncated": lambda event: orjson.dumps(event)[: len(event["event_id"]) + 90],
    "wrong_type": lambda event: orjson.dumps(event | {"event_ts": "yesterday evening"}),
    "missing_id": lambda event: orjson.dumps(event | {"event_id": None}),
    "unknown_enum": lambda event: orjson.dumps(event | {"event_type": "teleport"}),
    "future_version": lambda event: orjson.dumps(event | {"schema_version": 99}),
}
MALFORMED = tuple(BREAKS)


def soil(events: pl.DataFrame, setting: Setting, rng: np.random.Generator) -> tuple[pl.DataFrame, dict[str, int]]:
    """Redeliver some events, contradict some, and set the clocks of some ahead of the server's by hours or days.

    Returns:
      The events with the added rows behind them, and how many are `duplicates`, `conflicts` and `future`.
    """
    dirt, draw = setting.dirt, rng.random(events.height)
    bounds = np.cumsum([dirt.future, dirt.conflicts, dirt.duplicates])
    kind = np.searchsorted(bounds, draw, side="right")
    ahead = pl.Series(np.where(kind == 0, HOUR_US + rng.integers(0, 3 * DAY_US, events.height), 0))
    fast = pl.lit(pl.Series(kind == 0))
    skewed = events.with_columns(
        pl.when(fast).then(pl.col("ingest_ts") + ahead.cast(pl.Duration("us"))).otherwise("event_ts").alias("event_ts")
    )
    duplicates = _again(events.filter(pl.Series(kind == 2)), setting, rng)
    plays = pl.Series(kind == 1) & events["ms_played"].is_not_null()
    conflicts = _again(events.filter(plays), setting, rng).with_columns(pl.col("ms_played") + 1_000)
    counts = {"duplicates": duplicates.height, "conflicts": conflicts.height, "future": int((kind == 0).sum())}
    return pl.concat([skewed, duplicates, conflicts]), counts


def _again(events: pl.DataFrame, setting: Setting, rng: np.random.Generator) -> pl.DataFrame:
    """Deliver the same events once more, one second to six hours later, before the arrival cut-off."""
    later = pl.Series(rng.integers(1_000_000, 6 * HOUR_US, events.height)).cast(pl.Duration("us"))
    cutoff = pl.lit(setting.end_us + ARRIVAL_CUTOFF_US + 1).cast(pl.Datetime("us", "UTC"))
    return events.with_columns(pl.min_horizontal(pl.col("ingest_ts") + later, pl.max_horizontal(cutoff, "ingest_ts")))


def encode_lines(rows: pl.DataFrame) -> bytes:
    """Write rows as JSON lines; timestamps as ISO 8601 in UTC with microseconds."""
    stamps = [name for name, type_ in rows.schema.items() if type_ == pl.Datetime("us", "UTC")]
    buffer = io.BytesIO()
    rows.with_columns(pl.col(stamps).dt.to_string(_UTC)).write_ndjson(buffer)
    return buffer.getvalue()


def encode_events(events: pl.DataFrame, setting: Setting, file: int) -> tuple[bytes, dict[str, int]]:
    """Write the events of one file as JSON lines, with malformed lines strewn in.

    Every malformed line is an event of its own, with an id nothing else has; it takes no other event's place.

    Returns:
      The lines, and how many of each kind of `MALFORMED` are among them.
    """
    rng = setting.rng("malformed", file)
    models = np.sort(rng.choice(events.height, rng.binomial(events.height, setting.dirt.malformed), replace=False))
    kinds = [MALFORMED[(file + i) % len(MALFORMED)] for i in range(len(models))]
    lines = encode_lines(events).split(b"\n")
    for i, (row, kind) in enumerate(zip(models.tolist(), kinds)):
        event = orjson.loads(lines[row + i]) | {"event_id": f"malformed-{file:06d}-{i:06d}"}
        lines.insert(row + i, BREAKS[kind](event))
    return b"\n".join(lines), {kind: kinds.count(kind) for kind in MALFORMED}
