"""What the embed stage costs beside torch alone: vectors per second of both, in turns, over the same rows.

    python -m benchmarks.embed_speed [--users 40000] [--items 40000] [--rounds 3] [--device cpu] [--json FILE]

The stage reads Parquet, numbers or tokenises the rows, embeds them in Beam's RunInference, checks the vectors and
writes Parquet, start-up of the pipeline included. Torch alone is given the rows as arrays, in batches of the same
size, and its vectors are thrown away. Users are histories of fifty listens, what is embedded every day. An item's vector
is a sum over its tokens, next to nothing for torch: making tokens of its words is the work, so it is in one row for both.
"""

import argparse
import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import torch

from schemas.catalogue import CONTRACTS
from schemas.models import EMBEDDING_DIM, Space
from transforms.devices import CPU, DEVICES
from transforms.embed.encoder import Encoder, EncoderConfig, content_of, vocabulary
from transforms.embed.encoder_model import EncoderModel, finished
from transforms.embed.inference import ROWS_AT_ONCE, Embedder, EmbedShards
from transforms.embed.interactions import Interactions, from_listens
from transforms.embed.language import TEXT_MODEL
from transforms.embed.text import item_features
from transforms.embed.vectors import ITEMS, USERS, EncoderFiles, Rows
from transforms.embed.weights import pack
from transforms.histories import exploded
from transforms.io.store import Store, open_store
from transforms.io.tables import conform, write_parquet
from transforms.shards import Task, Workspace

LISTENS = 50
WORDS = 5_000
SPACE = Space("encoder", "speed", EMBEDDING_DIM, "cosine")
WEIGHTS, NUMBERED = "weights.safetensors", "vocabulary.parquet"


def table(name: str, **columns: object) -> pl.DataFrame:
    """Return rows of a contract; what is not given is null, or the zero of its type where there must be something."""
    schema = CONTRACTS[name].schema
    empty = pl.from_arrow(schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    given = pl.DataFrame(columns)
    zero = pl.DataFrame({column: [0] for column in empty.columns}).cast(
        {column: kind for column, kind in empty.schema.items() if not kind.is_nested()}
    )
    return given.select(
        pl.col(column).cast(kind)
        if column in columns
        else pl.lit(None, kind).alias(column)
        if schema.field(column).nullable or kind.is_nested()
        else pl.lit(zero[column].item(), kind).alias(column)
        for column, kind in empty.schema.items()
    )


def catalogue(items: int, rng: np.random.Generator) -> pl.DataFrame:
    """Return items of four words and a genre each."""
    words = rng.integers(0, WORDS, (items, 4))
    return table(
        "item",
        item_id=[f"i{number:08d}" for number in range(items)],
        item_type=["track"] * items,
        title=[" ".join(f"word{word}" for word in row) for row in words],
        genres=[[f"genre{row[0] % 50}"] for row in words],
        rec_eligible=[True] * items,
    )


def histories(users: int, items: int, rng: np.random.Generator) -> pl.DataFrame:
    """Return users with fifty listens each."""
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    listens = pl.DataFrame({"item": rng.integers(0, items, users * LISTENS)}).select(
        pl.int_range(pl.len()).floordiv(LISTENS).alias("user"),
        pl.struct(
            pl.format("i{}", pl.col("item").cast(pl.String).str.zfill(8)).alias("item_id"),
            pl.lit("track").alias("item_type"),
            (pl.lit(start) + pl.duration(minutes=pl.int_range(pl.len()) % LISTENS)).alias("event_ts"),
            pl.lit(1.0, pl.Float32).alias("label"),
            pl.lit("s").alias("session_id"),
        ).alias("positives"),
    )
    grouped = listens.group_by("user", maintain_order=True).agg("positives")
    ids = [f"u{number:08d}" for number in range(users)]
    none = [[] for _ in ids]
    return table(
        "history", user_id=ids, positives=grouped["positives"], skips=pl.Series(none, dtype=grouped["positives"].dtype)
    )


def model(items: pl.DataFrame) -> EncoderModel:
    """Return an encoder as wide as the road's, before any training: what it costs is the same."""
    torch.manual_seed(0)
    features, known = item_features(items), np.ones(items.height, bool)
    buckets = vocabulary(features, known)
    encoder = Encoder(EncoderConfig(items.height, len(buckets), EMBEDDING_DIM, scale=14.0)).eval()
    return finished(encoder, content_of(features, buckets), known, buckets, (0, []))


def stage(store: Store, what: Rows, device: str, run: str) -> float:
    """Return the seconds of the stage's transform over one shard."""
    task = Task("00000", 0, {what.dataset: (f"{what.dataset}.parquet",), what.embedding: ()})
    space = Workspace(store.root, f"staging/{run}", run, what.embedding, "embed", "code")
    started = time.perf_counter()
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([task]) | EmbedShards(space, what, SPACE, EncoderFiles(WEIGHTS, (NUMBERED,), device))
    return time.perf_counter() - started


def torch_alone(work: Callable[[int], object], batches: int) -> float:
    """Return the seconds of all batches."""
    started = time.perf_counter()
    for number in range(batches):
        work(number)
    return time.perf_counter() - started


def user_batches(embedder: Embedder, rows: pl.DataFrame) -> list[Interactions]:
    """Return the histories as arrays."""
    return [
        from_listens(exploded(some, "positives", "skips").rename({"user_id": "key"}), some["user_id"], embedder.numbers)
        for some in rows.iter_slices(ROWS_AT_ONCE)
    ]


def measure(users: int, items: int, rounds: int, device: str) -> dict[str, dict[str, float]]:
    """Return, by entity, vectors per second of both and their ratio: medians of turns taken one after the other."""
    rng = np.random.default_rng(0)
    rows = {ITEMS.dataset: catalogue(items, rng), USERS.dataset: histories(users, items, rng)}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        for name, frame in rows.items():
            store.put(write_parquet(conform(frame, CONTRACTS[name])), f"{name}.parquet")
        ids = rows[ITEMS.dataset]["item_id"]
        numbered = table("vocabulary", item_id=ids, number=range(items), positives=[1] * items)
        store.put(write_parquet(conform(numbered, CONTRACTS["vocabulary"])), NUMBERED)
        store.write_bytes(WEIGHTS, pack(model(rows[ITEMS.dataset]).to_arrays(), {TEXT_MODEL: ""}))
        embedder = Embedder.load(store, EncoderFiles(WEIGHTS, (NUMBERED,), device))
        contexts = user_batches(embedder, rows[USERS.dataset])
        slices = list(rows[ITEMS.dataset].iter_slices(ROWS_AT_ONCE))
        told = [(np.arange(some.height) + n * ROWS_AT_ONCE, item_features(some)) for n, some in enumerate(slices)]
        works: dict[str, tuple[Rows, Callable[[int], object], int]] = {
            "users": (USERS, lambda n: embedder.model.encode(contexts[n]), len(contexts)),
            "items, from their words": (ITEMS, lambda n: embedder.items(slices[n]), len(slices)),
            "items, from their tokens": (ITEMS, lambda n: embedder.model.embed_items(*told[n]), len(told)),
        }
        for entity, (what, work, batches) in works.items():
            stage(store, what, device, f"{what.dataset}-{len(found)}-warm")
            torch_alone(work, batches)
            turns = [
                (stage(store, what, device, f"{what.dataset}-{len(found)}-{turn}"), torch_alone(work, batches))
                for turn in range(rounds)
            ]
            own, other = (statistics.median(column) for column in zip(*turns, strict=True))
            count = rows[what.dataset].height
            found[entity] = {
                "stage": count / own, "torch": count / other, "rounds": rounds,
                "ratio": statistics.median(alone / whole for whole, alone in turns),
            }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=40_000)
    parser.add_argument("--items", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default=CPU, choices=DEVICES)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.users, given.items, given.rounds, given.device)
    for entity, one in found.items():
        print(
            f"{entity}: stage {one['stage']:,.0f} a second, torch alone {one['torch']:,.0f}; ratio {one['ratio']:.2f}"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
