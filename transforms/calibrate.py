"""Calibrate: how likely what a source proposes at a rank is taken up, from the last run's proposals and what came of them.

    proposals of an earlier date x plays since -> trials and positives by source and rank, of all and of what came first
      + the last calibration's, halved with every half-life -> smoothed -> falling with the rank

Each rank has two probabilities: of all it proposed, and of what no source before it in the flow proposed too. A blend adds up the
second where the policy says `by_flow`. Where sources mostly know the same plays they are not right independently of each other: fitted on
one half of nowplaying's held-out sessions, R@20 of the other half is .214 with the second and .194 with the first, R@100 .358 and .349.
Where what agrees has been learnt in other ways, as Home's co-listens and vectors are, the first are better: on lastfm-2k, likewise and of
the same sets, R@20 is .169 with the first and .155 with the second.

The proposals rest on nothing later than their date, and only what was played after it counts: no play is on both sides.
By rank and not by score, because ranks survive a training that changes the scale of the scores; scores of two sources
are never compared.

Memory: the proposals of one shard to keys that were active since; a row per source and rank besides.
"""

import dataclasses
import datetime
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl
import scipy.optimize

from schemas.candidates import CALIBRATION, PROPOSAL
from schemas.policy import Quota, SurfacePolicy
from schemas.tallies import ANY, WEIGHT_UNIT
from transforms.facts import group_of
from transforms.groups import group_key
from transforms.histories import exploded
from transforms.reach import World
from transforms.retrieve import user_table
from transforms.shards import TARGET, Output, Shard, read_tables
from validation.calibration_gates import OTHER_MODEL

PRIOR_TRIALS = 50.0
"""Of a rank, trials at the source's own rate are taken as seen: a rank of few trials says little by itself."""
UNSEEN_RATE = 0.02
"""Rate of a source nobody has seen proposals of, where no other source has been seen either."""
DEEPEST = 2_000
_NEXT_TO_NOTHING = 1e-9
_SUMS = ("trials", "positives", "first_trials", "first_positives")
_COUNTS = {"source_id": pl.String, "source_rank": pl.Int32} | dict.fromkeys(_SUMS, pl.Float64)
_PAIR = ["key", "item_id"]


@dataclasses.dataclass(frozen=True, slots=True)
class Since:
    """What was played after a date: who could take something up, and what was.

    Attributes:
      trials: `key`, `weight`. taken: `key`, `item_id`, `weight`; at most the key's weight each.
      groups: `key`, `group`: whose charts a key was offered.
    """

    trials: pl.DataFrame
    taken: pl.DataFrame
    groups: pl.DataFrame

    def of_groups(self) -> "Since":
        """Return both by group, which stands for its keys."""
        group = self.groups.select(key="group").unique().with_columns(group="key")
        return Since(self.by_group(self.trials), self.by_group(self.taken), group)

    def by_group(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add up what is said of keys, and of items for them, by group."""
        named = rows.join(self.groups, on="key").with_columns(pl.col("group").alias("key")).drop("group")
        by = [name for name in named.columns if name in _PAIR]
        return named.group_by(by).agg(pl.exclude(by).sum()).sort(by)


def since_of_users(shard: Shard, after: datetime.datetime) -> Since:
    """Return what the users of a shard who listened since played: everything of weight 1."""
    users = user_table(shard).filter(~pl.col("personalization_opt_out"))
    liked = exploded(users, "positives").filter((pl.col("event_ts") >= after) & (pl.col("label") > 0))
    taken = liked.select(pl.col("user_id").alias("key"), "item_id").unique().sort("key", "item_id")
    charts = read_tables(shard.paths("groups"), PROPOSAL, ["key"])["key"].unique().str.split("|").list.get(1)
    market = group_of(pl.col("tier"), World(sorted(set(charts) - {ANY}), pl.Series(dtype=pl.String)))
    groups = users.select(pl.col("user_id").alias("key"), market.alias("group"))
    one = pl.lit(1.0).alias("weight")
    return Since(taken.select("key").unique().sort("key").with_columns(one), taken.with_columns(one), groups)


def since_of_seeds(shard: Shard, after: datetime.datetime) -> Since:
    """Return what followed the items of a shard: the share of each follower, by how often the item was followed."""
    followed = shard.read(
        "transition_partial", ["item_id", "next_item_id", "weight"], pl.col("event_date") >= after.date()
    )
    taken = followed.group_by(pl.col("item_id").alias("key"), pl.col("next_item_id").alias("item_id")).agg(
        pl.col("weight").sum() / WEIGHT_UNIT
    )
    taken = taken.sort("key", "item_id")
    trials = taken.group_by("key", maintain_order=True).agg(pl.col("weight").sum())
    return Since(trials, taken, trials.select("key", pl.lit(group_key(ANY, ANY)).alias("group")))


@dataclasses.dataclass(frozen=True)
class CountTaken:
    """Count the proposals of a shard that could be taken up and those that were, by source and rank.

    Attributes:
      since: what was played. `after`: the end of the proposals' date. `flow`: the order of sources.
    """

    since: Callable[[Shard, datetime.datetime], Since]
    after: datetime.datetime
    flow: tuple[str, ...]

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        since = self.since(shard, self.after)
        columns = ["key", "source_id", "source_rank", "item_id"]
        asked = pl.col("key").is_in(since.trials["key"].implode()) & (pl.col("source_rank") < DEEPEST)
        own = tried(shard.read("proposal", columns, asked), since)
        shared = read_tables(shard.paths("groups"), PROPOSAL, columns, pl.col("source_rank") < DEEPEST)
        before = since.by_group(own.unique(_PAIR)[[*_PAIR, "trials", "positives"]])
        every = pl.concat([first_of_sources(own, self.flow), first_beside(tried(shared, since.of_groups()), before)])
        return {"counts": counts(every).with_columns(pl.lit("00000").alias(TARGET))}


def tried(proposals: pl.DataFrame, since: Since) -> pl.DataFrame:
    """Return proposals to whoever could take them up, with `trials` and, as far as they were, `positives`."""
    asked = proposals.join(since.trials.rename({"weight": "trials"}), on="key")
    taken = asked.join(since.taken.rename({"weight": "positives"}), on=_PAIR, how="left")
    return taken.with_columns(pl.col("positives").fill_null(0.0))


def first_of_sources(rows: pl.DataFrame, flow: Sequence[str]) -> pl.DataFrame:
    """Add `first_trials` and `first_positives`, nothing where a source before this one in the flow proposed the item too."""
    turns = pl.DataFrame(
        {"source_id": list(flow), "turn": np.arange(len(flow))}, {"source_id": pl.String, "turn": pl.Int64}
    )
    turn = pl.col("turn").fill_null(len(flow))
    first = (turn == turn.min().over(_PAIR)).cast(pl.Float64)
    named = rows.join(turns, on="source_id", how="left").with_columns(first.alias("first"))
    return named.with_columns(
        first_trials=pl.col("trials") * pl.col("first"), first_positives=pl.col("positives") * pl.col("first")
    ).drop("turn", "first")


def first_beside(rows: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """Add `first_trials` and `first_positives` of groups: without those keys that were proposed the item for themselves.

    Args:
      before: `key`, a group's, `item_id`, `trials`, `positives` of these.
    """
    both = rows.join(before, on=_PAIR, how="left", suffix="_before")
    left = {f"first_{n}": (pl.col(n) - pl.col(f"{n}_before").fill_null(0.0)).clip(0.0) for n in ("trials", "positives")}
    return both.with_columns(**left).drop("trials_before", "positives_before")


def counts(rows: pl.DataFrame) -> pl.DataFrame:
    """Add up `_SUMS` by `source_id` and `source_rank`, in an order that is always the same."""
    by = ["source_id", "source_rank"]
    added = rows.sort(*by, *_PAIR).group_by(by, maintain_order=True).agg(pl.col(_SUMS).sum())
    return added.select([pl.col(name).cast(kind) for name, kind in _COUNTS.items()])


@dataclasses.dataclass(frozen=True)
class FitCalibration:
    """Add the counts of all shards to the last calibration's, and fit a probability to every rank.

    Attributes:
      fade: what the last calibration's counts are multiplied by.
      strange, strange_before: sources of which the counts of now, and of the last calibration, are of another model.
    """

    policy: SurfacePolicy
    fade: float
    strange: tuple[str, ...] = ()
    strange_before: tuple[str, ...] = ()

    def __call__(self, shard: Shard) -> Output:
        counted = shard.parts("counts", _COUNTS)
        fresh, left_out = _of_this_model(counted, self.strange)
        earlier = read_tables(shard.paths("before"), CALIBRATION, list(_COUNTS))
        before, left_out_before = _of_this_model(earlier, self.strange_before)
        faded = before.with_columns(pl.col(_SUMS) * self.fade)
        by = ["source_id", "source_rank"]
        known = [quota.source_id for quota in self.policy.sources]
        every = pl.concat([fresh, faded]).filter(pl.col("source_id").is_in(known)).with_columns(self._rank())
        total = every.sort(*by, *_SUMS).group_by(by, maintain_order=True).agg(pl.col(_SUMS).sum())
        fitted = self._fitted(total).join(self._fitted(total, "first_"), on=by)
        table = fitted.select(CALIBRATION.schema.names).sort(by)
        return Output(table, rows_in=counted.height, counters=_trials(pl.concat([left_out, left_out_before])))

    def _fitted(self, total: pl.DataFrame, which: str = "") -> pl.DataFrame:
        """Fit every source to all it proposed or to what it proposed `first_`; of these columns, named so."""
        names = ("trials", "positives")
        asked = total.select("source_id", "source_rank", *(pl.col(which + name).alias(name) for name in names))
        trials, positives = (asked[name].to_numpy().sum() for name in names)
        rate = float(positives / trials) if trials else UNSEEN_RATE
        of = asked.partition_by("source_id", as_dict=True)
        fitted = [fit(of.get((one.source_id,), asked.clear()), one, rate) for one in self.policy.sources]
        return pl.concat(fitted).rename({name: which + name for name in (*names, "probability")})

    def _rank(self) -> pl.Expr:
        """Return the rank that counts: what is drawn by lot has none, and each of a pool is as likely drawn."""
        return pl.when(pl.col("source_id") == self.policy.explore).then(0).otherwise("source_rank").alias("source_rank")


def _of_this_model(counted: pl.DataFrame, strange: tuple[str, ...]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Part the counts of sources from those of `strange` ones."""
    other = pl.col("source_id").is_in(strange)
    return counted.filter(~other), counted.filter(other)


def _trials(counted: pl.DataFrame) -> dict[str, int]:
    """Count the trials of every source, in whole ones, at least 1."""
    trials = counted.sort("source_id", "source_rank", "trials").group_by("source_id", maintain_order=True)
    return {f"{OTHER_MODEL}{name}": math.ceil(n) for name, n in trials.agg(pl.col("trials").sum()).rows() if n}


def fit(counted: pl.DataFrame, quota: Quota, rate: float) -> pl.DataFrame:
    """Return the calibration of one source: isotonic regression, falling with the rank, over smoothed shares.

    Ranks without a trial share the fate of their neighbours. A source without any trial: `unseen`.
    Pool adjacent violators: Barlow, Bartholomew, Bremner and Brunk, "Statistical Inference under Order Restrictions" (1972).
    """
    deepest = int(counted["source_rank"].to_numpy().max(initial=quota.maximum - 1))
    ranks = pl.DataFrame({"source_rank": np.arange(deepest + 1, dtype=np.int32)})
    full = ranks.join(counted, on="source_rank", how="left", maintain_order="left").with_columns(
        pl.lit(quota.source_id).alias("source_id"), pl.col("trials", "positives").fill_null(0.0)
    )
    trials, positives = full["trials"].to_numpy(), full["positives"].to_numpy()
    if not trials.sum():
        return full.with_columns(pl.Series("probability", unseen(np.arange(deepest + 1), quota, rate)))
    own = positives.sum() / trials.sum()
    share = (positives + PRIOR_TRIALS * own) / (trials + PRIOR_TRIALS)
    weights = np.where(trials > 0, trials + PRIOR_TRIALS, _NEXT_TO_NOTHING)
    fitted = scipy.optimize.isotonic_regression(share, weights=weights, increasing=False).x
    return full.with_columns(pl.Series("probability", np.clip(fitted, 0.0, 1.0)))


def unseen(ranks: np.ndarray, quota: Quota, rate: float) -> np.ndarray:
    """Return what is assumed of a source nobody has seen proposals of: `rate`, halved at its target."""
    return rate / (1 + ranks / max(quota.target, 1))


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """Probabilities by source and rank.

    Attributes:
      tables: per source, `(num_ranks,) float64`; deeper ranks have the last one.
      counted: whether anything was seen of what came of proposals; else all of it is assumed.
      first: likewise, of what no source before it in the flow proposed too; without one, as `tables`.
    """

    tables: Mapping[str, np.ndarray]
    counted: bool = False
    first: Mapping[str, np.ndarray] | None = None

    @classmethod
    def read(cls, paths: list[str]) -> "Calibration":
        """Read what `FitCalibration` wrote."""
        rows = read_tables(paths, CALIBRATION).sort("source_id", "source_rank")
        counted, by_source = bool((rows["trials"] > 0).any()), rows.partition_by("source_id", as_dict=True)

        def tables(column: str) -> dict[str, np.ndarray]:
            return {str(name): part[column].to_numpy() for (name,), part in by_source.items()}

        # A bundle may be older than what comes first was counted.
        first = tables("first_probability") if "first_probability" in rows.columns else None
        return cls(tables("probability"), counted, first)

    def chances(self, proposals: pl.DataFrame, policy: SurfacePolicy) -> np.ndarray | None:
        """Return what each proposal adds to how likely an item is taken up, for `transforms.blend.blend`; None where only assumed.

        Quotas in step are a better guess than an assumption that is the same for every source: on nowplaying's held-out sessions
        R@20 is .193 with these and .179 without, R@100 .362 and .355 (`benchmarks/sources.py`).
        """
        if not self.counted:
            return None
        tables = self.first if policy.by_flow and self.first is not None else self.tables
        return _looked_up(tables, proposals["source_id"], proposals["source_rank"].to_numpy(), policy)

    def of(self, source_ids: pl.Series, ranks: np.ndarray, policy: SurfacePolicy) -> np.ndarray:
        """Return the probability of proposals, `(num_proposals,) float64`; of a source without a table, that of one unseen."""
        return _looked_up(self.tables, source_ids, ranks, policy)


def _looked_up(
    tables: Mapping[str, np.ndarray], source_ids: pl.Series, ranks: np.ndarray, policy: SurfacePolicy
) -> np.ndarray:
    found = np.empty(len(ranks))
    for quota in policy.sources:
        own = (source_ids == quota.source_id).to_numpy()
        table = tables.get(quota.source_id)
        if table is None:
            found[own] = unseen(ranks[own], quota, UNSEEN_RATE)
        else:
            found[own] = table[np.minimum(ranks[own], len(table) - 1)]
    return found
