"""One ranking out of several families': a convex blend of their scores, whose best are ordered again by boosted trees.

The blend is a conditional logit, McFadden, "Conditional logit analysis of qualitative choice behavior" (1974), over
concave curves of each family's score. The trees are LightGBM's, Ke et al. (2017), one binary question per candidate.
Which of the two ranks is decided on contexts that the trees tried were not fitted on.

Memory: 4 bytes per held candidate and feature, twice while trees are fitted; `fit_fusion` holds `depth` candidates per
context.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator

import lightgbm
import numpy as np
import scipy.optimize

from transforms.embed.interactions import Interactions, join_rows
from transforms.embed.pool import Pool, join_pools, ranks

_CURVE = 100.0  # log(1 + 100 x) / log(101) tells the low shares of a family apart
_RIDGE = 1e-4
_BLEND = ("blend.logit", "blend.place")
_BELOW = 1_000.0  # no logit of trees is as low
_PATIENCE = 30
_TREES = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 63,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


@dataclasses.dataclass(frozen=True, slots=True)
class FusionSettings:
    """How a fusion is fitted.

    Attributes:
      depth: candidates of a context, best by the blend, that the trees order.
      trees: how many at most; fewer where more do not help on the held-out half.
      cutoff: places that nDCG looks at where the blend and the trees are compared.
      blend_contexts: contexts the blend is fitted on.
      threads: threads of the trees; the result is the same for the same number.
    """

    depth: int = 80
    trees: int = 400
    cutoff: int = 20
    blend_contexts: int = 2_000
    threads: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Blend:
    """Weights of curves of a pool's features, by name."""

    weights: dict[str, float]

    def score(self, pool: Pool) -> np.ndarray:
        """Return `(num_candidates,) float32`, the logit of a candidate within its context.

        Raises:
          ValueError: the pool is of other families than those fitted on.
        """
        names, curves = _curves(pool)
        if set(names) != set(self.weights):
            raise ValueError(f"fitted on the scores {', '.join(self.weights)}, asked with {', '.join(names)}")
        return (curves @ np.array([self.weights[name] for name in names], np.float32)).astype(np.float32)


@dataclasses.dataclass(frozen=True, slots=True)
class Fusion:
    """A blend, and trees for its best where they rank better.

    Attributes:
      trees: LightGBM's text of them; None where the blend alone ranks better.
      names: features of the pools it was fitted on, in their order.
      figures: nDCG on held-out contexts by form, as fitted on the other half.
    """

    settings: FusionSettings
    blend: Blend
    trees: str | None
    names: tuple[str, ...]
    figures: dict[str, float]

    def score(self, pool: Pool) -> np.ndarray:
        """Return `(num_candidates,) float32`, higher is better: all that the trees ordered are before all others.

        Raises:
          ValueError: the pool has other features than those fitted on; without trees, other scores.
        """
        logits = self.blend.score(pool)
        if self.trees is None or not len(logits):
            return logits
        if pool.names != self.names:
            raise ValueError(f"fitted on the features {', '.join(self.names)}, asked with {', '.join(pool.names)}")
        places = ranks(pool.candidates, logits)
        few = _best(pool, logits, self.settings.depth)
        scores = -_BELOW - places.astype(np.float32)
        booster = lightgbm.Booster(model_str=self.trees)
        scores[places < self.settings.depth] = booster.predict(
            few.features, raw_score=True, num_threads=self.settings.threads
        )
        return scores

    def to_bytes(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Fusion":
        """Return what `to_bytes` wrote."""
        parts = json.loads(data)
        settings, blend = FusionSettings(**parts["settings"]), Blend(**parts["blend"])
        return cls(settings, blend, parts["trees"], tuple(parts["names"]), parts["figures"])


def fit_fusion(blocks: Iterable[tuple[Pool, Interactions]], settings: FusionSettings, seed: int = 0) -> Fusion:
    """Return the form that ranks held-out contexts best, fitted on all blocks.

    Args:
      blocks: pools, and the targets of their contexts; read once. Rows lie in random order, those of one session or user
        together, so that the half trees are tried on is of others than the half they are fitted on.
      settings: of the fusion.
      seed: of the trees' samples.
    """
    rest = iter(blocks)
    first = _first(rest, settings.blend_contexts)
    names = first[0][0].names
    blend = fit_blend(join_pools([pool for pool, _ in first]), join_rows([targets for _, targets in first]))
    held = [(_best(pool, blend.score(pool), settings.depth), targets) for pool, targets in itertools.chain(first, rest)]
    pool, targets = join_pools([pool for pool, _ in held]), join_rows([targets for _, targets in held])
    held.clear()
    first.clear()
    trees, figures = _fit_trees(pool, targets, settings, seed)
    return Fusion(settings, blend, trees, names, figures)


def _first(blocks: Iterator[tuple[Pool, Interactions]], contexts: int) -> list[tuple[Pool, Interactions]]:
    """Return the first blocks, of so many contexts at least."""
    first, count = [], 0
    for pool, targets in blocks:
        first.append((pool, targets))
        count += len(pool)
        if count >= contexts:
            break
    return first


def fit_blend(pool: Pool, targets: Interactions) -> Blend:
    """Return the weights under which the targets among the candidates are most likely."""
    hits = pool.hits(targets)
    found = np.bincount(pool.candidates.rows, hits, minlength=len(pool))
    asked = (found > 0)[pool.candidates.rows]
    names, curves = _curves(pool.keep(asked))
    lengths = pool.candidates.lengths[found > 0]
    if not len(lengths):
        return Blend(dict.fromkeys(names, 1.0))
    share = (hits[asked] / np.repeat(found[found > 0], lengths)).astype(np.float32)
    start = np.zeros(len(names))
    best = scipy.optimize.minimize(_surprise, start, (curves, share, lengths), jac=True, options={"maxiter": 100})
    return Blend(dict(zip(names, best.x.tolist(), strict=True)))


def _surprise(
    weights: np.ndarray, curves: np.ndarray, share: np.ndarray, lengths: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the mean surprise at the targets, and its gradient."""
    starts = np.cumsum(lengths) - lengths
    logits = curves @ weights.astype(np.float32)
    logits -= np.repeat(np.maximum.reduceat(logits, starts), lengths)
    powers = np.exp(logits)
    sums = np.add.reduceat(powers, starts)
    loss = np.log(sums).sum() - share @ logits
    slope = curves.T @ (powers / np.repeat(sums, lengths) - share)
    ridge = _RIDGE * len(lengths)
    return (loss + ridge * weights @ weights) / len(lengths), (slope + 2 * ridge * weights) / len(lengths)


def _curves(pool: Pool) -> tuple[list[str], np.ndarray]:
    """Return `(num_candidates, num_curves) float32`: of each family the share, its logarithm and its rank."""
    found = {}
    for name, values in zip(pool.names, pool.features.T, strict=True):
        if name.endswith(".share"):
            found[name] = values
            found[f"{name}.log"] = np.log1p(_CURVE * values) / np.log1p(_CURVE)
        elif name.endswith(".rank"):
            found[name] = -values / 5
    return list(found), np.stack(list(found.values()), axis=1)


def _best(pool: Pool, logits: np.ndarray, depth: int) -> Pool:
    """Return the best candidates by the blend, with its logits and ranks as two more features."""
    places = ranks(pool.candidates, logits)
    more = np.stack([logits, places], axis=1).astype(np.float32)
    wide = Pool(pool.candidates, np.concatenate([pool.features, more], axis=1), (*pool.names, *_BLEND))
    return wide.keep(places < depth)


def _fit_trees(
    pool: Pool, targets: Interactions, settings: FusionSettings, seed: int
) -> tuple[str | None, dict[str, float]]:
    """Return trees where they rank the second half of the contexts better than the blend does, and both figures.

    How many trees there are is where the second half is told best by those of the first; then all contexts fit them.
    """
    hits, rows = pool.hits(targets), pool.candidates.rows
    half = rows < len(pool) // 2
    found = (np.bincount(rows, hits, minlength=len(pool)) > 0)[rows]
    options = {**_TREES, "num_threads": settings.threads, "seed": seed}
    if not hits[half].any() or not hits[~half].any():
        return None, {}
    fit, check = (lightgbm.Dataset(pool.features[part & found], hits[part & found]) for part in (half, ~half))
    stop = lightgbm.early_stopping(_PATIENCE, verbose=False)
    tried = lightgbm.train(options, fit, settings.trees, valid_sets=[check], callbacks=[stop])
    later = pool.keep(~half)
    by_blend = later.features[:, -2]
    by_trees = tried.predict(later.features, raw_score=True, num_threads=settings.threads)
    figures = {
        n: _ndcg(later, np.asarray(s), targets, settings.cutoff) for n, s in (("blend", by_blend), ("trees", by_trees))
    }
    if figures["trees"] <= figures["blend"]:
        return None, figures
    whole = lightgbm.Dataset(pool.features[found], hits[found])
    return lightgbm.train(options, whole, tried.best_iteration).model_to_string(), figures


def _ndcg(pool: Pool, scores: np.ndarray, targets: Interactions, cutoff: int) -> float:
    """Return nDCG at `cutoff`, the mean over the contexts that have targets."""
    gains = 1 / np.log2(np.arange(2, cutoff + 2))
    places = ranks(pool.candidates, scores)
    counted = pool.hits(targets) & (places < cutoff)
    reached = np.bincount(pool.candidates.rows[counted], gains[places[counted]], minlength=len(pool))
    ideal = np.concatenate([[0], np.cumsum(gains)])[np.minimum(targets.lengths, cutoff)]
    asked = (ideal > 0) & (pool.candidates.lengths > 0)
    return float((reached[asked] / ideal[asked]).mean()) if asked.any() else 0.0
