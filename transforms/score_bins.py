"""Scores in fixed bins: what two days of a source are compared by, whatever the scale of its scores.

A bin is a quarter of an octave, and a score's sign: the bins of one source add up over shards and days, and a source fills a few
dozen of them.
"""

import numpy as np
import polars as pl

from validation.score_gates import SCORES

_OCTAVES = 32
"""Below 2^-32 scores are one bin, and so are those above 2^32."""
_PARTS = 4


def count_scores(proposals: pl.DataFrame) -> dict[str, int]:
    """Return, per source and bin, how many proposals have such a score; those that are no number are left to the row rules.

    Args:
      proposals: `source_id` and `raw_score`, of the proposal contract.
    """
    told = proposals.select("source_id", pl.Series("bin", score_bins(proposals["raw_score"].to_numpy())))
    finite = told.filter(proposals["raw_score"].is_finite().fill_null(False))
    counted = finite.group_by("source_id", "bin").len().sort("source_id", "bin")
    return {f"{SCORES}{source}:{bin_}": n for source, bin_, n in counted.rows()}


def score_bins(scores: np.ndarray) -> np.ndarray:
    """Return the bin of each score, `(num_scores,) int32`: 0 for 0, and negative for scores below it.

    Of `m * 2^e` with `m` from 0.5 to 1 it is `4 * (32 + e)` and the quarter `m` is in: exact on every machine.
    """
    mantissa, exponent = np.frexp(np.nan_to_num(np.abs(scores.astype(np.float64))))
    octave = np.clip(exponent, -_OCTAVES, _OCTAVES) + _OCTAVES
    part = np.minimum(((mantissa - 0.5) * 2 * _PARTS).astype(np.int32), _PARTS - 1)
    bins = np.where(mantissa > 0, 1 + _PARTS * octave + part, 0)
    return (bins * np.sign(np.nan_to_num(scores))).astype(np.int32)
