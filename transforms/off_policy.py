"""Off-policy estimates: what a new policy would have earned, from what was explored and what came of it.

A row is one item that was shown where items were drawn by lot, with its reward, and two probabilities that this slot shows
this item: `logged`, under what ran, and `target`, under the policy in question. For an explored candidate

    logged = propensity / slots of the set * probability that the ranker displays it, given that it is a candidate

The propensity of a candidate set (`transforms.explore`) is that of being among the candidates only. Who leaves the ranker's
display probability out takes what the ranker liked for what the listeners liked. The value is the mean reward per row.

    weight w = target / logged
    IPS      mean of w r                                 unbiased (Horvitz and Thompson 1952)
    SNIPS    sum of w r / sum of w                       less spread, a bias of order 1/n (Swaminathan and Joachims 2015)
    clipped  mean of min(w, clip) r, as a lower bound    what clipping leaves out earns from 0 to `highest` per unit of weight:
                                                         the interval is from the lower end of one to the upper end of the
                                                         other (Bottou et al. 2013, section 4.4)

Rows of one cluster, a user or a seed item, depend on each other; spreads are taken between clusters (ratio estimator,
Cochran 1977, section 6.3). Memory: sums of 30 numbers, whatever the number of rows; they add up.
"""

import dataclasses

import numpy as np

LEAST_EFFECTIVE = 100.0
"""Effective rows below which nothing is said: a handful of large weights would decide."""
NORMAL_95 = 1.959964
_ROWS, _WEIGHTED, _WEIGHTS, _CLIPPED, _HIGHEST = range(5)


class TooFewOutcomes(ValueError):
    """What was explored says too little of the policy in question."""


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A mean reward per row with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class Estimates:
    """Every estimate of one policy's value.

    Attributes:
      effective: `(sum of w)**2 / sum of w**2`, the equally weighted rows that would say as much (Kish 1965).
    """

    ips: Estimate
    snips: Estimate
    clipped: Estimate
    effective: float
    rows: int
    clusters: int


@dataclasses.dataclass(frozen=True, slots=True)
class Sums:
    """What estimates are made of; add those of several parts, of which no two hold rows of one cluster.

    Attributes:
      total: `(5,) float64` sums over clusters of rows, w r, w, clipped w r, and that with the most the rest may earn.
      products: `(5, 5) float64` sums over clusters of products of two of them. squares: sum of w squared.
    """

    clip: float
    highest: float
    clusters: int
    total: np.ndarray
    products: np.ndarray
    squares: float

    @classmethod
    def of(
        cls,
        cluster: np.ndarray,
        reward: np.ndarray,
        logged: np.ndarray,
        target: np.ndarray,
        clip: float,
        highest: float,
    ) -> "Sums":
        """Add rows up.

        Args:
          cluster: whose rows they are. reward: 0 to `highest`. logged, target: probabilities. clip: the largest weight.

        Raises:
          ValueError: a probability or reward is out of its range, or the bounds are not positive.
        """
        _demand(clip, highest, {"reward": (reward, 0, highest), "target": (target, 0, 1), "logged": (logged, 0, 1)})
        if not (logged > 0).all():
            raise ValueError(
                "expected logged > 0, came 0: what could not be drawn cannot have been shown; leave out rows that were not"
                " explored, and see that the display probability is there"
            )
        codes = np.unique(cluster, return_inverse=True)[1]
        weight = target / logged
        least = np.minimum(weight, clip)
        columns = (
            np.ones(len(weight)),
            weight * reward,
            weight,
            least * reward,
            least * reward + (1 - least) * highest,
        )
        each = np.stack([np.bincount(codes, column) for column in columns])
        return cls(clip, highest, each.shape[1], each.sum(axis=1), each @ each.T, float((weight**2).sum()))

    def __add__(self, other: "Sums") -> "Sums":
        """Return the sums over both parts.

        Raises:
          ValueError: they are clipped or bounded differently.
        """
        if (self.clip, self.highest) != (other.clip, other.highest):
            raise ValueError(
                f"sums with clip {self.clip:g} and highest {self.highest:g} do not add to those with clip {other.clip:g} and"
                f" highest {other.highest:g}: make both with the same bounds"
            )
        return Sums(
            self.clip,
            self.highest,
            self.clusters + other.clusters,
            self.total + other.total,
            self.products + other.products,
            self.squares + other.squares,
        )


def _demand(clip: float, highest: float, ranges: dict[str, tuple[np.ndarray, float, float]]) -> None:
    if not (clip > 0 and highest > 0):
        raise ValueError(f"expected clip > 0 and highest > 0, came {clip:g} and {highest:g}")
    for name, (values, low, high) in ranges.items():
        if not ((values >= low) & (values <= high)).all():
            worst = values[~((values >= low) & (values <= high))][0]
            raise ValueError(f"expected {name} from {low:g} to {high:g}, came {worst:g}: mend the rows, or scale them")


def estimate(sums: Sums) -> Estimates:
    """Return the estimates of a policy's mean reward per row.

    Raises:
      TooFewOutcomes: the effective sample size is below `LEAST_EFFECTIVE`, or all rows are of one cluster.
    """
    effective = float(sums.total[_WEIGHTS] ** 2 / sums.squares) if sums.squares else 0.0
    rows = int(sums.total[_ROWS])
    if effective < LEAST_EFFECTIVE or sums.clusters < 2:
        raise TooFewOutcomes(
            f"an effective sample size of {effective:.1f}, from {rows:,} rows of {sums.clusters:,} users or seeds, is below"
            f" {LEAST_EFFECTIVE:g}: nothing can be said of this policy. Take more days, more slots to explore, or a policy"
            " that is closer to what was drawn"
        )
    lower, upper = _ratio(sums, _CLIPPED, _ROWS), _ratio(sums, _HIGHEST, _ROWS)
    clipped = Estimate(lower.value, max(lower.low, 0.0), min(max(upper.high, lower.high), sums.highest))
    return Estimates(
        _ratio(sums, _WEIGHTED, _ROWS), _ratio(sums, _WEIGHTED, _WEIGHTS), clipped, effective, rows, sums.clusters
    )


def _ratio(sums: Sums, above: int, below: int) -> Estimate:
    value = float(sums.total[above] / sums.total[below])
    products = sums.products
    squares = products[above, above] - 2 * value * products[above, below] + value**2 * products[below, below]
    spread = np.sqrt(max(squares, 0.0) * sums.clusters / (sums.clusters - 1)) / sums.total[below]
    return Estimate(value, value - NORMAL_95 * float(spread), value + NORMAL_95 * float(spread))
