"""A toy world of rows that keep to their own cluster of items, so who should score high is known."""

import numpy as np

from transforms.embed.interactions import Interactions, from_lists

CLUSTERS, WIDTH = 6, 12


def planted_rows(seed: int, count: int = 240) -> Interactions:
    """Return rows of 3 to 7 items, all of one cluster; item i is of cluster `i // WIDTH`, and the last item is never heard."""
    generator = np.random.default_rng(seed)
    rows = [
        number % CLUSTERS * WIDTH + generator.choice(WIDTH, generator.integers(3, 8), replace=False)
        for number in range(count)
    ]
    return from_lists(rows, CLUSTERS * WIDTH + 1)


def assert_clusters_are_found(scores: np.ndarray, contexts: Interactions) -> None:
    """Check that each context scores any item of its cluster above any other item."""
    for scored, first in zip(scores, contexts.items[contexts.starts[:-1]] // WIDTH * WIDTH):
        inside = np.zeros(len(scored), bool)
        inside[first : first + WIDTH] = True
        assert scored[inside].min() > scored[~inside].max()
