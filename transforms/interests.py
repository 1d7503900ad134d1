"""Interests: the few groups that a listener's plays fall into by the vectors of their items.

By Ward's method, as PinnerSage parts the actions of a user (Pal et al., "PinnerSage: Multi-Modal User Embedding Framework for
Recommendations at Pinterest", KDD 2020): again and again those two groups become one whose joining adds least to the squared
distances from the middles of groups. Nothing is drawn by lot, and nobody's interests depend on anybody else's plays.
Memory: `8 * n**2` bytes for a listener of n plays; 320 kB for 200.
"""

import numpy as np

from transforms.compiled import compiled

MOST_INTERESTS = 4
"""Domain reference, section 4."""
PLAYS_OF_ONE = 5
"""For every so many plays there may be an interest: fewer fall into groups by chance. On amazon-beauty, where most users have
three to seven, R@100 of the source is .235 with 5 as with one interest for all, .234 with 3."""
APART = 0.4
"""Two groups stay two where joining them makes more than this share of what the plays of both then lie from their middle
(the ratio of errors of Duda and Hart, "Pattern Classification and Scene Analysis", 1973): a share means the same in a space
of narrow angles. On lastfm-2k R@100 of the source is .294 with .3, .310 with .4, .311 with .5; of one vector of the last ten
plays .307."""


def interests(vectors: np.ndarray, starts: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Return the interest of each play, 0 for that of a listener's newest, `(num_plays,) int8`, below `MOST_INTERESTS`.

    Args:
      vectors: `(num_plays, dim) float32`, oldest first within a listener.
      starts: `(num_listeners + 1,) int64`; the plays of listener r are those from `starts[r]` up to `starts[r + 1]`.
      told: `(num_plays,) bool`: what interests are made of. Other plays, skips for example, belong to the one whose middle
        they are likest, without a vector to the newest.
    """
    found = np.zeros(len(vectors), np.int8)
    _part_all(np.ascontiguousarray(vectors), starts, told, found)
    return found


@compiled
def _part_all(vectors, starts, told, found):
    for row in range(len(starts) - 1):
        own = np.flatnonzero(told[starts[row] : starts[row + 1]]) + starts[row]
        if len(own) >= 2 * PLAYS_OF_ONE:
            found[own] = _parted(vectors[own], APART)
            middles = _middles(vectors[own], found[own])
            for play in range(starts[row], starts[row + 1]):
                if not told[play]:
                    found[play] = np.argmax(np.sum(middles * vectors[play], axis=1))


@compiled
def _parted(vectors, share):
    """Return the interest of each of two plays or more; `share` is `APART`."""
    cost, scatter = _costs(vectors), np.zeros(len(vectors))
    np.fill_diagonal(cost, np.inf)
    group, size, near = np.arange(len(cost)), np.ones(len(cost), np.int64), np.empty(len(cost), np.int64)
    for one in range(len(cost)):
        near[one] = np.argmin(cost[one])
    for left in range(len(cost), 1, -1):
        a = 0
        for one in range(len(cost)):
            if cost[one, near[one]] < cost[a, near[a]]:
                a = one
        b = near[a]
        joined = scatter[a] + scatter[b] + cost[a, b]
        if left <= min(MOST_INTERESTS, len(cost) // PLAYS_OF_ONE) and cost[a, b] > share * joined:
            break
        scatter[a] = joined
        _join(cost, size, a, b)
        for one in range(len(cost)):
            group[one] = a if group[one] == b else group[one]
            if one == a or near[one] == a or near[one] == b:
                near[one] = np.argmin(cost[one])
    return _newest_first(group)


@compiled
def _costs(vectors):
    """Return what joining two plays adds, half their squared distance, `(n, n) float64`."""
    across = vectors.T.copy()
    cost = np.zeros((len(vectors), len(vectors)))
    for axis in across:
        for a in range(len(axis)):
            for b in range(len(axis)):
                cost[a, b] += 0.5 * (axis[a] - axis[b]) ** 2
    return cost


@compiled
def _join(cost, size, a, b):
    """Put group b into group a, by the formula of Lance and Williams."""
    for c in range(len(cost)):
        if size[c] and c != a and c != b:
            grown = (size[a] + size[c]) * cost[a, c] + (size[b] + size[c]) * cost[b, c] - size[c] * cost[a, b]
            cost[a, c] = cost[c, a] = grown / (size[a] + size[b] + size[c])
    cost[b, :] = cost[:, b] = np.inf
    size[a], size[b] = size[a] + size[b], 0


@compiled
def _newest_first(group):
    """Number groups from 0 in order of their newest play."""
    number, found, known = np.full(len(group), -1), np.empty(len(group), np.int8), 0
    for play in range(len(group) - 1, -1, -1):
        if number[group[play]] < 0:
            number[group[play]] = known
            known += 1
        found[play] = number[group[play]]
    return found


@compiled
def _middles(vectors, found):
    """Return the middle of each interest, `(num_interests, dim) float32`."""
    middles = np.zeros((found.max() + 1, vectors.shape[1]), np.float32)
    for play in range(len(vectors)):
        middles[found[play]] += vectors[play]
    for one in range(len(middles)):
        middles[one] /= np.float32(np.sum(found == one))
    return middles
