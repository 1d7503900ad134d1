"""Judge a training and the vectors of a model. Thresholds are in `thresholds.toml`, section `embedding`."""

from collections.abc import Iterator

from schemas.manifest import CheckResult, Manifest
from validation.checks import graded, percent, skipped
from validation.statistics import Statistics
from validation.thresholds import EmbeddingThresholds


def judge_training(manifest: Manifest, statistics: Statistics) -> Iterator[CheckResult]:
    """Yield that no feature is as late as a label, that weights are numbers, and that there was something to learn from."""
    counters = manifest.counters
    message = "no positive of any item in the vocabulary: look at the histories and at rec_eligible in the catalogue"
    yield graded("listens", manifest.rows_in, "at least 1", None, block=not manifest.rows_in, message=message)
    bad = counters.get("not_finite", 0)
    message = f"{bad:,} weights are no numbers: train again with a lower rate"
    yield graded("weights_finite", bad, "0", counters.get("weights", 0), block=bad > 0, message=message)
    if "first_label_us" not in counters:
        yield skipped("no_leak", "nothing was held out")
        return
    gap = (counters["first_label_us"] - counters["last_feature_us"]) / 1e6
    message = (
        f"the latest feature is {-gap:,.0f} s after the earliest label: figures on held-out data are not to be believed"
    )
    yield graded("no_leak", gap, "features before labels, s > 0", None, block=gap <= 0, message=message)


def judge_vectors(manifest: Manifest, limits: EmbeddingThresholds, coverage: float) -> Iterator[CheckResult]:
    """Yield the checks on every vector, then those on a sample of them."""
    counters, rows = manifest.counters, manifest.rows_out
    bad = counters.get("not_finite", 0) + counters.get("not_unit", 0)
    message = f"{bad:,} of {rows:,} vectors hold no numbers or are not of length 1: the model is broken, train it again"
    yield graded("unit_vectors", bad, "0", rows, block=bad > 0, message=message)
    covered = rows / manifest.rows_in if manifest.rows_in else 0.0
    message = (
        f"only {percent(covered)} of {manifest.rows_in:,} rows have a vector: nothing the model knows is in the others"
    )
    yield graded(
        "coverage", covered, f"B < {percent(coverage)}", manifest.rows_in, block=covered < coverage, message=message
    )
    sampled = counters.get("sampled", 0)
    if sampled < limits.sample_rows:
        yield skipped("collapse", f"{sampled} vectors are too few to judge a space by")
        return
    yield from _collapse(counters, limits)
    yield from _neighbours(counters, limits)
    yield from _popularity(counters, limits)


def _collapse(counters: dict[str, int], limits: EmbeddingThresholds) -> Iterator[CheckResult]:
    cosine, rank = counters["mean_cosine_ppm"] / 1e6, counters["effective_rank_ppm"] / 1e6
    message = (
        f"two vectors have a cosine of {cosine:.2f} on average: they say little apart; look at the loss of the training"
    )
    threshold, warn = f"W > {limits.mean_cosine_warn:g}", cosine > limits.mean_cosine_warn
    yield graded("mean_cosine", cosine, threshold, counters["sampled"], warn=warn, message=message)
    message = f"vectors use {percent(rank)} of their dimensions: take a smaller dimension, or look at the loss"
    threshold, warn = f"W < {percent(limits.rank_warn)}", rank < limits.rank_warn
    yield graded("effective_rank", rank, threshold, counters["sampled"], warn=warn, message=message)
    share = counters["repeated"] / counters["sampled"]
    message = f"{percent(share)} of the vectors are another's too: items without text or plays share one"
    threshold, warn = f"W > {percent(limits.repeated_warn)}", share > limits.repeated_warn
    yield graded("repeated", share, threshold, counters["sampled"], warn=warn, message=message)


def _neighbours(counters: dict[str, int], limits: EmbeddingThresholds) -> Iterator[CheckResult]:
    if "overlap_ppm" not in counters:
        yield skipped("neighbour_overlap", "no earlier version of this space to compare with")
        return
    share = counters["overlap_ppm"] / 1e6
    message = (
        f"only {percent(share)} of the 20 nearest are those of the last version of this space: it moved, train anew"
    )
    threshold = f"W < {percent(limits.overlap_warn)}, B < {percent(limits.overlap_block)}"
    warn, block = share < limits.overlap_warn, share < limits.overlap_block
    yield graded("neighbour_overlap", share, threshold, counters["sampled"], warn=warn, block=block, message=message)


def _popularity(counters: dict[str, int], limits: EmbeddingThresholds) -> Iterator[CheckResult]:
    if "popularity_ppm" not in counters:
        return
    found = counters["popularity_ppm"] / 1e6
    message = f"how well an item scores on average goes with its plays by {found:.2f}: a few hits will take over"
    threshold = f"W > {limits.popularity_warn:g}, B > {limits.popularity_block:g}"
    warn, block = found > limits.popularity_warn, found > limits.popularity_block
    yield graded("popularity", found, threshold, counters["sampled"], warn=warn, block=block, message=message)
