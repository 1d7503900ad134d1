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
import shutil
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
from benchmarks.ranking import Fused, figures, rank_all, rank_alone
from jobs.batch import guarded
from jobs.options import leave
from pipelines.bundle import Bundle, demand_servable, write_bundle
from pipelines.runner import load_manifest
from schemas.manifest import Manifest
from transforms.embed.families import FAMILIES, HeldOut, Model
from transforms.embed.fuse import Fusion, FusionSettings
from transforms.embed.interactions import Interactions
from transforms.fuse import FUSION, FUSION_FILE, apart
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
        """Choose on validation, fit on all before the test, bundle it, and read the test once, from the bundle."""
        fit, final = cut(self.kind, self.source, self.work)
        root = self.work / "root"
        shutil.rmtree(root, ignore_errors=True)
        fitting = Fitting.of(self.kind, fit, root)
        settings, trained = self._choose(fitting, fit)
        fusion, marginal = self._fuse(fitting, fit, trained)
        whole = Fitting.of(self.kind, final, root)
        refitted = {name: whole.fit(name, settings[name], hold_out=False) for name in trained}
        models, fused = self._bundled(whole, refitted, fusion)
        examples = whole.examples(final.asked)
        self.found["test"] = self._test(models, {"blend": fused} | self._of_one_space(models, fused), examples)
        if self.protocol.seen_kept_too:
            kept = dataclasses.replace(self.protocol, seen_removed=False)
            self.found["test"]["blend, seen kept"] = self._test(models, {"blend": fused}, examples, kept)["blend"]
        few = whole.examples(sample(final.asked, MARGINAL_CONTEXTS))
        self.found["marginal"] = self._test(models, marginal, few)
        self.found["cpu_seconds"] = _cpu_seconds()
        return self.found

    def _bundled(
        self, fitting: Fitting, trained: Mapping[str, Manifest], fusion: Manifest
    ) -> tuple[dict[str, Model], Fused]:
        """Write the bundle of the families and their fusion, and return both as they are read from it."""
        store, road = fitting.runner.store, fitting.road
        parts = {"vocabulary": fitting.numbers, FUSION: fusion} | dict(trained)
        metrics = {name: ppm / 1e6 for name, ppm in fusion.counters.items() if "@" in name}
        known = {"date": road.day, "policy_version": road.policy.version, "code_version": road.code_version}
        bundle = Bundle.of(parts, metrics=metrics, space_id="", **known)
        write_bundle(store, bundle)
        self.found["bundle"] = bundle.bundle
        found = {
            name: load_manifest(store, one.manifest)
            for name, one in demand_servable(store, bundle.bundle).parts.items()
        }
        models = {name: fitting.load(name, found[name])[0] for name in trained}
        return models, _fused(fitting, found[FUSION])

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
        ranked = rank_all(*apart(models), fusions, examples, protocol or self.protocol)
        off = [self._check(one, examples.targets) for one in ranked.values()]
        self.found["apart"] = max(self.found.get("apart", 0.0), *off)
        return {name: figures(one, examples.targets, self.protocol) for name, one in ranked.items()}

    def _choose(self, fitting: Fitting, phase: Phase) -> tuple[dict[str, dict], dict[str, Manifest]]:
        """Return the settings of each family that are best on a sample of validation contexts, and what was trained so."""
        examples = fitting.examples(sample(phase.asked, CHOICE_CONTEXTS))
        settings, trained, tried = {}, {}, {}
        for name in self.families:
            best = -1.0
            family = FAMILIES[name]()
            if family.most_rows and fitting.histories.rows_out > family.most_rows:
                say(f"{name} is for at most {family.most_rows:,} rows, and is left out")
                continue
            for one in map(dataclasses.asdict, family.grid(len(fitting.item_ids))):
                started = time.process_time()
                manifest = fitting.fit(name, one, hold_out=family.settles)
                model, settled = fitting.load(name, manifest)
                if not hasattr(model, "score"):
                    settings[name], trained[name] = settled, manifest
                    continue
                figure = figures(rank_alone(model, examples, self.protocol), examples.targets, self.protocol)
                tried.setdefault(name, []).append({"settings": one} | figure)
                say(f"{name} {one}: {figure} ({time.process_time() - started:.0f} s)")
                if figure[self.protocol.headline[0][0]] > best:
                    best, settings[name], trained[name] = figure[self.protocol.headline[0][0]], settled, manifest
        self.found["tried"], self.found["settings"] = tried, settings
        return settings, trained

    def _fuse(
        self, fitting: Fitting, phase: Phase, trained: Mapping[str, Manifest]
    ) -> tuple[Manifest, dict[str, Fused]]:
        """Return the fusion of all families; and on fewer contexts, that of all and those without each of them."""

        def fitted(contexts: int, leave_out: str = "") -> Manifest:
            few = {name: one for name, one in trained.items() if name != leave_out}
            made = fitting.fuse(few, phase.asked, SETTINGS, contexts, seen_removed=self.protocol.seen_removed)
            fusion = _fused(fitting, made).fusion
            say(f"fusion of {', '.join(few)}: {fusion.figures}")
            self.found.setdefault("fusion", []).append({"families": [*few], "contexts": contexts} | fusion.figures)
            return made

        scored = [name for name in trained if name in self.found["tried"]]
        left = {f"without {one}": one for one in scored if len(scored) > 1}
        marginal = {
            name: _fused(fitting, fitted(MARGINAL_CONTEXTS, one)) for name, one in ({"blend": ""} | left).items()
        }
        return fitted(FUSION_CONTEXTS), marginal

    def _check(self, ranked: np.ndarray, targets: Interactions) -> float:
        """Return how far the figures of some contexts are from those counted by hand."""
        rows = np.arange(0, len(ranked), max(1, len(ranked) // CHECKED))
        fast, apart = figures(ranked[rows], targets.take(rows), self.protocol), 0.0
        for name, metric, k in self.protocol.headline:
            slow = [brute_force.METRICS[metric](ranked[r].tolist(), targets.row(r).tolist(), k) for r in rows]
            apart = max(apart, abs(fast[name] - sum(slow) / len(slow)))
        return apart


def _fused(fitting: Fitting, made: Manifest) -> Fused:
    """Return a fusion as it was committed, with the families that propose to it."""
    fusion = Fusion.from_bytes(fitting.runner.store.read_bytes(made.artifact(FUSION_FILE).path))
    names = tuple(name.removesuffix(".share") for name in fusion.names if name.endswith(".share"))
    return Fused(fusion, names)


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
