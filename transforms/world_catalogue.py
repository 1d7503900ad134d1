"""The catalogue of a synthetic world: artists, tracks, videos, shows with episodes and audiobooks with chapters."""

import dataclasses

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.inputs import ITEM
from transforms.world_names import CLUSTERS, KIDS_CLUSTER, compose, number_repeats
from transforms.world_setting import DAY_US, Setting, languages, market_weights, zipf_rank

KINDS = ("artist", "track", "video", "show", "episode", "audiobook", "chapter")
ARTIST, TRACK, VIDEO, SHOW, EPISODE, AUDIOBOOK, CHAPTER = range(7)
_SHARES = {ARTIST: 0.06, VIDEO: 0.02, SHOW: 0.01, EPISODE: 0.12, AUDIOBOOK: 0.006, CHAPTER: 0.05}
_PREFIX = ("ar", "tr", "vi", "sh", "ep", "ab", "ch")
_PREMIUM_TIERS = ["premium", "duo", "family", "student"]
NEVER = np.int64(2**62)
LOCAL_SHARE = 0.35
"""Share of artists and shows that are available in one to two markets only."""
FRESH_DAYS = 14
SERIAL_EVERY = 3
"""One show in so many is to be heard in order."""
BOOKS_OF_AUTHOR = 3
_VERSIONS = (" (Deluxe Edition)", " - Remastered", " (Live)", " - 2011 Remaster")
"""What stands behind the title of a track that is there twice; the first two share a canonical id with the other."""


@dataclasses.dataclass(frozen=True, slots=True)
class Lists:
    """Lists of item rows, one after the other: list `g` is `rows[start[g] : start[g] + size[g]]`.

    `position` is where an item stands in its own list `group`, -1 for an item in none.
    """

    rows: np.ndarray
    start: np.ndarray
    size: np.ndarray

    @classmethod
    def by_group(cls, rows: np.ndarray, groups: np.ndarray, num_groups: int) -> "Lists":
        """Cut rows into lists by group, keeping their order."""
        order = np.argsort(groups, kind="stable")
        size = np.bincount(groups, minlength=num_groups)
        return cls(rows[order], np.cumsum(size) - size, size)

    def take(self, groups: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """Return the item at each rank of each list."""
        return self.rows[self.start[groups] + ranks]


@dataclasses.dataclass(frozen=True, slots=True)
class Catalogue:
    """Arrays by item row, `(num_items,)` each, and the raw table they describe.

    Attributes:
      table: raw item rows.
      kind: index into `KINDS`.
      parent: row of the artist of a track or video, of the show or book of a part; itself otherwise.
      album: number of the album of a track, -1 for others.
      home, second: markets an item is limited to; -1, -1 for everywhere, and -1 second for one market.
      playable_from, playable_until: us since the epoch.
      parts_start, parts_size: numbered episodes or chapters of a show or book that were out when the world began.
      ring_group, ring_place: list and place of a track in `rings`, -1 for others.
      successor: what tends to follow an item: the next track of its ring, the next episode or chapter; -1 for none.
      pools: tracks and videos by `cluster * (markets + 1) + market + 1`, 0 being everywhere; the most popular first.
      evergreen: tracks by cluster that anybody may play at any instant of the world.
    """

    table: pa.Table
    kind: np.ndarray
    cluster: np.ndarray
    parent: np.ndarray
    album: np.ndarray
    duration_ms: np.ndarray
    home: np.ndarray
    second: np.ndarray
    premium_only: np.ndarray
    explicit: np.ndarray
    age_rating: np.ndarray
    playable_from: np.ndarray
    playable_until: np.ndarray
    parts_start: np.ndarray
    parts_size: np.ndarray
    ring_group: np.ndarray
    ring_place: np.ndarray
    successor: np.ndarray
    pools: Lists
    rings: Lists
    evergreen: Lists
    takedowns: np.ndarray

    @property
    def ids(self) -> pl.Series:
        """Item ids by row."""
        return pl.Series("item_id", self.table["item_id"])

    def draw(self, cluster: np.ndarray, market: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw music of each cluster by popularity, a third of it from the market's own."""
        width = len(self.pools.size) // len(CLUSTERS)
        groups = cluster.astype(np.int64) * width
        local = groups + np.where(rng.random(len(cluster)) < LOCAL_SHARE, market + 1, 0)
        groups = np.where(self.pools.size[local] > 0, local, groups)
        return self.pools.take(groups, zipf_rank(rng.random(len(cluster)), self.pools.size[groups]))

    def draw_evergreen(self, cluster: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw tracks of each cluster, by popularity, that anybody may play at any instant."""
        return self.evergreen.take(cluster, zipf_rank(rng.random(len(cluster)), self.evergreen.size[cluster]))

    def follow(self, item: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return what comes `steps` tracks later in the ring of each track; an item outside the rings stays."""
        group, ringed = self.ring_group[item], self.ring_group[item] >= 0
        place = (self.ring_place[item] + steps) % np.maximum(self.rings.size[group], 1)
        return np.where(ringed, self.rings.rows[np.where(ringed, self.rings.start[group] + place, 0)], item)


def catalogue(setting: Setting) -> Catalogue:
    """Invent the catalogue of a world."""
    tree = _tree(setting)
    rights = _rights(setting, tree)
    table = _table(setting, tree, rights)
    return Catalogue(
        table=table,
        **{name: tree[name] for name in ("kind", "cluster", "parent", "album", "duration_ms", "home", "second")},
        **{name: rights[name] for name in ("premium_only", "explicit", "age_rating", "takedowns")},
        playable_from=rights["from"],
        playable_until=rights["until"],
        **_structure(setting, tree, rights),
    )


def _tree(setting: Setting) -> dict:
    """Lay out the rows kind by kind, children behind one another under their parents."""
    rng = setting.rng("tree")
    counts = {kind: round(setting.items * share) for kind, share in _SHARES.items()}
    counts[TRACK] = setting.items - sum(counts.values())
    kind = np.repeat(np.arange(len(KINDS)), [counts[k] for k in range(len(KINDS))]).astype(np.int8)
    first = np.searchsorted(kind, np.arange(len(KINDS)))
    parent, album = np.arange(len(kind)), np.full(len(kind), -1)
    num_albums = max(1, counts[TRACK] // 9)
    album_artist = (counts[ARTIST] * rng.random(num_albums) ** 1.4).astype(np.int64)
    album_artist[: len(CLUSTERS)] = np.arange(len(CLUSTERS))
    album_artist.sort()
    album[kind == TRACK] = np.sort(rng.integers(0, num_albums, counts[TRACK]))
    parent[kind == TRACK] = album_artist[album[kind == TRACK]]
    parent[kind == VIDEO] = rng.integers(0, counts[ARTIST], counts[VIDEO])
    for child, owner in ((EPISODE, SHOW), (CHAPTER, AUDIOBOOK)):
        spread = np.arange(counts[child]) * counts[owner] // counts[child]
        parent[kind == child] = first[owner] + spread
    owners = np.isin(kind, (ARTIST, SHOW, AUDIOBOOK))
    cluster = _inherit(parent, owners, np.arange(len(kind)) * 7 % len(CLUSTERS))
    homes = rng.choice(setting.markets, len(kind), p=market_weights(setting.markets))
    local = (rng.random(len(kind)) < LOCAL_SHARE) & (kind != AUDIOBOOK)
    local[: len(CLUSTERS)] = False  # one artist of each cluster is everywhere: nobody is left without music
    home = _inherit(parent, owners, np.where(local, homes, -1))
    other = (homes + 1 + rng.integers(0, max(1, setting.markets - 1), len(kind))) % setting.markets
    second = _inherit(parent, owners, np.where(local & (rng.random(len(kind)) < 0.3) & (other != homes), other, -1))
    return {
        "kind": kind, "first": first, "parent": parent, "album": album, "cluster": cluster.astype(np.int8),
        "home": home, "second": second, "origin": _inherit(parent, owners, homes), "number": _number(kind, parent),
        "duration_ms": _durations(kind, rng), "album_artist": album_artist,
    }  # fmt: skip


def _inherit(parent: np.ndarray, owners: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(owners, values, values[parent])


def _number(kind: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Number children under their parent from 0; an episode 0 is the trailer of its show."""
    starts = np.flatnonzero(np.r_[True, (parent[1:] != parent[:-1]) | (kind[1:] != kind[:-1])])
    return np.arange(len(kind)) - np.repeat(starts, np.diff(np.r_[starts, len(kind)]))


def _durations(kind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw lengths in ms between the extremes of each kind; artists, shows and books have none (0)."""
    seconds = np.array([(0, 0), (130, 330), (90, 600), (0, 0), (900, 4200), (0, 0), (900, 2400)])
    low, high = seconds[kind].T
    return ((low + (high - low) * rng.random(len(kind))) * 1000).astype(np.int64)


def _rights(setting: Setting, tree: dict) -> dict:
    """Decide releases, windows, tiers, ratings and takedowns."""
    rng = setting.rng("rights")
    kind, n = tree["kind"], len(tree["kind"])
    release = _releases(setting, tree, rng)
    music = np.isin(kind, (TRACK, VIDEO))
    expiring = music & (rng.random(n) < 0.015)
    until = np.where(expiring, setting.end_us + (rng.random(n) * 5 * DAY_US).astype(np.int64), NEVER)
    taken = (music | (kind == EPISODE)) & (rng.random(n) < 0.003)
    taken_at = setting.end_us - (rng.random(n) * min(10, setting.days) * DAY_US).astype(np.int64)
    deleted = music & ~taken & (rng.random(n) < 0.002)
    deleted_at = setting.end_us - (rng.random(n) * min(20, setting.days) * DAY_US).astype(np.int64)
    kids = tree["cluster"] == KIDS_CLUSTER
    explicit = music & ~kids & (rng.random(n) < 0.09)
    rating = np.where(explicit, 18, np.where(~kids & (rng.random(n) < 0.05), 13, 0))
    premium = np.isin(kind, (AUDIOBOOK, CHAPTER)) | (music & (rng.random(n) < 0.02))
    return {
        "release": release, "from": release, "to": until, "taken_at": np.where(taken, taken_at, NEVER),
        "deleted_at": np.where(deleted, deleted_at, NEVER), "takedowns": np.flatnonzero(taken),
        "until": np.minimum.reduce([until, np.where(taken, taken_at, NEVER), np.where(deleted, deleted_at, NEVER)]),
        "explicit": explicit, "age_rating": rating, "premium_only": premium,
        "ineligible": music & (rng.random(n) < 0.01),
    }  # fmt: skip


def _releases(setting: Setting, tree: dict, rng: np.random.Generator) -> np.ndarray:
    """Draw release instants in us: 3 % of the music within the last 14 days, 1 % in the next 10, episodes weekly."""
    kind, n = tree["kind"], len(tree["kind"])
    age = (setting.days + 5 + rng.exponential(1500, n)) * DAY_US
    draw = np.where(np.isin(kind, (TRACK, VIDEO)), rng.random(n), 1.0)
    age = np.where(draw < 0.03, rng.random(n) * FRESH_DAYS * DAY_US, age)
    age = np.where((draw >= 0.03) & (draw < 0.04), -rng.random(n) * 10 * DAY_US, age)
    episodes = kind == EPISODE
    per_parent = np.bincount(tree["parent"][episodes], minlength=n)
    weeks_ago = per_parent[tree["parent"]] - 1 - tree["number"]
    day_of_week = (tree["parent"] * 5 % 7 + rng.random(n)) * DAY_US
    age = np.where(episodes, weeks_ago * 7 * DAY_US + day_of_week, age)
    age = np.where(kind == CHAPTER, age[tree["parent"]], age)
    return setting.end_us - (age // 1_000_000).astype(np.int64) * 1_000_000


def _structure(setting: Setting, tree: dict, rights: dict) -> dict:
    """Plant what listeners follow: popularity lists, rings of successors and numbered parts."""
    rng = setting.rng("structure")
    kind, groups = tree["kind"], setting.markets + 1
    pool = tree["cluster"].astype(np.int64) * groups + tree["home"] + 1
    music = rng.permutation(np.flatnonzero(np.isin(kind, (TRACK, VIDEO))))
    also = music[tree["second"][music] >= 0]
    also_pool = tree["cluster"][also].astype(np.int64) * groups + tree["second"][also] + 1
    pools = Lists.by_group(np.r_[music, also], np.r_[pool[music], also_pool], len(CLUSTERS) * groups)
    tracks = rng.permutation(np.flatnonzero(kind == TRACK))
    rings = Lists.by_group(tracks, pool[tracks], len(CLUSTERS) * groups)
    anybody = (tree["home"] < 0) & ~rights["premium_only"] & (rights["age_rating"] == 0) & (rights["until"] == NEVER)
    early = music[(anybody & (rights["from"] < setting.start_us) & (kind == TRACK))[music]]
    evergreen = Lists.by_group(early, tree["cluster"][early].astype(np.int64), len(CLUSTERS))
    assert evergreen.size.min() > 0, "a taste without a track that anybody may play"
    ring_place = np.full(len(kind), -1)
    ring_place[rings.rows] = np.arange(len(rings.rows)) - np.repeat(rings.start, rings.size)
    ring_group = np.where(kind == TRACK, pool, -1)
    parts_start, parts_size = _parts(setting, tree, rights)
    return {
        "pools": pools, "rings": rings, "evergreen": evergreen, "ring_group": ring_group, "ring_place": ring_place,
        "successor": _successors(tree, rings, ring_group, ring_place),
        "parts_start": parts_start, "parts_size": parts_size,
    }  # fmt: skip


def _successors(tree: dict, rings: Lists, ring_group: np.ndarray, ring_place: np.ndarray) -> np.ndarray:
    kind, parent = tree["kind"], tree["parent"]
    following = np.r_[np.where(parent[1:] == parent[:-1], np.arange(1, len(kind)), -1), -1]
    successor = np.where(np.isin(kind, (EPISODE, CHAPTER)), following, -1)
    tracks = np.flatnonzero(kind == TRACK)
    groups = ring_group[tracks]
    successor[tracks] = rings.take(groups, (ring_place[tracks] + 1) % rings.size[groups])
    return np.where(successor == np.arange(len(kind)), -1, successor)


def _parts(setting: Setting, tree: dict, rights: dict) -> tuple[np.ndarray, np.ndarray]:
    """Find the first part and the number of parts that were out before the world began; trailers left out."""
    kind, n = tree["kind"], len(tree["kind"])
    old = rights["from"] < setting.start_us
    counted = ((kind == EPISODE) & old & (tree["number"] > 0)) | (kind == CHAPTER)
    size = np.bincount(tree["parent"][counted], minlength=n)
    start = np.full(n, -1)
    rows = np.flatnonzero(counted)[::-1]
    start[tree["parent"][rows]] = rows
    return start, size


def _table(setting: Setting, tree: dict, rights: dict) -> pa.Table:
    """Spell the catalogue out as raw item rows."""
    return raw_table(ITEM, _words(setting, tree) | _facts(setting, tree, rights))


def _words(setting: Setting, tree: dict) -> dict:
    rng, kind = setting.rng("names"), tree["kind"]
    ids = _ids(kind, tree["first"])
    titles, albums, authors, narrators = _titles(setting, tree, rng)
    canonical = _versions(tree, titles, rng)
    genre_of, topics = [[c.genre, *c.subgenres] for c in CLUSTERS], [[c.topic] for c in CLUSTERS]
    talk = np.isin(kind, (SHOW, EPISODE, AUDIOBOOK, CHAPTER))
    parts, books = np.isin(kind, (EPISODE, CHAPTER)), np.isin(kind, (AUDIOBOOK, CHAPTER))
    clusters, parent = tree["cluster"].tolist(), tree["parent"].tolist()
    spoken = languages(setting.market_codes)
    return {
        "item_id": ids,
        "item_type": [KINDS[k] for k in kind],
        "canonical_id": [None if c < 0 else ids[c] for c in canonical.tolist()],
        "title": titles,
        "description": _descriptions(tree, titles, albums, narrators, rng),
        "languages": [[spoken[o] if h >= 0 else "en"] for o, h in zip(tree["origin"].tolist(), tree["home"].tolist())],
        "artists": [None if t or k == ARTIST else [{"artist_id": ids[p], "name": titles[p], "role": "main"}]
                    for t, k, p in zip(talk.tolist(), kind.tolist(), parent)],
        "album_id": [f"al{a:07d}" if a >= 0 else None for a in tree["album"].tolist()],
        "show_id": [ids[p] if child else None for child, p in zip(parts.tolist(), parent)],
        "author": [authors[p] if book else None for book, p in zip(books.tolist(), _first_books(tree)[parent].tolist())],
        "narrator": [narrators[p] if book else None for book, p in zip(books.tolist(), parent)],
        "publisher": [f"{CLUSTERS[c].words[p // len(CLUSTERS) % 8]} {'Media' if t else 'Records'}"
                      for c, p, t in zip(clusters, parent, talk.tolist())],
        "genres": [topics[c] if t else genre_of[c] for c, t in zip(clusters, talk.tolist())],
    }  # fmt: skip


def _facts(setting: Setting, tree: dict, rights: dict) -> dict:
    rng, kind, n = setting.rng("facts"), tree["kind"], len(tree["kind"])
    number, episodes, numbered = tree["number"], kind == EPISODE, np.isin(kind, (EPISODE, CHAPTER))
    return {
        "release_ts": pa.array(rights["release"], mask=kind == ARTIST),
        "availability": _availability(setting, tree, rights),
        "explicit": pa.array(rights["explicit"], mask=rng.random(n) < 0.002),
        "age_rating": rights["age_rating"],
        "rec_eligible": ~rights["ineligible"] & (kind != ARTIST),
        "rec_ineligible_reason": ["not playable" if k == ARTIST else "functional audio" if bad else None
                                  for k, bad in zip(kind.tolist(), rights["ineligible"].tolist())],
        "duration_ms": pa.array(tree["duration_ms"], mask=tree["duration_ms"] == 0),
        "episode_no": pa.array(number + (kind == CHAPTER), mask=~numbered),
        "season": pa.array(1 + number // 10, mask=~episodes),
        "is_trailer": pa.array(number == 0, mask=~episodes),
        "is_serial": pa.array(tree["parent"] % SERIAL_EVERY == 0, mask=~(episodes | (kind == SHOW))),
        "series_id": [None if s < 0 else f"se{s:05d}" for s in _series(tree).tolist()],
        "is_video": kind == VIDEO,
        "audio_vector_ref": pa.nulls(n),
        "popularity_prior": rng.random(n, np.float32),
        "created_at": np.minimum(rights["release"], setting.end_us - DAY_US),
        "updated_at": np.minimum(rights["release"] + DAY_US, setting.end_us),
        "deleted_at": pa.array(rights["deleted_at"], mask=rights["deleted_at"] == NEVER),
    }  # fmt: skip


def _first_books(tree: dict) -> np.ndarray:
    """Return the row of the first of the `BOOKS_OF_AUTHOR` books in a row that are of one author, for rows of books."""
    number = np.arange(len(tree["kind"])) - tree["first"][AUDIOBOOK]
    return np.where(
        tree["kind"] == AUDIOBOOK, np.arange(len(number)) - number % BOOKS_OF_AUTHOR, np.arange(len(number))
    )


def _series(tree: dict) -> np.ndarray:
    """Return the number of the series of a book, -1 for others: the books of every other author are a series."""
    author = (_first_books(tree) - tree["first"][AUDIOBOOK]) // BOOKS_OF_AUTHOR
    return np.where((tree["kind"] == AUDIOBOOK) & (author % 2 == 0), author // 2, -1)


def raw_table(contract, columns: dict) -> pa.Table:
    """Build the table of the columns a producer delivers, in the types of the contract; all of them nullable."""
    fields = [contract.schema.field(name).remove_metadata().with_nullable(True) for name in contract.given_columns()]
    arrays = [_array(columns[field.name], field.type) for field in fields]
    return pa.table(arrays, schema=pa.schema(fields))


def _array(values, type_: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values.cast(type_)
    if isinstance(values, np.ndarray) and pa.types.is_timestamp(type_):
        return pa.array(values.astype(np.int64)).cast(type_)
    return pa.array(values, type_)


def _ids(kind: np.ndarray, first: np.ndarray) -> list[str]:
    number = np.arange(len(kind)) - first[kind]
    return [f"{_PREFIX[k]}{i:07d}" for k, i in zip(kind.tolist(), number.tolist())]


def _titles(setting: Setting, tree: dict, rng: np.random.Generator) -> tuple[list[str], ...]:
    """Return the names of the items, of the albums, and of an author and a narrator for every item."""
    kind, cluster = tree["kind"], tree["cluster"]
    local = [setting.market_codes[m] for m in tree["origin"].tolist()]
    forms = ("artist", "track", "track", "show", "episode", "book", "episode")
    titles: list[str] = []
    for k, form in enumerate(forms):
        rows = np.flatnonzero(kind == k)
        names = compose(form, cluster[rows], local[rows[0] : rows[-1] + 1], rng)
        titles += number_repeats(names) if k in (ARTIST, SHOW, AUDIOBOOK) else names
    for row in np.flatnonzero(np.isin(kind, (VIDEO, EPISODE, CHAPTER))).tolist():
        titles[row] = _decorated(KINDS[kind[row]], titles[row], titles[tree["parent"][row]], int(tree["number"][row]))
    artists = tree["album_artist"]
    albums = compose("album", cluster[artists], [local[a] for a in artists.tolist()], rng)
    return titles, albums, compose("person", cluster, local, rng), compose("person", cluster, local, rng)


def _decorated(kind: str, title: str, parent_title: str, number: int) -> str:
    if kind == "video":
        return f"{title} (Official Video)"
    if kind == "chapter":
        return f"{parent_title}, Chapter {number + 1}: {title}"
    return f"{number}. {title}" if number else f"Trailer: {parent_title}"


def _versions(tree: dict, titles: list[str], rng: np.random.Generator) -> np.ndarray:
    """Release 4 % of the tracks twice, the second right behind its original: one canonical recording, or, every other time, a
    version with a canonical id of its own.

    Returns:
      Row of the canonical recording of each of the two, `(n,) int64`, -1 for items without one.
    """
    kind, parent = tree["kind"], tree["parent"]
    canonical = np.full(len(kind), -1)
    twice = np.flatnonzero((kind[1:] == TRACK) & (parent[1:] == parent[:-1]) & (rng.random(len(kind) - 1) < 0.04)) + 1
    twice = twice[np.r_[True, np.diff(twice) > 1]]
    for row in twice.tolist():
        titles[row] = titles[row - 1] + _VERSIONS[row % len(_VERSIONS)]
    same = twice[twice % len(_VERSIONS) < 2]
    canonical[same] = canonical[same - 1] = same - 1
    return canonical


def _descriptions(tree: dict, titles: list[str], albums: list[str], people: list[str], rng) -> list[str | None]:
    """Describe 97 % of the items in a sentence that says what they are about."""
    n, cluster = len(titles), tree["cluster"].tolist()
    missing = rng.random(n) < 0.03
    words = [
        [CLUSTERS[c].words[w].lower() for w in picks] for c, picks in zip(cluster, rng.integers(0, 8, (n, 2)).tolist())
    ]
    rows = zip(tree["kind"].tolist(), cluster, tree["parent"].tolist(), tree["album"].tolist(), words, missing.tolist())
    return [
        None
        if gone
        else _SENTENCES[k].format(*about, cluster=CLUSTERS[c], parent=titles[p], album=albums[a], who=people[p])
        for k, c, p, a, about, gone in rows
    ]


_TALK = "A conversation about {cluster.topic} with {who}: {0}, {1} and what comes next. From {parent}."
_READ = "A book about {cluster.topic}, read by {who}: {0}, {1} and the people between them."
_SENTENCES = (
    "{parent} plays {cluster.genre} and {cluster.subgenres[0]}; think of {0} and {1}.",
    "{cluster.genre} by {parent} from the album {album}, with {0} and {1} in mind.",
    "{cluster.genre} by {parent}, filmed with {0} and {1} in mind; {cluster.subgenres[0]} at heart.",
    _TALK, _TALK, _READ, _READ,
)  # fmt: skip


def _availability(setting: Setting, tree: dict, rights: dict) -> pa.Array:
    """Write availability out: null or `*` for everywhere, else one entry per market, with tiers and window."""
    n, home, second = len(tree["kind"]), tree["home"], tree["second"]
    plain = (home < 0) & ~rights["premium_only"] & (rights["to"] == NEVER) & (rights["from"] < setting.end_us)
    null = (plain & (np.arange(n) % 2 == 0)) | (tree["kind"] == ARTIST)
    sizes = np.where(null, 0, 1 + (second >= 0))
    row = np.repeat(np.arange(n), sizes)
    is_second = np.r_[False, row[1:] == row[:-1]]
    codes = pa.array([*setting.market_codes, "*"])
    market = np.where(is_second, second[row], home[row])
    tiers = pa.array([None, _PREMIUM_TIERS], pa.list_(pa.string())).take(
        pa.array(rights["premium_only"][row].astype(int))
    )
    field = ITEM.schema.field("availability").type.value_type
    window = [pa.array(rights["from"][row], mask=rights["from"][row] < setting.start_us),
              pa.array(rights["to"][row], mask=rights["to"][row] == NEVER)]  # fmt: skip
    entries = pa.StructArray.from_arrays(
        [codes.take(pa.array(np.where(market < 0, len(codes) - 1, market))), tiers,
         *(w.cast(field.field("from_ts").type) for w in window)],
        fields=list(field.fields),
    )  # fmt: skip
    offsets = pa.array(np.r_[0, np.cumsum(sizes)].astype(np.int32))
    return pa.ListArray.from_arrays(offsets, entries, type=pa.list_(field), mask=pa.array(null))
