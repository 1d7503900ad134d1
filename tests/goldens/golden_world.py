"""Goldens planted into a raw world: people described by rule, and items that must never be shown to somebody.

What is planted is the truth the road is held to; nothing of the road decides on it.
"""

import dataclasses
import datetime
import tomllib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from transforms.world_setting import Setting

HERE = Path(__file__).parent
DATE = datetime.date(2026, 1, 31)
NOW = datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)
"""The instant at which the sets take effect."""
SETTING = Setting(users=400, items=2_000, events=16_000, markets=2, end=DATE, days=10)
BAIT, PER_SESSION = 14, 8
_PLAY = {
    "schema_version": 1, "event_type": "play", "reason_start": "click", "reason_end": "track_done", "surface": "library",
    "is_organic": True, "device_type": "phone", "platform": "android", "app_version": "9.2.0", "offline": False,
    "shuffle": False, "private_session": False, "utc_offset_min": 0, "consent_personalization": True,
}  # fmt: skip
_SKIPPED = {"event_type": "skip", "ms_played": 3_000, "reason_end": "fwd"}
_ACCOUNT = {
    "market": "US", "tier": "free", "explicit_filter": False, "age_band": "25-34", "languages": ["en"], "follows": [],
    "registered_at": NOW - datetime.timedelta(days=400), "blocked_artists": [], "hidden_items": [],
    "promo_opt_out": False, "personalization_opt_out": False,
}  # fmt: skip
GENRE = pl.col("genres").list.first()
_ARTIST = pl.col("artists").list.first().struct.field("artist_id")


@dataclasses.dataclass(frozen=True)
class Raw:
    """The rows of a raw folder by dataset: `events`, `items`, `users`, `tombstones`."""

    folder: Path

    def read(self, name: str) -> pl.DataFrame:
        files = sorted((self.folder / name).glob("*.parquet"))
        return pl.concat([pl.read_parquet(file) for file in files])

    def add(self, name: str, rows: pl.DataFrame) -> None:
        self.write(name, pl.concat([self.read(name), rows]))

    def write(self, name: str, rows: pl.DataFrame) -> None:
        for file in (self.folder / name).glob("*.parquet"):
            file.unlink()
        rows.write_parquet(self.folder / name / "part-00000.parquet")


def golden(name: str) -> dict:
    """Return one golden file."""
    return tomllib.loads((HERE / f"{name}.toml").read_text(encoding="utf-8"))


def days_ago(days: float) -> datetime.datetime:
    return NOW - datetime.timedelta(days=days)


def _table(rows: Sequence[Mapping], like: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([{name: row.get(name) for name in like.columns} for row in rows], schema=like.schema)


def plant(folder: Path) -> None:
    """Plant canaries and personas into a raw folder of Parquet files."""
    raw = Raw(folder)
    canaries = canary_rows(raw.read("items"))
    _plant_canaries(raw, canaries)
    personas = golden("personas")["persona"]
    items, plays, gone = plain_items(raw), raw.read("events"), raw.read("tombstones")["id"]
    offered = by_popularity(items.filter(~pl.col("item_id").is_in(gone.implode())), plays)
    users = raw.read("users")
    raw.add("events", _table([event for one in personas for event in _listening(one, offered)], plays))
    raw.add("users", _table([_account(one, offered) for one in personas if "who" in one], users))


def user_id(persona: Mapping) -> str:
    return "persona-" + persona["name"].replace(" ", "-")


def _account(persona: Mapping, offered: pl.DataFrame) -> dict:
    account = _ACCOUNT | persona["who"] | {"user_id": user_id(persona)}
    if "blocks" in persona:
        account["blocked_artists"] = (
            _chosen(persona["blocks"] | {"one_artist": True, "items": 1}, offered).select(_ARTIST).to_series().to_list()
        )
    if "hides" in persona:
        account["hidden_items"] = _chosen(persona["hides"], offered)["item_id"].to_list()
    return account | ({"market": None} if not account["market"] else {})


def by_popularity(items: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Return items, the most played first."""
    counts = events.filter(pl.col("event_type") == "play").group_by("item_id").agg(pl.len().alias("plays"))
    return items.join(counts, on="item_id", how="left").sort(
        "plays", "item_id", descending=[True, False], nulls_last=True
    )


def popular_tracks(raw: Raw) -> pl.DataFrame:
    """Return the tracks that anybody may play at any time, the most played first."""
    offered = by_popularity(_plain(plain_items(raw)), raw.read("events"))
    return offered.filter(pl.col("item_type") == "track")


def _plain(items: pl.DataFrame) -> pl.DataFrame:
    """Return the items that anybody may play, at any time of the world."""
    everywhere = pl.col("availability").is_null() | (
        (pl.col("availability").list.len() == 1)
        & pl.col("availability").list.eval(
            (pl.element().struct.field("market") == "*")
            & pl.element().struct.field("tiers").is_null()
            & pl.element().struct.field("to_ts").is_null()
            & pl.element().struct.field("from_ts").is_null()
        ).list.all()
    )  # fmt: skip
    return items.filter(
        everywhere, ~pl.col("explicit").fill_null(True), pl.col("age_rating").fill_null(0) == 0, "rec_eligible",
        pl.col("deleted_at").is_null(), pl.col("release_ts") < days_ago(SETTING.days + 1),
    )  # fmt: skip


def canary_rows(items: pl.DataFrame) -> pl.DataFrame:
    """Return every canary as a raw item row, with `name`, `rule`, `control` and the genre it is bait for."""
    rows = []
    for rule in golden("canaries")["canary"]:
        templates = _templates(items, rule.get("type", "track"))
        for number in range(rule["count"]):
            template = templates[(len(rows) + number) % len(templates)]
            rows.append(template | _canary(rule, number, template) | _changed(rule.get("change", {})))
    frame = pl.DataFrame(rows, schema=items.schema | {"name": pl.String, "rule": pl.String, "control": pl.Boolean})
    return frame.with_columns(GENRE.alias("genre"))


def plain_items(raw: Raw) -> pl.DataFrame:
    """Return the items of a raw folder without canaries."""
    return raw.read("items").filter(~pl.col("item_id").str.starts_with("canary"))


def _templates(items: pl.DataFrame, kind: str) -> list[dict]:
    """Return a plain item of every genre."""
    plain = _plain(items).filter(pl.col("item_type") == kind, ~pl.col("is_trailer").fill_null(False))
    return plain.sort("item_id").unique(GENRE, keep="first", maintain_order=True).to_dicts()


def _canary(rule: Mapping, number: int, template: Mapping) -> dict:
    slug = f"{rule['name'].replace(' ', '-')}-{number:02}"
    artist = [{"artist_id": f"canary-artist-{slug}", "name": slug, "role": "main"}]
    talk = template["show_id"] is not None
    return {
        "item_id": f"canary-{slug}", "canonical_id": None, "title": f"Canary {slug}", "artists": None if talk else artist,
        "album_id": None if talk else f"canary-album-{slug}", "show_id": f"canary-show-{slug}" if talk else None,
        "episode_no": 1 if talk else None, "publisher": f"canary {slug}", "name": rule["name"],
        "rule": rule.get("rule"), "control": rule.get("control", False),
    }  # fmt: skip


def _changed(change: Mapping) -> dict:
    """Return columns with days turned into instants, as deep as they nest."""
    found = {}
    for name, value in change.items():
        if name.endswith("_days"):
            found[name.removesuffix("_days")] = days_ago(-value)
        elif name == "availability":
            nothing = {"market": None, "tiers": None, "from_ts": None, "to_ts": None}
            found[name] = [nothing | _changed(offer) for offer in value]
        else:
            found[name] = value
    return found


def _plant_canaries(raw: Raw, canaries: pl.DataFrame) -> None:
    items, events, users = raw.read("items"), raw.read("events"), raw.read("users")
    fans = _fans(events, items)
    bait = pl.concat([_bait(one, fans, events.schema) for one in canaries.to_dicts()])
    raw.write("users", _with_relations(users, canaries, fans))
    raw.add("items", pl.concat([canaries, _openings(canaries)]).select(items.columns))
    raw.add("events", bait)
    rules = {rule["name"]: rule["tombstone"] for rule in golden("canaries")["canary"] if "tombstone" in rule}
    gone = canaries.filter(pl.col("name").is_in(list(rules)))
    buried = [
        {"entity": "item", "id": item_id, "reason": rules[name], "effective_ts": days_ago(2)}
        for item_id, name in gone.select("item_id", "name").iter_rows()
    ]
    raw.add("tombstones", _table(buried, raw.read("tombstones")))


def _openings(canaries: pl.DataFrame) -> pl.DataFrame:
    """Return the first part of every show of which a canary is a later one."""
    names = [rule["name"] for rule in golden("canaries")["canary"] if rule.get("opening")]
    own = canaries.filter(pl.col("name").is_in(names))
    first = pl.lit(1, own.schema["episode_no"]).alias("episode_no")
    return own.with_columns(pl.format("{}-opening", "item_id").alias("item_id"), first)


def _fans(events: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return, of every user and genre, the last play that counts, in an order of chance that is the same every time."""
    private = pl.col("private_session").fill_null(False) | ~pl.col("consent_personalization").fill_null(True)
    plays = events.filter(pl.col("event_type") == "play", ~private, pl.col("event_ts") > days_ago(5))
    genres = items.select("item_id", GENRE.alias("genre"))
    last = plays.join(genres, on="item_id").sort("event_ts", "event_id").unique(
        ["user_id", "genre"], keep="last", maintain_order=True
    )  # fmt: skip
    return last.sort("event_id")


def _bait(canary: Mapping, fans: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return the plays of a canary by fans of its genre, right after one of their own; half of `skipped` are skips."""
    chosen = _drawn(canary, fans)
    heard = {name: value for name, value in _PLAY.items() if name not in ("utc_offset_min", "device_type", "platform")}
    duration = canary["duration_ms"]
    told = {**heard, "item_id": canary["item_id"], "item_type": canary["item_type"], "ms_played": duration,
            "item_duration_ms": duration, "context_type": None, "context_uri": None}  # fmt: skip
    rows = chosen.with_columns(pl.lit(value).alias(name) for name, value in told.items())
    if canary["rule"] == "recent_skip":
        every_second = pl.int_range(pl.len()) % 2 == 1
        rows = rows.with_columns(pl.when(every_second).then(pl.lit(value)).otherwise(name).alias(name)
                                 for name, value in _SKIPPED.items())  # fmt: skip
    after = pl.duration(seconds=1)
    return rows.with_columns(
        pl.format("{}-{}", pl.lit(canary["item_id"]), "user_id").alias("event_id"),
        pl.col("event_ts") + after, pl.col("ingest_ts") + after,
    ).select([pl.col(name).cast(dtype) for name, dtype in schema.items()])  # fmt: skip


def _drawn(canary: Mapping, fans: pl.DataFrame, other: bool = False) -> pl.DataFrame:
    """Return `BAIT` fans of the canary's genre, or (`other`) the ones behind them; of talk, fans of anything."""
    own = fans.filter(pl.col("genre") == canary["genre"]) if canary["show_id"] is None else fans
    own = own.unique("user_id", keep="first", maintain_order=True)
    start = zlib.crc32(canary["item_id"].encode()) % max(own.height, 1) + BAIT * other
    return pl.concat([own, own, own]).slice(start, min(BAIT, own.height // 2))


def _with_relations(users: pl.DataFrame, canaries: pl.DataFrame, fans: pl.DataFrame) -> pl.DataFrame:
    """Let fans of a canary's genre that were not baited hide it, or block its artist."""
    for rule, column, told in (("hidden", "hidden_items", "item_id"), ("blocked", "blocked_artists", "artist_id")):
        own = canaries.filter(pl.col("rule") == rule).with_columns(_ARTIST.alias("artist_id"))
        pairs = [_drawn(one, fans, True).select("user_id", pl.lit(one[told]).alias("id")) for one in own.to_dicts()]
        added = pl.concat(pairs).group_by("user_id").agg(pl.col("id").sort().alias("added"))
        more = pl.concat_list(pl.col(column).fill_null([]), pl.col("added").fill_null([])).alias(column)
        users = users.join(added, on="user_id", how="left", maintain_order="left").with_columns(more).drop("added")
    return users


def _hidden(raw: Raw, canaries: pl.DataFrame, of: pl.DataFrame) -> pl.DataFrame:
    users = raw.read("users").select(pl.col("user_id").alias("record_key"), pl.col("hidden_items").alias("item_id"))
    return users.explode("item_id").drop_nulls()


def _blocked(raw: Raw, canaries: pl.DataFrame, of: pl.DataFrame) -> pl.DataFrame:
    users = raw.read("users").select(
        pl.col("user_id").alias("record_key"), pl.col("blocked_artists").alias("artist_id")
    )
    return users.explode("artist_id").join(canaries.select("item_id", _ARTIST.alias("artist_id")), on="artist_id")


def _skipped(raw: Raw, canaries: pl.DataFrame, of: pl.DataFrame) -> pl.DataFrame:
    return _did(raw, "skip")


def _heard_out(raw: Raw, canaries: pl.DataFrame, of: pl.DataFrame) -> pl.DataFrame:
    return _did(raw, "play")


def _did(raw: Raw, event_type: str) -> pl.DataFrame:
    events = raw.read("events").filter(pl.col("event_type") == event_type)
    return events.select(pl.col("user_id").alias("record_key"), "item_id")


def _foreign(raw: Raw, canaries: pl.DataFrame, of: pl.DataFrame) -> pl.DataFrame:
    language = canaries["languages"][0][0]
    others = of.filter(pl.col("languages").list.len() > 0, ~pl.col("languages").list.contains(language))
    return others.select("record_key").join(canaries.select("item_id"), how="cross")


RELATIONS = {
    "hidden": _hidden, "blocked": _blocked, "skipped": _skipped, "heard_out": _heard_out, "foreign": _foreign,
}  # fmt: skip
"""Pairs of `record_key` and `item_id` to whom something was done, by the word canaries.toml has for it."""


def _chosen(play: Mapping, offered: pl.DataFrame) -> pl.DataFrame:
    """Return the items of one listening rule, those to be heard first on top."""
    found = _plain(offered) if not play.get("subscribed") else offered.filter("rec_eligible")
    found = found.filter(pl.col("item_type") == play.get("type", "track"), ~pl.col("is_trailer").fill_null(False))
    if "genre" in play:
        found = found.filter(play["genre"] == GENRE)
    if play.get("one_artist"):
        most = found.group_by(_ARTIST.alias("a")).len().sort("len", "a", descending=[True, False])["a"][0]
        found = found.filter(most == _ARTIST)
    if play.get("type") in ("episode", "chapter"):
        show = found["show_id"].unique(maintain_order=True)[play.get("show", 0)]
        found = found.filter(pl.col("show_id") == show).sort("episode_no")
    return found.slice(play.get("from", 0), play["items"])


def _listening(persona: Mapping, offered: pl.DataFrame) -> list[dict]:
    """Return the events of one persona; sessions of `PER_SESSION` plays, spread evenly over the days of each rule."""
    rows = []
    for number, play in enumerate(persona.get("plays", ())):
        chosen = _chosen(play, offered).select("item_id", "item_type", "duration_ms").to_dicts()
        assert len(chosen) == play["items"], f"{persona['name']}: {len(chosen)} items to play, rule {number}"
        times = play.get("times", 1) * len(chosen)
        oldest, newest = play["days"]
        for turn in range(times):
            session = turn // PER_SESSION
            ago = oldest - (oldest - newest) * session / max(-(-times // PER_SESSION) - 1, 1)
            at = days_ago(ago) + datetime.timedelta(minutes=6 * (turn % PER_SESSION), hours=number)
            rows.append(_event(persona, play, chosen[turn % len(chosen)], at, f"{number}-{session}-{turn}"))
    return rows


def _event(persona: Mapping, play: Mapping, item: Mapping, at: datetime.datetime, name: str) -> dict:
    who = user_id(persona)
    told = {
        "event_id": f"{who}-{name}", "event_ts": at, "ingest_ts": at + datetime.timedelta(seconds=3), "user_id": who,
        "session_id": f"{who}-{name.rsplit('-', 1)[0]}", "item_id": item["item_id"], "item_type": item["item_type"],
        "ms_played": item["duration_ms"], "item_duration_ms": item["duration_ms"],
        "market": play.get("market", persona.get("who", {}).get("market", "US")),
    }  # fmt: skip
    return _PLAY | told | (_SKIPPED if play.get("skipped") else {}) | play.get("event", {})
