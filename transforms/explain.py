"""Explain one record: why an item is among its candidates, or which rule kept it out, in words and with the numbers.

Pure: works on what `blend` was given and gave back for a single record (`k` of the facts).
"""

import dataclasses
import datetime
from collections.abc import Mapping

import numpy as np
import polars as pl

from schemas.policy import SurfacePolicy
from transforms.blend import NOT_DRAWN, RULES, Blended, offer
from transforms.explore import nothing_explored
from transforms.filters import HARD_FILTERS, Facts, Instant, hard_filters

NOT_NEEDED = "not_needed"
_CAP = "{limit} candidates of {what} come before it, the most there may be"
_HIGHER_CAP = "a cap above {limit}, or a better rank"
_WORDS: Mapping[str, tuple[str, str]] = {
    "unknown_item": ("it is not in the catalogue this run read", "deliver it in items/"),
    "tombstone": ("it was taken down: there is a tombstone for it", "a run whose tombstones do not name it"),
    "ineligible": ("it {ineligible}", "rec_eligible = true and no deleted_at in items/"),
    "market": (
        "it may not be played in {needed_markets} from {start} to {end}; it is available in {offers}",
        "an availability in {needed_markets} that covers the whole validity of the set",
    ),
    "tier": (
        "it may not be played in {needed_markets} by all the set is for ({needed_tiers}); it is available in {offers}",
        "an availability for {needed_tiers} that covers the whole validity of the set",
    ),
    "explicit": ("it is explicit, and this set holds nothing explicit", "explicit = false, or no explicit filter"),
    "age": (
        "it is rated from {age_rating} years, and this set is for up to {max_age}",
        "an age_rating of {max_age} or less",
    ),
    "unreleased": (
        "it is released on {release}, after the set takes effect on {start}",
        "a run for {release} or later",
    ),
    "trailer": ("it is a trailer", "is_trailer = false in items/"),
    "video": (
        "it is a video, and the set is for a client that may show none",
        "a seed that is a video, or a device_type that shows video in the newest event",
    ),
    "seed": ("it is the seed itself, the same recording ({canonical_id}), or another version of it", "another seed"),
    "in_session": ("it was heard in the session that goes on, or another version of it was", "another session"),
    "blocked": ("the user blocked {blocked}", "the user's blocked_artists without {blocked}"),
    "hidden": ("the user hid it", "the user's hidden_items without it"),
    "opted_out": (
        "the user opted out of personalisation, and {source} is personal",
        "personalization_opt_out = false, or a source that is not personal",
    ),
    "completed": ("the user finished it already", "a history in which it was not played to its end"),
    "out_of_order": (
        "parts of {parent} are heard in order, and this is not the one that comes next here: that is {next_part}",
        "{next_part} heard to its end, or a seed that is the part before it",
    ),
    "book_unfinished": (
        "the book of {record_key} goes on with {next_part}; another one has time until its end",
        "the last chapter of the book as the seed",
    ),
    "recent_skip": (
        "the user skipped it {detail:.1f} days before the set; more than {recent_skip_days} must pass",
        "a run for {skip_over} or later, or recent_skip_days below {detail:.1f}",
    ),
    "recently_played": (
        "the user played it {detail:.1f} days before the set; {source} waits more than {recent_play_days}",
        "a run for {play_over} or later, recent_play_days below {detail:.1f}, or a source that is not for discovery",
    ),
    "language": ("it is spoken in {item_languages}; the set is for speakers of {languages}", "one language in common"),
    "duplicate": ("{twin} was ranked better, and is {likeness}", "a better rank than {twin}"),
    "quota": (
        "{source} had it at rank {rank}; what passed the filters before it took all of the source's {maximum} slots",
        "a better rank, or a maximum of {source} above {maximum}",
    ),
    "series": ("a book of the series {series} comes before it, and one of a series is enough", "a better rank"),
    "cap:artist": (_CAP, _HIGHER_CAP),
    "cap:album": (_CAP, _HIGHER_CAP),
    "cap:show": (_CAP, _HIGHER_CAP),
    "cap:publisher": (_CAP, _HIGHER_CAP),
    "size": (
        "it came to position {detail:.0f}, counted from 0, and the set holds {size} besides what it explores",
        "a better place, or a larger size",
    ),
    NOT_DRAWN: (
        "it could be explored: {explored} of {pool} items were drawn by lot, each with a chance of {chance:.2%}",
        "luck on another day, or more slots of {source}",
    ),
    "size:fallback": (
        "it came to position {detail:.0f}, counted from 0, and {source} fills a set up to {fill_to} only",
        "a better place, or a larger fill_to",
    ),
    "content": (
        "it came to position {detail:.0f}, counted from 0, and gave its place to another kind of content, of which the listener"
        " wants more than was in the set",
        "a better place, or a larger content_gap",
    ),
    NOT_NEEDED: (
        "only {source} proposed it, which fills up what is missing, and there was enough without it",
        "another source that proposes it, or fewer candidates from the others",
    ),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Reblended:
    """One record, blended again.

    Attributes:
      k: number of the record in `facts`.
      offered: its proposals, own and of its group.
    """

    k: int
    offered: pl.DataFrame
    facts: Facts
    blended: Blended
    policy: SurfacePolicy
    instant: Instant

    @property
    def record(self) -> dict:
        """The record's facts."""
        return self.facts.records.row(self.k, named=True)

    @property
    def candidates(self) -> pl.DataFrame:
        """The record's candidates in order of position."""
        return self.blended.candidates.filter(pl.col("k") == self.k)


def removals(reblended: Reblended, item_id: str) -> list[dict]:
    """Return the rules that kept an item out, the one it got to last first.

    Each is `rule`, `source_id`, `detail`, `why`, `to_change`.
    """
    removed = reblended.blended.removed.filter((pl.col("k") == reblended.k) & (pl.col("item_id") == item_id))
    found = [_removal(reblended, item_id, row) for row in removed.iter_rows(named=True)]
    return sorted(found, key=lambda row: (-RULES.index(row["rule"]), row["source_id"]))


def left_over(reblended: Reblended, item_id: str) -> list[dict]:
    """Return why an item that was offered and never judged was left over, once per source.

    It was not needed, or, of a pool, not drawn, unless it could not be.
    """
    sources = reblended.offered.filter(pl.col("item_id") == item_id)["source_id"].sort().to_list()
    return [_left_over(reblended, item_id, source) for source in sources]


def _left_over(reblended: Reblended, item_id: str, source: str) -> dict:
    items = reblended.facts.items.filter(pl.col("item_id") == item_id)
    row = {"item_id": item_id, "source_id": source, "rule": NOT_NEEDED, "detail": None}
    if source != reblended.policy.explore:
        return _removal(reblended, item_id, row)
    alike = reblended.candidates.filter(pl.col("item_id").is_in(_alike(reblended, item_id).implode())).height
    drawn = _removal(reblended, item_id, row | {"rule": "duplicate" if alike else NOT_DRAWN})
    return would_be_removed(reblended, item_id, source, items) or drawn


def would_be_removed(reblended: Reblended, item_id: str, source_id: str, items: pl.DataFrame) -> dict | None:
    """Return the hard filter an item would not pass if the source proposed it; None where it would pass all.

    Args:
      items: the item's catalogue row in the columns of `facts.items`, or none where it is unknown.
    """
    if not items.height:
        return _removal(reblended, item_id, {"source_id": source_id, "rule": HARD_FILTERS[0], "detail": None})
    record = reblended.facts.records[reblended.k : reblended.k + 1].with_columns(pl.lit(0, pl.UInt32).alias("k"))
    mine = {
        name: getattr(reblended.facts, name)
        .filter(pl.col("k") == reblended.k)
        .with_columns(pl.lit(0, pl.UInt32).alias("k"))
        for name in ("blocked", "hidden", "played", "skipped", "nexts", "begun", "in_session")
    }
    is_seed = pl.col("item_id").eq_missing(record["seed_item_id"][0])
    beside = reblended.facts.items.filter(is_seed, pl.col("item_id") != item_id)
    both = pl.concat([items, beside]).sort("item_id")
    facts = dataclasses.replace(reblended.facts, records=record, items=both, **mine)
    proposal = {"key": record["record_key"][0], "item_id": item_id, "source_id": source_id, "source_rank": 0}
    offered = pl.DataFrame([proposal], schema_overrides={"source_rank": pl.Int32})
    own, _ = offer(offered, facts, reblended.policy, pools=True)
    judged = hard_filters(own, facts, reblended.policy, reblended.instant)
    if not judged.rule[0]:
        return None
    row = {"source_id": source_id, "rule": HARD_FILTERS[judged.rule[0] - 1], "detail": float(judged.detail[0])}
    blended = dataclasses.replace(reblended.blended, explored=nothing_explored(1))
    alone = dataclasses.replace(reblended, k=0, facts=facts, blended=blended)
    return _removal(alone, item_id, row | {"detail": None if judged.detail[0] != judged.detail[0] else row["detail"]})


def _removal(reblended: Reblended, item_id: str, row: Mapping) -> dict:
    numbers = _numbers(reblended, item_id, row)
    filling = row["rule"] == "size" and row["source_id"] == reblended.policy.fallback
    why, change = (text.format_map(numbers) for text in _WORDS["size:fallback" if filling else row["rule"]])
    return {
        "rule": row["rule"],
        "source_id": row["source_id"],
        "detail": row["detail"],
        "why": why,
        "to_change": change,
    }


def _numbers(reblended: Reblended, item_id: str, row: Mapping) -> dict[str, object]:
    """Return every figure the words may name."""
    policy, instant, record = reblended.policy, reblended.instant, reblended.record
    quota = next((q for q in policy.sources if q.source_id == row["source_id"]), None)
    offered = reblended.offered.filter((pl.col("item_id") == item_id) & (pl.col("source_id") == row["source_id"]))
    needs = reblended.facts.needs.filter(pl.col("needs") == record["needs"])
    detail = row["detail"] if row["detail"] is not None else 0.0
    kind, pool = row["rule"].removeprefix("cap:"), int(reblended.blended.explored.sizes[reblended.k])
    explored = min(policy.explore_slots, pool)
    return {
        **_item_words(reblended, item_id, kind),
        "record_key": record["record_key"],
        "source": row["source_id"],
        "detail": detail,
        "rank": offered["source_rank"][0] if offered.height else "?",
        "maximum": quota.maximum if quota else "?",
        "limit": getattr(policy, kind, 0),
        "size": policy.size - policy.explore_slots,
        "explored": explored,
        "pool": pool,
        "chance": explored / max(pool, 1),
        "fill_to": policy.fill_to,
        "start": _time(instant.effective_from),
        "end": _time(instant.expires_at),
        "needed_markets": _listed(needs["market"].unique().sort().to_list()),
        "needed_tiers": _listed(needs["tier"].unique().sort().to_list()),
        "max_age": record["max_age"],
        "languages": _listed(record["languages"]),
        "recent_skip_days": policy.recent_skip_days,
        "recent_play_days": policy.recent_play_days,
        "skip_over": f"{instant.effective_from + datetime.timedelta(days=policy.recent_skip_days - detail):%Y-%m-%d}",
        "play_over": f"{instant.effective_from + datetime.timedelta(days=policy.recent_play_days - detail):%Y-%m-%d}",
    }


def _item_words(reblended: Reblended, item_id: str, capped: str) -> dict[str, object]:
    found = reblended.facts.items.filter(pl.col("item_id") == item_id)
    if not found.height:
        return dict.fromkeys(_ITEM_WORDS, "?")
    item = found.row(0, named=True)
    names = {one["artist_id"]: one["name"] or one["artist_id"] for one in item["artists"] or []}
    owners = names | ({item["show_id"]: f"show {item['show_id']}"} if item["show_id"] else {})
    blocked = reblended.facts.blocked.filter(pl.col("k") == reblended.k)["artist_id"].to_list()
    left = f"left the catalogue on {_time(item['deleted_at'])}" if item["deleted_at"] else "may not be recommended"
    owner = {"artist": next(iter(owners.values()), "?"), "album": f"album {item['album_id']}"}
    owner |= {"show": f"show {item['show_id']}", "publisher": str(item["publisher"])}
    twins = _twins(reblended, item_id)
    recording = not twins.height or item["canonical_id"] in twins["canonical_id"]
    words = (
        item["canonical_id"], item["age_rating"], _time(item["release_ts"]) if item["release_ts"] else "?", left,
        _offers(item["availability"]), _listed(item["languages"]),
        " or ".join(twins["item_id"]) or "another item",
        f"the same recording ({item['canonical_id']})" if recording else "another version of the same, by title and first artist",
        _listed([name for one, name in owners.items() if one in blocked]), owner.get(capped, "?"), item["show_id"],
        _next_part(reblended, item), item["series_id"],
    )  # fmt: skip
    return dict(zip(_ITEM_WORDS, words, strict=True))


_ITEM_WORDS = (
    "canonical_id",
    "age_rating",
    "release",
    "ineligible",
    "offers",
    "item_languages",
    "twin",
    "likeness",
    "blocked",
    "what",
    "parent",
    "next_part",
    "series",
)


def _next_part(reblended: Reblended, item: Mapping) -> str:
    """Name the part that comes next for the record: in the show of an item, or, of a book, in the one it is about."""
    mine = reblended.facts.nexts.filter(pl.col("k") == reblended.k)
    of_item = mine if item["item_type"] == "audiobook" else mine.filter(pl.col("show_id").is_in([item["show_id"]]))
    return " or ".join(of_item["item_id"].sort().to_list()) or "none that is known"


def _alike(reblended: Reblended, item_id: str) -> pl.Series:
    """Return the ids of all items of the same canonical item or work, itself among them where it is known."""
    ids, coded = reblended.facts.items["item_id"], reblended.facts.item_codes.arrays.items
    own = coded[(ids == item_id).to_numpy()]
    same = np.isin(coded["canonical"], own["canonical"]) | np.isin(coded["work"], own["work"])
    return ids.filter(pl.Series(same))


def _twins(reblended: Reblended, item_id: str) -> pl.DataFrame:
    """Return the candidate that stands for an item, else the others that may have been it: `item_id`, `canonical_id`, sorted."""
    other = pl.col("item_id").is_in(_alike(reblended, item_id).implode()) & (pl.col("item_id") != item_id)
    standing = reblended.candidates.filter(other)
    return (
        (standing if standing.height else reblended.facts.items.filter(other))
        .select("item_id", "canonical_id")
        .sort("item_id")
    )


def _offers(availability: list[dict] | None) -> str:
    """Spell out where, for whom and when an item may be played; six places at the most."""
    if availability is None:
        return "every market"
    places = [f"{a['market']} ({_listed(a['tiers'])}{_interval(a['from_ts'], a['to_ts'])})" for a in availability]
    return (
        ", ".join(places[:6]) + (f" and {len(places) - 6} more" if len(places) > 6 else "") if places else "no market"
    )


def _interval(since: datetime.datetime | None, until: datetime.datetime | None) -> str:
    return (f", from {_time(since)}" if since else "") + (f", until {_time(until)}" if until else "")


def _listed(names: list[str] | None) -> str:
    return ", ".join(names) if names else "all"


def _time(instant: datetime.datetime) -> str:
    midnight = instant.time() == datetime.time()
    return f"{instant:%Y-%m-%d}" if midnight else f"{instant:%Y-%m-%d %H:%M} UTC"
