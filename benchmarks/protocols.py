"""How a folder of a public shape is cut into what models are fitted on and what they are asked afterwards.

    sessions    train_sessions.parquet, test_sessions.parquet: the next item after every prefix of a session; nothing
                is left out of the ranking. Validation: the last tenth of the training sessions, which are in time order.
    sequences   sequences.parquet: the last item of every user; what the user had before is left out. Validation: the one
                before the last.
    pairs       train.parquet, test.parquet and perhaps valid.parquet: the items of a user in the later part; what the
                user had before is left out. Validation: the last fifth of each user's rows of train.parquet in file
                order, which is often the order of time; a random part, as valid.parquet is in one public set whose test
                part is the end of each row, prefers what repeats the neighbourhood. valid.parquet is trained on.

A cut is two phases. `fit`: without validation and test; every choice is made on its examples. `final`: with validation,
without test. A phase is a folder of the same shape as the source, which goes the way any import goes.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl

from schemas.hashing import hash64, unit_interval

VALIDATION_SHARE, PAIRS_SHARE, COLD_SHARE = 0.1, 0.2, 0.1
KINDS = ("sessions", "sequences", "pairs")


@dataclasses.dataclass(frozen=True, slots=True)
class Phase:
    """What to fit on, and what to ask.

    Attributes:
      folder: to import, in the shape of the kind.
      asked: `key` (a user, `user-17` for example, or a session's), `target` (list of item numbers of the source), and for
        sessions `context` (list of item numbers), several to a key; otherwise the context is the user's history.
    """

    folder: Path
    asked: pl.DataFrame


@dataclasses.dataclass(frozen=True, slots=True)
class Protocol:
    """How rankings of a kind are judged.

    Attributes:
      headline: the two figures published for the kind, `(name, metric, k)`; the first decides choices.
      seen_removed: what a context holds is left out of its ranking.
      seen_kept_too: published with what a context holds, too: one more row.
    """

    headline: tuple[tuple[str, str, int], tuple[str, str, int]]
    seen_removed: bool
    seen_kept_too: bool = False


PROTOCOLS = {
    "sessions": Protocol((("P@20", "hit_rate", 20), ("MRR@20", "reciprocal_rank", 20)), seen_removed=False),
    "sequences": Protocol((("HR@10", "hit_rate", 10), ("nDCG@10", "ndcg", 10)), seen_removed=True, seen_kept_too=True),
    "pairs": Protocol((("R@20", "recall", 20), ("nDCG@20", "ndcg", 20)), seen_removed=True),
}


def cut(kind: str, source: Path, work: Path) -> tuple[Phase, Phase]:
    """Cut a folder into the phases `fit` and `final`, written under `work`.

    Raises:
      FileNotFoundError: the folder lacks a file of the kind.
    """
    cuts: dict[str, Callable[[Path, Path, Path], tuple[pl.DataFrame, pl.DataFrame]]] = {
        "sessions": _cut_sessions,
        "sequences": _cut_sequences,
        "pairs": _cut_pairs,
    }
    folders = work / "fit", work / "final"
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    asked = cuts[kind](source, *folders)
    return Phase(folders[0], asked[0]), Phase(folders[1], asked[1])


def _cut_sessions(source: Path, fit: Path, final: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    train = pl.read_parquet(source / "train_sessions.parquet")
    first = round(train.height * (1 - VALIDATION_SHARE))
    train.head(first).write_parquet(fit / "train_sessions.parquet")
    train.write_parquet(final / "train_sessions.parquet")
    return _prefixes(train.slice(first)), _prefixes(pl.read_parquet(source / "test_sessions.parquet"))


def _prefixes(sessions: pl.DataFrame) -> pl.DataFrame:
    """Return every prefix of every session with the item after it."""
    grown = sessions.with_columns(pl.int_ranges(1, pl.col("items").list.len()).alias("length")).explode("length")
    return grown.drop_nulls("length").select(
        pl.format("session-{}", "session").alias("key"),
        pl.col("items").list.head(pl.col("length")).alias("context"),
        pl.concat_list(pl.col("items").list.get(pl.col("length"))).alias("target"),
    )


def _cut_sequences(source: Path, fit: Path, final: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows = pl.read_parquet(source / "sequences.parquet").filter(pl.col("items").list.len() >= 3)
    asked = []
    for folder, left_out in ((fit, 2), (final, 1)):
        kept = pl.col("items").list.head(pl.col("items").list.len() - left_out)
        rows.select("user", kept.alias("items")).write_parquet(folder / "sequences.parquet")
        shutil.copyfile(source / "items.parquet", folder / "items.parquet")
        asked.append(
            _of_users(rows.select("user", pl.concat_list(pl.col("items").list.get(-left_out)).alias("target")))
        )
    return asked[0], asked[1]


def cut_cold(kind: str, source: Path, work: Path) -> tuple[Phase, pl.Series]:
    """Hide a tenth of the items, by the hash of their numbers, from everything but the catalogue.

    Returns:
      What is left, with the hidden items of each user as targets; and the hidden items.

    Raises:
      ValueError: items of the kind have no content to be known by.
    """
    if kind == "sessions":
        raise ValueError("sessions come without any content of items, so nothing is known of a hidden one")
    folder = work / "cold"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    name = "sequences.parquet" if kind == "sequences" else "interactions.parquet"
    rows = pl.read_parquet(source / name)
    rows = rows.explode("items").rename({"items": "item"}) if kind == "sequences" else rows.rename({"artist": "item"})
    hidden = rows["item"].unique().sort().filter(_cold(rows["item"].unique().sort()))
    left, asked = (rows.filter(pl.col("item").is_in(hidden.implode()) == cold) for cold in (False, True))
    if kind == "sequences":
        left = left.group_by("user", maintain_order=True).agg(pl.col("item").alias("items"))
    else:
        left = left.rename({"item": "artist"})
    left.write_parquet(folder / name)
    for other in ("items.parquet", "artists.parquet", "artist_tags.parquet"):
        if (source / other).is_file():
            shutil.copyfile(source / other, folder / other)
    known = _of_users(left.select("user", pl.lit(0).alias("target")).unique("user"))["key"]
    return Phase(folder, _targets(asked).filter(pl.col("key").is_in(known.implode()))), hidden


def _cold(items: pl.Series) -> pl.Series:
    return pl.Series(unit_interval(hash64(items.cast(pl.String).to_arrow())) < COLD_SHARE)


def _of_users(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.format("user-{}", "user").alias("key"), "target").sort("key")


def _cut_pairs(source: Path, fit: Path, final: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    train, given = pl.read_parquet(source / "train.parquet"), source / "valid.parquet"
    besides = [pl.read_parquet(given)] if given.is_file() else []
    place = pl.int_range(pl.len()).over("user")
    late = train.select(place >= ((1 - PAIRS_SHARE) * pl.len().over("user")).ceil()).to_series()
    pl.concat([train.filter(~late), *besides]).write_parquet(fit / "train.parquet")
    pl.concat([train, *besides]).write_parquet(final / "train.parquet")
    return _targets(train.filter(late)), _targets(pl.read_parquet(source / "test.parquet"))


def _targets(pairs: pl.DataFrame) -> pl.DataFrame:
    unique = pairs.unique(["user", "item"]).sort("user", "item")
    return _of_users(unique.group_by("user", maintain_order=True).agg(pl.col("item").alias("target")))


def named(asked: pl.DataFrame, item_type: str) -> pl.DataFrame:
    """Return what is asked in the example contract, items by id."""
    ids = {name: pl.col(name).list.eval(pl.format(item_type + "-{}", pl.element())) for name in ("context", "target")}
    context = ids["context"] if "context" in asked.columns else pl.lit(None, pl.List(pl.String)).alias("context")
    place = pl.int_range(pl.len()).over("key").cast(pl.String).str.zfill(9)
    return asked.select(pl.format("{}#{}", "key", place).alias("example_id"), "key", context, ids["target"])
