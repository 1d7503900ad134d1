"""What those who are held out played and found in their sets, and the same of the others: figures of units, by arm.

Whether somebody is held out is a hash of the id, so that nothing but their sets tells the two apart.
"""

import polars as pl

from schemas.evaluation import ARM_FIGURES, SETS
from schemas.policy import SurfacePolicy
from transforms.evaluation import DEPTH
from transforms.evaluation_lists import PER_UNIT
from transforms.holdout import held_out
from validation.arm_gates import HELD_OUT, OTHERS


def arm_figures(
    units: pl.DataFrame, events: pl.DataFrame, targets: pl.DataFrame, hits: pl.DataFrame, policy: SurfacePolicy
) -> pl.DataFrame:
    """Return `PER_UNIT` figures under the names in `ARM_FIGURES`; none where the policy holds nobody out.

    Args:
      units: `unit`, `user_id`. events: `user_id` of every positive. targets: `unit`, `canonical_id`, `discovery`.
      hits: as in `transforms.evaluation.Judged`.
    """
    if not policy.holdout:
        return pl.DataFrame(schema=PER_UNIT)
    liked = events.group_by("user_id").len("liked")
    new = targets.filter("discovery").select("unit", "canonical_id")
    first = hits.filter((pl.col("ranking") == SETS) & (pl.col("rank") < DEPTH)).select("unit", "canonical_id")
    found = new.join(first, on=["unit", "canonical_id"], how="semi").group_by("unit").len("found")
    wanted = new.group_by("unit").len("wanted").join(found, on="unit", how="left").with_columns(
        recall=pl.col("found").fill_null(0) / pl.col("wanted"), one=pl.lit(1.0)
    )  # fmt: skip
    told = units.select("unit", "user_id").with_columns(held_out(units["user_id"], policy).alias("held"))
    told = told.join(liked, on="user_id", how="left", maintain_order="left")
    told = told.join(wanted, on="unit", how="left", maintain_order="left")
    figures = [
        _figure(told.filter(pl.col("held") == held), ARM_FIGURES[arm])
        for arm, held in ((OTHERS, False), (HELD_OUT, True))
    ]
    return pl.concat([pl.DataFrame(schema=PER_UNIT), *figures])


def _figure(told: pl.DataFrame, names: dict[str, str]) -> pl.DataFrame:
    values = {
        "listeners": pl.lit(1.0),
        "positives": pl.col("liked").cast(pl.Float64),
        "explorers": pl.col("one"),
        "recall": pl.col("recall"),
    }
    each = [
        told.select("unit", pl.lit(SETS).alias("ranking"), pl.lit(names[kind]).alias("metric"), value.alias("value"))
        for kind, value in values.items()
    ]
    return pl.concat(each).drop_nulls("value")
