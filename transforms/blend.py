"""Blend: from proposals to ordered candidates, for a block of records at once.

    hard filters, each removal named -> one row per canonical item and work, all its sources kept -> quotas -> caps -> size
    -> slots drawn by lot, spread through the list

Pure; ids are numbers, and compiled loops walk from record to record. The stream calls the same functions.
Memory: about 60 bytes per proposal and record of the block.
"""

import dataclasses
import functools

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.hashing import hash64_one, mix_text
from schemas.policy import SurfacePolicy
from transforms.blend_kernel import MOST_TURNS, OVER, SLOT_BITS, TIE_BITS, settle
from transforms.blend_order import interleave, without_runs
from transforms.blend_rows import spread
from transforms.blend_tables import Limits, Passed, Quotas, Settled
from transforms.content_mix import no_floors
from transforms.explore import Explored, explore, nothing_explored
from transforms.filters import HARD_FILTERS, Facts, Instant, Judged, Rows, hard_filters, until
from transforms.id_index import NO_CODE, IdIndex
from transforms.sorted_groups import by_code, counted, numbered, order_by

NOT_DRAWN = "not_drawn"
RULES = (*HARD_FILTERS, "duplicate", "quota", "series", "cap:artist", "cap:album", "cap:show", "cap:publisher", "size",
         "content", NOT_DRAWN)  # fmt: skip
_DEEPEST = 2_000
"""So many proposals of one source to a record are looked at: charts have about a thousand."""
_AMPLE = 4  # so many times `fill_to` survivors leave enough after duplicates and caps
PROPOSAL_COLUMNS = (
    "source_id",
    "source_rank",
    "raw_score",
    "score_kind",
    "signal_type",
    "seed_item_ids",
    "seed_event_ts",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Blended:
    """Candidates and why everything else is not among them.

    Attributes:
      proposals: the table `rows.p` points into.
      candidates: `k`, `position`, `item_id`, `item_type`, `canonical_id`, `artist_id`, `release_ts`, `available_until`,
        `blend_score`, `source_id`, the source whose slot it took, `propensity` (1 where it was not drawn), `stratum` (null
        where it was not drawn); sorted by `k` and `position`.
      sources: every surviving proposal behind a candidate: `k`, `position` and `PROPOSAL_COLUMNS`.
      taken: the candidates' rows, in their order.
      offered: proposals judged, by `k`. Each is removed under one rule or stands behind a candidate; a recording that
        another one stands for is both, removed as `duplicate` and among the sources. Of a pool, only what may be drawn
        counts, and what is not drawn is counted but not listed: `rows` would be as large as the pools.
      rows, rule, detail: what was judged, why it was removed, uint8 1 + index into `RULES` (0: it was not), and the number that
        decided it.
    """

    proposals: pl.DataFrame
    candidates: pl.DataFrame
    sources: pl.DataFrame
    rows: Rows
    rule: np.ndarray
    detail: np.ndarray
    offered: np.ndarray
    explored: Explored
    taken: Rows

    @property
    def removed(self) -> pl.DataFrame:
        """What was removed, spelled out: `k`, `item_id`, `source_id`, `rule`, `detail`."""
        out = np.flatnonzero(self.rule)
        rows = self.proposals.select("item_id", "source_id")[self.rows.p[out]]
        rules = pl.Series("rule", RULES).gather(self.rule[out].astype(np.int64) - 1)
        detail = pl.Series("detail", self.detail[out]).fill_nan(None)
        spelled = rows.with_columns(pl.Series("k", self.rows.k[out]), rules, detail)
        return spelled.select("k", "item_id", "source_id", "rule", "detail").sort("k", "item_id", "source_id")

    def removed_by_rule(self) -> pl.DataFrame:
        """Count removals: `k`, `rule`, `len`, sorted."""
        num_records, width = len(self.offered), len(RULES) + 1
        flat = self.rows.k.astype(np.int64) * width + self.rule
        counts = np.bincount(flat, minlength=num_records * width).reshape(num_records, width)[:, 1:]
        counts[:, RULES.index(NOT_DRAWN)] += self.explored.left
        by_name = np.argsort(RULES)
        k, place = np.nonzero(counts[:, by_name])
        names, numbers = pl.Series("rule", RULES)[by_name[place]], counts[k, by_name[place]]
        return pl.DataFrame([pl.Series("k", k.astype(np.uint32)), names, pl.Series("len", numbers.astype(np.uint32))])


def blend(
    proposals: pl.DataFrame, facts: Facts, policy: SurfacePolicy, instant: Instant, chances: np.ndarray | None = None
) -> Blended:
    """Blend the proposals of a block.

    Args:
      proposals: the proposal contract's columns, of the records and of their groups.
      chances: `(num_proposals,) float64`, how likely each is taken up. Beyond the minima slots go to what is likeliest that any of its
        sources is right, and sets stand in that order; what was shown or played too often counts half. None: slots go by
        targets, then maxima in `flow` order, and so do sets.
    """
    rows, judged = _judged(proposals, facts, policy, instant)
    found = settle(_passed(rows, judged, facts, instant, chances), facts.item_codes.arrays.items, *_limits(policy))
    settled = rows.take(found.row)
    explored = _explored(proposals, settled, facts, policy, instant)
    whole = Rows.joined(settled, explored.rows)
    place = interleave(found.counts, explored.slots)
    place = without_runs(whole, place, facts, policy)
    order = order_by(whole.k, place)
    candidates = _candidates(whole, until(whole, facts, policy, instant), place, order, explored, facts, policy)
    sources = _sources(proposals, rows, found, explored, whole.k[order], place[order], order)
    offered = counted(rows.k, facts.records.height) + explored.sizes
    return Blended(
        proposals, candidates, sources, rows, judged.rule, judged.detail, offered, explored, whole.take(order)
    )


def _judged(proposals: pl.DataFrame, facts: Facts, policy: SurfacePolicy, instant: Instant) -> tuple[Rows, Judged]:
    """Judge what every record is offered; of what its group is offered, all, or only what fills up the sets of short records.

    What is judged may still be removed by what comes after: the rule is then written into the same array.
    """
    every = _coded(proposals, facts, policy)
    fallback = next(quota for quota in policy.sources if quota.source_id == policy.fallback)
    if fallback.target > 0:
        rows = every.rows("record_key", "group", "newcomer")
        return rows, hard_filters(rows, facts, policy, instant)
    own = every.rows("record_key")
    judged = hard_filters(own, facts, policy, instant)
    survivors = counted(own.k[judged.rule == 0], facts.records.height)
    needed = every.rows("group", "newcomer", only=survivors < _AMPLE * policy.fill_to)
    return Rows.joined(own, needed), Judged.joined(judged, hard_filters(needed, facts, policy, instant))


def _explored(
    proposals: pl.DataFrame, settled: Rows, facts: Facts, policy: SurfacePolicy, instant: Instant
) -> Explored:
    """Draw what is explored; it must pass what everything else does."""
    if not policy.explore:
        explored = nothing_explored(facts.records.height)
    else:
        explored = explore(proposals, facts, (settled.k, settled.i), policy, instant)
    judged = hard_filters(explored.rows, facts, policy, instant)
    assert not judged.rule.any(), "a pool holds what a hard filter removes: propensities would be wrong"
    return explored


@dataclasses.dataclass(frozen=True, slots=True)
class _Coded:
    """Proposals in codes: item, source and rank of each, by key; and the keys of records, `(num_records,) uint32` by name."""

    item: np.ndarray
    source: np.ndarray
    rank: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    keys: dict[str, np.ndarray]

    def rows(self, *names: str, only: np.ndarray | None = None) -> Rows:
        """Return what records are offered under their keys of these names, record by record; of all records or `only` some."""
        keys = np.stack([self.keys[name] for name in names], axis=1)
        if only is not None:
            keys[~only] = NO_CODE
        return Rows(*spread(keys, self.starts, self.order, self.item, self.source, self.rank))


def offer(proposals: pl.DataFrame, facts: Facts, policy: SurfacePolicy, pools: bool = False) -> tuple[Rows, Rows]:
    """Number the proposals of a block: each record is offered its own, and those of its market and tier.

    Records need `record_key` and `group`, the keys of their proposals, and `newcomer`.

    Args:
      pools: whether also what is only there to draw from.
    """
    coded = _coded(proposals, facts, policy, pools)
    return coded.rows("record_key"), coded.rows("group", "newcomer")


def _coded(proposals: pl.DataFrame, facts: Facts, policy: SurfacePolicy, pools: bool = False) -> _Coded:
    """Code proposals.

    Raises:
      ValueError: a source has no quota.
    """
    source = IdIndex.of(pl.Series(_names(policy))).find_runs(proposals["source_id"])
    unknown = np.flatnonzero(source == NO_CODE)
    if len(unknown):
        raise ValueError(
            f"surface {policy.name}: expected proposals of {', '.join(_names(policy))}, came"
            f" {proposals['source_id'][int(unknown[0])]!r}; give the source a quota, or leave out what it proposes"
        )
    names = ("record_key", "group")
    keys = IdIndex.of(pl.concat([facts.records[name] for name in names]).unique(maintain_order=True))
    owner = keys.find_runs(proposals["key"])
    if not pools and policy.explore:
        owner[source == _names(policy).index(policy.explore)] = NO_CODE
    own = {name: keys.find(facts.records[name]) for name in names}
    # What a group offers newcomers stands under codes of its own, behind those of all keys.
    nobody = np.uint32(len(keys.ids))
    of_group = np.zeros(len(keys.ids) + 1, bool)
    of_group[own["group"][own["group"] != NO_CODE]] = True
    moved = np.array([quota.newcomers for quota in policy.sources])[source] & of_group[np.minimum(owner, nobody)]
    owner[moved] += nobody
    new = facts.records["newcomer"].to_numpy() & (own["group"] != NO_CODE)
    own["newcomer"] = np.where(new, own["group"] + nobody, NO_CODE)
    rank = np.array(proposals["source_rank"].to_numpy(), np.int32)
    item = facts.item_codes.ids.find(proposals["item_id"])
    order, starts = by_code(owner, 2 * len(keys.ids))
    return _Coded(item, source.astype(np.uint8), rank, order, starts, own)


def _names(policy: SurfacePolicy) -> list[str]:
    return [quota.source_id for quota in policy.sources]


def _passed(rows: Rows, judged: Judged, facts: Facts, instant: Instant, chances: np.ndarray | None) -> Passed:
    passed, starts = by_code(np.where(judged.rule == 0, rows.k, NO_CODE), facts.records.height)
    hashes = mix_text(facts.records["record_key"].to_arrow()), facts.item_codes.ties
    wanted = no_floors(facts.records.height) if facts.floors is None else facts.floors
    widened = np.zeros(facts.records.height) if facts.at_a_loss is None else facts.at_a_loss
    seed, known = np.uint64(hash64_one(instant.seed)), np.zeros(0) if chances is None else chances
    known = np.require(known, np.float64, "W")  # compiled functions take what may be written to for another type
    return Passed(
        starts, wanted, widened.astype(np.int64), passed, rows.p, rows.i, rows.s, rows.r, judged.tired, known, *hashes, seed,
        judged.rule, judged.detail,
    )  # fmt: skip


@functools.lru_cache(maxsize=16)
def _limits(policy: SurfacePolicy) -> tuple[Limits, Quotas]:
    told = {name: getattr(policy, name) for name in Limits._fields[2:]}
    limits = Limits(_names(policy).index(policy.fallback), policy.size - policy.explore_slots, **told)
    turns = {source: place for place, source in enumerate(policy.flow)}
    turn = np.array([min(turns.get(quota.source_id, MOST_TURNS), MOST_TURNS) for quota in policy.sources], np.int64)
    most = max(_DEEPEST, *(max(quota.maximum, quota.widened.maximum) for quota in policy.sources))
    slots = np.stack([_slot_table(policy, most), _slot_table(policy.widened, most)])
    return limits, Quotas(slots, turn, np.array([quota.leads for quota in policy.sources], bool))


def _slot_table(policy: SurfacePolicy, most: int) -> np.ndarray:
    """Return the slot of the n-th proposal of each source, `(num_sources, most + 1) int64`; `OVER` beyond its maximum.

    A fallback whose maximum is the whole set has slots behind `OVER`: what stands there is in order, and may be of a kind of
    content that the set has too little of. What is for newcomers stands evenly among the fallback's: charts are a better guess.
    """
    n = np.arange(most + 1)
    turn = {source: place for place, source in enumerate(policy.flow)}
    whole = next(quota.maximum for quota in policy.sources if quota.source_id == policy.fallback)
    slots = []
    for quota in policy.sources:
        low, aim, high = quota.minimum, quota.target, quota.maximum
        last = turn[policy.fallback] if quota.newcomers else turn.get(quota.source_id, len(turn))
        behind = (1 + n) * (quota.source_id == policy.fallback and high >= policy.size)
        phase = np.where(n < low, 0, np.where(n < aim, 1, 2 + last))
        last_slot = high * whole // policy.size if quota.newcomers else high
        done, end = np.select([n < low, n < aim], [0, low], aim), np.select([n < low, n < aim], [low, aim], last_slot)
        step = ((2 * (n - done) + 1) << SLOT_BITS) // (2 * np.maximum(end - done, 1))
        slots.append(np.where(n < high, (phase << SLOT_BITS) + step, (OVER >> TIE_BITS) + behind))
    return np.stack(slots)


def _candidates(
    taken: Rows,
    ends: np.ndarray,
    place: np.ndarray,
    order: np.ndarray,
    explored: Explored,
    facts: Facts,
    policy: SurfacePolicy,
) -> pl.DataFrame:
    """Put candidates in order; those explored are the last rows of `taken`."""
    settled = len(taken) - len(explored.turn)
    taken, ends, position = taken.take(order), ends[order], place[order].astype(np.int32)
    propensity = np.append(np.ones(settled), explored.propensity)[order]
    stratum = pl.Series("stratum", [None], pl.String).extend(explored.stratum)
    drawn = np.concatenate([np.zeros(settled, np.int64), 1 + np.arange(len(explored.turn))])[order]
    shown = facts.item_codes.shown[taken.i]
    names = pl.Series("source_id", _names(policy))[taken.s.astype(np.int64)]
    until_ts = pa.array(ends, pa.timestamp("us", "UTC"), mask=ends == -1)
    score = (1.0 / (1.0 + position / policy.size)).astype(np.float32)
    return shown.hstack([
        pl.Series("k", taken.k), pl.Series("position", position), pl.Series("available_until", until_ts),
        pl.Series("blend_score", score), names, pl.Series("propensity", propensity), stratum[drawn].alias("stratum"),
    ])  # fmt: skip


def _sources(
    proposals: pl.DataFrame,
    rows: Rows,
    found: Settled,
    explored: Explored,
    k: np.ndarray,
    position: np.ndarray,
    order: np.ndarray,
) -> pl.DataFrame:
    """Return every surviving proposal behind each candidate, with its position. What was drawn has the pool for its source.

    Args:
      k, position, order: of candidates in order; those explored are numbered behind those settled.
    """
    counts = np.concatenate([found.num_behind, np.ones(len(explored.turn), np.int64)])
    begins = (np.cumsum(counts) - counts)[order]
    counts = counts[order]
    behind = np.concatenate([rows.p[found.behind], explored.rows.p])[np.repeat(begins, counts) + numbered(counts)]
    told = proposals.select(PROPOSAL_COLUMNS)[behind]
    position = np.repeat(position, counts).astype(np.int32)
    return told.hstack([pl.Series("k", np.repeat(k, counts)), pl.Series("position", position)])
