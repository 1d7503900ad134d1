"""Neighbour sessions: what came next in the earlier sessions that share the most telling items with this one.

Jannach and Ludewig, "When recurrent neural networks meet the neighborhood for session-based recommendation" (2017), and
Garg et al., "Sequence and time aware neighborhood for session-based recommendations" (2019), with votes that fall with
the distance from a shared item, ahead and behind.

Memory: 8 bytes per interaction, 12 per row and 16 per item; to score, 16 more per row and 16 per item, besides the answer.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from transforms.compiled import compiled
from transforms.embed.interactions import Interactions

_REACH = 16  # positions ahead and behind that a shared item still speaks for: votes there are 3 % of the first
_TOLD = ("holders", "like", "best", "newest", "run", "after", "ahead", "gap", "match")
_CONTEXT = 100  # latest items of a context that are read: later ones weigh below 2 % at the default decay


@dataclasses.dataclass(frozen=True, slots=True)
class SessionKnnSettings:
    """How neighbours are found and how they vote.

    Attributes:
      neighbours: rows that vote for one context.
      item_decay: items back after which an item of the context counts by 1/e towards a neighbour.
      rarity: power of the inverse document frequency in the likeness of a neighbour; its votes take half of it.
      vote_decay: items back after which the votes around a shared item count by 1/e.
      staleness: how much less the oldest row is like anything than the newest, as a power of 1/e.
      power: power of the likeness in a vote.
      behind: votes of the item just before a shared one, against the item just after it.
      follower: extra vote of the item just after a shared one.
      repeats: factor of items the context already has.
      popularity: negative power of the number of rows with an item.
    """

    neighbours: int = 400
    item_decay: float = 25.0
    rarity: float = 3.5
    vote_decay: float = 2.5
    staleness: float = 0.9
    power: float = 1.2
    behind: float = 0.8
    follower: float = 0.45
    repeats: float = 0.6
    popularity: float = 0.03


SESSION_KNN_GRID = (
    SessionKnnSettings(),
    SessionKnnSettings(rarity=2.0),
    SessionKnnSettings(vote_decay=4.0),
)


class _Rows(NamedTuple):
    """Rows both ways: the items of a row, and the rows of an item, ascending."""

    starts: np.ndarray
    items: np.ndarray
    list_starts: np.ndarray
    list_rows: np.ndarray


class _Weights(NamedTuple):
    """Factors by item (`pull`, `lead`, `common`), by row (`fresh`), by age and by distance."""

    pull: np.ndarray
    lead: np.ndarray
    common: np.ndarray
    fresh: np.ndarray
    item_ages: np.ndarray
    vote_ages: np.ndarray
    ahead: np.ndarray
    behind: np.ndarray
    power: np.float32
    repeats: np.float32


class _Scratch(NamedTuple):
    """Cleared after every context: likeness of rows, places of items in the context from 1, votes of items."""

    likeness: np.ndarray
    reached: np.ndarray
    place: np.ndarray
    votes: np.ndarray
    voted: np.ndarray


@dataclasses.dataclass(frozen=True)  # without slots: weights are made once
class SessionKnn:
    """Rows to find neighbours among.

    Attributes:
      rows: oldest first.
      list_starts, list_rows: `(num_items + 1,) int64` and `(num_interactions,) int32`, which rows have an item, each once.
      counts: `(num_items,) int64`, rows with an item.
    """

    settings: SessionKnnSettings
    rows: Interactions
    list_starts: np.ndarray
    list_rows: np.ndarray
    counts: np.ndarray

    def neighbours(self, contexts: Interactions) -> np.ndarray:
        """Return `(num_contexts, neighbours) int64` keys, best last: likeness as float32 bits, then the row's number.

        Places without a neighbour hold 0. Of rows equally alike, the newer is the better.
        """
        found = np.zeros((len(contexts), self.settings.neighbours), np.int64)
        read = contexts.last(_CONTEXT)
        _find_all(read.starts, read.items, self._rows(), self._weights, self._scratch(), found)
        found.sort(axis=1)
        return found

    def score(self, contexts: Interactions) -> np.ndarray:
        """Return `(num_contexts, num_items) float32` votes."""
        keys = self.neighbours(contexts)
        scores = np.zeros((len(contexts), self.rows.num_items), np.float32)
        read = contexts.last(_CONTEXT)
        _vote_all(read.starts, read.items, self._rows(), self._weights, keys, self._scratch(), scores)
        return scores

    def top(self, contexts: Interactions, best: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `(num_contexts, best)` items int32 and votes float32, best first; places left over hold -1 and 0."""
        keys = self.neighbours(contexts)
        found = np.zeros((len(contexts), best), np.int64)
        read = contexts.last(_CONTEXT)
        _top_all(read.starts, read.items, self._rows(), self._weights, keys, self._scratch(), found)
        found.sort(axis=1)
        items = np.where(found > 0, self.rows.num_items - 1 - (found & 0xFFFFFFFF), -1).astype(np.int32)
        return items[:, ::-1], (found >> 32).astype(np.int32).view(np.float32)[:, ::-1]

    def features(self, contexts: Interactions, candidates: Interactions) -> dict[str, np.ndarray]:
        """Return `(num_candidates,) float32` by name: what the neighbours say of a candidate besides their votes.

        `holders`: neighbours that have it. `like`: their likeness added up. `best`: that of the best one, against the
        best neighbour. `newest`: where the newest lies among all rows, from 0 to 1. `run`: the longest run of the
        context's last items right before it. `after`: likeness of the neighbours where it follows the last item;
        `ahead`: where it is anywhere after the latest item they share. `gap`: how far after, in the best one. `match`: how
        much of the context's weight the best neighbour of all has.
        """
        keys = self.neighbours(contexts)
        found = np.zeros((len(candidates.items), len(_TOLD)), np.float32)
        slots = np.zeros((2, self.rows.num_items), np.int64)
        read, asked = contexts.last(_CONTEXT), (candidates.starts, candidates.items, found)
        _tell_all(read.starts, read.items, self._rows(), self._weights, keys, slots, asked)
        found[:, _TOLD.index("newest")] /= len(self.rows)
        return dict(zip(_TOLD, found.T, strict=True))

    def _rows(self) -> _Rows:
        return _Rows(self.rows.starts, self.rows.items, self.list_starts, self.list_rows)

    @functools.cached_property
    def _weights(self) -> _Weights:
        s = self.settings
        counts = np.maximum(self.counts, 1)
        rare = np.log((len(self.rows) + 1) / counts)
        newer = np.arange(len(self.rows))[::-1] / max(len(self.rows), 1)
        distances, ages = np.arange(_REACH), np.arange(_CONTEXT)
        return _Weights(
            pull=_single(rare**s.rarity),
            lead=_single(rare ** (s.rarity / 2)),
            common=_single(counts**-s.popularity),
            fresh=_single(np.exp(-s.staleness * newer)),
            item_ages=_single(np.exp(-ages / s.item_decay)),
            vote_ages=_single(np.exp(-ages / s.vote_decay)),
            ahead=_single(np.exp(-distances / 4.0) + s.follower * (distances == 0)),
            behind=_single(s.behind * np.exp(-distances / 3.0)),
            power=np.float32(s.power),
            repeats=np.float32(s.repeats),
        )

    def _scratch(self) -> _Scratch:
        rows, items = len(self.rows), self.rows.num_items
        return _Scratch(
            np.zeros(rows, np.float32),
            np.zeros(rows, np.int64),
            np.zeros(items, np.int32),
            np.zeros(items, np.float32),
            np.zeros(items, np.int64),
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything but what is quickly built again."""
        return {
            "settings": np.array(dataclasses.astuple(self.settings), np.float64),
            "starts": self.rows.starts,
            "items": self.rows.items,
            "counts": self.counts,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "SessionKnn":
        """Return the model that `to_arrays` wrote."""
        neighbours, *others = arrays["settings"].tolist()
        items = arrays["items"]
        rows = Interactions(arrays["starts"], items, np.ones(len(items), np.float32), len(arrays["counts"]))
        settings = SessionKnnSettings(int(neighbours), *others)
        return cls(settings, rows, *_inverted(rows), arrays["counts"])


def fit_session_knn(interactions: Interactions, settings: SessionKnnSettings, seed: int = 0) -> SessionKnn:
    """Return a model over rows that lie in time order; `seed` is not used, as nothing is drawn."""
    list_starts, list_rows = _inverted(interactions)
    return SessionKnn(settings, interactions, list_starts, list_rows, np.diff(list_starts))


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _inverted(rows: Interactions) -> tuple[np.ndarray, np.ndarray]:
    lists = rows.matrix().tocsc()
    return lists.indptr.astype(np.int64), lists.indices.astype(np.int32)


@compiled
def _mark(context, scratch):
    """Note each item's place back from the end, from 1; of a repeated item, the latest."""
    for at in range(len(context)):
        scratch.place[context[at]] = len(context) - at


@compiled
def _unmark(context, scratch):
    for item in context:
        scratch.place[item] = 0


@compiled
def _keep(key, heap):
    """Put a key in the place of the least of those kept, where it is larger. The first of a heap is its least."""
    if key <= heap[0]:
        return
    at, size = 0, len(heap)
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = key


@compiled
def _find(context, rows, weights, scratch, heap):
    """Keep the keys of the rows most like the context, in no order."""
    size = 0
    for at in range(len(context)):
        item, age = context[at], len(context) - 1 - at
        if scratch.place[item] != age + 1:
            continue
        gain = weights.pull[item] * weights.item_ages[age]
        for row in rows.list_rows[rows.list_starts[item] : rows.list_starts[item + 1]]:
            if scratch.likeness[row] == 0:
                scratch.reached[size] = row
                size += 1
            scratch.likeness[row] += gain
    bits = scratch.likeness.view(np.int32)
    for at in range(size):
        row = scratch.reached[at]
        scratch.likeness[row] *= weights.fresh[row]
        _keep((np.int64(bits[row]) << 32) | row, heap)
        scratch.likeness[row] = 0


@compiled
def _find_all(starts, items, rows, weights, scratch, found):
    for number in range(len(starts) - 1):
        context = items[starts[number] : starts[number + 1]]
        _mark(context, scratch)
        _find(context, rows, weights, scratch, found[number])
        _unmark(context, scratch)


@compiled
def _spread(row, voice, weights, scratch, votes, size):
    """Add the votes of one neighbour around every item it shares; return how many items have votes so far."""
    for at in range(len(row)):
        place = scratch.place[row[at]]
        if place == 0:
            continue
        vote = voice * weights.vote_ages[place - 1] * weights.lead[row[at]]
        for to in range(max(0, at - _REACH), min(len(row), at + _REACH + 1)):
            if to == at:
                continue
            item = row[to]
            if votes[item] == 0:
                scratch.voted[size] = item
                size += 1
            votes[item] += vote * (weights.ahead[to - at - 1] if to > at else weights.behind[at - to - 1])
    return size


@compiled
def _vote(rows, weights, keys, scratch, votes):
    """Add the votes of all neighbours, the best first; return how many items have some."""
    size = 0
    likeness = (keys >> 32).astype(np.int32).view(np.float32)
    for at in range(len(keys) - 1, -1, -1):
        row = keys[at] & 0xFFFFFFFF
        if keys[at] == 0:
            break
        voice = likeness[at] ** weights.power
        size = _spread(rows.items[rows.starts[row] : rows.starts[row + 1]], voice, weights, scratch, votes, size)
    for at in range(size):
        item = scratch.voted[at]
        votes[item] *= weights.common[item] * (weights.repeats if scratch.place[item] else np.float32(1.0))
    return size


@compiled
def _vote_all(starts, items, rows, weights, keys, scratch, scores):
    for number in range(len(starts) - 1):
        context = items[starts[number] : starts[number + 1]]
        _mark(context, scratch)
        _vote(rows, weights, keys[number], scratch, scores[number])
        _unmark(context, scratch)


@compiled
def _top_all(starts, items, rows, weights, keys, scratch, found):
    bits = scratch.votes.view(np.int32)
    for number in range(len(starts) - 1):
        context = items[starts[number] : starts[number + 1]]
        _mark(context, scratch)
        size = _vote(rows, weights, keys[number], scratch, scratch.votes)
        for at in range(size):
            item = scratch.voted[at]
            _keep((np.int64(bits[item]) << 32) | (len(scratch.votes) - 1 - item), found[number])
            scratch.votes[item] = 0
        _unmark(context, scratch)


@compiled
def _latest(row, places):
    """Return where a row has the latest item it shares with the context."""
    best = 0
    for at in range(len(row)):
        if places[row[at]] and (places[row[best]] == 0 or places[row[at]] <= places[row[best]]):
            best = at
    return best


@compiled
def _tell(context, row, voice, slots, told):
    """Add what one neighbour, of a likeness against the best one's, says of the candidates it has."""
    like, number = voice
    size, last = len(context), _latest(row, slots[1])
    for at in range(len(row)):
        slot = slots[0, row[at]] - 1
        if slot < 0:
            continue
        run = 0
        while run < min(at, size) and row[at - 1 - run] == context[size - 1 - run]:
            run += 1
        one = told[slot]
        if one[0] == 0:
            one[7] = max(-_REACH, min(_REACH, at - last))
        one[0] += 1
        one[1] += like
        one[2] = max(one[2], like)
        one[3] = max(one[3], number)
        one[4] = max(one[4], run)
        one[5] += like if run else np.float32(0)
        one[6] += like if at > last else np.float32(0)


@compiled
def _weight(context, weights, places):
    """Return how alike the context and a row of all its items are."""
    total = np.float32(0)
    for at in range(len(context)):
        if places[context[at]] == len(context) - at:
            total += weights.pull[context[at]] * weights.item_ages[len(context) - 1 - at]
    return total


@compiled
def _tell_all(starts, items, rows, weights, keys, slots, asked):
    ask_starts, ask_items, told = asked
    for number in range(len(starts) - 1):
        context = items[starts[number] : starts[number + 1]]
        low, high = ask_starts[number], ask_starts[number + 1]
        for at in range(low, high):
            slots[0, ask_items[at]] = at - low + 1
        for at in range(len(context)):
            slots[1, context[at]] = len(context) - at
        likeness = (keys[number] >> 32).astype(np.int32).view(np.float32)
        for at in range(len(likeness) - 1, -1, -1):
            if keys[number, at] == 0:
                break
            row = keys[number, at] & 0xFFFFFFFF
            held = rows.items[rows.starts[row] : rows.starts[row + 1]]
            _tell(context, held, (likeness[at] / likeness[-1], row), slots, told[low:high])
        if len(context):
            told[low:high, 8] = likeness[-1] / max(_weight(context, weights, slots[1]), np.float32(1e-12))
        for at in range(low, high):
            slots[0, ask_items[at]] = 0
        for item in context:
            slots[1, item] = 0
