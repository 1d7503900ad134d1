"""What the training loop costs beside a plain one: targets per second of both, in turns, on the same batches.

    python -m benchmarks.training_speed [--items 12000] [--rows 2000] [--rounds 5] [--json FILE]

The plain loop trains the same encoder with torch's cross-entropy and Adam, and does nothing else: no checkpoints, no
validation, no guard against losses that are not finite, no seeds per step. A ratio of 1 says that all this is free.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from transforms.embed.batches import batches, windows
from transforms.embed.encoder import Encoder, EncoderConfig
from transforms.embed.interactions import Interactions, from_lists
from transforms.embed.training import train
from transforms.embed.training_terms import Examples, Surroundings, TrainingSettings

LENGTH = 8
SETTINGS = TrainingSettings(epochs=1, id_drop=0.0)


def world(items: int, rows: int) -> Interactions:
    """Return rows in which every item occurs, so that both loops rank them all."""
    if rows * LENGTH < items:
        raise ValueError(f"{rows} rows of {LENGTH} cannot hold {items} items; give more rows")
    drawn = np.random.default_rng(0).permutation(np.resize(np.arange(items), rows * LENGTH))
    return from_lists(drawn.reshape(rows, LENGTH).tolist(), items)


def ours(config: EncoderConfig, interactions: Interactions) -> float:
    """Return the seconds of an epoch of the product's loop, from its first step's end to its last's."""
    ends: list[float] = []
    around = Surroundings(progress=lambda _: ends.append(time.perf_counter()), clock=time.perf_counter)
    train(config, Examples(interactions), SETTINGS, 0, surroundings=around)
    return ends[-1] - ends[0]


def plain(config: EncoderConfig, interactions: Interactions) -> float:
    """Return the seconds of the same steps, written by hand."""
    encoder = Encoder(config).train()
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=SETTINGS.rate, weight_decay=0.0)
    items = torch.arange(config.num_items)
    ends = []
    order = np.random.default_rng([0, 1, 0])
    for batch in batches(interactions, windows(interactions, config.max_length), SETTINGS.batch_targets, order):
        vectors = encoder.item_vectors(items, None)
        hidden = encoder.encode(vectors[torch.from_numpy(batch.inputs.items)], batch.inputs)
        loss = F.cross_entropy(hidden @ encoder.scored(vectors).T, torch.from_numpy(batch.targets))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        ends.append(time.perf_counter())
    return ends[-1] - ends[0]


def measure(items: int, rows: int, rounds: int) -> dict[str, float]:
    """Return targets per second of both loops, the medians of turns taken one after the other."""
    torch.set_num_threads(1)
    interactions, config = world(items, rows), EncoderConfig(items)
    targets = rows * (LENGTH - 1) - SETTINGS.batch_targets
    plain(config, interactions)
    turns = [(ours(config, interactions), plain(config, interactions)) for _ in range(rounds)]
    ratios = [other / own for own, other in turns]
    own, other = (statistics.median(column) for column in zip(*turns, strict=True))
    return {"ours": targets / own, "plain": targets / other, "ratio": statistics.median(ratios), "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.items, given.rows, given.rounds)
    print(f"ours {found['ours']:,.0f} targets/s, plain {found['plain']:,.0f}; ratio {found['ratio']:.2f}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
