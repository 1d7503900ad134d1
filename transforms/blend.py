"""Blend: from proposals to ordered candidates, for a block of records at once.

    hard filters, each removal named -> one row per canonical item, all its sources kept -> quotas -> caps -> size
    -> slots drawn by lot, spread through the list

Pure, and vectorised over records with integer codes; the stream calls the same functions.
Memory: about 60 bytes per proposal and record of the block.
"""

import dataclasses

import numpy as np
import polars as pl

from schemas.hashing import hash64_one, mix64, mix_text
from schemas.policy import SurfacePolicy
from transforms.blend_order import any_right, behind, by_chance, interleave, primary_artists, without_runs
from transforms.explore import Explored, explore, nothing_explored
from transforms.filters import HARD_FILTERS, NO_CODE, Facts, Instant, Judged, Rows, hard_filters, series
from transforms.sorted_groups import dense, nth_of, order_by, starts, within

NOT_DRAWN = "not_drawn"
RULES = (*HARD_FILTERS, "duplicate", "quota", "series", "cap:artist", "cap:album", "cap:show", "cap:publisher", "size",
         NOT_DRAWN)  # fmt: skip
_CODE = {name: code for code, name in enumerate(RULES, start=1)}
_SLOT_BITS, _TIE_BITS = 14, 12
_OVER = np.int64(1) << 31
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
class Removed:
    """What was not taken and why, as parallel arrays; `rule` is 1 + index into `RULES`."""

    k: np.ndarray
    p: np.ndarray
    rule: np.ndarray
    detail: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class Blended:
    """Candidates and why everything else is not among them.

    Attributes:
      proposals: the table `Removed.p` points into.
      candidates: `k`, `position`, `item_id`, `item_type`, `canonical_id`, `artist_id`, `release_ts`, `available_until`,
        `blend_score`, `source_id`, the source whose slot it took, `propensity` (1 where it was not drawn), `stratum` (null
        where it was not drawn); sorted by `k` and `position`.
      sources: every surviving proposal behind a candidate: `k`, `position` and `PROPOSAL_COLUMNS`.
      offered: proposals judged, by `k`. Each is removed under one rule or stands behind a candidate; a recording that
        another one stands for is both, removed as `duplicate` and among the sources. Of a pool, only what may be drawn
        counts, and what is not drawn is counted but not listed: `removals` would be as large as the pools.
    """

    proposals: pl.DataFrame
    candidates: pl.DataFrame
    sources: pl.DataFrame
    removals: Removed
    offered: np.ndarray
    explored: Explored

    @property
    def removed(self) -> pl.DataFrame:
        """What was removed, spelled out: `k`, `item_id`, `source_id`, `rule`, `detail`."""
        rows = self.proposals.select("item_id", "source_id")[self.removals.p]
        rules = pl.Series("rule", RULES).gather(self.removals.rule.astype(np.int64) - 1)
        detail = pl.Series("detail", self.removals.detail).fill_nan(None)
        spelled = rows.with_columns(pl.Series("k", self.removals.k), rules, detail)
        return spelled.select("k", "item_id", "source_id", "rule", "detail").sort("k", "item_id", "source_id")

    def removed_by_rule(self) -> pl.DataFrame:
        """Count removals: `k`, `rule`, `len`, sorted."""
        counted = pl.DataFrame({"k": self.removals.k, "code": self.removals.rule}).group_by("k", "code").len()
        names = pl.col("code").cast(pl.Int64).replace_strict({v: n for n, v in _CODE.items()}, return_dtype=pl.String)
        k = np.flatnonzero(self.explored.left)
        not_drawn = pl.DataFrame({"k": k, "rule": [NOT_DRAWN] * len(k), "len": self.explored.left[k]})
        spelled = counted.select("k", names.alias("rule"), "len")
        return pl.concat([spelled, not_drawn.cast(spelled.schema)]).sort("k", "rule")


def blend(
    proposals: pl.DataFrame, facts: Facts, policy: SurfacePolicy, instant: Instant, chances: np.ndarray | None = None
) -> Blended:
    """Blend the proposals of a block.

    Args:
      proposals: the proposal contract's columns, of the records and of their groups.
      chances: `(num_proposals,) float64`, how likely each is taken up: what is chosen stands in the order of the chance that
        any of its sources is right. None: in the order of its slots.
    """
    rows, judged = _judged(proposals, facts, policy, instant)
    passed = judged.rule == 0
    kept, until = rows.take(passed), judged.available_until[passed]
    canonical = dense(facts.items["canonical_id"])[kept.i]
    merged, twin = merge_canonical(kept, canonical)
    slots, first = fill_quotas(kept, merged, canonical, policy, _ties(kept, facts, instant))
    chosen = kept.take(first)
    rule, place = apply_caps(chosen, slots, facts, policy)
    over = rule != 0
    rule, position = cut(chosen, slots, rule, place, policy)
    of = _standing_for(kept, canonical, first)
    taken = rule == 0
    settled = chosen.take(taken)
    if chances is not None:
        chance = any_right(chances[kept.p[merged]], starts(kept.k[merged], canonical[merged]), of[merged])
        position[taken] = by_chance(settled, chance[taken], over[taken], position[taken], facts, policy)
    explored, last = _explored(proposals, settled, facts, policy, instant)
    whole = Rows.joined(settled, explored.rows)
    place = interleave(whole.k, np.concatenate([position[taken], explored.turn]), len(settled))
    place = without_runs(whole, place, facts, policy)
    position[taken] = place[: len(settled)]
    removals = _removals(rows, judged, kept, twin, rule[of], position[of])
    end = np.concatenate([until[first][taken], last.available_until])
    candidates = _candidates(whole, end, place, explored, facts, policy)
    sources = _sources(proposals, kept, chosen.s[of], rule[of], position[of], explored.rows, place[len(settled) :])
    offered = np.bincount(rows.k, minlength=facts.records.height) + explored.sizes
    return Blended(proposals, candidates, sources, removals, offered, explored)


def _judged(proposals: pl.DataFrame, facts: Facts, policy: SurfacePolicy, instant: Instant) -> tuple[Rows, Judged]:
    """Judge what every record is offered; of what its group is offered, what may matter."""
    own, shared = offer(proposals, facts, policy)
    judged = hard_filters(own, facts, policy, instant)
    needed = shared.take(_needed(own.take(judged.rule == 0), shared, facts, policy))
    return Rows.joined(own, needed), Judged.joined(judged, hard_filters(needed, facts, policy, instant))


def _explored(
    proposals: pl.DataFrame, settled: Rows, facts: Facts, policy: SurfacePolicy, instant: Instant
) -> tuple[Explored, Judged]:
    """Draw what is explored, and judge it as everything else is."""
    if not policy.explore:
        explored = nothing_explored(facts.records.height)
    else:
        explored = explore(proposals, facts, (settled.k, settled.i), policy, instant)
    judged = hard_filters(explored.rows, facts, policy, instant)
    assert not judged.rule.any(), "a pool holds what a hard filter removes: propensities would be wrong"
    return explored, judged


def _needed(passed: Rows, shared: Rows, facts: Facts, policy: SurfacePolicy) -> np.ndarray:
    """Tell which group proposals may matter: all, or those of short records where the fallback only fills up."""
    fallback = next(quota for quota in policy.sources if quota.source_id == policy.fallback)
    if fallback.target > 0:
        return np.ones(len(shared), bool)
    survivors = np.bincount(passed.k, minlength=facts.records.height)
    return survivors[shared.k] < _AMPLE * policy.fill_to


def offer(proposals: pl.DataFrame, facts: Facts, policy: SurfacePolicy, pools: bool = False) -> tuple[Rows, Rows]:
    """Number the proposals of a block: each record is offered its own, and those of its market and tier.

    Records need `record_key` and `group`, the keys of their proposals.

    Args:
      pools: whether also what is only there to draw from.
    """
    codes = {quota.source_id: code for code, quota in enumerate(policy.sources)}
    items = facts.items.select("item_id").with_row_index("i")
    table = proposals.select("key", "item_id", "source_id", "source_rank").with_row_index("p")
    coded = table.join(items, on="item_id", how="left", maintain_order="left").select(
        "key", "p", pl.col("i").fill_null(int(NO_CODE)),
        pl.col("source_id").replace_strict(codes, return_dtype=pl.UInt8).alias("s"), pl.col("source_rank").alias("r"),
    )  # fmt: skip
    coded = coded if pools else coded.filter(pl.col("s") != codes.get(policy.explore, len(codes)))
    own = facts.records.select("k", pl.col("record_key").alias("key")).join(
        coded, on="key", maintain_order="left_right"
    )
    shared = facts.records.select("k", pl.col("group").alias("key")).join(coded, on="key", maintain_order="left_right")
    mine, everybodys = (Rows(*(rows[name].to_numpy() for name in ("k", "p", "i", "s", "r"))) for rows in (own, shared))
    return mine, everybodys


def merge_canonical(kept: Rows, canonical: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose one item per record and canonical id, the one ranked best by any source, and one row per source of it.

    Returns:
      Indices of the rows that stand for a source's proposal, and a mask of rows of another item than the chosen one.
    """
    order = order_by(kept.k, canonical, kept.r, kept.i)
    begins = starts(kept.k[order], canonical[order])
    best = kept.i[order][np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    twin = np.empty(len(order), bool)
    twin[order] = kept.i[order] != best
    chosen = np.flatnonzero(~twin)
    order = chosen[order_by(kept.k[chosen], canonical[chosen], kept.s[chosen], kept.r[chosen])]
    return order[starts(kept.k[order], canonical[order], kept.s[order])], twin


def _ties(kept: Rows, facts: Facts, instant: Instant) -> np.ndarray:
    """Return what tells equal slots apart: bits of the hash of record, item and date."""
    records, items = (mix_text(ids.to_arrow()) for ids in (facts.records["record_key"], facts.items["item_id"]))
    seed = np.uint64(hash64_one(instant.seed))
    mixed = mix64(mix64(records[kept.k], items[kept.i]), np.broadcast_to(seed, len(kept)))
    return (mixed >> np.uint64(64 - _TIE_BITS)).astype(np.int64)


def fill_quotas(
    kept: Rows, merged: np.ndarray, canonical: np.ndarray, policy: SurfacePolicy, ties: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give every candidate one slot: minima first, then targets in step, then maxima in `flow` order.

    A candidate of several sources takes the slot that comes first; the other sources then move up.

    Returns:
      Slots in blend order (`_OVER` and more: over its source's maximum) and the rows of `kept` they belong to, both
      sorted by record and slot.
    """
    slot = _slots(kept.take(merged), ties[merged], policy)
    order = order_by(kept.k[merged], canonical[merged], slot, kept.s[merged])
    begins = starts(kept.k[merged][order], canonical[merged][order])
    single = merged[order[begins]]
    slot = _slots(kept.take(single), ties[single], policy)
    order = order_by(kept.k[single], slot, kept.i[single])
    return slot[order], single[order]


def _slots(rows: Rows, ties: np.ndarray, policy: SurfacePolicy) -> np.ndarray:
    """Return slots in fixed point: 0..1 minima, 1..2 targets, 2+f the f-th of the flow; the tie-break in the low bits."""
    n = nth_of(order_by(rows.k, rows.s, rows.r, ties), rows.k, rows.s)
    table = _slot_table(policy)
    return (table[rows.s, np.minimum(n, table.shape[1] - 1)] << _TIE_BITS) | ties


def _slot_table(policy: SurfacePolicy) -> np.ndarray:
    """Return the slot of the n-th proposal of each source, `(num_sources, most + 1) int64`; `_OVER` beyond its maximum."""
    n = np.arange(max(quota.maximum for quota in policy.sources) + 1)
    turn = {source: place for place, source in enumerate(policy.flow)}
    slots = []
    for quota in policy.sources:
        low, aim, high = quota.minimum, quota.target, quota.maximum
        phase = np.where(n < low, 0, np.where(n < aim, 1, 2 + turn.get(quota.source_id, len(turn))))
        done, end = np.select([n < low, n < aim], [0, low], aim), np.select([n < low, n < aim], [low, aim], high)
        step = ((2 * (n - done) + 1) << _SLOT_BITS) // (2 * np.maximum(end - done, 1))
        slots.append(np.where(n < high, (phase << _SLOT_BITS) + step, _OVER >> _TIE_BITS))
    return np.stack(slots)


def apply_caps(chosen: Rows, slots: np.ndarray, facts: Facts, policy: SurfacePolicy) -> tuple[np.ndarray, np.ndarray]:
    """Name what exceeds its quota or the caps per artist, album, show and publisher, and order the rest.

    An artist's surplus of the first slots goes behind them. What is over a cap goes to the very end, where it serves only
    to bring a short set to its minimum; an item without the attribute is never capped by it. Of a series of audiobooks the
    first one stays, and no other, however short the set.

    Returns:
      Rule codes (0: none) and each row's place within its record.
    """
    rule = np.where(slots >= _OVER, _CODE["quota"], 0).astype(np.uint8)
    artist = primary_artists(facts)
    # The narrow first: what an album gives away must not use up its artist's room.
    limits = {"album": policy.album, "show": policy.show, "artist": policy.artist, "publisher": policy.publisher}
    columns = {
        "artist": artist,
        "album": facts.items["album_id"],
        "show": facts.items["show_id"],
        "publisher": facts.items["publisher"],
    }
    again = _counted(chosen, rule, dense(facts.items.select(series()).to_series())) >= 1
    rule[again] = _CODE["series"]
    for name, limit in limits.items():
        rule[_counted(chosen, rule, dense(columns[name])) >= limit] = _CODE[f"cap:{name}"]
    late, left = np.zeros(len(chosen), bool), np.flatnonzero(rule == 0)
    late[left] = behind(chosen.k[left], dense(artist)[chosen.i[left]], policy)
    over = np.where(np.isin(rule, (_CODE["quota"], _CODE["series"])), 2, rule != 0)
    return rule, nth_of(order_by(chosen.k, over, late, np.arange(len(chosen))), chosen.k)


def _counted(chosen: Rows, rule: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Return how often the code of each row's item stands before it in its record; -1 without one, or where a rule holds.

    Args:
      code: by item, `NO_CODE` for none.
    """
    mine = code[chosen.i]
    counted = np.flatnonzero((rule == 0) & (mine != NO_CODE))
    nth = np.full(len(chosen), -1)
    nth[counted] = nth_of(order_by(chosen.k[counted], mine[counted], counted), chosen.k[counted], mine[counted])
    return nth


def cut(
    chosen: Rows, slots: np.ndarray, rule: np.ndarray, place: np.ndarray, policy: SurfacePolicy
) -> tuple[np.ndarray, np.ndarray]:
    """Cut to size; the fallback source fills a set no further than `fill_to`, caps no further than `minimum_size`.

    Returns:
      Rule codes, 0 for candidates, and positions of the candidates without what is explored.
    """
    fallback = [quota.source_id for quota in policy.sources].index(policy.fallback)
    filler = (chosen.s == fallback) & (slots >= np.int64(2) << (_SLOT_BITS + _TIE_BITS))
    capped = rule >= _CODE["cap:artist"]
    rule = np.where(capped & (place < policy.minimum_size), 0, rule).astype(np.uint8)
    too_far = (place >= policy.size - policy.explore_slots) | (filler & (place >= policy.fill_to))
    rule = np.where((rule == 0) & too_far, _CODE["size"], rule).astype(np.uint8)
    taken = np.flatnonzero(rule == 0)
    order = taken[order_by(chosen.k[taken], place[taken])]
    position = place.copy()
    position[order] = within(starts(chosen.k[order]))
    return rule, position


def _standing_for(kept: Rows, canonical: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return, for each row, which of the rows `first` stands for its record and canonical item."""
    wanted = kept.k.astype(np.int64) << 32 | canonical.astype(np.int64)
    order = np.argsort(wanted[first])
    return order[np.searchsorted(wanted[first][order], wanted)]


def _removals(
    rows: Rows, judged: Judged, kept: Rows, twin: np.ndarray, rule: np.ndarray, position: np.ndarray
) -> Removed:
    out, over = judged.rule != 0, (rule != 0) & ~twin
    nothing = np.full(int(twin.sum()), np.nan)
    return Removed(
        np.concatenate([rows.k[out], kept.k[twin], kept.k[over]]),
        np.concatenate([rows.p[out], kept.p[twin], kept.p[over]]),
        np.concatenate([judged.rule[out], np.full(int(twin.sum()), _CODE["duplicate"], np.uint8), rule[over]]),
        np.concatenate([judged.detail[out], nothing, position[over].astype(np.float64)]),
    )


def _candidates(
    taken: Rows, until: np.ndarray, position: np.ndarray, explored: Explored, facts: Facts, policy: SurfacePolicy
) -> pl.DataFrame:
    """Put candidates in order; those explored are the last rows of `taken`."""
    order, settled = order_by(taken.k, position), len(taken) - len(explored.turn)
    taken, until, position = taken.take(order), until[order], position[order].astype(np.int32)
    propensity = np.append(np.ones(settled), explored.propensity)[order]
    stratum = pl.concat([pl.Series("stratum", [None] * settled, pl.String), explored.stratum]).gather(order)
    artist = pl.col("artists").list.first().struct.field("artist_id").alias("artist_id")
    shown = facts.items.select("item_id", "item_type", "canonical_id", artist, "release_ts")[taken.i.astype(np.int64)]
    names = pl.Series("source_id", [quota.source_id for quota in policy.sources]).gather(taken.s.astype(np.int64))
    end = pl.Series("available_until", until).replace(-1, None).cast(pl.Datetime("us", "UTC"))
    score = (1.0 / (1.0 + position / policy.size)).astype(np.float32)
    return shown.with_columns(
        pl.Series("k", taken.k), pl.Series("position", position), end, pl.Series("blend_score", score), names,
        pl.Series("propensity", propensity), stratum.alias("stratum"),
    )  # fmt: skip


def _sources(
    proposals: pl.DataFrame,
    kept: Rows,
    slot_of: np.ndarray,
    rule: np.ndarray,
    position: np.ndarray,
    drawn: Rows,
    drawn_position: np.ndarray,
) -> pl.DataFrame:
    """Return every surviving proposal whose record took its canonical item, with the candidate's position.

    The source whose slot it took comes first, then the better rank. What was drawn has the pool for its source.
    """
    there = rule == 0
    behind, at = Rows.joined(kept.take(there), drawn), np.concatenate([position[there], drawn_position])
    other = behind.s != np.append(slot_of[there], drawn.s)
    order = order_by(behind.k, at, other, behind.r, behind.s)
    rows = proposals.select(PROPOSAL_COLUMNS)[behind.p[order].astype(np.int64)]
    return rows.with_columns(pl.Series("k", behind.k[order]), pl.Series("position", at[order].astype(np.int32)))
