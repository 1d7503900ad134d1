"""What candidate sets were worth against what was played afterwards: sums over users that add up, and what they mean."""

import pyarrow as pa

from schemas.contract import Contract, column
from schemas.rules import Between, MaxLength, OneOf, Required

UNIT = 2**20
"""Figures of one user are rounded to 1/UNIT. Sums of such numbers are exact in int64 and in float64 up to 2^33 users, so
that blocks, shards and dates may be added in any order and give the same bytes."""
REPLICATES = 1_000
TARGETS = ("all", "discovery", "organic", "session")
SLICES = ("all", "market", "tier", "tenure", "skips", "type", "age", "device", "language")
SETS, FALLBACK, REPEAT_LAST, ORACLE = "sets", "fallback", "repeat_last", "oracle"
FACTORS = "implicit_als"
"""A baseline, and the model family it is."""
UNITS = "units"
POPULARITY, POPULARITY_BEFORE = "popularity", "popularity_before"
"""On Home over users with a history only, of their sets and of what they played: one over the other is a group's lift."""
CALIBRATED = {"type": ("calibration_type", "calibrated_type"), "genre": ("calibration_genre", "calibrated_genre")}
"""On Home over users who played something of a known type or genre: how far their sets are from it, in bits, and who they are."""
LEFT_OUT_RECALL, LEFT_OUT_UNITS = "left_out_recall", "left_out_units"
"""On Home over users drawn for it: recall@300 of discovery, of sets blended again with all sources, and without one of them."""
ARM_FIGURES = {
    arm: {kind: f"{kind}_{arm}" for kind in ("listeners", "positives", "explorers", "recall")}
    for arm in ("others", "held_out")
}
"""On Home, by arm: a 1 for who liked anything and what they liked, with repetitions; a 1 for who liked something new and recall@300
of that."""
SET_AGES = ((6, "0-6h"), (12, "6-12h"), (18, "12-18h"), (24, "18-24h"), (48, "24h+"))
AGED = {age: (f"hits_{age}", f"plays_{age}") for _, age in SET_AGES}
"""On Now Playing by the age of the set when the next item was played, up to so many hours: plays whose next item is among the
first 100 of the set, over all plays of that age."""

EVALUATION = Contract(
    name="evaluation",
    version="1.0.0",
    owner="segue-evaluate",
    description="What the candidate sets of a date were worth against what was played after it: one figure per ranking, "
    "slice and metric, with its bootstrap. Every figure rests on all events, sets and proposals: there is no lineage by column.",
    key=("logical_date", "surface", "target", "ranking", "slice", "part", "metric", "k"),
    shard_by=None,
    schema=pa.schema(
        [
            column("logical_date", pa.date32(), "Date the sets are as of."),
            column("surface", pa.string(), "Surface.", rules=(OneOf(("home", "now_playing")),)),
            column("target", pa.string(), "What counts as a hit: any positive, what was not played in 90 days, what the user picked, or the rest of a session.",
                   rules=(OneOf(TARGETS),)),
            column("ranking", pa.string(), "The sets, one source alone, a baseline, or the oracle; empty on rows of units.",
                   rules=(MaxLength(200),)),
            column("slice", pa.string(), "What the units are told apart by.", rules=(OneOf(SLICES),)),
            column("part", pa.string(), "Part of the slice: a market, a tier and so on.", rules=(MaxLength(200),)),
            column("metric", pa.string(), "Figure; units: how many there are.", rules=(Required(),)),
            column("k", pa.int32(), "Places that count; 0 where the figure is of the whole list.", rules=(Between(0, 500),)),
            column("value", pa.float64(), "Mean over units.", rules=(Between(0, 1e15),)),
            column("units", pa.int64(), "Users on Home, plays on Now Playing, that had a target.", rules=(Between(1, 1e12),)),
            column("low", pa.float64(), "2.5 % quantile of the bootstrap over users.", rules=(Between(0, 1e15),)),
            column("high", pa.float64(), "97.5 % quantile.", rules=(Between(0, 1e15),)),
            column("total", pa.int64(), "Sum over units.", unit="1/1048576", rules=(Between(0, 9.2e18),)),
            column("replicates", pa.list_(pa.int64()), "The sum in each replicate, users weighed by a Poisson draw that their id and "
                   "the replicate decide.", unit="1/1048576", rules=(MaxLength(REPLICATES),)),
        ]
    ),
)  # fmt: skip

OFF_POLICY = Contract(
    name="off_policy",
    version="1.0.0",
    owner="segue-evaluate",
    description="Sums over what users explored and what came of it, from which the worth of another policy is estimated "
    "(docs/exploration.md). Every figure rests on all events, sets and pools: there is no lineage by column.",
    key=("policy", "shard"),
    shard_by=None,
    schema=pa.schema(
        [
            column("logical_date", pa.date32(), "Date the sets are as of."),
            column("policy", pa.string(), "Policy in question.", rules=(Required(),)),
            column("shard", pa.int32(), "Users whose sums they are.", rules=(Between(0, 2**31 - 1),)),
            column("clip", pa.float64(), "The largest weight of the clipped estimate.", rules=(Between(0, 1e9),)),
            column("highest", pa.float64(), "The largest reward.", rules=(Between(0, 1e9),)),
            column("clusters", pa.int64(), "Users with explored items.", rules=(Between(0, 1e12),)),
            column("total", pa.list_(pa.float64()), "Sums of rows, w r, w, clipped w r, and that with the most the rest may earn.",
                   rules=(MaxLength(5),)),
            column("products", pa.list_(pa.float64()), "Sums over users of products of two of them, row by row.",
                   rules=(MaxLength(25),)),
            column("squares", pa.float64(), "Sum of w squared.", rules=(Between(0, 1e15),)),
        ]
    ),
)  # fmt: skip
