"""The places of what was chosen: by chance, an artist's surplus behind the first slots, explored items spread, no long runs."""

import numpy as np

from schemas.policy import SurfacePolicy
from transforms.compiled import compiled
from transforms.filters import Facts, Rows
from transforms.id_index import NO_CODE
from transforms.sorted_groups import order_by, starts, within


def interleave(settled: np.ndarray, explored: np.ndarray) -> np.ndarray:
    """Spread what is explored evenly through each record's list: the j-th of m at (2 j + 1) / 2 m of the way.

    Args:
      settled, explored: how many of each there are, `(num_records,) int64`.

    Returns:
      Positions of all that is settled, by record and in order, then of all that is explored.
    """
    num_settled = int(settled.sum())
    position = np.empty(num_settled + int(explored.sum()), np.int64)
    _interleave(settled, explored, position[:num_settled], position[num_settled:])
    return position


@compiled
def _interleave(settled, explored, position, explored_position):
    """Merge by `(2 place + 1) / (2 count)`; of equal ones what is settled comes first."""
    row, explored_row = 0, 0
    for record in range(len(settled)):
        near, far, n, m = settled[record], explored[record], 0, 0
        for place in range(near + far):
            if m == far or (n < near and (2 * n + 1) * far <= (2 * m + 1) * near):
                position[row + n] = place
                n += 1
            else:
                explored_position[explored_row + m] = place
                m += 1
        row, explored_row = row + near, explored_row + far


def without_runs(chosen: Rows, position: np.ndarray, facts: Facts, policy: SurfacePolicy) -> np.ndarray:
    """Reorder the records in which more candidates of one artist follow each other than may (`Facts.max_run`, or the policy's).

    The next candidate of another artist is drawn forward; where there is none, the run stays. Only the records that
    need it are walked through.
    """
    most = np.full(facts.records.height, policy.max_run) if facts.max_run is None else facts.max_run
    if not most.any():
        return position
    order = order_by(chosen.k, position)
    k = chosen.k[order]
    artist = facts.item_codes.arrays.items["artist"][chosen.i[order]]
    run = (artist != NO_CODE) & (most[k] > 0) & (within(starts(k, artist)) >= most[k])
    bounds = np.append(np.flatnonzero(starts(k)), len(k))
    result = position.copy()
    for record in np.unique(np.searchsorted(bounds, np.flatnonzero(run), side="right") - 1):
        start, stop = bounds[record], bounds[record + 1]
        result[order[start:stop]] = _spread(artist[start:stop].tolist(), int(most[k[start]]))
    return result


def _spread(artists: list[int], max_run: int) -> np.ndarray:
    """Return the new position of each row: greedy, first come first served but for runs."""
    waiting, positions = list(range(len(artists))), np.empty(len(artists), np.int64)
    last, run = int(NO_CODE), 0
    for place in range(len(artists)):
        pick = 0
        if run >= max_run and last != NO_CODE:
            pick = next((n for n, row in enumerate(waiting) if artists[row] != last), 0)
        row = waiting.pop(pick)
        run = run + 1 if artists[row] == last else 1
        last = artists[row]
        positions[row] = place
    return positions
