"""The yardstick of `benchmarks.road`: what a person would write in polars instead, in one file and one process.

Same rules, same deduplication, same labels, same counting, same tables out. What it leaves out is what the road is
for: shards, bounded memory, resume, daily partials, rejections with payloads, statistics, expectations, manifests,
lineage. It shares no code with the road, so that equal tables mean something.
"""

import argparse
import datetime
from pathlib import Path

import polars as pl

UNIT, DECAY = 1024, 1 << 20
EVENT_TYPES = ["play", "skip", "like", "unlike", "dislike", "add", "remove", "playlist_add", "follow", "unfollow",
               "search", "search_click", "impression", "promo_dismiss", "hide", "share"]  # fmt: skip
ITEM_TYPES = ["track", "episode", "show", "audiobook", "chapter", "video", "artist", "album", "playlist"]
REASONS = ["track_done", "fwd", "back", "end", "error", "logout", "trackdone_auto", "click", "autoplay"]
CONTEXTS = ["album", "playlist", "artist", "search", "home_shelf", "autoplay", "queue", "radio", "show", "library"]
SURFACES = ["home", "now_playing", "search", "library", "browse", "other"]
TIERS = ["free", "premium", "duo", "family", "student", "kids"]
AGES = ["0-12", "13-17", "18-24", "25-34", "35-44", "45-54", "55+"]
SAID = {"like": 1.0, "add": 1.0, "playlist_add": 1.0, "follow": 0.5, "share": 0.8, "dislike": -1.0, "hide": -1.0,
        "promo_dismiss": -0.5, "unlike": -0.5, "remove": -0.5, "unfollow": -0.25}  # fmt: skip
COMPLETED = {"track": 0.9, "video": 0.9, "episode": 0.8, "audiobook": 0.9, "chapter": 0.9}
DAY_MS = 24 * 3600 * 1000
C = pl.col


def text(name: str, limit: int) -> pl.Expr:
    return C(name).str.len_bytes() <= limit


def given(name: str) -> pl.Expr:
    return C(name).is_not_null() & (C(name).str.len_bytes() > 0) & text(name, 200)


def passes(*rules: pl.Expr) -> pl.Expr:
    """Keep a row no rule of which is false; null says nothing."""
    return pl.all_horizontal(rule.fill_null(True) for rule in rules)


def clean_events(raw: Path, users: pl.DataFrame, gone: pl.DataFrame) -> pl.DataFrame:
    events = pl.scan_parquet(raw / "events/*.parquet").filter(
        passes(
            *(given(name) for name in ("event_id", "user_id", "item_id")),
            *(C(name).is_not_null() for name in ("schema_version", "event_type", "event_ts", "ingest_ts", "item_type")),
            C("schema_version").is_between(1, 1),
            C("event_type").is_in(EVENT_TYPES),
            C("item_type").is_in(ITEM_TYPES),
            C("event_ts") <= C("ingest_ts") + pl.duration(seconds=300),
            C("ms_played").is_between(0, DAY_MS),
            C("ms_played").is_not_null() | ~C("event_type").is_in(["play", "skip"]),
            (C("item_duration_ms") <= 0) | (C("ms_played") <= C("item_duration_ms") * 1.1 + 30_000),
            C("item_duration_ms").is_between(0, 7 * DAY_MS),
            C("reason_start").is_in(REASONS),
            C("reason_end").is_in(REASONS),
            text("context_uri", 500),
            C("context_type").is_in(CONTEXTS),
            C("surface").is_in(SURFACES),
            *(text(name, 200) for name in ("candidate_set_id", "source_id", "campaign_id")),
            C("rank").is_between(0, 100_000),
            *(text(name, 50) for name in ("device_type", "platform", "app_version")),
            text("market", 2),
            C("utc_offset_min").is_between(-840, 840),
            text("query_hash", 64),
        )
    )
    events = events.collect()
    again = C("event_id").is_duplicated()
    first = events.filter(again).sort("event_id", "ingest_ts", maintain_order=True).unique("event_id", keep="first")
    erased = pl.concat(
        [gone.filter(C("entity") == "user")["id"], users.filter(C("deletion_requested_at").is_not_null())["user_id"]]
    )
    kept = pl.concat([events.filter(~again), first]).filter(~C("user_id").is_in(erased.implode()))
    del events
    kept = kept.sort("user_id", "event_ts", "event_id")
    gap = C("event_ts").diff() > datetime.timedelta(minutes=30)
    starts = (C("user_id") != C("user_id").shift()).fill_null(True) | gap
    began = pl.when(starts).then(C("event_ts").dt.epoch("ms")).forward_fill()
    return kept.with_columns(
        pl.coalesce("session_id", pl.format("{}@{}", "user_id", began)).alias("session_id"),
        C("event_ts").dt.date().alias("event_date"),
        label().alias("label"),
    )


def label() -> pl.Expr:
    kind, ms, length = C("item_type"), C("ms_played"), C("item_duration_ms")
    long = (
        pl.when(kind.is_in(["episode", "show"])).then(ms >= 60_000)
        .when(kind.is_in(["audiobook", "chapter"])).then(ms >= 300_000)
        .when(kind == "video").then(ms >= 30_000)
        .otherwise((ms >= 30_000) | ((length < 60_000) & (ms >= length * 0.5)))
    ).fill_null(False)  # fmt: skip
    whole = (ms >= length * kind.replace_strict(COMPLETED, default=0.9)).fill_null(False) & (length > 0)
    background = ((C("context_type") == "autoplay") | (C("reason_start") == "autoplay")).fill_null(False)
    background = background | (C("context_type") == "autoplay").fill_null(False)
    spoken = C("item_type").is_in(["episode", "audiobook", "chapter"])
    chosen = (C("is_organic").fill_null(True) | spoken) & ~background
    played = (
        pl.when(long & whole & chosen).then(1.0).when(long & background).then(0.25).when(long).then(0.5).otherwise(0.0)
    )
    softly = C("shuffle").fill_null(False) | C("offline").fill_null(False)
    skipped = pl.when(ms < 10_000).then(pl.when(softly).then(-0.25).otherwise(-0.5)).otherwise(played)
    said = C("event_type").replace_strict(SAID, default=0.0, return_dtype=pl.Float64)
    is_play, is_skip = C("event_type") == "play", C("event_type") == "skip"
    return pl.when(is_play).then(played).when(is_skip).then(skipped).otherwise(said).cast(pl.Float32)


def clean_items(raw: Path) -> pl.DataFrame:
    items = pl.scan_parquet(raw / "items/*.parquet").filter(
        passes(
            given("item_id"),
            C("item_type").is_not_null() & C("item_type").is_in(ITEM_TYPES),
            text("title", 2000),
            text("description", 100_000),
            *(C(name).list.len() <= 1000 for name in ("artists", "genres")),
            *(text(name, 200) for name in ("album_id", "show_id", "series_id")),
            C("availability").list.len() <= 2000,
            C("age_rating").is_between(0, 21),
            C("duration_ms").is_between(0, 7 * DAY_MS),
            C("episode_no").is_between(0, 1_000_000),
            C("season").is_between(0, 100_000),
        )
    )
    return items.sort("item_id", "updated_at").unique("item_id", keep="last", maintain_order=True).with_columns(
        pl.coalesce("canonical_id", "item_id").alias("canonical_id"),
        C("explicit").fill_null(True),
        C("rec_eligible").fill_null(True),
        pl.struct("title", "description", "artists", "genres").struct.json_encode().hash().alias("text_hash"),
    ).collect()  # fmt: skip


def clean_users(raw: Path) -> pl.DataFrame:
    users = pl.scan_parquet(raw / "users/*.parquet").filter(
        passes(
            given("user_id"),
            text("market", 2),
            C("tier").is_in(TIERS),
            C("age_band").is_in(AGES),
            *(C(name).list.len() <= 10_000 for name in ("follows", "blocked_artists")),
            C("hidden_items").list.len() <= 100_000,
        )
    )
    return users.unique("user_id", keep="first").sort("user_id").collect()


def repeat() -> pl.Expr:
    liked = (C("label") > 0).cast(pl.Int32)
    return liked.cum_sum() - liked


def histories(events: pl.DataFrame) -> pl.DataFrame:
    listen = pl.struct("item_id", "item_type", "event_ts", "label", "session_id")
    capped = events.with_columns(repeat().over("user_id", "session_id", "item_id").alias("repeat"))
    return capped.group_by("user_id").agg(
        C("market").drop_nulls().last(),
        listen.filter((C("label") > 0) & (C("repeat") < 3)).tail(200).alias("positives"),
        listen.filter(C("label") < 0).tail(50).alias("skips"),
        pl.len().cast(pl.Int64).alias("num_events"),
        (C("label") > 0).sum().cast(pl.Int64).alias("num_positives"),
        C("event_ts").first().alias("first_event_ts"),
        C("event_ts").last().alias("last_event_ts"),
    ).sort("user_id")  # fmt: skip


def weighted(events: pl.DataFrame) -> pl.DataFrame:
    weight = (C("label") * UNIT).round().cast(pl.Int64)
    liked = events.filter((C("label") > 0) & C("campaign_id").is_null())
    capped = liked.filter(pl.int_range(pl.len()).over("event_date", "user_id", "session_id", "item_id") < 3)
    return capped.with_columns(
        pl.when(C("is_organic").fill_null(True)).then(weight).otherwise(weight // 2).alias("weight")
    )


def factor(as_of: datetime.date, half_life: float) -> pl.Expr:
    """Fixed-point decay of a row's day."""
    age = (pl.lit(as_of) - C("event_date")).dt.total_days()
    return (DECAY * pl.lit(0.5).pow(age / half_life)).round().cast(pl.Int64)


def decayed(frame: pl.DataFrame, keys: list[str], *sums: str) -> pl.DataFrame:
    return frame.group_by(keys).agg((C(*sums) * C("factor")).sum() // DECAY).filter(C("weight") > 0)


def best(frame: pl.DataFrame, within: list[str], by: str, tie: str, limit: int) -> pl.DataFrame:
    ordered = frame.sort([*within, by, tie], descending=[*[False] * len(within), True, False])
    return ordered.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).over(within).alias("rank")).filter(
        C("rank") < limit
    )


def popularity(liked: pl.DataFrame, users: pl.DataFrame, as_of: datetime.date) -> pl.DataFrame:
    keys = ["market", "tier", "item_type", "item_id"]
    plays = liked.join(users.select("user_id", "tier"), on="user_id", how="left").with_columns(
        C("market").fill_null("*"), C("tier").fill_null("free"), factor(as_of, 7.0).alias("factor")
    )
    fine = decayed(plays, keys, "weight")
    tiers = fine.group_by("market", "item_type", "item_id").agg(C("weight").sum()).with_columns(tier=pl.lit("*"))
    world = (
        tiers.group_by("item_type", "item_id").agg(C("weight").sum()).with_columns(tier=pl.lit("*"), market=pl.lit("*"))
    )
    levels = [fine.filter(C("market") != "*"), tiers.filter(C("market") != "*"), world]
    return best(pl.concat([level.select(*keys, "weight") for level in levels]), keys[:3], "weight", "item_id", 1000)


def artist() -> pl.Expr:
    return pl.coalesce(C("artists").list.first().struct.field("artist_id"), "show_id")


def artist_top(liked: pl.DataFrame, items: pl.DataFrame, as_of: datetime.date) -> pl.DataFrame:
    total = decayed(liked.with_columns(factor(as_of, 7.0).alias("factor")), ["item_id"], "weight")
    owned = items.select("item_id", artist().alias("artist_id")).drop_nulls().join(total, on="item_id", how="left")
    return best(owned.with_columns(C("weight").fill_null(0)), ["artist_id"], "weight", "item_id", 50)


def co_listen(personal: pl.DataFrame, as_of: datetime.date) -> pl.DataFrame:
    seen = personal.group_by("event_date", "user_id", "item_id", maintain_order=True).agg(
        C("session_id").first(), C("weight").max(), C("weight").sum().alias("total")
    ).sort("event_date", "user_id", maintain_order=True).with_columns(factor(as_of, 30.0).alias("factor"))  # fmt: skip
    returns = (C("total") - C("weight")).alias("returns")
    own = decayed(seen.select("item_id", "weight", returns, "factor"), ["item_id"], "weight", "returns")
    forward = pl.concat([pairs_at(seen, step) for step in range(1, 11)])
    one_way = forward.group_by("a", "b").agg((C("weight") * C("factor")).sum())
    del forward
    both = pl.concat(
        [one_way.select("a", "b", "weight"), one_way.select(C("b").alias("a"), C("a").alias("b"), "weight")]
    )
    pairs = both.group_by("a", "b").agg(C("weight").sum() // DECAY).filter(C("weight") > 0)
    del both
    other = own.select(
        C("item_id").alias("b"),
        C("weight").alias("n_b"),
        (C("returns") / (C("weight") + C("returns") + 4 * UNIT)).cast(pl.Float32).alias("other_return_rate"),
    )
    joined = pairs.join(own.select(C("item_id").alias("a"), C("weight").alias("n_a")), on="a").join(other, on="b")
    w = C("weight").cast(pl.Float64)
    near = (w / UNIT) / ((C("n_a") / UNIT).sqrt() * (C("n_b") / UNIT).pow(0.5))
    scored = joined.select(
        C("a").alias("item_id"), C("b").alias("other_item_id"), "weight", "other_return_rate",
        (near * w / (w + 2 * UNIT)).cast(pl.Float32).alias("score"),
    )  # fmt: skip
    return best(scored, ["item_id"], "score", "other_item_id", 100)


def pairs_at(seen: pl.DataFrame, step: int) -> pl.DataFrame:
    smaller = pl.min_horizontal("weight", C("weight").shift(-step))
    together = C("session_id") == C("session_id").shift(-step)
    same = (C("user_id") == C("user_id").shift(-step)) & (C("event_date") == C("event_date").shift(-step))
    return seen.select(
        C("item_id").alias("a"), C("item_id").shift(-step).alias("b"), "factor",
        pl.when(together).then(smaller).otherwise(smaller // 2).alias("weight"), same.alias("same"),
    ).filter("same").drop("same")  # fmt: skip


def transition(personal: pl.DataFrame, items: pl.DataFrame, as_of: datetime.date) -> pl.DataFrame:
    ordered = personal.with_columns(factor(as_of, 30.0).alias("factor"))
    followed = pl.concat([followers_at(ordered, step) for step in (1, 2)])
    total = decayed(followed, ["item_id", "next_item_id"], "weight")
    known = items.select(
        "item_id",
        pl.when(C("canonical_id") != C("item_id")).then("canonical_id").alias("canonical"),
        artist().alias("artist"),
        C("genres").list.first().alias("genre"),
    )
    joined = total.join(known, on="item_id", how="left").with_columns(C("item_id").alias("item"))
    return pl.concat([at_level(joined, level) for level in ("item", "canonical", "artist", "genre")])


def followers_at(ordered: pl.DataFrame, step: int) -> pl.DataFrame:
    same = pl.all_horizontal(C(n) == C(n).shift(-step) for n in ("user_id", "session_id", "event_date"))
    return ordered.select(
        "item_id", C("item_id").shift(-step).alias("next_item_id"), "factor",
        (pl.min_horizontal("weight", C("weight").shift(-step)) // step).alias("weight"),
        (same & (C("item_id") != C("item_id").shift(-step))).alias("same"),
    ).filter("same").drop("same")  # fmt: skip


def at_level(joined: pl.DataFrame, level: str) -> pl.DataFrame:
    counted = joined.filter(C(level).is_not_null()).group_by(C(level).alias("context_id"), "next_item_id").agg(
        C("weight").sum()
    )  # fmt: skip
    likely = (C("weight") / C("weight").sum().over("context_id")).cast(pl.Float32).alias("probability")
    ranked = best(
        counted.with_columns(likely), ["context_id"], "weight", "next_item_id", 100 if level == "item" else 200
    )
    return ranked.select(pl.lit(level).alias("level"), "context_id", "next_item_id", "weight", "probability", "rank")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--as-of", type=datetime.date.fromisoformat, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    import time

    t = [time.monotonic()]

    def write(name: str, frame: pl.DataFrame) -> None:
        t.append(time.monotonic())
        print(name, frame.height, round(t[-1] - t[-2], 1))
        frame.write_parquet(options.out / f"{name}.parquet", compression="zstd")
        t.append(time.monotonic())
        print(" write", round(t[-1] - t[-2], 1))

    items, users = clean_items(options.raw), clean_users(options.raw)
    write("item", items)
    write("user", users)
    events = clean_events(options.raw, users, pl.read_parquet(options.raw / "tombstones/*.parquet"))
    write("event", events)
    allowed = C("consent_personalization").fill_null(True) & ~C("private_session").fill_null(False)
    columns = ["event_date", "event_ts", "user_id", "session_id", "item_id", "item_type", "label", "is_organic",
               "campaign_id", "market", "private_session", "consent_personalization"]  # fmt: skip
    events = events.select(columns)
    personal = events.filter(allowed)
    write("history", histories(personal))
    liked = weighted(events)
    write("popularity", popularity(liked, users, options.as_of))
    write("artist_top", artist_top(liked, items, options.as_of))
    del liked, events
    liked = weighted(personal)
    del personal
    write("transition", transition(liked, items, options.as_of))
    write("co_listen", co_listen(liked, options.as_of))


if __name__ == "__main__":
    main()
