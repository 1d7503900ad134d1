"""The blend beside each of its sources, on what listeners of a public set went on to play.

    python -m benchmarks.sources home --root ROOT --test test.parquet [--k 50 100 300]
    python -m benchmarks.sources sessions --root ROOT --test test_sessions.parquet [--sessions 2000] [--k 20 50 100]

ROOT holds a road over the training part alone (`make batch FORMAT=pairs` or `FORMAT=sessions`), so that all that is played in
the test part is new to it. `home`: the committed Home sets of users, and each source's committed proposals; targets are the
test pairs of a user. `sessions`: each test session is cut in half; what a listener nobody knows is offered after the first
half by the function the stream calls, and what each source proposes for it; targets are the items of the second half that
are not in the first.

Recall: the share of a user's targets among the first k, averaged over users. Sources are unfiltered, and have all k places to
themselves; the blend has its quotas, caps and explored slots. 1,000 bootstrap samples of users give the interval of the
difference between the blend and the best source at the largest k.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl

from jobs.options import leave
from pipelines.live import open_live
from pipelines.publish import read_pointer
from pipelines.recommend import HOME
from pipelines.runner import load_manifest
from schemas.candidates import PROPOSAL
from transforms.io.store import open_store
from transforms.shards import read_tables
from transforms.sources import GROUP_PREFIX
from transforms.stream.session import Heard, Window
from transforms.stream.sets import SessionSets

BLEND = "blend"
SAMPLES, AT_ONCE = 1_000, 256
_OF_SETS = ["record_key", "candidates"]
_START_US = 1_769_850_000_000_000


def recalls(lists: pl.DataFrame, targets: pl.DataFrame, k: int) -> np.ndarray:
    """Return the recall of every user with targets, in order of user, `(num_users,) float64`.

    Args:
      lists: `user`, `item`, `place` from 0. targets: `user`, `item`, each once.
    """
    hits = targets.join(lists.filter(pl.col("place") < k), on=["user", "item"], how="semi")
    counts = targets.group_by("user").len().join(hits.group_by("user").len("hits"), on="user", how="left").sort("user")
    return (counts["hits"].fill_null(0) / counts["len"]).to_numpy()


def interval(better: np.ndarray, worse: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean difference over bootstrap samples of users."""
    difference, rng = better - worse, np.random.default_rng(7)
    means = [difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(SAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def home(root: str, test: Path) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
    """Return lists by source, the blend's among them, and targets."""
    store = open_store(root)
    pointer = read_pointer(store, HOME)
    assert pointer is not None, f"nothing is live on {HOME} under {root}"
    sets = load_manifest(store, pointer.manifest)
    proposals = load_manifest(store, next(ref.path for ref in sets.inputs if ref.name == "proposal"))
    rows = read_tables([store.local(file.path) for file in proposals.files], PROPOSAL)
    pairs = pl.read_parquet(test)
    targets = pairs.select(pl.format("user-{}", "user").alias("user"), pl.format("track-{}", "item").alias("item"))
    lists = by_source(rows)
    lists[BLEND] = slots(pl.concat([pl.read_parquet(store.local(file.path), columns=_OF_SETS) for file in sets.files]))
    return lists, targets.unique()


def slots(sets: pl.DataFrame) -> pl.DataFrame:
    """Return the candidates of sets as a list of each user."""
    rows = sets.select(_OF_SETS).explode("candidates").unnest("candidates")
    return rows.select(
        pl.col("record_key").alias("user"), pl.col("item_id").alias("item"), pl.col("position").alias("place")
    )


def by_source(proposals: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the list of each source."""
    named = proposals.select(
        "source_id", pl.col("key").alias("user"), pl.col("item_id").alias("item"), pl.col("source_rank").alias("place")
    )
    return {str(name): own for (name,), own in named.partition_by("source_id", as_dict=True).items()}


def sessions(root: str, test: Path, count: int) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
    """Return lists by source, the blend's among them, and targets, of the first test sessions of four items and more."""
    rows = pl.read_parquet(test).filter(pl.col("items").list.len() >= 4).head(count)
    windows, wanted = dict[str, Window](), list[tuple[str, str]]()
    for number, items in enumerate(rows["items"].to_list()):
        half, user = len(items) // 2, f"test-{number:06d}"
        windows[user] = Window.of(_heard(user, place, item) for place, item in enumerate(items[:half]))
        wanted += [(user, f"track-{item}") for item in sorted(set(items[half:]) - set(items[:half]))]
    made = []
    with tempfile.TemporaryDirectory() as folder:
        live = open_live(open_store(root), Path(folder))
        serve = Overheard(**{field.name: getattr(live, field.name) for field in dataclasses.fields(live)})
        for start in range(0, len(windows), AT_ONCE):
            made.append(pl.DataFrame(pl.from_arrow(serve(dict(list(windows.items())[start : start + AT_ONCE])))))
    lists = by_source(pl.concat(Overheard.PROPOSED)) | {BLEND: slots(pl.concat(made))}
    return lists, pl.DataFrame(wanted, schema=["user", "item"], orient="row")


class Overheard(SessionSets):
    """Sets of sessions that remember what was proposed for them."""

    PROPOSED: ClassVar[list[pl.DataFrame]] = []

    def _proposals(self, *given):
        found, *others = super()._proposals(*given)
        self.PROPOSED.append(found.filter(~pl.col("key").str.starts_with(GROUP_PREFIX)))
        return found, *others


def _heard(user: str, place: int, item: object) -> Heard:
    at = _START_US + place * 200_000_000
    return Heard(at, f"{user}-{place}", 1, "play", f"track-{item}", "track", 0.5, 200_000, None, None, None, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("home", "sessions"))
    parser.add_argument("--root", required=True)
    parser.add_argument("--test", required=True, type=Path)
    parser.add_argument("--sessions", type=int, default=2_000)
    parser.add_argument("--k", type=int, nargs="+")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    of_home = given.what == "home"
    lists, targets = home(given.root, given.test) if of_home else sessions(given.root, given.test, given.sessions)
    targets = targets.join(lists[BLEND].select("user").unique(), on="user", how="semi")
    ks = sorted(given.k or ((50, 100, 300) if of_home else (20, 50, 100)))
    found = {name: {k: recalls(own, targets, k) for k in ks} for name, own in lists.items()}
    print(
        f"\n  {targets['user'].n_unique():,} listeners, {targets.height:,} targets; recall at {', '.join(map(str, ks))}\n"
    )
    for name in sorted(found, key=lambda one: -float(found[one][ks[-1]].mean())):
        print(f"    {name:<22}" + "  ".join(f"{found[name][k].mean():.4f}" for k in ks))
    best = max(found.keys() - {BLEND}, key=lambda one: float(found[one][ks[-1]].mean()))
    low, high = interval(found[BLEND][ks[-1]], found[best][ks[-1]])
    print(f"\n    {BLEND} less {best} at {ks[-1]}: {low:+.4f} to {high:+.4f}")
    if given.json:
        told = {name: {str(k): float(one.mean()) for k, one in own.items()} for name, own in found.items()}
        given.json.write_text(
            json.dumps(told | {"interval": [low, high], "best": best}, indent=1, sort_keys=True) + "\n"
        )


if __name__ == "__main__":
    main()
    leave(0)
