"""How good the candidates are, on any folder of a public shape: `python -m benchmarks.quality --kind pairs --data FOLDER`.

Everything goes the product's own way: import, ingest, histories, vocabulary, one `train` stage per family, and the
families' own scores. Every choice is made on the validation part (`benchmarks.protocols`), which also fits the fusion;
then all is fitted anew on everything before the test part, and the test part is read once. A second, independent
evaluation checks the metrics (`benchmarks.brute_force`).
"""

import argparse
import dataclasses
import json
import os
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks import brute_force
from benchmarks.cold import cold_table, run_cold
from benchmarks.fitting import Fitting, say
from benchmarks.protocols import KINDS, PROTOCOLS, Phase, Protocol, cut
from benchmarks.ranking import Fused, figures, fit_on, rank_all, rank_alone
from jobs.batch import guarded
from jobs.options import leave
from schemas.hashing import hash64
from transforms.embed.families import FAMILIES, HeldOut, Model
from transforms.embed.fuse import FusionSettings
from transforms.embed.interactions import Interactions
from transforms.embed.pool import Describer
from transforms.train import sampled

CHOICE_CONTEXTS = 2_000
FUSION_CONTEXTS = 40_000
MARGINAL_CONTEXTS = 8_000
CHECKED = 2_000
"""Contexts whose metrics are counted by hand."""
SETTINGS = FusionSettings(threads=2)
FAMILIES_OF = {
    "sessions": ("session_knn", "item_graph", "encoder", "evidence"),
    "sequences": ("item_graph", "content", "encoder", "evidence"),
    "pairs": ("spectral", "implicit_als", "graph_filter", "ease"),
}


def sample(asked: pl.DataFrame, size: int) -> pl.DataFrame:
    """Return about `size` rows, by the hash of their keys."""
    return asked.filter(pl.Series(sampled(asked["key"], size)))


@dataclasses.dataclass
class Benchmark:
    """One folder of one kind, from import to figures.

    Attributes:
      found: what is printed and written, filled as it goes.
    """

    kind: str
    source: Path
    work: Path
    families: tuple[str, ...]
    found: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def protocol(self) -> Protocol:
        """How the kind is judged."""
        return PROTOCOLS[self.kind]

    def run(self) -> dict[str, Any]:
        """Choose on validation, fit on all before the test, read the test once."""
        fit, final = cut(self.kind, self.source, self.work)
        fitting = Fitting.of(self.kind, fit, self.work / "fit")
        settings, models = self._choose(fitting, fit)
        fusion, marginal = self._fuse(fitting, fit, models)
        whole = Fitting.of(self.kind, final, self.work / "final")
        models = {name: whole.fit(name, settings[name], hold_out=False)[0] for name in models}
        examples = whole.examples(final.asked)
        fusions = {"blend": fusion} | self._of_one_space(models, fusion)
        self.found["test"] = self._test(models, fusions, examples)
        if self.protocol.seen_kept_too:
            kept = dataclasses.replace(self.protocol, seen_removed=False)
            self.found["test"]["blend, seen kept"] = self._test(models, {"blend": fusion}, examples, kept)["blend"]
        few = whole.examples(sample(final.asked, MARGINAL_CONTEXTS))
        self.found["marginal"] = self._test(models, marginal, few)
        self.found["cpu_seconds"] = _cpu_seconds()
        return self.found

    def _of_one_space(self, models: Mapping[str, Model], fusion: Fused) -> dict[str, Fused]:
        """Return the fusion over what the best inner-product space proposes alone, as an index would serve it."""
        tried = {
            name: max(one[self.protocol.headline[0][0]] for one in runs) for name, runs in self.found["tried"].items()
        }
        spaces = [name for name in tried if hasattr(models[name], "item_vectors")]
        if not spaces:
            return {}
        best = max(spaces, key=tried.__getitem__)
        return {f"{best}, re-scored": dataclasses.replace(fusion, proposer=best)}

    def _test(
        self,
        models: Mapping[str, Model],
        fusions: Mapping[str, Fused],
        examples: HeldOut,
        protocol: Protocol | None = None,
    ) -> dict[str, dict]:
        ranked = rank_all(*_apart(models), fusions, examples, protocol or self.protocol)
        apart = [self._check(one, examples.targets) for one in ranked.values()]
        self.found["apart"] = max(self.found.get("apart", 0.0), *apart)
        return {name: figures(one, examples.targets, self.protocol) for name, one in ranked.items()}

    def _choose(self, fitting: Fitting, phase: Phase) -> tuple[dict[str, dict], dict[str, Model]]:
        """Return the settings of each family that are best on a sample of validation contexts, and the models with them."""
        examples = fitting.examples(sample(phase.asked, CHOICE_CONTEXTS))
        settings, models, tried = {}, {}, {}
        for name in self.families:
            best = -1.0
            family = FAMILIES[name]()
            if family.most_rows and fitting.histories.rows_out > family.most_rows:
                say(f"{name} is for at most {family.most_rows:,} rows, and is left out")
                continue
            for one in map(dataclasses.asdict, family.grid(len(fitting.item_ids))):
                started = time.process_time()
                model, settled = fitting.fit(name, one, hold_out=family.settles)
                if not hasattr(model, "score"):
                    settings[name], models[name] = settled, model
                    continue
                figure = figures(rank_alone(model, examples, self.protocol), examples.targets, self.protocol)
                tried.setdefault(name, []).append({"settings": one} | figure)
                say(f"{name} {one}: {figure} ({time.process_time() - started:.0f} s)")
                if figure[self.protocol.headline[0][0]] > best:
                    best, settings[name], models[name] = figure[self.protocol.headline[0][0]], settled, model
        self.found["tried"], self.found["settings"] = tried, settings
        return settings, models

    def _fuse(self, fitting: Fitting, phase: Phase, models: Mapping[str, Model]) -> tuple[Fused, dict[str, Fused]]:
        """Return the fusion of all families; and on fewer contexts, that of all and those without each of them."""
        scored, describers = _apart(models)

        def fitted(contexts: int, names: tuple[str, ...]) -> Fused:
            examples = fitting.examples(shuffled(sample(phase.asked, contexts)))
            fused = fit_on(scored, describers, examples, self.protocol, SETTINGS, names)
            say(f"fusion of {', '.join(names)}: {fused.fusion.figures}")
            self.found.setdefault("fusion", []).append({"families": names, "contexts": contexts} | fused.fusion.figures)
            return fused

        every = tuple(scored)
        left = {f"without {one}": tuple(name for name in every if name != one) for one in every if len(every) > 1}
        marginal = {name: fitted(MARGINAL_CONTEXTS, names) for name, names in ({"blend": every} | left).items()}
        return fitted(FUSION_CONTEXTS, every), marginal

    def _check(self, ranked: np.ndarray, targets: Interactions) -> float:
        """Return how far the figures of some contexts are from those counted by hand."""
        rows = np.arange(0, len(ranked), max(1, len(ranked) // CHECKED))
        fast, apart = figures(ranked[rows], targets.take(rows), self.protocol), 0.0
        for name, metric, k in self.protocol.headline:
            slow = [brute_force.METRICS[metric](ranked[r].tolist(), targets.row(r).tolist(), k) for r in rows]
            apart = max(apart, abs(fast[name] - sum(slow) / len(slow)))
        return apart


def _apart(models: Mapping[str, Any]) -> tuple[dict[str, Model], dict[str, Describer]]:
    """Return what scores and what describes."""
    scored = {name: model for name, model in models.items() if hasattr(model, "score")}
    return scored, {name: model for name, model in models.items() if hasattr(model, "features")}


def shuffled(asked: pl.DataFrame) -> pl.DataFrame:
    """Return the rows in the order of the hashes of their keys: no key is in two halves."""
    return asked.sort(pl.Series(hash64(asked["key"].to_arrow())), maintain_order=True)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return round(used.ru_utime + used.ru_stime, 1)


def table(found: Mapping[str, Any], protocol: Protocol) -> str:
    """Return the figures of the test part as lines."""
    names = [name for name, _, _ in protocol.headline] + ["R@100", "R@300"]
    lines = [f"\n  {'on test':<24}" + "".join(f"{name:>10}" for name in names)]
    lines += [f"  {name:<24}" + "".join(f"{one[key]:>10.4f}" for key in names) for name, one in found["test"].items()]
    fewer = found["marginal"]
    lines.append(f"\n  {'what each adds':<24}" + "".join(f"{name:>10}" for name in names))
    for name in (name for name in fewer if name.startswith("without")):
        gains = [fewer["blend"][key] - fewer[name][key] for key in names]
        lines.append(f"  {name.removeprefix('without '):<24}" + "".join(f"{gain:>+10.4f}" for gain in gains))
    lines.append(
        f"\n  {found['cpu_seconds']:,.0f} CPU seconds; metrics within {found['apart']:.1e} of those counted by hand"
    )
    return "\n".join(lines)


PUBLIC = {
    "nowplaying-sessions": ("sessions", "published best 0.2350/0.084, k-NN 0.229/0.099; wanted 0.254/0.115"),
    "gowalla": ("pairs", "published best .1920/.1597, GF-CF .1889/.1556; wanted .196/.164"),
    "amazon-beauty": ("sequences", "published best .1008/.0611, item-item .0889/.0558; wanted .1124/.0657"),
    "lastfm-2k/cf_split": ("pairs", "EASE .2726/.2762; wanted .28/.285"),
}
"""The public folders by path, their kinds and the figures to compare with; nothing is decided by these."""
COLD = {"lastfm-2k": "pairs", "amazon-beauty": "sequences"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one folder, or all public ones, and print the figures; 1 where metrics are not those counted by hand."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--data", type=Path, help="a folder of the kind; without one, the public ones under --public")
    parser.add_argument("--public", type=Path, default=os.environ.get("SEGUE_DATA", "../shared/data"))
    parser.add_argument("--families", help="only these, separated by commas")
    parser.add_argument("--work", type=Path, default=Path(".segue/quality"), help="where everything is written")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    if (given.kind is None) != (given.data is None):
        parser.error("--kind and --data go together: say of what kind the folder is")
    return guarded(lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    folders = {str(given.data): (given.kind, "")} if given.data else PUBLIC
    found: dict[str, Any] = {}
    for folder, (kind, published) in folders.items():
        families = tuple(given.families.split(",")) if given.families else FAMILIES_OF[kind]
        source, work = given.public / folder, given.work / Path(folder).name
        found[folder] = Benchmark(kind, source, work, families).run()
        print(f"\n  {folder} {published}{table(found[folder], PROTOCOLS[kind])}", flush=True)
    for folder, kind in COLD.items() if not given.data else ():
        found[f"cold {folder}"] = run_cold(kind, given.public / folder, given.work / Path(folder).name)
        print(f"\n  {folder}{cold_table(found[f'cold {folder}'])}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return int(max(one.get("apart", 0.0) for one in found.values()) > 1e-9)


if __name__ == "__main__":
    leave(main())
