"""What committed sets are judged by: canaries nobody may see, and what each persona's set must look like."""

from collections.abc import Mapping
from pathlib import Path

import golden_world
import polars as pl

ANYBODY = "*"
FULL = (40, 60)
"""Candidates of a set under the policy of the small worlds: `fill_to` and `size`."""


def committed(root: Path, dataset: str) -> pl.DataFrame:
    """Return all rows of the only run of a dataset."""
    files = sorted((root / "data" / dataset).rglob("part-*.parquet"))
    return pl.concat([pl.read_parquet(file, hive_partitioning=False) for file in files])


def published(root: Path, surface: str) -> pl.DataFrame:
    """Return the candidate sets of a surface."""
    return committed(root, "candidate_set").filter(pl.col("surface") == surface)


def slots(sets: pl.DataFrame) -> pl.DataFrame:
    """Return one row per candidate, in blend order, with `source`, the source whose slot it took."""
    told = sets.select("record_key", "context_key", "candidates").explode("candidates").drop_nulls("candidates")
    first = pl.col("sources").list.first().struct.field("source_id").alias("source")
    return told.unnest("candidates").with_columns(first).sort("record_key", "context_key", "position")


def described(rows: pl.DataFrame, raw: golden_world.Raw) -> pl.DataFrame:
    """Add to slots what personas are judged by: `genre`, `artist_id`, `show_id`, `explicit`, `blocked`, `hidden`."""
    items = raw.read("items").select(
        "item_id", "show_id", pl.col("explicit").fill_null(True), pl.col("age_rating").fill_null(0),
        pl.col("genres").list.first().alias("genre"),
        pl.col("artists").list.first().struct.field("artist_id").alias("artist_id"),
    )  # fmt: skip
    users = raw.read("users").select(pl.col("user_id").alias("record_key"), "blocked_artists", "hidden_items")
    joined = rows.join(items, on="item_id", how="left", maintain_order="left").join(
        users, on="record_key", how="left", maintain_order="left"
    )
    return joined.with_columns(
        pl.col("blocked_artists").list.contains(pl.col("artist_id")).fill_null(False).alias("blocked"),
        pl.col("hidden_items").list.contains(pl.col("item_id")).fill_null(False).alias("hidden"),
    )


def people(sets: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Return for whom each set is: market and tier as the set says, the rest as the accounts do; anybody may be a child."""
    told = users.select(pl.col("user_id").alias("record_key"), "explicit_filter", "age_band", "languages")
    joined = sets.select("record_key", "context_key", "market", "tier").join(told, on="record_key", how="left")
    anybody = pl.col("record_key") == ANYBODY
    return joined.with_columns(
        (pl.col("explicit_filter").fill_null(False) | anybody).alias("explicit_filter"),
        pl.when(anybody).then(pl.lit("0-12")).otherwise("age_band").alias("age_band"),
    )


def listeners(sets: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return for whom each Now Playing set is: whoever may hear its seed, the one who may hear least of them; as `people`."""
    limited = (
        pl.col("availability").list.eval(pl.element().struct.field("tiers").is_not_null()).list.any().fill_null(False)
    )
    rating, clean = pl.col("age_rating").fill_null(0), ~pl.col("explicit").fill_null(True)
    seeds = items.select(
        pl.col("item_id").alias("record_key"), clean.alias("explicit_filter"), limited.alias("limited"),
        pl.when((rating < 13) & clean).then(pl.lit("0-12")).when(rating < 18).then(pl.lit("13-17"))
        .otherwise(pl.lit("25-34")).alias("age_band"),
    )  # fmt: skip
    joined = sets.select("record_key", "context_key", "market", "tier").join(seeds, on="record_key", how="left")
    of_seed = pl.col("record_key") != ANYBODY
    return joined.with_columns(
        pl.when(of_seed & ~pl.col("limited")).then(pl.lit("free")).otherwise("tier").alias("tier"),
        pl.col("explicit_filter").fill_null(True), pl.col("age_band").fill_null("0-12"),
    )  # fmt: skip


def wrong(rows: pl.DataFrame, rule: Mapping, raw: golden_world.Raw, of: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with a canary of a rule that is not for the one whose rows they are.

    Args:
      rows: slots. of: `people`, of the sets of these slots.
    """
    own = golden_world.canary_rows(golden_world.plain_items(raw)).filter(pl.col("name") == rule["name"])
    shown = rows.join(own.select("item_id"), on="item_id", how="semi").join(of, on=["record_key", "context_key"])
    kinds = [_is_of(kind) for kind in rule.get("never", ())]
    if "with" in rule:
        pairs = golden_world.RELATIONS[rule["with"]](raw, own, of)
        return shown.join(pairs, on=["record_key", "item_id"], how="semi", maintain_order="left")
    return shown.filter(pl.any_horizontal(kinds))


def leaks(rows: pl.DataFrame, rule: Mapping, raw: golden_world.Raw, of: pl.DataFrame) -> list[str]:
    """Say which canaries of a rule are in sets that they must never be in."""
    told = wrong(rows, rule, raw, of).select("item_id", "record_key", "context_key", "tier", "position").rows()
    return [
        f"{item} ({rule['name']}) is in the set of {key} {context}, tier {tier}, position {place}"
        for item, key, context, tier, place in told
    ]


def _is_of(kind: Mapping) -> pl.Expr:
    tests = [pl.col(name).is_in(values).fill_null(False) for name, values in kind.items()]
    return pl.all_horizontal(pl.lit(True), *tests)


def findings(persona: Mapping, record: Mapping | None, rows: pl.DataFrame) -> list[str]:
    """Say what is not as expected of a persona's set.

    Args:
      record: the set, None where there is none. rows: its described slots.
    """
    name = persona["name"]
    if record is None or not persona.get("set", True):
        there, wanted = record is not None, persona.get("set", True)
        return (
            []
            if there == wanted
            else [f"{name}: expected {'a' if wanted else 'no'} set, there is {'one' if there else 'none'}"]
        )
    found = []
    if record["market"] != persona.get("market", record["market"]):
        found.append(f"{name}: expected a set for market {persona['market']}, came {record['market']}")
    least, most = persona.get("size", FULL)
    if not least <= rows.height <= most:
        found.append(f"{name}: expected {least} to {most} candidates, came {rows.height}")
    if record["fallback_level"] not in persona["level"]:
        found.append(f"{name}: expected fallback level {persona['level']}, came {record['fallback_level']}")
    if sorted(record["degraded_reasons"]) != sorted(persona.get("reasons", [])):
        found.append(
            f"{name}: expected degraded reasons {persona.get('reasons', [])}, came {record['degraded_reasons']}"
        )
    return found + [one for share in persona.get("shares", ()) for one in _share(name, share, rows)]


def _share(name: str, expected: Mapping, rows: pl.DataFrame) -> list[str]:
    bounds = {"at_least": 0.0, "at_most": 1.0}
    kind = {key: value for key, value in expected.items() if key not in bounds}
    low, high = (expected.get(bound, default) for bound, default in bounds.items())
    came = rows.filter(pl.all_horizontal(pl.col(key) == value for key, value in kind.items())).height / max(
        rows.height, 1
    )
    told = ", ".join(f"{key} {value}" for key, value in kind.items())
    return [] if low <= came <= high else [f"{name}: expected {low:.0%} to {high:.0%} of {told}, came {came:.0%}"]
