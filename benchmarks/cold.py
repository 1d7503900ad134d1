"""How well items nobody has played yet are found: a tenth of a public set is hidden from training, and asked for.

python -m benchmarks.cold --kind sequences --data FOLDER [--text_model FOLDER]
"""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.fitting import Fitting
from benchmarks.protocols import KINDS, PROTOCOLS, cut_cold
from benchmarks.ranking import DEPTH
from jobs.options import leave
from transforms.embed.content import ContentSettings, fit_content
from transforms.embed.interactions import Interactions
from transforms.embed.language import LanguageModel
from transforms.embed.text import item_features
from transforms.evaluate import hits, top_items, without
from transforms.fuse import numbers, score_blocks


def run_cold(kind: str, source: Path, work: Path, language: LanguageModel | None = None) -> dict[str, Any]:
    """Return R@100 of items hidden from training, among all items and among the hidden ones, by what ranks them."""
    phase, hidden = cut_cold(kind, source, work)
    fitting = Fitting.of(kind, phase, work / "cold-root", language)
    examples = fitting.examples(phase.asked)
    named = pl.select(pl.format(fitting.item_type + "-{}", pl.lit(hidden)).implode()).to_series()
    (cold_items,) = numbers(named, fitting.item_ids)
    plays = np.bincount(fitting.everything().items, minlength=len(fitting.item_ids)).astype(np.float32)
    models: dict[str, Any] = {
        "popularity": Popularity(plays),
        "genres alone": fit_content(
            item_features(fitting.items().select("genres"), subword_lengths=()), ContentSettings()
        ),
        "content": fitting.load("content", fitting.fit("content", {}, hold_out=False))[0],
        "encoder": fitting.load("encoder", fitting.fit("encoder", {}, hold_out=True))[0],
    }
    models["content and encoder, by ranks"] = RankFusion((models["content"], models["encoder"]))
    of_all, of_hidden = ({"random": 100 / count} for count in (len(fitting.item_ids), len(cold_items)))
    for name, model in models.items():
        ranked = [], []
        for block in score_blocks({name: model}, examples, PROTOCOLS[kind].seen_removed):
            scores = block.scores[name]
            ranked[0].append(top_items(scores, 100))
            cold = np.full_like(scores, -np.inf)
            cold[:, cold_items] = scores[:, cold_items]
            ranked[1].append(top_items(cold, 100))
        found = [hits(np.concatenate(one), examples.targets).recall(100).mean() for one in ranked]
        of_all[name], of_hidden[name] = float(found[0]), float(found[1])
    return {"items": len(fitting.item_ids), "hidden": len(cold_items), "among all": of_all, "among hidden": of_hidden}


@dataclasses.dataclass(frozen=True, slots=True)
class Popularity:
    """Every context is offered what is played most."""

    plays: np.ndarray

    def score(self, contexts: Interactions) -> np.ndarray:
        """Return the plays, whatever the context."""
        return np.tile(self.plays, (len(contexts), 1))


@dataclasses.dataclass(frozen=True, slots=True)
class RankFusion:
    """Sum of 1 / (60 + place) over the first `DEPTH` of every model (Cormack et al., 2009): nothing is fitted."""

    models: tuple[Any, ...]

    def score(self, contexts: Interactions) -> np.ndarray:
        """Return `(num_contexts, num_items) float32`."""
        rows, gain = np.arange(len(contexts))[:, None], (1 / np.arange(61, 61 + DEPTH)).astype(np.float32)
        fused = np.zeros((len(contexts), contexts.num_items), np.float32)
        for model in self.models:
            best = top_items(without(np.array(model.score(contexts)), contexts), DEPTH)
            fused[rows, best] += gain[: best.shape[1]]
        return fused


def cold_table(found: Mapping[str, Any]) -> str:
    """Return the figures of hidden items as lines."""
    lines = [
        f"\n  R@100 of {found['hidden']:,} hidden of {found['items']:,} items   among all   among hidden   x random"
    ]
    for name, share in found["among all"].items():
        times = share / found["among all"]["random"]
        lines.append(f"  {name:<40}{share:>10.4f}{found['among hidden'][name]:>15.4f}{times:>11.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a folder of the kind")
    parser.add_argument("--text_model", help="folder of a sentence-transformers model")
    parser.add_argument("--work", type=Path, default=Path(".segue/cold"), help="where everything is written")
    given = parser.parse_args()
    language = LanguageModel.at(given.text_model) if given.text_model else None
    print(cold_table(run_cold(given.kind, given.data, given.work, language)))


if __name__ == "__main__":
    main()
    leave(0)
