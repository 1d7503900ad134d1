"""Scores in fixed bins: what two days of a source are compared by, whatever the scale of its scores.

A bin is a quarter of an octave, and a score's sign: the bins of one source add up over shards and days, and a source fills a few
dozen of them.
"""

from collections import Counter

import numpy as np
import polars as pl

from transforms.sorted_groups import dense
from validation.score_gates import SCORES

_OCTAVES = 32
"""Below 2^-32 scores are one bin, and so are those above 2^32."""
_PARTS = 4
_TOLD = 11
"""Bits of a float32 that say its bin: sign, exponent, and the first two of the fraction for the quarter."""
_BELOW = np.uint32(32 - _TOLD)


def count_scores(proposals: pl.DataFrame) -> dict[str, int]:
    """Return, per source and bin, how many proposals have such a score; those that are no number are left to the row rules.

    Args:
      proposals: `source_id` and `raw_score`, of the proposal contract.
    """
    if not proposals.height:
        return {}
    runs = proposals["source_id"].rle().struct.unnest()
    sources = runs["value"].unique().sort()
    code = np.repeat(dense(runs["value"]).astype(np.int64), runs["len"].to_numpy())
    alike = (proposals["raw_score"].to_numpy() + np.float32(0)).view(np.uint32) >> _BELOW  # -0.0 becomes 0.0
    counts = np.bincount(code << _TOLD | alike, minlength=len(sources) << _TOLD).reshape(len(sources), -1)
    every = (np.arange(1 << _TOLD, dtype=np.uint32) << _BELOW).view(np.float32)
    bins, counts = score_bins(every[np.isfinite(every)]), counts[:, np.isfinite(every)]
    found = Counter[tuple[str, int]]()
    for source, value in np.argwhere(counts).tolist():
        found[sources[source], int(bins[value])] += int(counts[source, value])
    return {f"{SCORES}{source}:{bin_}": count for (source, bin_), count in sorted(found.items())}


def score_bins(scores: np.ndarray) -> np.ndarray:
    """Return the bin of each score, `(num_scores,) int32`: 0 for 0, and negative for scores below it.

    Of `m * 2^e` with `m` from 0.5 to 1 it is `4 * (32 + e)` and the quarter `m` is in: exact on every machine.
    """
    mantissa, exponent = np.frexp(np.nan_to_num(np.abs(scores.astype(np.float64))))
    octave = np.clip(exponent, -_OCTAVES, _OCTAVES) + _OCTAVES
    part = np.minimum(((mantissa - 0.5) * 2 * _PARTS).astype(np.int32), _PARTS - 1)
    bins = np.where(mantissa > 0, 1 + _PARTS * octave + part, 0)
    return (bins * np.sign(np.nan_to_num(scores))).astype(np.int32)
