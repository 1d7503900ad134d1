"""Statistics of a dataset that add up: over shards, days and machines, in any order, to the same bytes.

Sums are integers (floats in units of 2^-20), histograms have fixed bins, and what is bounded is bounded by a rule that
does not depend on the order of merging: more than `MAX_VALUES` distinct values are no value counts at all, time bins
widen until they fit, and of the days the latest stay.
"""

import dataclasses
import datetime
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.contract import Contract
from schemas.rules import MaxLength, OneOf
from validation.rows import polars_schema

MAX_VALUES = 1000
MAX_BINS = 400
KEEP_DAYS = 400
"""Days a backfill may go back behind the newest event of what was ingested with it; about 3 kB of manifest each."""
FLOAT_UNITS = 1 << 20
"""Units of a float's total and bins per 1."""
DAY_US = 86_400_000_000
_MAX_FLOAT = float(1 << 42)
_WIDER = 32
_PROBE_ROWS = 20_000
_LONG_RUN = 8
_PER_VALUE = 2  # rows; where there are more, counting values is faster than measuring each row
_SHORT_BYTES = 50
_CATEGORIES = frozenset({"market", "tier", "item_type", "source_id", "rule", "signal_type", "score_kind"})
_DAILY_VALUES = ("event_type", "device_type", "market", "is_organic")
_DAILY_TOTALS = ("ms_played",)
Counts = dict[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """What is known of one column; of a list, its lengths; of a struct, its nulls.

    Attributes:
      not_finite: NaN and infinities of a float column; they are in no other figure.
      total: sum, in the column's unit, of a float in 1/`FLOAT_UNITS`, clipped at 2^42 per value; None for times.
      low, high: least and greatest value; timestamps in us and dates in days since the epoch.
      values: rows per value of a string or bool column; None where not counted or more than `MAX_VALUES`.
      bins: rows per bin. A number is in the bin of its bit length, with its sign: bin 3 is 4 to 7 and bin -1 is -1 (a
        float in 1/`FLOAT_UNITS`). A time is in the bin of its day since the epoch, `// 32 ** level`.
    """

    nulls: int = 0
    not_finite: int = 0
    total: int | None = None
    low: int | float | None = None
    high: int | float | None = None
    values: Counts | None = None
    bins: dict[int, int] = dataclasses.field(default_factory=dict)
    level: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class DayStatistics:
    """What is known of the rows of one event date.

    Attributes:
      present: rows that are not null, per nullable column.
      values: rows per value, per daily column; None above `MAX_VALUES`.
      totals: sum, per daily column.
    """

    rows: int
    present: Counts
    values: dict[str, Counts | None]
    totals: Counts


@dataclasses.dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of some rows of a dataset; `merge` adds two of them up.

    Attributes:
      days: per ISO event date, the latest `KEEP_DAYS`; empty for a dataset without event dates.
    """

    rows: int
    columns: dict[str, ColumnStatistics]
    days: dict[str, DayStatistics]

    @classmethod
    def merged(cls, parts: "Iterable[Statistics]") -> "Statistics":
        """Add up any number of statistics of one contract; none give no rows."""
        return functools.reduce(merge, parts, cls(0, {}, {}))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, keys sorted."""
        return {
            "rows": self.rows,
            "columns": {name: _plain(column) for name, column in sorted(self.columns.items())},
            "days": {date: dataclasses.asdict(day) for date, day in sorted(self.days.items())},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Statistics":
        """Read what `to_json` gave.

        Raises:
          ValueError: something else.
        """
        try:
            columns = {name: ColumnStatistics(**_with_bins(column)) for name, column in data["columns"].items()}
            return cls(data["rows"], columns, {date: DayStatistics(**day) for date, day in data["days"].items()})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"not statistics this code can read ({error!r}); run the stage that wrote them again"
            ) from error


def merge(left: Statistics, right: Statistics) -> Statistics:
    """Add up the statistics of two disjoint sets of rows; associative and commutative."""
    days = _merged(left.days, right.days, _merge_day)
    latest = sorted(days)[-KEEP_DAYS:]
    return Statistics(
        left.rows + right.rows,
        _merged(left.columns, right.columns, _merge_column),
        {date: days[date] for date in latest},
    )


def psi(left: Counts, right: Counts) -> float:
    """Return the population stability index of two distributions over the same categories; 0 where either is empty.

    `sum((p - q) * ln(p / q))` over the categories of both, half a row added to each so that one which is missing on a
    side gives a number (Siddiqi, Credit Risk Scorecards, 2006; below 0.1 is read as no change, above 0.25 as a shift).
    """
    names = sorted(set(left) | set(right))
    if not sum(left.values()) or not sum(right.values()):
        return 0.0
    p, q = (_shares(counts, names) for counts in (left, right))
    return math.fsum((a - b) * math.log(a / b) for a, b in zip(p, q))


def _shares(counts: Counts, names: list[str]) -> list[float]:
    total = sum(counts.values()) + 0.5 * len(names)
    return [(counts.get(name, 0) + 0.5) / total for name in names]


def collect(frame: pl.DataFrame, contract: Contract) -> Statistics:
    """Return the statistics of a frame of the contract's columns.

    Strings are counted by value only where the contract makes them a category (`OneOf`, at most 50 bytes, or a name in
    `_CATEGORIES`): identifiers never are.
    """
    named = categories(contract)
    types = polars_schema(contract)
    columns = {name: _column(frame[name], type_, name in named) for name, type_ in types.items()}
    return Statistics(frame.height, columns, _days(frame, contract))


def categories(contract: Contract) -> frozenset[str]:
    """Return the string columns that are counted by value."""
    short = {
        column
        for column, rule in contract.rules()
        if isinstance(rule, OneOf) or (isinstance(rule, MaxLength) and rule.limit <= _SHORT_BYTES)
    }
    strings = {field.name for field in contract.schema if field.type == pa.string()}
    return frozenset((short | _CATEGORIES) & strings)


def _column(series: pl.Series, type_: pl.DataType, category: bool) -> ColumnStatistics:
    nulls = series.null_count()
    if type_ == pl.Boolean:
        return ColumnStatistics(nulls, values=_bool_counts(series))
    if type_ == pl.String and category:
        return ColumnStatistics(nulls, values=_value_counts(series))
    if type_.is_integer():
        return _integers(series.cast(pl.Int64), nulls)
    if type_.is_float():
        return _floats(series.cast(pl.Float64), nulls)
    if type_ == pl.Date:
        return _times(series.to_physical().cast(pl.Int64), nulls, 1)
    if type_ == pl.Datetime:
        return _times(series.to_physical(), nulls, DAY_US)
    if isinstance(type_, pl.List):
        return _integers(series.list.len().cast(pl.Int64), nulls)
    return ColumnStatistics(nulls)


def _bool_counts(series: pl.Series) -> Counts:
    true = int(series.sum() or 0)
    counts = {"false": series.len() - series.null_count() - true, "true": true}
    return {name: count for name, count in counts.items() if count}


def _value_counts(series: pl.Series) -> Counts | None:
    probe = series.head(_PROBE_ROWS)
    if probe.n_unique() > MAX_VALUES + 1:  # one of them may be null
        return None
    given = series.drop_nulls() if series.null_count() else series
    if _num_runs(probe) < len(probe) // _LONG_RUN:  # runs are counted faster than rows
        runs = given.rle().struct.unnest()
        return _bounded(dict(runs.group_by("value").agg(pl.col("len").cast(pl.Int64).sum()).sort("value").rows()))
    return _bounded(dict(given.value_counts().sort(series.name).rows()))


def _num_runs(series: pl.Series) -> int:
    return int(series.rle_id()[-1]) + 1 if len(series) else 0


def _bounded(counts: Counts) -> Counts | None:
    return counts if len(counts) <= MAX_VALUES else None


def _integers(numbers: pl.Series, nulls: int) -> ColumnStatistics:
    low, high = _range(numbers)
    total = _total(numbers, low, high)
    return ColumnStatistics(nulls, total=total, low=low, high=high, bins=_bits(numbers.drop_nulls(), low, high))


def _total(numbers: pl.Series, low: Any, high: Any) -> int:
    """Sum integers exactly; int64 where it cannot overflow."""
    largest = max(abs(low or 0), abs(high or 0))
    wide = numbers if largest * max(numbers.len(), 1) < 2**63 else numbers.cast(pl.Int128)
    return int(wide.sum())


def _floats(numbers: pl.Series, nulls: int) -> ColumnStatistics:
    finite = numbers.filter(numbers.is_finite().fill_null(False))
    units = pl.Series(np.rint(np.clip(finite.to_numpy(), -_MAX_FLOAT, _MAX_FLOAT) * FLOAT_UNITS).astype(np.int64))
    low, high = (None if x is None else x + 0.0 for x in _range(finite))  # -0.0 and 0.0 are one value
    of_units = _integers(units, nulls)
    not_finite = numbers.len() - nulls - finite.len()
    return dataclasses.replace(of_units, not_finite=not_finite, low=low, high=high)


def _times(instants: pl.Series, nulls: int, day: int) -> ColumnStatistics:
    days = instants if day == 1 else instants // day
    counts = days.drop_nulls().value_counts().rows()
    bins, level = _fitted(dict(sorted(counts)), 0)
    low, high = _range(instants)
    return ColumnStatistics(nulls, low=low, high=high, bins=bins, level=level)


def _range(numbers: pl.Series) -> tuple[Any, Any]:
    return numbers.min(), numbers.max()


def _bits(numbers: pl.Series, low: Any, high: Any) -> dict[int, int]:
    """Count int64 numbers from `low` to `high` by bit length, with their sign."""
    times = None
    if len(numbers) and len(numbers) > _PER_VALUE * (high - low):  # few values: each is looked at once
        times = np.bincount(numbers.to_numpy() - low)
        numbers = pl.Series(np.arange(len(times)) + low)
    signed = (64 - numbers.abs().bitwise_leading_zeros().cast(pl.Int8)) * numbers.sign().cast(pl.Int8)
    counts = np.bincount((signed.cast(pl.Int16) + 64).to_numpy(), times, minlength=129)
    return {int(bin_) - 64: int(counts[bin_]) for bin_ in np.flatnonzero(counts)}


def _fitted(bins: dict[int, int], level: int) -> tuple[dict[int, int], int]:
    """Widen time bins until there are at most `MAX_BINS`."""
    while len(bins) > MAX_BINS:
        bins, level = _widened(bins, 1), level + 1
    return bins, level


def _widened(bins: dict[int, int], steps: int) -> dict[int, int]:
    wide: dict[int, int] = {}
    for bin_, count in bins.items():
        key = bin_ // _WIDER**steps
        wide[key] = wide.get(key, 0) + count
    return wide


def _days(frame: pl.DataFrame, contract: Contract) -> dict[str, DayStatistics]:
    if "event_date" not in contract.schema.names:
        return {}
    optional = [field.name for field in contract.schema if field.nullable]
    totals = [name for name in _DAILY_TOTALS if name in contract.schema.names]
    latest = frame["event_date"].drop_nulls().unique().sort().tail(KEEP_DAYS)
    if latest.is_empty():
        return {}
    kept = frame.filter(pl.col("event_date") >= latest[0])
    per_day = kept.group_by("event_date").agg(
        pl.len().alias("__rows"),
        *(pl.col(name).count().alias(f"__present {name}") for name in optional),
        *(pl.col(name).cast(pl.Int128).sum().alias(f"__total {name}") for name in totals),
    )
    values = {name: _daily_counts(kept, name) for name in _DAILY_VALUES if name in contract.schema.names}
    return {
        row["event_date"].isoformat(): DayStatistics(
            row["__rows"],
            {name: row[f"__present {name}"] for name in optional},
            {name: _bounded(counts.get(row["event_date"], {})) for name, counts in values.items()},
            {name: int(row[f"__total {name}"]) for name in totals},
        )
        for row in per_day.sort("event_date").iter_rows(named=True)
    }


def _daily_counts(frame: pl.DataFrame, name: str) -> dict[datetime.date, Counts]:
    counted = frame.group_by("event_date", name).len().drop_nulls().sort("event_date", name)
    by_day: dict[datetime.date, Counts] = {}
    for date, value, count in counted.rows():
        by_day.setdefault(date, {})[str(value).lower() if isinstance(value, bool) else value] = count
    return by_day


def _merged(left: Mapping[str, Any], right: Mapping[str, Any], both: Any) -> dict[str, Any]:
    """Join two mappings; `both` joins the values of the keys they share."""
    merged = dict(left)
    for key, value in right.items():
        merged[key] = both(merged[key], value) if key in merged else value
    return merged


def _added(left: Mapping[Any, int], right: Mapping[Any, int]) -> dict[Any, int]:
    return _merged(left, right, lambda a, b: a + b)


def _added_values(left: Counts | None, right: Counts | None) -> Counts | None:
    return None if left is None or right is None else _bounded(_added(left, right))


def _merge_column(left: ColumnStatistics, right: ColumnStatistics) -> ColumnStatistics:
    level = max(left.level, right.level)
    bins = _added(_widened(left.bins, level - left.level), _widened(right.bins, level - right.level))
    timed = left.total is None and right.total is None
    bins, level = _fitted(bins, level) if timed else (bins, level)
    return ColumnStatistics(
        left.nulls + right.nulls,
        left.not_finite + right.not_finite,
        None if timed else (left.total or 0) + (right.total or 0),
        min((x for x in (left.low, right.low) if x is not None), default=None),
        max((x for x in (left.high, right.high) if x is not None), default=None),
        _added_values(left.values, right.values),
        bins,
        level,
    )


def _merge_day(left: DayStatistics, right: DayStatistics) -> DayStatistics:
    return DayStatistics(
        left.rows + right.rows,
        _added(left.present, right.present),
        _merged(left.values, right.values, _added_values),
        _added(left.totals, right.totals),
    )


def _plain(column: ColumnStatistics) -> dict[str, Any]:
    plain = dataclasses.asdict(column)
    return plain | {"bins": {str(bin_): count for bin_, count in sorted(column.bins.items())}}


def _with_bins(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {**plain, "bins": {int(bin_): count for bin_, count in plain["bins"].items()}}
