"""Content mix: how much of a set must be music, talk, books or video, so that it suits its listener at any hour.

    share of a kind = (1 - PRIOR) x the listener's own + PRIOR x the market's     (Steck, "Calibrated Recommendations", 2018)
    floor of a kind = the largest of
        (share over all hours and devices - gap) x slots of the set
        (share in one quarter of the day on one class of device - gap) x slots of a page
        talk floor x slots, for whoever ever listened to talk

A set is served at any hour on any device until it expires, and a ranker shows a page of it at a time: the set must hold
enough of each kind for the page of the hour in which the listener wants most of it. Shares, gap and floor of talk are those of
the domain reference, section 4. Floors bind as far as there is something of the kind to offer: the hard filters, quotas and
caps stand above them.
Memory: the habits of a block, at most 100 rows of 20 bytes per listener.
"""

import numpy as np
import polars as pl

from schemas.policy import SurfacePolicy
from transforms.id_index import IdIndex

KINDS = ("music", "talk", "book", "video")
PRIOR = 0.1
LEAST_PLAYS = 10
"""Positives below which a quarter of the day on a device says nothing by itself."""
_KIND_OF = {"episode": "talk", "show": "talk", "audiobook": "book", "chapter": "book", "video": "video"}
_DEVICES = {"phone": "mobile", "tablet": "mobile", "desktop": "desktop", "car": "car", "speaker": "home", "tv": "home"}
_QUARTER_MIN, _DAY_MIN = 360, 1440
_TALK = KINDS.index("talk")


def kind() -> pl.Expr:
    """Return the kind of content of column `item_type`, one of `KINDS`."""
    return pl.col("item_type").replace_strict(_KIND_OF, default="music", return_dtype=pl.String).alias("kind")


def habits(positives: pl.DataFrame) -> pl.DataFrame:
    """Count positive events by quarter of the local day, class of device and kind: `user_id`, `habits`, in the history contract.

    Args:
      positives: `user_id`, `item_type`, `event_ts`, `device_type`, `utc_offset_min`.
    """
    local = (
        pl.col("event_ts").dt.hour().cast(pl.Int32) * 60 + pl.col("event_ts").dt.minute() + pl.col("utc_offset_min")
    ) % _DAY_MIN
    told = positives.select(
        "user_id",
        (local // _QUARTER_MIN).cast(pl.Int32).alias("band"),
        pl.col("device_type").replace_strict(_DEVICES, default="other", return_dtype=pl.String).alias("device"),
        kind(),
    )
    by = ["user_id", "band", "device", "kind"]
    counted = told.group_by(by).agg(pl.len().cast(pl.Int32).alias("plays")).sort(by)
    return counted.group_by("user_id", maintain_order=True).agg(pl.struct(*by[1:], "plays").alias("habits"))


def market_mix(popularity: pl.DataFrame) -> pl.DataFrame:
    """Return what each market plays: `market`, `kind`, `share` of weight, from rows of the popularity contract of all tiers."""
    summed = popularity.group_by("market", kind()).agg(pl.col("weight").sum()).sort("market", "kind")
    return summed.select("market", "kind", (pl.col("weight") / pl.col("weight").sum().over("market")).alias("share"))


def no_mix() -> pl.DataFrame:
    """Return what `market_mix` does where nobody plays anything."""
    return pl.DataFrame(schema={"market": pl.String, "kind": pl.String, "share": pl.Float64})


def no_floors(num_records: int) -> np.ndarray:
    """Return what `floors` does where any mix will do."""
    return np.zeros((num_records, len(KINDS)), np.int64)


def floors(habits: pl.DataFrame, markets: pl.Series, mix: pl.DataFrame, policy: SurfacePolicy) -> np.ndarray:
    """Return how many candidates of each kind a set must hold, `(num_records, len(KINDS)) int64`; 0 without habits.

    Args:
      habits: `k`, `band`, `device`, `kind`, `plays`. markets: of each record. mix: as `market_mix` returns it.
    """
    num_records, slots = len(markets), policy.size - policy.explore_slots
    wanted = no_floors(num_records)
    if not habits.height:
        return wanted
    prior = _priors(markets, mix)
    k, share, plays = _shares(habits, ["k"], prior)
    wanted[k] = _slots(share, policy.content_gap, slots)
    talks = plays[:, _TALK] > 0
    wanted[k[talks], _TALK] = np.maximum(wanted[k[talks], _TALK], int(policy.talk_floor * slots))
    k, share, plays = _shares(habits.filter(pl.col("band").is_not_null()), ["k", "band", "device"], prior)
    said = plays.sum(axis=1) >= LEAST_PLAYS
    np.maximum.at(wanted, k[said], _slots(share[said], policy.content_gap, policy.page))
    most = wanted.argmax(axis=1)
    wanted[np.arange(num_records), most] -= np.maximum(wanted.sum(axis=1) - slots, 0)
    return wanted


def _priors(markets: pl.Series, mix: pl.DataFrame) -> np.ndarray:
    """Return the shares of each record's market, `(num_records, len(KINDS)) float64`; zeros where nobody plays anything."""
    names = IdIndex.of(mix["market"].unique())
    wide = np.zeros((len(names.ids) + 1, len(KINDS)))  # the last row is that of markets nobody plays in
    wide[names.find(mix["market"]), kind_codes(mix["kind"])] = mix["share"].to_numpy()
    return wide[np.minimum(names.find(markets), len(names.ids))]


def kind_codes(kinds: pl.Series) -> np.ndarray:
    """Return the places of kinds in `KINDS`, `(num_kinds,) int64`."""
    return kinds.cast(pl.Enum(KINDS)).to_physical().to_numpy().astype(np.int64)


def _shares(habits: pl.DataFrame, by: list[str], prior: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, of each group, its record, the shares of kinds smoothed by the market's, and the plays."""
    groups = habits.select(by).unique(maintain_order=True).with_row_index("group")
    rows = habits.join(groups, on=by, nulls_equal=True, maintain_order="left")
    plays = np.zeros((groups.height, len(KINDS)))
    np.add.at(plays, (rows["group"].to_numpy(), kind_codes(rows["kind"])), rows["plays"].to_numpy())
    k = groups["k"].to_numpy()
    own = plays / np.maximum(plays.sum(axis=1, keepdims=True), 1)
    return k, (1 - PRIOR) * own + PRIOR * prior[k], plays


def _slots(share: np.ndarray, gap: float, slots: int) -> np.ndarray:
    return np.maximum((share - gap) * slots, 0).astype(np.int64)
