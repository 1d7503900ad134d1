"""Label strength: how much one event says about liking an item. One pure, versioned function."""

import polars as pl

LABEL_VERSION = 2

# Thresholds of the domain reference, section 2.
_MUSIC_MS, _SHORT_TRACK_MS, _SHORT_SHARE = 30_000, 60_000, 0.5
_TALK_MS, _BOOK_MS, _VIDEO_MS = 60_000, 300_000, 30_000
_COMPLETED = {"track": 0.9, "video": 0.9, "episode": 0.8, "audiobook": 0.9, "chapter": 0.9}
_SPOKEN = ("episode", "audiobook", "chapter")
_FAST_SKIP_MS = 10_000
POSITIVE, STRONG, BACKGROUND = 0.5, 1.0, 0.5
_EXPLICIT = {
    "like": 1.0, "add": 1.0, "playlist_add": 1.0, "follow": 0.5, "share": 0.8,
    "dislike": -1.0, "hide": -1.0, "promo_dismiss": -0.5, "unlike": -0.5, "remove": -0.5, "unfollow": -0.25,
}  # fmt: skip
_SKIP, _DISTRACTED_SKIP = -0.5, -0.25


def label_strength() -> pl.Expr:
    """Return the label of an event as a polars expression over the columns of the event contract, float32 in [-1, 1].

    A play is positive (0.5) when long enough for its kind, strong (1.0) when completed by choice, and counts half when
    it came from autoplay or in the background. Episodes, chapters and books are strong when completed, whoever chose them:
    what comes next after them depends on it. A skip within 10 s is negative, less so in shuffle mode or offline.
    Likes, adds, hides and the like speak for themselves; searches and impressions say nothing (0).
    """
    said = pl.col("event_type").replace_strict(_EXPLICIT, default=0.0, return_dtype=pl.Float64)
    return (
        pl.when(pl.col("event_type") == "play")
        .then(_played())
        .when(pl.col("event_type") == "skip")
        .then(_skipped())
        .otherwise(said)
        .cast(pl.Float32)
    )


def _played() -> pl.Expr:
    kind, ms, duration = pl.col("item_type"), pl.col("ms_played"), pl.col("item_duration_ms")
    completed = (ms >= duration * kind.replace_strict(_COMPLETED, default=0.9)).fill_null(False) & (duration > 0)
    chosen = pl.col("is_organic").fill_null(True) | kind.is_in(_SPOKEN)
    background = (pl.col("context_type") == "autoplay").fill_null(False) | (
        pl.col("reason_start") == "autoplay"
    ).fill_null(False)
    return (
        pl.when(_long_enough() & completed & chosen & ~background)
        .then(STRONG)
        .when(_long_enough() & background)
        .then(POSITIVE * BACKGROUND)
        .when(_long_enough())
        .then(POSITIVE)
        .otherwise(0.0)
    )


def _long_enough() -> pl.Expr:
    kind, ms, duration = pl.col("item_type"), pl.col("ms_played"), pl.col("item_duration_ms")
    return (
        pl.when(kind.is_in(["episode", "show"]))
        .then(ms >= _TALK_MS)
        .when(kind.is_in(["audiobook", "chapter"]))
        .then(ms >= _BOOK_MS)
        .when(kind == "video")
        .then(ms >= _VIDEO_MS)
        .otherwise((ms >= _MUSIC_MS) | ((duration < _SHORT_TRACK_MS) & (ms >= duration * _SHORT_SHARE)))
    ).fill_null(False)


def _skipped() -> pl.Expr:
    distracted = pl.col("shuffle").fill_null(False) | pl.col("offline").fill_null(False)
    fast = pl.col("ms_played") < _FAST_SKIP_MS
    return pl.when(fast & distracted).then(_DISTRACTED_SKIP).when(fast).then(_SKIP).otherwise(_played())
