"""Which normalisation of co-listens finds what people play next: shrunk lift, cosine or in between.

    python -m benchmarks.co_listen --data FOLDER_OF_SESSIONS [--json FILE]

Counts pairs on 19 of 20 training sessions with the road's own functions, then asks, for every position of the others,
whether the next item is among the 20 best neighbours of the items before it (recent ones weighing more, as the source
does). The test sessions are not looked at.
"""

import argparse
import datetime
import json
from pathlib import Path

import polars as pl

from schemas.hashing import shard_of
from transforms import tallies
from transforms.importers import SHAPES

TOP = 20
SEEDS = 5
SHRINKAGE = 2.0
HELD_OUT = 20
POWERS = (0.0, 0.25, 0.5)


def pair_counts(source: Path, end: datetime.date) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return pairs with both items' totals, and the plays of the sessions held out."""
    frames = [
        frame
        for dataset, frame in SHAPES["sessions"](source).parts(end - datetime.timedelta(days=27))
        if dataset == "events"
    ]
    events = pl.concat(frames).with_columns(
        pl.lit(1.0, pl.Float32).alias("label"),
        pl.col("event_ts").dt.date().alias("event_date"),
        pl.lit(None, pl.String).alias("campaign_id"),
    )
    users = events["user_id"]
    held = pl.Series(shard_of(users.to_arrow(), HELD_OUT) == 0)
    asked = events.filter(held & ~users.str.starts_with("test"))
    train = events.filter(~held & ~users.str.starts_with("test"))
    counted = tallies.pairs_by_day(train).with_columns(pl.col("item_id", "other_item_id").cast(pl.String))
    total = counted.group_by("item_id", "other_item_id").agg(pl.col("weight").sum() / tallies.WEIGHT_UNIT)
    own = total.filter(pl.col("item_id") == pl.col("other_item_id")).select("item_id", pl.col("weight").alias("n"))
    pairs = tallies.both_ways(total.filter(pl.col("item_id") != pl.col("other_item_id"))).join(own, on="item_id")
    return pairs.join(own.rename({"item_id": "other_item_id", "n": "m"}), on="other_item_id"), asked


def scores(total: float) -> dict[str, pl.Expr]:
    """Return the candidates for a normalisation; w pairs, n and m totals of the seed and the other."""
    w, n, m = pl.col("weight"), pl.col("n"), pl.col("m")
    trust = w / (w + SHRINKAGE)
    found = {"shrunk lift": w * total / (n * m) * trust}
    return found | {f"w / sqrt(n) / m^{power:g}, shrunk": w / n.sqrt() / m.pow(power) * trust for power in POWERS}


def hit_rate(pairs: pl.DataFrame, score: pl.Expr, asked: pl.DataFrame) -> float:
    """Return the share of cases whose next item is among the 20 best."""
    near = tallies.top(
        pairs.with_columns(score.alias("score")), ["item_id"], "score", "other_item_id", tallies.TOP_NEIGHBOURS
    )
    near = near.select("item_id", "other_item_id", "score")
    played = asked.sort("user_id", "event_ts").with_columns(pl.int_range(pl.len()).over("user_id").alias("place"))
    hits, cases = 0, 0
    for part in played.with_columns(pl.col("user_id").hash(0).mod(8).alias("__part")).partition_by("__part"):
        target = part.filter(pl.col("place") > 0).select("user_id", "place", pl.col("item_id").alias("target"))
        seeds = [
            target.with_columns((pl.col("place") - back).alias("at"), pl.lit(0.6**back).alias("share")).join(
                part.select("user_id", pl.col("place").alias("at"), "item_id"), on=["user_id", "at"]
            )
            for back in range(1, SEEDS + 1)
        ]
        found = (
            pl.concat(seeds).join(near, on="item_id").with_columns((pl.col("score") * pl.col("share")).alias("part"))
        )
        summed = found.group_by("user_id", "place", "target", "other_item_id").agg(pl.col("part").sum())
        best = tallies.top(summed, ["user_id", "place"], "part", "other_item_id", TOP)
        hits += best.filter(pl.col("other_item_id") == pl.col("target")).height
        cases += target.height
    return hits / cases


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pairs, asked = pair_counts(options.data, datetime.date(2026, 1, 31))
    total = float(pairs.unique("item_id")["n"].sum())
    rows = []
    for name, score in scores(total).items():
        rate = hit_rate(pairs, score, asked)
        print(f"{name:<40} P@{TOP} {100 * rate:6.2f} %", flush=True)
        rows.append(
            {
                "name": f"co_listen P@{TOP}: {name}",
                "value": round(100 * rate, 3),
                "unit": "%",
                "target": None,
                "met": None,
            }
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
