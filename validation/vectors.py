"""What a sample of vectors says of all: whether they have collapsed, repeat each other, or moved since the last version."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import polars as pl

from schemas.hashing import hash64

SAMPLE = 5_000
FILES = 8
NEIGHBOURS = 20


@dataclasses.dataclass(frozen=True)
class VectorSample:
    """Figures of a sample of a dataset of vectors.

    Memory: `SAMPLE` vectors of each of `FILES` files at the most, and as many squared similarities.

    Attributes:
      before: files of an earlier version of the same space; none where there is none.
      plays: files of `key` and `positives`; none where keys are not played.
    """

    key: str
    before: Sequence[str] = ()
    plays: Sequence[str] = ()

    def __call__(self, staged: Sequence[str]) -> dict[str, int]:
        """Return `sampled` and `repeated` vectors, and in parts per million: `mean_cosine`, `effective_rank` (of the
        dimension), `overlap` of neighbours with those before, and the rank correlation of an item's mean score with its
        plays, `popularity`.
        """
        sample = read_sample(staged, self.key)
        if sample.height < 2:
            return {"sampled": sample.height}
        vectors = sample["vector"].to_numpy()
        figures = {
            "mean_cosine": mean_cosine(vectors), "effective_rank": effective_rank(vectors) / min(vectors.shape)
        } | self._against(sample)  # fmt: skip
        repeated = len(vectors) - len(np.unique(vectors, axis=0))
        return {"sampled": len(vectors), "repeated": repeated} | {
            f"{k}_ppm": round(1e6 * v) for k, v in figures.items()
        }

    def _against(self, sample: pl.DataFrame) -> dict[str, float]:
        figures = {}
        if self.before:
            both = sample.join(read_sample(self.before, self.key), on=self.key, maintain_order="left")
            if both.height > NEIGHBOURS:
                figures["overlap"] = neighbour_overlap(both["vector"].to_numpy(), both["vector_right"].to_numpy())
        if self.plays:
            known = pl.scan_parquet(list(self.plays)).join(sample.lazy(), on=self.key).filter(pl.col("positives") > 0)
            played = known.select(self.key, "positives", "vector").collect(engine="streaming").sort(self.key)
            mean = sample["vector"].to_numpy().mean(axis=0)
            scores = played["vector"].to_numpy() @ mean if played.height else np.empty(0)
            figures["popularity"] = rank_correlation(scores, played["positives"].to_numpy())
        return figures


def read_sample(paths: Sequence[str], key: str) -> pl.DataFrame:
    """Return `key` and `vector` of up to `SAMPLE` rows of the first `FILES` files, by the hash of their keys."""
    parts = [_lowest(pl.read_parquet(path, columns=[key, "vector"]), key) for path in sorted(paths)[:FILES]]
    return _lowest(pl.concat(parts), key)


def _lowest(rows: pl.DataFrame, key: str) -> pl.DataFrame:
    hashes = pl.Series("hash", hash64(rows[key].to_arrow()))
    return rows.with_columns(hashes).sort("hash", key).head(SAMPLE).drop("hash")


def mean_cosine(vectors: np.ndarray) -> float:
    """Return the mean cosine of all pairs of different vectors, `(n, dim) float32` of length 1."""
    total, n = vectors.sum(axis=0, dtype=np.float64), len(vectors)
    return float((total @ total - n) / (n * (n - 1)))


def effective_rank(vectors: np.ndarray) -> float:
    """Return the exponential of the entropy of the shares of the singular values (Roy and Vetterli 2007)."""
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def neighbour_overlap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the mean share of the `NEIGHBOURS` nearest that two versions of the same vectors agree on."""
    k = min(NEIGHBOURS, len(ours) - 1)
    near = [_nearest(vectors, k) for vectors in (ours, theirs)]
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*near, strict=True)]))


def _nearest(vectors: np.ndarray, k: int) -> np.ndarray:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    return np.argpartition(scores, -k, axis=1)[:, -k:]


def rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Return Spearman's correlation, 0 where either side is constant."""
    ranks = pl.DataFrame({"left": left, "right": right}).select(pl.all().rank("average"))
    found = ranks.select(pl.corr("left", "right")).item()
    return float(found) if found is not None and np.isfinite(found) else 0.0
