"""Run a step over a batch and give up nothing but what it fails on."""

from collections.abc import Collection, Mapping, Sequence

import polars as pl
import pyarrow as pa

from schemas.candidates import CANDIDATE_SET
from transforms.decode import POSITION
from transforms.stream.campaigns import without_campaigns
from transforms.stream.halve import halve
from transforms.stream.messages import Cause, parked
from transforms.stream.step import REASON, Merged, Step
from validation.rows import split_rows
from validation.set_rules import set_rules


def merge(step: Step, states: Mapping[str, bytes | None], rows: pl.DataFrame) -> tuple[Merged, dict[int, Cause]]:
    """Merge rows into states.

    Returns:
      What they came to, and the cause of every row that the step raises on, by `__position`.
    """
    known, parts = dict(states), [Merged({}, {}, rows.clear().with_columns(pl.lit("").alias(REASON)), [])]

    def work(span: Sequence[int]) -> None:
        part = rows[span[0] : span[-1] + 1]
        done = step.merge({user: known[user] for user in part["user_id"].unique()}, part)
        known.update(done.states)
        parts.append(done)

    failed = halve(range(rows.height), work) if rows.height else []
    return _together(parts), {int(rows[POSITION][row]): parked("merge", error) for row, error in failed}


def make_sets(step: Step, states: Mapping[str, bytes], over: Collection[str] = ()) -> tuple[pa.Table, dict[str, Cause]]:
    """Make the sets of users, without what is promoted for campaigns that are `over`, and hold each to its contract.

    Returns:
      The sets by user, of those who may have one, and the cause of every user whose set could not be made or breaks a rule.
    """
    users, made = sorted(states), [CANDIDATE_SET.schema.empty_table()]

    def work(some: Sequence[str]) -> None:
        sets = step.sets({user: states[user] for user in some}).cast(CANDIDATE_SET.schema)
        served = sets["user_id"].to_pylist()
        if len(set(served)) != len(served) or not set(served) <= set(some):
            raise ValueError(f"expected at most one set for each of {len(some)} users, came {sets.num_rows}")
        made.append(without_campaigns(sets, over))

    failed = halve(users, work) if users else []
    causes = {user: parked("sets", error) for user, error in failed}
    every = made[1] if len(made) == 2 else pa.concat_tables(made)
    good, bad = split_rows(pl.DataFrame(pl.from_arrow(every)), CANDIDATE_SET, set_rules())
    if bad.height or not good["user_id"].is_sorted():
        every = good.sort("user_id").to_arrow().cast(CANDIDATE_SET.schema)
    return every, causes | {user: Cause("sets", rule, None) for user, rule in bad.select("user_id", "rule").iter_rows()}


def _together(parts: Sequence[Merged]) -> Merged:
    counts: dict[str, int] = {}
    states: dict[str, bytes] = {}
    sizes: dict[str, int] = {}
    for part in parts:
        states |= part.states
        sizes |= part.sizes
        for outcome, number in part.counts.items():
            counts[outcome] = counts.get(outcome, 0) + number
    dirty = sorted({user for part in parts for user in part.dirty})
    counted = frozenset[int]().union(*(part.counted for part in parts))
    dead = pl.concat([part.dead for part in parts], how="diagonal_relaxed")
    return Merged(states, counts, dead, dirty, counted, sizes)
