"""What plays say of a candidate without a model: how often and how lately it is played, repeated, and next to the last items.

Memory: 12 bytes per pair of items seen near each other, twice, and 24 per item.
"""

import dataclasses

import numpy as np
import scipy.sparse as sp

from transforms.embed.interactions import Interactions
from transforms.embed.item_graph import count_transitions

_LATEST = 3  # items of a context whose transitions are features of their own
_NEAR = 5  # items of a context, and positions apart in the rows, for nearness
_LATE_SHARE = 0.05  # of the rows, the newest, after which a play's weight in late popularity falls by 1/e
_NEVER = 99.0
_FEW = 5  # plays: a smaller count says more of how the rows were cut than of the item


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """Counts over rows in time order.

    Attributes:
      plays: `(num_items,) float32`, at least `_FEW`. `late`: the same without a floor, where older rows weigh less.
        `repeats`: share of an item's plays in a row that already had it.
      follows: `(num_items, num_items) float32` sparse counts of direct followers. `near`: of being near, either order.
    """

    plays: np.ndarray
    late: np.ndarray
    repeats: np.ndarray
    follows: sp.csr_matrix
    near: sp.csr_matrix

    def features(self, contexts: Interactions, candidates: Interactions) -> dict[str, np.ndarray]:
        """Return `(num_candidates,) float32` by name."""
        rows, items = candidates.rows, candidates.items
        return {
            "plays": np.log1p(self.plays[items]),
            "late": np.log((self.late[items] + 0.1) / (self.plays[items] + 1)),
            "repeats": self.repeats[items],
            "length": contexts.lengths[rows],
            **_seen(contexts, candidates),
            "followed": _followed(contexts, candidates),
            **self._transitions(contexts, rows, items),
            **self._nearness(contexts, rows, items),
        }

    def _transitions(self, contexts: Interactions, rows: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
        found = {}
        for back in range(_LATEST):
            last = _item_back(contexts, back)[rows]
            known = last >= 0
            for name, pair in (("follows", (last, items)), ("leads", (items, last))):
                counts = np.zeros(len(items), np.float32)
                counts[known] = _lookup(self.follows, pair[0][known], pair[1][known])
                found[f"{name}{back}"] = np.log1p(counts)
                if back == 0:
                    found[f"{name}_share"] = counts / (self.plays[pair[0]] + 1)
        return found

    def _nearness(self, contexts: Interactions, rows: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
        total, sources = np.zeros(len(items), np.float32), np.zeros(len(items), np.float32)
        surprise = np.zeros(len(items), np.float32)
        for back in range(_NEAR):
            last = _item_back(contexts, back)[rows]
            known = last >= 0
            counts = np.zeros(len(items), np.float32)
            counts[known] = _lookup(self.near, last[known], items[known])
            expected = self.plays[last] * self.plays[items] / max(1.0, float(self.plays.sum()))
            surprise += np.where(counts > 0, np.log((counts + 0.5) / (expected + 0.5)), 0)
            total += counts
            sources += counts > 0
        return {"near": np.log1p(total), "near_items": sources, "surprise": surprise}

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return all counts."""
        found = {"plays": self.plays, "late": self.late, "repeats": self.repeats}
        for name, counts in (("follows", self.follows), ("near", self.near)):
            found |= {f"{name}_starts": counts.indptr, f"{name}_items": counts.indices, f"{name}_counts": counts.data}
        return found

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Evidence":
        """Return what `to_arrays` wrote."""
        shape = (len(arrays["plays"]),) * 2
        follows, near = (
            sp.csr_matrix((arrays[f"{n}_counts"], arrays[f"{n}_items"], arrays[f"{n}_starts"]), shape=shape)
            for n in ("follows", "near")
        )
        return cls(arrays["plays"], arrays["late"], arrays["repeats"], follows, near)


def fit_evidence(interactions: Interactions) -> Evidence:
    """Return the counts of rows in time order."""
    num_items, rows = interactions.num_items, interactions.rows
    plays = np.bincount(interactions.items, minlength=num_items)
    age = (len(interactions) - 1 - rows) / max(1.0, _LATE_SHARE * len(interactions))
    late = np.bincount(interactions.items, np.exp(-age), minlength=num_items)
    first = np.unique(rows * np.int64(num_items) + interactions.items, return_index=True)[1]
    again = plays - np.bincount(interactions.items[first], minlength=num_items)
    near = count_transitions(interactions, _NEAR, 1.0)
    near = (near + near.T).tocsr()
    follows = count_transitions(interactions, 1, 1.0)
    for counts in (near, follows):
        counts.sort_indices()
    parts = {
        "plays": np.maximum(plays, _FEW),
        "late": late,
        "repeats": again / (plays + 1),
        "follows": follows,
        "near": near,
    }
    return Evidence(**{name: part.astype(np.float32) for name, part in parts.items()})


def _item_back(contexts: Interactions, back: int) -> np.ndarray:
    """Return `(num_contexts,) int32`, the item so many steps from the end, or -1."""
    at = contexts.starts[1:] - 1 - back
    return np.where(at >= contexts.starts[:-1], contexts.items[np.maximum(at, 0)], -1) if len(contexts.items) else at


def _lookup(counts: sp.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.asarray(counts[rows, columns]).ravel() if len(rows) else np.empty(0, np.float32)


def _followed(contexts: Interactions, candidates: Interactions) -> np.ndarray:
    """Return how often a candidate already followed the last item within its context."""
    num_items = np.int64(contexts.num_items)
    after = (contexts.items == _item_back(contexts, 0)[contexts.rows])[:-1] & (contexts.rows[1:] == contexts.rows[:-1])
    found, times = np.unique((contexts.rows * num_items + contexts.items)[1:][after], return_counts=True)
    if not len(found):
        return np.zeros(len(candidates.items), np.float32)
    wanted = candidates.rows * num_items + candidates.items
    at = np.minimum(np.searchsorted(found, wanted), len(found) - 1)
    return np.where(found[at] == wanted, times[at], 0)


def _seen(contexts: Interactions, candidates: Interactions) -> dict[str, np.ndarray]:
    """Return how often a candidate is in its context, how many steps back the last time, and how repetitive that is."""
    num_items = np.int64(contexts.num_items)
    steps = np.repeat(contexts.starts[1:], contexts.lengths) - 1 - np.arange(len(contexts.items))
    keys, latest, times = np.unique(
        (contexts.rows * num_items + contexts.items)[::-1], return_index=True, return_counts=True
    )
    wanted = candidates.rows * num_items + candidates.items
    at = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
    seen = keys[at] == wanted if len(keys) else np.zeros(len(wanted), bool)
    distinct = np.bincount(keys // num_items, minlength=len(contexts)) / np.maximum(contexts.lengths, 1)
    if not len(keys):
        return {"times": seen, "steps": np.full(len(seen), _NEVER), "distinct": distinct[candidates.rows]}
    return {
        "times": np.where(seen, times[at], 0),
        "steps": np.where(seen, steps[::-1][latest][at], _NEVER),
        "distinct": distinct[candidates.rows],
    }
