"""What the people of a synthetic world do: sessions, and the events within them."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import polars as pl

from schemas.hashing import mix64
from schemas.inputs import EVENT, EVENT_SCHEMA_VERSION, EVENT_TYPES
from transforms.world_catalogue import ARTIST, KINDS, SHOW, Catalogue
from transforms.world_names import CLUSTERS
from transforms.world_people import FAVOURITES, People, playable
from transforms.world_setting import ARRIVAL_CUTOFF_US, DAY_US, HOUR_US, Setting, hex_ids, utc_offsets
from validation.rows import polars_schema

CHUNK_EVENTS = 1_000_000
MUSIC, TALK, BOOK = range(3)
SUCCESSOR_SHARE = 0.35
"""Share of the plays, after the first of a music session, that are the planted successor of the play before."""
FAVOURITE_SHARE, OFF_TASTE_SHARE = 0.18, 0.08
DRAWN, SUCCEEDED, FAVOURED, OFF_TASTE, PART = range(5)
CHOICES = ("drawn", "successor", "favourite", "off_taste", "next_part")
SESSION_SPAN_US = 6 * HOUR_US
"""No session lasts longer: what a session starts with may be played until its end."""
_SKIP_RATES = np.array([0.14, 0.07, 0.05, 0.55, 0.04])
_WEEKDAYS = np.array([0.98, 0.98, 0.99, 1.0, 1.03, 1.03, 0.99])
_HOURS = np.array([2, 1, 1, 1, 1, 2, 4, 7, 8, 6, 5, 5, 6, 6, 6, 6, 7, 8, 9, 9, 9, 8, 6, 4], float)
_IMPRESSION_SHARE, _ACTION_SHARE = 0.10, 0.08
_LIKED = {"like": 0.3, "playlist_add": 0.2, "add": 0.15, "follow": 0.1, "search_click": 0.1, "share": 0.06,
          "search": 0.05, "unlike": 0.01, "remove": 0.01, "unfollow": 0.01, "promo_dismiss": 0.01}  # fmt: skip
_DISLIKED = {"dislike": 0.4, "hide": 0.4, "unlike": 0.1, "remove": 0.1}
_CONTEXTS = (
    "album",
    "playlist",
    "artist",
    "search",
    "home_shelf",
    "autoplay",
    "queue",
    "radio",
    "library",
    "show",
    None,
)
_CONTEXT_SHARES = np.array([0.15, 0.28, 0.09, 0.09, 0.15, 0.08, 0.03, 0.06, 0.05, 0.0, 0.02])
_CONTEXT_SURFACES = ("browse", "library", "browse", "search", "home", "now_playing", "now_playing", "now_playing",
                     "library", "library", "other")  # fmt: skip
_RECOMMENDED = np.array([name in ("home_shelf", "autoplay", "radio") for name in _CONTEXTS])
_HOME_SOURCES = ("home.popular_market", "home.relisten", "home.co_listen", "home.follow_new")
_NP_SOURCES = ("np.transition", "np.artist_radio", "np.familiar")
_DEVICES = ("phone", "desktop", "speaker", "tv", "car", "tablet")
_PLATFORMS = ("android", "macos", "embedded", "webos", "embedded", "ios")
_VERSIONS = ("9.1.0", "9.1.4", "9.2.0", "9.2.1")
_REASONS = ("click", "track_done", "fwd", "trackdone_auto", "end", "back", None)
_CLICK, _DONE, _FWD, _AUTO, _END, _BACK, _NO_REASON = range(7)
_SESSION_ID_MASK = np.uint64((1 << 44) - 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Sessions:
    """Sessions by start, `(num_sessions,)` each.

    Attributes:
      number: serial number, from 0.
      start: us since the epoch.
      length: events in it.
      kind: MUSIC, TALK or BOOK.
      target: row of the show or book, -1 for music; `first_part` counts the parts this user played before.
    """

    number: np.ndarray
    start: np.ndarray
    user: np.ndarray
    market: np.ndarray
    length: np.ndarray
    kind: np.ndarray
    target: np.ndarray
    first_part: np.ndarray

    def chunks(self, size: int = CHUNK_EVENTS) -> Iterator["Sessions"]:
        """Yield consecutive sessions of about `size` events."""
        ends = np.cumsum(self.length)
        cuts = np.unique(np.r_[0, np.searchsorted(ends, np.arange(size, ends[-1], size)), len(ends)])
        for low, high in itertools.pairwise(cuts.tolist()):
            yield Sessions(**{f.name: getattr(self, f.name)[low:high] for f in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True, slots=True)
class Slots:
    """The events of some sessions, `(num_events,)` each: who chose what and how.

    Attributes:
      session: index into the sessions; `position` within it.
      type: index into `EVENT_TYPES`.
      item: item row.
      choice: index into `CHOICES`, for plays and skips.
      ms_played: -1 for what is not a play.
    """

    session: np.ndarray
    position: np.ndarray
    type: np.ndarray
    item: np.ndarray
    choice: np.ndarray
    ms_played: np.ndarray


def plan_sessions(setting: Setting, people: People) -> Sessions:
    """Decide who listens when, to music or talk, for how many events; they add up to `setting.events`.

    About 100 bytes per session, or 14 per event.
    """
    rng = setting.rng("sessions")
    user, kind, length = _draw_sessions(setting, people, rng)
    day_ends = _day_ends(setting, rng)
    drawn_ends = np.cumsum(length)
    ends = np.union1d(drawn_ends[drawn_ends < setting.events], day_ends)
    drawn, day = np.searchsorted(drawn_ends, ends), np.searchsorted(day_ends, ends)
    user, kind, length = user[drawn], kind[drawn], np.diff(ends, prepend=0)
    start = setting.start_us + day * DAY_US + _time_of_day(setting, people.market[user], rng)
    away = (start < people.active_from[user]) | (start + SESSION_SPAN_US > people.active_until[user])
    user = np.where(away, people.steady[rng.integers(0, len(people.steady), len(user))], user)
    travels = rng.random(len(user)) < 0.01
    market = np.where(travels, rng.integers(0, setting.markets, len(user)), people.market[user])
    order = np.argsort(start, kind="stable")
    start, user, market, length, kind = (x[order] for x in (start, user, market, length, kind))
    target = _targets(people, user, kind, rng)
    kind = np.where(target < 0, MUSIC, kind)
    return Sessions(
        np.arange(len(start)), start, user, market, length, kind, target, _parts_before(user, target, length)
    )


def _draw_sessions(setting: Setting, people: People, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw users, kinds and lengths of enough sessions: none is shorter than 2 events, most are longer."""
    n = setting.events // 4 + 1000
    user = np.minimum(np.searchsorted(people.activity, rng.random(n), side="right"), len(people.activity) - 1)
    draw = rng.random(n)
    kind = np.where(
        (people.book[user] >= 0) & (draw < 0.15),
        BOOK,
        np.where((people.shows[user, 0] >= 0) & (draw < 0.45), TALK, MUSIC),
    )
    length = np.where(kind == MUSIC, 1 + rng.geometric(0.125, n).clip(1, 24), rng.integers(2, 5, n))
    return user, kind, length


def _day_ends(setting: Setting, rng: np.random.Generator) -> np.ndarray:
    """Share the events out to days: a mild weekday pattern, and noise of 1 % at the most."""
    weekday = (np.arange(setting.days) + setting.start_us // DAY_US + 3) % 7
    weights = np.cumsum(_WEEKDAYS[weekday] * (1 + rng.uniform(-0.01, 0.01, setting.days)))
    return (weights / weights[-1] * setting.events).round().astype(np.int64)


def _time_of_day(setting: Setting, market: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the UTC time of day in us: people listen most in their own evening."""
    hour = rng.choice(24, len(market), p=_HOURS / _HOURS.sum())
    local_ms = hour * 3_600_000 + rng.integers(0, 3_600_000, len(market))
    return (local_ms - utc_offsets(setting.market_codes)[market] * 60_000) % 86_400_000 * 1000


def _targets(people: People, user: np.ndarray, kind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    show = people.shows[user, (rng.random(len(user)) < 0.4).astype(int)]
    return np.where(kind == TALK, show, np.where(kind == BOOK, people.book[user], -1))


def _parts_before(user: np.ndarray, target: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Count the parts each user played of the target in earlier sessions."""
    order = np.lexsort((np.arange(len(user)), target, user))
    before = np.cumsum(length[order]) - length[order]
    first = np.r_[True, (np.diff(user[order]) != 0) | (np.diff(target[order]) != 0)]
    result = np.empty(len(user), np.int64)
    result[order] = before - np.repeat(before[first], np.diff(np.r_[np.flatnonzero(first), len(user)]))
    return result


def fill_sessions(sessions: Sessions, items: Catalogue, people: People, rng: np.random.Generator) -> Slots:
    """Decide what happens in each session."""
    session = np.repeat(np.arange(len(sessions.length)), sessions.length)
    position = np.arange(len(session)) - np.repeat(np.cumsum(sessions.length) - sessions.length, sessions.length)
    draw = np.where((position == 0) | (sessions.kind[session] != MUSIC), 1.0, rng.random(len(session)))
    impression, action = (
        draw < _IMPRESSION_SHARE,
        (draw >= _IMPRESSION_SHARE) & (draw < _IMPRESSION_SHARE + _ACTION_SHARE),
    )
    item, choice = _choose(sessions, session, position, ~(impression | action), items, people, rng)
    last_play = np.maximum.accumulate(np.where(impression | action, 0, np.arange(len(session))))
    item = np.where(action, item[last_play], item)
    choice = np.where(action, choice[last_play], choice)
    skip, ms_played = _listen(items, item, choice, rng)
    kinds = np.where(skip, EVENT_TYPES.index("skip"), EVENT_TYPES.index("play"))
    kinds = np.where(impression, EVENT_TYPES.index("impression"), np.where(action, _act(choice, rng), kinds))
    follows = action & np.isin(kinds, [EVENT_TYPES.index("follow"), EVENT_TYPES.index("unfollow")])
    item = np.where(follows, items.parent[item], item)
    return Slots(session, position, kinds, item, choice, np.where(impression | action, -1, ms_played))


def _choose(sessions, session, position, is_play, items, people, rng) -> tuple[np.ndarray, np.ndarray]:
    """Choose the item of every slot, and say how."""
    user, market, n = sessions.user[session], sessions.market[session], len(session)
    taste = people.clusters[sessions.user, rng.choice(3, len(sessions.user), p=(0.6, 0.25, 0.15))]
    choice = np.searchsorted(np.cumsum([FAVOURITE_SHARE, OFF_TASTE_SHARE]), rng.random(n))
    choice = np.array([FAVOURED, OFF_TASTE, DRAWN])[choice]
    strays = (choice == OFF_TASTE) & (people.age[user] >= 13)
    choice = np.where((choice == OFF_TASTE) & ~strays, DRAWN, choice)
    cluster = np.where(strays, rng.integers(0, len(CLUSTERS), n), taste[session])
    favourite = people.favourites[user, (FAVOURITES * rng.random(n) ** 2).astype(np.int64)]
    item = np.where(choice == FAVOURED, favourite, items.draw(cluster, market, rng))
    item = _permit(item, cluster, sessions, session, items, people, rng)
    item, choice = _succeed(item, choice, np.flatnonzero(is_play), position, items, rng)
    item, choice = _continue_parts(item, choice, sessions, session, position, items)
    return _permit(item, cluster, sessions, session, items, people, rng), choice


def _succeed(item, choice, plays, position, items: Catalogue, rng) -> tuple[np.ndarray, np.ndarray]:
    """Replace some plays by the successor, of the successor, of the play that was chosen freely before them."""
    follows = (position[plays] > 0) & (rng.random(len(plays)) < SUCCESSOR_SHARE)
    anchor = np.maximum.accumulate(np.where(follows, 0, np.arange(len(plays))))
    item, choice = item.copy(), choice.copy()
    item[plays] = items.follow(item[plays[anchor]], np.arange(len(plays)) - anchor)
    choice[plays[follows]] = SUCCEEDED
    return item, choice


def _continue_parts(item, choice, sessions: Sessions, session, position, items: Catalogue):
    """Let talk sessions go on where the user stopped, from the beginning again after the last part."""
    target = sessions.target[session]
    talk = target >= 0
    part = (sessions.user[session] % 3 + sessions.first_part[session] + position) % np.maximum(
        items.parts_size[target], 1
    )
    return np.where(talk, items.parts_start[target] + part, item), np.where(talk, PART, choice)


def _permit(item, cluster, sessions: Sessions, session, items: Catalogue, people: People, rng) -> np.ndarray:
    """Replace what the user may not play, there and then, by something that anybody may."""
    start = sessions.start[session]
    in_time = (items.playable_from[item] <= start - HOUR_US) & (start + SESSION_SPAN_US < items.playable_until[item])
    ok = playable(items, people, item, sessions.user[session], sessions.market[session]) & in_time
    replaced = np.flatnonzero(~ok)
    item = item.copy()
    item[replaced] = items.draw_evergreen(cluster[replaced], rng)
    return item


def _listen(items: Catalogue, item, choice, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Decide whether each play is skipped, and how many ms of it are played."""
    n, duration = len(item), items.duration_ms[item]
    skip = rng.random(n) < _SKIP_RATES[choice]
    quick = rng.random(n) < 0.75
    skipped = np.where(quick, rng.integers(800, 10_000, n), rng.integers(10_000, 30_000, n))
    heard = np.where(rng.random(n) < 0.8, duration, (duration * rng.uniform(0.4, 1.0, n)).astype(np.int64))
    return skip, np.where(skip, np.minimum(skipped, duration), heard)


def _act(choice: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw what users do after a play: mostly kind things, unkind ones after an item off their taste."""

    def draw(shares: dict[str, float]) -> np.ndarray:
        bounds = np.cumsum(list(shares.values()))
        which = np.searchsorted(bounds / bounds[-1], rng.random(len(choice)), side="right")
        return np.array([EVENT_TYPES.index(name) for name in shares])[which]

    return np.where((choice == OFF_TASTE) & (rng.random(len(choice)) < 0.8), draw(_DISLIKED), draw(_LIKED))


def event_frame(
    setting: Setting, sessions: Sessions, slots: Slots, items: Catalogue, people: People, rng
) -> pl.DataFrame:
    """Spell events out in the columns a producer delivers, timestamps as us UTC, ordered by session."""
    about = _session_columns(setting, sessions, people, rng)
    event_us = _clock(setting, sessions, slots, rng)
    columns = {name: _gather(texts, codes[slots.session]) for name, (texts, codes) in about["texts"].items()}
    columns |= {name: pl.Series(values[slots.session]) for name, values in about["values"].items()}
    columns |= _slot_columns(setting, sessions, slots, items, about, rng)
    columns["event_ts"] = pl.Series(event_us).cast(pl.Datetime("us", "UTC"))
    ingest_us = _arrival(setting, slots, event_us, about["late"], rng)
    columns["ingest_ts"] = pl.Series(ingest_us).cast(pl.Datetime("us", "UTC"))
    number = np.arange(len(slots.item), dtype=np.uint64) + (np.uint64(sessions.number[0]) << np.uint64(24))
    columns["event_id"] = hex_ids("", mix64(np.array([setting.seed + 1]), number), 16)
    types = polars_schema(EVENT)
    return pl.DataFrame({name: columns[name].cast(types[name]) for name in EVENT.given_columns()})


def _session_columns(setting: Setting, sessions: Sessions, people: People, rng: np.random.Generator) -> dict:
    """Draw what holds for a whole session."""
    n, user = len(sessions.user), sessions.user
    context = rng.choice(len(_CONTEXTS), n, p=_CONTEXT_SHARES)
    context = np.where(sessions.kind == MUSIC, context, _CONTEXTS.index("show"))
    numbers = mix64(np.array([setting.seed]), sessions.number.astype(np.uint64)) & _SESSION_ID_MASK
    unnamed = (people.device[user] == 2) | (rng.random(n) < 0.03)
    names, sets = (pl.concat([hex_ids(p, numbers, 11), pl.Series([None], dtype=pl.String)]) for p in ("s", "c"))
    recommended = _RECOMMENDED[context]
    device = people.device[user]
    late = rng.random(n) < setting.dirt.late
    offsets = utc_offsets(setting.market_codes)
    return {
        "context": context, "recommended": recommended, "late": late, "sets": sets,
        "texts": {
            "session_id": (names, np.where(unnamed, n, np.arange(n))),
            "user_id": (people.ids, user),
            "context_type": (_CONTEXTS, context),
            "device_type": (_DEVICES, device),
            "platform": (_PLATFORMS, device),
            "app_version": (_VERSIONS, rng.choice(4, n, p=(0.05, 0.15, 0.3, 0.5))),
            "market": (setting.market_codes, sessions.market),
        },
        "values": {
            "offline": late, "shuffle": rng.random(n) < 0.15, "private_session": rng.random(n) < 0.02,
            "utc_offset_min": offsets[sessions.market], "consent_personalization": people.consent[user],
        },
    }  # fmt: skip


def _slot_columns(setting: Setting, sessions: Sessions, slots: Slots, items: Catalogue, about: dict, rng) -> dict:
    """Spell out what differs from event to event."""
    n, context = len(slots.item), about["context"][slots.session]
    shown = slots.type == EVENT_TYPES.index("impression")
    recommended = (about["recommended"][slots.session] & (slots.ms_played >= 0)) | shown
    surface = np.where(shown, _CONTEXTS.index("home_shelf"), context)
    sources = (*_HOME_SOURCES, *_NP_SOURCES, None)
    at_home = shown | (context == _CONTEXTS.index("home_shelf"))
    source = np.where(at_home, rng.integers(0, 4, n), rng.integers(4, 7, n))
    rank = np.where(recommended, rng.integers(0, 100, n), -1)
    duration = items.duration_ms[slots.item]
    promoted = shown & (rng.random(n) < 0.02)
    searched = np.isin(slots.type, [EVENT_TYPES.index("search"), EVENT_TYPES.index("search_click")])
    queries = [*(f"q{c:015x}" for c in range(len(CLUSTERS))), None]
    reason_start, reason_end = _reasons(slots, context)
    return {
        "schema_version": pl.Series(np.full(n, EVENT_SCHEMA_VERSION)),
        "event_type": _gather(EVENT_TYPES, slots.type),
        "item_id": items.ids.gather(slots.item),
        "item_type": _gather(KINDS, items.kind[slots.item]),
        "ms_played": _nullable(slots.ms_played, slots.ms_played < 0),
        "item_duration_ms": _nullable(duration, duration == 0),
        "reason_start": _gather(_REASONS, reason_start),
        "reason_end": _gather(_REASONS, reason_end),
        "context_uri": _context_uris(slots, context, items),
        "surface": _gather(_CONTEXT_SURFACES, surface),
        "is_organic": pl.Series(~recommended),
        "candidate_set_id": _gather(about["sets"], np.where(recommended, slots.session, len(about["sets"]) - 1)),
        "source_id": _gather(sources, np.where(recommended, source, 7)),
        "rank": _nullable(rank, rank < 0),
        "campaign_id": _gather(["cp0001", "cp0003", None], np.where(promoted, rng.integers(0, 2, n), 2)),
        "query_hash": _gather(queries, np.where(searched, items.cluster[slots.item], len(CLUSTERS))),
    }


def _context_uris(slots: Slots, context: np.ndarray, items: Catalogue) -> pl.Series:
    """Say what each event was played from; searches, autoplay and queues have no address."""
    addresses = [
        f"segue:{KINDS[k]}:{i}" if k in (ARTIST, SHOW) else None for k, i in zip(items.kind.tolist(), items.ids)
    ]
    albums = [f"segue:album:al{a:07d}" for a in range(items.album.max() + 1)]
    playlists = [f"segue:playlist:{c.genre.replace(' ', '-')}" for c in CLUSTERS]
    table = [*addresses, *albums, *playlists, None]
    parent, nowhere = items.parent[slots.item], len(table) - 1
    album = np.where(items.album[slots.item] < 0, nowhere, len(addresses) + items.album[slots.item])
    playlist = len(addresses) + len(albums) + items.cluster[slots.item].astype(np.int64)
    by_context = {"album": album, "playlist": playlist, "artist": parent, "radio": parent, "show": parent}
    result = np.full(len(slots.item), nowhere)
    for name, where in by_context.items():
        result = np.where(context == _CONTEXTS.index(name), where, result)
    return _gather(table, result)


def _reasons(slots: Slots, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say why each play started and ended; other events have no reasons."""
    skip, played = slots.type == EVENT_TYPES.index("skip"), slots.ms_played >= 0
    after_skip = np.r_[False, skip[:-1]]
    auto = np.isin(context, [_CONTEXTS.index("autoplay"), _CONTEXTS.index("radio")])
    start = np.where(slots.position == 0, _CLICK, np.where(after_skip, _FWD, np.where(auto, _AUTO, _DONE)))
    end = np.where(skip, _FWD, _DONE)
    return np.where(played, start, _NO_REASON), np.where(played, end, _NO_REASON)


def _clock(setting: Setting, sessions: Sessions, slots: Slots, rng: np.random.Generator) -> np.ndarray:
    """Return when events were sent, in us: plays at their end; what would outlast the world starts earlier."""
    took = np.maximum(slots.ms_played, 0) + rng.integers(500, 8_000, len(slots.item))
    elapsed = np.cumsum(took)
    first = np.flatnonzero(slots.position == 0)
    elapsed -= np.repeat(elapsed[first] - took[first], sessions.length)
    last = np.r_[first[1:], len(took)] - 1
    overrun = np.maximum(sessions.start + (elapsed[last] + 1000) * 1000 - setting.end_us, 0)
    return (sessions.start - overrun)[slots.session] + elapsed * 1000


def _arrival(setting: Setting, slots: Slots, event_us: np.ndarray, late: np.ndarray, rng) -> np.ndarray:
    """Return when events reached the server, in us: within seconds, or all at once from a client that was offline."""
    first = np.flatnonzero(slots.position == 0)
    last = np.r_[first[1:], len(event_us)] - 1
    delay = (HOUR_US + rng.exponential(14 * HOUR_US, len(first)).clip(max=120 * HOUR_US)).astype(np.int64)
    back = np.minimum(event_us[last] + delay, setting.end_us + ARRIVAL_CUTOFF_US)
    prompt = event_us + 200_000 + (rng.exponential(3.0, len(event_us)).clip(max=120.0) * 1000).astype(np.int64) * 1000
    return np.where(late[slots.session], back[slots.session], prompt)


def _gather(texts, codes: np.ndarray) -> pl.Series:
    return (texts if isinstance(texts, pl.Series) else pl.Series(list(texts), dtype=pl.String)).gather(codes)


def _nullable(values: np.ndarray, missing: np.ndarray) -> pl.Series:
    return pl.select(pl.when(pl.lit(pl.Series(~missing))).then(pl.lit(pl.Series(values)))).to_series()
