"""Metrics counted one ranking after the other, in plain Python: what the fast ones are checked against."""

import math
from collections.abc import Sequence


def recall(ranked: Sequence[int], wanted: Sequence[int], k: int) -> float:
    return sum(item in set(wanted) for item in ranked[:k]) / len(wanted)


def hit_rate(ranked: Sequence[int], wanted: Sequence[int], k: int) -> float:
    return float(any(item in set(wanted) for item in ranked[:k]))


def reciprocal_rank(ranked: Sequence[int], wanted: Sequence[int], k: int) -> float:
    for place, item in enumerate(ranked[:k], start=1):
        if item in set(wanted):
            return 1 / place
    return 0.0


def ndcg(ranked: Sequence[int], wanted: Sequence[int], k: int) -> float:
    gain = sum(1 / math.log2(place + 1) for place, item in enumerate(ranked[:k], start=1) if item in set(wanted))
    return gain / sum(1 / math.log2(place + 1) for place in range(1, min(k, len(wanted)) + 1))


METRICS = {"recall": recall, "hit_rate": hit_rate, "reciprocal_rank": reciprocal_rank, "ndcg": ndcg}
